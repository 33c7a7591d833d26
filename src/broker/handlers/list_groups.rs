//! ListGroups (16): the groups that this broker coordinates; clients ask every broker.
//!
//! Not here: the groups (`broker::groups`). States and types are compared without regard to case, as in Kafka.

use super::{Call, text};
use crate::broker::dispatch::Outcome;
use crate::broker::error::code;
use crate::broker::groups::Listed;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId as GroupName, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

/// The only type there is.
const TYPE: &str = "classic";

/// Answers a ListGroups request.
pub async fn handle(mut call: Call) -> Outcome {
    let request: ListGroupsRequest = call.decode()?;
    let (groups, is_loading) = call.node.groups().await;
    let has = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.as_str().eq_ignore_ascii_case(value))
    };
    let asked = |group: &Listed| has(&request.states_filter, group.state) && has(&request.types_filter, TYPE);
    let groups = groups.into_iter().filter(asked).map(|group| row(group, call.version));
    let code = if is_loading { code::COORDINATOR_LOAD_IN_PROGRESS } else { code::NONE };
    call.respond(&ListGroupsResponse::default().with_error_code(code).with_groups(groups.collect()))
}

fn row(group: Listed, version: i16) -> ListedGroup {
    let row = ListedGroup::default()
        .with_group_id(GroupName(text(group.group)))
        .with_protocol_type(text(group.protocol_type));
    let row = if version >= 4 { row.with_group_state(text(group.state)) } else { row };
    if version >= 5 { row.with_group_type(text(TYPE)) } else { row }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn every_version_lists_a_group() {
        let group = Listed { group: "g".into(), protocol_type: "consumer".into(), state: "Stable" };
        for version in 0..=5 {
            let row = row(group.clone(), version);
            assert_eq!(row.group_state.as_str(), if version >= 4 { "Stable" } else { "" });
            ListGroupsResponse::default().with_groups(vec![row]).encode(&mut Vec::new(), version).unwrap();
        }
    }
}
