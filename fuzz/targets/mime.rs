//! MIME trees of strangers' messages as rules look into them: within limits of parts, depth and memory, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| contentfilter::look_into(message));
