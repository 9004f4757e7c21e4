//! A message of records.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_broker::fuzzing::records(data));
