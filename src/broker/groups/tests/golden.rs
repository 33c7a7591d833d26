//! Records of `__consumer_offsets` byte for byte: `kafka_records.txt` was written by Kafka's own classes (`tests/foreign/kafka/Records.java`, held
//! to them again by `tests/cluster`), in every version that there is.

use super::super::records::*;
use super::*;
use serde_json::Value;

const WRITTEN_BY_KAFKA: &str = include_str!("kafka_records.txt");

fn unhex(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// Base64 without padding, as Kafka's JSON has bytes.
fn unbase64(text: &str) -> Bytes {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for digit in text.trim_end_matches('=').chars() {
        bits = bits << 6 | DIGITS.find(digit).expect("a base64 digit") as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out.into()
}

fn text(json: &Value, key: &str) -> String {
    json[key].as_str().unwrap_or_default().to_owned()
}

fn maybe(json: &Value, key: &str) -> Option<String> {
    json[key].as_str().map(str::to_owned)
}

fn committed(json: &Value) -> Committed {
    Committed {
        offset: json["offset"].as_i64().unwrap(),
        leader_epoch: json["leaderEpoch"].as_i64().unwrap_or(-1) as i32,
        metadata: text(json, "metadata"),
        at_ms: json["commitTimestamp"].as_i64().unwrap(),
        until_ms: json["expireTimestamp"].as_i64(),
    }
}

fn group(json: &Value) -> StoredGroup {
    let member = |json: &Value| {
        let session_ms = json["sessionTimeout"].as_i64().unwrap() as i32;
        StoredMember {
            id: text(json, "memberId"),
            instance: maybe(json, "groupInstanceId"),
            client_id: text(json, "clientId"),
            client_host: text(json, "clientHost"),
            rebalance_ms: json["rebalanceTimeout"].as_i64().map_or(session_ms, |ms| ms as i32),
            session_ms,
            subscription: unbase64(&text(json, "subscription")),
            assignment: unbase64(&text(json, "assignment")),
        }
    };
    StoredGroup {
        protocol_type: text(json, "protocolType"),
        generation: json["generation"].as_i64().unwrap() as i32,
        protocol: maybe(json, "protocol"),
        leader: maybe(json, "leader"),
        since_ms: json["currentStateTimestamp"].as_i64().unwrap_or(-1),
        members: json["members"].as_array().unwrap().iter().map(member).collect(),
    }
}

#[test]
fn records_that_kafka_wrote_are_read_and_ours_are_the_same_bytes() {
    let mut seen = BTreeSet::new();
    for line in WRITTEN_BY_KAFKA.lines() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let [kind, version, hex, json] = parts[..] else { panic!("not four parts: {line}") };
        let (bytes, json): (Vec<u8>, Value) = (unhex(hex), serde_json::from_str(json).expect("JSON"));
        seen.insert((kind, version));
        let written = match kind {
            "offset-key" => {
                let partition = json["partition"].as_i64().unwrap() as i32;
                let key = Key::Offset { group: text(&json, "group"), topic: text(&json, "topic"), partition };
                assert_eq!(read_key(&bytes), Ok(Some(key)), "{line}");
                Some(offset_key(&text(&json, "group"), &text(&json, "topic"), partition))
            }
            "group-key" => {
                assert_eq!(read_key(&bytes), Ok(Some(Key::Group(text(&json, "group")))), "{line}");
                Some(group_key(&text(&json, "group")))
            }
            "offset" => {
                assert_eq!(read_offset(&bytes), Ok(committed(&json)), "{line}");
                // The oldest that can say it.
                matches!(version, "1" | "3").then(|| write_offset(&committed(&json)))
            }
            "group" => {
                assert_eq!(read_group(&bytes), Ok(group(&json)), "{line}");
                (version == "3").then(|| write_group(&group(&json)))
            }
            other => panic!("what is {other}?"),
        };
        assert!(written.is_none_or(|written| written == bytes), "written otherwise than Kafka does: {line}");
    }
    let versions = |kind| (0..=4).filter(|v: &i32| seen.contains(&(kind, v.to_string().as_str()))).count();
    assert_eq!((versions("offset"), versions("group"), seen.len()), (5, 5, 12));
}
