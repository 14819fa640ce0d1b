//! The header field Authentication-Results (RFC 8601): ours written, and foreign ones that use our name found.
//!
//! Whatever stands in ours is our own words, a host name, an address of plain atoms, or a text of base64: nothing that a message or
//! DNS says can end a result, a comment or the field.

#[cfg(test)]
mod tests;

use mail::Edit;
use mail::header::{Field, fields};

use crate::author::skip_comment;
use crate::domain;
use crate::verify::Report;

/// The field's name.
pub const FIELD: &str = "Authentication-Results";

/// The longest authserv-id, in bytes.
const ID_BYTES_MAX: usize = 253;

/// Whether a text can be our authserv-id: a host name, or a token of such characters.
pub fn is_authserv_id(text: &str) -> bool {
    text.len() <= ID_BYTES_MAX && domain::is_host_name(text)
}

/// One result: a method, what it says, and of what.
struct Entry {
    text: String,
}

impl Entry {
    fn new(method: &str, result: &str) -> Self {
        Self { text: format!("{method}={result}") }
    }

    fn reason(mut self, reason: Option<&'static str>) -> Self {
        if let Some(reason) = reason {
            self.text.push_str(&format!(" reason=\"{reason}\""));
        }
        self
    }

    /// A comment of a name that is one, or of our own words.
    fn comment(mut self, words: &str) -> Self {
        self.text.push_str(&format!(" ({words})"));
        self
    }

    /// A property; left out if its value is none that can stand there.
    fn property(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value.filter(|value| is_property_value(value)) {
            self.text.push_str(&format!(" {name}={value}"));
        }
        self
    }
}

/// Whether a value can stand without quotes: a host name, an address of plain atoms, an IP address; or our quoted base64.
fn is_property_value(value: &str) -> bool {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    !inner.is_empty()
        && inner.len() <= 400
        && inner.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@+:/=".contains(&byte))
        && (inner.len() != value.len() || !inner.contains(['/', '=']))
}

/// The value of our field, folded, without the field's name.
pub(crate) fn value(authserv_id: &str, report: &Report) -> String {
    let entries = entries(report);
    if entries.is_empty() {
        return format!("{authserv_id}; none");
    }
    let mut out = authserv_id.to_owned();
    for entry in entries {
        out.push_str(";\r\n\t");
        push_folded(&mut out, &entry.text);
    }
    out
}

/// Where a line is folded, in octets.
const FOLD_BYTES: usize = 78;

fn push_folded(out: &mut String, text: &str) {
    let mut column = 8;
    for (number, word) in text.split(' ').enumerate() {
        if number > 0 && column + 1 + word.len() > FOLD_BYTES {
            out.push_str("\r\n\t ");
            column = 9;
        } else if number > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
}

fn entries(report: &Report) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Some(iprev) = &report.iprev {
        let mut entry = Entry::new("iprev", iprev.result.name());
        if let Some(name) = iprev.name.as_deref().filter(|name| domain::is_host_name(name)) {
            entry = entry.comment(name);
        }
        // A colon must be quoted.
        let client = report.client.to_string();
        let client = if client.contains(':') { format!("\"{client}\"") } else { client };
        entries.push(entry.property("policy.iprev", Some(&client)));
    }
    if let Some(spf) = &report.spf_mail_from {
        // The domain alone, of which SPF says something: OpenDMARC does not understand an address there.
        let value = spf.identity.as_deref();
        let value = value.map(|value| value.rsplit_once('@').map_or(value, |(_, domain)| domain));
        entries.push(Entry::new("spf", spf.result.name()).property("smtp.mailfrom", value));
    }
    if let Some(spf) = &report.spf_helo {
        let value = spf.identity.as_deref();
        entries.push(Entry::new("spf", spf.result.name()).property("smtp.helo", value));
    }
    if report.dkim.is_empty() {
        entries.push(Entry::new("dkim", "none"));
    }
    for dkim in &report.dkim {
        let signature = dkim.signature.as_ref().map(|text| format!("\"{text}\""));
        entries.push(
            Entry::new("dkim", dkim.result.name())
                .reason(dkim.reason)
                .property("header.d", dkim.domain.as_deref())
                .property("header.s", dkim.selector.as_deref())
                .property("header.a", dkim.algorithm)
                .property("header.b", signature.as_deref()),
        );
    }
    for dmarc in &report.dmarc {
        let mut entry = Entry::new("dmarc", dmarc.result.name()).reason(dmarc.reason);
        if let Some(policy) = dmarc.policy {
            entry = entry.comment(&format!("p={}", policy.name()));
        }
        entries.push(entry.property("header.from", dmarc.domain.as_deref()));
    }
    let arc = &report.arc;
    let mut entry = Entry::new("arc", arc.result.name()).reason(arc.reason);
    if arc.instances > 0 {
        entry = entry.comment(&format!("i={}", arc.instances));
    }
    entries.push(entry.property("header.d", arc.sealer.as_deref()));
    entries
}

/// Edits that remove every field that speaks in our name: also one whose name cannot be read.
pub fn removals(header: &[u8], authserv_id: &str) -> Vec<Edit> {
    let all = fields(header).filter(|field| field.is(FIELD)).zip(1_u32..);
    let removed = all.filter(|(field, _)| speaks_for(field, authserv_id));
    let mut edits: Vec<Edit> =
        removed.map(|(_, nth)| Edit::Change { name: FIELD.to_owned(), nth, value: None }).collect();
    // From the last to the first, so that none changes the count of another.
    edits.reverse();
    edits
}

/// The first field that speaks in our name: its value behind the authserv-id, unfolded.
pub(crate) fn ours(header: &[u8], authserv_id: &str) -> Option<String> {
    let field = fields(header)
        .filter(|field| field.is(FIELD))
        .find(|field| id(&unfolded(field)).is_some_and(|id| is_same(&id, authserv_id)))?;
    let text = unfolded(&field);
    let (_, results) = text.split_once(';')?;
    Some(results.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn unfolded(field: &Field<'_>) -> String {
    String::from_utf8_lossy(&field.value()).into_owned()
}

fn speaks_for(field: &Field<'_>, authserv_id: &str) -> bool {
    // Of what cannot be read another reader may make anything.
    id(&unfolded(field)).is_none_or(|id| is_same(&id, authserv_id))
}

fn is_same(id: &str, authserv_id: &str) -> bool {
    let normal = |id: &str| domain::normal(id).unwrap_or_else(|| id.to_ascii_lowercase());
    normal(id) == normal(authserv_id)
}

/// The authserv-id: a token or a quoted string behind space and comments.
fn id(text: &str) -> Option<String> {
    let mut rest = text.chars().peekable();
    loop {
        match rest.peek()? {
            one if one.is_whitespace() => {
                rest.next();
            }
            '(' => {
                rest.next();
                skip_comment(&mut rest, usize::MAX)?;
            }
            '"' => return quoted(rest.skip(1)),
            _ => break,
        }
    }
    let token: String =
        rest.take_while(|one| !one.is_whitespace() && !"();\"=/".contains(*one)).collect();
    (!token.is_empty()).then_some(token)
}

fn quoted(mut rest: impl Iterator<Item = char>) -> Option<String> {
    let mut out = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(out.trim().to_owned()),
            '\\' => out.push(rest.next()?),
            one => out.push(one),
        }
    }
}
