//! `dkim_sign = [{ … }]` and `arc_seal = { … }` as an operator writes them.

use std::path::{Path, PathBuf};

use authentication::key::{is_selector, published};
use authentication::sign::{Domains, Form, SignedFields};
use config::{Problem, Span};
use serde::{Deserialize, Serialize};

use crate::clients::Clients;
use crate::settings::is_field_name;

/// A key that signs for a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// The domain, as in `d=`, whose authors' mail is signed; `"*"` signs for every author, in the name of the author's domain. Must
    /// be given.
    pub domain: String,
    /// The selector, as in `s=`. Must be given.
    pub selector: String,
    /// The file with the private key, in PEM. Must be given.
    pub key: PathBuf,
    /// Whether authors below the domain are signed for too, in its name. Default: false.
    #[serde(default)]
    pub subdomains: bool,
    /// Whose mail is signed: `trusted`, clients that may relay, `strangers`, or `all`. Default: `trusted`.
    #[serde(default = "trusted")]
    pub clients: Clients,
    /// What may change on the way without breaking the signature, of header and body: `relaxed` or `simple` space. Default:
    /// `"relaxed/relaxed"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonicalization: Option<String>,
    /// How long a signature holds. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire: Option<Span>,
    /// Header fields that are signed once more than they are there, so that none can be added. Default: From, Reply-To, Subject, Date,
    /// To, Cc, Message-ID, MIME-Version, Content-Type and Content-Transfer-Encoding. From always is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oversigned: Option<Vec<String>>,
    /// Header fields that are signed when they are there. Default: Sender, In-Reply-To, References, those that begin with `Resent-`,
    /// and those of RFC 2369, 2919 and 8058 that begin with `List-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Vec<String>>,
}

/// The key that seals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealingKey {
    /// The domain, as in `d=`. Must be given.
    pub domain: String,
    /// The selector, as in `s=`. Must be given.
    pub selector: String,
    /// The file with the private key, in PEM. Must be given.
    pub key: PathBuf,
    /// Whose mail is sealed: `strangers`, clients that may not relay, or `all`. Default: `strangers`.
    #[serde(default = "strangers")]
    pub clients: Clients,
    /// Header fields that are signed once more than they are there. Default: as for `dkim_sign`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oversigned: Option<Vec<String>>,
    /// Header fields that are signed when they are there. Default: as for `dkim_sign`, and DKIM-Signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Vec<String>>,
}

fn trusted() -> Clients {
    Clients::Trusted
}

fn strangers() -> Clients {
    Clients::Strangers
}

/// The longest list of header fields.
const FIELDS_MAX: usize = 100;

impl SigningKey {
    /// Checks for contradictions.
    pub(super) fn check(&self, key: &str) -> Result<(), Problem> {
        if self.domain == "*" && self.subdomains {
            let wrong = "\"*\" is every domain already".to_owned();
            return Err(Problem::new(
                format!("{key}.subdomains"),
                wrong,
                "a domain, or no subdomains",
            ));
        }
        if self.domain != "*" {
            check_domain(&self.domain, key)?;
        }
        check_key(&self.selector, &self.key, key)?;
        if let Some(text) = &self.canonicalization
            && forms(text).is_none()
        {
            let right = "relaxed/relaxed, relaxed/simple, simple/relaxed or simple/simple";
            return Err(Problem::new(format!("{key}.canonicalization"), text.clone(), right));
        }
        if self.expire.is_some_and(|expire| expire.0.as_secs() < 3600) {
            let wrong = "a message may be on its way for longer".to_owned();
            return Err(Problem::new(
                format!("{key}.expire"),
                wrong,
                "an hour or more, such as \"30d\"",
            ));
        }
        check_fields("oversigned", self.oversigned.as_deref(), key)?;
        check_fields("signed", self.signed.as_deref(), key)
    }

    pub(super) fn domains(&self) -> Domains {
        let domain = published(&self.domain).unwrap_or_else(|| self.domain.clone());
        match (self.domain.as_str(), self.subdomains) {
            ("*", _) => Domains::Any,
            (_, true) => Domains::AndBelow(domain),
            (_, false) => Domains::One(domain),
        }
    }

    pub(super) fn forms(&self) -> (Form, Form) {
        let text = self.canonicalization.as_deref();
        text.and_then(forms).unwrap_or((Form::Relaxed, Form::Relaxed))
    }

    pub(super) fn fields(&self) -> SignedFields {
        fields(self.oversigned.as_ref(), self.signed.as_ref(), &[])
    }
}

impl SealingKey {
    /// Checks for contradictions.
    pub(super) fn check(&self, key: &str) -> Result<(), Problem> {
        check_domain(&self.domain, key)?;
        check_key(&self.selector, &self.key, key)?;
        if self.clients == Clients::Trusted {
            let wrong = "what comes from our own clients is signed, not sealed".to_owned();
            return Err(Problem::new(format!("{key}.clients"), wrong, "strangers, or all"));
        }
        check_fields("oversigned", self.oversigned.as_deref(), key)?;
        check_fields("signed", self.signed.as_deref(), key)
    }

    pub(super) fn fields(&self) -> SignedFields {
        fields(self.oversigned.as_ref(), self.signed.as_ref(), &["DKIM-Signature"])
    }
}

fn fields(
    oversigned: Option<&Vec<String>>,
    signed: Option<&Vec<String>>,
    more: &[&str],
) -> SignedFields {
    let signed = signed.cloned().unwrap_or_else(|| {
        let more = more.iter().map(|name| (*name).to_owned());
        SignedFields::default_signed().into_iter().chain(more).collect()
    });
    let oversigned = oversigned.cloned().unwrap_or_else(SignedFields::default_oversigned);
    SignedFields { oversigned, signed }
}

fn forms(text: &str) -> Option<(Form, Form)> {
    let one = |text| match text {
        "relaxed" => Some(Form::Relaxed),
        "simple" => Some(Form::Simple),
        _ => None,
    };
    let (header, body) = text.split_once('/')?;
    Some((one(header)?, one(body)?))
}

fn check_domain(domain: &str, key: &str) -> Result<(), Problem> {
    match published(domain).filter(|domain| domain.contains('.')) {
        Some(_) => Ok(()),
        None => {
            let wrong = format!("{domain:?} is no domain");
            Err(Problem::new(format!("{key}.domain"), wrong, "such as \"example.org\""))
        }
    }
}

fn check_key(selector: &str, file: &Path, key: &str) -> Result<(), Problem> {
    if !is_selector(selector) {
        let wrong = format!("{selector:?} is no selector");
        return Err(Problem::new(format!("{key}.selector"), wrong, "letters, digits and hyphens"));
    }
    if !file.is_absolute() {
        let wrong = format!("{} is not a whole path", file.display());
        return Err(Problem::new(format!("{key}.key"), wrong, "a path that begins with /"));
    }
    Ok(())
}

fn check_fields(name: &str, fields: Option<&[String]>, key: &str) -> Result<(), Problem> {
    let fields = fields.unwrap_or_default();
    let problem = |wrong, right| Err(Problem::new(format!("{key}.{name}"), wrong, right));
    if fields.len() > FIELDS_MAX {
        return problem(format!("{} header fields", fields.len()), format!("up to {FIELDS_MAX}"));
    }
    let allowed = |field: &String| {
        let never = ["DKIM-Signature", "Received", "Return-Path", "Authentication-Results"];
        let never = never.iter().any(|other| field.eq_ignore_ascii_case(other));
        is_field_name(field) && !field.contains(';') && !never
    };
    match fields.iter().find(|field| !allowed(field)) {
        None => Ok(()),
        Some(field) => {
            let right = "names of header fields that nobody changes or adds on the way";
            problem(format!("{field:?} cannot be signed"), right.to_owned())
        }
    }
}
