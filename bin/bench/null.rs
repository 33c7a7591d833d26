//! `kontiki bench null`: a broker that acknowledges Produce at once and stores nothing, for measuring clients.
//!
//! It knows just what stock producers ask: ApiVersions, Metadata (every topic exists), CreateTopics,
//! InitProducerId, Produce. Anything else closes the connection. Offsets count up per partition, so that clients
//! find them plausible. Not a test double of the broker: it checks nothing.

use crate::cli::BenchNull;
use crate::output::{Failure, Outcome, Ui};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, CreateTopicsRequest, CreateTopicsResponse, InitProducerIdResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kontiki::wire::batch::BatchHeader;
use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MAX_FRAME: usize = 100 << 20;
const UNSUPPORTED_VERSION: i16 = 35;

/// What is advertised. Fetch and ListOffsets are there because librdkafka takes them for a sign of record batches
/// v2; asking for them closes the connection. Produce stays below 13, which knows no topic names.
const APIS: [(ApiKey, i16, i16); 7] = [
    (ApiKey::Produce, 0, 12),
    (ApiKey::Fetch, 4, 11),
    (ApiKey::ListOffsets, 1, 7),
    (ApiKey::Metadata, 0, 12),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::InitProducerId, 0, 5),
];

struct Null {
    ports: Vec<u16>,
    partitions: i32,
    topics: Mutex<BTreeSet<StrBytes>>,
    next_id: AtomicI64,
}

/// Runs the command until Ctrl-C.
pub async fn run(args: &BenchNull, ui: &Ui) -> Outcome {
    let mut listeners = Vec::new();
    for i in 0..args.brokers {
        let port = if args.port == 0 { 0 } else { args.port.saturating_add(i) };
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        listeners.push(
            listener.map_err(|e| Failure::new("IO", format!("cannot listen on 127.0.0.1:{port}: {e}")))?,
        );
    }
    let ports = listeners.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<String> = ports.iter().map(|p| format!("127.0.0.1:{p}")).collect();
    let null = Arc::new(Null {
        ports,
        partitions: args.partitions,
        topics: Mutex::new(BTreeSet::new()),
        next_id: AtomicI64::new(1),
    });
    for listener in listeners {
        tokio::spawn(accept(listener, null.clone()));
    }
    ui.out(&format!("READY bootstrap={}\n", addresses.join(",")))?;
    tokio::signal::ctrl_c().await?;
    Ok(ExitCode::SUCCESS)
}

async fn accept(listener: TcpListener, null: Arc<Null>) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                let null = null.clone();
                tokio::spawn(async move {
                    if let Err(e) = serve(socket, &null).await {
                        tracing::debug!(%peer, "closed: {e:#}");
                    }
                });
            }
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(mut socket: TcpStream, null: &Null) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(1 << 20);
    let mut offsets = HashMap::new();
    let mut out = BytesMut::new();
    loop {
        while let Some(frame) = take_frame(&mut buffer)? {
            answer(frame, null, &mut offsets, &mut out)?;
        }
        if !out.is_empty() {
            socket.write_all_buf(&mut out).await?;
        }
        buffer.reserve(256 * 1024);
        if socket.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// A whole frame without its length, if one is there.
fn take_frame(buffer: &mut BytesMut) -> anyhow::Result<Option<Bytes>> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(*length))?;
    anyhow::ensure!((8..=MAX_FRAME).contains(&length), "frame of {length} bytes");
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

type Offsets = HashMap<(TopicName, i32), i64>;

fn answer(mut frame: Bytes, null: &Null, offsets: &mut Offsets, out: &mut BytesMut) -> anyhow::Result<()> {
    let (key, version) = (i16::from_be_bytes([frame[0], frame[1]]), i16::from_be_bytes([frame[2], frame[3]]));
    let known = APIS.iter().find(|(k, _, _)| *k as i16 == key);
    let api = known.ok_or_else(|| anyhow::anyhow!("API {key} v{version} is not offered"))?;
    let id = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
    if api.0 == ApiKey::ApiVersions {
        // Any version is answered, unknown ones in version 0 (KIP-511).
        let known = version <= api.2;
        return respond(out, api.0, if known { version } else { 0 }, id, &versions(known));
    }
    anyhow::ensure!((api.1..=api.2).contains(&version), "{:?} v{version} is not offered", api.0);
    RequestHeader::decode(&mut frame, api.0.request_header_version(version))?;
    match api.0 {
        ApiKey::Produce => {
            let request = ProduceRequest::decode(&mut frame, version)?;
            let acks = request.acks;
            let response = produced(request, offsets)?;
            if acks == 0 { Ok(()) } else { respond(out, api.0, version, id, &response) }
        }
        ApiKey::Metadata => {
            let request = MetadataRequest::decode(&mut frame, version)?;
            respond(out, api.0, version, id, &null.metadata(request, version))
        }
        ApiKey::CreateTopics => {
            let request = CreateTopicsRequest::decode(&mut frame, version)?;
            respond(out, api.0, version, id, &null.created(request))
        }
        ApiKey::InitProducerId => {
            let id_ = null.next_id.fetch_add(1, Ordering::Relaxed);
            let response =
                InitProducerIdResponse::default().with_producer_id(id_.into()).with_producer_epoch(0);
            respond(out, api.0, version, id, &response)
        }
        other => anyhow::bail!("{other:?} is not answered"),
    }
}

fn respond(
    out: &mut BytesMut,
    api: ApiKey,
    version: i16,
    id: i32,
    body: &impl Encodable,
) -> anyhow::Result<()> {
    let at = out.len();
    out.put_i32(0);
    ResponseHeader::default().with_correlation_id(id).encode(out, api.response_header_version(version))?;
    body.encode(out, version)?;
    let length = i32::try_from(out.len() - at - 4)?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn versions(known: bool) -> ApiVersionsResponse {
    let keys = APIS.iter().map(|(key, min, max)| {
        ApiVersion::default().with_api_key(*key as i16).with_min_version(*min).with_max_version(*max)
    });
    ApiVersionsResponse::default()
        .with_error_code(if known { 0 } else { UNSUPPORTED_VERSION })
        .with_api_keys(keys.collect())
}

fn produced(request: ProduceRequest, offsets: &mut Offsets) -> anyhow::Result<ProduceResponse> {
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let mut rows = Vec::with_capacity(topic.partition_data.len());
        for partition in topic.partition_data {
            let records = partition.records.unwrap_or_default();
            let count = BatchHeader::read(&records).map_or(0, |info| i64::from(info.last_offset_delta) + 1);
            let next = offsets.entry((topic.name.clone(), partition.index)).or_default();
            rows.push(
                PartitionProduceResponse::default().with_index(partition.index).with_base_offset(*next),
            );
            *next += count;
        }
        topics.push(TopicProduceResponse::default().with_name(topic.name).with_partition_responses(rows));
    }
    Ok(ProduceResponse::default().with_responses(topics))
}

impl Null {
    fn node(&self, n: usize) -> BrokerId {
        BrokerId((n % self.ports.len()) as i32 + 1)
    }

    fn metadata(&self, request: MetadataRequest, version: i16) -> MetadataResponse {
        let brokers = self.ports.iter().enumerate().map(|(i, port)| {
            MetadataResponseBroker::default()
                .with_node_id(self.node(i))
                .with_host(StrBytes::from_static_str("127.0.0.1"))
                .with_port(i32::from(*port))
        });
        let mut known = self.topics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let asked: Option<Vec<StrBytes>> =
            request.topics.map(|t| t.into_iter().filter_map(|t| t.name.map(|n| n.0)).collect());
        let names: Vec<StrBytes> = match asked {
            // In version 0 no names means all.
            Some(names) if !(names.is_empty() && version == 0) => {
                known.extend(names.iter().cloned());
                names
            }
            _ => known.iter().cloned().collect(),
        };
        let replicas: Vec<BrokerId> = (0..self.ports.len()).map(|i| self.node(i)).collect();
        let topics = names.into_iter().map(|name| {
            let partitions = (0..self.partitions).map(|p| {
                MetadataResponsePartition::default()
                    .with_partition_index(p)
                    .with_leader_id(self.node(p as usize))
                    .with_leader_epoch(1)
                    .with_replica_nodes(replicas.clone())
                    .with_isr_nodes(replicas.clone())
            });
            MetadataResponseTopic::default()
                .with_name(Some(TopicName(name)))
                .with_partitions(partitions.collect())
        });
        MetadataResponse::default()
            .with_brokers(brokers.collect())
            .with_cluster_id(Some(StrBytes::from_static_str("null")))
            .with_controller_id(self.node(0))
            .with_topics(topics.collect())
    }

    fn created(&self, request: CreateTopicsRequest) -> CreateTopicsResponse {
        let replicas = self.ports.len() as i16;
        let topics = request.topics.into_iter().map(|t| {
            CreatableTopicResult::default()
                .with_name(t.name)
                .with_num_partitions(self.partitions)
                .with_replication_factor(replicas)
        });
        CreateTopicsResponse::default().with_topics(topics.collect())
    }
}
