//! Walks a request body once against a compact shape table before the codec sees it. (contract stub)
use super::frame::FrameError;
/// Checks every count and length of a body of this key and version against the bytes that remain.
/// Guarantees: decoding it afterwards allocates at most a small multiple of its length, and consumes it exactly.
pub fn check(_api_key: i16, _api_version: i16, _body: &[u8]) -> Result<(), FrameError> {
    unimplemented!()
}
