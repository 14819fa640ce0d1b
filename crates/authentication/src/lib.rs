//! SPF, DKIM, DMARC, ARC and iprev: what they say of a message, and our own signatures.

#![forbid(unsafe_code)]
