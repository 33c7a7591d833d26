//! libFuzzer over the target `frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (kontiki_fuzz::targets::FRAME.run)(data));
