//! Where mail goes, who may send it there, and how that is explained.

use mail::Ret;
use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Address {
    Address::parse(text).expect("well-formed address")
}

fn rules(text: &str) -> Rules {
    let settings = toml::from_str(text).expect("well-formed settings");
    let channel = |name: &str, hosts| Channel { name: name.to_owned(), hosts };
    let channels = vec![channel("local", false), channel("smtp", true), channel("webhook", false)];
    let assignment = Assignment { settings, hostname: "mta.example.test".to_owned(), channels };
    let names: Vec<String> = assignment.channels.iter().map(|one| one.name.clone()).collect();
    assignment.settings.check(&names).expect("settings without contradiction");
    Rules::load(&assignment).expect("tables that can be read").0
}

const EXAMPLE: &str = r#"
    aliases = [{ info = "anna, berta@example.org", "sales@example.org" = "berta", all = ["anna", "info", "carl+lists"],
                 "\"odd one\"" = "anna", anna = "\\anna, carl", loop1 = "loop2", loop2 = "loop1", both = "loop1, anna",
                 cmd = "|/bin/sh", nobody-there = "nobody", "*" = "anna",
                 ping = "pong, \\ping", pong = "ping, \\pong" }]
    routes = [
      { address = "boss@example.test", channel = "smtp", host = "boss.example.org" },
      { domain = "example.test", channel = "local", users = ["anna", "berta", "carl", "dora+x@example.test", "ping", "pong"] },
      { domain = "*.example.test", channel = "local" },
      { domain = "hooks.test", channel = "webhook", from = "any", host = "queue1" },
      { domain = "gone.test", reject = "this domain has moved to example.test" },
      { domain = "partner.test", channel = "smtp", host = "[127.0.0.1]:2526", from = "any" },
      { domain = "closed.example.org", channel = "local", from = "clients" },
      { domain = "*", channel = "smtp" },
    ]
"#;

/// What strangers and clients are told: codes, or `ok`.
fn check_verify(rules: &Rules, recipient: &str, stranger: &str, client: &str) {
    for (may_relay, expected) in [(false, stranger), (true, client)] {
        let verdict = rules.verify(&address(recipient), &Client { address: None, may_relay });
        let told = match verdict {
            Verified::Deliverable => "ok".to_owned(),
            Verified::Unknown(reply) | Verified::RelayDenied(reply) | Verified::Tempfail(reply) => {
                format!("{} {}", reply.code, reply.status)
            }
        };
        assert_eq!(told, expected, "{recipient}, may relay: {may_relay}");
    }
}

/// Where recipients lead: `address channel host user`, or `address code`.
fn check_route(rules: &Rules, recipients: &[&str], expected: &[&str]) {
    let routed = rules.route(&envelope(recipients)).expect("inline tables are available");
    assert_eq!(shown(&routed), expected, "{recipients:?}");
    for (position, one) in routed.iter().enumerate() {
        assert_eq!(one.index as usize, position, "numbered from 0");
    }
}

fn shown(routed: &[RoutedRecipient]) -> Vec<String> {
    let show = |one: &RoutedRecipient| {
        let from = one.original.as_ref().map(|from| format!(" (was {from})")).unwrap_or_default();
        match &one.state {
            State::Failed(reply) => format!("{} {}{from}", one.address, reply.status),
            State::Held { reason, .. } => format!("{} held: {reason}", one.address),
            _ if one.host.is_empty() => {
                format!("{} {} {}{from}", one.address, one.channel, one.user)
            }
            _ => format!("{} {} {} {}{from}", one.address, one.channel, one.host, one.user),
        }
    };
    routed.iter().map(show).collect()
}

fn envelope(recipients: &[&str]) -> Envelope {
    Envelope {
        sender: Some(address("sender@example.org")),
        recipients: recipients.iter().map(|one| Recipient::from(address(one))).collect(),
        body: mail::BodyType::SevenBit,
        smtputf8: false,
        ret: Some(Ret::Hdrs),
        envid: None,
    }
}

#[test]
fn first_route_wins() {
    let rules = rules(EXAMPLE);
    for (recipient, expected) in [
        ("Anna2@Sub.Example.Test", "Anna2@Sub.Example.Test local anna2"),
        ("x+y@sub.sub.example.test", "x+y@sub.sub.example.test local x"),
        ("boss@example.test", "boss@example.test smtp [boss.example.org] boss@example.test"),
        ("Boss+x@example.test", "Boss+x@example.test smtp [boss.example.org] Boss+x@example.test"),
        ("a@hooks.test", "a@hooks.test webhook queue1 a"),
        ("a@partner.test", "a@partner.test smtp [127.0.0.1]:2526 a@partner.test"),
        ("a@Example.NET", "a@Example.NET smtp example.net a@Example.NET"),
        ("a@notexample.test", "a@notexample.test smtp notexample.test a@notexample.test"),
        ("a@[192.0.2.7]", "a@[192.0.2.7] smtp [192.0.2.7] a@[192.0.2.7]"),
        ("a@[IPv6:2001:DB8::7]", "a@[IPv6:2001:DB8::7] smtp [2001:db8::7] a@[IPv6:2001:DB8::7]"),
        ("a@gone.test", "a@gone.test 5.7.1"),
        ("dora+x@example.test", "dora+x@example.test local dora+x"),
        ("dora@example.test", "dora@example.test 5.1.1"),
        ("berta+x@example.test", "berta+x@example.test local berta"),
        ("\"berta\"@example.test", "\"berta\"@example.test local berta"),
        ("eve@example.test", "eve@example.test 5.1.1"),
    ] {
        check_route(&rules, &[recipient], &[expected]);
    }
}

#[test]
fn the_order_of_routes_decides() {
    let rules = rules(
        r#"routes = [
          { domain = "*.example.test", channel = "webhook" },
          { domain = "a.example.test", channel = "local" },
          { domain = "*", channel = "smtp" },
          { address = "b@example.org", channel = "local" },
        ]"#,
    );
    check_route(&rules, &["x@a.example.test"], &["x@a.example.test webhook x"]);
    check_route(&rules, &["b@example.org"], &["b@example.org smtp example.org b@example.org"]);
    check_route(&rules, &["b@example.test"], &["b@example.test smtp example.test b@example.test"]);
}

#[test]
fn aliases_lead_on() {
    let rules = rules(EXAMPLE);
    let was = |text: &str, from: &str| format!("{text} (was {from})");
    let check = |recipient: &str, expected: &[&str]| {
        let expected: Vec<String> = expected.iter().map(|one| was(one, recipient)).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check_route(&rules, &[recipient], &expected);
    };
    check(
        "info@example.test",
        &[
            "anna@example.test local anna",
            "carl@example.test local carl",
            "berta@example.org smtp example.org berta@example.org",
        ],
    );
    check(
        "Info+x@example.test",
        &[
            "anna@example.test local anna",
            "carl@example.test local carl",
            "berta@example.org smtp example.org berta@example.org",
        ],
    );
    check(
        "all@example.test",
        &[
            "anna@example.test local anna",
            "carl@example.test local carl",
            "berta@example.org smtp example.org berta@example.org",
            "carl+lists@example.test local carl",
        ],
    );
    check("sales@example.org", &["berta@example.org smtp example.org berta@example.org"]);
    check(
        "\"odd one\"@example.test",
        &["anna@example.test local anna", "carl@example.test local carl"],
    );
    check("nobody-there@example.test", &["nobody@example.test 5.1.1"]);
    check_route(
        &rules,
        &["anna@example.test"],
        &["anna@example.test local anna", "carl@example.test local carl (was anna@example.test)"],
    );
    check_route(&rules, &["cmd@example.test"], &["cmd@example.test 5.3.5"]);
    // A bare name is an alias in our own domains only.
    check_route(
        &rules,
        &["info@example.net"],
        &["info@example.net smtp example.net info@example.net"],
    );
    check_route(&rules, &["info@hooks.test"], &["info@hooks.test webhook queue1 info"]);
}

#[test]
fn loops_and_depth_end() {
    let rules = rules(EXAMPLE);
    check_route(&rules, &["loop1@example.test"], &["loop1@example.test 5.4.6"]);
    check_route(
        &rules,
        &["both@example.test"],
        &[
            "loop1@example.test 5.4.6 (was both@example.test)",
            "anna@example.test local anna (was both@example.test)",
            "carl@example.test local carl (was both@example.test)",
        ],
    );
    check_verify(&rules, "loop1@example.test", "550 5.4.6", "550 5.4.6");
    check_verify(&rules, "both@example.test", "ok", "ok");
    let chain: Vec<String> = (0..20).map(|n| format!("a{n} = \"a{}\"", n + 1)).collect();
    let deep = super::tests::rules(&format!(
        "alias_depth_max = 5\naliases = [{{ {} }}]\nroutes = [{{ domain = \"example.test\", channel = \"local\" }}]",
        chain.join(", ")
    ));
    check_route(
        &deep,
        &["a15@example.test"],
        &["a20@example.test local a20 (was a15@example.test)"],
    );
    check_route(&deep, &["a14@example.test"], &["a20@example.test 5.4.6 (was a14@example.test)"]);
}

#[test]
fn two_who_forward_to_each_other_and_keep_a_copy_both_get_it() {
    let rules = rules(EXAMPLE);
    check_route(
        &rules,
        &["ping@example.test"],
        &["ping@example.test local ping", "pong@example.test local pong (was ping@example.test)"],
    );
}

#[test]
fn wide_aliases_fail_as_a_whole() {
    let rules = rules(
        r#"
        alias_recipients_max = 3
        message_recipients_max = 5
        aliases = [{ wide = "a, b, c, d", three = "a, b, c", other = "d, e, f", bomb = "bomb1, bomb1, bomb1", bomb1 = "wide" }]
        routes = [{ domain = "example.test", channel = "local" }]
        "#,
    );
    check_route(&rules, &["wide@example.test"], &["wide@example.test 5.2.4"]);
    check_route(&rules, &["bomb@example.test"], &["bomb@example.test 5.2.4"]);
    check_route(
        &rules,
        &["three@example.test", "other@example.test", "z@example.test"],
        &[
            "a@example.test local a (was three@example.test)",
            "b@example.test local b (was three@example.test)",
            "c@example.test local c (was three@example.test)",
            "other@example.test 5.5.3",
            "z@example.test local z",
        ],
    );
    // Nobody beyond the limit is forgotten, alias or not.
    let many: Vec<String> = (0..7).map(|number| format!("u{number}@example.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let routed = rules.route(&envelope(&many)).expect("inline tables are available");
    let shown = shown(&routed);
    assert_eq!(shown.iter().filter(|one| one.ends_with("5.5.3")).count(), 2, "{shown:?}");
    assert_eq!(shown.len(), 7);
}

#[test]
fn a_catch_all_takes_whom_nobody_lists() {
    let rules = rules(
        r#"
        aliases = [{ "@example.test" = "anna", "berta" = "carl@example.org" }]
        routes = [{ domain = "example.test", channel = "local", users = ["anna", "dora"] }, { domain = "*", channel = "smtp" }]
        "#,
    );
    check_route(
        &rules,
        &["eve@example.test"],
        &["anna@example.test local anna (was eve@example.test)"],
    );
    check_route(&rules, &["dora@example.test"], &["dora@example.test local dora"]);
    check_route(
        &rules,
        &["berta@example.test"],
        &["carl@example.org smtp example.org carl@example.org (was berta@example.test)"],
    );
}

#[test]
fn the_same_mailbox_is_sent_to_once() {
    let rules = rules(EXAMPLE);
    check_route(
        &rules,
        &["berta@example.test", "Berta@EXAMPLE.test", "berta@example.test"],
        &["berta@example.test local berta"],
    );
    check_route(
        &rules,
        &["x@example.net", "X@Example.NET", "x@Example.NET"],
        &[
            "x@example.net smtp example.net x@example.net",
            "X@Example.NET smtp example.net X@Example.NET",
        ],
    );
    let mut twice = envelope(&["anna@example.test", "info@example.test", "carl@example.test"]);
    twice.recipients[0].notify = Some(Notify::NEVER);
    twice.recipients[2].notify = Some(Notify { success: true, ..Notify::NEVER });
    twice.recipients[2].hold = Some("spam".to_owned());
    let routed = rules.route(&twice).expect("available");
    assert_eq!(shown(&routed).len(), 3, "{routed:?}");
    assert_eq!(routed[0].notify, Some(Notify::DEFAULT), "never, and the default");
    assert_eq!(routed[1].notify, Some(Notify { success: true, failure: true, delay: true }));
    assert!(matches!(routed[1].state, State::Open(_)), "another way to it is not held");
}

#[test]
fn parameters_travel_with_recipients() {
    let rules = rules(EXAMPLE);
    let mut one = envelope(&["info@example.test", "berta@example.test"]);
    one.recipients[0].orcpt = Some("rfc822;info@example.test".to_owned());
    one.recipients[0].notify = Some(Notify::NEVER);
    one.recipients[1].hold = Some("suspicious".to_owned());
    let routed = rules.route(&one).expect("available");
    for index in [0, 1, 2] {
        assert_eq!(routed[index].orcpt.as_deref(), Some("rfc822;info@example.test"));
        assert_eq!(routed[index].notify, Some(Notify::NEVER));
    }
    assert_eq!(shown(&routed)[3], "berta@example.test held: suspicious");
}

/// Attack A10: no way of writing an address makes a stranger's mail leave for elsewhere.
#[test]
fn is_no_open_relay() {
    let rules = rules(EXAMPLE);
    for recipient in [
        "victim@example.net",
        "victim@EXAMPLE.NET",
        "victim%example.net@example.org",
        "victim@example.test.example.net",
        "victim@notexample.test",
        "victim@xexample.test",
        "victim@[192.0.2.1]",
        "victim@[127.0.0.1]",
        "victim@[IPv6:::1]",
        "\"anna@example.test\"@example.net",
        "postmaster@example.net",
        "sales@example.org",
        "boss@example.test",
        "a@closed.example.org",
        "anna@test",
        "anna@example",
    ] {
        check_verify(&rules, recipient, "554 5.7.1", "ok");
    }
    // These look like ways around, and are unknown users of our own.
    for recipient in [
        "victim%example.net@example.test",
        "example.net!victim@example.test",
        "\"victim@example.net\"@example.test",
        "\"victim%example.net\"@example.test",
        "\"@example.net:victim\"@example.test",
        "\"|/bin/sh\"@example.test",
        "\"../../etc/passwd\"@example.test",
        "victim=example.net@example.test",
        "\"*\"@example.org.example.test2",
    ] {
        let is_ours = recipient.ends_with("@example.test");
        let expected = if is_ours { "550 5.1.1" } else { "554 5.7.1" };
        check_verify(&rules, recipient, expected, if is_ours { expected } else { "ok" });
    }
    // Where every address is taken, the local part stays a local part.
    check_route(
        &rules,
        &["victim%example.net@sub.example.test"],
        &["victim%example.net@sub.example.test local victim%example.net"],
    );
    check_route(
        &rules,
        &["\"v@example.net\"@sub.example.test"],
        &["\"v@example.net\"@sub.example.test local \"v@example.net\""],
    );
}

#[test]
fn verdicts_at_rcpt() {
    let rules = rules(EXAMPLE);
    for (recipient, stranger, client) in [
        ("anna@example.test", "ok", "ok"),
        ("ANNA+box@example.test", "ok", "ok"),
        ("info@example.test", "ok", "ok"),
        ("eve@example.test", "550 5.1.1", "550 5.1.1"),
        ("nobody-there@example.test", "550 5.1.1", "550 5.1.1"),
        ("cmd@example.test", "550 5.3.5", "550 5.3.5"),
        ("a@gone.test", "550 5.7.1", "550 5.7.1"),
        ("a@partner.test", "ok", "ok"),
        ("a@hooks.test", "ok", "ok"),
        ("postmaster", "ok", "ok"),
        ("PostMaster", "ok", "ok"),
        ("postmaster@example.test", "ok", "ok"),
    ] {
        check_verify(&rules, recipient, stranger, client);
    }
    let nothing = super::tests::rules("");
    check_verify(&nothing, "a@example.test", "554 5.7.1", "550 5.1.2");
    check_route(&nothing, &["a@example.test"], &["a@example.test 5.1.2"]);
}

#[test]
fn postmaster_is_always_reachable() {
    let local = |more: &str, users: &str| {
        super::tests::rules(&format!(
            "{more}\nroutes = [{{ domain = \"example.test\", channel = \"local\"{users} }},
              {{ domain = \"second.test\", channel = \"local\"{users} }}, {{ domain = \"*\", channel = \"smtp\" }}]"
        ))
    };
    let users = ", users = [\"anna\"]";
    let bare = local("", users);
    check_route(
        &bare,
        &["postmaster"],
        &["postmaster@example.test local postmaster (was postmaster)"],
    );
    // Our reports come from this system's name, which no route here is for.
    check_route(
        &bare,
        &["Postmaster@mta.example.test"],
        &["postmaster@example.test local postmaster (was Postmaster@mta.example.test)"],
    );
    check_verify(&bare, "postmaster@mta.example.test", "ok", "ok");
    check_verify(&bare, "other@mta.example.test", "554 5.7.1", "ok");
    check_route(
        &bare,
        &["Postmaster@example.test"],
        &["postmaster@example.test local postmaster (was Postmaster@example.test)"],
    );
    check_route(
        &bare,
        &["postmaster@second.test"],
        &["postmaster@example.test local postmaster (was postmaster@second.test)"],
    );
    check_route(
        &bare,
        &["postmaster@example.net"],
        &["postmaster@example.net smtp example.net postmaster@example.net"],
    );
    let set = local("postmaster = \"anna@example.test\"", users);
    check_route(
        &set,
        &["postmaster", "postmaster@second.test"],
        &["anna@example.test local anna (was postmaster)"],
    );
    let open = local("", "");
    check_route(&open, &["postmaster@second.test"], &["postmaster@second.test local postmaster"]);
    let alias =
        local("postmaster = \"carl@example.org\"\naliases = [{ postmaster = \"anna\" }]", users);
    check_route(&alias, &["postmaster"], &["anna@example.test local anna (was postmaster)"]);
    check_route(
        &alias,
        &["postmaster@second.test"],
        &["anna@second.test local anna (was postmaster@second.test)"],
    );
    let listed = local("postmaster = \"carl@example.org\"", ", users = [\"postmaster\"]");
    check_route(&listed, &["postmaster@second.test"], &["postmaster@second.test local postmaster"]);
    let itself = local("postmaster = \"postmaster@second.test\"", users);
    check_route(
        &itself,
        &["postmaster@second.test"],
        &["postmaster@example.test local postmaster (was postmaster@second.test)"],
    );
    let relay = super::tests::rules(
        "routes = [{ domain = \"*\", channel = \"smtp\", host = \"hub.example.test\" }]",
    );
    check_verify(&relay, "postmaster", "ok", "ok");
    check_route(
        &relay,
        &["postmaster"],
        &[
            "postmaster@mta.example.test smtp [hub.example.test] postmaster@mta.example.test (was postmaster)",
        ],
    );
    for rules in [bare, set, open, alias, listed, itself] {
        check_verify(&rules, "postmaster", "ok", "ok");
        check_verify(&rules, "postmaster@second.test", "ok", "ok");
    }
}

#[test]
fn a_domain_is_judged_as_a_whole_when_nothing_else_decides() {
    let rules = rules(EXAMPLE);
    let judged = |text: &str| rules.is_judged_by_domain(&address(text));
    for whole in
        ["a@hooks.test", "a@partner.test", "a@PARTNER.test", "a@example.net", "a+b@x.example.net"]
    {
        assert!(judged(whole), "{whole}");
    }
    // Listed or ours; named by an alias; by a route for an address; without a domain; this system's own.
    for not in [
        "anna@example.test",
        "a@sub.example.test",
        "berta@example.org",
        "boss@example.test",
        "postmaster",
        "postmaster@mta.example.test",
        "a@MTA.example.test",
    ] {
        assert!(!judged(not), "{not}");
    }
    let unread = r#"aliases = ["file:/nonexistent/aliases"]
                    routes = [{ domain = "*", channel = "smtp" }]"#;
    let settings = toml::from_str(unread).expect("well-formed settings");
    let channels = vec![Channel { name: "smtp".to_owned(), hosts: true }];
    let assignment = Assignment { settings, hostname: "mta.example.test".to_owned(), channels };
    let rules = Rules::new(&assignment).expect("nothing is read yet");
    assert!(!rules.is_judged_by_domain(&address("a@example.net")));
}

#[test]
fn a_table_that_cannot_be_read_is_no_verdict() {
    let settings = toml::from_str(
        "aliases = [\"file:/nonexistent/aliases\"]\nroutes = [{ domain = \"example.test\", channel = \"local\" }]",
    );
    let channels = vec![Channel { name: "local".to_owned(), hosts: false }];
    let settings = settings.expect("well-formed settings");
    let assignment = Assignment { settings, hostname: "mta.example.test".to_owned(), channels };
    assert!(matches!(Rules::load(&assignment), Err(LoadError::Table { .. })));
    let rules = Rules::new(&assignment).expect("the file is not needed yet");
    check_verify(&rules, "anna@example.test", "451 4.3.0", "451 4.3.0");
    check_verify(&rules, "anna@example.net", "554 5.7.1", "550 5.1.2");
    assert!(rules.route(&envelope(&["anna@example.test"])).is_err());
}

#[test]
fn files_and_warnings() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let path = directory.path().join("aliases");
    std::fs::write(&path, "info: anna,\n  |/bin/sh\npostmaster: nobody\n")
        .expect("room on the disk");
    let text = format!(
        "aliases = [\"file:{}\"]\nroutes = [{{ domain = \"example.test\", channel = \"local\", users = [\"anna\"] }}]",
        path.display()
    );
    let settings = toml::from_str(&text).expect("well-formed settings");
    let channels = vec![Channel { name: "local".to_owned(), hosts: false }];
    let assignment = Assignment { settings, hostname: "mta.example.test".to_owned(), channels };
    let (_, warnings) = Rules::load(&assignment).expect("readable");
    assert_eq!(warnings, [
        format!("{}:1: info: |/bin/sh: programs, files and inclusions are not supported, and mail for it fails", path.display()),
        "mail for postmaster (postmaster@example.test) fails: <postmaster@example.test>: no such user".to_owned(),
    ]);
}

#[test]
fn explains_what_it_does() {
    let rules = rules(EXAMPLE);
    let check = |recipient: &str, expected: &[&str]| {
        let steps = rules.explain(&address(recipient), None);
        let shown: Vec<String> = steps.iter().map(Step::to_string).collect();
        assert_eq!(shown, expected, "{recipient}");
    };
    check(
        "Info+x@Example.test",
        &[
            "Info+x@Example.test: local part info+x (without detail info), domain example.test",
            "Info+x@Example.test: routes[1], example.test, leads to channel local",
            "Info+x@Example.test: alias info in inline stands for anna, berta@example.org",
            "anna@Example.test: routes[1], example.test, leads to channel local",
            "anna@Example.test: alias anna in inline stands for \\anna, carl",
            "anna@Example.test: users (inline) lists anna",
            "anna@Example.test: goes to channel local, user anna",
            "carl@Example.test: routes[1], example.test, leads to channel local",
            "carl@Example.test: no alias",
            "carl@Example.test: users (inline) lists carl",
            "carl@Example.test: goes to channel local, user carl",
            "berta@example.org: routes[7], *, leads to channel smtp",
            "berta@example.org: no alias",
            "berta@example.org: goes to channel smtp, host example.org",
            "any other client may send to it",
            "a client that may relay may send to it",
        ],
    );
    check(
        "postmaster",
        &[
            "postmaster: local part postmaster, without a domain",
            "postmaster: taken as postmaster@example.test",
            "postmaster@example.test: routes[1], example.test, leads to channel local",
            "postmaster@example.test: no alias",
            "postmaster@example.test: users (inline) does not list it",
            "postmaster@example.test: postmaster is always reachable, at postmaster@example.test",
            "postmaster@example.test: goes to channel local, user postmaster",
            "any other client may send to it",
            "a client that may relay may send to it",
        ],
    );
    check(
        "eve@gone.test",
        &[
            "eve@gone.test: local part eve, domain gone.test",
            "eve@gone.test: routes[4], gone.test, leads to reject",
            "eve@gone.test: fails with 5.7.1 this domain has moved to example.test",
            "any other client is told 550 5.7.1 this domain has moved to example.test",
            "a client that may relay is told 550 5.7.1 this domain has moved to example.test",
        ],
    );
    check(
        "loop1@example.test",
        &[
            "loop1@example.test: local part loop1, domain example.test",
            "loop1@example.test: routes[1], example.test, leads to channel local",
            "loop1@example.test: alias loop1 in inline stands for loop2",
            "loop2@example.test: routes[1], example.test, leads to channel local",
            "loop2@example.test: alias loop2 in inline stands for loop1",
            "loop1@example.test: routes[1], example.test, leads to channel local",
            "loop1@example.test: fails with 5.4.6 alias loop",
            "any other client is told 550 5.4.6 <loop1@example.test>: alias loop",
            "a client that may relay is told 550 5.4.6 <loop1@example.test>: alias loop",
        ],
    );
    let json = serde_json::to_value(
        rules.explain(&address("a@example.net"), Some(&address("b@example.org"))),
    );
    assert_eq!(json.expect("steps become JSON")[1]["step"], "sender");
}

proptest! {
    /// Whatever a stranger writes before the `@` of somebody else's domain, it is not taken.
    #[test]
    fn no_local_part_opens_the_relay(local in "[a-z0-9%!+=/.@:|\" ]{1,20}", quoted: bool) {
        let local = if quoted { format!("\"{}\"", local.replace('"', "\\\"")) } else { local };
        let rules = rules(EXAMPLE);
        if let Ok(address) = Address::parse(&format!("{local}@example.net")) {
            let verdict = rules.verify(&address, &Client::default());
            prop_assert!(matches!(verdict, Verified::RelayDenied(_)), "{address}: {verdict:?}");
        }
    }

    /// Any alias table ends, in the limits, and the same way each time.
    #[test]
    fn every_alias_table_ends(
        entries in proptest::collection::btree_map(
            "[a-e]", proptest::collection::vec("[a-f]|\\\\[a-f]|[a-e]@example\\.org", 1..4), 0..6,
        ),
        recipients in proptest::collection::vec("[a-f]@example\\.test", 1..5),
    ) {
        let aliases: Vec<String> =
            entries.iter().map(|(key, targets)| format!("{key} = '{}'", targets.join(", "))).collect();
        let rules = rules(&format!(
            "alias_recipients_max = 12\nalias_depth_max = 4\naliases = [{{ {} }}]
             routes = [{{ domain = \"example.test\", channel = \"local\" }}, {{ domain = \"*\", channel = \"smtp\" }}]",
            aliases.join(", ")
        ));
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let envelope = envelope(&recipients);
        let routed = rules.route(&envelope).expect("available");
        prop_assert!(!routed.is_empty());
        prop_assert_eq!(&routed, &rules.route(&envelope).expect("available"));
        let mut seen: Vec<String> = routed.iter().map(merge_key).collect();
        seen.sort();
        seen.dedup();
        prop_assert_eq!(seen.len(), routed.len(), "each once");
        // Every recipient is delivered or fails in its own name or that of what it led to.
        for recipient in &envelope.recipients {
            let is_there = routed.iter().any(|one| {
                one.address == recipient.address || one.original.as_ref() == Some(&recipient.address)
            });
            let is_merged = rules.resolve(&recipient.address, &mut Trace::silent()).expect("available").iter()
                .all(|one| routed.iter().any(|other| other.address == one.address));
            prop_assert!(is_there || is_merged);
        }
    }
}
