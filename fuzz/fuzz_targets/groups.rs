//! libFuzzer over the target `groups`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (kontiki_fuzz::targets::GROUPS.run)(data));
