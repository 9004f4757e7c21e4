//! A batch of held deliveries.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_broker::fuzzing::dispatched(data));
