//! One message with any content header and body, as a process takes it from RabbitMQ.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_broker::fuzzing::message(data));
