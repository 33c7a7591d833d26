//! The merged settings as the broker's `NodeConfig`, with the checks that concern more than one key.
//!
//! Called by `start` only; `config print` shows settings without them being complete.

use super::keys;
use super::{Origin, Settings};
use crate::output::Failure;
use crate::text;
use kontiki::broker::config::{
    Defaults, Endpoint, Listener, NodeConfig, NodeId, PLAINTEXT, RACK_AWARE_SELECTOR,
    default_max_connections, listeners,
};
use std::collections::BTreeMap;
use std::time::Duration;

impl Settings {
    /// The configuration of a node.
    pub fn node_config(&self) -> Result<NodeConfig, Failure> {
        let node_id = NodeId(self.number("node-id")?);
        let (is_broker, is_controller) = keys::roles(self.required("roles")?).map_err(Failure::usage)?;
        let controllers = self.controllers()?;
        check_roles(node_id, is_controller, &controllers)?;
        check_ports(node_id, &controllers)?;
        let (peer_listen, peer_advertise) = self.peer_addresses(controllers.get(&node_id))?;
        let (election_min, election_max) = self.election()?;
        Ok(NodeConfig {
            node_id,
            is_broker,
            is_controller,
            controllers,
            listeners: self.listeners(is_broker)?,
            peer_listen,
            peer_advertise,
            admin_listen: self.value("admin-listen").map(str::to_owned),
            ports_file: self.value("ports-file").map(Into::into),
            data_dir: self.required("data-dir")?.into(),
            rack: self.value("rack").map(str::to_owned),
            defaults: self.defaults()?,
            auto_create_topics: self.value("auto.create.topics.enable") == Some("true"),
            max_connections: match self.value("max.connections") {
                Some(_) => self.number("max.connections")?,
                None => default_max_connections(),
            },
            max_connections_per_ip: self.number("max.connections.per.ip")?,
            connections_max_idle: self.millis("connections.max.idle.ms")?,
            first_byte_timeout: self.millis("first-byte-timeout-ms")?,
            max_request_bytes: self.number("socket.request.max.bytes")?,
            fetch_max_bytes: self.number("fetch.max.bytes")?,
            fetch_session_slots: self.number("max.incremental.fetch.session.cache.slots")?,
            replica_lag_time_max: self.millis("replica.lag.time.max.ms")?,
            is_rack_aware: self.value("replica.selector.class") == Some(RACK_AWARE_SELECTOR),
            broker_session_timeout: self.millis("broker.session.timeout.ms")?,
            broker_reconnect_timeout: self.millis("broker.reconnect.timeout.ms")?,
            shrink_grace: self.millis("shrink.grace.ms")?,
            replace_grace: u64::try_from(self.number::<i64>("replace.grace.ms")?)
                .ok()
                .map(Duration::from_millis),
            shrink_min_voters: self.number("shrink.min.voters")?,
            heir_timeout: self.millis("controller.quorum.heir.timeout.ms")?,
            scrub_bytes_per_second: self.number("log.scrub.bytes.per.second")?,
            scrub_interval: self.millis("log.scrub.interval.ms")?,
            beat: self.millis("raft.beat-ms")?,
            election_min,
            election_max,
            shutdown_timeout: self.millis("shutdown-timeout-ms")?,
        })
    }

    fn required(&self, name: &str) -> Result<&str, Failure> {
        self.value(name).ok_or_else(|| {
            let variable = keys::find(name).map(keys::Key::variable).unwrap_or_default();
            Failure::usage(format!("{name} is not set"))
                .with_hint(format!("--{name}, {variable}, or `{name}` in the file"))
        })
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, Failure> {
        let value = self.required(name)?;
        value.parse().map_err(|_| Failure::usage(format!("{name}: `{value}` is out of range")))
    }

    fn millis(&self, name: &str) -> Result<Duration, Failure> {
        Ok(Duration::from_millis(self.number(name)?))
    }

    fn address(&self, name: &str) -> Result<Option<Endpoint>, Failure> {
        let endpoint = |value| {
            let (host, port) =
                text::host_port(value).map_err(|why| Failure::usage(format!("{name}: {why}")))?;
            Ok(Endpoint { host, port })
        };
        self.value(name).map(endpoint).transpose()
    }

    fn controllers(&self) -> Result<BTreeMap<NodeId, String>, Failure> {
        let list = keys::controllers(self.required("controllers")?).map_err(Failure::usage)?;
        Ok(list.into_iter().map(|(id, address)| (NodeId(id), address)).collect())
    }

    /// Listeners of Kafka clients and what they advertise. An address nobody can connect to is refused here, where it
    /// can be explained, not met later by every client.
    fn listeners(&self, is_broker: bool) -> Result<Vec<Listener>, Failure> {
        if !is_broker {
            let set = ["listen", "advertise"].into_iter().find(|name| self.value(name).is_some());
            return match set {
                Some(name) => Err(Failure::usage(format!("{name} needs role broker"))),
                None => Ok(Vec::new()),
            };
        }
        let read = |name: &str, value: &str| {
            listeners::parse(value).map_err(|why| Failure::usage(format!("{name}: {why}")))
        };
        let bound = read("listen", self.required("listen")?)?;
        let doubles = |(at, (_, one)): (usize, &(String, Endpoint))| {
            one.port != 0 && bound[..at].iter().any(|(_, other)| other == one)
        };
        if bound.iter().enumerate().any(doubles) {
            return Err(Failure::usage("listen: two listeners cannot have one address"));
        }
        let told = self.value("advertise").map_or(Ok(Vec::new()), |value| read("advertise", value))?;
        if let Some((name, _)) = told.iter().find(|(name, _)| bound.iter().all(|(other, _)| other != name)) {
            let names: Vec<&str> = bound.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Failure::usage(format!("advertise: there is no listener {name}"))
                .with_hint(format!("listen has {}", names.join(", "))));
        }
        let told: BTreeMap<String, Endpoint> = told.into_iter().collect();
        bound.into_iter().map(|(name, bind)| listener(told.get(&name), name, bind)).collect()
    }

    fn peer_addresses(&self, as_controller: Option<&String>) -> Result<(String, Option<Endpoint>), Failure> {
        let listen = self.required("peer-listen")?.to_owned();
        if let Some(advertise) = self.address("peer-advertise")? {
            return Ok((listen, Some(advertise)));
        }
        if !is_wildcard(&listen) {
            return Ok((listen, None));
        }
        // A controller's address is in the list that everybody has.
        let known = as_controller.and_then(|a| text::host_port(a).ok());
        match known {
            Some((host, port)) => Ok((listen, Some(Endpoint { host, port }))),
            None => Err(Failure::usage(format!("peer-listen {listen} needs a peer-advertise address"))
                .with_hint("--peer-advertise HOST:PORT as other nodes reach this one")),
        }
    }

    fn election(&self) -> Result<(Duration, Duration), Failure> {
        let (beat, min, max) = (
            self.millis("raft.beat-ms")?,
            self.millis("raft.election-min-ms")?,
            self.millis("raft.election-max-ms")?,
        );
        // Followers must miss several beats before they stand (Raft §5.6: broadcast time << election timeout).
        if min < beat * 3 || max <= min {
            return Err(Failure::usage(format!(
                "election timeouts {min:?} to {max:?} do not fit a beat of {beat:?}: the shortest must be at least 3 beats, \
                 the longest above it"
            )));
        }
        Ok((min, max))
    }

    fn defaults(&self) -> Result<Defaults, Failure> {
        // The broker reads them by name, as defaults of topics among others, and shows them in DescribeConfigs.
        let set = self.iter().filter(|(key, setting)| key.kafka && setting.origin != Origin::Default);
        let set = set.map(|(key, _)| (key.name, key.name));
        let shown = |(shown, name): (&str, &str)| {
            let value = self.value(name)?;
            let is_listener = matches!(name, "listen" | "advertise");
            let named = listeners::parse(value).ok().filter(|_| is_listener);
            let named = named.map(|all| listeners::text(all.iter().map(|(name, at)| (name, at))));
            Some((shown.to_owned(), named.unwrap_or_else(|| value.to_owned())))
        };
        let broker = set.chain(keys::NAMED_OTHERWISE.iter().copied()).filter_map(shown).collect();
        Ok(Defaults {
            num_partitions: self.number("num.partitions")?,
            replication_factor: match self.value("default.replication.factor") {
                Some(_) => Some(self.number("default.replication.factor")?),
                None => None,
            },
            broker,
        })
    }
}

fn listener(told: Option<&Endpoint>, name: String, bind: Endpoint) -> Result<Listener, Failure> {
    if told.is_none() && bind.is_wildcard() {
        let which = if name == PLAINTEXT { String::new() } else { format!("{name}://") };
        return Err(Failure::usage(format!("listen {which}{bind} needs an advertise address")).with_hint(
            format!(
                "--advertise {which}HOST:PORT as clients reach this broker; they are told to connect there"
            ),
        ));
    }
    if told.is_some_and(Endpoint::is_wildcard) {
        return Err(Failure::usage("advertise is an address that nobody can connect to"));
    }
    Ok(Listener { name, bind, advertise: told.cloned() })
}

fn check_roles(
    id: NodeId,
    is_controller: bool,
    controllers: &BTreeMap<NodeId, String>,
) -> Result<(), Failure> {
    match (is_controller, controllers.contains_key(&id)) {
        (true, false) => {
            Err(Failure::usage(format!("node {id} has role controller but is not in controllers")))
        }
        (false, true) => {
            Err(Failure::usage(format!("node {id} is in controllers but lacks role controller")))
        }
        _ => Ok(()),
    }
}

/// Port 0 is any free one, which nobody else can know: of a controller only where it is this node, and alone.
fn check_ports(id: NodeId, controllers: &BTreeMap<NodeId, String>) -> Result<(), Failure> {
    let is_any = |address: &String| text::host_port(address).is_ok_and(|(_, port)| port == 0);
    match controllers
        .iter()
        .find(|(node, address)| is_any(address) && (**node != id || controllers.len() > 1))
    {
        Some((node, address)) => {
            Err(Failure::usage(format!("controllers: nobody can connect to port 0 of {node}@{address}"))
                .with_hint("its --ports-file says which port it has"))
        }
        None => Ok(()),
    }
}

fn is_wildcard(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    matches!(host.trim_matches(['[', ']']), "0.0.0.0" | "::" | "*")
}

#[cfg(test)]
mod tests {
    use super::super::NodeFlags;
    use super::*;
    use kontiki::broker::config::BROKER_KEYS;

    fn flags() -> NodeFlags {
        NodeFlags {
            node_id: Some("1".into()),
            roles: Some("broker,controller".into()),
            controllers: Some("1@h:9192,2@i:9192".into()),
            listen: Some("127.0.0.1:9092".into()),
            peer_listen: Some("127.0.0.1:9192".into()),
            data_dir: Some("/d".into()),
            ..NodeFlags::default()
        }
    }

    fn config(flags: &NodeFlags) -> Result<NodeConfig, Failure> {
        Settings::load(flags, std::iter::empty())?.node_config()
    }

    #[test]
    fn node_config_complete_flags_give_defaults_of_the_design() {
        let mut flags = flags();
        flags.set = vec![
            ("log.retention.ms".into(), "5000".into()),
            ("default.replication.factor".into(), "2".into()),
            ("metadata.log.max.record.bytes.between.snapshots".into(), "3000".into()),
        ];
        let config = config(&flags).unwrap();
        assert_eq!(config.controllers[&NodeId(2)], "i:9192");
        assert_eq!(
            (config.beat, config.election_min),
            (Duration::from_millis(100), Duration::from_millis(600))
        );
        assert_eq!(config.defaults.replication_factor, Some(2));
        let broker = &config.defaults.broker;
        assert_eq!(broker["log.retention.ms"], "5000");
        assert_eq!(broker["metadata.log.max.record.bytes.between.snapshots"], "3000");
        // What was not set is left to Kafka's defaults; our flags stand under Kafka's names.
        assert!(!broker.contains_key("log.retention.hours"), "{broker:?}");
        assert_eq!((&broker["node.id"][..], &broker["log.dirs"][..]), ("1", "/d"));
        assert!(broker["listeners"].starts_with("PLAINTEXT://"), "{broker:?}");
        assert!(config.auto_create_topics);
    }

    /// Set to something else than its default, every key that DescribeConfigs and docs/configuration.md name arrives at the broker.
    #[test]
    fn every_documented_broker_key_can_be_set_and_is_shown_as_set() {
        let words = ["producer", "delete", "LogAppendTime", "3.9", RACK_AWARE_SELECTOR];
        let samples = [&["1048577", "7", "0.25", "1", "false", "true"], &words[..]].concat();
        let mut set = flags();
        (set.rack, set.advertise) = (Some("r".into()), Some("a:1".into()));
        let mut expected = BTreeMap::new();
        for key in BROKER_KEYS {
            if keys::NAMED_OTHERWISE.iter().any(|(shown, _)| *shown == key.name) {
                assert!(keys::find(key.name).is_none(), "{} has two names", key.name);
                continue;
            }
            let is_other = |value: &&&str| key.check(value).is_ok() && key.default != Some(**value);
            // Of some keys only the default is built.
            let value = samples.iter().find(is_other).copied().or(key.default).expect("a value of each kind");
            let found = keys::find(key.name).unwrap_or_else(|| panic!("{} cannot be set", key.name));
            assert!(found.kafka && found.default == key.default, "{}", key.name);
            set.set.push((key.name.to_owned(), value.to_owned()));
            expected.insert(key.name, value);
        }
        assert!(expected.len() > 50, "a table that names less is not the one");
        assert_eq!(expected.len() + keys::NAMED_OTHERWISE.len(), BROKER_KEYS.len());
        assert_eq!(keys::KEYS.iter().filter(|key| key.kafka).count(), expected.len());
        assert!(
            expected["shrink.grace.ms"] != "300000"
                && expected["leader.replication.throttled.rate"] == "1048577"
        );
        let shown = config(&set).unwrap().defaults.broker;
        for (name, value) in &expected {
            assert_eq!(shown.get(*name).map(String::as_str), Some(*value), "{name}");
        }
        for (name, _) in keys::NAMED_OTHERWISE {
            assert!(shown.contains_key(*name), "{name}");
        }
        assert_eq!(shown.len(), BROKER_KEYS.len(), "{shown:?}");
        assert_eq!((&shown["advertised.listeners"][..], &shown["broker.rack"][..]), ("PLAINTEXT://a:1", "r"));
    }

    #[test]
    fn node_config_missing_or_contradicting_keys_are_usage_errors() {
        type Change = fn(&mut NodeFlags);
        let cases: [(Change, &str); 15] = [
            (|f| f.node_id = None, "node-id is not set"),
            (|f| f.data_dir = None, "data-dir is not set"),
            (|f| f.listen = None, "listen is not set"),
            (|f| f.roles = Some("controller".into()), "listen needs role broker"),
            (|f| f.roles = Some("broker".into()), "lacks role controller"),
            (|f| f.node_id = Some("3".into()), "not in controllers"),
            (|f| f.listen = Some("0.0.0.0:9092".into()), "needs an advertise address"),
            (|f| f.listen = Some("A://h:1,B://0.0.0.0:2".into()), "B://0.0.0.0:2 needs an advertise address"),
            (|f| f.listen = Some("A://h:1,a://h:2".into()), "listener A is named twice"),
            (|f| f.listen = Some("A://h:1,B://h:1".into()), "cannot have one address"),
            (|f| f.listen = Some("SSL://h:1".into()), "not built yet"),
            (|f| f.advertise = Some("EXTERNAL://h:1".into()), "there is no listener EXTERNAL"),
            (|f| f.controllers = Some("1@h:0,2@i:9192".into()), "port 0 of 1@h:0"),
            (|f| (f.roles, f.controllers) = (Some("broker".into()), Some("2@i:0".into())), "port 0 of 2@i:0"),
            (|f| f.set = vec![("raft.election-min-ms".into(), "200".into())], "at least 3 beats"),
        ];
        for (change, expected) in cases {
            let mut flags = flags();
            change(&mut flags);
            let failure = config(&flags).unwrap_err();
            assert!(failure.message().contains(expected), "{failure:?}");
        }
    }

    #[test]
    fn each_listener_has_the_advertised_address_of_its_name() {
        let mut flags = flags();
        flags.listen = Some("INTERNAL://0.0.0.0:9092,external://[::1]:19092".into());
        flags.advertise = Some("internal://kontiki-1:9092".into());
        let config = config(&flags).unwrap();
        let shown: Vec<String> = config.listeners.iter().map(|l| format!("{} {}", l.name, l.bind)).collect();
        assert_eq!(shown, ["INTERNAL 0.0.0.0:9092", "EXTERNAL [::1]:19092"]);
        let told = Endpoint { host: "kontiki-1".into(), port: 9092 };
        assert_eq!((&config.listeners[0].advertise, &config.listeners[1].advertise), (&Some(told), &None));
        let broker = &config.defaults.broker;
        assert_eq!(broker["listeners"], "INTERNAL://0.0.0.0:9092,EXTERNAL://[::1]:19092");
        assert_eq!(broker["advertised.listeners"], "INTERNAL://kontiki-1:9092");
    }

    #[test]
    fn node_config_wildcard_peer_listener_of_controller_uses_its_listed_address() {
        let mut flags = flags();
        flags.peer_listen = Some("0.0.0.0:9192".into());
        assert_eq!(config(&flags).unwrap().peer_advertise, Some(Endpoint { host: "h".into(), port: 9192 }));
        flags.roles = Some("broker".into());
        flags.node_id = Some("3".into());
        assert!(config(&flags).unwrap_err().message().contains("peer-advertise"));
    }
}
