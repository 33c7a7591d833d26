//! The topics in the metadata of a consumer (`ConsumerProtocolSubscription`): whether a group still reads a topic.
//!
//! The metadata is the clients' own business; what cannot be read says nothing, and is then taken for "all topics".
//! Called by `group` and `offsets`.

use crate::wire::frame::FrameError;
use crate::wire::primitives::Reader;
use std::collections::BTreeSet;

/// Protocol type of consumers, as against that of Connect's workers, say.
pub const CONSUMER: &str = "consumer";

/// Topics of a subscription of any version; none if it is no such thing.
pub fn topics(metadata: &[u8]) -> Option<BTreeSet<String>> {
    read(metadata).ok()
}

fn read(metadata: &[u8]) -> Result<BTreeSet<String>, FrameError> {
    let mut reader = Reader::new(metadata);
    if reader.int16()? < 0 {
        return Err(FrameError::Malformed("negative version"));
    }
    let count = reader.count(false, 2)?.unwrap_or(0);
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let topic = reader.string(false)?.ok_or(FrameError::Malformed("topic is null"))?;
        topics.insert(topic.to_owned());
    }
    Ok(topics)
}
