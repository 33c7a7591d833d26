//! Listeners of brokers, as in Kafka: each has a name and an address of its own that is advertised, and a client is told the brokers'
//! addresses for the listener it came in by. Decision 0023.
//!
//! Not here: sockets (`broker::server`), the node's own flags (`bin/config`), the answers (`broker::handlers`).
//! Called by all of these, by `configs` and by `decide`. Invariants: names are in upper case, as Kafka keeps them; a broker has at most
//! [`LISTENERS_MAX`] of them, no name twice.

use super::command::Error;
use super::image::{Broker, Image};
use super::record::Endpoint;
use crate::segment::NodeId;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use uuid::Uuid;

/// Name of a listener that was given none.
pub const PLAINTEXT: &str = "PLAINTEXT";
/// Most listeners of a broker.
pub const LISTENERS_MAX: usize = 16;
/// Kafka's name of what a broker's listeners advertise; set at run time it stands above what the broker registered with.
pub const ADVERTISED: &str = "advertised.listeners";
/// Longest name, and longest host (RFC 1035).
const TEXT_MAX: usize = 255;
/// Names of Kafka's security protocols that are not built: a client of such a listener would expect one.
const NOT_BUILT: [&str; 3] = ["SSL", "SASL_PLAINTEXT", "SASL_SSL"];

/// Addresses by the names of their listeners, as written: `NAME://HOST:PORT`, separated by commas. One without a name is that of
/// [`PLAINTEXT`]. Port 0 is let through: it stands for the one that is bound.
///
/// # Errors
/// What is wrong with which of them.
pub fn parse(text: &str) -> Result<Vec<(String, Endpoint)>, String> {
    let mut found: Vec<(String, Endpoint)> = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (listener, address) = item.split_once("://").unwrap_or((PLAINTEXT, item));
        let listener = name(listener)?;
        let endpoint = Endpoint::parse(address)
            .ok_or_else(|| format!("`{item}` is not HOST:PORT or NAME://HOST:PORT"))?;
        if found.iter().any(|(other, _)| *other == listener) {
            return Err(format!("listener {listener} is named twice"));
        }
        found.push((listener, endpoint));
    }
    if found.len() > LISTENERS_MAX {
        return Err(format!("{} listeners are more than {LISTENERS_MAX}", found.len()));
    }
    Ok(found)
}

/// The text that [`parse`] reads.
pub fn text<'a>(listeners: impl IntoIterator<Item = (&'a String, &'a Endpoint)>) -> String {
    let items: Vec<String> = listeners.into_iter().map(|(name, at)| format!("{name}://{at}")).collect();
    items.join(",")
}

fn name(text: &str) -> Result<String, String> {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if text.is_empty() || text.len() > TEXT_MAX || !text.bytes().all(is_letter) {
        return Err(format!("`{text}` is no name of a listener: letters, digits, `_`, `-` and `.`"));
    }
    let name = text.to_ascii_uppercase();
    if NOT_BUILT.contains(&name.as_str()) {
        return Err(format!("listener {name}: encryption and authentication are not built yet"));
    }
    Ok(name)
}

impl Endpoint {
    /// Reads `HOST:PORT`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Option<Endpoint> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*');
        let is_name = !host.is_empty() && host.len() <= TEXT_MAX && host.bytes().all(is_letter);
        // A zone, as in fe80::1%eth0, is none of the address.
        let is_host =
            is_name || host.split('%').next()?.parse::<Ipv6Addr>().is_ok() && host.len() <= TEXT_MAX;
        Some(Endpoint { host: host.to_owned(), port: port.parse().ok()? }).filter(|_| is_host)
    }

    /// Whether it stands for every interface, which nobody can connect to.
    pub fn is_wildcard(&self) -> bool {
        let is_unspecified = self.host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        is_unspecified || matches!(self.host.as_str(), "*" | "0")
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What a broker registers of its listeners: the first one's address, and all by name unless that one is [`PLAINTEXT`] and alone (a
/// record then is as it was before listeners had names).
pub fn registered(listeners: Vec<(String, Endpoint)>) -> Option<(Endpoint, BTreeMap<String, Endpoint>)> {
    let (name, first) = listeners.first()?.clone();
    let is_plain = listeners.len() == 1 && name == PLAINTEXT;
    Some((first, if is_plain { BTreeMap::new() } else { listeners.into_iter().collect() }))
}

/// Addresses of a registration: the first listener's, all by name, the peers'.
type Addresses<'a> = (&'a Endpoint, &'a BTreeMap<String, Endpoint>, &'a Endpoint);

impl Broker {
    /// One that has just registered: its id, the registration's number, and the directory.
    pub(super) fn live(
        (node, incarnation, directory): (NodeId, u64, Uuid),
        (kafka, listeners, peer): Addresses,
        rack: &Option<String>,
    ) -> Broker {
        Broker {
            node,
            incarnation,
            directory,
            kafka: kafka.clone(),
            listeners: listeners.clone(),
            peer: peer.clone(),
            rack: rack.clone(),
            fenced: false,
            stopping: false,
            dead: false,
        }
    }

    /// What it registered for its listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Endpoint> {
        if self.listeners.is_empty() {
            return (name == PLAINTEXT).then_some(&self.kafka);
        }
        self.listeners.get(name)
    }

    /// Names of its listeners.
    pub fn listener_names(&self) -> Vec<&str> {
        if self.listeners.is_empty() {
            return vec![PLAINTEXT];
        }
        self.listeners.keys().map(String::as_str).collect()
    }
}

impl Image {
    /// Where clients of a listener reach a broker: what was set for it at run time, else what it registered with; None if it has no
    /// listener of this name.
    pub fn advertised(&self, node: NodeId, listener: &str) -> Option<Endpoint> {
        let broker = self.brokers.get(&node)?;
        let registered = broker.listener(listener)?;
        let set = self.broker_configs.get(&node).and_then(|own| own.get(ADVERTISED));
        let set = set.and_then(|text| parse(text).ok()?.into_iter().find(|(name, _)| name == listener));
        Some(set.map_or_else(|| registered.clone(), |(_, endpoint)| endpoint))
    }
}

/// Whether a broker's listeners may advertise this from now on.
pub(super) fn check_advertised(image: &Image, node: NodeId, value: &str) -> Result<(), Error> {
    let all = parse(value).map_err(|why| Error::InvalidConfig(format!("{ADVERTISED}: {why}")))?;
    let Some(broker) = image.brokers.get(&node) else { return Ok(()) };
    for (name, endpoint) in &all {
        if broker.listener(name).is_none() {
            return Err(Error::InvalidConfig(format!(
                "{ADVERTISED}: broker {node} has no listener {name}; it has {}",
                broker.listener_names().join(", ")
            )));
        }
        if endpoint.port == 0 || endpoint.is_wildcard() {
            return Err(Error::InvalidConfig(format!("{ADVERTISED}: nobody can connect to {endpoint}")));
        }
        let is_told = |other: &&Broker| {
            let names = other.listener_names();
            names.iter().any(|name| image.advertised(other.node, name).as_ref() == Some(endpoint))
        };
        if let Some(other) = image.live_brokers().filter(|other| other.node != node).find(is_told) {
            let why = format!("{ADVERTISED}: {endpoint} is what broker {} advertises", other.node);
            return Err(Error::InvalidConfig(why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.into(), port }
    }

    #[test]
    fn listeners_have_names_in_upper_case_and_plaintext_is_the_one_without() {
        let read = parse("internal://kontiki-1:9092, EXTERNAL://[::1]:19092").unwrap();
        let all = vec![
            ("INTERNAL".to_owned(), endpoint("kontiki-1", 9092)),
            ("EXTERNAL".to_owned(), endpoint("::1", 19092)),
        ];
        assert_eq!(read, all);
        assert_eq!(
            text(read.iter().map(|(n, e)| (n, e))),
            "INTERNAL://kontiki-1:9092,EXTERNAL://[::1]:19092"
        );
        assert_eq!(parse("h:0").unwrap(), [(PLAINTEXT.to_owned(), endpoint("h", 0))]);
        for (bad, why) in [
            ("", "is not HOST:PORT"),
            ("a:1,", "is not HOST:PORT"),
            ("a", "is not HOST:PORT"),
            ("A://:1", "is not HOST:PORT"),
            ("A://h:70000", "is not HOST:PORT"),
            ("A://http://h:1", "is not HOST:PORT"),
            ("EXTERNAL:h:1", "is not HOST:PORT"),
            ("h:9092:19092", "is not HOST:PORT"),
            ("h\t:1", "is not HOST:PORT"),
            ("a b://h:1", "no name of a listener"),
            ("://h:1", "no name of a listener"),
            ("a://h:1,A://h:2", "A is named twice"),
            ("SASL_SSL://h:1", "not built yet"),
        ] {
            let refused = parse(bad).unwrap_err();
            assert!(refused.contains(why), "{bad}: {refused}");
        }
        for wildcard in ["0.0.0.0:1", "[::]:1", "[::0]:1", "[0:0:0:0:0:0:0:0]:1", "0:1", "*:1"] {
            assert!(Endpoint::parse(wildcard).is_some_and(|at| at.is_wildcard()), "{wildcard}");
        }
        for one in ["[fe80::1%eth0]:1", "kontiki_1.net-a:1", "10.0.0.1:1"] {
            assert!(Endpoint::parse(one).is_some_and(|at| !at.is_wildcard()), "{one}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("L{n}://h:1")).collect();
        assert!(parse(&many.join(",")).unwrap_err().contains("more than 16"));
    }

    #[test]
    fn plain_listener_alone_is_registered_as_before_and_others_by_name() {
        let plain = vec![(PLAINTEXT.to_owned(), endpoint("h", 1))];
        assert_eq!(registered(plain), Some((endpoint("h", 1), BTreeMap::new())));
        let one = vec![("B".to_owned(), endpoint("h", 1))];
        let two = [one.clone(), vec![("A".to_owned(), endpoint("g", 2))]].concat();
        assert_eq!(registered(one.clone()), Some((endpoint("h", 1), one.into_iter().collect())));
        let (first, all) = registered(two).unwrap();
        assert_eq!((first, all.len()), (endpoint("h", 1), 2));
        assert_eq!(registered(Vec::new()), None);
    }
}
