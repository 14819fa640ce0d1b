//! DMARC: each result, alignment at the edges of the public suffix list, and who is the author.

use super::*;
use crate::message::{Message, View};
use crate::zone::{Zone, message, run};

struct Case<'a> {
    from: &'a str,
    spf: (SpfResult, Option<&'a str>),
    dkim: Vec<DkimFinding>,
    sample: u8,
}

impl<'a> Case<'a> {
    fn from(from: &'a str) -> Self {
        Self { from, spf: (SpfResult::None, None), dkim: Vec::new(), sample: 0 }
    }

    fn spf(mut self, result: SpfResult, domain: &'a str) -> Self {
        self.spf = (result, Some(domain));
        self
    }

    fn dkim(mut self, result: DkimResult, domain: &str) -> Self {
        self.dkim.push(DkimFinding {
            result,
            reason: None,
            domain: Some(domain.to_owned()),
            selector: None,
            algorithm: None,
            signature: None,
        });
        self
    }

    fn sample(mut self, sample: u8) -> Self {
        self.sample = sample;
        self
    }

    /// `result wanted`, one per author.
    fn findings(&self, zone: &Zone) -> Vec<String> {
        let text: Message = message(&format!("{}\n\n", self.from));
        let authors = Authors::of(&View::of(&text));
        let evidence =
            Evidence { authors: &authors, spf: self.spf, dkim: &self.dkim, sample: self.sample };
        run(verify(&evidence, zone))
            .iter()
            .map(|finding| format!("{} {}", finding.result.name(), finding.wanted.name()))
            .collect()
    }

    #[track_caller]
    fn check(self, zone: &Zone, expected: &[&str]) {
        assert_eq!(self.findings(zone), expected, "{}", self.from);
    }
}

fn zone() -> Zone {
    Zone::of(
        "
        _dmarc.reject.test TXT v=DMARC1; p=reject
        _dmarc.strict.test TXT v=DMARC1; p=reject; aspf=s; adkim=s
        _dmarc.quarantine.test TXT v=DMARC1;p=quarantine;
        _dmarc.none.test TXT v=DMARC1; p=none
        _dmarc.sub.test TXT v=DMARC1; p=none; sp=quarantine; np=reject
        there.sub.test A 192.0.2.1
        nodata.sub.test MX 10 mx.test
        _dmarc.half.test TXT v=DMARC1; p=reject; pct=50
        _dmarc.trial.test TXT v=DMARC1; p=reject; t=y
        _dmarc.reports.test TXT v=DMARC1; p=what; rua=mailto:a@reports.test
        _dmarc.broken.test TXT v=DMARC1; p=what
        _dmarc.torn.test TXT v=DMARC1; p=reject; p=none
        _dmarc.two.test TXT v=DMARC1; p=reject
        _dmarc.two.test TXT v=DMARC1; p=none
        _dmarc.mixed.test TXT some text
        _dmarc.mixed.test TXT v=DMARC1; p=reject
        _dmarc.late.test TXT v=DMARC2; p=reject
        _dmarc.slow.test * !timeout
        _dmarc.shop.co.uk TXT v=DMARC1; p=reject
        _dmarc.co.uk TXT v=DMARC1; p=reject
        _dmarc.me.github.io TXT v=DMARC1; p=reject
        _dmarc.xn--bcher-kva.test TXT v=DMARC1; p=reject
        ",
    )
}

#[test]
fn each_result_comes() {
    let zone = zone();
    use {DkimResult as D, SpfResult as S};
    let from = |domain: &'static str| Case::from(domain);
    from("From: a@missing.test").check(&zone, &["none none"]);
    from("From: a@reject.test").check(&zone, &["fail reject"]);
    from("From: a@quarantine.test").check(&zone, &["fail quarantine"]);
    from("From: a@none.test").check(&zone, &["fail none"]);
    from("From: a@slow.test").check(&zone, &["temperror none"]);
    from("From: a@broken.test").check(&zone, &["permerror none"]);
    from("From: a@torn.test").check(&zone, &["permerror none"]);
    from("From: a@two.test").check(&zone, &["permerror none"]);
    from("From: a@late.test").check(&zone, &["none none"]);
    from("From: a@mixed.test").check(&zone, &["fail reject"]);
    from("From: a@reports.test").check(&zone, &["fail none"]);
    from("From: a@reject.test").spf(S::Pass, "reject.test").check(&zone, &["pass none"]);
    from("From: a@reject.test").spf(S::Pass, "Mail.Reject.test.").check(&zone, &["pass none"]);
    from("From: a@reject.test").spf(S::Pass, "other.test").check(&zone, &["fail reject"]);
    from("From: a@reject.test").spf(S::SoftFail, "reject.test").check(&zone, &["fail reject"]);
    from("From: a@reject.test").dkim(D::Pass, "m.reject.test").check(&zone, &["pass none"]);
    from("From: a@reject.test").dkim(D::Pass, "notreject.test").check(&zone, &["fail reject"]);
    for result in [D::Fail, D::Policy, D::Neutral, D::PermError, D::None] {
        from("From: a@reject.test").dkim(result, "reject.test").check(&zone, &["fail reject"]);
    }
    from("From: a@m.reject.test").dkim(D::Pass, "reject.test").check(&zone, &["pass none"]);
    from("From: a@strict.test").dkim(D::Pass, "m.strict.test").check(&zone, &["fail reject"]);
    from("From: a@strict.test").spf(S::Pass, "m.strict.test").check(&zone, &["fail reject"]);
    from("From: a@strict.test").dkim(D::Pass, "strict.test").check(&zone, &["pass none"]);
    // What could have shown it was not found: neither a pass nor a failure. Of another domain it could not have shown it.
    from("From: a@reject.test")
        .spf(S::TempError, "reject.test")
        .check(&zone, &["temperror reject"]);
    from("From: a@reject.test")
        .dkim(D::TempError, "reject.test")
        .check(&zone, &["temperror reject"]);
    from("From: a@reject.test").dkim(D::TempError, "other.test").check(&zone, &["fail reject"]);
}

#[test]
fn policies_of_subdomains_tests_and_samples() {
    let zone = zone();
    Case::from("From: a@sub.test").check(&zone, &["fail none"]);
    Case::from("From: a@there.sub.test").check(&zone, &["fail quarantine"]);
    Case::from("From: a@nodata.sub.test").check(&zone, &["fail quarantine"]);
    Case::from("From: a@missing.sub.test").check(&zone, &["fail reject"]);
    Case::from("From: a@half.test").sample(49).check(&zone, &["fail reject"]);
    Case::from("From: a@half.test").sample(50).check(&zone, &["fail quarantine"]);
    Case::from("From: a@trial.test").check(&zone, &["fail quarantine"]);
}

#[test]
fn a24_alignment_at_the_edge_of_the_public_suffix_list() {
    let zone = zone();
    use DkimResult as D;
    let from = |domain: &'static str| Case::from(domain);
    from("From: a@shop.co.uk").dkim(D::Pass, "evil.co.uk").check(&zone, &["fail reject"]);
    from("From: a@shop.co.uk").dkim(D::Pass, "co.uk").check(&zone, &["fail reject"]);
    from("From: a@shop.co.uk").dkim(D::Pass, "uk").check(&zone, &["fail reject"]);
    from("From: a@m.shop.co.uk").dkim(D::Pass, "n.shop.co.uk").check(&zone, &["pass none"]);
    // A public suffix speaks for itself alone.
    from("From: a@other.co.uk").check(&zone, &["none none"]);
    from("From: a@co.uk").dkim(D::Pass, "shop.co.uk").check(&zone, &["fail reject"]);
    from("From: a@me.github.io").dkim(D::Pass, "you.github.io").check(&zone, &["fail reject"]);
}

#[test]
fn a20_every_author_counts() {
    let zone = zone();
    use DkimResult as D;
    let evil = |from: &'static str| Case::from(from).dkim(D::Pass, "none.test");
    evil("From: a@none.test\nFrom: ceo@reject.test").check(&zone, &["pass none", "fail reject"]);
    evil("From: ceo@reject.test\nfrom : a@none.test").check(&zone, &["fail reject", "pass none"]);
    evil("From: a@none.test, ceo@reject.test").check(&zone, &["pass none", "fail reject"]);
    evil("Subject: no author").check(&zone, &["permerror none"]);
    evil("From: nobody").check(&zone, &["permerror none"]);
    evil("From: a@b\u{fc}cher.test").check(&zone, &["fail reject"]);
    evil("From: a@XN--BCHER-KVA.test.").check(&zone, &["fail reject"]);
    let many: Vec<String> = (0..20).map(|number| format!("a@d{number}.test")).collect();
    let from = format!("From: {}, ceo@reject.test", many.join(", "));
    let findings = Case::from(&from).findings(&zone);
    assert_eq!(findings.last().unwrap(), "permerror reject");
}
