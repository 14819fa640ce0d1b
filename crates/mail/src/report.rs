//! Delivery reports: a `multipart/report` of a text for people, a delivery status for programs, and the message or its
//! header section (RFC 3461, 3464, 6522, 6533).
//!
//! ```text
//! From: Mail Delivery System <MAILER-DAEMON@mta.example.test>
//! Content-Type: multipart/report; report-type=delivery-status
//!  ├─ text/plain                what happened, in whose words, and what happens next      (text)
//!  ├─ message/delivery-status   the same, as fields                                       (status)
//!  └─ message/rfc822 | text/rfc822-headers                                                (returned)
//! ```
//!
//! Nothing from the message or from a remote can break this structure: whatever comes from outside is stripped of control
//! characters, every line is at most 998 octets, and the boundary occurs in no part.

mod returned;
mod status;
mod text;

use crate::{Address, BodyType, MessageId, Outcome, Reply, StatusCode, SuccessReport, Timestamp};
use crate::{header, xtext};

pub use returned::{RETURNED_HEADER_BYTES_MAX, Returned};
pub use text::WORDS_BYTES_MAX;

/// A report to be written.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// Which of the reports it is.
    pub kind: Kind,
    /// The id of the report's own message: it becomes its Message-ID.
    pub id: MessageId,
    /// Our name: the reporting MTA.
    pub hostname: &'a str,
    /// When the report is written.
    pub written_at: Timestamp,
    /// Who sent the message and is told.
    pub sender: &'a Address,
    /// What the report is about.
    pub original: Original<'a>,
    /// About whom. A report about nobody is not written by anyone.
    pub recipients: Vec<Recipient<'a>>,
    /// Of a delay: until when delivery will be tried.
    pub will_retry_until: Option<Timestamp>,
    /// What is given back of the message.
    pub returned: Returned<'a>,
}

/// The reports there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Delivery has failed for good.
    Failure,
    /// Delivery takes longer than usual and goes on.
    Delay,
    /// Delivered, or relayed to where no report comes from, and the sender asked to be told.
    Success,
}

/// The message that a report is about.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Its ENVID, in xtext as it came.
    pub envid: Option<&'a str>,
    /// Whether it needs SMTPUTF8: its header section may then be UTF-8.
    pub smtputf8: bool,
}

/// One recipient in a report.
#[derive(Debug, Clone)]
pub struct Recipient<'a> {
    /// Where it was to be delivered.
    pub address: &'a Address,
    /// The address as the sender gave it, when an alias changed it.
    pub original: Option<&'a Address>,
    /// Its ORCPT as it came: a type, `;`, and xtext.
    pub orcpt: Option<&'a str>,
    /// What became of it; nothing if that is not known.
    pub outcome: Option<&'a Outcome>,
    /// When it was last tried, if that is known.
    pub last_attempt_at: Option<Timestamp>,
}

/// A report as a message: CRLF text, and what its envelope must say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The message.
    pub message: Vec<u8>,
    /// `8BITMIME` if any byte is beyond ASCII.
    pub body: BodyType,
    /// Whether the header section holds UTF-8.
    pub smtputf8: bool,
}

/// Writes a report.
pub fn write(report: &Report<'_>) -> Written {
    let text = text::part(report);
    let status = status::part(report);
    let returned = returned::part(report);
    let parts = [&text, &status].into_iter().chain(&returned);
    let is_ascii = parts.clone().all(|part| part.content.is_ascii());
    let smtputf8 = !report.sender.is_ascii();
    let boundary = boundary(report.id, parts.clone());
    let mut out = head(report, &boundary, is_ascii);
    for part in parts {
        part.write(&mut out, &boundary);
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let body = if is_ascii && !smtputf8 { BodyType::SevenBit } else { BodyType::EightBitMime };
    Written { message: out, body, smtputf8 }
}

/// One part of the report; its content ends with a line end, or is empty.
struct Part {
    content_type: &'static str,
    description: &'static str,
    content: Vec<u8>,
}

impl Part {
    fn write(&self, out: &mut Vec<u8>, boundary: &str) {
        let encoding = encoding(self.content.is_ascii());
        let head = format!(
            "\r\n--{boundary}\r\nContent-Description: {}\r\nContent-Type: {}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n",
            self.description, self.content_type
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&self.content);
    }
}

fn encoding(is_ascii: bool) -> &'static str {
    if is_ascii { "7bit" } else { "8bit" }
}

/// A boundary that occurs in none of the parts.
fn boundary<'p>(id: MessageId, parts: impl Iterator<Item = &'p Part> + Clone) -> String {
    let occurs = |boundary: &str| {
        let wanted = boundary.as_bytes();
        parts.clone().any(|part| part.content.windows(wanted.len()).any(|found| found == wanted))
    };
    // There are more candidates than a part has places, so one is free.
    (0u64..)
        .map(|number| format!("report_{id}_{number}"))
        .find(|candidate| !occurs(candidate))
        .unwrap_or_default()
}

fn head(report: &Report<'_>, boundary: &str, is_ascii: bool) -> Vec<u8> {
    let subject = match report.kind {
        Kind::Failure => "Undelivered Mail Returned to Sender",
        Kind::Delay => "Delayed Mail (still being retried)",
        Kind::Success => "Successful Mail Delivery Report",
    };
    let host = report.hostname;
    let mut out = Vec::with_capacity(4096);
    header::write(&mut out, "Date", &report.written_at.rfc5322());
    header::write(&mut out, "From", &format!("Mail Delivery System <MAILER-DAEMON@{host}>"));
    header::write_unfolded(&mut out, "To", report.sender.as_str());
    header::write(&mut out, "Subject", subject);
    header::write(&mut out, "Message-ID", &format!("<{}@{host}>", report.id));
    if let Some(reference) = report.returned.message_id() {
        header::write(&mut out, "References", reference);
    }
    header::write(&mut out, "Auto-Submitted", "auto-replied");
    header::write(&mut out, "MIME-Version", "1.0");
    let kind = format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
    header::write(&mut out, "Content-Type", &kind);
    header::write(&mut out, "Content-Transfer-Encoding", encoding(is_ascii));
    out.extend_from_slice(b"\r\nThis is a delivery report in MIME format.\r\n");
    out
}

impl Recipient<'_> {
    /// What was last said about the recipient.
    fn reply(&self) -> Option<&Reply> {
        self.outcome.map(|outcome| match outcome {
            Outcome::Delivered(delivered) => &delivered.reply,
            Outcome::Deferred(reply) | Outcome::Failed(reply) => reply,
        })
    }

    /// The status to report: what was said, or the plainest code of the kind.
    fn status(&self, kind: Kind) -> StatusCode {
        let class = match kind {
            Kind::Failure => 5,
            Kind::Delay => 4,
            Kind::Success => 2,
        };
        self.reply().map_or(StatusCode::new(class, 0, 0), |reply| reply.status)
    }

    /// Whether the message has come to its end here, as opposed to a host that tells no more of it.
    fn is_final(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Delivered(delivered)) if delivered.report == SuccessReport::Final)
    }
}

#[cfg(test)]
mod tests;
