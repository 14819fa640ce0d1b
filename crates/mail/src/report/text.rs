//! The part for people: what happened, in whose words, and what happens next.

use super::{Kind, Part, Recipient, Report, Returned, header};
use crate::{Address, StatusCode};

/// How much of a remote's words is repeated, in bytes.
pub const WORDS_BYTES_MAX: usize = 2000;
/// Where the text is wrapped, in characters.
const WIDTH: usize = 72;

pub(super) fn part(report: &Report<'_>) -> Part {
    let mut text = Text::default();
    text.paragraph(&format!("This is the mail system at {}.", report.hostname));
    text.paragraph(opening(report));
    for recipient in &report.recipients {
        about(&mut text, report.kind, recipient);
    }
    text.paragraph(&next(report));
    let returned = match report.returned {
        Returned::Message(_) => "Your message is attached.",
        Returned::Headers(_) => {
            "The header of your message is attached, so that you can tell which one it was."
        }
        Returned::Nothing => "The message itself is no longer at hand and cannot be attached.",
    };
    text.paragraph(&format!(
        "This mail system took your message on {} and calls it {}. {returned}",
        report.original.accepted_at.rfc5322(),
        report.original.id
    ));
    text.out.truncate(text.out.len().saturating_sub(2));
    Part {
        content_type: "text/plain; charset=utf-8",
        description: "Notification",
        content: text.out,
    }
}

fn opening(report: &Report<'_>) -> &'static str {
    let one = report.recipients.len() == 1;
    match (report.kind, one) {
        (Kind::Failure, true) => {
            "I'm sorry: your message could not be delivered to the following recipient."
        }
        (Kind::Failure, false) => {
            "I'm sorry: your message could not be delivered to the following recipients."
        }
        (Kind::Delay, true) => {
            "Your message has not yet been delivered to the following recipient. THIS IS ONLY A WARNING: YOU NEED NOT SEND IT AGAIN."
        }
        (Kind::Delay, false) => {
            "Your message has not yet been delivered to the following recipients. THIS IS ONLY A WARNING: YOU NEED NOT SEND IT AGAIN."
        }
        (Kind::Success, true) => {
            "As you asked to be told: your message was delivered to the following recipient."
        }
        (Kind::Success, false) => {
            "As you asked to be told: your message was delivered to the following recipients."
        }
    }
}

fn about(text: &mut Text, kind: Kind, recipient: &Recipient<'_>) {
    let through = match recipient.original {
        Some(original) if !same_mailbox(original, recipient.address) => {
            format!(" (where your mail for <{original}> goes)")
        }
        _ => String::new(),
    };
    text.line(0, &format!("<{}>{through}", recipient.address));
    let status = recipient.status(kind);
    match recipient.reply() {
        Some(reply) => {
            let words = shortened(&reply.text);
            match &reply.remote {
                Some(remote) => text.line(4, &format!("{remote} said: {words}")),
                None => text.line(4, &format!("{words} ({status})")),
            }
        }
        None => text.line(4, "Nothing more is known."),
    }
    match kind {
        Kind::Success if recipient.is_final() => text.line(4, "It is in the mailbox."),
        Kind::Success => {
            text.line(4, "That host has taken it over and sends no reports of success, so you may hear no more of it.");
        }
        Kind::Failure | Kind::Delay => {
            if let Some(meaning) = meaning(status) {
                text.line(4, meaning);
            }
        }
    }
    text.end_of_paragraph();
}

fn same_mailbox(one: &Address, other: &Address) -> bool {
    one.local_part() == other.local_part() && one.domain().eq_ignore_ascii_case(other.domain())
}

/// What a status code means to a person, where it means something definite (RFC 3463, the IANA registry).
fn meaning(status: StatusCode) -> Option<&'static str> {
    let text = match (status.class, status.subject, status.detail) {
        (5, 1, 1 | 3 | 6) => "The address does not exist. Please check how it is written.",
        (5, 1, 2) | (5, 4, 4) => {
            "The domain does not exist or takes no mail. Please check how it is written."
        }
        (5, 1, 10) => "The domain takes no mail.",
        (_, 2, 2) => "The mailbox is full.",
        (5, 2, 1) => "The mailbox is closed to mail.",
        (5, 2, 3) | (5, 3, 4) => "The message is larger than is taken there.",
        (5, 4, 6) => "The message went in circles: an address there leads back to itself.",
        (_, 4, 7) => "It was tried for as long as we try, without success.",
        (4, 4, 1 | 2) => "The other host does not answer, or loses the connection.",
        (5, 6, 7) => {
            "The address or the message needs international mail (SMTPUTF8), which the other host does not take."
        }
        (5, 7, _) => "It was refused for reasons of policy there; the words above may say which.",
        _ => return None,
    };
    Some(text)
}

fn next(report: &Report<'_>) -> String {
    match (report.kind, report.will_retry_until) {
        (Kind::Failure, _) => {
            "No further attempt will be made for what is listed here. If you cannot tell what to do from the words above, please show this report to your postmaster."
                .to_owned()
        }
        (Kind::Delay, Some(until)) => format!(
            "Delivery will be tried again until {}. You will be told if it cannot be delivered by then.",
            until.rfc5322()
        ),
        (Kind::Delay, None) => {
            "Delivery will be tried again. You will be told if it cannot be delivered.".to_owned()
        }
        (Kind::Success, _) => "There is nothing for you to do.".to_owned(),
    }
}

/// A remote's words, not longer than a report repeats.
pub(super) fn shortened(words: &str) -> String {
    let safe = header::sanitise(words);
    let length = (0..=WORDS_BYTES_MAX.min(safe.len()))
        .rev()
        .find(|length| safe.is_char_boundary(*length))
        .unwrap_or(0);
    match safe.split_at_checked(length) {
        Some((start, rest)) if !rest.is_empty() => format!("{start} ..."),
        _ => safe.into_owned(),
    }
}

/// Lines of text, wrapped at [`WIDTH`], safe in a body.
#[derive(Default)]
struct Text {
    out: Vec<u8>,
}

impl Text {
    fn paragraph(&mut self, text: &str) {
        self.line(0, text);
        self.end_of_paragraph();
    }

    fn end_of_paragraph(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, indent: usize, text: &str) {
        let text = header::sanitise(text);
        let mut line = " ".repeat(indent);
        let mut columns = indent;
        let mut has_words = false;
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            let width = word.chars().count();
            if has_words && columns + 1 + width > WIDTH {
                self.end(&mut line, indent);
                (columns, has_words) = (indent, false);
            }
            if has_words {
                line.push(' ');
                columns += 1;
            }
            for character in word.chars() {
                // A word this long is no text for people; it is only kept legal.
                if line.len() + character.len_utf8() > header::LINE_BYTES_MAX {
                    self.end(&mut line, indent);
                    columns = indent;
                }
                line.push(character);
            }
            columns += width;
            has_words = true;
        }
        self.end(&mut line, indent);
    }

    /// Ends the line and begins the next.
    fn end(&mut self, line: &mut String, indent: usize) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        line.truncate(indent);
    }
}
