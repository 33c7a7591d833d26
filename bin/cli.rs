//! Every command and flag, with its help. No behaviour: each command's file has that.
//!
//! Conventions: nouns first, `produce` and `consume` at top level; `-o` is the offset of `consume`, so output is
//! chosen by the long `--output` everywhere.

use crate::cli_generate::GenerateCommand;
use crate::cli_group::GroupCommand;
use crate::cli_operate::{
    BrokerCommand, ControllerCommand, MOVE_HELP, MoveArgs, OP_HELP, OpCommand, REASSIGN_HELP, REBALANCE_HELP,
    ReassignArgs, RebalanceArgs,
};
use crate::complete;
use crate::config::NodeFlags;
use crate::text;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kontiki::client::Codec;
use std::path::PathBuf;
use std::time::Duration;

/// A Kafka-compatible, replicated, append-only log broker.
#[derive(Debug, Parser)]
#[command(name = "kontiki", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  kontiki dev                                       three brokers on this machine
  echo hi | kontiki produce greetings               one record
  kontiki consume greetings -o start -e             everything so far
  kontiki topic create orders -p 3 -r 3
  kontiki cluster health";

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Brokers to start from, host:port, comma-separated
    #[arg(
        short = 'B',
        long = "bootstrap-server",
        visible_alias = "bootstrap-servers",
        global = true,
        env = "KONTIKI_BROKERS",
        default_value = "localhost:9092",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    pub bootstrap: Vec<String>,
    /// How results are printed on stdout
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<OutputFormat>,
    /// More logs on stderr; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Nothing on stderr but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// Shape of log lines on stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node: a broker, a controller, or both
    Start(StartArgs),
    /// Run a whole cluster in this process, for trying things out
    Dev(DevArgs),
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Consumer groups: members, offsets, lag
    #[command(subcommand)]
    Group(GroupCommand),
    /// Write records from stdin
    Produce(ProduceArgs),
    /// Read records
    Consume(ConsumeArgs),
    /// The state of the cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Where replicas are, and partitions that lost their majority
    #[command(subcommand)]
    Partition(PartitionCommand),
    /// Which brokers take part
    #[command(subcommand)]
    Broker(BrokerCommand),
    /// The controllers' own group, when it lost its majority for good
    #[command(subcommand)]
    Controller(ControllerCommand),
    /// What is under way: moves, drains, decommissions
    #[command(subcommand, after_help = OP_HELP)]
    Op(OpCommand),
    /// Wait until the cluster can be used
    Ready(ReadyArgs),
    /// A node's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what a data directory holds and verify its checksums
    Dump(DumpArgs),
    /// Completion for shells, man pages, a systemd unit, a dashboard
    #[command(subcommand)]
    Generate(GenerateCommand),
    /// Measure a cluster, or this machine
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki start --node-id 1 --roles broker,controller --controllers 1@localhost:9192 \\
      --listen localhost:9092 --peer-listen localhost:9192 --data-dir /var/lib/kontiki
  kontiki start --config /etc/kontiki.toml
  KONTIKI_NODE_ID=2 kontiki start --config /etc/kontiki.toml -c log.retention.ms=86400000

Every flag is also a key of the file and an environment variable (KONTIKI_NODE_ID, ...); flags
win over the environment, the environment over the file. See `kontiki config print --origin`.")]
pub struct StartArgs {
    #[command(flatten)]
    pub node: NodeFlags,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  kontiki dev
  kontiki dev --brokers 1 --topic orders:3:1 --data-dir ./data
  kontiki dev --port 0 --admin-port 0 --ports-file ports.json
  kontiki dev kill 2        in another terminal: as kill -9 of broker 2
  kontiki dev restart 2"
)]
pub struct DevArgs {
    #[command(subcommand)]
    pub action: Option<DevAction>,
    /// Brokers to run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    pub brokers: u16,
    /// Kafka port of the first broker; the others follow. 0: any free ports
    #[arg(long, default_value_t = 9092)]
    pub port: u16,
    /// Keep the data here; without it, the data goes with the cluster
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the HTTP admin address. 0: any free port
    #[arg(long, default_value_t = 8080)]
    pub admin_port: u16,
    /// A topic to create at the start
    #[arg(long = "topic", value_name = "NAME:PARTITIONS[:RF]", value_parser = text::topic_spec)]
    pub topics: Vec<text::TopicSpec>,
    /// Write where everything listens here, as JSON, once it is ready
    #[arg(long, value_name = "FILE")]
    pub ports_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum DevAction {
    /// Stop a broker as kill -9 would
    Kill(DevTarget),
    /// Start a broker again
    Restart(DevTarget),
}

#[derive(Debug, Args)]
pub struct DevTarget {
    /// Number of the broker
    pub broker: u16,
    /// HTTP admin port of the running cluster
    #[arg(long, default_value_t = 8080)]
    pub admin_port: u16,
}

#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create topics
    #[command(after_help = "Examples:
  kontiki topic create orders -p 3 -r 3
  kontiki topic create audit --if-not-exists -c retention.ms=-1 -c min.insync.replicas=2")]
    Create(TopicCreate),
    /// List topics
    #[command(
        visible_alias = "ls",
        after_help = "Example:
  kontiki topic list --output json"
    )]
    List(TopicList),
    /// Show partitions, leaders, offsets and configuration
    #[command(
        visible_alias = "info",
        after_help = "Examples:
  kontiki topic describe orders
  kontiki topic describe orders --section configs"
    )]
    Describe(TopicDescribe),
    /// Change configuration or add partitions
    #[command(after_help = "Examples:
  kontiki topic alter orders --set retention.ms=3600000 --delete max.message.bytes
  kontiki topic alter orders --partitions 12")]
    Alter(TopicAlter),
    /// Delete topics and all their records
    #[command(after_help = "Example:
  kontiki topic delete orders audit")]
    Delete(TopicDelete),
    /// Delete the records below an offset
    #[command(after_help = "Examples:
  kontiki topic trim orders -o end          everything committed so far
  kontiki topic trim orders -p 0 -o 1200")]
    Trim(TopicTrim),
}

#[derive(Debug, Args)]
pub struct TopicCreate {
    /// Names
    #[arg(required = true, value_name = "TOPIC")]
    pub topics: Vec<String>,
    /// Partitions; the cluster's default if not given
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: Option<i32>,
    /// Replicas of each partition; the cluster's default if not given
    #[arg(short, long = "replicas", visible_alias = "replication-factor", value_parser = clap::value_parser!(i16).range(1..))]
    pub replicas: Option<i16>,
    /// Topic configuration, by Kafka's names
    #[arg(short, long = "config", value_name = "KEY=VALUE", value_parser = text::key_value)]
    pub configs: Vec<(String, String)>,
    /// A topic that exists is no failure
    #[arg(long)]
    pub if_not_exists: bool,
    /// Only check
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct TopicList {
    /// Also the brokers' own topics
    #[arg(short, long)]
    pub internal: bool,
}

#[derive(Debug, Args)]
pub struct TopicDescribe {
    /// Names
    #[arg(required = true, value_name = "TOPIC", add = complete::topics())]
    pub topics: Vec<String>,
    /// What to show; summary and partitions if not given
    #[arg(long, value_enum, value_delimiter = ',')]
    pub section: Vec<TopicSection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopicSection {
    Summary,
    Partitions,
    Configs,
    /// Every replica: role, generation, lag, when it was last heard
    Replicas,
}

#[derive(Debug, Args)]
pub struct TopicAlter {
    /// Name
    #[arg(add = complete::topics())]
    pub topic: String,
    /// Set a configuration value
    #[arg(long, value_name = "KEY=VALUE", value_parser = text::key_value)]
    pub set: Vec<(String, String)>,
    /// Put a configuration value back to its default
    #[arg(long, value_name = "KEY")]
    pub delete: Vec<String>,
    /// Raise the number of partitions to this
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: Option<i32>,
    /// Only check
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct TopicDelete {
    /// Names
    #[arg(required = true, value_name = "TOPIC", add = complete::topics())]
    pub topics: Vec<String>,
    /// A topic that does not exist is no failure
    #[arg(long)]
    pub if_exists: bool,
}

#[derive(Debug, Args)]
pub struct TopicTrim {
    /// Name
    #[arg(add = complete::topics())]
    pub topic: String,
    /// First offset to keep: end, N, -N or @TIME
    #[arg(short, long, allow_hyphen_values = true)]
    pub offset: String,
    /// Partitions; all if not given
    #[arg(short, long, value_delimiter = ',')]
    pub partitions: Vec<i32>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  echo hi | kontiki produce greetings
  printf 'k1:v1\\nk2:v2\\n' | kontiki produce orders -K :
  kontiki consume a -o start -e --output json | kontiki produce b --input jsonl")]
pub struct ProduceArgs {
    /// Topic
    #[arg(add = complete::topics())]
    pub topic: String,
    /// Split each line into key and value at the first of these
    #[arg(short = 'K', long, value_name = "DELIMITER", conflicts_with = "key", value_parser = text::unescape)]
    pub key_delimiter: Option<String>,
    /// Key of every record
    #[arg(short, long)]
    pub key: Option<String>,
    /// A header of every record; may be repeated, also with the same name
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = text::header)]
    pub headers: Vec<(String, Option<String>)>,
    /// Partition; by key (murmur2) if not given
    #[arg(short, long)]
    pub partition: Option<i32>,
    /// Keep the partitions that JSON lines name
    #[arg(long, conflicts_with = "partition")]
    pub keep_partitions: bool,
    /// Compression: none, gzip, snappy, lz4, zstd
    #[arg(short = 'z', long, default_value = "none", value_name = "CODEC")]
    pub compression: Codec,
    /// Empty values are null
    #[arg(short = 'Z', long)]
    pub null_empty: bool,
    /// Who must have a record before it counts: all, 1 or 0
    #[arg(long, default_value = "all", value_parser = text::acks, allow_hyphen_values = true)]
    pub acks: i16,
    /// What stdin holds
    #[arg(long, value_enum, default_value_t = InputFormat::Text, value_name = "FORMAT")]
    pub input: InputFormat,
    /// Time limit of each record
    #[arg(long, default_value = "30s", value_parser = text::duration, value_name = "DURATION")]
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// One value per line
    Text,
    /// One JSON object per line, as `consume --output json` prints them
    Jsonl,
}

#[derive(Debug, Args)]
#[command(after_help = "Offsets:
  start, end        first and after the last record
  N, +N, -N         offset N; N after the start; N before the end
  @TIME             first record since: 2026-01-31, 2026-01-31T12:00:00Z, -1h (ago), ms since 1970
  FROM:TO           up to (not including) TO

Examples:
  kontiki consume orders -o start -e
  kontiki consume orders -o -10 -p 0
  kontiki consume orders -o @-1h:end --output json | jq .value
  kontiki consume orders -g billing -o start         Ctrl-C commits and leaves
  kontiki consume orders -g billing -e              what is new since last time

On a pipe the default output is JSON lines, on a terminal short text.")]
pub struct ConsumeArgs {
    /// Topic
    #[arg(add = complete::topics())]
    pub topic: String,
    /// Where to begin; with -g, where the group has committed nothing
    #[arg(short, long, default_value = "end", allow_hyphen_values = true)]
    pub offset: String,
    /// Read as a member of this consumer group: share the partitions, go on where it was, commit what is printed
    #[arg(short, long, value_name = "GROUP", conflicts_with = "partitions", add = complete::groups())]
    pub group: Option<String>,
    /// With -g: silent for so long, this member is taken for dead
    #[arg(long, default_value = "45s", value_parser = text::duration, value_name = "DURATION", requires = "group")]
    pub session_timeout: Duration,
    /// Stop at the end seen at the start
    #[arg(short, long)]
    pub exit: bool,
    /// Partitions; all if not given
    #[arg(short, long = "partitions", visible_alias = "partition", value_delimiter = ',')]
    pub partitions: Vec<i32>,
    /// Stop after so many records
    #[arg(short, long = "num", visible_alias = "count", value_name = "N")]
    pub num: Option<u64>,
    /// Only values (text output), one per line
    #[arg(long)]
    pub values: bool,
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Which brokers are up, which partitions are in danger
    #[command(after_help = "Examples:
  kontiki cluster health
  kontiki cluster health --watch --exit-when-healthy
  kontiki cluster health --admin localhost:8080     also damaged replicas")]
    Health(HealthArgs),
}

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Look again every second
    #[arg(short, long)]
    pub watch: bool,
    /// Wait until healthy, then exit with 0
    #[arg(short, long)]
    pub exit_when_healthy: bool,
    /// HTTP admin addresses to ask as well, host:port, comma-separated
    #[arg(long, value_delimiter = ',', env = "KONTIKI_ADMIN", value_name = "HOST:PORT")]
    pub admin: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum PartitionCommand {
    /// Move replicas from one broker to another
    #[command(after_help = MOVE_HELP)]
    Move(MoveArgs),
    /// Say which brokers hold a partition
    #[command(after_help = REASSIGN_HELP)]
    Reassign(ReassignArgs),
    /// Level replicas and leaders over all brokers, a new one included
    #[command(after_help = REBALANCE_HELP)]
    Rebalance(RebalanceArgs),
    /// Go on without replicas that are lost, by a plan that says what may be lost with them
    #[command(after_help = RECOVER_HELP)]
    Recover(RecoverArgs),
    /// Every recovery that was approved, and what came of it
    #[command(after_help = "Example:
  kontiki partition recoveries --output json")]
    Recoveries(RecoveriesArgs),
}

const RECOVER_HELP: &str =
    "A partition that lost its majority at once waits: what is left cannot prove that it holds
everything that was acknowledged. Bring the lost brokers back if you can; then nothing is lost
and nothing is to be done. If you cannot, this makes a plan: the replica with the best log that
can be reached goes on, alone at first; others rejoin and the partition grows back by itself. Of
every partition the plan says
  kept         offsets that stay
  at risk      from here on, what is kept may not be what was acknowledged
  lost         from here on nothing is kept; how far the lost brokers had come nobody can tell
  removed      replicas that did not answer, and when their brokers were last heard
Nothing happens before exactly this plan is approved: by its number (--plan), by typing it, or
by --yes. If the replicas, once sealed, hold anything else than it says, it is refused and the
partition waits for another plan. A lost broker that comes back later keeps aside what it holds
beyond the plan (*.fenced beside its log). The same command again goes on with a plan that is
under way. A plan has at most 500 partitions: repeat it for the rest.

Examples:
  kontiki partition recover orders --dry-run        the plan, nothing else
  kontiki partition recover orders -p 3 --plan 1f2e3d4c5b6a7988 --reason 'rack 2 burnt'
  kontiki partition recover --yes                   every partition that has no leader";

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Topic; every partition without a leader if not given
    #[arg(add = complete::topics())]
    pub topic: Option<String>,
    /// Partitions; all of the topic if not given
    #[arg(short, long, value_delimiter = ',', requires = "topic")]
    pub partitions: Vec<i32>,
    /// Show the plan and change nothing
    #[arg(short = 'n', long, conflicts_with_all = ["plan", "yes"])]
    pub dry_run: bool,
    /// Approve the plan of this number, and no other
    #[arg(long, value_name = "NUMBER")]
    pub plan: Option<String>,
    /// Approve whatever the plan is
    #[arg(short, long, conflicts_with = "plan")]
    pub yes: bool,
    /// Why, for the audit
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How long to wait for the end; the recovery goes on without the command
    #[arg(long, default_value = "60s", value_parser = text::duration, value_name = "DURATION")]
    pub timeout: Duration,
    /// HTTP admin addresses to ask, host:port, comma-separated; any node will do
    #[arg(
        long,
        value_delimiter = ',',
        env = "KONTIKI_ADMIN",
        value_name = "HOST:PORT",
        default_value = "localhost:8080"
    )]
    pub admin: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RecoveriesArgs {
    /// HTTP admin addresses to ask, host:port, comma-separated; any node will do
    #[arg(
        long,
        value_delimiter = ',',
        env = "KONTIKI_ADMIN",
        value_name = "HOST:PORT",
        default_value = "localhost:8080"
    )]
    pub admin: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki ready --timeout 30s
  kontiki ready --timeout 30s --brokers 3 --topic orders
  kontiki ready --timeout 2s --admin localhost:8080     this node alone, a controller too

Exit code 0 if it is ready, 1 if it is not within the time: fit for HEALTHCHECK.")]
pub struct ReadyArgs {
    /// How long to wait
    #[arg(long, default_value = "30s", value_parser = text::duration, value_name = "DURATION")]
    pub timeout: Duration,
    /// Live brokers to wait for
    #[arg(long, default_value_t = 1)]
    pub brokers: usize,
    /// Topics that must have all their leaders
    #[arg(long = "topic", add = complete::topics())]
    pub topics: Vec<String>,
    /// Ask these nodes themselves, at their HTTP admin addresses, and no broker
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT", conflicts_with_all = ["brokers", "topics"])]
    pub admin: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print what `kontiki start` with the same flags would use
    #[command(after_help = "Example:
  kontiki config print --origin --config /etc/kontiki.toml")]
    Print(Box<ConfigPrint>),
    /// Print a commented configuration file with every key
    Default,
}

#[derive(Debug, Args)]
pub struct ConfigPrint {
    /// Also where each value comes from
    #[arg(long)]
    pub origin: bool,
    #[command(flatten)]
    pub node: NodeFlags,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  kontiki dump /var/lib/kontiki --records")]
pub struct DumpArgs {
    /// Data directory of a stopped or running node
    pub path: PathBuf,
    /// Also every entry and record batch
    #[arg(long)]
    pub records: bool,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Write as fast as possible, or at a rate
    #[command(after_help = "Examples:
  kontiki bench produce -t b --partitions 12 --prebuilt --duration 10s
  kontiki bench produce -t b --rate 50000 --duration 30s          open loop: latency from the intended time
  kontiki bench produce -t b --prebuilt --outstanding 1 --batch-size 1024 --num-records 2000")]
    Produce(BenchProduce),
    /// Read as fast as possible
    #[command(after_help = "Examples:
  kontiki bench consume -t b --duration 10s
  kontiki bench consume -t b --raw --partition 0 --repeat --duration 5s     one cached partition, bytes only")]
    Consume(BenchConsume),
    /// Measure this machine and print what a cluster on it cannot exceed
    #[command(after_help = "Example:
  kontiki bench limits --dir /var/lib/kontiki")]
    Limits(BenchLimits),
    /// A broker that acknowledges at once and stores nothing
    #[command(after_help = "Example:
  kontiki bench null --port 9500 --brokers 3 --partitions 12")]
    Null(BenchNull),
    /// The other end of the loopback measurement
    #[command(hide = true)]
    LoopbackPeer,
}

#[derive(Clone, Debug, Args)]
pub struct BenchCommon {
    /// Stop after this time
    #[arg(long, value_parser = text::duration, value_name = "DURATION")]
    pub duration: Option<Duration>,
    /// Stop after so many records
    #[arg(long, value_parser = text::count, value_name = "N")]
    pub num_records: Option<u64>,
    /// Processes whose CPU time and memory are reported as well
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    pub pids: Vec<u32>,
    /// Leave out the first of the run
    #[arg(long, default_value = "0s", value_parser = text::duration, value_name = "DURATION")]
    pub warmup: Duration,
}

#[derive(Clone, Debug, Args)]
pub struct BenchProduce {
    /// Topic; created if it does not exist
    #[arg(short, long, default_value = "bench")]
    pub topic: String,
    /// Partitions of a topic that is created
    #[arg(long, default_value_t = 12)]
    pub partitions: i32,
    /// Replicas of a topic that is created; the cluster's default if not given
    #[arg(long)]
    pub replicas: Option<i16>,
    /// Configuration of a topic that is created
    #[arg(short, long = "config", value_name = "KEY=VALUE", value_parser = text::key_value)]
    pub configs: Vec<(String, String)>,
    /// Bytes of a record's value
    #[arg(long, visible_alias = "size", default_value = "1024", value_parser = text::size, value_name = "BYTES")]
    pub record_size: usize,
    /// Bytes of a batch
    #[arg(long, default_value = "64k", value_parser = text::size, value_name = "BYTES")]
    pub batch_size: usize,
    /// Batches are built once and sent again and again
    #[arg(long)]
    pub prebuilt: bool,
    /// With --prebuilt: number the batches, as an idempotent producer does
    #[arg(long, requires = "prebuilt")]
    pub idempotent: bool,
    /// Requests (prebuilt) or records under way at most
    #[arg(long, value_name = "N")]
    pub outstanding: Option<usize>,
    /// Open loop: so many records per second
    #[arg(long, visible_alias = "throughput", value_parser = text::count, value_name = "PER-SECOND")]
    pub rate: Option<u64>,
    /// Who must have a record before it counts: all, 1 or 0
    #[arg(long, default_value = "all", value_parser = text::acks, allow_hyphen_values = true)]
    pub acks: i16,
    /// How long a batch is collected (not with --prebuilt)
    #[arg(long, default_value = "5ms", value_parser = text::duration, value_name = "DURATION")]
    pub linger: Duration,
    /// Compression: none, gzip, snappy, lz4, zstd
    #[arg(short = 'z', long, default_value = "none", value_name = "CODEC")]
    pub compression: Codec,
    #[command(flatten)]
    pub common: BenchCommon,
}

#[derive(Clone, Debug, Args)]
pub struct BenchConsume {
    /// Topic
    #[arg(short, long, default_value = "bench")]
    pub topic: String,
    /// One partition, answers read but not decoded
    #[arg(long)]
    pub raw: bool,
    /// Partition for --raw
    #[arg(long, default_value_t = 0)]
    pub partition: i32,
    /// With --raw: begin again at the start when the end is reached
    #[arg(long, requires = "raw")]
    pub repeat: bool,
    /// Most bytes of one answer
    #[arg(long, default_value = "8m", value_parser = text::size, value_name = "BYTES")]
    pub fetch_size: usize,
    #[command(flatten)]
    pub common: BenchCommon,
}

#[derive(Clone, Debug, Args)]
pub struct BenchLimits {
    /// Directory on the disk to measure
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// Time for each measurement
    #[arg(long, default_value = "1s", value_parser = text::duration, value_name = "DURATION")]
    pub duration: Duration,
}

#[derive(Clone, Debug, Args)]
pub struct BenchNull {
    /// Port of the first broker; the others follow. 0: any free ports
    #[arg(long, default_value_t = 9500)]
    pub port: u16,
    /// Brokers to pretend
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    pub brokers: u16,
    /// Partitions of every topic
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn cli_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command a user sees has help, and every argument of it too.
    #[test]
    fn cli_every_command_and_flag_has_help() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no help");
            for arg in command.get_arguments().filter(|a| a.get_id() != "help" && a.get_id() != "version") {
                assert!(arg.get_help().is_some(), "{path} {} has no help", arg.get_id());
            }
            for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
                walk(sub, &path);
            }
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn dev_kill_takes_broker_and_admin_port() {
        let cli = Cli::try_parse_from(["kontiki", "dev", "kill", "2", "--admin-port", "8081"]).unwrap();
        let Command::Dev(DevArgs { action: Some(DevAction::Kill(target)), .. }) = cli.command else {
            panic!()
        };
        assert_eq!((target.broker, target.admin_port), (2, 8081));
    }

    #[test]
    fn consume_negative_offset_is_no_flag() {
        let cli = Cli::try_parse_from(["kontiki", "consume", "t", "-o", "-10", "-B", "a:1,b:2"]).unwrap();
        assert_eq!(cli.global.bootstrap, ["a:1", "b:2"]);
        let Command::Consume(args) = cli.command else { panic!() };
        assert_eq!(args.offset, "-10");
    }
}
