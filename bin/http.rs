//! A tiny HTTP/1.1 client for the admin address: one request, one answer, no TLS, no redirects.
//!
//! Called by `dev kill`, `dev restart`, `cluster health` and `partition recover`. Answers are bounded.

use crate::output::Failure;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest answer read.
const LIMIT: u64 = 16 << 20;

/// Sends a request without body; answers status and body.
pub async fn request(
    method: &str,
    address: &str,
    path: &str,
    limit: Duration,
) -> Result<(u16, String), Failure> {
    exchange(method, address, path, "", limit).await
}

/// Posts JSON; answers status and body.
pub async fn post(
    address: &str,
    path: &str,
    body: &serde_json::Value,
    limit: Duration,
) -> Result<(u16, String), Failure> {
    exchange("POST", address, path, &body.to_string(), limit).await
}

async fn exchange(
    method: &str,
    address: &str,
    path: &str,
    body: &str,
    limit: Duration,
) -> Result<(u16, String), Failure> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\n{kind}content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.take(LIMIT).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let unreachable = |reason: String| {
        Failure::new("ADMIN_UNREACHABLE", format!("cannot reach http://{address}{path}: {reason}"))
            .with_hint("is the node running with that admin address? `kontiki dev` prints it as admin=")
    };
    let answer = tokio::time::timeout(limit, exchange)
        .await
        .map_err(|_| unreachable(format!("no answer within {limit:?}")))?
        .map_err(|e| unreachable(e.to_string()))?;
    parse(&answer).ok_or_else(|| unreachable("the answer is not HTTP".into()))
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let chunked = lines.filter_map(|l| l.split_once(':')).any(|(k, v)| {
        k.eq_ignore_ascii_case("transfer-encoding") && v.trim().eq_ignore_ascii_case("chunked")
    });
    let body = &answer[end + 4..];
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        rest = &rest[line + 2..];
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_plain_and_chunked_bodies_agree() {
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
        assert_eq!(parse(plain).unwrap(), (200, "hello".into()));
        assert_eq!(parse(chunked).unwrap(), (200, "hello".into()));
    }

    #[test]
    fn parse_what_is_not_http_is_nothing() {
        for bad in [&b"HTTP/1.1 200 OK\r\n"[..], b"SSH-2.0\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", b""] {
            assert_eq!(parse(bad), None);
        }
    }
}
