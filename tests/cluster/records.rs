//! Records of `__consumer_offsets` against Kafka's own generated classes: no cluster, but Kafka's jars (`tests/foreign/install.sh`).

use super::system::root;
use bytes::Bytes;
use kontiki::broker::groups::Committed;
use kontiki::broker::groups::records::{
    StoredGroup, StoredMember, group_key, offset_key, write_group, write_offset,
};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What Kafka's classes make of these lines, line by line.
fn kafka(lines: &str) -> Vec<String> {
    let library = root().join("target/foreign/kafka/lib");
    assert!(library.exists(), "{} is missing: run tests/foreign/install.sh", library.display());
    let mut child = Command::new("java")
        .args([
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dfile.encoding=UTF-8",
            "-Dstdout.encoding=UTF-8",
        ])
        .arg("-cp")
        .arg(library.join("*"))
        .arg(root().join("tests/foreign/kafka/Records.java"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("java");
    let (mut input, lines) = (child.stdin.take().expect("a pipe"), lines.to_owned());
    let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("java");
    writing.join().expect("it only writes").expect("it reads all");
    assert!(output.status.success(), "Kafka's classes do not take it");
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}

fn word(rng: &mut StdRng) -> String {
    let of = ["", "a", "consumer", "ä", "\u{1F600}", "/127.0.0.1"];
    of[rng.random_range(0..of.len())].repeat(rng.random_range(1..40))
}

fn maybe(rng: &mut StdRng) -> Option<String> {
    rng.random_bool(0.5).then(|| word(rng))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().chain([&0, &0]).take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

fn group(rng: &mut StdRng) -> (Bytes, Value) {
    let member = |rng: &mut StdRng| StoredMember {
        id: word(rng),
        instance: maybe(rng),
        client_id: word(rng),
        client_host: word(rng),
        rebalance_ms: rng.random(),
        session_ms: rng.random(),
        subscription: (0..rng.random_range(0..9)).map(|_| rng.random::<u8>()).collect::<Vec<_>>().into(),
        assignment: (0..rng.random_range(0..9)).map(|_| rng.random::<u8>()).collect::<Vec<_>>().into(),
    };
    let group = StoredGroup {
        protocol_type: word(rng),
        generation: rng.random(),
        protocol: maybe(rng),
        leader: maybe(rng),
        since_ms: rng.random(),
        members: (0..rng.random_range(0..5)).map(|_| member(rng)).collect(),
    };
    let member = |m: &StoredMember| {
        json!({
            "memberId": m.id, "groupInstanceId": m.instance, "clientId": m.client_id, "clientHost": m.client_host,
            "rebalanceTimeout": m.rebalance_ms, "sessionTimeout": m.session_ms,
            "subscription": base64(&m.subscription), "assignment": base64(&m.assignment),
        })
    };
    let said = json!({
        "protocolType": group.protocol_type, "generation": group.generation, "protocol": group.protocol,
        "leader": group.leader, "currentStateTimestamp": group.since_ms,
        "members": group.members.iter().map(member).collect::<Vec<_>>(),
    });
    (write_group(&group), said)
}

fn offset(rng: &mut StdRng) -> (i16, Bytes, Value) {
    let until_ms = rng.random_bool(0.3).then(|| rng.random_range(0..i64::MAX));
    let leader_epoch = if until_ms.is_some() { -1 } else { rng.random() };
    let (offset, at_ms, metadata) = (rng.random(), rng.random(), word(rng));
    let mut said = json!({ "offset": offset, "metadata": metadata, "commitTimestamp": at_ms });
    let version = match until_ms {
        Some(until) => {
            said["expireTimestamp"] = until.into();
            1
        }
        None => {
            said["leaderEpoch"] = leader_epoch.into();
            3
        }
    };
    (version, write_offset(&Committed { offset, leader_epoch, metadata, at_ms, until_ms }), said)
}

/// The golden lines of the unit tests are what Kafka writes, and Kafka reads what we write, as what we meant.
#[test]
fn records_of_groups_are_kafkas_own() {
    let golden = include_str!("../../src/broker/groups/tests/kafka_records.txt");
    let mut lines = String::new();
    for line in golden.lines() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        writeln!(lines, "{} {} - {}", parts[0], parts[1], parts[3]).expect("a string grows");
    }
    let (seed, mut rng) = super::seeded();
    println!("KONTIKI_SEED={seed}");
    let mut meant = Vec::new();
    let mut ours = |lines: &mut String, kind: &str, version: i16, bytes: Bytes, said: Value| {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        writeln!(lines, "{kind} {version} {hex} -").expect("a string grows");
        meant.push(said);
    };
    for _ in 0..300 {
        let (bytes, said) = group(&mut rng);
        ours(&mut lines, "group", 3, bytes, said);
        let (version, bytes, said) = offset(&mut rng);
        ours(&mut lines, "offset", version, bytes, said);
        let (name, topic, partition) = (word(&mut rng), word(&mut rng), rng.random::<i32>());
        let said = json!({ "group": name, "topic": topic, "partition": partition });
        ours(&mut lines, "offset-key", 0, offset_key(&name, &topic, partition), said);
        ours(&mut lines, "group-key", 0, group_key(&name), json!({ "group": name }));
    }
    let told = kafka(&lines);
    let count = golden.lines().count();
    assert_eq!(told.len(), count + meant.len());
    assert_eq!(
        told[..count],
        golden.lines().collect::<Vec<_>>(),
        "the golden lines are not Kafka's any more"
    );
    for (line, meant) in told[count..].iter().zip(meant) {
        let json = line.splitn(4, ' ').nth(3).expect("four parts");
        assert_eq!(serde_json::from_str::<Value>(json).expect("JSON"), meant, "{line}");
    }
}
