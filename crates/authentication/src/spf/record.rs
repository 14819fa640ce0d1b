//! An SPF record as its terms (RFC 7208 sections 4.6 and 12): anything that the grammar does not allow makes the whole record wrong.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::SpfResult;
use super::macros::DomainSpec;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) directives: Vec<Directive>,
    pub(super) redirect: Option<DomainSpec>,
}

/// A mechanism, and the result when it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) result: SpfResult,
    pub(super) mechanism: Mechanism,
}

/// What a client is compared with. Without a domain the current one is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(DomainSpec),
    A(Option<DomainSpec>, Prefixes),
    Mx(Option<DomainSpec>, Prefixes),
    Ptr(Option<DomainSpec>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(DomainSpec),
}

/// How many leading bits of an address count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefixes {
    pub(super) ipv4: u8,
    pub(super) ipv6: u8,
}

/// The version section of every record.
const VERSION: &[u8] = b"v=spf1";

/// Whether a TXT record is an SPF record at all (RFC 7208 section 4.5).
pub(super) fn is_spf(text: &[u8]) -> bool {
    text.split_at_checked(VERSION.len()).is_some_and(|(version, rest)| {
        version.eq_ignore_ascii_case(VERSION) && matches!(rest.first(), None | Some(b' '))
    })
}

impl Record {
    /// Takes a record apart; nothing if it is wrong.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let terms = std::str::from_utf8(text.get(VERSION.len()..)?).ok()?;
        let mut record = Self { directives: Vec::new(), redirect: None };
        let mut explained = false;
        for term in terms.split(' ').filter(|term| !term.is_empty()) {
            let Some((name, value)) = modifier(term) else {
                record.directives.push(directive(term)?);
                continue;
            };
            if name.eq_ignore_ascii_case("redirect") {
                if record.redirect.replace(DomainSpec::parse(value)?).is_some() {
                    return None;
                }
            } else if name.eq_ignore_ascii_case("exp") {
                // We never look the explanation up: it is a stranger's text for our replies.
                DomainSpec::parse(value)?;
                if std::mem::replace(&mut explained, true) {
                    return None;
                }
            } else {
                DomainSpec::parse_macro_string(value)?;
            }
        }
        Some(record)
    }
}

/// The name and value of a modifier, if the term is one.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let end = term.find(|character: char| !is_name_character(character))?;
    let (name, rest) = term.split_at_checked(end)?;
    let value = rest.strip_prefix('=')?;
    name.starts_with(|first: char| first.is_ascii_alphabetic()).then_some((name, value))
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.')
}

fn directive(term: &str) -> Option<Directive> {
    let (result, term) = match term.chars().next()? {
        '+' => (SpfResult::Pass, term.get(1..)?),
        '-' => (SpfResult::Fail, term.get(1..)?),
        '~' => (SpfResult::SoftFail, term.get(1..)?),
        '?' => (SpfResult::Neutral, term.get(1..)?),
        _ => (SpfResult::Pass, term),
    };
    let end = term.find([':', '/']).unwrap_or(term.len());
    let (name, rest) = term.split_at_checked(end)?;
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" if rest.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(DomainSpec::parse(rest.strip_prefix(':')?)?),
        "exists" => Mechanism::Exists(DomainSpec::parse(rest.strip_prefix(':')?)?),
        "ptr" if rest.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(DomainSpec::parse(rest.strip_prefix(':')?)?)),
        "a" => {
            let (domain, prefixes) = domain_and_prefixes(rest)?;
            Mechanism::A(domain, prefixes)
        }
        "mx" => {
            let (domain, prefixes) = domain_and_prefixes(rest)?;
            Mechanism::Mx(domain, prefixes)
        }
        "ip4" => {
            let (address, length) = network(rest.strip_prefix(':')?, 32)?;
            Mechanism::Ip4(address.parse().ok()?, length)
        }
        "ip6" => {
            let (address, length) = network(rest.strip_prefix(':')?, 128)?;
            Mechanism::Ip6(address.parse().ok()?, length)
        }
        _ => return None,
    };
    Some(Directive { result, mechanism })
}

/// `[":" domain-spec] ["/" digits] ["//" digits]`.
fn domain_and_prefixes(rest: &str) -> Option<(Option<DomainSpec>, Prefixes)> {
    // A slash without digits behind it is part of the domain.
    let (rest, ipv6) = match rest.rsplit_once("//") {
        Some((before, digits)) if is_number(digits) => (before, length(digits, 128)?),
        _ => (rest, 128),
    };
    let (rest, ipv4) = match rest.rsplit_once('/') {
        Some((before, digits)) if is_number(digits) => (before, length(digits, 32)?),
        _ => (rest, 32),
    };
    let prefixes = Prefixes { ipv4, ipv6 };
    if rest.is_empty() {
        return Some((None, prefixes));
    }
    Some((Some(DomainSpec::parse(rest.strip_prefix(':')?)?), prefixes))
}

fn network(text: &str, most: u8) -> Option<(&str, u8)> {
    match text.split_once('/') {
        Some((address, digits)) => Some((address, length(digits, most)?)),
        None => Some((text, most)),
    }
}

/// A number of bits without leading zeros.
fn length(digits: &str, most: u8) -> Option<u8> {
    let well_formed = is_number(digits) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|length| well_formed && *length <= most)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
