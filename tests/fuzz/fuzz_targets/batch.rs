//! A batch of events.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_event::fuzzing::batch(data));
