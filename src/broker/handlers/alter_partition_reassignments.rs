//! AlterPartitionReassignments (45): replicas of partitions move to other brokers, or what was asked before is cancelled (KIP-455).
//!
//! Not here: which targets are allowed (`ctl::reassign`), the moving (`shard::members`).
//! Invariants: one row per partition, in the order asked; what the controllers could not be asked at all is said at the top. A request of
//! many partitions is several entries of the controller log: if it breaks off in the middle, the rest says so row by row.

use super::{Call, admin_timeout, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error::{self, code};
use crate::ctl::command::{Command, Error as ControllerError, Reply};
use crate::ctl::reassign::Reassignment;
use crate::segment::NodeId;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse};

/// Partitions in one command, which is one entry of the controller log, and brokers named in it.
const ROWS_MAX: usize = 1_000;
const NODES_MAX: usize = 50_000;

/// Answers an AlterPartitionReassignments request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: AlterPartitionReassignmentsRequest = call.decode()?;
    let rows = rows(&request);
    let mut refusals = Vec::with_capacity(rows.len());
    for rows in parts(rows) {
        let count = rows.len();
        let allow_factor_change = request.allow_replication_factor_change;
        let command = Command::Reassign { rows, allow_factor_change };
        match call.node.controller(command, admin_timeout(request.timeout_ms)).await {
            Ok(Reply::Reassigned { refusals: some }) if some.len() == count => refusals.extend(some),
            Ok(other) => {
                tracing::error!(?other, "reassignments got an answer that is none");
                return call.respond(&failed(code::UNKNOWN_SERVER_ERROR, "unexpected answer".to_owned()));
            }
            Err(refusal) if refusals.is_empty() => {
                return call.respond(&failed(error::controller(&refusal), refusal.to_string()));
            }
            // What was written before is under way.
            Err(refusal) => {
                refusals.resize_with(rows_of(&request), || Some(refusal.clone()));
                break;
            }
        }
    }
    call.respond(&answer(&request, refusals))
}

fn rows_of(request: &AlterPartitionReassignmentsRequest) -> usize {
    request.topics.iter().map(|topic| topic.partitions.len()).sum()
}

/// Rows that make one entry each.
fn parts(rows: Vec<Reassignment>) -> Vec<Vec<Reassignment>> {
    let mut parts: Vec<Vec<Reassignment>> = Vec::new();
    let mut nodes = 0;
    for row in rows {
        let named = row.target.as_ref().map_or(0, Vec::len);
        nodes += named;
        match parts.last_mut().filter(|part| part.len() < ROWS_MAX && nodes <= NODES_MAX) {
            Some(part) => part.push(row),
            None => {
                nodes = named;
                parts.push(vec![row]);
            }
        }
    }
    parts
}

fn rows(request: &AlterPartitionReassignmentsRequest) -> Vec<Reassignment> {
    let topics = request.topics.iter();
    let rows = topics.flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)));
    rows.map(|(topic, partition)| Reassignment {
        topic: topic.name.as_str().to_owned(),
        partition: partition.partition_index,
        target: partition.replicas.as_ref().map(|ids| ids.iter().map(|id| NodeId(id.0)).collect()),
    })
    .collect()
}

fn failed(code: i16, message: String) -> AlterPartitionReassignmentsResponse {
    AlterPartitionReassignmentsResponse::default()
        .with_error_code(code)
        .with_error_message(Some(text(message)))
}

/// `refusals` stand in the order of the request's partitions.
fn answer(
    request: &AlterPartitionReassignmentsRequest,
    refusals: Vec<Option<ControllerError>>,
) -> AlterPartitionReassignmentsResponse {
    let mut refusals = refusals.into_iter();
    let mut row = |index: i32| {
        let refusal = refusals.next().flatten();
        ReassignablePartitionResponse::default()
            .with_partition_index(index)
            .with_error_code(refusal.as_ref().map_or(code::NONE, error::controller))
            .with_error_message(refusal.map(|refusal| text(refusal.to_string())))
    };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| row(partition.partition_index)).collect();
        ReassignableTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_error_message(None)
        .with_responses(topics.collect())
}
