//! The part for programs: `message/delivery-status` (RFC 3464 section 2). All of it is ASCII.

use std::net::IpAddr;

use super::{Kind, Part, Recipient, Report, header, xtext};
use crate::Address;
use crate::xtext::Strict;

/// The longest type in an ORCPT that is repeated.
const ADDRESS_TYPE_BYTES_MAX: usize = 32;

pub(super) fn part(report: &Report<'_>) -> Part {
    let mut content = Vec::with_capacity(256 + 256 * report.recipients.len());
    message_fields(&mut content, report);
    for recipient in &report.recipients {
        content.extend_from_slice(b"\r\n");
        recipient_fields(&mut content, report, recipient);
    }
    Part { content_type: "message/delivery-status", description: "Delivery report", content }
}

fn message_fields(out: &mut Vec<u8>, report: &Report<'_>) {
    field(out, "Reporting-MTA", &format!("dns; {}", report.hostname));
    if let Some(envid) = report.original.envid.and_then(decoded) {
        field(out, "Original-Envelope-Id", &envid);
    }
    field(out, "X-Grange-Message-Id", report.original.id.as_str());
    field(out, "Arrival-Date", &report.original.accepted_at.rfc5322());
}

fn recipient_fields(out: &mut Vec<u8>, report: &Report<'_>, recipient: &Recipient<'_>) {
    let original = match recipient.orcpt {
        Some(orcpt) => original_recipient(orcpt),
        None => recipient.original.map(typed),
    };
    if let Some(original) = original {
        header::write_unfolded(out, "Original-Recipient", &original);
    }
    header::write_unfolded(out, "Final-Recipient", &typed(recipient.address));
    field(out, "Action", action(report.kind, recipient));
    field(out, "Status", &recipient.status(report.kind).to_string());
    if let Some(reply) = recipient.reply() {
        if let Some(remote) = &reply.remote {
            field(out, "Remote-MTA", &format!("dns; {}", mta_name(remote)));
        }
        let words = super::text::shortened(&reply.text);
        let kind = if reply.remote.is_some() { "smtp" } else { "X-Grange" };
        field(out, "Diagnostic-Code", &format!("{kind}; {words}"));
    }
    if let Some(at) = recipient.last_attempt_at {
        field(out, "Last-Attempt-Date", &at.rfc5322());
    }
    if let (Kind::Delay, Some(until)) = (report.kind, report.will_retry_until) {
        field(out, "Will-Retry-Until", &until.rfc5322());
    }
}

/// A remote as a report names it: outcomes say `mx.example.org[192.0.2.1]:2526`, of which RFC 3464 section 2.3.5 wants the
/// name, or an address literal where there is none.
fn mta_name(remote: &str) -> String {
    let name = remote.split('[').next().unwrap_or_default();
    match name.parse() {
        Ok(IpAddr::V4(ip)) => format!("[{ip}]"),
        Ok(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
        Err(_) if name.is_empty() => remote.to_owned(),
        Err(_) => name.to_owned(),
    }
}

/// Writes a field in ASCII, folded.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    header::write(out, name, &xtext::escape(&header::sanitise(value), Strict::No));
}

fn action(kind: Kind, recipient: &Recipient<'_>) -> &'static str {
    match kind {
        Kind::Failure => "failed",
        Kind::Delay => "delayed",
        Kind::Success if recipient.is_final() => "delivered",
        Kind::Success => "relayed",
    }
}

/// An address with its type (RFC 6533 section 3).
fn typed(address: &Address) -> String {
    if address.is_ascii() {
        format!("rfc822; {address}")
    } else {
        format!("utf-8; {}", xtext::escape(address.as_str(), Strict::No))
    }
}

/// An ORCPT as a report repeats it: the type, then the address without its xtext; nothing if it is malformed.
fn original_recipient(orcpt: &str) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let is_type_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if kind.is_empty() || kind.len() > ADDRESS_TYPE_BYTES_MAX || !kind.bytes().all(is_type_byte) {
        return None;
    }
    // A `utf-8` address that came over SMTPUTF8 is not encoded (RFC 6533 section 3), or holds `\x{…}`, which stays.
    if kind.eq_ignore_ascii_case("utf-8") {
        let ascii: String = address
            .chars()
            .map(|c| {
                if c.is_ascii() {
                    c.to_string()
                } else {
                    xtext::escape(c.encode_utf8(&mut [0; 4]), Strict::No)
                }
            })
            .collect();
        return Some(format!("{kind}; {}", header::sanitise(&ascii)));
    }
    Some(format!("{kind}; {}", decoded(address)?))
}

/// Reads xtext that must come out as printable ASCII (RFC 3461 sections 4.2 and 4.4).
fn decoded(text: &str) -> Option<String> {
    let bytes = xtext::decode(text).ok()?;
    let is_printable = |byte: &u8| matches!(byte, b' '..=b'~');
    let text = String::from_utf8(bytes).ok()?;
    text.as_bytes().iter().all(is_printable).then_some(text)
}
