//! The client's one error type: what failed, Kafka's name for it, and what to try next.
//!
//! Not here: how errors are printed (`bin/output.rs`). The table of names comes from the codec crate, the
//! hints are ours. Invariant: texts are lower-case without a full stop and name what they are about.

use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use std::time::Duration;

/// Result of a client call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a client call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system said.
        reason: String,
        /// The address that answered and sent us to `address`, and the broker that is said to be there, if that is how we got it.
        advertised_by: Option<(String, i32)>,
    },
    /// None of the bootstrap addresses answered.
    #[error("no broker answered at {}", .0.join("; "))]
    NoBroker(Vec<String>),
    /// The connection ended before the answer came.
    #[error("connection to {address} was lost: {reason}")]
    Disconnected {
        /// The peer.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// No answer within the time limit.
    #[error("no answer to {what} within {limit:?}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The broker speaks no version of an API that we speak.
    #[error("{address} does not offer API {api} in versions {min} to {max}")]
    Unsupported {
        /// The peer.
        address: String,
        /// Kafka's number of the API.
        api: i16,
        /// Our lowest version.
        min: i16,
        /// Our highest version.
        max: i16,
    },
    /// The broker answered with a Kafka error code.
    #[error("{what}: {}{}", error_name(*.code), .message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Kafka {
        /// Kafka's error code.
        code: i16,
        /// What was asked for.
        what: String,
        /// The broker's own words.
        message: Option<String>,
    },
    /// An answer that cannot be decoded.
    #[error("malformed answer from {address}: {reason}")]
    Malformed {
        /// The peer.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Records that fail their checks.
    #[error("bad record batch: {0}")]
    Records(String),
    /// A request that cannot be made.
    #[error("{0}")]
    Invalid(String),
    /// The producer was closed, or failed earlier.
    #[error("the producer is closed")]
    Closed,
}

impl Error {
    /// A Kafka error code as an error about `what`.
    pub fn kafka(code: i16, what: impl Into<String>) -> Self {
        Self::Kafka { code, what: what.into(), message: None }
    }

    /// `Ok` for code 0, else the error about `what`.
    pub fn check(code: i16, message: Option<&str>, what: impl FnOnce() -> String) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let message = message.filter(|m| !m.is_empty()).map(str::to_owned);
        Err(Self::Kafka { code, what: what(), message })
    }

    /// Kafka's error code, if a broker sent one.
    pub fn kafka_code(&self) -> Option<i16> {
        match self {
            Self::Kafka { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// A stable name for scripts: Kafka's own where there is one.
    pub fn name(&self) -> String {
        match self {
            Self::Connect { .. } | Self::NoBroker(_) => "BROKER_UNREACHABLE".into(),
            Self::Disconnected { .. } => "NETWORK_EXCEPTION".into(),
            Self::TimedOut { .. } => "REQUEST_TIMED_OUT".into(),
            Self::Unsupported { .. } => "UNSUPPORTED_VERSION".into(),
            Self::Kafka { code, .. } => error_name(*code),
            Self::Malformed { .. } => "MALFORMED_RESPONSE".into(),
            Self::Records(_) => "CORRUPT_MESSAGE".into(),
            Self::Invalid(_) => "INVALID_REQUEST".into(),
            Self::Closed => "CLOSED".into(),
        }
    }

    /// Whether the same request may succeed later or elsewhere.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Disconnected { .. } | Self::TimedOut { .. } | Self::NoBroker(_) => {
                true
            }
            Self::Kafka { code, .. } => is_retriable(*code),
            _ => false,
        }
    }

    /// What to try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { address, advertised_by: Some((by, broker)), reason } => {
                // The standard library tells no kind of it.
                let is_unknown = reason.contains("lookup address");
                let why = if is_unknown { "whose name is not known here" } else { "which cannot be reached from here, or is down" };
                Some(format!(
                    "{by} answered, but broker {broker} advertises {address}, {why}; if it is up, have it advertise an address that its \
                     clients can reach: --advertise, or `kontiki broker advertise {broker} [NAME://]HOST:PORT`"
                ))
            }
            Self::Connect { .. } | Self::NoBroker(_) => Some(
                "is a broker running there? `kontiki dev` starts a local cluster; -B host:port names another one".into(),
            ),
            Self::TimedOut { .. } | Self::Disconnected { .. } => {
                Some("`kontiki cluster health` shows which brokers are up".into())
            }
            Self::Kafka { code, .. } => kafka_hint(*code).map(str::to_owned),
            _ => None,
        }
    }
}

/// Whether Kafka calls the code retriable.
pub fn is_retriable(code: i16) -> bool {
    code.err().is_some_and(|e| e.is_retriable())
}

/// Whether the code says that our idea of who leads is out of date.
pub fn is_stale_leader(code: i16) -> bool {
    matches!(
        code.err(),
        Some(
            ResponseError::NotLeaderOrFollower
                | ResponseError::LeaderNotAvailable
                | ResponseError::FencedLeaderEpoch
                | ResponseError::UnknownLeaderEpoch
                | ResponseError::UnknownTopicOrPartition
                | ResponseError::UnknownTopicId
                | ResponseError::InconsistentTopicId
                | ResponseError::KafkaStorageError
                | ResponseError::ReplicaNotAvailable
        )
    )
}

/// Kafka's name of an error code, as its documentation spells it.
pub fn error_name(code: i16) -> String {
    let Some(error) = code.err() else { return "NONE".into() };
    if let ResponseError::Unknown(code) = error {
        return format!("ERROR_{code}");
    }
    // The crate spells variants in camel case; Kafka's documentation and tools use capitals.
    let camel = format!("{error:?}");
    let mut name = String::with_capacity(camel.len() + 8);
    for (i, c) in camel.chars().enumerate() {
        if i > 0 && c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

fn kafka_hint(code: i16) -> Option<&'static str> {
    Some(match code.err()? {
        ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId => {
            "`kontiki topic list` shows the topics; `kontiki topic create NAME` makes one"
        }
        ResponseError::TopicAlreadyExists => "--if-not-exists accepts a topic that is there already",
        ResponseError::NotEnoughReplicas | ResponseError::NotEnoughReplicasAfterAppend => {
            "fewer replicas are in sync than min.insync.replicas asks; see IN-SYNC in `kontiki topic describe`"
        }
        ResponseError::InvalidReplicationFactor => {
            "the replication factor cannot exceed the number of brokers; see `kontiki cluster health`"
        }
        ResponseError::MessageTooLarge => {
            "the batch exceeds the topic's max.message.bytes; raise it with `kontiki topic alter --set max.message.bytes=N`"
        }
        ResponseError::InconsistentGroupProtocol => {
            "the group's members assign in another way than `range`; give them that one too (kafkajs and franz-go have it not by default)"
        }
        ResponseError::GroupIdNotFound => "`kontiki group list` shows the groups",
        ResponseError::NonEmptyGroup => "stop the group's members first; `kontiki group describe` shows them",
        ResponseError::OffsetOutOfRange => "`kontiki topic describe` shows START and END of every partition",
        ResponseError::LeaderNotAvailable | ResponseError::NotLeaderOrFollower => {
            "an election is under way or too few brokers are up; see `kontiki cluster health`"
        }
        ResponseError::ListenerNotFound => {
            "the leader has no listener of the name that this client came in by: give all brokers the same ones (--listen)"
        }
        ResponseError::InvalidConfig => {
            "names and values: `kontiki topic describe --section configs` for a topic, docs/configuration.md for brokers"
        }
        ResponseError::NotController | ResponseError::RequestTimedOut => {
            "no controller answers at the moment; see `kontiki cluster health`"
        }
        ResponseError::OutOfOrderSequenceNumber => {
            "the broker lost track of this producer's batches; start the producer anew and check for a gap"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_name_known_code_spells_kafkas_name() {
        assert_eq!(error_name(3), "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(error_name(6), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(error_name(45), "OUT_OF_ORDER_SEQUENCE_NUMBER");
        assert_eq!(error_name(0), "NONE");
        assert_eq!(error_name(9999), "ERROR_9999");
    }

    #[test]
    fn error_check_code_zero_is_ok_and_text_names_subject() {
        assert_eq!(Error::check(0, None, || unreachable!()), Ok(()));
        let e = Error::check(36, Some("there"), || "topic `a`".into()).unwrap_err();
        assert_eq!(e.to_string(), "topic `a`: TOPIC_ALREADY_EXISTS (there)");
        assert!(e.hint().unwrap().contains("--if-not-exists"));
    }

    #[test]
    fn connect_failure_of_advertised_address_names_both_addresses() {
        let e = Error::Connect {
            address: "kafka-1:9092".into(),
            reason: "refused".into(),
            advertised_by: Some(("localhost:9092".into(), 2)),
        };
        let hint = e.hint().unwrap();
        assert!(
            hint.contains("localhost:9092 answered") && hint.contains("broker 2 advertises kafka-1:9092"),
            "{hint}"
        );
    }
}
