//! Tests of `wire::batch`: every rule of the produce checks, one test each, and cross-checks with the codec crate.
use super::*;
use crate::wire::Compression;
use crate::wire::record::RecordBatchBuilder;
use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const NOW: i64 = 1_700_000_000_000;

fn rules() -> BatchRules {
    BatchRules {
        max_message_bytes: 1_048_588,
        produce_version: 9,
        before_max_ms: i64::MAX,
        after_max_ms: 3_600_000,
        now_ms: NOW,
        log_append_time: false,
    }
}

fn batch(records: usize) -> BytesMut {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for at in 0..records {
        builder.append(NOW + at as i64, Some(b"key"), Some(b"value"), &[(b"h", Some(b"v"))]);
    }
    builder.build().unwrap()
}

/// Changes the header, makes the CRC right again, and validates.
fn with(change: impl FnOnce(&mut BatchHeader)) -> Result<BatchHeader, BatchError> {
    with_rules(change, &rules())
}

fn with_rules(change: impl FnOnce(&mut BatchHeader), rules: &BatchRules) -> Result<BatchHeader, BatchError> {
    let mut bytes = batch(3);
    let mut header = BatchHeader::read(&bytes).unwrap();
    change(&mut header);
    header.write(&mut bytes);
    seal(&mut bytes);
    let before = bytes.clone();
    let result = validate(&mut bytes, rules);
    if result.is_err() {
        assert_eq!(bytes, before, "a refused batch is left alone");
    }
    result
}

#[test]
fn sound_batch_passes_and_is_unchanged() {
    let mut bytes = batch(3);
    let before = bytes.clone();
    let header = validate(&mut bytes, &rules()).unwrap();
    assert_eq!(bytes, before);
    assert_eq!((header.record_count, header.last_offset_delta, header.magic), (3, 2, 2));
    assert_eq!((header.base_timestamp, header.max_timestamp), (NOW, NOW + 2));
    assert_eq!(header.total_len(), bytes.len());
    assert!(!header.is_control() && !header.is_transactional() && !header.log_append_time());
    assert!(!header.has_producer());
}

#[test]
fn header_written_is_read_back() {
    let mut bytes = batch(1);
    let header = BatchHeader {
        base_offset: 1,
        batch_length: 2,
        partition_leader_epoch: 3,
        magic: 4,
        crc: 5,
        attributes: 0x7f,
        last_offset_delta: 7,
        base_timestamp: 8,
        max_timestamp: 9,
        producer_id: 10,
        producer_epoch: 11,
        base_sequence: 12,
        record_count: 13,
    };
    header.write(&mut bytes);
    assert_eq!(BatchHeader::read(&bytes), Some(header));
    assert_eq!(BatchHeader::read(&bytes[..60]), None);
    assert_eq!((header.codec(), header.last_offset()), (7, 8));
    assert!(header.is_control() && header.is_transactional() && header.log_append_time());
}

#[test]
fn crc_is_castagnoli() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn empty_or_short_payload_is_refused() {
    assert!(matches!(validate(&mut [], &rules()), Err(BatchError::Invalid(_))));
    let whole = batch(2);
    for cut in 1..whole.len() {
        let result = validate(&mut whole[..cut].to_vec(), &rules());
        assert!(matches!(result, Err(BatchError::Corrupt(_))), "cut at {cut}: {result:?}");
    }
}

#[test]
fn second_batch_or_trailing_byte_is_invalid() {
    let mut two = batch(1);
    two.extend_from_slice(&batch(1));
    assert!(matches!(validate(&mut two, &rules()), Err(BatchError::Invalid(_))));
    let mut longer = batch(1);
    longer.extend_from_slice(&[0]);
    assert!(matches!(validate(&mut longer, &rules()), Err(BatchError::Invalid(_))));
}

#[test]
fn length_below_a_header_or_negative_is_corrupt() {
    for length in [-1, i32::MIN, 0, 48] {
        assert!(matches!(with(|h| h.batch_length = length), Err(BatchError::Corrupt(_))), "{length}");
    }
    assert!(matches!(with(|h| h.batch_length = i32::MAX), Err(BatchError::Corrupt(_))));
}

#[test]
fn old_magic_is_named_and_unknown_magic_invalid() {
    assert_eq!(with(|h| h.magic = 0), Err(BatchError::OldFormat(0)));
    assert_eq!(with(|h| h.magic = 1), Err(BatchError::OldFormat(1)));
    assert!(matches!(with(|h| h.magic = 3), Err(BatchError::Invalid(_))));
    assert!(matches!(with(|h| h.magic = -1), Err(BatchError::Invalid(_))));
    // A v1 message set is shorter than our header and still gets its own error.
    let mut old = [0u8; 34];
    old[16] = 1;
    assert_eq!(validate(&mut old, &rules()), Err(BatchError::OldFormat(1)));
}

#[test]
fn every_flipped_bit_under_the_crc_is_corrupt() {
    let sound = batch(2);
    for bit in ATTRIBUTES_AT * 8..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            validate(&mut bytes, &rules()),
            Err(BatchError::Corrupt("CRC-32C does not match")),
            "{bit}"
        );
        assert!(!crc_ok(&bytes));
    }
}

#[test]
fn size_above_the_limit_is_too_large() {
    let size = batch(3).len();
    let at = |limit| with_rules(|_| {}, &BatchRules { max_message_bytes: limit, ..rules() });
    assert!(at(size).is_ok());
    assert_eq!(at(size - 1), Err(BatchError::TooLarge { size, limit: size - 1 }));
}

#[test]
fn unknown_codec_and_zstd_before_v7_are_refused() {
    for codec in 5..=7 {
        assert_eq!(with(|h| h.attributes = codec), Err(BatchError::Codec(codec as u8)));
    }
    let old = BatchRules { produce_version: 6, ..rules() };
    assert_eq!(with_rules(|h| h.attributes = 4, &old), Err(BatchError::Codec(4)));
    assert!(with_rules(|h| h.attributes = 3, &old).is_ok());
    assert!(with_rules(|h| h.attributes = 4, &BatchRules { produce_version: 7, ..rules() }).is_ok());
}

#[test]
fn control_batch_of_a_client_is_invalid() {
    assert!(matches!(with(|h| h.attributes |= CONTROL_BIT), Err(BatchError::Invalid(_))));
}

#[test]
fn counts_that_disagree_are_invalid() {
    for (count, delta) in [(0, -1), (-1, -2), (3, 3), (2, 2), (i32::MIN, i32::MAX)] {
        let result = with(|h| (h.record_count, h.last_offset_delta) = (count, delta));
        assert!(matches!(result, Err(BatchError::Invalid(_))), "{count} {delta}");
    }
    let bomb = with(|h| (h.record_count, h.last_offset_delta) = (i32::MAX, i32::MAX - 1));
    assert!(matches!(bomb, Err(BatchError::Invalid(_))), "more records than bytes");
}

#[test]
fn base_offset_other_than_zero_is_invalid() {
    assert!(matches!(with(|h| h.base_offset = 5), Err(BatchError::Invalid(_))));
}

#[test]
fn producer_id_needs_sequence_and_epoch() {
    let set = |id, epoch, sequence| {
        with(|h| (h.producer_id, h.producer_epoch, h.base_sequence) = (id, epoch, sequence))
    };
    assert!(set(7, 0, 0).is_ok());
    assert!(set(7, 0, i32::MAX).is_ok());
    assert!(matches!(set(7, 0, -1), Err(BatchError::Invalid(_))));
    assert!(matches!(set(7, -1, 0), Err(BatchError::Invalid(_))));
    assert!(set(-1, -1, -1).is_ok());
}

#[test]
fn transactional_batch_needs_a_producer_id() {
    assert!(matches!(with(|h| h.attributes |= TRANSACTIONAL_BIT), Err(BatchError::Invalid(_))));
    let result = with(|h| {
        h.attributes |= TRANSACTIONAL_BIT;
        (h.producer_id, h.producer_epoch, h.base_sequence) = (7, 0, 0);
    });
    assert!(result.is_ok_and(|header| header.is_transactional()));
}

#[test]
fn timestamp_outside_the_window_is_refused() {
    let window = BatchRules { before_max_ms: 1000, after_max_ms: 500, ..rules() };
    let at = |base, max| with_rules(|h| (h.base_timestamp, h.max_timestamp) = (base, max), &window);
    assert!(at(NOW - 1000, NOW + 500).is_ok());
    assert_eq!(at(NOW - 1001, NOW), Err(BatchError::Timestamp(NOW - 1001)));
    assert_eq!(at(NOW, NOW + 501), Err(BatchError::Timestamp(NOW + 501)));
    assert!(at(-1, -1).is_ok(), "no timestamp at all");
    assert_eq!(at(-2, NOW), Err(BatchError::Timestamp(-2)));
    assert_eq!(at(i64::MIN, NOW), Err(BatchError::Timestamp(i64::MIN)));
    assert_eq!(at(NOW, i64::MAX), Err(BatchError::Timestamp(i64::MAX)));
    let open = BatchRules { after_max_ms: i64::MAX, ..rules() };
    assert!(with_rules(|h| (h.base_timestamp, h.max_timestamp) = (0, i64::MAX), &open).is_ok());
}

#[test]
fn client_that_sets_log_append_time_is_refused() {
    assert!(matches!(with(|h| h.attributes |= LOG_APPEND_TIME_BIT), Err(BatchError::Timestamp(_))));
}

#[test]
fn log_append_time_is_stamped_and_the_crc_follows() {
    let mut bytes = batch(3);
    let stamp = BatchRules { log_append_time: true, now_ms: NOW + 77, before_max_ms: 0, ..rules() };
    let header = validate(&mut bytes, &stamp).unwrap();
    assert!(header.log_append_time());
    assert_eq!(header.max_timestamp, NOW + 77);
    assert_eq!(BatchHeader::read(&bytes), Some(header));
    assert!(crc_ok(&bytes));
}

#[test]
fn assign_leaves_the_crc_valid() {
    let mut bytes = batch(3);
    assign(&mut bytes, 1 << 40, 9);
    let header = BatchHeader::read(&bytes).unwrap();
    assert_eq!((header.base_offset, header.partition_leader_epoch), (1 << 40, 9));
    assert_eq!(header.last_offset(), (1 << 40) + 2);
    assert!(crc_ok(&bytes));
}

#[test]
fn crc_ok_wants_exactly_one_batch() {
    let bytes = batch(1);
    assert!(crc_ok(&bytes));
    assert!(!crc_ok(&bytes[..bytes.len() - 1]));
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(!crc_ok(&longer));
    assert!(!crc_ok(&[]));
}

#[test]
fn batches_are_taken_off_until_one_is_cut_short() {
    let (first, second) = (batch(1), batch(2));
    let all: Bytes = [&first[..], &second[..], &first[..30]].concat().into();
    let mut rest = all.clone();
    assert_eq!(next_batch(&mut rest).unwrap().as_deref(), Some(&first[..]));
    assert_eq!(next_batch(&mut rest).unwrap().as_deref(), Some(&second[..]));
    assert_eq!(next_batch(&mut rest), Ok(None));
    assert_eq!(rest.len(), 30);
    let mut bad = all.to_vec();
    bad[11] = 1;
    bad[10] = 0;
    assert!(matches!(next_batch(&mut bad.into()), Err(BatchError::Corrupt(_))));
}

#[test]
fn random_bytes_never_panic() {
    let mut rng = StdRng::seed_from_u64(21);
    for _ in 0..20_000 {
        let mut bytes = batch(2).to_vec();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        bytes.truncate(rng.random_range(0..=bytes.len()));
        if bytes.len() >= HEADER_LEN && rng.random() {
            seal(&mut bytes);
        }
        let stamp = BatchRules { log_append_time: rng.random(), ..rules() };
        if validate(&mut bytes, &stamp).is_ok() {
            assert!(crc_ok(&bytes));
        }
    }
}

#[test]
fn log_append_time_checks_the_old_crc_first() {
    let stamp = BatchRules { log_append_time: true, ..rules() };
    let sound = batch(2);
    for at in [21, 40, 43, 60, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        assert_eq!(validate(&mut bytes, &stamp), Err(BatchError::Corrupt("CRC-32C does not match")), "{at}");
    }
}

#[test]
fn producer_set_afterwards_leaves_the_batch_valid() {
    let mut bytes = batch(2);
    set_producer(&mut bytes, 1 << 33, 4, 99);
    let header = validate(&mut bytes, &rules()).unwrap();
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (1 << 33, 4, 99));
    assert_eq!((header.record_count, header.max_timestamp), (2, NOW + 1));
}
