//! ESMTP parameters of MAIL and RCPT (RFC 5321 section 4.1.1.11).

use mail::{BodyType, Notify, Ret, xtext};

/// The longest ENVID, in characters (RFC 3461 section 4.4).
pub const ENVID_BYTES_MAX: usize = 100;
/// The longest ORCPT, in characters (RFC 3461 section 4.2).
pub const ORCPT_BYTES_MAX: usize = 500;
/// The most digits of SIZE (RFC 1870 section 6).
const SIZE_DIGITS_MAX: usize = 20;

/// The parameters of MAIL that we know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// `SIZE=`: how large the message is, in bytes (RFC 1870).
    pub size: Option<u64>,
    /// `BODY=` (RFC 6152).
    pub body: Option<BodyType>,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `RET=` (RFC 3461).
    pub ret: Option<Ret>,
    /// `ENVID=` in xtext as it came (RFC 3461).
    pub envid: Option<String>,
}

/// The parameters of RCPT that we know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// `NOTIFY=` (RFC 3461).
    pub notify: Option<Notify>,
    /// `ORCPT=`: address type, semicolon, xtext, as it came (RFC 3461, RFC 6533).
    pub orcpt: Option<String>,
}

/// Why parameters cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A keyword that we did not offer: `555`.
    #[error("unknown parameter")]
    Unknown,
    /// A known keyword with a wrong value, or given twice: `501`.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Not `keyword` or `keyword=value` at all: `501`.
    #[error("malformed parameter")]
    Syntax,
}

impl MailParameters {
    /// Reads what follows the reverse-path.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        for (keyword, value) in split(text) {
            let (keyword, value) = check(keyword, value)?;
            if keyword.eq_ignore_ascii_case("SIZE") {
                set(&mut parameters.size, value.and_then(size), "SIZE")?;
            } else if keyword.eq_ignore_ascii_case("BODY") {
                set(&mut parameters.body, value.and_then(body), "BODY")?;
            } else if keyword.eq_ignore_ascii_case("SMTPUTF8") {
                if value.is_some() || parameters.smtputf8 {
                    return Err(ParameterError::Malformed("SMTPUTF8"));
                }
                parameters.smtputf8 = true;
            } else if keyword.eq_ignore_ascii_case("RET") {
                set(&mut parameters.ret, value.and_then(ret), "RET")?;
            } else if keyword.eq_ignore_ascii_case("ENVID") {
                set(&mut parameters.envid, value.and_then(envid), "ENVID")?;
            } else {
                return Err(ParameterError::Unknown);
            }
        }
        Ok(parameters)
    }
}

impl RcptParameters {
    /// Reads what follows the forward-path.
    pub fn parse(text: &str) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        for (keyword, value) in split(text) {
            let (keyword, value) = check(keyword, value)?;
            if keyword.eq_ignore_ascii_case("NOTIFY") {
                set(&mut parameters.notify, value.and_then(notify), "NOTIFY")?;
            } else if keyword.eq_ignore_ascii_case("ORCPT") {
                set(&mut parameters.orcpt, value.and_then(orcpt), "ORCPT")?;
            } else {
                return Err(ParameterError::Unknown);
            }
        }
        Ok(parameters)
    }
}

fn split(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

/// Checks keyword and value against the grammar that holds for all of them, `esmtp-keyword` and `esmtp-value`.
fn check<'t>(
    keyword: &'t str,
    value: Option<&'t str>,
) -> Result<(&'t str, Option<&'t str>), ParameterError> {
    let keyword_ok = keyword.starts_with(|first: char| first.is_ascii_alphanumeric())
        && keyword.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let value_ok = value.is_none_or(|value| {
        !value.is_empty() && value.chars().all(|c| c != '=' && !c.is_control() && c != ' ')
    });
    if keyword_ok && value_ok { Ok((keyword, value)) } else { Err(ParameterError::Syntax) }
}

/// Takes a value once.
fn set<T>(
    place: &mut Option<T>,
    value: Option<T>,
    name: &'static str,
) -> Result<(), ParameterError> {
    match (&place, &value) {
        (None, Some(_)) => {
            *place = value;
            Ok(())
        }
        _ => Err(ParameterError::Malformed(name)),
    }
}

/// A number too large for us is the largest we know: it is over every limit.
fn size(value: &str) -> Option<u64> {
    let well_formed =
        value.len() <= SIZE_DIGITS_MAX && value.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| value.parse().unwrap_or(u64::MAX))
}

fn body(value: &str) -> Option<BodyType> {
    match value {
        _ if value.eq_ignore_ascii_case("7BIT") => Some(BodyType::SevenBit),
        _ if value.eq_ignore_ascii_case("8BITMIME") => Some(BodyType::EightBitMime),
        _ => None,
    }
}

fn ret(value: &str) -> Option<Ret> {
    match value {
        _ if value.eq_ignore_ascii_case("FULL") => Some(Ret::Full),
        _ if value.eq_ignore_ascii_case("HDRS") => Some(Ret::Hdrs),
        _ => None,
    }
}

/// What it decodes to must be printable (RFC 3461 section 4.4), since it is shown in reports.
fn envid(value: &str) -> Option<String> {
    let printable = xtext::decode(value).ok()?.iter().all(|byte| matches!(byte, b' '..=b'~'));
    (printable && value.len() <= ENVID_BYTES_MAX).then(|| value.to_owned())
}

fn notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::NEVER);
    }
    let mut notify = Notify::NEVER;
    for word in value.split(',') {
        let flag = match word {
            _ if word.eq_ignore_ascii_case("SUCCESS") => &mut notify.success,
            _ if word.eq_ignore_ascii_case("FAILURE") => &mut notify.failure,
            _ if word.eq_ignore_ascii_case("DELAY") => &mut notify.delay,
            _ => return None,
        };
        *flag = true;
    }
    Some(notify)
}

/// Checks an original recipient. Its text may hold UTF-8 as it stands where SMTPUTF8 was asked for
/// (RFC 6533 section 3), which the session knows.
fn orcpt(value: &str) -> Option<String> {
    let (kind, address) = value.split_once(';')?;
    let kind_ok = !kind.is_empty()
        && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let ascii: String = address.chars().filter(char::is_ascii).collect();
    let printable = xtext::decode(&ascii).ok()?.iter().all(|byte| matches!(byte, b' '..=b'~'));
    (kind_ok && !address.is_empty() && printable && value.len() <= ORCPT_BYTES_MAX)
        .then(|| value.to_owned())
}
