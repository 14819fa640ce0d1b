//! Our seal on mail that we hand on (RFC 8617): what we saw of it, in a chain that later hosts can check.

use std::time::Duration;

use mail::Edit;

use crate::arc::{
    self, ArcResult, RESULTS_FIELD, SEAL_FIELD, SETS_MAX, SIGNATURE_FIELD, chain, sealed_before,
};
use crate::dkim::{DkimPolicy, RELAXED};
use crate::key::SigningKey;
use crate::lookup::{Limited, Lookup};
use crate::message::{BodyHash, Message, View, canonical, push_canonical};
use crate::results;
use crate::sign::{SignedFields, push_names, push_signature, unsigned};
use crate::tags;

/// Who seals.
pub struct Sealer {
    /// The domain of the key, in A-labels.
    pub domain: String,
    /// Where its public key is.
    pub selector: String,
    /// The key.
    pub key: SigningKey,
    /// Which header fields the message signature covers.
    pub fields: SignedFields,
    /// Our name in Authentication-Results.
    pub authserv_id: String,
}

/// What became of a message to be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// The set to put at its top.
    Set(Vec<Edit>),
    /// The chain that it came with is not valid, or as long as one may be: nothing that we add could make it valid.
    Broken,
    /// DNS gave no usable answer about the chain, so nothing can be said of it.
    Unknown,
}

impl Sealer {
    /// Seals a message as it leaves. What we saw when it came is what our Authentication-Results field says, also of the chain, which
    /// a change since then may have broken; without that field the chain is looked at now.
    ///
    /// All questions to DNS together may take `time`.
    pub async fn seal(
        &self,
        message: &Message,
        policy: &DkimPolicy,
        time: Duration,
        lookup: &dyn Lookup,
    ) -> Sealed {
        let view = View::of(message);
        let seen = results::ours(message.header(), &self.authserv_id);
        let result = match seen.as_deref().and_then(of_arrival) {
            Some(result) => result,
            None => arc::verify(&view, policy, &Limited::new(lookup, time)).await.result,
        };
        let validity = match result {
            ArcResult::None => "none",
            ArcResult::Pass => "pass",
            ArcResult::Fail => return Sealed::Broken,
            ArcResult::TempError => return Sealed::Unknown,
        };
        let Ok(before) = chain(&view) else { return Sealed::Broken };
        if before.len() >= SETS_MAX || (result == ArcResult::None) != before.is_empty() {
            return Sealed::Broken;
        }
        let number = before.len() + 1;
        let seen = seen.unwrap_or_else(|| "none".to_owned());
        let results =
            format!("i={number}; {}; {}", self.authserv_id, seen.replace("; ", ";\r\n\t"));
        let set = async {
            let signature = self.signature(number, &view, policy.now).await?;
            let mut data = sealed_before(&before);
            for (name, value) in [(RESULTS_FIELD, &results), (SIGNATURE_FIELD, &signature)] {
                unsigned(name, value, |field| push_canonical(RELAXED, field, &mut data))?;
            }
            let seal = self.seal_value(number, validity, policy.now, data)?;
            Some((signature, seal))
        };
        match set.await {
            None => Sealed::Unknown,
            Some((signature, seal)) => Sealed::Set(
                [(RESULTS_FIELD, results), (SIGNATURE_FIELD, signature), (SEAL_FIELD, seal)]
                    .map(|(name, value)| Edit::Prepend { name: name.to_owned(), value })
                    .to_vec(),
            ),
        }
    }

    async fn signature(&self, number: usize, view: &View<'_>, now: u64) -> Option<String> {
        let which = BodyHash { canonicalization: RELAXED, length: None };
        let (hash, _) = view.body_hash(which).await;
        let names = self.fields.names(view);
        let mut value = format!(
            "i={number}; a={}; c=relaxed/relaxed; d={};\r\n\ts={}; t={now}",
            self.key.algorithm().name(),
            self.domain,
            self.selector
        );
        push_names(&mut value, &names);
        value.push_str(&format!(";\r\n\tbh={};\r\n\tb=", tags::encode(&hash)));
        let data = unsigned(SIGNATURE_FIELD, &value, |field| {
            canonical(RELAXED, view.signed(&names), (field.name(), field.raw_value()))
        })?;
        push_signature(&mut value, &self.key.sign(&data)?);
        Some(value)
    }

    fn seal_value(
        &self,
        number: usize,
        validity: &str,
        now: u64,
        mut data: Vec<u8>,
    ) -> Option<String> {
        let mut value = format!(
            "i={number}; a={}; t={now}; cv={validity};\r\n\td={}; s={};\r\n\tb=",
            self.key.algorithm().name(),
            self.domain,
            self.selector
        );
        let last = unsigned(SEAL_FIELD, &value, |field| {
            canonical(RELAXED, [], (field.name(), field.raw_value()))
        })?;
        data.extend(last);
        push_signature(&mut value, &self.key.sign(&data)?);
        Some(value)
    }
}

/// What our field says of the chain that a message came with.
fn of_arrival(results: &str) -> Option<ArcResult> {
    let word = results.split(';').find_map(|entry| entry.trim().strip_prefix("arc="))?;
    let all = [ArcResult::None, ArcResult::Pass, ArcResult::Fail, ArcResult::TempError];
    all.into_iter().find(|result| Some(result.name()) == word.split(' ').next())
}
