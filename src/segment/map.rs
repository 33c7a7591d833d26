//! Read-only maps of segment files, handed out as `Bytes`; and the SIGBUS handler that keeps a failing
//! disk from killing the process. The only file with `unsafe`. Not here: checks of what the bytes say.
//!
//! * A map never covers bytes that may still be written: its length is the written end of the file.
//! * A file is never cut below the length of a live map (segments are only trimmed at their written end).
//! * A faulting page of a registered map becomes a zero page and the map is marked failed; the CRC of the
//!   frame keeps zeros from leaving. Any other SIGBUS aborts.

use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// Most live maps of the process, well under vm.max_map_count (65,530).
pub(crate) const MAPS_MAX: usize = 16_384;

/// A read-only view of the start of a file. Clones share it; slices keep it alive.
#[derive(Clone)]
pub struct SegmentMap(Inner);

#[derive(Clone)]
enum Inner {
    Memory(Bytes),
    File(Arc<FileMap>),
}

struct FileMap {
    map: memmap2::Mmap,
    slot: usize,
}

/// Keeps a map alive on behalf of a `Bytes`.
struct Slice {
    map: Arc<FileMap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.map.map[self.range.clone()]
    }
}

impl SegmentMap {
    /// A "map" of bytes in memory (simulated disks).
    pub fn of_bytes(bytes: Bytes) -> Self {
        Self(Inner::Memory(bytes))
    }

    /// Maps the first `len` bytes, which must all have been written already.
    pub(crate) fn of_file(file: &std::fs::File, len: usize) -> io::Result<Self> {
        install_handler();
        let actual = file.metadata()?.len();
        if actual < len as u64 {
            let text = format!("file has {actual} bytes, {len} were to be mapped");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        // SAFETY: the mapped bytes are written once and never change while the map lives (see the file
        // comment), the mapping is read-only, and a truncation by somebody else or an IO error ends in
        // the SIGBUS handler below instead of undefined contents.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        let slot = register(map.as_ptr() as usize, len)?;
        Ok(Self(Inner::File(Arc::new(FileMap { map, slot }))))
    }

    /// Bytes covered.
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Memory(bytes) => bytes.len(),
            Inner::File(file) => file.map.len(),
        }
    }

    /// Whether nothing is covered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, without a copy.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        match &self.0 {
            Inner::Memory(bytes) => bytes.slice(range),
            Inner::File(file) => {
                assert!(range.start <= range.end && range.end <= file.map.len(), "slice within the map");
                Bytes::from_owner(Slice { map: file.clone(), range })
            }
        }
    }

    /// Whether a page could not be read and was replaced by zeros.
    pub fn has_failed(&self) -> bool {
        match &self.0 {
            Inner::Memory(_) => false,
            Inner::File(file) => SLOTS[file.slot].failed.load(Ordering::Acquire),
        }
    }

    /// Whether every page of `range` is in memory, so that touching it does not wait for the disk.
    pub fn is_resident(&self, range: Range<usize>) -> bool {
        let Inner::File(file) = &self.0 else {
            return true;
        };
        if range.is_empty() {
            return true;
        }
        let page = page_size();
        let base = file.map.as_ptr() as usize;
        let from = (base + range.start) & !(page - 1);
        let to = base + range.end.min(file.map.len());
        let pages = (to - from).div_ceil(page);
        let mut state = vec![0u8; pages];
        // SAFETY: [from, to) lies inside the live mapping, from is page-aligned (maps start at a page),
        // and `state` has one byte per page, as mincore(2) asks.
        let answer = unsafe { libc::mincore(from as *mut libc::c_void, to - from, state.as_mut_ptr()) };
        answer == 0 && state.iter().all(|s| s & 1 != 0)
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        // Unregistered before memmap2 unmaps: the range may be reused by others at once.
        unregister(self.slot);
    }
}

struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    failed: AtomicBool,
}

static SLOTS: [Slot; MAPS_MAX] =
    [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), failed: AtomicBool::new(false) } };
        MAPS_MAX];
/// Slots ever used; the handler looks no further.
static USED: AtomicUsize = AtomicUsize::new(0);
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static PAGE: AtomicUsize = AtomicUsize::new(4096);

fn page_size() -> usize {
    PAGE.load(Ordering::Relaxed)
}

fn register(start: usize, len: usize) -> io::Result<usize> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = match free.pop() {
        Some(slot) => slot,
        None => {
            let slot = USED.load(Ordering::Acquire);
            if slot == MAPS_MAX {
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, "too many live segment maps"));
            }
            USED.store(slot + 1, Ordering::Release);
            slot
        }
    };
    SLOTS[slot].failed.store(false, Ordering::Release);
    SLOTS[slot].end.store(start + len, Ordering::Release);
    SLOTS[slot].start.store(start, Ordering::Release);
    Ok(slot)
}

fn unregister(slot: usize) {
    SLOTS[slot].start.store(0, Ordering::Release);
    FREE.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        PAGE.store(rustix::param::page_size(), Ordering::Relaxed);
        // SAFETY: the action is fully initialised (zeroed, then flags and handler set; an empty mask is
        // all zeros on Linux), and the handler only does what signal-safety allows.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            action.sa_sigaction = on_sigbus as *const () as usize;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    });
}

/// Async-signal-safe: atomics, one mmap, no allocation, no lock.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler; errno is this thread's own and
    // is put back; the page replaced lies inside a registered mapping, which its owner keeps alive while
    // somebody reads it (the reader is this very thread).
    unsafe {
        let errno = *libc::__errno_location();
        let address = (*info).si_addr() as usize;
        let page = page_size();
        for slot in SLOTS.iter().take(USED.load(Ordering::Acquire)) {
            let start = slot.start.load(Ordering::Acquire);
            // A map ends on a page edge for the kernel, so the page of the last byte belongs to it.
            let end = slot.end.load(Ordering::Acquire).next_multiple_of(page);
            if start == 0 || address < start || address >= end {
                continue;
            }
            let at = (address & !(page - 1)) as *mut libc::c_void;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            if libc::mmap(at, page, libc::PROT_READ, flags, -1, 0) != at {
                libc::abort();
            }
            slot.failed.store(true, Ordering::Release);
            *libc::__errno_location() = errno;
            return;
        }
        libc::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn slice_outlives_the_map() {
        let file = file_of(&[5u8; 10_000]);
        let map = SegmentMap::of_file(&file, 10_000).expect("mapped");
        let slice = map.slice(4_000..9_000);
        assert!(map.is_resident(0..10_000));
        drop(map);
        assert!(slice.iter().all(|b| *b == 5));
    }

    #[test]
    fn page_beyond_the_end_of_the_file_reads_as_zero_and_marks_the_map() {
        let file = file_of(&[5u8; 8_192]);
        let map = SegmentMap::of_file(&file, 8_192).expect("mapped");
        let other = SegmentMap::of_file(&file, 4_096).expect("mapped");
        file.set_len(4_096).expect("cut");
        let slice = map.slice(0..8_192);
        assert_eq!(slice[0], 5);
        assert!(!map.has_failed());
        assert_eq!(slice[5_000], 0);
        assert!(map.has_failed());
        assert!(!other.has_failed());
    }

    #[test]
    fn map_longer_than_the_file_is_refused() {
        let file = file_of(&[1u8; 10]);
        assert!(SegmentMap::of_file(&file, 11).is_err());
    }
}
