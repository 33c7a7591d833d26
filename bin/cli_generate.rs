//! Flags of `kontiki generate`. As `cli`, no behaviour.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum GenerateCommand {
    /// Completion for a shell, of topics and groups too
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Man pages
    #[command(after_help = "Examples:
  kontiki generate man | man -l -                         the first page
  kontiki generate man -d /usr/local/share/man/man1       one for each command")]
    Man(ManArgs),
    /// A unit for systemd
    #[command(after_help = SYSTEMD_HELP)]
    Systemd(SystemdArgs),
    /// A dashboard for Grafana, over /metrics as Prometheus scrapes it
    #[command(after_help = "Example:
  kontiki generate grafana > kontiki.json     then: Dashboards, New, Import")]
    Grafana,
}

const COMPLETIONS_HELP: &str =
    "The shell asks this binary: for commands and flags, and for the names of topics and groups, which it looks up in the cluster
of -B or KONTIKI_BROKERS and gives up after 300 ms. Made anew at each start of the shell, it fits the binary that is installed.

Examples:
  echo 'source <(kontiki generate completions bash)' >> ~/.bashrc
  echo 'source <(kontiki generate completions zsh)' >> ~/.zshrc
  echo 'kontiki generate completions fish | source' >> ~/.config/fish/config.fish";

const SYSTEMD_HELP: &str = "Examples:
  useradd --system --no-create-home kontiki
  kontiki generate systemd > /etc/systemd/system/kontiki.service
  mkdir -p /etc/kontiki && kontiki config default > /etc/kontiki/kontiki.toml     and edit that
  systemctl daemon-reload && systemctl enable --now kontiki";

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write one page per command here; kontiki(1) to stdout if not given
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct SystemdArgs {
    /// The binary to start; this one if not given
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}
