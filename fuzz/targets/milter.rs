//! What a broken or hostile milter says, from the negotiation to its changes: an error or a message that is well formed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|said: &[u8]| contentfilter::hear_milter(said));
