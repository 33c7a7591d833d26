//! Dials a peer from the address this node listens on for peers.
//!
//! Not here: retries, back-off, what is said on the connection (`peer`). Called by the dialer alone.
//!
//! On a host with several addresses, `--peer-listen` on one of them says which network the nodes talk over: what we send goes
//! out from there too, so that firewalls, routes and a cut of that network see both directions alike. Every peer reaches
//! us at that address anyway, or could not connect at all. Invariant: an address that cannot reach the target (another
//! family, loopback to elsewhere) is never bound.

use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream};

/// The source for connections when we listen on `bound`: none if that is every interface.
pub fn source_of(bound: SocketAddr) -> Option<IpAddr> {
    let ip = bound.ip().to_canonical();
    (!ip.is_unspecified()).then_some(ip)
}

/// Whether a connection to `target` can start at `source`.
fn reaches(source: IpAddr, target: IpAddr) -> bool {
    let target = target.to_canonical();
    source.is_ipv4() == target.is_ipv4() && source.is_loopback() == target.is_loopback()
}

/// Connects to `host:port`, to each of its addresses until one answers.
pub async fn connect(address: &str, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut last = None;
    for target in tokio::net::lookup_host(address).await? {
        match connect_one(target, source.filter(|&s| reaches(s, target.ip()))).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

async fn connect_one(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(target).await };
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(target).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn listener_on_every_interface_names_no_source() {
        assert_eq!(source_of("0.0.0.0:9192".parse().expect("an address")), None);
        assert_eq!(source_of("[::]:9192".parse().expect("an address")), None);
        assert_eq!(source_of("10.0.0.7:9192".parse().expect("an address")), Some(ip("10.0.0.7")));
        assert_eq!(source_of("[::ffff:10.0.0.7]:9192".parse().expect("an address")), Some(ip("10.0.0.7")));
    }

    #[test]
    fn source_that_cannot_reach_the_target_is_not_bound() {
        assert!(reaches(ip("127.0.0.1"), ip("127.0.0.12")));
        assert!(reaches(ip("10.0.0.7"), ip("192.168.1.1")));
        assert!(reaches(ip("10.0.0.7"), ip("::ffff:192.168.1.1")));
        assert!(!reaches(ip("127.0.0.1"), ip("10.0.0.7")));
        assert!(!reaches(ip("10.0.0.7"), ip("127.0.0.1")));
        assert!(!reaches(ip("10.0.0.7"), ip("fd00::7")));
    }

    #[tokio::test]
    async fn connection_comes_from_the_peer_address_of_its_node() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let dialled = connect(&address, Some(ip("127.0.0.12"))).await.expect("a listener");
        let (_accepted, from) = listener.accept().await.expect("a connection");
        assert_eq!(from.ip(), ip("127.0.0.12"));
        assert_eq!(dialled.local_addr().expect("bound"), from);
        // Loopback cannot be the source of a connection elsewhere: left to the kernel instead of failing.
        let _dialled = connect(&address, Some(ip("192.0.2.1"))).await.expect("a listener");
        let (_accepted, from) = listener.accept().await.expect("a connection");
        assert_eq!(from.ip(), ip("127.0.0.1"));
    }
}
