//! `kontiki controller recover|recoveries`: the controllers' own group when it lost its quorum for good.
//!
//! Works on directories of stopped nodes, not on a cluster: shows what they prove, and with `--execute` carries out the plan that was
//! approved by its number. What they prove and what is written is the library's to say (`broker::offline`).

use crate::cli::RecoveriesArgs;
use crate::cli_operate::{ControllerCommand, ControllerRecoverArgs};
use crate::output::{Failure, Item, Outcome, Ui, list, pairs, table};
use crate::recover;
use kontiki::broker::offline::{
    self, Configuration, Done, Gathered, Loss, NodeId, Seen, Standing, Trouble, Verdict, gather,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the command.
pub async fn run(command: ControllerCommand, ui: &Ui) -> Outcome {
    match command {
        ControllerCommand::Recover(args) => recover(&args, ui),
        ControllerCommand::Recoveries(args) => recoveries(&args, ui).await,
    }
}

fn recover(args: &ControllerRecoverArgs, ui: &Ui) -> Outcome {
    let dirs: Vec<PathBuf> = std::iter::once(&args.data_dir).chain(&args.with).cloned().collect();
    let gathered = gather(&dirs).map_err(|trouble| failure(&trouble))?;
    if args.accept_loss {
        return recover_with_loss(gathered, args, ui);
    }
    if !args.execute {
        show(&gathered, args, ui)?;
        return Ok(ExitCode::SUCCESS);
    }
    if gathered.judged.verdict == Verdict::Alone {
        // Done before, or never needed: the same command again is no failure.
        let node = gathered.best().map(|seen| seen.node).unwrap_or_default();
        return finish(json!({ "survivor": node, "changed": false }), &gathered.why_not(), ui);
    }
    let now = jiff::Timestamp::now().as_millisecond();
    if !ui.is_json() {
        show(&gathered, args, ui)?;
    }
    let why_not = hint(&gathered);
    let approved = args.plan.as_deref().unwrap_or_default();
    let done = gathered.execute(approved, args.heir_gone, &args.reason, now);
    let done = done.map_err(|trouble| match trouble {
        Trouble::Refused(_) => failure(&trouble).with_hint(why_not),
        trouble => failure(&trouble),
    })?;
    tell(done, false, ui)
}

fn tell(done: Done, with_loss: bool, ui: &Ui) -> Outcome {
    let Done { survivor, dir, from, generation, base, ended } = done;
    // With a loss brokers are among them, whose disks hold more than the controllers' log.
    let or_empty = if with_loss { "" } else { ", or an empty disk" };
    let sealed: String = ended
        .iter()
        .map(|(node, dir)| format!("\n    node {node} with {}{or_empty}", dir.display()))
        .collect();
    let others = match with_loss {
        true => "nodes that are gone, should they come back: with empty disks, never with their own",
        false => "every other controller with an empty disk, or with its own if it was not given here",
    };
    let said = format!(
        "done: generation {from} of the controllers ended at entry {}, generation {generation} begins with node {survivor} as its only voter\n  \
         next: start node {survivor} with this very directory, {}, then the others:{sealed}\n    {others}\n  never again: any other copy of these directories; it was not ended, and would go on beside them",
        base.index,
        dir.display()
    );
    let item = json!({ "done": true, "changed": true, "survivor": survivor, "directory": dir, "from": from.0,
        "generation": generation.0, "base": base,
        "ended": ended.iter().map(|(node, dir)| json!({ "node": node, "directory": dir })).collect::<Vec<_>>() });
    finish(item, &said, ui)
}

/// The same where it is not proven that nothing is lost.
fn recover_with_loss(gathered: Gathered, args: &ControllerRecoverArgs, ui: &Ui) -> Outcome {
    let gone: Vec<NodeId> = args.gone.iter().copied().map(NodeId).collect();
    if gathered.judged.verdict == Verdict::Alone && args.execute {
        let node = gathered.best().map(|seen| seen.node).unwrap_or_default();
        return finish(json!({ "survivor": node, "changed": false }), &gathered.why_not(), ui);
    }
    let accepted = gathered.accept(&gone);
    if !ui.is_json() || (accepted.is_ok() && !args.execute) {
        show_loss(&gathered, accepted.as_ref().ok(), args, ui)?;
    }
    let hint = "give the directories of all nodes that are to go on (--with), and name those that are gone for good (--gone)";
    let refused = |trouble: Trouble| match trouble {
        Trouble::Refused(_) => Failure::new("LOSS_NOT_ACCEPTED", trouble.to_string()).with_hint(hint),
        trouble => failure(&trouble),
    };
    accepted.map_err(refused)?;
    if !args.execute {
        return Ok(ExitCode::SUCCESS);
    }
    let now = jiff::Timestamp::now().as_millisecond();
    let approved = args.plan.as_deref().unwrap_or_default();
    tell(gathered.execute_with_loss(approved, &gone, &args.reason, now).map_err(refused)?, true, ui)
}

/// Risks that are printed; --output json has all of them.
const RISKS: usize = 20;

fn show_loss(
    gathered: &Gathered,
    loss: Option<&Loss>,
    args: &ControllerRecoverArgs,
    ui: &Ui,
) -> Result<(), Failure> {
    if ui.is_json() {
        let mut item = json(gathered);
        item["accepted"] = loss.map_or(Value::Null, loss_json);
        return ui.json_items(vec![item]);
    }
    show_copies(gathered, ui)?;
    ui.out(&pairs(&verdict(gathered)))?;
    let Some(loss) = loss else { return Ok(()) };
    let gone: Vec<String> =
        loss.lost.iter().map(|disk| format!("node {}, directory {}", disk.node, disk.directory)).collect();
    let taken = match loss.takes_from() {
        Some(first) => {
            format!("; node {} takes entries {first} to {} over from there", loss.survivor, loss.base.0.index)
        }
        None => String::new(),
    };
    ui.out(&pairs(&[
        ("GOES-ON", format!("node {}, in generation {}", loss.survivor, loss.generation)),
        ("ENDS", format!("at entry {}, by node {}'s copy{taken}", loss.base.0.index, loss.base.1)),
        ("GONE", format!("{}: never again with these disks", gone.join("; "))),
        (
            "PARTITIONS",
            format!(
                "{}; {} with replicas on disks that are gone. Those that find no leader wait for `kontiki partition recover`",
                loss.partitions,
                loss.risks.len()
            ),
        ),
    ]))?;
    for risk in loss.risks.iter().take(RISKS) {
        ui.out(&format!(
            "  {}: {} of {} replicas gone, on nodes {}\n",
            risk.partition,
            risk.lost.len(),
            risk.replicas,
            list(&risk.lost)
        ))?;
    }
    if loss.risks.len() > RISKS {
        ui.out(&format!("  and {} more (--output json names all)\n", loss.risks.len() - RISKS))?;
    }
    ui.out(&format!("plan {}\n", loss.plan()))?;
    if !args.execute {
        let with: String = args.with.iter().map(|dir| format!(" --with {}", dir.display())).collect();
        let gone: String = args.gone.iter().map(|node| format!(" --gone {node}")).collect();
        ui.note(&format!(
            "Nothing was changed.\n  try: kontiki controller recover --data-dir {}{with} --accept-loss{gone} --execute --plan {} --reason '...'",
            args.data_dir.display(),
            loss.plan()
        ));
    }
    Ok(())
}

fn loss_json(loss: &Loss) -> Value {
    let risks = loss
        .risks
        .iter()
        .map(|risk| json!({ "partition": risk.partition, "lost": risk.lost, "replicas": risk.replicas }));
    json!({ "plan": loss.plan(), "survivor": loss.survivor, "generation": loss.generation, "base": loss.base.0, "base_of": loss.base.1,
        "takes_from": loss.takes_from(), "partitions": loss.partitions, "at_risk": risks.collect::<Vec<_>>(),
        "lost": loss.lost.iter().map(|disk| json!({ "node": disk.node, "directory": disk.directory.to_string() })).collect::<Vec<_>>() })
}

fn finish(item: Value, said: &str, ui: &Ui) -> Outcome {
    if ui.is_json() {
        ui.json_items(vec![item])?;
    } else {
        ui.out(&format!("{said}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn failure(trouble: &Trouble) -> Failure {
    let (code, hint) = match trouble {
        Trouble::Directory(_) => {
            ("DIRECTORY", "stop the node first; leave out directories that cannot be used")
        }
        Trouble::NoCopy(_) => ("NO_COPY", "leave it out: a new or wiped node's directory proves nothing"),
        Trouble::Clusters(..) => ("TWO_CLUSTERS", "leave the directories of the other cluster out"),
        Trouble::Same(..) => ("SAME_DIRECTORY", "give it once"),
        Trouble::Twice(..) => ("SAME_COPY", "give the one that was used last"),
        Trouble::Drifted { .. } => {
            ("PLAN_DRIFTED", "without --execute, the plan is shown; look at it before you approve it")
        }
        Trouble::Refused(_) => ("NOT_PROVEN", "without --execute, what the directories prove is shown"),
        Trouble::Failed { .. } => ("FAILED", "the same command goes on from where it stopped"),
    };
    Failure::new(code, trouble.to_string()).with_hint(hint)
}

fn stands(standing: Standing) -> &'static str {
    match standing {
        Standing::Best => "best",
        Standing::Counts => "counts",
        Standing::Sealed => "sealed",
        Standing::Unsound => "unsound",
        Standing::Ended => "stray",
        Standing::NeverJoined => "never-joined",
        Standing::Removed => "removed",
        Standing::Observer => "observer",
    }
}

fn why(seen: &Seen, standing: Standing) -> String {
    match standing {
        Standing::Sealed => "another plan ended it; it proves nothing. If that plan was never finished, its disk is to be emptied".into(),
        Standing::Unsound => offline::unsound(&seen.held).unwrap_or_default(),
        Standing::Ended => "its generation ended: another copy is of a later one".into(),
        Standing::NeverJoined => "it has heard of its generation and holds nothing of it".into(),
        Standing::Removed => "it was taken out of the group; it proves nothing and cannot go on".into(),
        Standing::Observer => "a broker's copy: it proves nothing and cannot go on".into(),
        Standing::Best | Standing::Counts => String::new(),
    }
}

fn time(ms: Option<i64>) -> String {
    let at = ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms / 1_000 * 1_000).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}

/// What the directories prove.
fn show(gathered: &Gathered, args: &ControllerRecoverArgs, ui: &Ui) -> Result<(), Failure> {
    if ui.is_json() {
        return ui.json_items(vec![json(gathered)]);
    }
    show_copies(gathered, ui)?;
    ui.out(&pairs(&verdict(gathered)))?;
    let Some(plan) = gathered.plan() else { return Ok(()) };
    ui.out(&format!("plan {plan}\n"))?;
    if !args.execute {
        let with: String = args.with.iter().map(|dir| format!(" --with {}", dir.display())).collect();
        let word = if gathered.judged.verdict == Verdict::UnlessHeir { " --heir-gone" } else { "" };
        ui.note(&format!(
            "Nothing was changed.\n  try: kontiki controller recover --data-dir {}{with} --execute --plan {plan}{word} --reason '...'",
            args.data_dir.display()
        ));
    }
    Ok(())
}

/// The copies, and what is to be said of each.
fn show_copies(gathered: &Gathered, ui: &Ui) -> Result<(), Failure> {
    let standings = || gathered.copies.iter().zip(gathered.judged.standings.iter().copied());
    let rows: Vec<Vec<String>> = standings().map(|(seen, standing)| row(seen, standing)).collect();
    ui.out(&table(&HEADERS, &rows))?;
    for (seen, standing) in standings() {
        let why = why(seen, standing);
        let whys = Some(why).filter(|why| !why.is_empty()).into_iter().chain(seen.notes.iter().cloned());
        whys.into_iter().try_for_each(|why| ui.out(&format!("node {}: {why}\n", seen.node)))?;
    }
    Ok(())
}

const HEADERS: [&str; 11] = [
    "NODE",
    "STANDS",
    "GENERATION",
    "TERM",
    "LAST",
    "VOTERS",
    "HEIR",
    "SEALED",
    "WRITTEN",
    "REPLICA",
    "DIRECTORY",
];

fn row(seen: &Seen, standing: Standing) -> Vec<String> {
    let report = &seen.held.report;
    vec![
        seen.node.to_string(),
        stands(standing).to_owned(),
        report.generation.to_string(),
        report.last.epoch.term.to_string(),
        report.last.index.to_string(),
        voters(&report.configuration),
        heir(&report.configuration).map(|heir| heir.to_string()).unwrap_or_default(),
        seen.held.hard.sealed.map(|plan| format!("{plan:x}")).unwrap_or_default(),
        time(seen.written_ms),
        report.replica.to_string(),
        seen.dir.display().to_string(),
    ]
}

/// Nodes that vote; in the middle of a change of both halves.
fn voters(configuration: &Configuration) -> String {
    let half = |voters| list(&offline::nodes(voters));
    match configuration.is_joint() {
        true => format!("{}>{}", half(&configuration.old_voters), half(&configuration.voters)),
        false => half(&configuration.voters),
    }
}

fn heir(configuration: &Configuration) -> Option<i32> {
    offline::heir_of(&configuration.voters).map(|heir| heir.node.0)
}

fn verdict(gathered: &Gathered) -> Vec<(&'static str, String)> {
    let judged = &gathered.judged;
    let mut rows = vec![("CLUSTER", gathered.cluster().unwrap_or_default().to_owned())];
    if let Some(best) = gathered.best() {
        let (report, configuration) = (&best.held.report, &best.held.report.configuration);
        rows.push(("SURVIVOR", format!("node {}, up to entry {}", best.node, report.last.index)));
        let heir = heir(configuration).map(|heir| format!(", heir {heir}")).unwrap_or_default();
        let by = report.configuration_id.index;
        rows.push(("VOTERS", format!("{}{heir}, by entry {by}", voters(configuration))));
        rows.push(("MISSING", list(&offline::nodes(&judged.missing))));
        let is_only = gathered.copies.iter().filter(|seen| seen.held.report.sound).count() == 1;
        match judged.alone_from {
            Some(_) if is_only => rows.push((
                "ALONE",
                "no other copy is sound: which of its last entries were committed nobody here knows; all of them would count"
                    .into(),
            )),
            Some(first) => rows.push((
                "ALONE",
                format!(
                    "entries {first} to {} are in this copy only: whether they were committed nobody here knows; they would count",
                    report.last.index
                ),
            )),
            None => {}
        }
    }
    rows.push(("LOSS", loss(gathered)));
    if judged.is_quorum && !matches!(judged.verdict, Verdict::Alone) {
        rows.push(("NOTE", "starting the nodes of these copies is enough, if they can be started".into()));
    }
    rows
}

fn loss(gathered: &Gathered) -> String {
    match gathered.judged.verdict {
        Verdict::Empty => "provably empty: nothing that was ever committed is missing here".into(),
        Verdict::UnlessHeir => format!("empty, unless: {}", gathered.why_not()),
        _ => gathered.why_not(),
    }
}

/// What an operator can do about a plan that may not be carried out.
fn hint(gathered: &Gathered) -> String {
    let heirs = list(&offline::nodes(&gathered.judged.heirs));
    match gathered.judged.verdict {
        Verdict::UnlessHeir => format!(
            "bring its directory (--with), or give your word that node {heirs} never went on alone and never comes back (--heir-gone)"
        ),
        Verdict::Ended { .. } => {
            "the directories that were given when the plan was begun, no more and no fewer".into()
        }
        Verdict::Nothing => "bring directories of nodes that were controllers (--with)".into(),
        _ => format!(
            "bring the directories of nodes {} (--with); if they are gone for good, --accept-loss goes on without",
            list(&offline::nodes(&gathered.judged.missing))
        ),
    }
}

fn json(gathered: &Gathered) -> Value {
    let judged = &gathered.judged;
    let copies = gathered.copies.iter().zip(&judged.standings).map(|(seen, standing)| {
        let report = &seen.held.report;
        json!({ "node": seen.node, "directory": seen.dir, "replica": report.replica.to_string(), "stands": stands(*standing),
            "why": why(seen, *standing), "generation": report.generation, "last": report.last,
            "highest_term": report.highest_term, "voters": offline::nodes(&report.configuration.voters),
            "old_voters": offline::nodes(&report.configuration.old_voters), "heir": heir(&report.configuration),
            "configuration": report.configuration_id, "sound": report.sound, "written": time(seen.written_ms), "notes": seen.notes,
            "sealed": seen.held.hard.sealed.map(|plan| format!("{plan:x}")) })
    });
    let configuration = gathered.best().map(|best| &best.held.report.configuration);
    let verdict = match judged.verdict {
        Verdict::Nothing => "nothing",
        Verdict::Alone => "alone",
        Verdict::Ended { .. } => "ended",
        Verdict::Empty => "empty",
        Verdict::UnlessHeir => "unless_heir",
        Verdict::Open => "open",
    };
    json!({ "cluster": gathered.cluster(), "copies": copies.collect::<Vec<_>>(), "from": judged.from,
        "survivor": gathered.best().map(|best| best.node),
        "voters": configuration.map(|c| offline::nodes(&c.voters)), "old_voters": configuration.map(|c| offline::nodes(&c.old_voters)),
        "heir": configuration.and_then(heir),
        "missing": offline::nodes(&judged.missing), "heirs_missing": offline::nodes(&judged.heirs),
        "alone_from": judged.alone_from, "verdict": verdict, "provably_empty": judged.verdict == Verdict::Empty,
        "is_quorum": judged.is_quorum, "loss": loss(gathered), "plan": gathered.plan() })
}

const ROW: [&str; 8] =
    ["RECOVERY", "SURVIVOR", "FROM", "GENERATION", "MISSING", "HEIRS-GONE", "GIVEN-UP", "APPROVED"];

async fn recoveries(args: &RecoveriesArgs, ui: &Ui) -> Outcome {
    let all = recover::expect(&args.admin, "/recoveries", None).await?;
    let row = |recovery: &Value| {
        let text = |key: &str| recovery[key].to_string();
        let numbers = |key: &str| {
            list(&recovery[key].as_array().into_iter().flatten().map(Value::to_string).collect::<Vec<_>>())
        };
        let cells = vec![
            recovery["id"].as_str().unwrap_or_default().to_owned(),
            text("survivor"),
            text("from"),
            text("generation"),
            numbers("missing"),
            numbers("heirs_gone"),
            list(
                &recovery["lost"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|disk| disk["node"].to_string())
                    .collect::<Vec<_>>(),
            ),
            time(recovery["at_ms"].as_i64()),
        ];
        Item::ok(cells, recovery.clone())
    };
    ui.results(&ROW, all["controllers"].as_array().into_iter().flatten().map(row).collect())
}
