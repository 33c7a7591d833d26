//! The table of broker configurations under Kafka's names. A node's file, environment and flags may hold all of them; the dynamic ones can
//! be changed at run time, for the whole cluster or for one broker.
//!
//! Not here: Kontiki's own start-up settings (`broker::config`). Sorted by name (a test says so). A key that gives the
//! default of a topic key is dynamic exactly where Kafka lets it be: the strongest synonym, not its coarser twins.
//! Keys of parts that do not exist (transactions, quotas, TLS) are left out rather than shown with values
//! nothing acts on.
use super::{BrokerKey, Effect, Kind, Rule};

const MAX: &str = "9223372036854775807";

/// Consumers read from leaders.
pub const LEADER_SELECTOR: &str = "org.apache.kafka.common.replica.LeaderSelector";
/// Consumers read from replicas in their own rack.
pub const RACK_AWARE_SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

const NO_RECOMPRESSION: Effect = Effect::Stored("the broker never recompresses");
const NO_TIERS: Effect = Effect::Stored("tiered storage is not built");

/// A key that is read when the broker starts.
const fn fixed(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    rule: Rule,
    doc: &'static str,
) -> BrokerKey {
    BrokerKey {
        name,
        kind,
        default,
        rule,
        effect: Effect::Applied,
        dynamic: false,
        own: false,
        only_own: false,
        at_start: true,
        doc,
    }
}

/// A key that can be changed at run time, for all brokers: the default of a topic key.
const fn dynamic(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    rule: Rule,
    doc: &'static str,
) -> BrokerKey {
    BrokerKey {
        name,
        kind,
        default,
        rule,
        effect: Effect::Applied,
        dynamic: true,
        own: false,
        only_own: false,
        at_start: true,
        doc,
    }
}

/// A limit in bytes a second that can be changed at run time, for one broker or for all.
const fn throttle(name: &'static str, doc: &'static str) -> BrokerKey {
    BrokerKey { own: true, ..fixed(name, Kind::Long, Some(MAX), Rule::AtLeast(1), doc) }
}

/// A key that can be changed at run time, for one broker alone.
const fn of_one(name: &'static str, default: &'static str, rule: Rule, doc: &'static str) -> BrokerKey {
    BrokerKey { only_own: true, at_start: false, ..fixed(name, Kind::String, Some(default), rule, doc) }
}

/// A key that is taken and stored, and does nothing.
const fn stored(effect: Effect, key: BrokerKey) -> BrokerKey {
    BrokerKey { effect, ..key }
}

/// Every broker configuration there is, by name.
#[rustfmt::skip]
pub static BROKER_KEYS: &[BrokerKey] = &[
    BrokerKey { only_own: true, ..fixed("advertised.listeners", Kind::String, None, Rule::Listeners,
        "Addresses told to clients, by the listener they came in by, where these are not the bound ones. Set at run time (`kontiki broker \
         advertise`), it stands above what the broker started with, for the listeners that it names.") },
    fixed("auto.create.topics.enable", Kind::Boolean, Some("true"), Rule::Any,
        "Whether asking for the metadata of a topic that does not exist creates it."),
    fixed("auto.leader.rebalance.enable", Kind::Boolean, Some("true"), Rule::Any,
        "Whether leadership goes back to the preferred replica once that is in sync again."),
    of_one("broker.drain", "none", Rule::OneOf(&["none", "leaders", "replicas"]),
        "Kontiki's own. What is to leave the broker: `leaders` = it leads nothing and gets no new replicas, `replicas` = its replicas are \
         made anew on others, and then it is unregistered."),
    fixed("broker.heartbeat.interval.ms", Kind::Int, None, Rule::AtLeast(1),
        "How often a broker renews its session with the controllers; not set = 2000, or a quarter of the session if \
         that is less."),
    fixed("broker.id", Kind::Int, None, Rule::AtLeast(0),
        "The same as node.id."),
    fixed("broker.rack", Kind::String, None, Rule::Any,
        "Failure domain of the broker; replicas of a partition are spread over racks."),
    fixed("broker.reconnect.timeout.ms", Kind::Int, Some("1000"), Rule::AtLeast(1),
        "Kontiki's own. A broker whose connections to the controller ended, and that is not back by then, is dead: its \
         partitions go on without it."),
    fixed("broker.session.timeout.ms", Kind::Int, Some("9000"), Rule::AtLeast(1),
        "Silence after which a broker is fenced, and dead: clients are steered away, it gets no new replicas, and its \
         partitions go on without it."),
    stored(NO_RECOMPRESSION, dynamic("compression.gzip.level", Kind::Int, Some("-1"), Rule::GzipLevel,
        "Default of the topic's compression.gzip.level.")),
    stored(NO_RECOMPRESSION, dynamic("compression.lz4.level", Kind::Int, Some("9"), Rule::Between(1, 17),
        "Default of the topic's compression.lz4.level.")),
    dynamic("compression.type", Kind::String, Some("producer"),
        Rule::Built { now: &["producer"], later: &["uncompressed", "gzip", "snappy", "lz4", "zstd"] },
        "Default of the topic's compression.type."),
    stored(NO_RECOMPRESSION, dynamic("compression.zstd.level", Kind::Int, Some("3"), Rule::Between(-131_072, 22),
        "Default of the topic's compression.zstd.level.")),
    fixed("connections.max.idle.ms", Kind::Long, Some("600000"), Rule::AtLeast(1),
        "Idle time after which a client's connection is closed."),
    fixed("controller.quorum.heir.timeout.ms", Kind::Int, Some("10000"), Rule::AtLeast(0),
        "Kontiki's own. When two controllers are left to vote, one of them, the heir, goes on without the other after so \
         long a silence; 0 = never."),
    fixed("default.replication.factor", Kind::Int, None, Rule::Between(1, 32767),
        "Replicas of a partition where the request names no count; not set = 3, or as many as there are brokers."),
    fixed("delete.topic.enable", Kind::Boolean, Some("true"), Rule::Any,
        "Whether topics can be deleted."),
    fixed("fetch.max.bytes", Kind::Int, Some("57671680"), Rule::Between(1024, 1 << 30),
        "No answer to a Fetch is larger, but by its first batch, whatever the consumer asks."),
    stored(Effect::Stored("the rate of the leader's side bounds what replicas far behind get"),
        throttle("follower.replication.throttled.rate",
        "Bytes a second that this broker's replicas far behind take.")),
    fixed("group.initial.rebalance.delay.ms", Kind::Int, Some("3000"), Rule::AtLeast(0),
        "How long the first members of an empty consumer group wait for others before the first generation begins."),
    fixed("group.max.session.timeout.ms", Kind::Int, Some("1800000"), Rule::AtLeast(1),
        "Longest session timeout that members of consumer groups may ask for."),
    fixed("group.max.size", Kind::Int, Some("2147483647"), Rule::AtLeast(1),
        "Most members of a consumer group; never more than 10,000."),
    fixed("group.min.session.timeout.ms", Kind::Int, Some("6000"), Rule::AtLeast(1),
        "Shortest session timeout that members of consumer groups may ask for."),
    stored(Effect::Stored("versions are agreed on by ApiVersions; tools read this key to guess the level"),
        fixed("inter.broker.protocol.version", Kind::String, Some("4.1-IV1"), Rule::Any,
        "The Kafka level whose behaviour is followed.")),
    throttle("leader.replication.throttled.rate",
        "Bytes a second that replicas far behind get from this broker, in records that are committed already."),
    fixed("listeners", Kind::String, None, Rule::Listeners,
        "Addresses bound for clients."),
    fixed("log.cleaner.backoff.ms", Kind::Long, Some("15000"), Rule::AtLeast(0),
        "How long the cleaner waits before it looks again for something to compact."),
    fixed("log.cleaner.dedupe.buffer.size", Kind::Long, Some("134217728"), Rule::AtLeast(1 << 20),
        "Bytes of memory for the keys of one compaction, 24 of them a key; what does not fit is left to the next."),
    dynamic("log.cleaner.delete.retention.ms", Kind::Long, Some("86400000"), Rule::AtLeast(0),
        "Default of the topic's delete.retention.ms."),
    fixed("log.cleaner.enable", Kind::Boolean, Some("true"), Rule::Any,
        "Whether compacted topics are compacted here."),
    throttle("log.cleaner.io.max.bytes.per.second",
        "Bytes a second that compaction reads; the default is no limit."),
    dynamic("log.cleaner.max.compaction.lag.ms", Kind::Long, Some(MAX), Rule::AtLeast(1),
        "Default of the topic's max.compaction.lag.ms."),
    dynamic("log.cleaner.min.cleanable.ratio", Kind::Double, Some("0.5"), Rule::Fraction,
        "Default of the topic's min.cleanable.dirty.ratio."),
    dynamic("log.cleaner.min.compaction.lag.ms", Kind::Long, Some("0"), Rule::AtLeast(0),
        "Default of the topic's min.compaction.lag.ms."),
    dynamic("log.cleanup.policy", Kind::List, Some("delete"), Rule::Built { now: &["delete", "compact"], later: &[] },
        "Default of the topic's cleanup.policy."),
    fixed("log.dirs", Kind::String, None, Rule::Any,
        "The data directory."),
    dynamic("log.flush.interval.messages", Kind::Long, Some(MAX), Rule::AtLeast(1),
        "Default of the topic's flush.messages."),
    dynamic("log.flush.interval.ms", Kind::Long, None, Rule::AtLeast(0),
        "Default of the topic's flush.ms; not set = log.flush.scheduler.interval.ms."),
    fixed("log.flush.scheduler.interval.ms", Kind::Long, Some(MAX), Rule::AtLeast(0),
        "Default of the topic's flush.ms where log.flush.interval.ms is not set."),
    dynamic("log.index.interval.bytes", Kind::Int, Some("4096"), Rule::AtLeast(0),
        "Default of the topic's index.interval.bytes."),
    stored(Effect::Stored("indexes grow with their segment"),
        dynamic("log.index.size.max.bytes", Kind::Int, Some("10485760"), Rule::AtLeast(4),
        "Default of the topic's segment.index.bytes.")),
    stored(NO_TIERS, dynamic("log.local.retention.bytes", Kind::Long, Some("-2"), Rule::AtLeast(-2),
        "Default of the topic's local.retention.bytes.")),
    stored(NO_TIERS, dynamic("log.local.retention.ms", Kind::Long, Some("-2"), Rule::AtLeast(-2),
        "Default of the topic's local.retention.ms.")),
    dynamic("log.message.timestamp.after.max.ms", Kind::Long, Some("3600000"), Rule::AtLeast(0),
        "Default of the topic's message.timestamp.after.max.ms."),
    dynamic("log.message.timestamp.before.max.ms", Kind::Long, Some(MAX), Rule::AtLeast(0),
        "Default of the topic's message.timestamp.before.max.ms."),
    dynamic("log.message.timestamp.type", Kind::String, Some("CreateTime"),
        Rule::OneOf(&["CreateTime", "LogAppendTime"]),
        "Default of the topic's message.timestamp.type."),
    stored(Effect::Stored("segments are always preallocated, in steps"),
        dynamic("log.preallocate", Kind::Boolean, Some("false"), Rule::Any,
        "Default of the topic's preallocate.")),
    dynamic("log.retention.bytes", Kind::Long, Some("-1"), Rule::Any,
        "Default of the topic's retention.bytes."),
    fixed("log.retention.check.interval.ms", Kind::Long, Some("300000"), Rule::AtLeast(1),
        "How often segments are looked through for what can be deleted."),
    fixed("log.retention.hours", Kind::Int, Some("168"), Rule::AtLeast(-1),
        "Default of the topic's retention.ms, in hours, where neither log.retention.ms nor log.retention.minutes is \
         set."),
    fixed("log.retention.minutes", Kind::Int, None, Rule::AtLeast(-1),
        "Default of the topic's retention.ms, in minutes, where log.retention.ms is not set."),
    dynamic("log.retention.ms", Kind::Long, None, Rule::AtLeast(-1),
        "Default of the topic's retention.ms."),
    fixed("log.roll.hours", Kind::Int, Some("168"), Rule::AtLeast(1),
        "Default of the topic's segment.ms, in hours, where log.roll.ms is not set."),
    stored(Effect::Stored("segments roll one by one as their records come"),
        fixed("log.roll.jitter.hours", Kind::Int, Some("0"), Rule::AtLeast(0),
        "Default of the topic's segment.jitter.ms, in hours, where log.roll.jitter.ms is not set.")),
    stored(Effect::Stored("segments roll one by one as their records come"),
        dynamic("log.roll.jitter.ms", Kind::Long, None, Rule::AtLeast(0),
        "Default of the topic's segment.jitter.ms.")),
    dynamic("log.roll.ms", Kind::Long, None, Rule::AtLeast(1),
        "Default of the topic's segment.ms."),
    fixed("log.scrub.bytes.per.second", Kind::Long, Some("20971520"), Rule::AtLeast(0),
        "Kontiki's own. How fast segments are read to find damage before it spreads; 0 = never."),
    fixed("log.scrub.interval.ms", Kind::Long, Some("86400000"), Rule::AtLeast(1000),
        "Kontiki's own. Time from the begin of one pass over all segments to the next."),
    dynamic("log.segment.bytes", Kind::Int, Some("1073741824"), Rule::AtLeast(1024 * 1024),
        "Default of the topic's segment.bytes."),
    stored(Effect::Stored("files are unlinked once no reader holds them"),
        dynamic("log.segment.delete.delay.ms", Kind::Long, Some("60000"), Rule::AtLeast(0),
        "Default of the topic's file.delete.delay.ms.")),
    fixed("max.connections", Kind::Int, None, Rule::AtLeast(1),
        "Most client connections at a time; not set = 60 % of the file descriptors, at most 65,536."),
    fixed("max.connections.per.ip", Kind::Int, Some("1000"), Rule::AtLeast(1),
        "Most client connections at a time from one address."),
    fixed("max.incremental.fetch.session.cache.slots", Kind::Int, Some("1000"), Rule::AtLeast(0),
        "Most incremental fetch sessions of consumers (KIP-227) that the broker keeps; 0 = every fetch is a full one."),
    fixed("max.request.partition.size.limit", Kind::Int, Some("2000"), Rule::AtLeast(1),
        "Most partitions in one answer to DescribeTopicPartitions; the rest comes with the next ones."),
    dynamic("message.max.bytes", Kind::Int, Some("1048588"), Rule::AtLeast(0),
        "Default of the topic's max.message.bytes."),
    fixed("metadata.log.max.record.bytes.between.snapshots", Kind::Long, Some("20971520"), Rule::AtLeast(1),
        "The controllers write the metadata into their log anew after so many bytes of changes; what lies before is dropped."),
    dynamic("min.insync.replicas", Kind::Int, Some("1"), Rule::AtLeast(1),
        "Default of the topic's min.insync.replicas."),
    fixed("node.id", Kind::Int, None, Rule::AtLeast(0),
        "The node's number in the cluster."),
    fixed("num.partitions", Kind::Int, Some("1"), Rule::Between(1, 100_000),
        "Partitions of a topic where the request names no count."),
    fixed("offset.metadata.max.bytes", Kind::Int, Some("4096"), Rule::AtLeast(0),
        "Longest metadata of a committed offset."),
    fixed("offsets.commit.timeout.ms", Kind::Int, Some("5000"), Rule::AtLeast(1),
        "How long a commit of offsets waits for its replicas before it is answered with an error."),
    fixed("offsets.retention.check.interval.ms", Kind::Long, Some("600000"), Rule::AtLeast(1),
        "How often committed offsets are looked through for those to end."),
    fixed("offsets.retention.minutes", Kind::Int, Some("10080"), Rule::AtLeast(1),
        "How long committed offsets are kept once their group has lost its last member; of applications without a group, and of topics \
         that a group does not read any more, since the commit."),
    fixed("offsets.topic.num.partitions", Kind::Int, Some("50"), Rule::Between(1, 100_000),
        "Partitions of `__consumer_offsets`, when it is created; not to be changed afterwards."),
    fixed("offsets.topic.replication.factor", Kind::Int, None, Rule::Between(1, 32767),
        "Replicas of `__consumer_offsets`, when it is created; not set = as default.replication.factor; where that is not set either it \
         is created only when three brokers have registered, or all where controllers are brokers too and there are fewer."),
    fixed("offsets.topic.segment.bytes", Kind::Int, Some("104857600"), Rule::AtLeast(1024 * 1024),
        "segment.bytes of `__consumer_offsets`, when it is created."),
    fixed("process.roles", Kind::List, None, Rule::OneOf(&["broker", "controller"]),
        "What the node is: `broker`, `controller`, or both."),
    fixed("producer.id.expiration.check.interval.ms", Kind::Int, Some("600000"), Rule::AtLeast(1),
        "How often idempotent producers are looked through for those to forget; one that wrote since the last look stays."),
    fixed("producer.id.expiration.ms", Kind::Int, Some("86400000"), Rule::AtLeast(1),
        "An idempotent producer whose newest record is older than this is forgotten by the partition."),
    fixed("replace.grace.ms", Kind::Long, Some("900000"), Rule::AtLeast(-1),
        "Kontiki's own. A dead broker is waited for so long before its replicas are copied to other brokers, where there are any; \
         -1 = for ever."),
    stored(Effect::Stored("a broker has one data directory"),
        throttle("replica.alter.log.dirs.io.max.bytes.per.second",
        "Bytes a second that move between data directories of a broker.")),
    fixed("replica.lag.time.max.ms", Kind::Long, Some("30000"), Rule::AtLeast(1),
        "Time after which a replica that does not keep up with the leader's end is no longer in sync."),
    fixed("replica.selector.class", Kind::String, None,
        Rule::OneOf(&[LEADER_SELECTOR, RACK_AWARE_SELECTOR]),
        "Whom consumers read from: with RackAwareReplicaSelector a consumer whose `client.rack` is another one than the leader's is \
         sent to a replica in sync in its own rack (KIP-392); not set or LeaderSelector: always the leader."),
    fixed("shrink.grace.ms", Kind::Long, Some("300000"), Rule::AtLeast(0),
        "Kontiki's own. A broker that stopped in order is waited for so long before its partitions go on without it."),
    fixed("shrink.min.voters", Kind::Int, Some("1"), Rule::AtLeast(1),
        "Kontiki's own. No partition goes on with fewer voting replicas than these when brokers die; as many as it has \
         replicas: it never shrinks."),
    fixed("socket.request.max.bytes", Kind::Int, Some("104857600"), Rule::AtLeast(1024),
        "Largest request; a connection that announces a larger one is closed."),
    stored(Effect::Stored("there are no unclean elections; see the topic's recovery.policy"),
        dynamic("unclean.leader.election.enable", Kind::Boolean, Some("false"), Rule::Any,
        "Default of the topic's unclean.leader.election.enable.")),
];
