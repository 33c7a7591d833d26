//! Tests of `wire::record`: round trips, cross-checks with the codec crate, damaged payloads.
use super::*;
use crate::wire::batch::{BatchRules, assign, validate};
use kafka_protocol::records::{
    Compression as CrateCompression, Record as CrateRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// (key, value, headers, timestamp) as owned values.
type Owned = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>, i64);

const BASE: i64 = 1_700_000_000_000;

fn random_records(rng: &mut StdRng, count: usize) -> Vec<Owned> {
    let blob = |rng: &mut StdRng, max: usize| -> Option<Vec<u8>> {
        let length = rng.random_range(0..=max);
        (!rng.random_bool(0.2)).then(|| (0..length).map(|_| rng.random_range(b'a'..=b'f')).collect())
    };
    (0..count)
        .map(|_| {
            let headers = (0..rng.random_range(0..4))
                .map(|_| (blob(rng, 3).unwrap_or_default(), blob(rng, 70)))
                .collect();
            (
                blob(rng, 20),
                blob(rng, 300),
                headers,
                BASE + rng.random_range(-5_000_000_000i64..5_000_000_000),
            )
        })
        .collect()
}

fn build(records: &[Owned], compression: Compression) -> BytesMut {
    let mut builder = RecordBatchBuilder::new(compression);
    builder.producer(77, 3, 500);
    for (key, value, headers, timestamp) in records {
        let headers: Vec<Header<'_>> = headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
        let expected = builder.size_with(*timestamp, key.as_deref(), value.as_deref(), &headers);
        builder.append(*timestamp, key.as_deref(), value.as_deref(), &headers);
        assert_eq!(builder.size_bytes(), expected);
    }
    assert_eq!(builder.count() as usize, records.len());
    builder.build().unwrap()
}

fn owned(record: Record<'_>) -> Owned {
    let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let headers = record.headers.map(|(key, value)| (key.to_vec(), own(value))).collect();
    (own(record.key), own(record.value), headers, record.timestamp)
}

#[test]
fn records_round_trip_through_every_codec() {
    let mut rng = StdRng::seed_from_u64(41);
    for codec in Compression::ALL {
        for count in [1, 2, 50, 500] {
            let records = random_records(&mut rng, count);
            let mut bytes = build(&records, codec);
            assign(&mut bytes, 1000, 4);
            let batch = Batch::open(&bytes.freeze(), 10 << 20).unwrap();
            let header = batch.header();
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (77, 3, 500));
            assert_eq!(header.codec(), codec.id());
            assert_eq!(header.max_timestamp, records.iter().map(|r| r.3).max().unwrap());
            let read: Vec<_> = batch.records().map(Result::unwrap).collect();
            assert!(read.iter().map(|r| r.offset).eq(1000..1000 + count as i64));
            assert_eq!(read.into_iter().map(owned).collect::<Vec<_>>(), records);
        }
    }
}

#[test]
fn built_batch_passes_validation() {
    let rules = BatchRules {
        max_message_bytes: usize::MAX,
        produce_version: 9,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        now_ms: BASE,
        log_append_time: false,
    };
    let mut rng = StdRng::seed_from_u64(42);
    for codec in Compression::ALL {
        let mut bytes = build(&random_records(&mut rng, 20), codec);
        validate(&mut bytes, &rules).unwrap();
    }
}

/// What we build, the codec crate reads (plain batches; it is built without codecs, and drops duplicate header keys).
#[test]
fn built_batch_is_read_by_the_codec_crate() {
    let mut rng = StdRng::seed_from_u64(43);
    let mut records = random_records(&mut rng, 60);
    for record in &mut records {
        for (at, header) in record.2.iter_mut().enumerate() {
            header.0 = format!("h{at}").into_bytes();
        }
    }
    let mut bytes = build(&records, Compression::None).freeze();
    let read = RecordBatchDecoder::decode(&mut bytes).unwrap().records;
    assert_eq!(read.len(), records.len());
    for (at, (read, wrote)) in read.iter().zip(&records).enumerate() {
        assert_eq!(read.offset, at as i64);
        assert_eq!(read.timestamp, wrote.3);
        assert_eq!(read.key.as_deref(), wrote.0.as_deref());
        assert_eq!(read.value.as_deref(), wrote.1.as_deref());
        let headers: Vec<_> = read
            .headers
            .iter()
            .map(|(k, v)| (k.as_bytes().to_vec(), v.as_ref().map(|v| v.to_vec())))
            .collect();
        assert_eq!(headers, wrote.2);
    }
}

#[test]
fn batch_of_the_codec_crate_is_read_here() {
    let records: Vec<CrateRecord> = (0..30)
        .map(|at| CrateRecord {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 5,
            producer_id: 9,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset: 100 + at,
            sequence: at as i32,
            timestamp: BASE + at * 3_000_000_000,
            key: (at % 3 > 0).then(|| Bytes::from(format!("k{at}"))),
            value: (at % 4 > 0).then(|| Bytes::from(format!("v{at}"))),
            headers: [("a".into(), Some(Bytes::from_static(b"1"))), ("b".into(), None)].into_iter().collect(),
        })
        .collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: CrateCompression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
    let mut rest = bytes.freeze();
    let mut read = Vec::new();
    while let Some(batch) = batch::next_batch(&mut rest).unwrap() {
        let batch = Batch::open(&batch, 0).unwrap();
        read.extend(batch.records().map(|r| r.map(|r| (r.offset, owned(r))).unwrap()));
    }
    assert_eq!(read.len(), 30);
    for ((offset, (key, value, headers, timestamp)), wrote) in read.iter().zip(&records) {
        assert_eq!((*offset, *timestamp), (wrote.offset, wrote.timestamp));
        assert_eq!((key.as_deref(), value.as_deref()), (wrote.key.as_deref(), wrote.value.as_deref()));
        assert_eq!(headers[..], [(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), None)]);
    }
}

#[test]
fn duplicate_headers_nulls_and_order_are_kept() {
    let headers: [Header<'_>; 4] = [(b"x", Some(b"1")), (b"x", Some(b"")), (b"", None), (b"x", Some(b"1"))];
    let mut builder = RecordBatchBuilder::new(Compression::None);
    builder.append(5, None, Some(b""), &headers);
    let batch = Batch::open(&builder.build().unwrap().freeze(), 0).unwrap();
    let record = batch.records().next().unwrap().unwrap();
    assert_eq!((record.key, record.value), (None, Some(&b""[..])));
    assert_eq!(record.headers.len(), 4);
    assert!(record.headers.eq(headers));
}

#[test]
fn plain_payload_is_not_copied_and_empty_batch_is_refused() {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    assert!(builder.is_empty());
    builder.append(5, None, Some(b"v"), &[]);
    let bytes = builder.build().unwrap().freeze();
    let batch = Batch::open(&bytes, 0).unwrap();
    assert_eq!(batch.payload().as_ptr(), bytes[HEADER_LEN..].as_ptr());
    let value = batch.records().next().unwrap().unwrap().value.unwrap();
    assert_eq!(batch.payload().slice_ref(value), Bytes::from_static(b"v"));
    assert!(RecordBatchBuilder::new(Compression::Zstd).build().is_err());
}

#[test]
fn timestamp_lookup_answers_the_record_itself() {
    for codec in Compression::ALL {
        let mut builder = RecordBatchBuilder::new(codec);
        for timestamp in [100, 300, 200, 300] {
            builder.append(timestamp, None, None, &[]);
        }
        let mut bytes = builder.build().unwrap();
        assign(&mut bytes, 10, 0);
        let batch = Batch::open(&bytes.freeze(), 1000).unwrap();
        assert_eq!(batch.first_at_or_after(0).unwrap(), Some((10, 100)));
        assert_eq!(batch.first_at_or_after(101).unwrap(), Some((11, 300)));
        assert_eq!(batch.first_at_or_after(301).unwrap(), None);
        assert_eq!(batch.max_timestamp().unwrap(), Some((11, 300)));
    }
}

#[test]
fn log_append_time_overrides_every_timestamp() {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    builder.append(5, None, None, &[]).append(6, None, None, &[]);
    let mut bytes = builder.build().unwrap();
    let rules = BatchRules {
        max_message_bytes: 1000,
        produce_version: 9,
        before_max_ms: 0,
        after_max_ms: 0,
        now_ms: 99,
        log_append_time: true,
    };
    validate(&mut bytes, &rules).unwrap();
    let batch = Batch::open(&bytes.freeze(), 0).unwrap();
    assert!(batch.records().all(|record| record.unwrap().timestamp == 99));
}

#[test]
fn transactional_flag_is_set() {
    let mut builder = RecordBatchBuilder::new(Compression::Lz4);
    builder.producer(1, 0, 0).transactional(true).append(5, None, None, &[]);
    let header = BatchHeader::read(&builder.build().unwrap()).unwrap();
    assert!(header.is_transactional() && !header.is_control());
    assert_eq!(header.codec(), 3);
}

#[test]
fn damaged_batch_is_refused_and_payload_bomb_limited() {
    let mut builder = RecordBatchBuilder::new(Compression::Zstd);
    builder.append(0, None, Some(&vec![0; 4 << 20]), &[]);
    let bytes = builder.build().unwrap();
    assert!(bytes.len() < 10_000);
    let result = Batch::open(&bytes.clone().freeze(), 1 << 20);
    assert!(matches!(result, Err(RecordError::Compression(CompressionError::TooLarge(_)))));
    let mut flipped = bytes.clone();
    flipped[70] ^= 1;
    assert!(matches!(Batch::open(&flipped.freeze(), 8 << 20), Err(RecordError::Batch(0))));
    assert!(Batch::open(&Bytes::new(), 0).is_err());
}

/// Payloads that pass the CRC but are nonsense inside (a broken or hostile client): errors, never a panic or a loop.
#[test]
fn mutated_payload_never_panics_and_ends() {
    let mut rng = StdRng::seed_from_u64(44);
    let sound = build(&random_records(&mut rng, 5), Compression::None);
    let header = BatchHeader::read(&sound).unwrap();
    for _ in 0..20_000 {
        let mut payload = sound[HEADER_LEN..].to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..payload.len());
            payload[at] = rng.random();
        }
        payload.truncate(rng.random_range(0..=payload.len()));
        let mut header = header;
        header.record_count = if rng.random_bool(0.1) { i32::MAX } else { header.record_count };
        let mut items = 0;
        for record in Records::new(&header, &payload).flatten() {
            items += 1 + record.headers.count();
        }
        assert!(items <= payload.len());
    }
}

#[test]
fn record_after_the_last_or_missing_is_an_error() {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    builder.append(0, None, None, &[]).append(0, None, None, &[]);
    let bytes = builder.build().unwrap();
    let mut header = BatchHeader::read(&bytes).unwrap();
    let payload = &bytes[HEADER_LEN..];
    assert_eq!(Records::new(&header, payload).filter(Result::is_ok).count(), 2);
    assert_eq!(Records::new(&header, payload).count(), 2);
    header.record_count = 1;
    let outcome: Vec<bool> = Records::new(&header, payload).map(|r| r.is_ok()).collect();
    assert_eq!(outcome, [true, false]);
    header.record_count = 3;
    let outcome: Vec<bool> = Records::new(&header, payload).map(|r| r.is_ok()).collect();
    assert_eq!(outcome, [true, true, false]);
}
