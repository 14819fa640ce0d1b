//! Records of one name and type, as mail authentication needs them (RFC 7208, 6376, 7489): TXT, A, AAAA, MX, PTR.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use crate::resolver::Answer;
use crate::{Resolver, Unresolved};

/// What a name server said of a name and type. That none could be asked is [`Unresolved::Temporary`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// There are such records: one or more.
    Records(Vec<T>),
    /// The name exists, such records do not.
    NoRecords,
    /// The name does not exist.
    NoName,
}

/// The most records of one answer that are kept.
const RECORDS_MAX: usize = 100;

impl<T> Found<T> {
    /// The records; none if there are none.
    pub fn records(self) -> Vec<T> {
        match self {
            Self::Records(records) => records,
            Self::NoRecords | Self::NoName => Vec::new(),
        }
    }

    /// The same with each record changed.
    pub fn map<U>(self, change: impl Fn(T) -> U) -> Found<U> {
        match self {
            Self::Records(records) => Found::Records(records.into_iter().map(change).collect()),
            Self::NoRecords => Found::NoRecords,
            Self::NoName => Found::NoName,
        }
    }

    fn of(answer: Answer, pick: impl Fn(&RData) -> Option<T>) -> Self {
        match answer {
            Answer::NoName => Self::NoName,
            Answer::NoRecords => Self::NoRecords,
            Answer::Records(records) => {
                let picked: Vec<T> = records.iter().filter_map(pick).take(RECORDS_MAX).collect();
                if picked.is_empty() { Self::NoRecords } else { Self::Records(picked) }
            }
        }
    }
}

impl Resolver {
    /// The TXT records of a name, each with its strings joined (RFC 7208 section 3.3).
    pub async fn txt(&self, name: &str) -> Result<Found<Vec<u8>>, Unresolved> {
        let answer = self.ask(name, RecordType::TXT).await?;
        Ok(Found::of(answer, |record| match record {
            RData::TXT(text) => {
                Some(text.txt_data.iter().flat_map(|part| part.iter()).copied().collect())
            }
            _ => None,
        }))
    }

    /// The A records of a name, as they are: also those that no mail is sent to.
    pub async fn ipv4(&self, name: &str) -> Result<Found<Ipv4Addr>, Unresolved> {
        let answer = self.ask(name, RecordType::A).await?;
        Ok(Found::of(answer, |record| match record {
            RData::A(address) => Some(address.0),
            _ => None,
        }))
    }

    /// The AAAA records of a name, as they are.
    pub async fn ipv6(&self, name: &str) -> Result<Found<Ipv6Addr>, Unresolved> {
        let answer = self.ask(name, RecordType::AAAA).await?;
        Ok(Found::of(answer, |record| match record {
            RData::AAAA(address) => Some(address.0),
            _ => None,
        }))
    }

    /// The MX hosts of a name, the preferred first, without final dots; the root of a null MX is an empty name.
    pub async fn mx(&self, name: &str) -> Result<Found<String>, Unresolved> {
        let answer = self.ask(name, RecordType::MX).await?;
        let mut found = Found::of(answer, |record| match record {
            RData::MX(mx) => Some((mx.preference, in_text(&mx.exchange))),
            _ => None,
        });
        if let Found::Records(hosts) = &mut found {
            hosts.sort();
        }
        Ok(found.map(|(_, host)| host))
    }

    /// The names that the address's PTR records give, without final dots. Whoever holds the address may say anything there.
    pub async fn ptr(&self, address: IpAddr) -> Result<Found<String>, Unresolved> {
        let name = Name::from(address.to_canonical()).to_ascii();
        let answer = self.ask(&name, RecordType::PTR).await?;
        Ok(Found::of(answer, |record| match record {
            RData::PTR(name) if !name.is_root() => Some(in_text(name)),
            _ => None,
        }))
    }
}

/// A name without its final dot; what is not printable ASCII stands as `\ddd`.
fn in_text(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase()
}
