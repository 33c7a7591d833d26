//! The table of topic configurations: Kafka 4's keys, and Kontiki's own two.
//!
//! Not here: what a validator or an effect means (`configs`). Sorted by name (a test says so). Defaults and bounds are
//! Kafka 4's (KIP-1030 included); the sentences are ours.
use super::{Effect, Kind, Rule, Synonym, TopicKey};

const HOUR: i64 = 3_600_000;
const MINUTE: i64 = 60_000;
const MAX: &str = "9223372036854775807";
/// Smallest segment, as in Kafka 4 (KIP-1030).
const SEGMENT_MIN: i64 = 1024 * 1024;

const NO_RECOMPRESSION: Effect =
    Effect::Stored("the broker never recompresses: batches stay as the producer made them");
const NO_TIERS: Effect = Effect::Stored("tiered storage is not built");

/// A broker synonym in the same units.
const fn same(key: &'static str) -> Synonym {
    Synonym { key, unit: 1 }
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    rule: Rule,
    synonyms: &'static [Synonym],
    doc: &'static str,
) -> TopicKey {
    TopicKey { name, kind, default, rule, effect: Effect::Applied, synonyms, doc, hidden: false }
}

/// A key that is taken and stored, and does nothing.
const fn stored(effect: Effect, key: TopicKey) -> TopicKey {
    TopicKey { effect, ..key }
}

/// Every topic configuration there is, by name.
#[rustfmt::skip]
pub static TOPIC_KEYS: &[TopicKey] = &[
    key("cleanup.policy", Kind::List, "delete", Rule::Built { now: &["delete", "compact"], later: &[] },
        &[same("log.cleanup.policy")],
        "What happens to old segments: `delete` removes them by time and size, `compact` keeps the last record of each key; both may be named."),
    stored(NO_RECOMPRESSION, key("compression.gzip.level", Kind::Int, "-1", Rule::GzipLevel,
        &[same("compression.gzip.level")],
        "Level when the broker compresses with gzip.")),
    stored(NO_RECOMPRESSION, key("compression.lz4.level", Kind::Int, "9", Rule::Between(1, 17),
        &[same("compression.lz4.level")],
        "Level when the broker compresses with lz4.")),
    key("compression.type", Kind::String, "producer",
        Rule::Built { now: &["producer"], later: &["uncompressed", "gzip", "snappy", "lz4", "zstd"] },
        &[same("compression.type")],
        "Codec of stored batches: `producer` keeps what the producer chose."),
    stored(NO_RECOMPRESSION, key("compression.zstd.level", Kind::Int, "3", Rule::Between(-131_072, 22),
        &[same("compression.zstd.level")],
        "Level when the broker compresses with zstd.")),
    key("delete.retention.ms", Kind::Long, "86400000", Rule::AtLeast(0),
        &[same("log.cleaner.delete.retention.ms")],
        "How long a tombstone is kept in a compacted topic, from the compaction on that removed what it deletes."),
    stored(Effect::Stored("files are unlinked once no reader holds them"),
        key("file.delete.delay.ms", Kind::Long, "60000", Rule::AtLeast(0),
        &[same("log.segment.delete.delay.ms")],
        "How long a file waits between leaving the log and leaving the disk.")),
    key("flush.messages", Kind::Long, MAX, Rule::AtLeast(1),
        &[same("log.flush.interval.messages")],
        "With flush.mode=async: records of a partition after which the sync of what is written begins. With sync there is nothing left \
         to sync."),
    key("flush.mode", Kind::String, "sync", Rule::OneOf(&["sync", "async"]), &[],
        "Kontiki's own. `sync`: a record is acknowledged only when its fsync is complete on a majority of the replicas. `async`: when it is \
         written on a majority; it outlives every process, and the machines of any minority. A partition with one replica always syncs."),
    key("flush.ms", Kind::Long, MAX, Rule::AtLeast(0),
        &[same("log.flush.interval.ms"), same("log.flush.scheduler.interval.ms")],
        "With flush.mode=async: time after which the sync of what is written begins; the default stands for 1000. With sync there is \
         nothing left to sync."),
    stored(Effect::Stored("every replica far behind is throttled alike, by the broker's leader.replication.throttled.rate"),
        key("follower.replication.throttled.replicas", Kind::List, "", Rule::ThrottledReplicas, &[],
        "Replicas whose replication is throttled on the follower's side: `partition:broker` pairs, or `*`.")),
    key("index.interval.bytes", Kind::Int, "4096", Rule::AtLeast(0),
        &[same("log.index.interval.bytes")],
        "Bytes of log between two entries of the sparse indexes."),
    TopicKey { hidden: true, ..key("internal.segment.bytes", Kind::Int, "1073741824", Rule::AtLeast(1), &[],
        "Segment size without the lower bound of segment.bytes, for tests.") },
    stored(Effect::Stored("every replica far behind is throttled alike, by the broker's leader.replication.throttled.rate"),
        key("leader.replication.throttled.replicas", Kind::List, "", Rule::ThrottledReplicas, &[],
        "Replicas whose replication is throttled on the leader's side: `partition:broker` pairs, or `*`.")),
    stored(NO_TIERS, key("local.retention.bytes", Kind::Long, "-2", Rule::AtLeast(-2),
        &[same("log.local.retention.bytes")],
        "Bytes kept on local disks before only the remote copy is left; -2 = retention.bytes.")),
    stored(NO_TIERS, key("local.retention.ms", Kind::Long, "-2", Rule::AtLeast(-2),
        &[same("log.local.retention.ms")],
        "Time kept on local disks before only the remote copy is left; -2 = retention.ms.")),
    key("max.compaction.lag.ms", Kind::Long, MAX, Rule::AtLeast(1),
        &[same("log.cleaner.max.compaction.lag.ms")],
        "Longest time a record stays out of compaction, whatever min.cleanable.dirty.ratio says; a new segment is begun as early."),
    key("max.message.bytes", Kind::Int, "1048588", Rule::AtLeast(0),
        &[same("message.max.bytes")],
        "Largest record batch that is accepted, as the producer sends it (compressed)."),
    stored(Effect::Stored("only batches of format 2 are served, so nothing is ever converted"),
        key("message.downconversion.enable", Kind::Boolean, "true", Rule::Any, &[],
        "Whether batches are converted for consumers that know only older formats.")),
    key("message.timestamp.after.max.ms", Kind::Long, "3600000", Rule::AtLeast(0),
        &[same("log.message.timestamp.after.max.ms")],
        "How far a record's CreateTime may lie ahead of the broker's clock."),
    key("message.timestamp.before.max.ms", Kind::Long, MAX, Rule::AtLeast(0),
        &[same("log.message.timestamp.before.max.ms")],
        "How far a record's CreateTime may lie behind the broker's clock."),
    key("message.timestamp.type", Kind::String, "CreateTime", Rule::OneOf(&["CreateTime", "LogAppendTime"]),
        &[same("log.message.timestamp.type")],
        "Whether a record carries the producer's time (`CreateTime`) or the broker's (`LogAppendTime`)."),
    key("min.cleanable.dirty.ratio", Kind::Double, "0.5", Rule::Fraction,
        &[same("log.cleaner.min.cleanable.ratio")],
        "Share of uncompacted bytes in the closed segments above which compaction is worth it."),
    key("min.compaction.lag.ms", Kind::Long, "0", Rule::AtLeast(0),
        &[same("log.cleaner.min.compaction.lag.ms")],
        "Shortest time a record stays out of compaction."),
    key("min.insync.replicas", Kind::Int, "1", Rule::AtLeast(1),
        &[same("min.insync.replicas")],
        "Replicas that must hold a record durably before acks=all is answered, besides the majority that commits it; \
         with fewer in sync, producers get NOT_ENOUGH_REPLICAS."),
    stored(Effect::Stored("segments are always preallocated, in steps"),
        key("preallocate", Kind::Boolean, "false", Rule::Any,
        &[same("log.preallocate")],
        "Whether a new segment takes its whole size on disk at once.")),
    key("recovery.auto.delay.ms", Kind::Long, "30000", Rule::AtLeast(0), &[],
        "Kontiki's own. With recovery.policy=auto: how long a partition waits for its brokers to come back once nobody can serve it any \
         more, before it goes on without what only they may hold."),
    key("recovery.policy", Kind::String, "operator",
        Rule::OneOf(&["operator", "auto", "never"]), &[],
        "Kontiki's own. Who may re-form a partition that has lost its majority, and with it perhaps records: an `operator`, by an \
         explicit plan (`kontiki partition recover`); the controllers by themselves (`auto`), at the price that its brokers serve it only while \
         the controllers can be reached: without them it stops after one lease (`broker.session.timeout.ms`, at most 10 s); or `never` \
         anybody: it waits for its replicas. What provably loses nothing is done without asking, whatever this says. On a \
         topic that exists `auto` works once all its brokers have said that they know."),
    stored(NO_TIERS, key("remote.log.copy.disable", Kind::Boolean, "false", Rule::Any, &[],
        "Whether a topic in tiered storage stops copying to it.")),
    stored(NO_TIERS, key("remote.log.delete.on.disable", Kind::Boolean, "false", Rule::Any, &[],
        "Whether the remote copy goes when tiered storage is turned off.")),
    key("remote.storage.enable", Kind::Boolean, "false", Rule::Built { now: &["false"], later: &["true"] }, &[],
        "Tiered storage of the topic."),
    key("retention.bytes", Kind::Long, "-1", Rule::Any,
        &[same("log.retention.bytes")],
        "Size of a partition above which its oldest segments are deleted; below 0 = no limit."),
    key("retention.ms", Kind::Long, "604800000", Rule::AtLeast(-1),
        &[same("log.retention.ms"), Synonym { key: "log.retention.minutes", unit: MINUTE },
          Synonym { key: "log.retention.hours", unit: HOUR }],
        "Age from which on segments are deleted; -1 = no limit."),
    key("segment.bytes", Kind::Int, "1073741824", Rule::AtLeast(SEGMENT_MIN),
        &[same("log.segment.bytes")],
        "Size at which a new segment is begun. Retention works by whole segments."),
    stored(Effect::Stored("indexes grow with their segment"),
        key("segment.index.bytes", Kind::Int, "10485760", Rule::AtLeast(4),
        &[same("log.index.size.max.bytes")],
        "Largest size of a segment's offset index.")),
    stored(Effect::Stored("segments roll one by one as their records come"),
        key("segment.jitter.ms", Kind::Long, "0", Rule::AtLeast(0),
        &[same("log.roll.jitter.ms"), Synonym { key: "log.roll.jitter.hours", unit: HOUR }],
        "Most time by which rolling a segment is brought forward at random.")),
    key("segment.ms", Kind::Long, "604800000", Rule::AtLeast(1),
        &[same("log.roll.ms"), Synonym { key: "log.roll.hours", unit: HOUR }],
        "Age at which a new segment is begun although the old one is not full."),
    stored(Effect::Stored("there are no unclean elections; see recovery.policy"),
        key("unclean.leader.election.enable", Kind::Boolean, "false", Rule::Any,
        &[same("unclean.leader.election.enable")],
        "Whether a replica that may have lost records can become leader.")),
];
