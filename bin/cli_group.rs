//! Commands and flags of consumer groups. As `cli`, no behaviour.

use crate::complete;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Every consumer group
    #[command(
        alias = "ls",
        after_help = "Example:
  kontiki group list"
    )]
    List,
    /// State and members of groups, what they have committed, how far behind they are
    #[command(alias = "info", after_help = DESCRIBE_HELP)]
    Describe(DescribeArgs),
    /// Set what a group without members has committed
    #[command(after_help = SEEK_HELP)]
    Seek(SeekArgs),
    /// Delete groups without members, and what they have committed
    #[command(after_help = "Example:
  kontiki group delete billing reports")]
    Delete(DeleteArgs),
}

const DESCRIBE_HELP: &str =
    "LAG counts the records between CURRENT-OFFSET, which the group has committed, and the partition's
END-OFFSET; `-` where nothing is committed.

Examples:
  kontiki group describe billing
  kontiki group describe billing reports --only-with-lag
  kontiki group describe billing --output json";

#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// Groups
    #[arg(required = true, value_name = "GROUP", add = complete::groups())]
    pub groups: Vec<String>,
    /// Leave out partitions that are read to the end
    #[arg(long)]
    pub only_with_lag: bool,
}

const SEEK_HELP: &str =
    "A group with members is refused: they would go on from where they are. Places are those of
`kontiki consume -o`, and are kept within what a partition holds.

Examples:
  kontiki group seek billing --to start --dry-run       what would be set, nothing else
  kontiki group seek billing --to @-1h --topics orders  an hour back
  kontiki group seek billing --to end
  kontiki group seek new --to start --topics orders     before its first member starts";

#[derive(Debug, Args)]
pub struct SeekArgs {
    /// Group
    #[arg(add = complete::groups())]
    pub group: String,
    /// Where to: start, end, N, +N, -N, @TIME, @-1h
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    pub to: String,
    /// Topics; those that the group has committed in if not given
    #[arg(long, value_delimiter = ',', value_name = "TOPIC", add = complete::topics())]
    pub topics: Vec<String>,
    /// Show what would be set and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Groups
    #[arg(required = true, value_name = "GROUP", add = complete::groups())]
    pub groups: Vec<String>,
}
