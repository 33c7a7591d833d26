//! `kontiki generate completions|man|systemd|grafana`: what belongs around an installed binary, made from what it is.
//!
//! | file | what it holds |
//! |---|---|
//! | here | completions, man pages, the unit |
//! | `grafana` | the dashboard |
//!
//! Not here: answering a shell that completes (`complete`).

mod grafana;

use crate::cli::Cli;
use crate::cli_generate::{CompletionsArgs, GenerateCommand, ManArgs, Shell, SystemdArgs};
use crate::complete;
use crate::output::{Failure, Outcome, Ui};
use clap::CommandFactory;
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh};
use std::process::ExitCode;

/// Runs the command.
pub fn run(command: GenerateCommand, ui: &Ui) -> Outcome {
    match command {
        GenerateCommand::Completions(args) => completions(&args, ui),
        GenerateCommand::Man(args) => man(&args, ui),
        GenerateCommand::Systemd(args) => systemd(&args, ui),
        GenerateCommand::Grafana => {
            ui.out(&format!("{:#}\n", grafana::dashboard()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn completions(args: &CompletionsArgs, ui: &Ui) -> Outcome {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Elvish => &Elvish,
        Shell::Fish => &Fish,
        Shell::Powershell => &Powershell,
        Shell::Zsh => &Zsh,
    };
    let mut script = Vec::new();
    shell.write_registration(complete::VARIABLE, "kontiki", "kontiki", "kontiki", &mut script)?;
    ui.out(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

fn man(args: &ManArgs, ui: &Ui) -> Outcome {
    match &args.dir {
        None => {
            let mut page = Vec::new();
            // No page is written for `help`.
            clap_mangen::Man::new(Cli::command().disable_help_subcommand(true)).render(&mut page)?;
            ui.out(&String::from_utf8_lossy(&page))?;
        }
        Some(dir) => {
            let failed = |e| Failure::new("IO", format!("man pages in {}: {e}", dir.display()));
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn systemd(args: &SystemdArgs, ui: &Ui) -> Outcome {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?,
    };
    // ProtectHome hides these.
    let homes = ["/home", "/root", "/run/user"];
    if homes.iter().any(|home| binary.starts_with(home)) {
        let text = format!("the unit could not start {}: it sees no home directories", binary.display());
        return Err(Failure::usage(text).with_hint("--binary names another one, say /usr/local/bin/kontiki"));
    }
    // systemd takes `%` for its own and splits at blanks.
    let binary = binary.to_string_lossy().replace('%', "%%");
    let binary = if binary.contains(' ') { format!("\"{binary}\"") } else { binary };
    ui.out(&UNIT.replace("{binary}", &binary))?;
    Ok(ExitCode::SUCCESS)
}

/// Longer than `shutdown-timeout-ms` (30 s), so that leadership can be handed over.
const UNIT: &str = "\
# One node of Kontiki. Its settings: /etc/kontiki/kontiki.toml (`kontiki config default` prints one with every key).
# What stands on the command line below (--data-dir, --ports-file) beats that file. It runs as user kontiki: useradd --system --no-create-home kontiki
[Unit]
Description=Kontiki, a Kafka-compatible log broker
Documentation=man:kontiki(1)
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User=kontiki
Group=kontiki
StateDirectory=kontiki
StateDirectoryMode=0750
RuntimeDirectory=kontiki
ExecStart={binary} start --config /etc/kontiki/kontiki.toml --data-dir /var/lib/kontiki --ports-file /run/kontiki/ports.json
Restart=on-failure
RestartSec=2s
# Leadership is handed over first: shutdown-timeout-ms is 30 s.
TimeoutStopSec=60s
LimitNOFILE=1048576
UMask=0027
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use clap::Parser;

    #[test]
    fn unit_starts_a_node_as_the_command_line_allows_and_waits_for_its_end() {
        let line =
            UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Start(args) = cli.command else { panic!("{line}") };
        assert_eq!(args.node.data_dir.as_deref(), Some("/var/lib/kontiki"));
        let stop = UNIT.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).expect("a limit");
        let shutdown = crate::config::keys::find("shutdown-timeout-ms").unwrap().default.unwrap();
        let shutdown: u64 = shutdown.parse().unwrap();
        assert!(stop.trim_end_matches('s').parse::<u64>().unwrap() * 1000 > shutdown + 10_000);
    }
}
