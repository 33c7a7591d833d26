//! What is fuzzed: one function per target, each takes any bytes and panics where an invariant of the product is broken. Not here: where
//! the bytes come from. Used by `main.rs` beside it (the corpus and mutations of it, in every test run) and by the crate `fuzz`
//! (libFuzzer); public API of the product alone.
//!
//! Of every target: no panic, memory bounded by [`Target::memory`], and what decodes encodes again to something that decodes equal.

mod batch;
mod frame;
mod groups;
mod peer;
mod recovery;
mod request;

pub use batch::DECOMPRESSED_MAX;

/// Something that takes bytes from outside.
#[derive(Clone, Copy)]
pub struct Target {
    /// Also the name of its corpus, `fuzz/corpus/NAME`, and of its libFuzzer target.
    pub name: &'static str,
    /// Runs one input; panics if an invariant is broken.
    pub run: fn(&[u8]),
    /// Bytes of memory that an input of so many bytes may take at its peak, everything the target itself keeps included.
    pub memory: fn(usize) -> usize,
}

/// Frames as they come from a socket.
pub const FRAME: Target = Target { name: "frame", run: frame::run, memory: frame::memory };
/// A request body, after the two bytes that choose its API and version.
pub const REQUEST: Target = Target { name: "request", run: request::run, memory: request::memory };
/// A produced record batch, after one byte of options.
pub const BATCH: Target = Target { name: "batch", run: batch::run, memory: batch::memory };
/// A data directory, damaged as the input says, is opened.
pub const RECOVERY: Target = Target { name: "recovery", run: recovery::run, memory: recovery::memory };
/// Records of `__consumer_offsets`, loaded by a coordinator.
pub const GROUPS: Target = Target { name: "groups", run: groups::run, memory: groups::memory };
/// A frame of the peer protocol, its length and CRC put right.
pub const PEER: Target = Target { name: "peer", run: peer::run, memory: peer::memory };
/// All of them.
pub const ALL: [Target; 6] = [FRAME, REQUEST, BATCH, RECOVERY, GROUPS, PEER];

/// Takes bytes off the front of an input; at its end, as many as there are.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).first().copied()
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.take(2);
        Some(usize::from(u16::from_be_bytes(bytes.try_into().ok()?)))
    }
}
