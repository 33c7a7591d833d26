//! Recovery of partitions that lost their majority, over the admin address: report, approval, audit.
//!
//! `POST /recovery/report {topic?, partitions?}` says how partitions stand and what number their plan has; nothing changes by it.
//! `POST /recovery/approve {topic?, partitions?, plan, reason?}` has exactly the plan of that number carried out, or answers 409 with the
//! number of the plan that there is now; a plan that the controllers approved themselves (`recovery.policy=auto`) can be approved too, and
//! then waits for no leases. `GET /recoveries` is the audit, of the controllers' own group too. Not here: what a plan says and whether it may be carried out
//! (`ctl::recovery`). Called by `kontiki partition`.

use super::Admin;
use crate::broker::api::NodeHandle;
use crate::ctl::command::{Command, Error as CtlError};
use crate::ctl::image::Image;
use crate::ctl::recovery::{GroupPlan, PartitionReport, Standing, plan_id};
use crate::segment::GroupId;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a controller leader is looked for.
const PATIENCE: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(200);
const APPROVAL_MS: u64 = 10_000;

/// What is asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// None: every partition without a leader.
    topic: Option<String>,
    /// Empty: all of the topic.
    #[serde(default)]
    partitions: Vec<i32>,
    /// Number of the plan that is approved.
    plan: Option<String>,
    /// Why, in the operator's words.
    #[serde(default)]
    reason: String,
}

type Answer = (StatusCode, Json<Value>);

fn refuse(code: StatusCode, error: &str, message: impl Into<String>) -> Answer {
    (code, Json(json!({ "error": error, "message": message.into() })))
}

/// The groups that are meant.
fn groups_of(image: &Image, request: &Request) -> Result<Vec<GroupId>, Answer> {
    let Some(name) = &request.topic else {
        return match request.partitions.is_empty() {
            true => Ok(Vec::new()),
            false => Err(refuse(StatusCode::BAD_REQUEST, "USAGE", "partitions without a topic")),
        };
    };
    let unknown = |what: String| refuse(StatusCode::NOT_FOUND, "UNKNOWN_TOPIC_OR_PARTITION", what);
    let topic = image.topics.get(name).ok_or_else(|| unknown(format!("unknown topic `{name}`")))?;
    if request.partitions.is_empty() {
        return Ok(topic.partitions.iter().map(|partition| partition.group).collect());
    }
    let find = |number: &i32| {
        let found = usize::try_from(*number).ok().and_then(|at| topic.partitions.get(at));
        found.map(|p| p.group).ok_or_else(|| unknown(format!("`{name}` has no partition {number}")))
    };
    request.partitions.iter().map(find).collect()
}

async fn gather(node: &NodeHandle, request: &Request) -> Result<Vec<PartitionReport>, Answer> {
    let groups = groups_of(&node.image(), request)?;
    let asked = async {
        loop {
            if let Some(report) = node.recovery_report(groups.clone()).await {
                return report;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let late = |_| {
        let text = "no controller leads, or it cannot be reached from here";
        refuse(StatusCode::SERVICE_UNAVAILABLE, "NO_CONTROLLER", text)
    };
    tokio::time::timeout(PATIENCE, asked).await.map_err(late)
}

fn plans_of(report: &[PartitionReport]) -> Vec<GroupPlan> {
    let plan = |p: &PartitionReport| match &p.standing {
        Standing::Recoverable { plan } | Standing::UnderWay { plan: Some(plan), .. } => {
            Some((**plan).clone())
        }
        _ => None,
    };
    report.iter().filter_map(plan).collect()
}

fn number_of(plans: &[GroupPlan]) -> Option<String> {
    (!plans.is_empty()).then(|| plan_id(plans))
}

pub(super) async fn report(State(admin): State<Admin>, Json(request): Json<Request>) -> Answer {
    match gather(&admin.node, &request).await {
        Ok(report) => {
            let plan = number_of(&plans_of(&report));
            (StatusCode::OK, Json(json!({ "plan": plan, "partitions": report })))
        }
        Err(answer) => answer,
    }
}

pub(super) async fn approve(State(admin): State<Admin>, Json(request): Json<Request>) -> Answer {
    let Some(approved) = request.plan.clone() else {
        return refuse(StatusCode::BAD_REQUEST, "USAGE", "an approval names its plan");
    };
    let plans = match gather(&admin.node, &request).await {
        Ok(report) => plans_of(&report),
        Err(answer) => return answer,
    };
    let current = number_of(&plans);
    if current.as_ref() != Some(&approved) {
        let message = match &current {
            Some(current) => format!("plan {approved} does not hold any more; as things are it is {current}"),
            None => format!("plan {approved} does not hold any more: there is nothing to approve"),
        };
        let body = json!({ "error": "PLAN_DRIFTED", "message": message, "plan": current });
        return (StatusCode::CONFLICT, Json(body));
    }
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let command =
        Command::Recover { id: approved.clone(), reason: request.reason.clone(), at_ms, plans, auto: false };
    match admin.node.controller(command, APPROVAL_MS).await {
        Ok(_) => (StatusCode::OK, Json(json!({ "plan": approved }))),
        Err(error @ (CtlError::TimedOut | CtlError::NotController)) => {
            let text = format!("{error}; whether the plan was taken, `kontiki partition recoveries` says");
            refuse(StatusCode::SERVICE_UNAVAILABLE, "NO_CONTROLLER", text)
        }
        Err(error) => refuse(StatusCode::CONFLICT, "REFUSED", error.to_string()),
    }
}

pub(super) async fn recoveries(State(admin): State<Admin>) -> Json<Value> {
    let image = admin.node.image();
    Json(json!({ "recoveries": image.recoveries, "controllers": image.controller_recoveries }))
}
