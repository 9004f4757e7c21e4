//! Any bytes in the place of what RabbitMQ sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_broker::fuzzing::frames(data));
