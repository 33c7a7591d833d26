//! `kontiki partition recover|recoveries`: partitions that lost their majority at once.
//!
//! Shows the plan, has exactly that plan approved, waits for its end. What a plan is and whether it still holds is the cluster's to say
//! (`POST /recovery/...` of any node's admin address); this command remembers nothing, so it may be repeated at any time.

use crate::cli::{RecoverArgs, RecoveriesArgs};
use crate::http;
use crate::output::{Failure, Item, Outcome, Ui};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// One answer; the node looks for a controller leader meanwhile.
const ANSWER: Duration = Duration::from_secs(25);
const AGAIN: Duration = Duration::from_millis(300);

/// Asks one node after the other until one answers.
async fn ask(admin: &[String], path: &str, body: Option<&Value>) -> Result<(u16, Value), Failure> {
    let mut failure = Failure::usage("no admin address given");
    for address in admin {
        let asked = match body {
            Some(body) => http::post(address, path, body, ANSWER).await,
            None => http::request("GET", address, path, ANSWER).await,
        };
        match asked {
            // No controller leads as far as that node knows: another one may know better.
            Ok((503, text)) => failure = refused(&parse(&text)),
            Ok((status, text)) => return Ok((status, parse(&text))),
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!({ "error": "HTTP", "message": text.trim() }))
}

fn refused(body: &Value) -> Failure {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    Failure::new(&text("error"), text("message"))
}

/// The answer, if it is one.
pub async fn expect(admin: &[String], path: &str, body: Option<&Value>) -> Result<Value, Failure> {
    match ask(admin, path, body).await? {
        (200, body) => Ok(body),
        (_, body) => Err(refused(&body)),
    }
}

/// `kontiki partition recover`.
pub async fn recover(args: &RecoverArgs, ui: &Ui) -> Outcome {
    let mut request = json!({ "topic": args.topic, "partitions": args.partitions });
    let report = expect(&args.admin, "/recovery/report", Some(&request)).await?;
    let empty = Vec::new();
    let partitions = report["partitions"].as_array().unwrap_or(&empty);
    let under_way: Vec<String> = partitions
        .iter()
        .filter(|p| p["standing"]["state"] == "under_way")
        .filter_map(|p| p["standing"]["id"].as_str().map(str::to_owned))
        .collect();
    // What the controllers approved themselves goes on without anybody: nobody is asked for it, but may approve it too.
    let is_asked = |p: &Value| p["standing"]["state"] == "recoverable" || args.plan.is_some() || args.yes;
    let plan = report["plan"].as_str().filter(|_| args.dry_run || partitions.iter().any(is_asked));
    if args.dry_run || (plan.is_none() && under_way.is_empty()) {
        show(&report, ui)?;
        if let (Some(plan), false) = (plan, ui.is_json()) {
            let topic = args.topic.as_deref().map_or(String::new(), |topic| format!(" {topic}"));
            let list: Vec<String> = args.partitions.iter().map(i32::to_string).collect();
            let only = if list.is_empty() { String::new() } else { format!(" -p {}", list.join(",")) };
            ui.note(&format!(
                "Nothing was changed.\n  try: kontiki partition recover{topic}{only} --plan {plan}"
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut ids = under_way;
    if let Some(plan) = plan {
        if !ui.is_json() {
            show(&report, ui)?;
        }
        let approved = approval(args, plan, ui)?;
        request["plan"] = json!(approved);
        request["reason"] = json!(args.reason);
        expect(&args.admin, "/recovery/approve", Some(&request)).await?;
        ids.push(approved);
    } else {
        if let Some(given) = args.plan.as_ref().filter(|given| !ids.contains(given)) {
            let why = format!("plan {given} was not approved: plan {} is being carried out", ids.join(", "));
            return Err(Failure::new("PLAN_DRIFTED", why).with_hint("without --plan, its end is waited for"));
        }
        if !ui.is_json() {
            show(&report, ui)?;
        }
    }
    ui.note("approved; the replicas are sealed, then the survivors take over");
    follow(args, &ids, ui).await
}

/// The number of the plan that the operator approves.
fn approval(args: &RecoverArgs, plan: &str, ui: &Ui) -> Result<String, Failure> {
    if let Some(given) = &args.plan {
        return Ok(given.clone());
    }
    if args.yes {
        return Ok(plan.to_owned());
    }
    let needed = || {
        Failure::new("APPROVAL_NEEDED", "nobody approved this plan; nothing was changed")
            .with_hint(format!("--plan {plan} approves exactly this one"))
    };
    if ui.is_json() || !std::io::stdin().is_terminal() {
        return Err(needed());
    }
    ui.note(&format!("Type the plan's number, {plan}, to approve it:"));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() == plan { Ok(plan.to_owned()) } else { Err(needed()) }
}

/// Waits until everything approved under these numbers has come to an end.
async fn follow(args: &RecoverArgs, ids: &[String], ui: &Ui) -> Outcome {
    let until = Instant::now() + args.timeout;
    loop {
        let all = expect(&args.admin, "/recoveries", None).await;
        let ours: Vec<Value> = match &all {
            Ok(all) => newest(all, ids),
            // The node that was asked may be the one that is just being restarted.
            Err(_) => Vec::new(),
        };
        let is_over =
            |r: &Value| matches!(r["outcome"]["outcome"].as_str(), Some("verified" | "refused" | "replaced"));
        if !ours.is_empty() && ours.iter().all(is_over) {
            return ui.results(&ROW, ours.iter().map(row).collect());
        }
        if Instant::now() >= until {
            all?;
            let hint = "it goes on by itself; the same command again says how far it has come";
            let open: Vec<String> = ours.iter().filter(|r| !is_over(r)).map(name).collect();
            let text = format!("not at its end after {:?}: {}", args.timeout, open.join(" "));
            return Err(Failure::new("TIMED_OUT", text).with_hint(hint));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Of each partition the newest recovery under one of these numbers.
fn newest(all: &Value, ids: &[String]) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for recovery in all["recoveries"].as_array().into_iter().flatten() {
        if recovery["id"].as_str().is_some_and(|id| ids.iter().any(|known| known == id)) {
            found.retain(|known| known["plan"]["group"] != recovery["plan"]["group"]);
            found.push(recovery.clone());
        }
    }
    found
}

fn name(recovery: &Value) -> String {
    let plan = &recovery["plan"];
    format!("{}-{}", plan["topic"].as_str().unwrap_or("?"), plan["partition"])
}

const ROW: [&str; 9] =
    ["RECOVERY", "PARTITION", "SURVIVOR", "KEPT", "AT-RISK", "LOST", "OUTCOME", "BY", "APPROVED"];

/// One line of the audit.
fn row(recovery: &Value) -> Item {
    let (plan, outcome) = (&recovery["plan"], &recovery["outcome"]);
    let state = outcome["outcome"].as_str().unwrap_or("?");
    let lossless = outcome["lossless"] == Value::Bool(true);
    let said = match (state, lossless) {
        ("verified", true) => "verified:nothing-lost".to_owned(),
        ("decided", true) => "decided:nothing-lost".to_owned(),
        _ => state.to_owned(),
    };
    let approved = recovery["at_ms"].as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let (risk, lost) = match lossless {
        true => (String::new(), String::new()),
        false => (plan["at_risk"].to_string(), plan["end"].to_string()),
    };
    let cells = vec![
        recovery["recovery"].to_string(),
        name(recovery),
        plan["survivor"].to_string(),
        format!("{}:{}", plan["start"], plan["end"]),
        risk,
        lost,
        said,
        if recovery["auto"] == Value::Bool(true) { "auto" } else { "operator" }.to_owned(),
        approved.map(|at| at.to_string()).unwrap_or_default(),
    ];
    match state {
        "refused" => {
            let why = outcome["reason"].as_str().unwrap_or_default();
            let failure = Failure::new("PLAN_DRIFTED", why)
                .with_hint(format!("{why}; the same command makes a plan of what there is now"));
            Item::failed(cells, recovery.clone(), failure)
        }
        _ => Item::ok(cells, recovery.clone()),
    }
}

/// `kontiki partition recoveries`.
pub async fn recoveries(args: &RecoveriesArgs, ui: &Ui) -> Outcome {
    let all = expect(&args.admin, "/recoveries", None).await?;
    let rows = all["recoveries"].as_array().into_iter().flatten().map(row);
    // What was refused is history here, no failure of this command.
    ui.results(&ROW, rows.map(Item::without_error).collect())
}

/// Prints a report: a block per partition, or JSON items.
fn show(report: &Value, ui: &Ui) -> Result<(), Failure> {
    let empty = Vec::new();
    let partitions = report["partitions"].as_array().unwrap_or(&empty);
    if ui.is_json() {
        let plan = &report["plan"];
        let item = |p: &Value| {
            let mut item = p.clone();
            if !p["standing"]["plan"].is_null() {
                item["plan_number"] = plan.clone();
            }
            item
        };
        return ui.json_items(partitions.iter().map(item).collect());
    }
    if partitions.is_empty() {
        return ui.out("every partition has a leader\n");
    }
    let text: String = partitions.iter().map(block).collect();
    ui.out(&text)?;
    match report["plan"].as_str() {
        Some(plan) => ui.out(&format!("plan {plan}\n")),
        None => Ok(()),
    }
}

fn block(partition: &Value) -> String {
    let standing = &partition["standing"];
    let text = |key: &str| standing[key].as_str().unwrap_or_default().to_owned();
    let head = format!("{}-{}", partition["topic"].as_str().unwrap_or("?"), partition["partition"]);
    let said = match standing["state"].as_str().unwrap_or_default() {
        "served" => format!("led by broker {}; nothing to do", standing["leader"]),
        "provable" => "its replicas prove that nothing is lost; it goes on by itself".to_owned(),
        "opening" => format!(
            "generation {} is decided; waits for broker {} to lead",
            standing["generation"], standing["survivor"]
        ),
        "under_way" => {
            let missing = standing["waits_for"].as_array().map_or(0, Vec::len);
            let waits = match missing {
                0 => "all are sealed".to_owned(),
                _ => format!("waits for the seals of brokers {}", numbers(&standing["waits_for"])),
            };
            let said = format!("plan {} is approved, as {}; {waits}", text("id"), standing["recovery"]);
            if !standing["plan"].is_null() {
                let by = "by recovery.policy=auto: approve it too, and it waits for no leases";
                return format!("{head}  {said}\n  approved  {by}\n") + &plan_lines(&standing["plan"]);
            }
            said
        }
        "stuck" => format!("cannot go on: {}", text("reason")),
        "recoverable" => return plan_block(&head, &standing["plan"]),
        other => other.to_owned(),
    };
    format!("{head}  {said}\n")
}

fn numbers(list: &Value) -> String {
    let all: Vec<String> = list.as_array().into_iter().flatten().map(Value::to_string).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

fn plan_block(head: &str, plan: &Value) -> String {
    format!("{head}  may lose records\n") + &plan_lines(plan)
}

fn plan_lines(plan: &Value) -> String {
    let (start, risk, end) = (&plan["start"], &plan["at_risk"], &plan["end"]);
    let survivor = &plan["survivor"];
    let kept = match (start.as_i64(), end.as_i64()) {
        (Some(start), Some(end)) if end > start => format!("{start} to {}", end - 1),
        _ => "none".to_owned(),
    };
    let certain =
        format!("from {risk} on (broker {} knows what lies before to be committed)", plan["known_by"]);
    let rejoin: Vec<Value> = plan["answered"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|answered| answered[0].clone())
        .filter(|node| node != survivor)
        .collect();
    let mut text = format!(
        "  survivor  broker {survivor}, generation {} ends at entry {} of term {}\n",
        plan["from"], plan["base"]["index"], plan["base"]["epoch"]["term"]
    );
    let voters = match plan["voters"].as_array().is_some_and(Vec::is_empty) {
        true => {
            format!("unknown: broker {survivor} has heard of generation {} and never joined it", plan["from"])
        }
        false => numbers(&plan["voters"]),
    };
    text += &format!("  voters    {voters}\n  kept      {kept}\n  at risk   {certain}\n");
    text += &format!("  lost      from {end} on; the end is open\n  rejoin    {}\n", numbers(&json!(rejoin)));
    for silent in plan["silent"].as_array().into_iter().flatten() {
        let heard = match (silent["is_wiped"] == Value::Bool(true), silent["silent_ms"].as_u64()) {
            (true, _) => "has another disk, the one that held this replica is gone".to_owned(),
            (_, Some(ms)) => format!("last heard {} s ago", ms / 1000),
            (_, None) => "not heard since the present controller leads".to_owned(),
        };
        let votes = if silent["votes"] == Value::Bool(true) { "voter" } else { "no voter" };
        text += &format!("  removed   broker {}, {votes}, {heard}\n", silent["node"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Value {
        let base = json!({ "epoch": { "generation": 0, "term": 3 }, "index": 120 });
        json!({ "plan": "1f", "partitions": [
            { "topic": "a", "partition": 0, "generation": 0, "standing": { "state": "recoverable", "plan": {
                "group": 7, "topic": "a", "partition": 0, "from": 0, "survivor": 2, "base": base, "start": 5,
                "at_risk": 90, "known_by": 2, "end": 100, "voters": [1, 2, 3], "answered": [[2, base], [4, base]],
                "silent": [{ "node": 1, "votes": true, "silent_ms": 12_300, "is_wiped": false },
                    { "node": 3, "votes": true, "silent_ms": null, "is_wiped": true }] } } },
            { "topic": "a", "partition": 1, "generation": 0, "standing": { "state": "served", "leader": 2 } } ] })
    }

    #[test]
    fn block_of_a_plan_says_what_is_kept_at_risk_and_lost() {
        let text: String = report()["partitions"].as_array().unwrap().iter().map(block).collect();
        assert_eq!(
            text,
            "a-0  may lose records\n  survivor  broker 2, generation 0 ends at entry 120 of term 3\n  voters    1,2,3\n  \
             kept      5 to 99\n  at risk   from 90 on (broker 2 knows what lies before to be committed)\n  \
             lost      from 100 on; the end is open\n  rejoin    4\n  removed   broker 1, voter, last heard 12 s ago\n  \
             removed   broker 3, voter, has another disk, the one that held this replica is gone\n\
             a-1  led by broker 2; nothing to do\n"
        );
    }

    #[test]
    fn plan_that_nobody_approved_but_the_controllers_is_shown_and_can_be_approved() {
        let mut partition = report()["partitions"][0].clone();
        let plan = partition["standing"]["plan"].take();
        partition["standing"] =
            json!({ "state": "under_way", "recovery": 9, "id": "1f", "waits_for": [], "plan": plan });
        let text = block(&partition);
        assert!(
            text.starts_with(
                "a-0  plan 1f is approved, as 9; all are sealed\n  approved  by recovery.policy=auto"
            ),
            "{text}"
        );
        assert!(text.contains("  survivor  broker 2, generation 0 ends at entry 120 of term 3\n"), "{text}");
    }

    #[test]
    fn newest_recovery_of_each_partition_under_the_number_counts() {
        let recovery = |number: u64, id: &str, group: u64| json!({ "recovery": number, "id": id, "plan": { "group": group } });
        let all = json!({ "recoveries": [recovery(1, "x", 7), recovery(2, "x", 7), recovery(3, "y", 7), recovery(4, "x", 8)] });
        let found = newest(&all, &["x".to_owned()]);
        let numbers: Vec<u64> = found.iter().filter_map(|r| r["recovery"].as_u64()).collect();
        assert_eq!(numbers, [2, 4]);
    }
}
