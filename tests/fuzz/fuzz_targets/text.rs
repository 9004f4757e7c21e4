//! Durations, times, URLs and ids.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_event::fuzzing::text(data));
