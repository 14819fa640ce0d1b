//! What `check` says, and how the section is read.

use super::*;

fn check(change: impl FnOnce(&mut Settings)) -> Option<String> {
    let mut settings = Settings::default();
    change(&mut settings);
    settings.check().err().map(|problem| problem.to_string())
}

#[test]
fn the_defaults_are_right() {
    assert_eq!(check(|_| {}), None);
    assert_eq!(Settings::default().relay_from.len(), 2);
}

#[test]
fn what_is_wrong_is_said_with_what_would_be_right() {
    let listen =
        |address: &str, service| Listen { address: address.parse().expect("address"), service };
    for (found, expect) in [
        (
            check(|s| s.listen.clear()),
            "smtpserver.listen: no address to listen on; right would be [{ address = \"127.0.0.1:2525\", service = \"mx\" }]",
        ),
        (
            check(|s| s.listen = vec![listen("127.0.0.1:0", Service::Mx)]),
            "smtpserver.listen[0].address: 127.0.0.1:0 has no port; right would be a port from 1 to 65535",
        ),
        (
            check(|s| {
                s.listen = vec![listen("[::]:25", Service::Mx), listen("[::]:25", Service::Mx)]
            }),
            "smtpserver.listen[1].address: [::]:25 is listed twice; right would be each address once",
        ),
        (
            check(|s| {
                s.listen =
                    vec![listen("127.0.0.1:25", Service::Mx), listen("0.0.0.0:25", Service::Mx)]
            }),
            "smtpserver.listen[1].address: 0.0.0.0:25 and 127.0.0.1:25 cannot both be listened on; right would be each address once",
        ),
        (
            check(|s| s.listen = vec![listen("[::]:587", Service::Submission)]),
            "smtpserver.listen[0].service: submission is not offered yet; right would be \"mx\"",
        ),
        (
            check(|s| s.relay_from = vec!["0.0.0.0/0".parse().expect("network")]),
            "smtpserver.relay_from[0]: 0.0.0.0/0 lets every client relay to anywhere; right would be the networks of your own clients",
        ),
        (
            check(|s| s.relay_from = vec!["10.1.2.3/8".parse().expect("network")]),
            "smtpserver.relay_from[0]: 10.1.2.3/8 has bits set behind its prefix; right would be \"10.0.0.0/8\"",
        ),
        (
            check(|s| s.message_bytes_max = ByteSize(0)),
            "smtpserver.message_bytes_max: 0; right would be 65536 to 1099511627776",
        ),
        (
            check(|s| s.recipients_max = 0),
            "smtpserver.recipients_max: 0; right would be 1 to 100000",
        ),
        (
            check(|s| s.line_bytes_max = 80),
            "smtpserver.line_bytes_max: 80; right would be 998 to 1099511627776",
        ),
        (
            check(|s| s.command_timeout = Span::seconds(0)),
            "smtpserver.command_timeout: 0s is no time at all; right would be a length of time, as in \"5m\"",
        ),
        (
            check(|s| s.message_timeout = Span::seconds(60)),
            "smtpserver.message_timeout: 1m is less than data_timeout = 3m; right would be at least data_timeout",
        ),
        (
            check(|s| s.banner = "a\r\nb".to_owned()),
            "smtpserver.banner: \"a\\r\\nb\" cannot be said in one line of a reply; right would be up to 200 printable ASCII characters, as in \"ESMTP Grange\"",
        ),
        (
            check(|s| s.workers.max = 0),
            "smtpserver.workers.max: 0 workers; right would be a number from 1 to 256",
        ),
    ] {
        assert_eq!(found.as_deref(), Some(expect));
    }
}

#[test]
fn the_section_of_the_design_is_understood() {
    let text = r#"
        [smtpserver]
        listen = [{ address = "127.0.0.1:2525", service = "mx" }]
        relay_from = ["127.0.0.0/8", "::1/128"]
        message_bytes_max = 52428800
        workers = { start = 2, max = 2, spare_min = 0, spare_max = 2, jobs_max = 1000000, concurrency = 10000 }
    "#;
    let file = config::File::parse(std::path::Path::new("grange.toml"), text.to_owned());
    let settings: Settings =
        file.expect("the file is well-formed").section("smtpserver").expect("the section is right");
    assert_eq!(settings.check(), Ok(()));
    assert_eq!(settings.listeners().len(), 1);
    assert_eq!(settings.workers.concurrency, 10_000);
}

#[test]
fn settings_travel_to_workers() {
    let settings = Settings { bare_newline: Some(BareNewline::Reject), ..Settings::default() };
    let text = serde_json::to_string(&settings).expect("settings become JSON");
    assert_eq!(serde_json::from_str::<Settings>(&text).expect("and come back"), settings);
}

#[test]
fn a_table_of_workers_leaves_the_rest_at_this_stage_s_defaults() {
    let settings: Settings = serde_json::from_str("{\"workers\": {\"max\": 4}}").expect("settings");
    assert_eq!(settings.workers, Workers { max: 4, concurrency: 10_000, ..Workers::default() });
}

#[test]
fn a_service_is_refused_with_those_that_are_offered() {
    let text = "{\"listen\": [{\"address\": \"[::]:25\", \"service\": \"smtp\"}]}";
    let refused = serde_json::from_str::<Settings>(text).unwrap_err().to_string();
    assert!(refused.starts_with("there is no service \"smtp\"; \"mx\""), "{refused}");
}
