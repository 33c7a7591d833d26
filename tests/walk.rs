//! The rehearsal of docs/operations.md, done: every command of its `console` blocks in one shell, against real processes, and what it
//! prints compared with what the page says. `UPDATE_DOCS=1 cargo test --release --test walk` writes the page's outputs anew.
//!
//! Not a test of load or faults (tests/cluster): of what an operator reads. Runs in network and process namespaces of its own, so the
//! page's ports are free and nothing is left behind; that takes root and util-linux (tests/cluster/chaos/install.sh).
//! What may differ from run to run is compared by kind only: numbers with a unit, times, ids of clusters and numbers of plans; a
//! plan's number that a later command repeats is the one this run was given. Commands that only look are
//! repeated for a while until they show what the page says: the cluster needs its time.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
const HEADING: &str = "## A rehearsal";
/// For one command, of which some wait for a minute by themselves.
const PATIENCE: Duration = Duration::from_secs(120);
/// For what the cluster does by itself until a look shows it.
const SETTLING: Duration = Duration::from_secs(90);
/// As much, where nobody knows yet what it will show.
const SETTLED: Duration = Duration::from_secs(15);
/// They change nothing, so they may be asked again.
const LOOKS: &[&str] = &[
    "kontiki cluster health",
    "kontiki topic describe",
    "kontiki broker list",
    "kontiki op list",
    "kontiki partition recover orders --dry-run",
    "kontiki partition recoveries",
    "kontiki controller recoveries",
];

/// One command of the page, and what it is said to print.
struct Step {
    command: String,
    /// Line number of its beginning.
    at: usize,
    /// Line numbers of its output.
    output: std::ops::Range<usize>,
}

/// The commands of the `console` blocks below the heading. `$ ` begins one, `> ` goes on with it.
fn steps(lines: &[&str]) -> Vec<Step> {
    let begin = lines.iter().position(|line| *line == HEADING).expect("the page has the heading");
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut is_open) = (false, false);
    for (at, line) in lines.iter().enumerate().skip(begin + 1) {
        if !inside && line.starts_with("## ") {
            break;
        }
        if line.starts_with("```") {
            inside = *line == "```console";
            is_open = false;
        } else if inside && let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), at, output: at + 1..at + 1 });
            is_open = true;
        } else if inside {
            assert!(is_open, "line {}: a block begins with a command", at + 1);
            let step = steps.last_mut().expect("a block begins with a command");
            match line.strip_prefix("> ") {
                Some(more) if step.output.is_empty() => {
                    step.command = format!("{}\n{more}", step.command);
                    step.output = at + 1..at + 1;
                }
                _ => step.output.end = at + 1,
            }
        }
    }
    steps
}

/// A shell, and what it prints.
struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    count: usize,
}

impl Shell {
    fn new(dir: &Path) -> Self {
        let bin = Path::new(env!("CARGO_BIN_EXE_kontiki")).parent().expect("a folder");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--pid", "--mount", "--fork"]);
        command.args(["--kill-child", "--mount-proc", "--", "bash", "--noprofile", "--norc"]);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KONTIKI_"))
        {
            command.env_remove(name);
        }
        command.env("PATH", path).env("NO_COLOR", "1").current_dir(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("setpriv and unshare, from util-linux");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = sync_channel(1_000);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut shell = Self { child, input, lines, count: 0 };
        assert_eq!(shell.run("ip link set lo up && echo up"), ["up"], "network namespaces take root");
        shell
    }

    /// What a command prints on both outputs.
    fn run(&mut self, command: &str) -> Vec<String> {
        self.count += 1;
        let mark = format!("--- done {} ---", self.count);
        // `set +m` is bash's default here: jobs that are killed are not announced in between.
        write!(self.input, "{{ {command}\n}} </dev/null 2>&1\nprintf '\\n%s\\n' '{mark}'\n")
            .expect("bash lives");
        self.input.flush().expect("bash lives");
        let (begun, mut output) = (Instant::now(), Vec::new());
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) if line == mark => break,
                Ok(line) => output.push(line),
                Err(e) => panic!("{command}: {e} after {:?}:\n{}", begun.elapsed(), output.join("\n")),
            }
        }
        while output.last().is_some_and(String::is_empty) {
            output.pop();
        }
        output
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether two words are the same, or of the same kind where that differs from run to run. With the words around the first one.
fn is_alike(words: &[&str], at: usize, seen: &str, plans: &mut BTreeMap<String, String>) -> bool {
    let said = words[at];
    let is_plan = |word: &str| word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
    if is_plan(said) && is_plan(seen) {
        return plans.entry(said.to_owned()).or_insert_with(|| seen.to_owned()) == seen;
    }
    let is_time = |word: &str| word.len() >= 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let is_id = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let is_cluster = |word: &str| word.len() == 22 && word.bytes().all(is_id);
    let is_size = |word: &str| ["B", "KiB", "MiB"].contains(&word.trim_end_matches([',', '.']));
    let is_unit = |word: &str| is_size(word) || ["s", "ms"].contains(&word);
    let is_partition =
        |word: &str| word.rsplit_once('-').is_some_and(|(_, number)| number.parse::<u32>().is_ok());
    let is_number = |word: &str| word.parse::<f64>().is_ok();
    let before = at.checked_sub(1).map_or("", |before| words[before]);
    // Of a recovery, its number, that is its entry in the controller log, comes before the partition.
    let varies = words.get(at + 1).is_some_and(|next| is_unit(next) || (at == 0 && is_partition(next)))
        || ["entry", "term"].contains(&before);
    said == seen
        || (is_time(said) && is_time(seen))
        || (is_cluster(said) && is_cluster(seen))
        || (is_size(said) && is_size(seen))
        || (varies && is_number(said) && is_number(seen))
}

fn line_is_alike(said: &str, seen: &str, plans: &mut BTreeMap<String, String>) -> bool {
    let said: Vec<&str> = said.split_whitespace().collect();
    let seen: Vec<&str> = seen.split_whitespace().collect();
    said.len() == seen.len() && (0..said.len()).all(|at| is_alike(&said, at, seen[at], plans))
}

fn is_output_alike(said: &[&str], seen: &[String], plans: &mut BTreeMap<String, String>) -> bool {
    said.len() == seen.len() && said.iter().zip(seen).all(|(said, seen)| line_is_alike(said, seen, plans))
}

#[test]
fn rehearsal_of_the_operations_page_goes_as_it_says() {
    let text = std::fs::read_to_string(PAGE).expect("the page");
    let lines: Vec<&str> = text.lines().collect();
    let dir = tempfile::tempdir().expect("a folder");
    let mut shell = Shell::new(dir.path());
    let all = steps(&lines);
    assert!(all.len() >= 40, "{} commands are no rehearsal", all.len());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return update(&lines, &all, &mut shell);
    }
    let mut plans = BTreeMap::new();
    for step in &all {
        let said = &lines[step.output.clone()];
        let command = plans
            .iter()
            .fold(step.command.clone(), |text, (said, seen): (&String, &String)| text.replace(said, seen));
        let is_look = LOOKS.iter().any(|look| command.contains(look));
        let begun = Instant::now();
        loop {
            let seen = shell.run(&command);
            let is_right = is_output_alike(said, &seen, &mut plans);
            let is_late = !is_look || begun.elapsed() > SETTLING;
            if is_right || is_late {
                eprintln!("$ {command}   ({:.1} s)\n{}", begun.elapsed().as_secs_f64(), seen.join("\n"));
                assert!(is_right, "the page says:\n{}", said.join("\n"));
                break;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// Writes the page anew with what the commands print now; read the difference before it is committed.
fn update(lines: &[&str], all: &[Step], shell: &mut Shell) {
    let mut page: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let (mut plan, mut outputs): (Option<String>, _) = (None, Vec::new());
    for step in all {
        let mut command = step.command.clone();
        if let (Some(plan), Some(at)) = (&plan, command.find("--plan ")) {
            command.replace_range(at + 7..at + 23, plan);
            page[step.at] = format!("$ {command}");
        }
        if LOOKS.iter().any(|look| command.contains(look)) {
            std::thread::sleep(SETTLED);
        }
        let seen = shell.run(&command);
        eprintln!("$ {command}\n{}", seen.join("\n"));
        plan = seen.iter().find_map(|line| line.strip_prefix("plan ")).map(str::to_owned).or(plan);
        outputs.push(seen);
    }
    for (step, seen) in all.iter().zip(outputs).rev() {
        page.splice(step.output.clone(), seen);
    }
    std::fs::write(PAGE, page.join("\n") + "\n").expect("the page");
}
