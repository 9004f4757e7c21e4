//! An event in structured mode, in shorthand, and one that was let in before.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_event::fuzzing::event(data));
