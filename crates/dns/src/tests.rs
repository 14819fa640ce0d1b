//! Look-ups at a name server on loopback.

use std::collections::HashSet;

use config::Span;
use proptest::prelude::*;

use super::*;

pub(crate) mod server;
use server::{A, AAAA, MX, Say, Server};

const HOSTNAME: &str = "mta.example.test";

fn settings(server: &Server) -> Settings {
    Settings {
        nameservers: vec![server.address],
        timeout: Span::millis(100),
        attempts: 1,
        ..Settings::default()
    }
}

struct Ask {
    settings: Settings,
    ip_version: IpVersion,
    seed: u64,
}

impl Ask {
    fn of(server: &Server) -> Self {
        Self { settings: settings(server), ip_version: IpVersion::default(), seed: 1 }
    }

    /// The targets as `host address:port`, or the status and whether it is permanent.
    fn targets(&self, destination: &str) -> Result<Vec<String>, String> {
        let resolver = Resolver::new(self.settings.clone());
        let destination = destination.parse().unwrap();
        let request = Request {
            destination: &destination,
            port: 25,
            ip_version: self.ip_version,
            hostname: HOSTNAME,
        };
        let mut state = self.seed;
        let mut chance = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default())
            .unwrap();
        let found = runtime.block_on(resolver.targets(&request, &mut chance));
        found
            .map(|targets| {
                targets.iter().map(|target| format!("{} {}", target.host, target.address)).collect()
            })
            .map_err(|error| error.status().to_string())
    }
}

fn check(server: &Server, destination: &str, expected: Result<&[&str], &str>) {
    let found = Ask::of(server).targets(destination);
    let found = found.as_deref().map_err(String::as_str);
    let expected =
        expected.map(|targets| targets.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    assert_eq!(found, expected.as_deref().map_err(|error| *error), "{destination}");
}

#[test]
fn destinations_are_read_and_written() {
    for (text, written) in [
        ("example.org", "example.org"),
        ("example.org.", "example.org"),
        ("bücher.example", "bücher.example"),
        ("[mail.example.org]", "[mail.example.org]"),
        ("[mail.example.org]:587", "[mail.example.org]:587"),
        ("mail.example.org:587", "[mail.example.org]:587"),
        ("[127.0.0.1]:2526", "[127.0.0.1]:2526"),
        ("[198.51.100.1]", "[198.51.100.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("[ipv6:2001:db8::1]:24", "[IPv6:2001:db8::1]:24"),
        ("[::1]:24", "[IPv6:::1]:24"),
    ] {
        let destination: Destination = text.parse().unwrap();
        assert_eq!(destination.to_string(), written);
        assert_eq!(destination.to_string().parse(), Ok(destination));
    }
    for text in [
        "",
        ".",
        "a..b",
        "[]",
        "[a",
        "[a]b",
        "[a]:",
        "[a]:0",
        "[a]:65536",
        "[a]:+25",
        "a:b",
        "a b",
        "[a b]",
        "[IPv6:zz]",
        "a\n",
        "a\0",
        "[a\r\n]",
        "a@b",
        "a/b",
        "::1",
        "[[::1]]",
    ] {
        assert_eq!(text.parse::<Destination>(), Err(DestinationError), "{text:?}");
    }
}

#[test]
fn mx_hosts_come_by_preference() {
    let server = Server::start();
    server
        .mx(
            "example.org",
            &[(20, "b.example.org"), (10, "a.example.org"), (30, "gone.example.org")],
        )
        .host("a.example.org", &["198.51.100.1", "2001:db8::1"])
        .host("b.example.org", &["198.51.100.2"]);
    let all = [
        "a.example.org 198.51.100.1:25",
        "a.example.org [2001:db8::1]:25",
        "b.example.org 198.51.100.2:25",
    ];
    check(&server, "example.org", Ok(&all));
    check(&server, "EXAMPLE.org", Ok(&all));
    // A host in brackets is asked for no MX, and a port in brackets holds.
    server.host("example.org", &["198.51.100.9"]);
    check(&server, "[example.org]:587", Ok(&["example.org 198.51.100.9:587"]));
    for (ip_version, expected) in [
        (IpVersion::Ipv4, &["198.51.100.1:25", "198.51.100.2:25"][..]),
        (IpVersion::Ipv6, &["[2001:db8::1]:25"]),
        (IpVersion::PreferIpv6, &["[2001:db8::1]:25", "198.51.100.1:25", "198.51.100.2:25"]),
    ] {
        let found = Ask { ip_version, ..Ask::of(&server) }.targets("example.org").unwrap();
        let found: Vec<&str> = found.iter().filter_map(|text| text.split(' ').nth(1)).collect();
        assert_eq!(found, expected, "{ip_version:?}");
    }
}

#[test]
fn without_mx_the_domain_is_the_host() {
    let server = Server::start();
    server.host("example.org", &["198.51.100.9"]).host("empty.example.org", &[]);
    server.say("alias.example.org", MX, Say::Cname("example.org".to_owned()));
    server.say("alias.example.org", A, Say::Cname("example.org".to_owned()));
    server.say("alias.example.org", AAAA, Say::Cname("example.org".to_owned()));
    check(&server, "example.org", Ok(&["example.org 198.51.100.9:25"]));
    check(&server, "alias.example.org", Ok(&["alias.example.org 198.51.100.9:25"]));
    check(&server, "empty.example.org", Err("5.1.2"));
    // A name in UTF-8 is asked for by its A-label.
    server.host("xn--bcher-kva.example", &["198.51.100.8"]);
    check(&server, "bücher.example", Ok(&["bücher.example 198.51.100.8:25"]));
    check(&server, "nowhere.example.org", Err("5.1.2"));
    check(&server, "[198.51.100.3]", Ok(&["[198.51.100.3] 198.51.100.3:25"]));
    // What our own configuration names is not the sender's mistake.
    check(&server, "[nowhere.example.org]", Err("4.4.4"));
}

#[test]
fn equals_are_shuffled() {
    let server = Server::start();
    server.mx("example.org", &[(10, "a.example.org"), (10, "b.example.org"), (5, "c.example.org")]);
    for (host, address) in [
        ("a.example.org", "198.51.100.1"),
        ("b.example.org", "198.51.100.2"),
        ("c.example.org", "198.51.100.3"),
    ] {
        server.host(host, &[address]);
    }
    let orders: HashSet<Vec<String>> = (0..20)
        .map(|seed| Ask { seed, ..Ask::of(&server) }.targets("example.org").unwrap())
        .collect();
    assert_eq!(orders.len(), 2);
    assert!(orders.iter().all(|order| order[0].starts_with("c.")));
}

#[test]
fn a28_null_mx_and_servers_that_fail() {
    let server = Server::start();
    server.mx("null.example.org", &[(0, "")]).host("null.example.org", &["198.51.100.1"]);
    server.say("broken.example.org", MX, Say::ServFail);
    server.say("silent.example.org", MX, Say::Nothing);
    server.say("short.example.org", MX, Say::Raw(vec![0]));
    server.say("loop.example.org", MX, Say::Cname("loop.example.org".to_owned()));
    server.mx("half.example.org", &[(1, "broken.example.org"), (2, "good.example.org")]);
    server.say("broken.example.org", A, Say::ServFail).say(
        "broken.example.org",
        AAAA,
        Say::ServFail,
    );
    server.host("good.example.org", &["198.51.100.7"]);
    server.mx("bad.example.org", &[(1, "broken.example.org")]);
    check(&server, "null.example.org", Err("5.1.10"));
    for domain in ["broken", "silent", "short", "bad"] {
        check(&server, &format!("{domain}.example.org"), Err("4.4.3"));
    }
    assert!(Ask::of(&server).targets("loop.example.org").is_err());
    check(&server, "half.example.org", Ok(&["good.example.org 198.51.100.7:25"]));
    let nobody =
        Settings { nameservers: vec!["127.0.0.1:1".parse().unwrap()], ..settings(&server) };
    let found = Ask { settings: nobody, ..Ask::of(&server) }.targets("example.org");
    assert_eq!(found, Err("4.4.3".to_owned()));
}

#[test]
fn a28_mx_that_leads_to_ourselves_or_nowhere() {
    let server = Server::start();
    server.host(HOSTNAME, &["198.51.100.5"]);
    server
        .host("localhost.example.org", &["127.0.0.1"])
        .host("zero.example.org", &["0.0.0.0", "::"]);
    server
        .host("better.example.org", &["198.51.100.6"])
        .host("worse.example.org", &["198.51.100.7"]);
    server.mx("us.example.org", &[(10, HOSTNAME), (20, "worse.example.org")]);
    server.mx("equal.example.org", &[(10, HOSTNAME), (10, "worse.example.org")]);
    server.mx(
        "backup.example.org",
        &[(5, "better.example.org"), (10, HOSTNAME), (20, "worse.example.org")],
    );
    server.mx("loopback.example.org", &[(10, "localhost.example.org"), (20, "worse.example.org")]);
    server.mx(
        "behind.example.org",
        &[(5, "better.example.org"), (10, "localhost.example.org"), (20, "worse.example.org")],
    );
    server.mx("zero.example.org", &[(10, "zero.example.org")]);
    server.mx("mixed.example.org", &[(10, "zero.example.org"), (20, "worse.example.org")]);
    for domain in ["us", "equal", "loopback"] {
        check(&server, &format!("{domain}.example.org"), Err("5.4.6"));
    }
    for domain in ["backup", "behind"] {
        check(
            &server,
            &format!("{domain}.example.org"),
            Ok(&["better.example.org 198.51.100.6:25"]),
        );
    }
    check(&server, "zero.example.org", Err("5.4.4"));
    check(&server, "mixed.example.org", Ok(&["worse.example.org 198.51.100.7:25"]));
    // Any address of this host is ourselves, if it has another than loopback.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("198.51.100.9:9").is_ok() {
        let own = socket.local_addr().unwrap().ip().to_string();
        server
            .host("own.example.org", &[&own])
            .mx("ourselves.example.org", &[(1, "own.example.org")]);
        check(&server, "ourselves.example.org", Err("5.4.6"));
    }
    // A laboratory may say that loopback is not ourselves.
    let laboratory = Settings { loopback_mx: true, ..settings(&server) };
    let found = Ask { settings: laboratory, ..Ask::of(&server) }.targets("loopback.example.org");
    assert_eq!(found.unwrap()[0], "localhost.example.org 127.0.0.1:25");
}

#[test]
fn a28_thousands_of_hosts_cost_a_few_questions() {
    let server = Server::start();
    let hosts: Vec<(u16, String)> =
        (0..2000).map(|number| (number, format!("h{number}.test"))).collect();
    server.say("many.example.org", MX, Say::Mx(hosts));
    let addresses: Vec<String> =
        (0..1000).map(|number| format!("198.18.{}.{}", number / 250, number % 250 + 1)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    server.mx("wide.example.org", &[(1, "wide.test")]).host("wide.test", &addresses);
    // None of the hosts exists: the search ends at the limit.
    check(&server, "many.example.org", Err("5.4.4"));
    // The first is cut off over UDP, where it is tried twice, and asked over TCP.
    assert!(server.questions() <= 3 + 2 * 100, "{}", server.questions());
    assert_eq!(Ask::of(&server).targets("wide.example.org").map(|targets| targets.len()), Ok(10));
}

#[test]
fn a28_hosts_whose_name_servers_fail_are_not_asked_for_without_end() {
    let server = Server::start();
    let hosts: Vec<(u16, String)> =
        (0..100).map(|number| (number, format!("h{number}.test"))).collect();
    for (_, host) in &hosts {
        server.say(host, A, Say::ServFail).say(host, AAAA, Say::ServFail);
    }
    server.host("h5.test", &["198.51.100.5"]);
    server.say("all.example.org", MX, Say::Mx(hosts.clone()));
    check(&server, "all.example.org", Ok(&["h5.test 198.51.100.5:25"]));
    server.say("none.example.org", MX, Say::Mx(hosts[6..].to_vec()));
    let before = server.questions();
    check(&server, "none.example.org", Err("4.4.3"));
    // Two families of ten hosts, each perhaps asked again over UDP and TCP.
    let asked = server.questions() - before;
    assert!(asked <= 1 + 2 * 10 * 4, "{asked}");
}

#[test]
fn answers_are_cached() {
    let server = Server::start();
    server
        .mx("example.org", &[(1, "a.example.org")])
        .host("a.example.org", &["198.51.100.1", "2001:db8::1"]);
    let resolver = Resolver::new(settings(&server));
    let destination = "example.org".parse().unwrap();
    let request = Request {
        destination: &destination,
        port: 25,
        ip_version: IpVersion::default(),
        hostname: HOSTNAME,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap();
    runtime.block_on(async {
        for _ in 0..10 {
            assert_eq!(
                resolver.targets(&request, &mut || 0).await.map(|targets| targets.len()),
                Ok(2)
            );
        }
    });
    assert_eq!(server.questions(), 3);
}

#[test]
fn settings_are_checked() {
    assert_eq!(Settings::default().check(), Ok(()));
    for (key, settings) in [
        ("dns.timeout", Settings { timeout: Span::seconds(0), ..Settings::default() }),
        ("dns.attempts", Settings { attempts: 11, ..Settings::default() }),
        ("dns.mx_hosts_max", Settings { mx_hosts_max: 0, ..Settings::default() }),
        ("dns.addresses_max", Settings { addresses_max: 0, ..Settings::default() }),
        (
            "dns.nameservers[1]",
            Settings {
                nameservers: vec!["[::1]:53".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
                ..Settings::default()
            },
        ),
    ] {
        assert_eq!(settings.check().map_err(|problem| problem.key), Err(key.to_owned()));
    }
}

proptest! {
    #[test]
    fn any_text_is_a_destination_or_not(text in "[\\[\\]:.a0-9@ -]{0,20}|\\PC{0,20}") {
        if let Ok(destination) = text.parse::<Destination>() {
            prop_assert_eq!(destination.to_string().parse(), Ok(destination));
        }
    }
}
