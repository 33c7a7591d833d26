//! Request frames: size, header v1/v2, response prefix.
//!
//! Not the connection loop (that is `broker`) and not the bodies. Called by the connection task for every request and by
//! handlers for every response that is not Produce or Fetch.
//!
//! Invariants:
//! - `split` never panics and leaves the body in the frame's own buffer (batches are patched in place later).
//! - An unknown key or version closes the connection, as Kafka does, except ApiVersions: it must be answered with its
//!   v0 body and error 35 (KIP-511), so only its fixed prefix is read.
//! - The client id is an int16 string in header v2 too, never compact.
use super::primitives::Reader;
use super::versions;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Encodable;

/// Key, version and correlation id: what every header begins with.
pub const PREFIX_LEN: usize = 8;

/// A request, header split off.
#[derive(Debug)]
pub struct Request {
    /// Which API.
    pub api_key: i16,
    /// Its version, served by us (or an unknown one of ApiVersions).
    pub api_version: i16,
    /// To be echoed in the response.
    pub correlation_id: i32,
    /// What the client calls itself; bytes that are not UTF-8 are replaced.
    pub client_id: Option<String>,
    /// What follows the header; still its own mutable buffer (batches are patched in place).
    pub body: BytesMut,
}

impl Request {
    /// Whether this is an ApiVersions request of a version we do not know: answer error 35 in a v0 body.
    pub fn is_unknown_api_versions(&self) -> bool {
        self.api_key == versions::API_VERSIONS && !versions::is_served(self.api_key, self.api_version)
    }
}

/// Why a frame is refused (the connection is closed with this reason in the log).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length prefix is negative or above the limit.
    #[error("frame size {0} is not allowed (limit {1})")]
    Size(i64, usize),
    /// The bytes are not what the schema says.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// No such API here, or not in this version.
    #[error("api key {0} version {1} is not supported")]
    Unsupported(i16, i16),
    /// An array that claims more elements than the frame can hold.
    #[error("array count {count} cannot fit in the {remaining} bytes that are left")]
    Count {
        /// The claimed count.
        count: i64,
        /// Bytes left in the frame.
        remaining: usize,
    },
    /// A frame made of very many tiny elements, each of which takes far more memory than its bytes.
    #[error("decoding would take {needed} bytes of memory, limit {limit}")]
    Memory {
        /// Estimated bytes.
        needed: usize,
        /// What a frame of this length may take.
        limit: usize,
    },
}

/// Length of a frame from its four-byte prefix.
///
/// # Errors
/// `Size` if negative or above `limit` (`socket.request.max.bytes`).
pub fn length(prefix: [u8; 4], limit: usize) -> Result<usize, FrameError> {
    let size = i32::from_be_bytes(prefix);
    match usize::try_from(size) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(FrameError::Size(i64::from(size), limit)),
    }
}

/// Splits key, version, correlation id, client id (header v1, or v2 with tags) off a frame without its length prefix.
/// Unknown keys/versions: `Unsupported`, except ApiVersions of any version (fixed prefix only), which is returned.
///
/// # Errors
/// `Malformed`, `Count` or `Unsupported`; the connection is to be closed.
pub fn split(mut frame: BytesMut) -> Result<Request, FrameError> {
    let mut reader = Reader::new(&frame);
    if reader.remaining() < PREFIX_LEN {
        return Err(FrameError::Malformed("shorter than a request header"));
    }
    let api_key = reader.int16()?;
    let api_version = reader.int16()?;
    let correlation_id = reader.int32()?;
    let served = versions::is_served(api_key, api_version);
    if !served && api_key != versions::API_VERSIONS {
        return Err(FrameError::Unsupported(api_key, api_version));
    }
    let mut client_id = None;
    if served {
        if let Some(length) = reader.string_length(false)? {
            client_id = Some(String::from_utf8_lossy(reader.take(length)?).into_owned());
        }
        if versions::is_flexible(api_key, api_version) {
            reader.skip_tags()?;
        }
    }
    let header_len = frame.len() - reader.remaining();
    frame.advance(header_len);
    Ok(Request { api_key, api_version, correlation_id, client_id, body: frame })
}

/// Bytes of a response before its body: length prefix, correlation id, maybe a tag buffer.
fn prefix_len(api_key: i16, api_version: i16) -> usize {
    4 + response_header_len(api_key, api_version)
}

fn response_header_len(api_key: i16, api_version: i16) -> usize {
    4 + usize::from(versions::has_tagged_response_header(api_key, api_version))
}

/// Starts a response frame whose length is not known yet; [`finish`] writes it.
pub(crate) fn begin(out: &mut BytesMut, api_key: i16, api_version: i16, correlation_id: i32) {
    out.put_i32(0);
    out.put_i32(correlation_id);
    if versions::has_tagged_response_header(api_key, api_version) {
        out.put_u8(0);
    }
}

/// Writes the length of a frame that was begun at the start of `out` and has `total` bytes with its prefix.
///
/// # Panics
/// If the frame exceeds 2 GiB: the callers hold responses to `fetch.max.bytes` and to what a request asked for.
pub(crate) fn finish(out: &mut BytesMut, total: usize) {
    let length = i32::try_from(total - 4).expect("a response is kept below 2 GiB by fetch.max.bytes");
    out[..4].copy_from_slice(&length.to_be_bytes());
}

/// Length prefix + response header (v0 or v1 as the version says) + body, as one buffer.
pub fn respond(api_key: i16, api_version: i16, correlation_id: i32, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(prefix_len(api_key, api_version) + body.len());
    begin(&mut out, api_key, api_version, correlation_id);
    out.put_slice(body);
    let total = out.len();
    finish(&mut out, total);
    out.freeze()
}

/// Like [`respond`], but encodes the message straight into the frame.
///
/// # Errors
/// `Malformed` if the codec refuses the message for this version (a field set that the version does not have).
pub fn respond_message<M: Encodable>(
    api_key: i16,
    api_version: i16,
    correlation_id: i32,
    message: &M,
) -> Result<Bytes, FrameError> {
    let refused = |_| FrameError::Malformed("response does not fit its version");
    let size = message.compute_size(api_version).map_err(refused)?;
    let mut out = BytesMut::with_capacity(prefix_len(api_key, api_version) + size);
    begin(&mut out, api_key, api_version, correlation_id);
    message.encode(&mut out, api_version).map_err(refused)?;
    let total = out.len();
    finish(&mut out, total);
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::versions::{API_VERSIONS, FETCH, METADATA, PRODUCE, supported};
    use kafka_protocol::messages::{RequestHeader, ResponseHeader};
    use kafka_protocol::protocol::{Decodable, StrBytes};

    fn frame(key: i16, version: i16, client_id: Option<&'static str>, body: &[u8]) -> BytesMut {
        let header = RequestHeader::default()
            .with_request_api_key(key)
            .with_request_api_version(version)
            .with_correlation_id(77)
            .with_client_id(client_id.map(StrBytes::from_static_str));
        let mut out = BytesMut::new();
        header.encode(&mut out, if versions::is_flexible(key, version) { 2 } else { 1 }).unwrap();
        out.put_slice(body);
        out
    }

    #[test]
    fn header_of_every_served_version_is_split_off() {
        for row in supported() {
            for version in row.served_min..=row.max {
                for client_id in [None, Some(""), Some("kcat")] {
                    let request = split(frame(row.key, version, client_id, b"body")).unwrap();
                    assert_eq!((request.api_key, request.api_version), (row.key, version));
                    assert_eq!(request.correlation_id, 77);
                    assert_eq!(request.client_id.as_deref(), client_id);
                    assert_eq!(&request.body[..], b"body");
                }
            }
        }
    }

    #[test]
    fn unknown_version_of_api_versions_is_returned_with_its_prefix_only() {
        for version in [5, 99, -1, i16::MIN] {
            let mut bytes = BytesMut::new();
            bytes.put_i16(API_VERSIONS);
            bytes.put_i16(version);
            bytes.put_i32(5);
            bytes.put_slice(&[0xff; 9]);
            let request = split(bytes).unwrap();
            assert!(request.is_unknown_api_versions());
            assert_eq!((request.api_version, request.correlation_id), (version, 5));
            assert_eq!(request.client_id, None);
            assert_eq!(request.body.len(), 9);
        }
    }

    #[test]
    fn unknown_key_or_version_is_unsupported() {
        for (key, version) in
            [(PRODUCE, 2), (PRODUCE, 14), (FETCH, 3), (METADATA, 14), (17, 0), (-1, 0), (999, 1)]
        {
            let mut bytes = BytesMut::new();
            bytes.put_i16(key);
            bytes.put_i16(version);
            bytes.put_i32(0);
            bytes.put_i16(-1);
            assert_eq!(split(bytes).unwrap_err(), FrameError::Unsupported(key, version));
        }
    }

    #[test]
    fn header_cut_at_every_byte_is_refused() {
        for version in [0, 9] {
            let whole = frame(METADATA, version, Some("client"), b"");
            for cut in 0..whole.len() {
                assert!(split(BytesMut::from(&whole[..cut])).is_err(), "v{version} cut at {cut}");
            }
        }
    }

    #[test]
    fn header_with_tags_is_skipped_and_a_tag_bomb_refused() {
        let mut bytes = frame(METADATA, 12, Some("c"), b"");
        bytes.truncate(bytes.len() - 1);
        let mut bomb = bytes.clone();
        bytes.put_slice(&[1, 5, 2, 0xaa, 0xbb]);
        bytes.put_slice(b"rest");
        assert_eq!(&split(bytes).unwrap().body[..], b"rest");
        bomb.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1]);
        assert!(matches!(split(bomb), Err(FrameError::Count { .. })));
    }

    #[test]
    fn length_outside_the_limit_is_refused() {
        assert_eq!(length([0, 0, 1, 0], 256), Ok(256));
        assert_eq!(length([0, 0, 1, 1], 256), Err(FrameError::Size(257, 256)));
        assert_eq!(length([0xff; 4], 256), Err(FrameError::Size(-1, 256)));
    }

    #[test]
    fn response_header_is_the_one_the_codec_expects() {
        for row in supported() {
            for version in row.served_min..=row.max {
                let mut out = respond(row.key, version, -9, b"xyz");
                assert_eq!(out.get_i32() as usize, out.len());
                let tagged = versions::has_tagged_response_header(row.key, version);
                let header = ResponseHeader::decode(&mut out, i16::from(tagged)).unwrap();
                assert_eq!(header.correlation_id, -9);
                assert_eq!(&out[..], b"xyz");
            }
        }
    }

    #[test]
    fn message_is_encoded_straight_into_the_frame() {
        let message = kafka_protocol::messages::MetadataResponse::default();
        let mut body = BytesMut::new();
        message.encode(&mut body, 12).unwrap();
        assert_eq!(respond_message(METADATA, 12, 3, &message).unwrap(), respond(METADATA, 12, 3, &body));
    }
}
