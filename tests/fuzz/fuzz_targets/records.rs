//! A message of the queue of attempts.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_broker::fuzzing::records(data));
