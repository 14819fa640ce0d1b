//! Our field, and those of others that speak in our name.

use mail::header;

use super::*;
use crate::arc::{ArcFinding, ArcResult};
use crate::dkim::{DkimFinding, DkimResult};
use crate::dmarc::{DmarcFinding, DmarcResult, Policy};
use crate::iprev::{Iprev, IprevResult};
use crate::spf::SpfResult;
use crate::verify::SpfFinding;
use crate::zone::message;

const ID: &str = "mx.example.org";

/// How many fields are removed.
fn removed(fields: &str) -> usize {
    let text = message(&format!("From: a@a.test\n{fields}\n\n"));
    let edits = removals(text.header(), ID);
    let left = header::edit(text.header(), &edits);
    let before = header::count(text.header(), FIELD);
    assert!(removals(&left, ID).is_empty(), "{fields}");
    before - header::count(&left, FIELD)
}

#[test]
fn a24_fields_in_our_name_are_removed() {
    for field in [
        "Authentication-Results: mx.example.org; spf=pass",
        "authentication-results: MX.Example.ORG; spf=pass",
        "AUTHENTICATION-RESULTS : mx.example.org; spf=pass",
        "Authentication-Results:mx.example.org;spf=pass",
        "Authentication-Results: mx.example.org",
        "Authentication-Results: mx.example.org 1; spf=pass",
        "Authentication-Results: mx.example.org (really) 1 (one); spf=pass",
        "Authentication-Results: mx.example.org(really); spf=pass",
        "Authentication-Results: (hello) mx.example.org; spf=pass",
        "Authentication-Results: (a (nested \\) ) b)(c) mx.example.org; spf=pass",
        "Authentication-Results:\n mx.example.org;\n spf=pass",
        "Authentication-Results:\n\t(x\n y)\n\tmx.example.org\n ; spf=pass",
        "Authentication-Results: \"mx.example.org\"; spf=pass",
        "Authentication-Results: \"mx\\.example.org\"; spf=pass",
        "Authentication-Results: mx.example.org.; spf=pass",
        "Authentication-Results: mx.example.org/1; spf=pass",
        // What nobody can read for sure.
        "Authentication-Results: (unfinished mx.example.org; spf=pass",
        "Authentication-Results: \"mx.example.org; spf=pass",
        "Authentication-Results: ; spf=pass",
        "Authentication-Results:",
    ] {
        assert_eq!(removed(field), 1, "{field}");
    }
    for field in [
        "Authentication-Results: other.example.org; spf=pass",
        "Authentication-Results: (mx.example.org) other.example.org; spf=pass",
        "Authentication-Results: amx.example.org; spf=pass",
        "Authentication-Results: mx.example.org.evil.test; spf=pass",
        "Authentication-Results: example.org; spf=pass smtp.mailfrom=mx.example.org",
    ] {
        assert_eq!(removed(field), 0, "{field}");
    }
    let several = "Authentication-Results: mx.example.org; a=b\nAuthentication-Results: other; c=d\n\
        Subject: x\nAuthentication-Results: (x)MX.example.org; e=f\nAuthentication-Results: more; g=h";
    assert_eq!(removed(several), 2);
}

fn report() -> Report {
    Report {
        client: "192.0.2.1".parse().unwrap(),
        iprev: Some(Iprev { result: IprevResult::Pass, name: Some("mail.a.test".to_owned()) }),
        spf_mail_from: Some(SpfFinding {
            result: SpfResult::Pass,
            identity: Some("a@a.test".to_owned()),
        }),
        spf_helo: Some(SpfFinding { result: SpfResult::None, identity: None }),
        dkim: vec![DkimFinding {
            result: DkimResult::Fail,
            reason: Some("body has changed"),
            domain: Some("a.test".to_owned()),
            selector: Some("s1".to_owned()),
            algorithm: Some("rsa-sha256"),
            signature: Some("AbC/+123".to_owned()),
        }],
        dmarc: vec![DmarcFinding {
            result: DmarcResult::Pass,
            reason: None,
            domain: Some("a.test".to_owned()),
            policy: Some(Policy::Reject),
            wanted: Policy::None,
        }],
        arc: ArcFinding {
            result: ArcResult::Pass,
            reason: None,
            instances: 2,
            sealer: Some("l.test".to_owned()),
        },
    }
}

#[test]
fn the_field_is_as_rfc_8601_has_it() {
    let expected = "mx.example.org;\r\n\
        \tiprev=pass (mail.a.test) policy.iprev=192.0.2.1;\r\n\
        \tspf=pass smtp.mailfrom=a.test;\r\n\
        \tspf=none;\r\n\
        \tdkim=fail reason=\"body has changed\" header.d=a.test header.s=s1\r\n\
        \t header.a=rsa-sha256 header.b=\"AbC/+123\";\r\n\
        \tdmarc=pass (p=reject) header.from=a.test;\r\n\
        \tarc=pass (i=2) header.d=l.test";
    assert_eq!(report().header_value(ID), expected);
    let text = message("From: a@a.test\nAuthentication-Results: mx.example.org; spf=pass\n\n");
    let edited = header::edit(text.header(), &report().edits(text.header(), ID));
    assert_eq!(header::count(&edited, FIELD), 1);
    let ours = ours(&edited, ID).unwrap();
    assert!(ours.starts_with("iprev=pass (mail.a.test)"), "{ours}");
    assert!(ours.contains("; arc=pass (i=2)"), "{ours}");
}

#[test]
fn a24_nothing_from_outside_gets_into_the_field() {
    for evil in [
        "a.test; dmarc=pass",
        "a.test\r\nX-Evil: 1",
        "a.test (",
        "a\".test",
        "a test",
        "a.test\\",
        "\u{202e}a.test",
        "a;b@a.test",
        "a=b",
    ] {
        let mut report = report();
        report.iprev = Some(Iprev { result: IprevResult::Pass, name: Some(evil.to_owned()) });
        report.spf_mail_from =
            Some(SpfFinding { result: SpfResult::Pass, identity: Some(evil.to_owned()) });
        report.spf_helo = report.spf_mail_from.clone();
        let dkim = &mut report.dkim[0];
        dkim.domain = Some(evil.to_owned());
        dkim.selector = Some(evil.to_owned());
        report.dmarc[0].domain = Some(evil.to_owned());
        report.arc.sealer = Some(evil.to_owned());
        let value = report.header_value(ID);
        assert!(!value.contains(evil), "{evil:?}: {value}");
    }
}
