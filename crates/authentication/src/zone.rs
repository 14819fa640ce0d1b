//! A table of DNS records for tests, written as lines `NAME TYPE DATA`.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use mail::{Edit, header};

use crate::dkim::DkimPolicy;
use crate::key::{Kind, SigningKey};
use crate::lookup::{Answer, Family, Found, Local, Lookup, Temporary};
use crate::message::Message;
use crate::sign::{Domains, Form, SignedFields, Signer, sign};

/// The table. `NAME TYPE !timeout` and `NAME * !timeout` are questions without an answer; `NAME TYPE !never` ones that are never done with.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    records: HashMap<String, Vec<(String, Vec<u8>)>>,
    questions: Cell<usize>,
}

impl Zone {
    pub(crate) fn of(text: &str) -> Self {
        let mut zone = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.splitn(3, ' ');
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            zone.add(name, kind, words.next().unwrap_or_default().trim());
        }
        zone
    }

    pub(crate) fn add(&mut self, name: &str, kind: &str, data: &str) -> &mut Self {
        self.add_bytes(name, kind, data.as_bytes())
    }

    pub(crate) fn add_bytes(&mut self, name: &str, kind: &str, data: &[u8]) -> &mut Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.records.entry(name).or_default().push((kind.to_owned(), data.to_owned()));
        self
    }

    /// How much was asked.
    pub(crate) fn questions(&self) -> usize {
        self.questions.get()
    }

    async fn ask(&self, name: &str, kind: &str) -> Answer<Vec<u8>> {
        self.questions.set(self.questions.get() + 1);
        let mut name = name.trim_end_matches('.').to_ascii_lowercase();
        for _ in 0..8 {
            if name.split('.').any(|label| label.len() > 63 || label.is_empty()) {
                return Ok(Found::NoName);
            }
            let Some(records) = self.records.get(&name) else { return Ok(Found::NoName) };
            let of = |kind: &str| -> Vec<Vec<u8>> {
                let wanted = |(other, _): &&(String, Vec<u8>)| other == kind;
                records.iter().filter(wanted).map(|(_, data)| data.clone()).collect()
            };
            let found = Some(of(kind)).filter(|found| !found.is_empty()).unwrap_or_else(|| of("*"));
            if found.iter().any(|data| data == b"!timeout") {
                return Err(Temporary("no name server answered in time".to_owned()));
            }
            if found.iter().any(|data| data == b"!never") {
                std::future::pending::<()>().await;
            }
            if !found.is_empty() {
                return Ok(Found::Records(found));
            }
            match records.iter().find(|(other, _)| other == "CNAME") {
                Some((_, target)) => name = String::from_utf8(target.clone()).unwrap(),
                None => return Ok(Found::NoRecords),
            }
        }
        Err(Temporary("a loop of aliases".to_owned()))
    }
}

fn text(data: Vec<u8>) -> String {
    String::from_utf8(data).unwrap().trim_end_matches('.').to_ascii_lowercase()
}

impl Lookup for Zone {
    fn txt<'a>(&'a self, name: &'a str) -> Local<'a, Answer<Vec<u8>>> {
        Box::pin(self.ask(name, "TXT"))
    }

    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> Local<'a, Answer<IpAddr>> {
        let kind = if family == Family::Ipv4 { "A" } else { "AAAA" };
        Box::pin(
            async move { Ok(self.ask(name, kind).await?.map(|data| text(data).parse().unwrap())) },
        )
    }

    fn mx<'a>(&'a self, name: &'a str) -> Local<'a, Answer<String>> {
        Box::pin(async move {
            let mut hosts = self.ask(name, "MX").await?.map(|data| {
                let data = text(data);
                let (preference, host) = data.split_once(' ').unwrap_or((&data, ""));
                (preference.parse::<u16>().unwrap(), host.to_owned())
            });
            if let Found::Records(hosts) = &mut hosts {
                hosts.sort();
            }
            Ok(hosts.map(|(_, host)| host))
        })
    }

    fn ptr(&self, address: IpAddr) -> Local<'_, Answer<String>> {
        Box::pin(async move {
            let name = match address {
                IpAddr::V4(address) => {
                    let [a, b, c, d] = address.octets();
                    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
                }
                IpAddr::V6(address) => {
                    let digits = format!("{:032x}", u128::from(address));
                    let dotted: Vec<String> = digits.chars().rev().map(String::from).collect();
                    format!("{}.ip6.arpa", dotted.join("."))
                }
            };
            Ok(self.ask(&name, "PTR").await?.map(text))
        })
    }
}

/// Runs a future to its end.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// The time of all tests, in seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;

/// What is accepted when nobody says otherwise.
pub(crate) fn policy() -> DkimPolicy {
    DkimPolicy { rsa_bits_min: 1024, signatures_max: 10, partial_body: false, now: NOW }
}

/// A message of lines that end in LF.
pub(crate) fn message(text: &str) -> Message {
    let text = text.replace('\n', "\r\n");
    let (header, body) = text.split_once("\r\n\r\n").unwrap_or((text.trim_end(), ""));
    Message::new(format!("{header}\r\n").into(), body.to_owned().into())
}

/// The message after edits.
pub(crate) fn edited(message: &Message, edits: &[Edit]) -> Message {
    Message::new(header::edit(message.header(), edits).into(), message.body().clone())
}

/// A key of that kind, the same for all tests of this process; PEM.
pub(crate) fn pem(kind: Kind) -> String {
    static KEYS: Mutex<Vec<(Kind, String)>> = Mutex::new(Vec::new());
    let mut keys = KEYS.lock().unwrap();
    if let Some((_, pem)) = keys.iter().find(|(other, _)| *other == kind) {
        return pem.clone();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    SigningKey::make(&path, kind).unwrap();
    let pem = std::fs::read_to_string(path).unwrap();
    keys.push((kind, pem.clone()));
    pem
}

/// A signer for a domain, and its key in the zone at `SELECTOR._domainkey.DOMAIN`.
pub(crate) fn signer(zone: &mut Zone, domain: &str, selector: &str, kind: Kind) -> Signer {
    let key = SigningKey::from_pem(pem(kind).as_bytes()).unwrap();
    zone.add(&format!("{selector}._domainkey.{domain}"), "TXT", &key.record());
    Signer {
        domains: Domains::One(domain.to_owned()),
        selector: selector.to_owned(),
        key,
        header: Form::Relaxed,
        body: Form::Relaxed,
        seconds: None,
        fields: SignedFields::default(),
    }
}

/// The message with the signers' signatures.
pub(crate) fn signed(message: &Message, signers: &[Signer]) -> Message {
    let all: Vec<&Signer> = signers.iter().collect();
    let edits = run(sign(&all, message, NOW)).unwrap();
    assert_eq!(edits.len(), signers.len());
    edited(message, &edits)
}
