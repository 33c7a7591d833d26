//! libFuzzer over the target `peer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (kontiki_fuzz::targets::PEER.run)(data));
