//! Request frames: size, header v1/v2, response prefix. (contract stub)
use bytes::{Bytes, BytesMut};
/// A request, header split off.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Request {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<String>,
    /// What follows the header; still its own mutable buffer (batches are patched in place).
    pub body: BytesMut,
}
/// Why a frame is refused (the connection is closed with this reason in the log).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum FrameError {
    #[error("frame size {0} is not allowed (limit {1})")]
    Size(i64, usize),
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    #[error("api key {0} version {1} is not supported")]
    Unsupported(i16, i16),
    #[error("array count {count} cannot fit in the {remaining} bytes that are left")]
    Count { count: i64, remaining: usize },
}
/// Splits key, version, correlation id, client id (header v1, or v2 with tags) off a frame without its length prefix.
/// Unknown keys/versions: `Unsupported`, except ApiVersions of any version (fixed prefix only), which is returned.
pub fn split(_frame: BytesMut) -> Result<Request, FrameError> {
    unimplemented!()
}
/// Length prefix + response header (v0 or v1 as the version says) + body, as one buffer.
pub fn respond(_api_key: i16, _api_version: i16, _correlation_id: i32, _body: &[u8]) -> Bytes {
    unimplemented!()
}
