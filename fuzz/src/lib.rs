//! The targets of `tests/fuzz`, for libFuzzer: each file of `fuzz_targets` runs one.

#[path = "../../tests/fuzz/targets/mod.rs"]
pub mod targets;
