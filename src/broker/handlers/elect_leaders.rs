//! ElectLeaders (43): leadership goes to the preferred replica, the first of the partition's list (KIP-183, KIP-460).
//!
//! A leader that hands over does so in an election of its group; this asks it to, and looks who leads until it is done or the time is
//! over. Not here: when that is done without being asked for (`ctl::balance`). An unclean election is never held: what may lose records
//! needs an operator's plan (design section 6).
//! Invariants: one row per partition, in the order asked; asked for all, those that need no election are left out, as in Kafka.

use super::{Call, admin_timeout, text};
use crate::broker::api::{NodeHandle, PartitionState};
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use crate::ctl::image::Image;
use crate::segment::{GroupId, NodeId};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use std::time::Duration;

/// Election types of the request.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;
/// How often it is looked whether leaders have changed, and after how many looks those that have not are asked again, or a preferred
/// replica that is not in sync is given up: the news of who is in sync takes up to half a second.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_BEFORE_REPEAT: usize = 10;
const LOOKS_FOR_IN_SYNC: usize = 20;

/// What became of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Not yet what was asked for.
    Pending,
    /// The end of it, as an error code.
    Ends(i16),
}

/// A partition that was asked for and exists.
struct Wanted {
    group: GroupId,
    preferred: NodeId,
    verdict: Verdict,
}

/// Answers an ElectLeaders request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: ElectLeadersRequest = call.decode()?;
    let unclean = match request.election_type {
        PREFERRED => false,
        UNCLEAN => true,
        _ => {
            let refusal = ElectLeadersResponse::default().with_error_code(code::INVALID_REQUEST);
            return call.respond(&refusal);
        }
    };
    let image = call.node.image();
    let asked = asked(&image, &request);
    let mut wanted: Vec<Option<Wanted>> = asked
        .iter()
        .map(|(topic, index)| {
            let partition = image.partition(topic.as_str(), *index)?;
            let preferred = partition.target().first()?.node;
            Some(Wanted { group: partition.group, preferred, verdict: Verdict::Pending })
        })
        .collect();
    elect(&call.node, &mut wanted, unclean, admin_timeout(request.timeout_ms)).await;
    let is_for_all = request.topic_partitions.is_none();
    call.respond(
        &ElectLeadersResponse::default().with_replica_election_results(rows(asked, wanted, is_for_all)),
    )
}

/// Partitions of the request, topic by topic.
fn asked(image: &Image, request: &ElectLeadersRequest) -> Vec<(TopicName, i32)> {
    match &request.topic_partitions {
        Some(topics) => topics
            .iter()
            .flat_map(|row| row.partitions.iter().map(|index| (row.topic.clone(), *index)))
            .collect(),
        None => image
            .topics
            .values()
            .flat_map(|topic| {
                let name = TopicName(text(topic.name.clone()));
                (0..).zip(&topic.partitions).map(move |(index, _)| (name.clone(), index))
            })
            .collect(),
    }
}

/// Has the preferred replicas elected; every verdict is an end then.
async fn elect(node: &NodeHandle, wanted: &mut [Option<Wanted>], unclean: bool, timeout_ms: u64) {
    let begun = tokio::time::Instant::now();
    for look in 0.. {
        let mut pending: Vec<&mut Wanted> =
            wanted.iter_mut().flatten().filter(|one| one.verdict == Verdict::Pending).collect();
        if pending.is_empty() {
            return;
        }
        let groups: Vec<GroupId> = pending.iter().map(|one| one.group).collect();
        let states = node.partition_states(&groups).await;
        let is_over = states.len() != groups.len() || begun.elapsed() >= Duration::from_millis(timeout_ms);
        let mut moves = Vec::new();
        for (at, one) in pending.iter_mut().enumerate() {
            one.verdict = match states.get(at) {
                Some(state) => verdict(state, one.preferred, unclean, look),
                None => Verdict::Pending,
            };
            match one.verdict {
                Verdict::Pending if is_over => one.verdict = Verdict::Ends(code::REQUEST_TIMED_OUT),
                Verdict::Pending => moves.push((one.group, one.preferred)),
                Verdict::Ends(_) => {}
            }
        }
        if !moves.is_empty() && look % LOOKS_BEFORE_REPEAT == 0 {
            node.hand_over(moves).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn verdict(state: &PartitionState, preferred: NodeId, unclean: bool, look: usize) -> Verdict {
    match state.leader {
        Some(_) if unclean => Verdict::Ends(code::ELECTION_NOT_NEEDED),
        None if unclean => Verdict::Ends(code::ELIGIBLE_LEADERS_NOT_AVAILABLE),
        Some(leader) if leader.node == preferred => {
            Verdict::Ends(if look == 0 { code::ELECTION_NOT_NEEDED } else { code::NONE })
        }
        _ if look >= LOOKS_FOR_IN_SYNC && !state.in_sync.contains(&preferred) => {
            Verdict::Ends(code::PREFERRED_LEADER_NOT_AVAILABLE)
        }
        _ => Verdict::Pending,
    }
}

fn rows(
    asked: Vec<(TopicName, i32)>,
    wanted: Vec<Option<Wanted>>,
    is_for_all: bool,
) -> Vec<ReplicaElectionResult> {
    let mut rows: Vec<ReplicaElectionResult> = Vec::new();
    for ((topic, index), one) in asked.into_iter().zip(wanted) {
        let code = match one.map(|one| one.verdict) {
            None => code::UNKNOWN_TOPIC_OR_PARTITION,
            Some(Verdict::Ends(code)) => code,
            Some(Verdict::Pending) => code::REQUEST_TIMED_OUT,
        };
        if is_for_all && code == code::ELECTION_NOT_NEEDED {
            continue;
        }
        let result = PartitionResult::default()
            .with_partition_id(index)
            .with_error_code(code)
            .with_error_message(message(code).map(text));
        match rows.last_mut().filter(|row| row.topic == topic) {
            Some(row) => row.partition_result.push(result),
            None => rows
                .push(ReplicaElectionResult::default().with_topic(topic).with_partition_result(vec![result])),
        }
    }
    rows
}

fn message(code: i16) -> Option<&'static str> {
    Some(match code {
        code::NONE => return None,
        code::ELECTION_NOT_NEEDED => "leader election not needed for this partition",
        code::PREFERRED_LEADER_NOT_AVAILABLE => "the preferred leader is not in sync",
        code::ELIGIBLE_LEADERS_NOT_AVAILABLE => {
            "no unclean election is ever held; bring back replicas that hold what was acknowledged"
        }
        code::UNKNOWN_TOPIC_OR_PARTITION => "no such topic or partition",
        _ => "the leader did not hand over in time",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::api::LeaderHint;

    #[test]
    fn verdict_follows_leader_in_sync_set_and_kind_of_election() {
        let state = |leader: Option<i32>, in_sync: &[i32]| PartitionState {
            leader: leader.map(|node| LeaderHint { node: NodeId(node), epoch: 1 }),
            in_sync: in_sync.iter().map(|node| NodeId(*node)).collect(),
            ..PartitionState::default()
        };
        let is = |state: &PartitionState, unclean, look| verdict(state, NodeId(1), unclean, look);
        let (led, other) = (state(Some(1), &[1, 2]), state(Some(2), &[1, 2]));
        assert_eq!(is(&led, false, 0), Verdict::Ends(84));
        assert_eq!(is(&led, false, 1), Verdict::Ends(0));
        assert_eq!(is(&other, false, 0), Verdict::Pending);
        assert_eq!(is(&state(Some(2), &[2]), false, 0), Verdict::Pending, "it may be in sync a moment ago");
        assert_eq!(is(&state(Some(2), &[2]), false, LOOKS_FOR_IN_SYNC), Verdict::Ends(80));
        assert_eq!(is(&state(None, &[1]), false, 99), Verdict::Pending, "it is being elected");
        assert_eq!(is(&other, true, 0), Verdict::Ends(84));
        assert_eq!(is(&state(None, &[]), true, 0), Verdict::Ends(83));
    }
}
