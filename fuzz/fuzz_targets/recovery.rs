//! libFuzzer over the target `recovery`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (kontiki_fuzz::targets::RECOVERY.run)(data));
