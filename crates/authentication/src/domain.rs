//! Domain names as mail authentication compares them: A-labels in lower case, without a final dot.

use std::borrow::Cow;

/// The longest domain, in bytes (RFC 1035 section 2.3.4).
pub(crate) const DOMAIN_BYTES_MAX: usize = 253;
/// The longest label, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// A domain in A-labels and lower case, if it is one that DNS can hold.
pub(crate) fn normal(domain: &str) -> Option<String> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let domain: Cow<'_, str> = match domain.is_ascii() {
        true => Cow::Borrowed(domain),
        false => Cow::Owned(idna::domain_to_ascii(domain).ok()?),
    };
    is_well_formed(&domain).then(|| domain.to_ascii_lowercase())
}

/// Whether a text is a domain of printable ASCII whose labels are neither empty nor too long.
pub(crate) fn is_well_formed(domain: &str) -> bool {
    (1..=DOMAIN_BYTES_MAX).contains(&domain.len())
        && domain.bytes().all(|byte| byte.is_ascii_graphic())
        && domain.split('.').all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len()))
}

/// Whether a text is a host name as RFC 1123 has it, with underscores, which real names have: what we name in a header.
pub(crate) fn is_host_name(domain: &str) -> bool {
    is_well_formed(domain)
        && domain
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The organizational domain: one label more than the public suffix. A public suffix, and a name that is under none, is its own.
pub(crate) fn organizational(domain: &str) -> &str {
    psl::domain_str(domain).unwrap_or(domain)
}

/// Whether `domain` is `parent` or below it.
pub(crate) fn is_within(domain: &str, parent: &str) -> bool {
    domain
        .len()
        .checked_sub(parent.len())
        .and_then(|split| domain.split_at_checked(split))
        .is_some_and(|(rest, end)| {
            end.eq_ignore_ascii_case(parent) && (rest.is_empty() || rest.ends_with('.'))
        })
}
