//! The Received field that we add (RFC 5321 section 4.4).

use std::net::IpAddr;

use mail::{Address, MessageId, Timestamp};

/// What the field says.
pub struct Received<'a> {
    /// The name that the client gave.
    pub helo: &'a str,
    /// The client's address.
    pub client: IpAddr,
    /// Our name.
    pub hostname: &'a str,
    /// `ESMTP` and so on (RFC 3848).
    pub protocol: &'a str,
    /// The message's id.
    pub id: MessageId,
    /// The recipient if there is but one: naming several would tell each of the others.
    pub recipient: Option<&'a Address>,
    /// When it came.
    pub at: Timestamp,
}

impl Received<'_> {
    /// The field with its line ends.
    pub fn field(&self) -> String {
        let literal = match self.client.to_canonical() {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        };
        let recipient = match self.recipient {
            Some(recipient) => format!("\r\n\tfor <{recipient}>"),
            None => String::new(),
        };
        format!(
            "Received: from {} ({literal})\r\n\tby {} (Grange) with {} id {}{recipient};\r\n\t{}\r\n",
            plain_name(self.helo),
            self.hostname,
            self.protocol,
            self.id,
            self.at.rfc5322(),
        )
    }
}

/// A client's name without what is syntax in a header field: it could else end the comment, or begin another clause.
fn plain_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]+/".contains(c);
    name.chars().map(|c| if is_plain(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests;
