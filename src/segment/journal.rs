//! The journal on disk: batches of records in 4 KiB blocks, files that are zero-filled once and recycled.
//! The writer appends through [`Journal`]; recovery and dump read through [`scan`]. Byte by byte in
//! docs/disk-format.md. Not here: what records mean (`record`, `image`), when to sync (`writer`).
//!
//! * Every batch starts on a fresh block; a written block is never written again in the life of its file.
//! * The salt depends on the run (era) and on the file's number, so stale bytes of a recycled file never
//!   parse. Numbers are never reused within an era; a new era starts with every open.
//! * Every sector carries a tag of its batch and block: a block that lacks one is torn, a block that has
//!   them all and a bad CRC is damaged.
//! * `durable_through` in every block is the last batch known complete when it was written: its blocks are synced, and so is what it
//!   refers to, loose entries (`flush.mode=async`) aside. Batches that hold nothing else may follow it in any number.

use super::codec::*;
use super::error;
use super::fs::{File, Fs, OpenMode};
use super::types::GroupId;
use crate::mutation::{Mutation, on};
use bytes::{BufMut, Bytes};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const TAG: usize = 4;
/// Tag of the first sector and the block's header.
const BLOCK_HEADER: usize = 44;
/// Payload bytes of a block.
pub(crate) const BLOCK_PAYLOAD: usize = BLOCK - BLOCK_HEADER - 7 * TAG;
const BATCH_VERSION: u16 = 1;
const BATCH_HEADER: usize = 28;
/// Zeros are written this much at a time, ahead of use.
const ZERO_STEP: u64 = 1 << 20;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Salt of a journal file.
pub(crate) fn salt(directory: u128, era: u64, number: u64) -> u64 {
    let seed = (directory as u64) ^ ((directory >> 64) as u64).rotate_left(32);
    mix(mix(seed ^ mix(era)).wrapping_add(number)) | 1
}

/// What every sector of a block begins with; never zero.
fn tag(salt: u64, sequence: u64, block: u32) -> [u8; TAG] {
    let mixed = mix(salt ^ mix(sequence).wrapping_add(u64::from(block)));
    ((mixed >> 32) as u32 | 1).to_le_bytes()
}

/// Header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub sequence: u64,
    pub durable_through: u64,
    /// Block of the file it stands in.
    pub position: u32,
    /// Block of the batch it is.
    pub block: u32,
    /// Blocks of the batch.
    pub blocks: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn block_crc(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..40]);
    hasher.update(&block[BLOCK_HEADER..]);
    hasher.finalize()
}

/// Reads a block's header if salt, place and CRC hold.
pub(crate) fn parse_block(block: &[u8], salt: u64, position: u32) -> Option<BlockHeader> {
    let header = peek_block(block, salt)?;
    let sound = header.position == position && u32_at(block, 40) == block_crc(block);
    sound.then_some(header)
}

/// Reads a block's header without believing it.
fn peek_block(block: &[u8], salt: u64) -> Option<BlockHeader> {
    if u64_at(block, 4) != salt {
        return None;
    }
    Some(BlockHeader {
        sequence: u64_at(block, 12),
        durable_through: u64_at(block, 20),
        position: u32_at(block, 28),
        block: u32_at(block, 32),
        blocks: u32_at(block, 36),
    })
}

/// Whether every sector of a block was written as part of this batch.
fn is_whole(block: &[u8], salt: u64, sequence: u64, number: u32) -> bool {
    let tag = tag(salt, sequence, number);
    let looked_at = if on(Mutation::TearIsDamage) { 1 } else { BLOCK / SECTOR };
    block.chunks(SECTOR).take(looked_at).all(|sector| sector[..TAG] == tag)
}

/// Cuts a batch payload into blocks.
pub(crate) fn spread(
    payload: &[u8],
    salt: u64,
    (sequence, durable_through): (u64, u64),
    position: u32,
    out: &mut Vec<u8>,
) {
    let blocks = payload.len().div_ceil(BLOCK_PAYLOAD);
    let total = u32::try_from(blocks).expect("a batch is below 16 TiB");
    out.clear();
    out.reserve(blocks * BLOCK);
    for (number, chunk) in payload.chunks(BLOCK_PAYLOAD).enumerate() {
        let number = number as u32;
        let start = out.len();
        let tag = tag(salt, sequence, number);
        out.put_slice(&tag);
        out.put_u64_le(salt);
        out.put_u64_le(sequence);
        out.put_u64_le(if on(Mutation::ForgetDurableThrough) { 0 } else { durable_through });
        out.put_u32_le(position + number);
        out.put_u32_le(number);
        out.put_u32_le(total);
        out.put_u32_le(0);
        let (mut part, mut rest) = chunk.split_at(chunk.len().min(SECTOR - BLOCK_HEADER));
        out.put_slice(part);
        out.resize(start + SECTOR, 0);
        for sector in 1..BLOCK / SECTOR {
            (part, rest) = rest.split_at(rest.len().min(SECTOR - TAG));
            out.put_slice(&tag);
            out.put_slice(part);
            out.resize(start + (sector + 1) * SECTOR, 0);
        }
        let crc = block_crc(&out[start..]);
        out[start + 40..start + 44].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Payload bytes of a block.
fn gather(block: &[u8], out: &mut Vec<u8>) {
    out.put_slice(&block[BLOCK_HEADER..SECTOR]);
    for sector in block[SECTOR..].chunks(SECTOR) {
        out.put_slice(&sector[TAG..]);
    }
}

/// Starts a batch payload: header, then the groups its records name.
pub(crate) fn begin_batch(out: &mut Vec<u8>, records: u32, groups: &[GroupId]) {
    out.clear();
    out.put_u16_le(BATCH_VERSION);
    out.put_u16_le(0);
    out.put_u32_le(records);
    out.put_u32_le(0);
    out.put_u32_le(u32::try_from(groups.len()).expect("groups of a batch fit"));
    out.put_u64_le(0);
    out.put_u32_le(0);
    debug_assert_eq!(out.len(), BATCH_HEADER);
    groups.iter().for_each(|g| out.put_u64_le(g.0));
}

/// Completes the head once the records stand behind it: length of the batch, length of the journal file it
/// goes to (so that a file cut short is noticed), and a CRC of its own, so that the groups can be named
/// even when a record is damaged.
pub(crate) fn finish_batch(out: &mut [u8], file_bytes: u64) {
    let len = u32::try_from(out.len()).expect("a batch is below 4 GiB");
    out[8..12].copy_from_slice(&len.to_le_bytes());
    out[16..24].copy_from_slice(&file_bytes.to_le_bytes());
    let groups = u32_at(out, 12) as usize;
    let crc = head_crc(&out[..BATCH_HEADER + groups * 8]);
    out[24..28].copy_from_slice(&crc.to_le_bytes());
}

fn head_crc(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..24]);
    hasher.update(&head[BATCH_HEADER..]);
    hasher.finalize()
}

/// Head of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchHead {
    pub records: u32,
    pub len: u32,
    pub file_bytes: u64,
    pub groups: Vec<GroupId>,
}

/// Reads the head of a batch from its leading payload bytes; where the records begin.
pub(crate) fn parse_head(payload: &[u8]) -> Option<(BatchHead, usize)> {
    let mut at = payload;
    let version = get_u16(&mut at)?;
    get_u16(&mut at)?;
    let (records, len, count) = (get_u32(&mut at)?, get_u32(&mut at)?, get_u32(&mut at)?);
    let file_bytes = get_u64(&mut at)?;
    let crc = get_u32(&mut at)?;
    if version != BATCH_VERSION || (count as usize) > at.len() / 8 {
        return None;
    }
    if head_crc(&payload[..BATCH_HEADER + count as usize * 8]) != crc || (len as usize) < BATCH_HEADER {
        return None;
    }
    let mut groups = Vec::with_capacity(count as usize);
    for _ in 0..count {
        groups.push(GroupId(get_u64(&mut at)?));
    }
    Some((BatchHead { records, len, file_bytes, groups }, payload.len() - at.len()))
}

/// A batch as far as its blocks were found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub file: u64,
    /// Its first block in the file.
    pub start: u32,
    pub blocks: u32,
    pub durable_through: u64,
    good: Vec<bool>,
}

impl Found {
    pub(crate) fn is_complete(&self) -> bool {
        self.good.iter().all(|g| *g)
    }
    /// Good blocks before the first bad one.
    fn leading(&self) -> usize {
        self.good.iter().take_while(|g| **g).count()
    }
}

/// Name of a journal file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:016x}.journal")
}

/// Number in the name of a journal file.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".journal")?, 16).ok()
}

/// Looks at every block of a file. Batches found are added to `found`, keyed by sequence.
pub(crate) fn scan(
    file: &dyn File,
    number: u64,
    salt: u64,
    found: &mut std::collections::BTreeMap<u64, Found>,
) -> io::Result<u64> {
    const STEP: usize = 1 << 20;
    let len = file.len()?;
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    while at < len {
        let n = file.pread(&mut buffer, at)?;
        for (i, block) in buffer[..n].chunks_exact(BLOCK).enumerate() {
            let position = (at / BLOCK as u64) as u32 + i as u32;
            if let Some(header) = parse_block(block, salt, position) {
                note(found, number, &header);
            }
        }
        if n < STEP {
            break;
        }
        at += n as u64;
    }
    Ok(len)
}

fn note(found: &mut std::collections::BTreeMap<u64, Found>, file: u64, header: &BlockHeader) {
    let Some(start) = header.position.checked_sub(header.block) else {
        return;
    };
    let new = || Found {
        file,
        start,
        blocks: header.blocks,
        durable_through: header.durable_through,
        good: vec![false; header.blocks as usize],
    };
    let batch = found.entry(header.sequence).or_insert_with(new);
    if batch.file == file
        && batch.start == start
        && batch.blocks == header.blocks
        && let Some(good) = batch.good.get_mut(header.block as usize)
    {
        *good = true;
    }
}

/// Payload of the block at a place, unchecked, if it is tagged as the first block of this batch.
pub(crate) fn peek_payload(
    file: &dyn File,
    salt: u64,
    sequence: u64,
    start: u32,
) -> io::Result<Option<Bytes>> {
    let mut block = vec![0; BLOCK];
    let n = file.pread(&mut block, u64::from(start) * BLOCK as u64)?;
    let is_ours = n == BLOCK && block[..TAG] == tag(salt, sequence, 0);
    let mut payload = Vec::with_capacity(BLOCK_PAYLOAD);
    gather(&block, &mut payload);
    Ok(is_ours.then(|| Bytes::from(payload)))
}

/// Payload of a batch. If it is not complete: of the leading good blocks and the first bad one, of which
/// only what has its own CRC may be believed.
pub(crate) fn read_batch(file: &dyn File, found: &Found) -> io::Result<Bytes> {
    let blocks = (found.leading() + 1).min(found.blocks as usize);
    let mut raw = vec![0; blocks * BLOCK];
    let n = file.pread(&mut raw, u64::from(found.start) * BLOCK as u64)?;
    raw.truncate(n - n % BLOCK);
    let mut payload = Vec::with_capacity(blocks * BLOCK_PAYLOAD);
    raw.chunks(BLOCK).for_each(|block| gather(block, &mut payload));
    Ok(Bytes::from(payload))
}

/// Whether a batch of which some blocks are bad was written in full at `start` (so that the bad ones are
/// damage, not a tear). Its number of blocks is learned from its first block if `blocks` is None.
pub(crate) fn is_damage(
    file: &dyn File,
    salt: u64,
    sequence: u64,
    start: u32,
    blocks: Option<u32>,
) -> io::Result<bool> {
    let mut block = vec![0; BLOCK];
    let mut total = blocks.unwrap_or(1);
    let mut number = 0;
    while number < total {
        let at = u64::from(start + number) * BLOCK as u64;
        if file.pread(&mut block, at)? < BLOCK || !is_whole(&block, salt, sequence, number) {
            // Batches never run beyond their file: a count that says so is itself the damage.
            let beyond = at + BLOCK as u64 > file.len()?;
            return Ok(beyond && number > 0);
        }
        if number == 0 && blocks.is_none() {
            total = u32_at(&block, 36).max(1);
        }
        number += 1;
    }
    Ok(true)
}

struct Current {
    number: u64,
    handle: Arc<dyn File>,
    /// Another description of the same file, see [`Journal::second_handle`].
    second: Arc<dyn File>,
    salt: u64,
    len: u64,
    /// Next free block.
    block: u32,
    /// Bytes known to be allocated and written (zero or more) before.
    zeroed: u64,
}

/// The journal being written.
pub(crate) struct Journal {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    directory: u128,
    era: u64,
    file_bytes: u64,
    current: Current,
    /// Files with numbers above the current one, ready to be used, and how far each has been written.
    spares: VecDeque<(u64, u64)>,
    /// Files before the current one that a restart still needs.
    kept: VecDeque<u64>,
    next_number: u64,
    next_sequence: u64,
    /// The last batch known complete.
    complete: u64,
    buffer: Vec<u8>,
}

/// Where a restart begins to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub file: u64,
    /// Block behind the last batch before it.
    pub block: u32,
    pub sequence: u64,
}

impl Journal {
    /// Begins a new run of the journal with a fresh, durable file.
    pub(crate) fn create(
        fs: Arc<dyn Fs>,
        dir: PathBuf,
        identity: (u128, u64),
        file_bytes: u64,
        number: u64,
        sequence: u64,
    ) -> io::Result<Self> {
        let (directory, era) = identity;
        let file_bytes = file_bytes.next_multiple_of(BLOCK as u64).max(4 * BLOCK as u64);
        let zeroed = make_file(&*fs, &dir, number, file_bytes)?;
        let current = open_file(&*fs, &dir, number, salt(directory, era, number), zeroed)?;
        Ok(Self {
            fs,
            dir,
            directory,
            era,
            file_bytes,
            current,
            spares: VecDeque::new(),
            kept: VecDeque::new(),
            next_number: number + 1,
            next_sequence: sequence,
            complete: sequence - 1,
            buffer: Vec::new(),
        })
    }

    pub(crate) fn era(&self) -> u64 {
        self.era
    }
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
    /// Where a checkpoint taken now lets a restart begin.
    pub(crate) fn position(&self) -> Position {
        Position { file: self.current.number, block: self.current.block, sequence: self.next_sequence }
    }
    /// Bytes the next file will take from the disk.
    pub(crate) fn need(&self) -> u64 {
        if self.spares.is_empty() { self.file_bytes } else { 0 }
    }
    /// Whether files are kept that a checkpoint may free.
    pub(crate) fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }
    /// Whether a batch of this many payload bytes needs a file that has yet to be made.
    pub(crate) fn needs_new(&self, payload_bytes: usize) -> bool {
        let needed = payload_bytes.div_ceil(BLOCK_PAYLOAD) as u64 * BLOCK as u64;
        let at = u64::from(self.current.block) * BLOCK as u64;
        at + needed > self.current.len && (self.spares.is_empty() || needed > self.file_bytes)
    }
    /// Length of the file the next batch of this many payload bytes goes to.
    pub(crate) fn reserve(&mut self, payload_bytes: usize) -> io::Result<u64> {
        let needed = payload_bytes.div_ceil(BLOCK_PAYLOAD) as u64 * BLOCK as u64;
        let at = u64::from(self.current.block) * BLOCK as u64;
        if at + needed > self.current.len {
            self.next_file(needed)?;
        }
        Ok(self.current.len)
    }

    /// Writes a batch; one pwrite (one more where the file is zero-filled ahead). Answers its sequence.
    pub(crate) fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        self.reserve(payload.len())?;
        let (sequence, block) = (self.next_sequence, self.current.block);
        let mut buffer = std::mem::take(&mut self.buffer);
        spread(payload, self.current.salt, (sequence, self.complete), block, &mut buffer);
        let at = u64::from(block) * BLOCK as u64;
        let end = at + buffer.len() as u64;
        self.zero_ahead(end)?;
        self.current.handle.pwrite(&buffer, at)?;
        self.current.block += (buffer.len() / BLOCK) as u32;
        self.next_sequence += 1;
        if buffer.capacity() > 4 << 20 {
            buffer = Vec::new();
        }
        self.buffer = buffer;
        Ok(sequence)
    }

    /// The last batch that was appended.
    pub(crate) fn last(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Everything up to this batch is durable, loose entries aside.
    pub(crate) fn note_complete(&mut self, sequence: u64) {
        self.complete = self.complete.max(sequence);
    }

    /// Handle to sync.
    pub(crate) fn handle(&self) -> Arc<dyn File> {
        self.current.handle.clone()
    }

    /// For a sync beside that of [`Journal::handle`]: a failed write-back is told once per open file description, and a sync through the
    /// other's could be told that all is well because the other took the error (safety.md F9).
    pub(crate) fn second_handle(&self) -> Arc<dyn File> {
        self.current.second.clone()
    }

    /// Zero-fills so that everything below `end` has been written once, in steps of 1 MiB.
    fn zero_ahead(&mut self, end: u64) -> io::Result<()> {
        while self.current.zeroed < end {
            let step = ZERO_STEP.min(self.current.len - self.current.zeroed);
            self.current.handle.pwrite(&vec![0; step as usize], self.current.zeroed)?;
            self.current.zeroed += step;
        }
        Ok(())
    }

    /// In idle time: zero-fills the next step, or makes a spare file. Answers whether there is more to do.
    pub(crate) fn prepare(&mut self) -> io::Result<bool> {
        let used = u64::from(self.current.block) * BLOCK as u64;
        let goal = (used + 8 * ZERO_STEP).min(self.current.len);
        if self.current.zeroed < goal {
            self.zero_ahead(self.current.zeroed + 1)?;
            self.current.handle.fdatasync()?;
            return Ok(true);
        }
        if self.spares.is_empty() && used > self.current.len / 2 {
            let zeroed = make_file(&*self.fs, &self.dir, self.next_number, self.file_bytes)?;
            self.spares.push_back((self.next_number, zeroed));
            self.next_number += 1;
        }
        Ok(false)
    }

    fn next_file(&mut self, needed: u64) -> io::Result<()> {
        if self.complete < self.last() {
            // Whoever syncs from now on syncs the next file.
            self.current.handle.fdatasync()?;
        }
        self.kept.push_back(self.current.number);
        if needed > self.file_bytes {
            // Too small for this batch, and numbers must rise: the spares go unused.
            self.kept.extend(self.spares.drain(..).map(|(number, _)| number));
        }
        let (number, zeroed) = match self.spares.pop_front() {
            Some(spare) => spare,
            None => {
                let number = self.next_number;
                self.next_number += 1;
                (number, make_file(&*self.fs, &self.dir, number, needed.max(self.file_bytes))?)
            }
        };
        let salt = salt(self.directory, self.era, number);
        self.current = open_file(&*self.fs, &self.dir, number, salt, zeroed)?;
        Ok(())
    }

    /// Files before `file` are needed no more: recycles what fits, removes the rest.
    pub(crate) fn free_before(&mut self, file: u64) -> io::Result<()> {
        const SPARES: usize = 3;
        while self.kept.front().is_some_and(|number| *number < file) {
            let number = self.kept.pop_front().expect("front was just seen");
            let path = self.dir.join(file_name(number));
            let fits = match self.fs.open(&path, OpenMode::Read) {
                Ok(handle) => handle.len()? == self.file_bytes,
                Err(_) => false,
            };
            if fits && self.spares.len() < SPARES {
                // One durable rename at a time, so that a gap in the numbers always means a lost file.
                self.fs.rename(&path, &self.dir.join(file_name(self.next_number)))?;
                self.fs.sync_dir(&self.dir)?;
                self.spares.push_back((self.next_number, self.file_bytes));
                self.next_number += 1;
            } else {
                match self.fs.unlink(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Old files of an earlier run that a checkpoint has made obsolete.
    pub(crate) fn adopt(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.kept.extend(numbers);
    }
}

/// Creates a journal file of full length under its number, durably; answers how much of it is zero-filled.
fn make_file(fs: &dyn Fs, dir: &Path, number: u64, len: u64) -> io::Result<u64> {
    let path = dir.join(file_name(number));
    let new = path.with_extension("new");
    super::fs::remove_leftover(fs, dir, &new)?;
    let handle = error::patiently(|| fs.open(&new, OpenMode::CreateNew))?;
    let zeroed = ZERO_STEP.min(len);
    let filled = handle.preallocate(0, len).and_then(|()| handle.pwrite(&vec![0; zeroed as usize], 0));
    if let Err(e) = filled {
        // What did not fit must not take space from others.
        let _ = fs.unlink(&new);
        return Err(e);
    }
    handle.fdatasync()?;
    fs.rename(&new, &path)?;
    fs.sync_dir(dir)?;
    Ok(zeroed)
}

fn open_file(fs: &dyn Fs, dir: &Path, number: u64, salt: u64, zeroed: u64) -> io::Result<Current> {
    let path = dir.join(file_name(number));
    let handle = error::patiently(|| fs.open(&path, OpenMode::Write))?;
    let second = error::patiently(|| fs.open(&path, OpenMode::Write))?;
    let len = handle.len()?;
    Ok(Current { number, handle, second, salt, len, block: 0, zeroed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::fs::sim::SimFs;
    use std::collections::BTreeMap;

    fn payload(n: usize) -> Vec<u8> {
        let mut out = Vec::new();
        begin_batch(&mut out, 0, &[GroupId(1), GroupId(9)]);
        out.extend((0..n).map(|i| i as u8));
        finish_batch(&mut out, 1 << 16);
        out
    }

    fn journal(fs: &SimFs) -> Journal {
        fs.create_dir(Path::new("/j")).expect("created");
        Journal::create(Arc::new(fs.clone()), "/j".into(), (77, 1), 1 << 16, 1, 1).expect("created")
    }

    fn scan_all(fs: &SimFs) -> BTreeMap<u64, Found> {
        let mut found = BTreeMap::new();
        for name in fs.list(Path::new("/j")).expect("listed") {
            let number = file_number(&name).expect("a journal");
            let file = fs.open(&Path::new("/j").join(name), OpenMode::Read).expect("opened");
            scan(&*file, number, salt(77, 1, number), &mut found).expect("scanned");
        }
        found
    }

    #[test]
    fn batches_of_every_size_round_trip_over_files() {
        let fs = SimFs::new(1);
        let mut j = journal(&fs);
        let sizes: Vec<usize> = (0..40).map(|i| i * 611).collect();
        for size in &sizes {
            let sequence = j.append(&payload(*size)).expect("appended");
            j.note_complete(sequence);
        }
        let found = scan_all(&fs);
        assert_eq!(found.len(), sizes.len());
        for (i, size) in sizes.iter().enumerate() {
            let batch = &found[&(i as u64 + 1)];
            assert!(batch.is_complete());
            assert_eq!(batch.durable_through, i as u64);
            let file = fs.open(&Path::new("/j").join(file_name(batch.file)), OpenMode::Read).expect("opened");
            let bytes = read_batch(&*file, batch).expect("read");
            let (head, at) = parse_head(&bytes).expect("a head");
            assert_eq!(head.groups, [GroupId(1), GroupId(9)]);
            assert_eq!(bytes[..head.len as usize], payload(*size)[..]);
            assert_eq!(head.len as usize - at, *size);
        }
    }

    #[test]
    fn batch_larger_than_a_file_gets_a_file_of_its_own() {
        let fs = SimFs::new(1);
        let mut j = journal(&fs);
        j.append(&payload(300_000)).expect("appended");
        j.append(&payload(10)).expect("appended");
        let found = scan_all(&fs);
        assert!(found[&1].is_complete() && found[&2].is_complete());
    }

    #[test]
    fn recycled_file_shows_nothing_of_its_former_life() {
        let fs = SimFs::new(1);
        let mut j = journal(&fs);
        for _ in 0..40 {
            j.append(&payload(4000)).expect("appended");
        }
        let now = j.position();
        assert!(now.file > 2);
        j.free_before(now.file).expect("freed");
        let found = scan_all(&fs);
        assert!(found.values().all(|b| b.file == now.file), "{found:?}");
        for _ in 0..40 {
            j.append(&payload(4000)).expect("appended");
        }
        assert!(scan_all(&fs).contains_key(&80));
    }

    #[test]
    fn tear_and_damage_of_a_block_are_told_apart() {
        let fs = SimFs::new(1);
        let mut j = journal(&fs);
        j.append(&payload(9000)).expect("appended");
        let path = Path::new("/j").join(file_name(1));
        let salt = salt(77, 1, 1);
        let check = |fs: &SimFs| {
            let file = fs.open(&path, OpenMode::Read).expect("opened");
            is_damage(&*file, salt, 1, 0, None).expect("read")
        };
        assert!(check(&fs));
        fs.flip(&path, 3000, 1);
        assert!(check(&fs), "a flipped payload byte is damage");
        let torn = fs.fork();
        for at in 4096 + 512..4096 + 1024 {
            let byte = torn.read(&path).expect("there")[at];
            torn.flip(&path, at as u64, byte);
        }
        assert!(!check(&torn), "a zero sector is a tear");
    }
}
