//! From a frame to work: header off, counts bounded, one match on the API key.
//!
//! Not here: what each API does (`handlers`), order and limits of a connection (`net::connection`, the only caller).
//! Invariants: nothing of a body is decoded before its counts have been checked; an unknown key or version closes the
//! connection, as Kafka does, except for ApiVersions (KIP-511).

use super::api::NodeHandle;
use super::config::NodeConfig;
use super::error::CloseReason;
use super::handlers::{self, Call, produce::Rules};
use crate::wire::{bounds, frame, versions};
use bytes::{Bytes, BytesMut};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a request leads to.
#[derive(Debug)]
pub enum Answer {
    /// A whole response frame.
    Frame(Bytes),
    /// A whole response frame in slices, to be written in order.
    Slices(Vec<Bytes>),
    /// No response (Produce with acks=0).
    Silent,
}

/// Result of a handler: an answer, or the reason to close the connection.
pub type Outcome = Result<Answer, CloseReason>;
/// A request under way.
pub type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Where appends of one connection queue up: the next request is started only when the last one has passed, so that
/// back-pressure can never let one overtake another.
#[derive(Clone, Debug, Default)]
pub struct Turnstile {
    waiting: Arc<AtomicUsize>,
}

impl Turnstile {
    /// A request enters; it has passed when the turn is dropped.
    pub fn enter(&self) -> Turn {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Turn(self.clone())
    }

    /// Whether everyone has passed.
    pub fn is_free(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }
}

/// One request between entering the turnstile and passing it.
#[derive(Debug)]
pub struct Turn(Turnstile);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where it connected from.
    pub host: IpAddr,
    /// Name of the listener it connected to: it is told the brokers' addresses for that one.
    pub listener: Arc<str>,
}

/// What one connection carries from request to request.
pub struct Session {
    pub(super) node: NodeHandle,
    pub(super) config: Arc<NodeConfig>,
    pub(super) turnstile: Turnstile,
    pub(super) client: Client,
    /// What topics allow, as of the image they were read from.
    pub(super) rules: Rules,
}

impl Session {
    /// A session of a new connection.
    pub fn new(node: NodeHandle, config: Arc<NodeConfig>, turnstile: Turnstile, client: Client) -> Self {
        Self { node, config, turnstile, client, rules: Rules::default() }
    }

    /// Takes a frame (without length prefix) apart and starts what it asks for.
    pub fn start(&mut self, frame: BytesMut) -> Result<Work, CloseReason> {
        let request = frame::split(frame)?;
        let (key, version) = (request.api_key, request.api_version);
        tracing::debug!(
            api = versions::range(key).map_or("?", |range| range.name),
            version,
            correlation = request.correlation_id,
            client = request.client_id.as_deref(),
            bytes = request.body.len(),
            "request"
        );
        if key == API_VERSIONS && !versions::is_served(key, version) {
            // The body of a version nobody knows cannot be read; only its prefix counts.
            let answer = handlers::api_versions::unsupported(request.correlation_id);
            return Ok(Box::pin(std::future::ready(answer)));
        }
        bounds::check(key, version, &request.body)?;
        match key {
            PRODUCE => return handlers::produce::start(self, request),
            FETCH => return handlers::fetch::start(self, request),
            _ => {}
        }
        let call = Call::new(self.node.clone(), self.config.clone(), self.client.clone(), request);
        Ok(match key {
            2 => Box::pin(handlers::list_offsets::handle(call)),
            3 => Box::pin(handlers::metadata::handle(call)),
            8 => Box::pin(handlers::offset_commit::handle(call)),
            9 => Box::pin(handlers::offset_fetch::handle(call)),
            10 => Box::pin(handlers::find_coordinator::handle(call)),
            11 => Box::pin(handlers::join_group::handle(call)),
            12 => Box::pin(handlers::heartbeat::handle(call)),
            13 => Box::pin(handlers::leave_group::handle(call)),
            14 => Box::pin(handlers::sync_group::handle(call)),
            15 => Box::pin(handlers::describe_groups::handle(call)),
            16 => Box::pin(handlers::list_groups::handle(call)),
            API_VERSIONS => Box::pin(handlers::api_versions::handle(call)),
            19 => Box::pin(handlers::create_topics::handle(call)),
            20 => Box::pin(handlers::delete_topics::handle(call)),
            21 => Box::pin(handlers::delete_records::handle(call)),
            22 => Box::pin(handlers::init_producer_id::handle(call)),
            23 => Box::pin(handlers::offset_for_leader_epoch::handle(call)),
            32 => Box::pin(handlers::describe_configs::handle(call)),
            33 => Box::pin(handlers::alter_configs::handle(call)),
            35 => Box::pin(handlers::describe_log_dirs::handle(call)),
            37 => Box::pin(handlers::create_partitions::handle(call)),
            42 => Box::pin(handlers::delete_groups::handle(call)),
            43 => Box::pin(handlers::elect_leaders::handle(call)),
            44 => Box::pin(handlers::incremental_alter_configs::handle(call)),
            45 => Box::pin(handlers::alter_partition_reassignments::handle(call)),
            46 => Box::pin(handlers::list_partition_reassignments::handle(call)),
            47 => Box::pin(handlers::offset_delete::handle(call)),
            48 => Box::pin(handlers::describe_client_quotas::handle(call)),
            55 => Box::pin(handlers::describe_quorum::handle(call)),
            57 => Box::pin(handlers::update_features::handle(call)),
            60 => Box::pin(handlers::describe_cluster::handle(call)),
            64 => Box::pin(handlers::unregister_broker::handle(call)),
            74 => Box::pin(handlers::list_config_resources::handle(call)),
            75 => Box::pin(handlers::describe_topic_partitions::handle(call)),
            _ => return Err(frame::FrameError::Unsupported(key, version).into()),
        })
    }
}

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const API_VERSIONS: i16 = 18;

#[cfg(test)]
#[path = "dispatch_tests.rs"]
pub(crate) mod tests;
