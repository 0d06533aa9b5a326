#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dure_tests::fuzzing::run("letter", data));
