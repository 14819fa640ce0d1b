//! An address as rules see it: lower case, without needless quotes, with or without its detail.

use mail::Address;

/// An address taken apart for comparing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mailbox {
    /// The local part.
    pub(crate) local: String,
    /// The local part without its detail, where it has one.
    base: Option<usize>,
    /// The domain.
    pub(crate) domain: String,
}

impl Mailbox {
    /// Takes an address apart. Any of `delimiters` begins a detail, except at the start of the local part.
    pub(crate) fn of(address: &Address, delimiters: &str) -> Self {
        let local = unquoted(address.local_part()).to_ascii_lowercase();
        let base = match local.starts_with('"') {
            true => None,
            false => local.char_indices().skip(1).find(|(_, c)| delimiters.contains(*c)),
        };
        Self {
            base: base.map(|(index, _)| index),
            local,
            domain: address.domain().to_ascii_lowercase(),
        }
    }

    /// The local part without its detail.
    pub(crate) fn base(&self) -> &str {
        self.base.and_then(|length| self.local.get(..length)).unwrap_or(&self.local)
    }

    /// Whether there is a detail.
    pub(crate) fn has_detail(&self) -> bool {
        self.base.is_some()
    }

    /// The whole address: two that have the same are the same mailbox to us.
    pub(crate) fn key(&self) -> String {
        format!("{}@{}", self.local, self.domain)
    }

    /// The whole address without detail.
    pub(crate) fn base_key(&self) -> String {
        format!("{}@{}", self.base(), self.domain)
    }

    /// The domain's parents, nearest first: what stands behind each dot.
    pub(crate) fn parents(&self) -> impl Iterator<Item = &str> {
        self.domain.match_indices('.').filter_map(|(index, _)| self.domain.get(index + 1..))
    }
}

/// `"anna"` is `anna`; a quoted string that needs its quotes keeps them.
fn unquoted(local: &str) -> &str {
    let inner = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if is_local_part(inner) => inner,
        _ => local,
    }
}

/// Whether a text is a local part as it stands.
pub(crate) fn is_local_part(text: &str) -> bool {
    Address::parse(&format!("{text}@a.test")).is_ok_and(|address| address.local_part() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_addresses_apart() {
        for (address, local, base, domain) in [
            ("Anna@Example.TEST", "anna", "anna", "example.test"),
            ("anna+Box@example.test", "anna+box", "anna", "example.test"),
            ("anna+a+b@example.test", "anna+a+b", "anna", "example.test"),
            ("+box@example.test", "+box", "+box", "example.test"),
            ("\"anna\"@example.test", "anna", "anna", "example.test"),
            ("\"anna+x\"@example.test", "anna+x", "anna", "example.test"),
            ("\"a b+c\"@example.test", "\"a b+c\"", "\"a b+c\"", "example.test"),
            ("\"a@evil.test\"@example.test", "\"a@evil.test\"", "\"a@evil.test\"", "example.test"),
            ("a%evil.test@example.test", "a%evil.test", "a%evil.test", "example.test"),
            ("evil.test!a@example.test", "evil.test!a", "evil.test!a", "example.test"),
            ("postmaster", "postmaster", "postmaster", ""),
        ] {
            let mailbox = Mailbox::of(&Address::parse(address).expect("well-formed"), "+");
            let parts = (mailbox.local.as_str(), mailbox.base(), mailbox.domain.as_str());
            assert_eq!(parts, (local, base, domain), "{address}");
        }
    }

    #[test]
    fn without_a_delimiter_there_is_no_detail() {
        let mailbox = Mailbox::of(&Address::parse("a+b@example.test").expect("well-formed"), "");
        assert!(!mailbox.has_detail());
        assert_eq!(mailbox.base_key(), "a+b@example.test");
    }
}
