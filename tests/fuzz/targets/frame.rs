//! Frames off a socket: length prefix, header, and the way to the body that the dispatch goes. Bodies themselves: `request`.

use super::request;
use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Encodable, StrBytes};
use kontiki::wire::{bounds, frame, versions};

/// `socket.request.max.bytes` of this listener.
const LIMIT: usize = 1 << 20;

pub fn memory(length: usize) -> usize {
    request::memory(length) + 8 * length
}

pub fn run(mut data: &[u8]) {
    while let Some((prefix, rest)) = data.split_first_chunk::<4>() {
        let Ok(length) = frame::length(*prefix, LIMIT) else { return };
        assert!(length <= LIMIT);
        // A socket would be waited for.
        let Some((bytes, rest)) = rest.split_at_checked(length) else { return };
        data = rest;
        one(bytes);
    }
}

fn one(bytes: &[u8]) {
    let Ok(request) = frame::split(BytesMut::from(bytes)) else { return };
    let (key, version) = (request.api_key, request.api_version);
    assert!(bytes.ends_with(&request.body), "the body is the end of the frame");
    if request.is_unknown_api_versions() {
        assert_eq!(request.body, bytes[frame::PREFIX_LEN..]);
        return;
    }
    assert!(versions::is_served(key, version));
    let header = RequestHeader::default()
        .with_request_api_key(key)
        .with_request_api_version(version)
        .with_correlation_id(request.correlation_id)
        .with_client_id(request.client_id.clone().map(StrBytes::from_string));
    let mut again = BytesMut::new();
    // Bytes that are not UTF-8 grow when they are replaced, so a client id may have become too long to be written.
    let header_version = if versions::is_flexible(key, version) { 2 } else { 1 };
    if header.encode(&mut again, header_version).is_ok() {
        again.put_slice(&request.body);
        let second = frame::split(again).expect("a header that was written by the codec is read");
        assert_eq!((second.api_key, second.api_version), (key, version));
        assert_eq!(second.correlation_id, request.correlation_id);
        assert_eq!(second.client_id, request.client_id);
        assert_eq!(second.body, request.body);
    }
    if bounds::check(key, version, &request.body).is_ok() {
        request::decode(key, version, request.body);
    }
}
