//! libFuzzer over the target `request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (kontiki_fuzz::targets::REQUEST.run)(data));
