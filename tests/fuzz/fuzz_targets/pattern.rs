//! A pattern and a type, against another way to match them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_event::fuzzing::pattern(data));
