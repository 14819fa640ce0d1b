//! What follows from what was found, and what the settings may say.

use ::authentication::arc::{ArcFinding, ArcResult};
use ::authentication::dmarc::{DmarcFinding, DmarcResult};

use super::*;
use crate::settings::Settings;

fn settings(text: &str) -> Settings {
    toml::from_str(&format!("filters = [{text}]")).expect("well-formed settings")
}

fn filter(text: &str) -> Authentication {
    let settings = settings(&format!("{{ authentication = {{ {text} }} }}"));
    settings.check().expect("right settings");
    let setting = settings.filters[0].authentication.clone().expect("what was written");
    Authentication {
        setting,
        text: None,
        authserv_id: "mx.test".to_owned(),
        resolver: Rc::new(dns::Resolver::new(dns::Settings::default())),
    }
}

fn report(findings: &[(DmarcResult, Option<Policy>, Policy)]) -> Report {
    let finding = |(result, policy, wanted): &(DmarcResult, Option<Policy>, Policy)| DmarcFinding {
        result: *result,
        reason: None,
        domain: Some("author.test".to_owned()),
        policy: *policy,
        wanted: *wanted,
    };
    Report {
        client: "192.0.2.1".parse().expect("an address"),
        iprev: None,
        spf_mail_from: None,
        spf_helo: None,
        dkim: Vec::new(),
        dmarc: findings.iter().map(finding).collect(),
        arc: ArcFinding { result: ArcResult::None, reason: None, instances: 0, sealer: None },
    }
}

fn words(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Reject(words) | Verdict::Tempfail(words) => {
            assert!(words.text.contains("author"), "{}", words.text);
            format!("{} {}", words.code, words.status)
        }
        Verdict::Quarantine { reason } => {
            assert!(reason.contains("author.test"), "{reason}");
            "quarantine".to_owned()
        }
        Verdict::Discard => "discard".to_owned(),
    }
}

#[test]
fn policies_are_applied_or_only_told() {
    use DmarcResult as D;
    use Policy as P;
    let apply = filter("dmarc = 'apply'");
    let lenient = filter("dmarc = 'apply', dmarc_temperror = 'accept'");
    let tell = filter("");
    for (findings, applied, leniently) in [
        (&[(D::Pass, Some(P::Reject), P::None)][..], "accept", "accept"),
        (&[(D::None, None, P::None)], "accept", "accept"),
        (&[(D::PermError, None, P::None)], "accept", "accept"),
        (&[(D::PermError, None, P::Reject)], "550 5.7.26", "550 5.7.26"),
        (&[(D::Fail, Some(P::Reject), P::Reject)], "550 5.7.26", "550 5.7.26"),
        (&[(D::Fail, Some(P::Reject), P::Quarantine)], "quarantine", "quarantine"),
        (&[(D::Fail, Some(P::None), P::None)], "accept", "accept"),
        (&[(D::TempError, None, P::None)], "451 4.7.26", "accept"),
        (&[(D::TempError, Some(P::Reject), P::Reject)], "451 4.7.26", "accept"),
        (&[(D::TempError, Some(P::None), P::None)], "accept", "accept"),
        (
            &[(D::Pass, Some(P::None), P::None), (D::Fail, Some(P::Reject), P::Reject)],
            "550 5.7.26",
            "550 5.7.26",
        ),
        (
            &[(D::TempError, None, P::None), (D::Fail, Some(P::Reject), P::Reject)],
            "550 5.7.26",
            "550 5.7.26",
        ),
        (
            &[(D::TempError, None, P::None), (D::Fail, Some(P::Quarantine), P::Quarantine)],
            "451 4.7.26",
            "quarantine",
        ),
    ] {
        let report = report(findings);
        assert_eq!(words(apply.verdict(&report)), applied, "{findings:?}");
        assert_eq!(words(lenient.verdict(&report)), leniently, "{findings:?}");
        assert_eq!(words(tell.verdict(&report)), "accept", "{findings:?}");
    }
}

#[test]
fn settings_are_checked() {
    for (text, key, right) in [
        (
            "{ authentication = { authserv_id = 'a b' } }",
            "authentication.authserv_id",
            "a host name",
        ),
        (
            "{ authentication = { authserv_id = 'a;b' } }",
            "authentication.authserv_id",
            "a host name",
        ),
        (
            "{ authentication = { clients = 'trusted' } }",
            "authentication.clients",
            "strangers, or all",
        ),
        ("{ authentication = { rsa_bits_min = 512 } }", "authentication.rsa_bits_min", "from 1024"),
        ("{ authentication = { signatures_max = 0 } }", "authentication.signatures_max", "from 1"),
        (
            "{ authentication = { dns_time = '1m' } }",
            "authentication.dns_time",
            "from 100ms to less",
        ),
        ("{ authentication = {}, action = 'reject' }", "action", "no action"),
    ] {
        let problem = settings(text).check().expect_err(text);
        assert_eq!(problem.key, format!("contentfilter.filters[0].{key}"), "{text}");
        assert!(problem.right.starts_with(right), "{}", problem.right);
    }
    assert!(
        toml::from_str::<Settings>("filters = [{ authentication = { dmark = 'apply' } }]").is_err()
    );
}
