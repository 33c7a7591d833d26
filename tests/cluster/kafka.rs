//! Just enough of Kafka's protocol over a blocking socket for the harness itself: who leads, who is in sync.
//! Not a client: records go through other people's clients (`tests/foreign`). Called by `system` and the tests.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader, TopicName,
    metadata_request::MetadataRequestTopic,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const METADATA_VERSION: i16 = 12;

/// One partition as a broker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number.
    pub index: i32,
    /// Leader's node id, -1 if there is none.
    pub leader: i32,
    /// Leader epoch.
    pub epoch: i32,
    /// All replicas, preferred leader first.
    pub replicas: Vec<i32>,
    /// In-sync replicas.
    pub in_sync: Vec<i32>,
}

/// A request frame: length, header, body as given.
pub fn frame(api_key: i16, version: i16, header_version: i16, body: &[u8]) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(api_key)
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("harness")));
    let mut rest = BytesMut::new();
    header.encode(&mut rest, header_version).expect("a header encodes");
    rest.put_slice(body);
    let mut out = BytesMut::with_capacity(rest.len() + 4);
    out.put_i32(rest.len() as i32);
    out.put(rest);
    out.freeze()
}

/// A Metadata request for one topic, without creating it.
pub fn metadata_request(topic: &str) -> Bytes {
    let name = TopicName(StrBytes::from_string(topic.to_string()));
    let body = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name))]))
        .with_allow_auto_topic_creation(false);
    let mut out = BytesMut::new();
    body.encode(&mut out, METADATA_VERSION).expect("a request encodes");
    frame(ApiKey::Metadata as i16, METADATA_VERSION, 2, &out)
}

/// Reads one response frame without its length.
pub fn read_frame(stream: &mut TcpStream) -> io::Result<Bytes> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body.into())
}

/// Connects with short time limits.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The partitions of a topic as the broker at `address` sees them.
pub fn partitions(address: SocketAddr, topic: &str) -> io::Result<Vec<Partition>> {
    let mut stream = connect(address)?;
    stream.write_all(&metadata_request(topic))?;
    let mut body = read_frame(&mut stream)?;
    ResponseHeader::decode(&mut body, 1).map_err(io::Error::other)?;
    let response = MetadataResponse::decode(&mut body, METADATA_VERSION).map_err(io::Error::other)?;
    if body.has_remaining() {
        return Err(io::Error::other("bytes behind the Metadata response"));
    }
    let topic =
        response.topics.into_iter().next().ok_or_else(|| io::Error::other("no topic in the answer"))?;
    if topic.error_code != 0 {
        return Err(io::Error::other(format!("topic error {}", topic.error_code)));
    }
    let mut found: Vec<Partition> = topic
        .partitions
        .into_iter()
        .map(|p| Partition {
            index: p.partition_index,
            leader: p.leader_id.0,
            epoch: p.leader_epoch,
            replicas: p.replica_nodes.iter().map(|n| n.0).collect(),
            in_sync: p.isr_nodes.iter().map(|n| n.0).collect(),
        })
        .collect();
    found.sort_by_key(|p| p.index);
    Ok(found)
}
