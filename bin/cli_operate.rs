//! Commands and flags of operating a cluster: where replicas are, which brokers take part. As `cli`, no behaviour.

use crate::cli::RecoveriesArgs;
use crate::text;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// How the commands wait that set something going.
#[derive(Clone, Debug, Args)]
pub struct Wait {
    /// Do not wait for the end
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
    /// How long to wait for the end, as long as it takes if not given; it goes on without the command
    #[arg(long, value_parser = text::duration, value_name = "DURATION")]
    pub timeout: Option<Duration>,
}

pub const MOVE_HELP: &str =
    "Every partition for itself: the new replica copies without a vote; when it holds everything it
becomes a voter and the old one goes, in one step. No copy is given up for one that is still to
come, and nothing stops being served. The cluster does it by itself once it was asked: Ctrl-C
ends the waiting, not the move (`kontiki op list`). It may be cancelled until a partition has
arrived (`kontiki partition reassign TOPIC --cancel`). `leader.replication.throttled.rate` of
the brokers bounds what it costs.

Examples:
  kontiki partition move orders --from 1 --to 4 --dry-run     the plan, nothing else
  kontiki partition move orders -p 0,3 --from 1 --to 4
  kontiki partition move --from 1 --to 4                      all that broker 1 holds";

#[derive(Debug, Args)]
pub struct MoveArgs {
    /// Topic; every topic if not given
    pub topic: Option<String>,
    /// Partitions; all of the topic if not given
    #[arg(short, long, value_delimiter = ',', requires = "topic")]
    pub partitions: Vec<i32>,
    /// Broker that gives its replicas up
    #[arg(long, value_name = "BROKER")]
    pub from: i32,
    /// Broker that gets them; one that has a replica of a partition already gets no second one
    #[arg(long, value_name = "BROKER")]
    pub to: i32,
    /// Show the plan and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: Wait,
}

pub const REASSIGN_HELP: &str =
    "Sets where replicas are to be, preferred leader first. More or fewer brokers than now change the
replication factor. Another list for a partition that is still on its way is taken too. See
`kontiki partition move --help` for what happens.

Examples:
  kontiki partition reassign orders -p 0 --replicas 4,2,3 --dry-run
  kontiki partition reassign orders --replicas 1,2        every partition of orders
  kontiki partition reassign --file plan.json             as kafka-reassign-partitions writes and reads it
  kontiki partition reassign orders --cancel              back to where they came from";

#[derive(Debug, Args)]
pub struct ReassignArgs {
    /// Topic
    #[arg(required_unless_present_any = ["file", "cancel"])]
    pub topic: Option<String>,
    /// Partitions; all of the topic if not given
    #[arg(short, long, value_delimiter = ',', requires = "topic")]
    pub partitions: Vec<i32>,
    /// Brokers of the replicas, preferred leader first
    #[arg(long, value_delimiter = ',', value_name = "BROKER", required_unless_present_any = ["file", "cancel"])]
    pub replicas: Vec<i32>,
    /// A plan in the JSON of kafka-reassign-partitions
    #[arg(long, value_name = "FILE", conflicts_with_all = ["topic", "replicas", "cancel"])]
    pub file: Option<PathBuf>,
    /// Take back what is under way: of the topic, or of all
    #[arg(long, conflicts_with = "replicas")]
    pub cancel: bool,
    /// Show the plan and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: Wait,
}

pub const REBALANCE_HELP: &str =
    "Levels replicas and preferred leaders over the brokers that are live and not drained: none has
two more than another, as far as racks allow, which come first; nothing moves that need not. To
bring a new broker into use, start it, then rebalance. Replicas on brokers that are down or
drained stay where they are; see `kontiki broker --help` for those.
See `kontiki partition move --help` for what happens.

Examples:
  kontiki partition rebalance --dry-run       the plan, nothing else
  kontiki partition rebalance
  kontiki partition rebalance orders audit    only these topics move; all are counted";

#[derive(Debug, Args)]
pub struct RebalanceArgs {
    /// Topics that may move; all if not given
    pub topics: Vec<String>,
    /// Show the plan and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Subcommand)]
pub enum ControllerCommand {
    /// Go on from the directories of stopped controllers, when their majority is lost for good
    #[command(after_help = CONTROLLER_RECOVER_HELP)]
    Recover(ControllerRecoverArgs),
    /// Every such recovery of this cluster
    #[command(after_help = "Example:
  kontiki controller recoveries --output json")]
    Recoveries(RecoveriesArgs),
}

const CONTROLLER_RECOVER_HELP: &str =
    "The controllers decide where partitions are; above them is nobody. When more than half of them
are gone for good, or the heir of the last two is, those that are left wait for ever, and say so
(/health, `waits for`). Partitions go on as they are meanwhile, but nothing is repaired or moved.

First try to start the controllers again, also on other machines with their old disks: if half of
them and one can be started, nothing else is needed. If they cannot, stop what still runs of them
and bring their data directories to one machine: MOVED, or the originals destroyed, and the very
ones that were used last. A backup or an earlier copy proves nothing and must not be given; an
original that is started later was never ended, and goes on beside the recovered group.

This command reads them (locked, unchanged but for that):

  NODE         whose directory, and STANDS how it counts: best (would go on), counts, unsound
               (damaged or in doubt), stray (of a generation that ended), removed, observer (a
               broker's copy), never-joined; LAST entry and its TERM; VOTERS by the newest
               configuration in it; SEALED by the plan that ended it; WRITTEN when its journal was
  ALONE        entries that only the best copy holds: they may never have been committed, and count
  LOSS         provably empty: the copies that count meet every majority of the newest configuration
               in the best one's log; where they are just half of it, the heir of two is among them,
               of more the lowest id

What is provably empty is carried out with --execute and the number of the plan, and refused if
anything changed since. Every copy that counts is ended first, so that no second survivor can
follow from it; then the best one opens the next generation as its only voter, and that is written
down for ever (`kontiki controller recoveries`). Cut short, the same command goes on, unless a node
ran in between. Start the survivor's node with that very directory, then the others: with the
directories that were given, their own if they were not, or empty disks.

Of a pair whose heir is missing nothing is lost either, unless the heir went on alone before it
died. If you know that it did not (no partition was served without the node whose copy this is),
and that it never comes back, say so with --heir-gone: your word is written down. If you are wrong,
what it decided alone is lost, and should it come back it is refused.

WITH A LOSS. Two of three controllers' disks are gone for good, say: what they decided last nobody
here knows. --accept-loss goes on all the same, and keeps whatever the disks at hand have acted on:
every broker holds a copy of the controllers' log, and the best of all copies says where it ends.
  - Stop everything. Every node is given (--with: brokers too, which keep all their data) or gone
    for good (--gone 3): its disk never takes part again, whatever it holds; empty it, or keep it to
    be read (`kontiki dump`). A node that can be given must not be called gone.
  - Partitions that find a leader go on as they were. Those that do not were perhaps decided about by
    what is lost: they wait for your plan (`kontiki partition recover`), also where nothing seems to
    be missing, and under recovery.policy=auto.
  - Topics, settings and moves that only the lost ones knew are lost. Producers that were given an id
    since may be told to begin anew.

Examples:
  kontiki controller recover --data-dir /disks/11 --with /disks/12          the report, nothing else
  kontiki controller recover --data-dir /disks/1 --accept-loss --gone 2 --gone 3
  kontiki controller recover --data-dir /disks/11 --with /disks/12 --execute \\
      --plan 9f2e3d4c5b6a7988 --reason 'rack 2 burnt'";

#[derive(Debug, Args)]
pub struct ControllerRecoverArgs {
    /// Data directory of a stopped node with a copy of the controllers' log
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Another one; may be repeated. The more, the better
    #[arg(long, value_name = "DIR")]
    pub with: Vec<PathBuf>,
    /// Carry out the plan; without it, nothing is changed
    #[arg(long, requires = "plan")]
    pub execute: bool,
    /// Number of the plan that is approved
    #[arg(long, value_name = "NUMBER", requires = "execute")]
    pub plan: Option<String>,
    /// Your word that the missing heir never went on alone, and never comes back
    #[arg(long, requires = "execute")]
    pub heir_gone: bool,
    /// Go on though something that controllers decided may be lost
    #[arg(long, conflicts_with = "heir_gone")]
    pub accept_loss: bool,
    /// With --accept-loss: a node whose disk is gone for good; may be repeated
    #[arg(long, value_name = "NODE", requires = "accept_loss")]
    pub gone: Vec<i32>,
    /// Why, for the audit
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
}

#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// Every broker: up or not, what it holds, what is to leave it
    #[command(
        visible_alias = "ls",
        after_help = "Example:
  kontiki broker list --output json"
    )]
    List,
    /// Have leaderships leave a broker, before its machine is worked on
    #[command(after_help = DRAIN_HELP)]
    Drain(DrainArgs),
    /// Take a drained or decommissioned broker back
    #[command(
        after_help = "Its leaderships come back by themselves (auto.leader.rebalance.enable). Replicas that a
decommission moved away stay where they are: `kontiki partition rebalance` gives it its share.

Example:
  kontiki broker undrain 3"
    )]
    Undrain(UndrainArgs),
    /// Have everything leave a broker, for good
    #[command(after_help = DECOMMISSION_HELP)]
    Decommission(DrainArgs),
    /// Forget a broker that is gone and holds nothing
    #[command(
        after_help = "A broker that holds replicas is refused: `kontiki broker decommission` makes them anew on
others, also if it is dead. So is one that is alive, as it would register again. After a
decommission the controllers do this by themselves, and remember that the broker is not to come
back: `kontiki broker undrain` makes them forget that, so that another one may have its id.

Example:
  kontiki broker remove 3"
    )]
    Remove(RemoveArgs),
    /// Tell clients another address of a broker, without a restart
    #[command(after_help = ADVERTISE_HELP)]
    Advertise(AdvertiseArgs),
}

const DRAIN_HELP: &str =
    "A drained broker leads nothing and gets no new replicas; it keeps those it has, and they stay in
sync. The controllers see to it until `kontiki broker undrain`, whatever restarts meanwhile. A
partition of which nobody else is in sync keeps its leader.

Examples:
  kontiki broker drain 3            before its machine is restarted
  kontiki broker undrain 3          after that";

const DECOMMISSION_HELP: &str =
    "Every replica of the broker is made anew on another one, by racks and load, a hundred partitions
at a time; no copy is given up before its successor is in sync. When none is left the broker is
unregistered, and may be stopped. It does not register again before `kontiki broker undrain`. A
dead broker may be decommissioned too: nobody waits `replace.grace.ms` for it then. Refused
where the other brokers are too few for a partition's replicas.

Examples:
  kontiki broker decommission 3 --dry-run     whether it may be done, and what would be copied
  kontiki broker decommission 3
  kontiki broker undrain 3                    takes it back; what has moved stays there";

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Broker
    pub broker: i32,
    /// Only check, and say what would leave
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: Wait,
}

const ADVERTISE_HELP: &str =
    "Sets the broker's configuration advertised.listeners, which stands above what it was started with
(--advertise), also after it has restarted, until --reset. Name every listener whose address is to
be another one; a broker whose only listener has no name takes HOST:PORT alone. Clients hear of it
with their next metadata; connections stay. Any broker that answers takes the change, so -B may
name an address that is advertised nowhere: from inside the container, 127.0.0.1.

Examples:
  kontiki broker advertise 1 localhost:32768
  kontiki broker advertise 1 EXTERNAL://localhost:32768 -B 127.0.0.1:9092
  kontiki broker advertise 1 --reset";

#[derive(Debug, Args)]
pub struct AdvertiseArgs {
    /// Broker
    pub broker: i32,
    /// What its listeners advertise from now on
    #[arg(value_name = "[NAME://]HOST:PORT,...", required_unless_present = "reset", value_parser = text::listeners)]
    pub addresses: Option<String>,
    /// Go back to what it was started with
    #[arg(long, conflicts_with = "addresses")]
    pub reset: bool,
}

#[derive(Debug, Args)]
pub struct UndrainArgs {
    /// Broker
    pub broker: i32,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Broker
    pub broker: i32,
}

#[derive(Debug, Subcommand)]
pub enum OpCommand {
    /// Everything that is under way, how far it is, and why it is not done
    #[command(
        visible_alias = "ls",
        after_help = "Example:
  kontiki op list --output json"
    )]
    List,
    /// One of them, partition by partition
    #[command(after_help = "Example:
  kontiki op show decommission:3")]
    Show(OpArgs),
    /// Take back what can be taken back
    #[command(after_help = "move:TOPIC        partitions go back to the replicas they had
decommission:N    the same, and broker N is taken back; what has moved already stays where it is
drain:N           broker N is taken back
replace:N         cannot be: the controllers would plan the same again

Example:
  kontiki op cancel move:orders")]
    Cancel(OpArgs),
    /// Wait until these are done, or all if none is named
    #[command(
        after_help = "Ctrl-C ends the waiting, not what is waited for; the same command waits again. One that is not
under way is done.

Examples:
  kontiki op wait --timeout 10m
  kontiki op wait decommission:3"
    )]
    Wait(OpWaitArgs),
}

pub const OP_HELP: &str =
    "An operation is what is to be and is not yet, whoever asked for it, by whatever tool:
  move:TOPIC        partitions of TOPIC are on their way to other brokers
  decommission:N    everything leaves broker N
  drain:N           leaderships leave broker N
  replace:N         the replicas of broker N, which stays dead, are made anew on others
The cluster carries it out by itself, and remembers it through restarts; one that is done is
listed no more.";

#[derive(Debug, Args)]
pub struct OpArgs {
    /// As `kontiki op list` names it
    pub operation: String,
}

#[derive(Debug, Args)]
pub struct OpWaitArgs {
    /// As `kontiki op list` names them; all if not given
    pub operations: Vec<String>,
    /// How long to wait, as long as it takes if not given
    #[arg(long, value_parser = text::duration, value_name = "DURATION")]
    pub timeout: Option<Duration>,
}
