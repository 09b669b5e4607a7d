#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nixci_fuzz::run("narinfo", data));
