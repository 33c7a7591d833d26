//! A produced record batch: the validator, and the records inside through every codec.

use super::Input;
use bytes::{Bytes, BytesMut};
use kontiki::wire::Compression;
use kontiki::wire::batch::{self, BatchHeader, BatchRules, HEADER_LEN};
use kontiki::wire::record::{Batch, Record, RecordBatchBuilder};

/// What the records of one batch may be when decompressed.
pub const DECOMPRESSED_MAX: usize = 256 << 10;
/// The buffers of a decoder: two blocks of an LZ4 frame (8 MiB in its oldest form), whatever the input.
const DECODER: usize = 17 << 20;
const NOW_MS: i64 = 1_700_000_000_000;

pub fn memory(length: usize) -> usize {
    // Decompressed at most three times over: a buffer that doubles, the batch built again, the one that is read back.
    16 * length + 8 * DECOMPRESSED_MAX + DECODER
}

/// One byte of options (1: length and CRC are put right, 2: LogAppendTime, 4: Produce v3, before zstd, 8: a window of time), the batch.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(options) = input.byte() else { return };
    let mut bytes = BytesMut::from(input.0);
    if options & 1 != 0 {
        seal(&mut bytes);
    }
    let window = if options & 8 != 0 { 1_000 } else { i64::MAX };
    let rules = BatchRules {
        max_message_bytes: 1 << 20,
        produce_version: if options & 4 != 0 { 3 } else { 9 },
        before_max_ms: window,
        after_max_ms: window,
        now_ms: NOW_MS,
        log_append_time: options & 2 != 0,
    };
    let before = bytes.clone();
    match batch::validate(&mut bytes, &rules) {
        Err(_) => assert_eq!(bytes, before, "a refused batch is left as it was"),
        Ok(header) => {
            assert_eq!(BatchHeader::read(&bytes), Some(header));
            assert!(batch::crc_ok(&bytes) && header.total_len() == bytes.len() && header.record_count > 0);
            batch::assign(&mut bytes, 1 << 40, 7);
            assert!(batch::crc_ok(&bytes), "offset and epoch lie outside the CRC");
        }
    }
    let bytes = bytes.freeze();
    split(bytes.clone());
    // Consumers and `dump` read what no validator saw.
    open(&bytes);
}

/// Makes length and CRC what they have to be, so that what is beyond them is reached.
fn seal(bytes: &mut BytesMut) {
    let Some(mut header) = BatchHeader::read(bytes) else { return };
    header.batch_length = (bytes.len() - batch::LOG_OVERHEAD) as i32;
    header.write(bytes);
    batch::set_producer(bytes, header.producer_id, header.producer_epoch, header.base_sequence);
}

fn split(mut bytes: Bytes) {
    let mut left = bytes.len();
    while let Ok(Some(batch)) = batch::next_batch(&mut bytes) {
        assert!(
            batch.len() >= HEADER_LEN && batch.len() + bytes.len() == left,
            "a batch is taken off the front"
        );
        left = bytes.len();
    }
}

fn open(bytes: &Bytes) {
    let Ok(batch) = Batch::open(bytes, DECOMPRESSED_MAX) else { return };
    let plain = batch.header().codec() == Compression::None.id();
    assert!(plain || batch.payload().len() <= DECOMPRESSED_MAX);
    let records: Result<Vec<_>, _> = batch.records().collect();
    let Ok(records) = records else {
        let _ = (batch.max_timestamp(), batch.first_at_or_after(NOW_MS));
        return;
    };
    let largest = records.iter().map(|r| r.timestamp).max();
    assert_eq!(batch.max_timestamp().expect("every record was read").map(|(_, at)| at), largest);
    let first = batch.first_at_or_after(NOW_MS).expect("every record was read");
    assert_eq!(first.map(|(_, at)| at), records.iter().map(|r| r.timestamp).find(|at| *at >= NOW_MS));
    if !records.is_empty() && batch.payload().len() <= DECOMPRESSED_MAX / 2 {
        build_again(&batch, &records);
    }
}

/// The same records, built by our own producer with the same codec, are the same records.
fn build_again(batch: &Batch, records: &[Record<'_>]) {
    let codec = Compression::from_id(batch.header().codec()).expect("it was opened");
    let mut builder = RecordBatchBuilder::new(codec);
    for record in records {
        let headers: Vec<_> = record.headers.collect();
        builder.append(record.timestamp, record.key, record.value, &headers);
    }
    let built = builder.build().expect("not empty").freeze();
    let second = Batch::open(&built, 2 * DECOMPRESSED_MAX).expect("what was built opens");
    assert_eq!(second.records().count(), records.len());
    for (record, second) in records.iter().zip(second.records()) {
        let second = second.expect("what was built reads");
        assert_eq!(
            (second.timestamp, second.key, second.value),
            (record.timestamp, record.key, record.value)
        );
        assert!(second.headers.eq(record.headers), "headers differ");
    }
}
