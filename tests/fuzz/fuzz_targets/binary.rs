//! An event in binary mode.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_event::fuzzing::binary(data));
