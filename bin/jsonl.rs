//! The record envelope: one JSON object per line, printed by `consume` and read by `produce`, so that
//! `consume a -e --output json | produce b --input jsonl` keeps keys, headers, nulls and timestamps.
//!
//! Bytes that are not UTF-8 become base64 with a `..._encoding` beside them; headers are a list, since names may
//! repeat. Unknown keys are refused: a misspelt `value` must not become a tombstone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kontiki::client::{ConsumedRecord, Header, Record};
use serde::{Deserialize, Deserializer, Serialize};

const BASE64: &str = "base64";

/// A record as JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// Where it is, or shall go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leader_epoch: Option<i32>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_encoding: Option<String>,
    /// Null is a tombstone, so it must be said.
    #[serde(deserialize_with = "explicit")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_encoding: Option<String>,
    #[serde(default)]
    headers: Vec<HeaderEnvelope>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderEnvelope {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_encoding: Option<String>,
    #[serde(deserialize_with = "explicit")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_encoding: Option<String>,
}

/// Without a default, serde takes a missing `Option` for null; a custom function makes it an error.
fn explicit<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(from)
}

impl Envelope {
    /// The envelope of a record that was read.
    pub fn of(topic: &str, record: &ConsumedRecord) -> Self {
        let (key, key_encoding) = encode(record.at.record.key.as_deref());
        let (value, value_encoding) = encode(record.at.record.value.as_deref());
        let headers = record.at.record.headers.iter().map(|h| {
            let (key, key_encoding) = encode(Some(&h.key));
            let (value, value_encoding) = encode(h.value.as_deref());
            HeaderEnvelope { key: key.unwrap_or_default(), key_encoding, value, value_encoding }
        });
        Self {
            topic: Some(topic.to_owned()),
            partition: Some(record.partition),
            offset: Some(record.at.offset),
            timestamp: Some(record.at.timestamp),
            timestamp_type: record.log_append_time.then(|| "LogAppendTime".to_owned()),
            leader_epoch: None,
            key,
            key_encoding,
            value,
            value_encoding,
            headers: headers.collect(),
        }
    }

    /// Reads a line.
    pub fn parse(line: &str) -> Result<Self, String> {
        serde_json::from_str(line).map_err(|e| e.to_string())
    }

    /// The record it describes.
    pub fn into_record(self) -> Result<Record, String> {
        let headers = self.headers.into_iter().map(|h| {
            let key = decode(Some(h.key), h.key_encoding.as_deref(), "header key")?.unwrap_or_default();
            Ok(Header { key, value: decode(h.value, h.value_encoding.as_deref(), "header value")? })
        });
        Ok(Record {
            timestamp: self.timestamp,
            key: decode(self.key, self.key_encoding.as_deref(), "key")?,
            value: decode(self.value, self.value_encoding.as_deref(), "value")?,
            headers: headers.collect::<Result<_, String>>()?,
        })
    }
}

fn encode(bytes: Option<&[u8]>) -> (Option<String>, Option<String>) {
    match bytes.map(|b| (b, std::str::from_utf8(b))) {
        None => (None, None),
        Some((_, Ok(text))) => (Some(text.to_owned()), None),
        Some((bytes, Err(_))) => (Some(STANDARD.encode(bytes)), Some(BASE64.to_owned())),
    }
}

fn decode(text: Option<String>, encoding: Option<&str>, what: &str) -> Result<Option<Bytes>, String> {
    let Some(text) = text else { return Ok(None) };
    match encoding {
        None | Some("utf-8") => Ok(Some(Bytes::from(text))),
        Some(BASE64) => {
            STANDARD.decode(&text).map(|b| Some(Bytes::from(b))).map_err(|e| format!("{what}: {e}"))
        }
        Some(other) => Err(format!("{what}: encoding `{other}` is not base64 or utf-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki::client::records::Positioned;
    use proptest::prelude::*;

    fn consumed(record: Record) -> ConsumedRecord {
        let at = Positioned { offset: 7, timestamp: record.timestamp.unwrap_or(0), record };
        ConsumedRecord { partition: 2, leader_epoch: 1, log_append_time: false, at }
    }

    fn round_trip(record: Record) -> Record {
        let line = serde_json::to_string(&Envelope::of("t", &consumed(record))).unwrap();
        assert!(!line.contains('\n'));
        Envelope::parse(&line).unwrap().into_record().unwrap()
    }

    #[test]
    fn envelope_text_record_has_the_documented_shape() {
        let record = Record {
            timestamp: Some(1000),
            key: None,
            value: Some("v".into()),
            headers: vec![Header { key: "h".into(), value: None }],
        };
        assert_eq!(
            serde_json::to_string(&Envelope::of("t", &consumed(record))).unwrap(),
            r#"{"topic":"t","partition":2,"offset":7,"timestamp":1000,"key":null,"value":"v","headers":[{"key":"h","value":null}]}"#
        );
    }

    #[test]
    fn envelope_binary_value_is_marked_base64() {
        let record = Record { value: Some(Bytes::from_static(&[0xff, 0])), ..Record::default() };
        let json = serde_json::to_value(Envelope::of("t", &consumed(record))).unwrap();
        assert_eq!((&json["value"], &json["value_encoding"]), (&"/wA=".into(), &"base64".into()));
    }

    #[test]
    fn parse_missing_value_or_unknown_key_is_refused() {
        for line in [r#"{"key":"a"}"#, r#"{"value":"a","vlaue":1}"#, r#"{"value":1}"#, "", "[]"] {
            assert!(Envelope::parse(line).is_err(), "{line}");
        }
        assert_eq!(Envelope::parse(r#"{"value":null}"#).unwrap().into_record().unwrap().value, None);
        let bad = r#"{"value":"a","value_encoding":"hex"}"#;
        assert!(Envelope::parse(bad).unwrap().into_record().unwrap_err().contains("hex"));
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from),
            "\\PC{0,10}".prop_map(Bytes::from),
        ]
    }

    proptest! {
        #[test]
        fn envelope_any_record_round_trips(
            timestamp: i64,
            key in proptest::option::of(bytes()),
            value in proptest::option::of(bytes()),
            headers in proptest::collection::vec((bytes(), proptest::option::of(bytes())), 0..4),
        ) {
            let headers = headers.into_iter().map(|(key, value)| Header { key, value }).collect();
            let record = Record { timestamp: Some(timestamp), key, value, headers };
            prop_assert_eq!(round_trip(record.clone()), record);
        }
    }
}
