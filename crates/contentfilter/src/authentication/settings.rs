//! `authentication = { … }` as an operator writes it.

use config::{Problem, Span};
use serde::{Deserialize, Serialize};

use crate::clients::Clients;
use crate::settings::FilterSetting;

/// What is checked of a message's origin, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in { dmarc = \"apply\" }")]
pub struct AuthenticationSetting {
    /// Whose mail is looked at: `strangers`, clients that may not relay, or `all`. Default: `strangers`.
    pub clients: Clients,
    /// Whether what a domain's DMARC record asks for is done: `apply` refuses or holds mail, `report` only says what was found.
    /// Default: `report`.
    pub dmarc: DmarcRule,
    /// What follows, with `apply`, when DNS gives no answer about a DMARC record, or about what a strict record could pass by:
    /// `tempfail` (refuse the message for now) or `accept`. Default: `tempfail`.
    pub dmarc_temperror: TempErrorRule,
    /// Our name in Authentication-Results; fields of others in that name are removed. Default: `hostname`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authserv_id: Option<String>,
    /// Whether the client's name is looked up, both ways. Default: true.
    pub iprev: bool,
    /// The smallest RSA key whose signatures pass, in bits; smaller than 1024 never do. Default: 1024.
    pub rsa_bits_min: u32,
    /// How many DKIM signatures of a message are looked at, from the top. Default: 10.
    pub signatures_max: u32,
    /// Whether a DKIM signature of the first bytes of a body (`l=`) passes although more follows. Default: false.
    pub partial_body: bool,
    /// How long all questions to DNS about one message may take together; what is not answered by then is `temperror`. Default: 10s.
    pub dns_time: Span,
}

/// What is done with a DMARC failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DmarcRule {
    /// What the domain asks for.
    Apply,
    /// It is said in the header.
    Report,
}

/// What is done when DMARC cannot be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TempErrorRule {
    /// The message is refused for now.
    Tempfail,
    /// It is taken.
    Accept,
}

impl Default for AuthenticationSetting {
    fn default() -> Self {
        Self {
            clients: Clients::Strangers,
            dmarc: DmarcRule::Report,
            dmarc_temperror: TempErrorRule::Tempfail,
            authserv_id: None,
            iprev: true,
            rsa_bits_min: 1024,
            signatures_max: 10,
            partial_body: false,
            dns_time: Span::seconds(10),
        }
    }
}

impl AuthenticationSetting {
    /// Checks for contradictions; `key` is where it stands.
    pub(super) fn check(&self, setting: &FilterSetting, key: &str) -> Result<(), Problem> {
        let problem = |name: &str, wrong: String, right: &str| {
            Err(Problem::new(format!("{key}.{name}"), wrong, right))
        };
        if let Some(id) =
            self.authserv_id.as_ref().filter(|id| !authentication::results::is_authserv_id(id))
        {
            return problem(
                "authserv_id",
                format!("{id:?} is no name"),
                "a host name, such as \"mx.example.org\"",
            );
        }
        if self.clients == Clients::Trusted {
            let right = "strangers, or all";
            return problem("clients", "strangers would not be looked at".to_owned(), right);
        }
        if !(1024..=8192).contains(&self.rsa_bits_min) {
            return problem("rsa_bits_min", self.rsa_bits_min.to_string(), "from 1024 to 8192");
        }
        if !(1..=100).contains(&self.signatures_max) {
            return problem("signatures_max", self.signatures_max.to_string(), "from 1 to 100");
        }
        check_dns_time(self.dns_time, setting, key)
    }
}

/// Checks a time for questions to DNS, which must end before the filter's own does.
pub(crate) fn check_dns_time(
    time: Span,
    setting: &FilterSetting,
    key: &str,
) -> Result<(), Problem> {
    let message = setting.timeouts.message;
    if time.0 < std::time::Duration::from_millis(100) || time.0 >= message.0 {
        let right = format!("from 100ms to less than timeouts.message, which is {message}");
        return Err(Problem::new(format!("{key}.dns_time"), time.to_string(), right));
    }
    Ok(())
}
