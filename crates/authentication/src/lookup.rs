//! What is asked of DNS, and who answers: the resolver of crate `dns`, or a table in tests.

use std::cell::Cell;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

pub use dns::Found;

/// A future that stays on its thread.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// No name server gave a usable answer: whatever was asked for is unknown, not absent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Temporary(pub String);

/// An answer, or that there was none.
pub type Answer<T> = Result<Found<T>, Temporary>;

/// Which addresses of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A records.
    Ipv4,
    /// AAAA records.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

/// Answers the questions of mail authentication. Names have no final dot; what is told is a stranger's word.
pub trait Lookup {
    /// TXT records, the strings of each joined.
    fn txt<'a>(&'a self, name: &'a str) -> Local<'a, Answer<Vec<u8>>>;
    /// A or AAAA records.
    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> Local<'a, Answer<IpAddr>>;
    /// MX hosts, the preferred first.
    fn mx<'a>(&'a self, name: &'a str) -> Local<'a, Answer<String>>;
    /// Names of an address.
    fn ptr(&self, address: IpAddr) -> Local<'_, Answer<String>>;
}

impl Lookup for dns::Resolver {
    fn txt<'a>(&'a self, name: &'a str) -> Local<'a, Answer<Vec<u8>>> {
        Box::pin(async move { dns::Resolver::txt(self, name).await.map_err(temporary) })
    }

    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> Local<'a, Answer<IpAddr>> {
        Box::pin(async move {
            match family {
                Family::Ipv4 => self.ipv4(name).await.map(|found| found.map(IpAddr::V4)),
                Family::Ipv6 => self.ipv6(name).await.map(|found| found.map(IpAddr::V6)),
            }
            .map_err(temporary)
        })
    }

    fn mx<'a>(&'a self, name: &'a str) -> Local<'a, Answer<String>> {
        Box::pin(async move { dns::Resolver::mx(self, name).await.map_err(temporary) })
    }

    fn ptr(&self, address: IpAddr) -> Local<'_, Answer<String>> {
        Box::pin(async move { dns::Resolver::ptr(self, address).await.map_err(temporary) })
    }
}

fn temporary(error: dns::Unresolved) -> Temporary {
    Temporary(error.to_string())
}

/// Puts a limit on the time and the number of questions: what comes late, or is one too many, has no answer.
pub struct Limited<'a> {
    inner: &'a dyn Lookup,
    end: tokio::time::Instant,
    left: Cell<u32>,
}

/// The most questions that one message, or one session, may cause.
pub const QUESTIONS_MAX: u32 = 300;

impl<'a> Limited<'a> {
    /// From now on for so long.
    pub fn new(inner: &'a dyn Lookup, time: Duration) -> Self {
        let end = tokio::time::Instant::now() + time;
        Self { inner, end, left: Cell::new(QUESTIONS_MAX) }
    }

    async fn within<T>(&self, answer: Local<'_, Answer<T>>) -> Answer<T> {
        let Some(left) = self.left.get().checked_sub(1) else {
            return Err(Temporary("too many questions".to_owned()));
        };
        self.left.set(left);
        match tokio::time::timeout_at(self.end, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Temporary("no answer in time".to_owned())),
        }
    }
}

impl Lookup for Limited<'_> {
    fn txt<'a>(&'a self, name: &'a str) -> Local<'a, Answer<Vec<u8>>> {
        Box::pin(self.within(self.inner.txt(name)))
    }

    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> Local<'a, Answer<IpAddr>> {
        Box::pin(self.within(self.inner.addresses(name, family)))
    }

    fn mx<'a>(&'a self, name: &'a str) -> Local<'a, Answer<String>> {
        Box::pin(self.within(self.inner.mx(name)))
    }

    fn ptr(&self, address: IpAddr) -> Local<'_, Answer<String>> {
        Box::pin(self.within(self.inner.ptr(address)))
    }
}
