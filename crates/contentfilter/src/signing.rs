//! `dkim_sign` and `arc_seal`: signatures of our own, over the message as the filters before left it.
//!
//! Filters behind them that change the message break what they signed: an operator puts them last.

mod settings;
#[cfg(test)]
mod tests;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use authentication::dkim::DkimPolicy;
use authentication::key::SigningKey as PrivateKey;
use authentication::seal::{Sealed, Sealer};
use authentication::sign::{Signer, sign};
use config::{Problem, Span};
use mail::MessageId;

use crate::authentication::{check_dns_time, content_of, now};
use crate::clients::Clients;
use crate::filter::{Filter, FilterError, Finding, OfMessage, Session};
use crate::kinds::Setup;
use crate::message::Message;
use crate::settings::FilterSetting;

pub use settings::{SealingKey, SigningKey};

/// Checks the setting at `key`.
pub(crate) fn check(setting: &FilterSetting, key: &str) -> Result<(), Problem> {
    if let Some(seal) = &setting.arc_seal {
        seal.check(key)?;
        return check_dns_time(DNS_TIME, setting, key);
    }
    let keys = setting.dkim_sign.as_deref().unwrap_or_default();
    if keys.is_empty() || keys.len() > KEYS_MAX {
        let wrong = format!("{} keys", keys.len());
        return Err(Problem::new(key, wrong, format!("from 1 to {KEYS_MAX}")));
    }
    let mut keys = keys.iter().enumerate();
    keys.try_for_each(|(number, one)| one.check(&format!("{key}[{number}]")))
}

/// Reads the key files of an entry; the error says what is wrong with one. `reader` is the user and the group that must be able to.
pub(crate) fn check_files(
    setting: &FilterSetting,
    key: &str,
    reader: Option<(u32, u32)>,
) -> Result<(), Problem> {
    let signing = setting.dkim_sign.iter().flatten().enumerate();
    let signing = signing.map(|(number, one)| (format!("dkim_sign[{number}]"), &one.key));
    let sealing = setting.arc_seal.iter().map(|one| ("arc_seal".to_owned(), &one.key));
    for (name, path) in signing.chain(sealing) {
        let wrong = match PrivateKey::load(path) {
            Err(error) => words(&error),
            Ok(_) if reader.is_some_and(|(user, group)| !can_read(path, user, group)) => {
                format!(
                    "key file {} cannot be read by the user that workers run as",
                    path.display()
                )
            }
            Ok(_) => continue,
        };
        let right = "a private key in PEM that the user of the workers can read, and not everyone";
        return Err(Problem::new(format!("{key}.{name}.key"), wrong, right));
    }
    Ok(())
}

/// Whether a file's own rights let this user or group read it.
fn can_read(path: &Path, user: u32, group: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|facts| match (facts.uid() == user, facts.gid() == group) {
        (true, _) => facts.mode() & 0o400 != 0,
        (_, true) => facts.mode() & 0o040 != 0,
        _ => facts.mode() & 0o004 != 0,
    })
}

/// An error and its cause.
fn words(error: &authentication::key::KeyFileError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The most keys of one entry.
const KEYS_MAX: usize = 1000;
/// How long questions to DNS about a chain may take, where no filter before has asked them.
const DNS_TIME: Span = Span::seconds(10);
/// The smallest RSA key of an earlier seal, in bits.
const RSA_BITS_MIN: usize = 1024;

/// Makes it ready.
pub(crate) fn make(setting: &FilterSetting, setup: &Setup) -> Result<Rc<dyn Filter>, String> {
    if let Some(seal) = &setting.arc_seal {
        let domain = authentication::key::published(&seal.domain);
        return Ok(Rc::new(Sealing {
            name: setup.name.clone(),
            clients: seal.clients,
            resolver: Rc::clone(&setup.resolver),
            sealer: Sealer {
                domain: domain.unwrap_or_else(|| seal.domain.clone()),
                selector: seal.selector.clone(),
                key: PrivateKey::load(&seal.key).map_err(|error| words(&error))?,
                fields: seal.fields(),
                authserv_id: setup.authserv_id.clone(),
            },
        }));
    }
    let mut signers = Vec::new();
    for one in setting.dkim_sign.iter().flatten() {
        let (header, body) = one.forms();
        let signer = Signer {
            domains: one.domains(),
            selector: one.selector.clone(),
            key: PrivateKey::load(&one.key).map_err(|error| words(&error))?,
            header,
            body,
            seconds: one.expire.map(|expire| expire.0.as_secs()),
            fields: one.fields(),
        };
        signers.push((one.clients, signer));
    }
    Ok(Rc::new(Signing { signers }))
}

struct Signing {
    signers: Vec<(Clients, Signer)>,
}

impl OfMessage for Signing {
    async fn find(&self, session: &Session, message: &Message) -> Result<Finding, FilterError> {
        let meant = self.signers.iter().filter(|(clients, _)| clients.include(session));
        let signers: Vec<&Signer> = meant.map(|(_, signer)| signer).collect();
        if signers.is_empty() {
            return Ok(Finding::default());
        }
        let signed = sign(&signers, &content_of(message), now()).await;
        let edits = signed.map_err(|error| FilterError::Failed(error.to_string()))?;
        Ok(Finding { edits, ..Finding::default() })
    }
}

struct Sealing {
    name: String,
    clients: Clients,
    sealer: Sealer,
    resolver: Rc<dns::Resolver>,
}

impl OfMessage for Sealing {
    async fn find(&self, session: &Session, message: &Message) -> Result<Finding, FilterError> {
        if !self.clients.include(session) {
            return Ok(Finding::default());
        }
        let policy = DkimPolicy {
            rsa_bits_min: RSA_BITS_MIN,
            signatures_max: 1,
            partial_body: false,
            now: now(),
        };
        let content = content_of(message);
        let sealed = self.sealer.seal(&content, &policy, DNS_TIME.0, &*self.resolver).await;
        Ok(match sealed {
            Sealed::Set(edits) => Finding { edits, ..Finding::default() },
            // Nothing of ours could make the chain valid, or say that it is.
            Sealed::Broken => {
                self.unsealed(session, "the chain that came with it is not valid, or full")
            }
            Sealed::Unknown => self.unsealed(session, "nothing can be said of its chain now"),
        })
    }
}

impl Sealing {
    /// Leaves a message as it is, and says so.
    fn unsealed(&self, session: &Session, why: &str) -> Finding {
        let id = session.id.as_ref().map(MessageId::as_str);
        tracing::info!(id, filter = %self.name, why, "not sealed");
        Finding::default()
    }
}
