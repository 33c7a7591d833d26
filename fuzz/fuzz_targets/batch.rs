//! libFuzzer over the target `batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (kontiki_fuzz::targets::BATCH.run)(data));
