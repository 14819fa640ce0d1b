//! What a server offers, and the commands of a transaction as they are written for it.

use std::io::Write;

use mail::xtext::{self, Strict};
use mail::{Address, Notify, Ret};

use super::{Message, Recipient};
use crate::reply::Reply;

/// The longest ORCPT that a server has to take, in bytes (RFC 3461 section 4.2).
const ORCPT_BYTES_MAX: usize = 500;

/// The service extensions a server offers (RFC 5321 section 4.1.1.1) that matter to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: the parameter is known.
    pub size: bool,
    /// RFC 1870: the largest message it takes, in bytes, if it says.
    pub size_max: Option<u64>,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 3030.
    pub chunking: bool,
}

impl Capabilities {
    /// Reads the reply to EHLO or LHLO. What is unknown or malformed is not offered.
    pub(super) fn of(reply: &Reply) -> Self {
        let mut offered = Self::default();
        // The first line is the server's name.
        for line in reply.lines().skip(1) {
            let mut words = line.split(' ').filter(|word| !word.is_empty());
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => offered.pipelining = true,
                "SIZE" => {
                    offered.size = true;
                    // Zero says that there is no fixed limit.
                    offered.size_max =
                        words.next().and_then(|word| word.parse().ok()).filter(|size| *size > 0);
                }
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "DSN" => offered.dsn = true,
                "STARTTLS" => offered.starttls = true,
                "CHUNKING" => offered.chunking = true,
                _ => {}
            }
        }
        offered
    }
}

/// Writes `MAIL FROM` with the parameters that the server knows.
pub(super) fn mail(message: &Message<'_>, offered: &Capabilities, utf8: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(message.sender.map(Address::as_str).unwrap_or_default().as_bytes());
    out.push(b'>');
    if let (true, Some(size)) = (offered.size, message.size) {
        // Writing to memory cannot fail.
        let _ = write!(out, " SIZE={size}");
    }
    if offered.eight_bit_mime && message.eight_bit {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if offered.smtputf8 && utf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if offered.dsn {
        match message.ret {
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Hdrs) => out.extend_from_slice(b" RET=HDRS"),
            None => {}
        }
        parameter(b" ENVID=", message.envid, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes `RCPT TO` with the parameters that the server knows.
pub(super) fn rcpt(recipient: &Recipient<'_>, offered: &Capabilities, out: &mut Vec<u8>) {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.address.as_str().as_bytes());
    out.push(b'>');
    if offered.dsn {
        if let Some(notify) = recipient.notify {
            write_notify(notify, out);
        }
        match (recipient.orcpt, recipient.original) {
            (Some(orcpt), _) => write_orcpt(orcpt, out),
            // The sender gave none: the address it did give is what a report should speak of.
            (None, Some(original)) if original.is_ascii() => {
                out.extend_from_slice(b" ORCPT=rfc822;");
                out.extend_from_slice(xtext::encode(original.as_str().as_bytes()).as_bytes());
            }
            (None, Some(original)) => {
                let address = xtext::escape(original.as_str(), Strict::Yes);
                write_long_orcpt(&format!("utf-8;{address}"), out);
            }
            (None, None) => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes ORCPT as it came, except that UTF-8, which only a server with SMTPUTF8 would understand, becomes the form in ASCII
/// that every server takes (RFC 6533 section 3). What is ASCII in it is encoded already.
fn write_orcpt(orcpt: &str, out: &mut Vec<u8>) {
    let is_utf8 = |kind: &str| kind.eq_ignore_ascii_case("utf-8");
    if orcpt.is_ascii() || !orcpt.split_once(';').is_some_and(|(kind, _)| is_utf8(kind)) {
        return parameter(b" ORCPT=", Some(orcpt), out);
    }
    let mut ascii = String::with_capacity(2 * orcpt.len());
    for character in orcpt.chars() {
        match character.is_ascii() {
            true => ascii.push(character),
            false => {
                let mut bytes = [0; 4];
                ascii.push_str(&xtext::escape(character.encode_utf8(&mut bytes), Strict::Yes));
            }
        }
    }
    write_long_orcpt(&ascii, out);
}

/// Writes an ORCPT that grew as it was encoded, unless it grew beyond what a server has to take.
fn write_long_orcpt(orcpt: &str, out: &mut Vec<u8>) {
    parameter(b" ORCPT=", Some(orcpt).filter(|orcpt| orcpt.len() <= ORCPT_BYTES_MAX), out);
}

fn write_notify(notify: Notify, out: &mut Vec<u8>) {
    let wishes =
        [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    out.extend_from_slice(b" NOTIFY=");
    if notify == Notify::NEVER {
        out.extend_from_slice(b"NEVER");
    }
    let mut comma = false;
    for (_, word) in wishes.into_iter().filter(|(wanted, _)| *wanted) {
        if comma {
            out.push(b',');
        }
        comma = true;
        out.extend_from_slice(word.as_bytes());
    }
}

/// Writes a parameter that came from a client. One that would not stay a single word is left out, whoever stored it.
fn parameter(name: &[u8], value: Option<&str>, out: &mut Vec<u8>) {
    if let Some(value) = value.filter(|value| value.bytes().all(|byte| byte.is_ascii_graphic())) {
        out.extend_from_slice(name);
        out.extend_from_slice(value.as_bytes());
    }
}
