//! The header Retry-After.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_deliverer::fuzzing::retry_after(data));
