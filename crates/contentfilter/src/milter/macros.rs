//! What macros say, by the names that Sendmail and Postfix have for them.
//!
//! What is not known before a message is accepted has no value: where it will go (`{rcpt_mailer}`), how it will be called before there is
//! content (`i` at MAIL and RCPT).

use std::net::IpAddr;

use mail::{Address, Recipient};

use crate::filter::Session;

/// What stands for the name of a client that has none, as Postfix has it.
pub(super) const NAMELESS: &str = "unknown";

/// An address in the place of a name.
pub(super) fn bracketed(address: Option<IpAddr>) -> String {
    address.map_or_else(|| NAMELESS.to_owned(), |address| format!("[{}]", tagged(address)))
}

/// An address as RFC 5321 has it in its literals.
fn tagged(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("IPv6:{address}"),
    }
}

/// What macros tell of.
pub(super) struct Facts<'a> {
    pub(super) hostname: &'a str,
    pub(super) client_name: Option<&'a str>,
    pub(super) session: &'a Session,
    /// The recipient that is told of.
    pub(super) recipient: Option<&'a Recipient>,
}

impl Facts<'_> {
    /// The value of a macro, if it has one.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let session = self.session;
        let client_name = || self.client_name.unwrap_or(NAMELESS).to_owned();
        let client = session.address.map(tagged);
        match name {
            "j" => Some(self.hostname.to_owned()),
            "v" => Some(concat!("Grange ", env!("CARGO_PKG_VERSION")).to_owned()),
            "i" => session.id.map(|id| id.as_str().to_owned()),
            "_" => client.map(|client| format!("{} [{client}]", client_name())),
            "{daemon_name}" => Some(session.service.clone()),
            "{client_addr}" => client,
            "{client_name}" | "{client_ptr}" => client.map(|_| client_name()),
            "{client_port}" => client.map(|_| session.port.to_string()),
            "{auth_authen}" => session.user.clone(),
            "{mail_addr}" => {
                session.envelope.as_ref()?;
                Some(session.sender().map(text).unwrap_or_default())
            }
            "{mail_host}" => session.sender().map(domain),
            "{rcpt_addr}" => self.recipient.map(|recipient| text(&recipient.address)),
            "{rcpt_host}" => self.recipient.map(|recipient| domain(&recipient.address)),
            _ => None,
        }
    }
}

fn text(address: &Address) -> String {
    address.as_str().to_owned()
}

fn domain(address: &Address) -> String {
    address.domain().to_owned()
}
