//! Domains of which router said lately that every address may be accepted: it is not asked again for each message.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use job::verify::{VerifyRequest, WholeDomain};
use mail::Address;

/// The most domains that are remembered.
const DOMAINS_MAX: usize = 10_000;
/// The longest that a word is believed: a route that was changed holds for all soon after.
const HOLDS_MAX: Duration = Duration::from_secs(60);

/// What is remembered.
#[derive(Default)]
pub(super) struct Domains {
    /// Until when, for clients that may not relay and for those that may.
    until: HashMap<String, [Option<Instant>; 2]>,
}

impl Domains {
    /// Whether every recipient asked about is of such a domain.
    pub(super) fn cover(&self, request: &VerifyRequest, now: Instant) -> bool {
        let covers = |address: &Address| {
            let domain = address.domain();
            let found = match domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
                true => self.until.get(&domain.to_ascii_lowercase()),
                false => self.until.get(domain),
            };
            let until = found.and_then(
                |[may_not, may]| {
                    if request.client.may_relay { *may } else { *may_not }
                },
            );
            until.is_some_and(|until| now < until)
        };
        !self.until.is_empty() && request.recipients.iter().all(covers)
    }

    /// Takes router's word.
    pub(super) fn learn(&mut self, domains: &[WholeDomain], may_relay: bool, now: Instant) {
        for WholeDomain { domain, holds_ms } in domains {
            if self.until.len() >= DOMAINS_MAX && !self.until.contains_key(domain) {
                self.until.retain(|_, until| until.iter().flatten().any(|until| now < *until));
                if self.until.len() >= DOMAINS_MAX {
                    return;
                }
            }
            let until = now + Duration::from_millis(u64::from(*holds_ms)).min(HOLDS_MAX);
            let [may_not, may] = self.until.entry(domain.clone()).or_default();
            *(if may_relay { may } else { may_not }) = Some(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use job::verify::Client;

    use super::*;

    fn request(recipients: &[&str], may_relay: bool) -> VerifyRequest {
        let address = |text: &&str| Address::parse(text).expect("an address");
        VerifyRequest {
            sender: None,
            recipients: recipients.iter().map(address).collect(),
            client: Client { address: None, may_relay },
        }
    }

    fn word(domain: &str, holds_ms: u32) -> Vec<WholeDomain> {
        vec![WholeDomain { domain: domain.to_owned(), holds_ms }]
    }

    #[test]
    fn a_word_holds_for_its_domain_its_clients_and_its_time() {
        let (mut domains, now) = (Domains::default(), Instant::now());
        assert!(!domains.cover(&request(&["a@example.org"], true), now));
        domains.learn(&word("example.org", 10_000), true, now);
        assert!(domains.cover(&request(&["b@example.org", "c@EXAMPLE.org"], true), now));
        for others in
            [&["b@example.org", "c@example.net"][..], &["b@sub.example.org"], &["postmaster"]]
        {
            assert!(!domains.cover(&request(others, true), now), "{others:?}");
        }
        assert!(!domains.cover(&request(&["b@example.org"], false), now));
        let later = now + Duration::from_secs(10);
        assert!(!domains.cover(&request(&["b@example.org"], true), later));
    }

    #[test]
    fn no_word_is_believed_for_ever_and_not_any_number_is_kept() {
        let (mut domains, now) = (Domains::default(), Instant::now());
        domains.learn(&word("long.example", u32::MAX), false, now);
        assert!(!domains.cover(&request(&["a@long.example"], false), now + HOLDS_MAX));
        for number in 0..DOMAINS_MAX + 10 {
            domains.learn(&word(&format!("d{number}.example"), 1000), false, now);
        }
        assert_eq!(domains.until.len(), DOMAINS_MAX);
        let later = now + Duration::from_secs(2);
        domains.learn(&word("new.example", 1000), false, later);
        assert!(domains.cover(&request(&["a@new.example"], false), later));
        assert!(domains.until.len() < 10);
    }
}
