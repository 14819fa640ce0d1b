//! Settings that are right, and those that are not.

use super::*;

fn settings(text: &str) -> Settings {
    toml::from_str(text).expect("well-formed settings")
}

fn channels() -> Vec<String> {
    ["error", "local", "smtp", "webhook"].map(str::to_owned).to_vec()
}

fn check(text: &str, expected: &str) {
    let problem = settings(text).check(&channels()).expect_err(text);
    assert_eq!(problem.to_string(), expected, "{text}");
}

fn check_route(text: &str, expected: &str) {
    check(&format!("routes = [{{ {text} }}]"), expected);
}

const GOOD: &str = r#"
    aliases = ["file:/etc/grange/aliases", { info = "anna", all = ["anna", "berta@example.org"] }]
    routes = [
      { domain = "example.test", channel = "local", users = ["anna", "berta"] },
      { domain = "*.example.test", channel = "local", from = "clients", users = "file:/etc/passwd" },
      { address = "hook@example.org", channel = "webhook", from = "any" },
      { domain = "gone.test", reject = "this domain has moved" },
      { domain = "[192.0.2.1]", channel = "smtp", host = "[127.0.0.1]:2526" },
      { domain = "*", channel = "smtp", host = "mail.example.org:587" },
    ]
"#;

#[test]
fn takes_what_is_right() {
    let settings = settings(GOOD);
    assert_eq!(settings.check(&channels()), Ok(()));
    let json = serde_json::to_string(&settings).expect("settings become JSON");
    assert_eq!(serde_json::from_str::<Settings>(&json).expect("and come back"), settings);
    assert_eq!(Settings::default().check(&[]), Ok(()));
}

#[test]
fn no_more_recipients_than_the_scheduler_takes() {
    check(
        "message_recipients_max = 100001",
        "router.message_recipients_max: 100001; right would be a number from 1 to 100000",
    );
}

#[test]
fn says_what_is_wrong_with_a_route() {
    check_route(
        r#"domain = "*", channel = "smtp", from = "any""#,
        "router.routes[0].from: anyone could send to anywhere: an open relay; right would be \"clients\", or a route for each domain that is yours",
    );
    check_route(
        r#"domain = "*", channel = "local""#,
        "router.routes[0].from: anyone could send to anywhere: an open relay; right would be \"clients\", or a route for each domain that is yours",
    );
    check_route(
        r#"channel = "smtp""#,
        "router.routes[0]: matches nothing; right would be domain = \"example.test\" or domain = \"*\"",
    );
    check_route(
        r#"domain = "a.test", address = "b@a.test", channel = "smtp""#,
        "router.routes[0].address: a route has a domain or an address; right would be only one of them",
    );
    for domain in ["", "*.", "a..b", "*.*", "a b", "anna@a.test", ".a.test", "a.test."] {
        check_route(
            &format!("domain = \"{domain}\", channel = \"smtp\""),
            &format!(
                "router.routes[0].domain: \"{domain}\" is not a domain; right would be \"example.test\", \"*.example.test\" for those below it, or \"*\""
            ),
        );
    }
    check_route(
        r#"address = "anna", channel = "smtp""#,
        "router.routes[0].address: \"anna\" is not an address; right would be such as \"anna@example.test\"",
    );
    check_route(
        r#"domain = "a.test", channel = "smpt""#,
        "router.routes[0].channel: there is no channel \"smpt\"; right would be one of local, smtp, webhook, or a section [channel.smpt]",
    );
    check_route(
        r#"domain = "a.test", channel = "error""#,
        "router.routes[0].channel: channel error writes delivery reports and takes no mail; right would be reject = \"a text\" to refuse mail",
    );
    check_route(
        r#"domain = "a.test""#,
        "router.routes[0].channel: the route leads nowhere; right would be channel = \"smtp\", or reject = \"a text\"",
    );
    check_route(
        r#"domain = "a.test", channel = "smtp", reject = "no""#,
        "router.routes[0].reject: a route delivers or rejects; right would be channel or reject, not both",
    );
    for text in ["", "a\\r\\nb", "\\u0000", "é"] {
        check_route(
            &format!("domain = \"a.test\", reject = \"{text}\""),
            "router.routes[0].reject: not a text for a reply; right would be one line of up to 400 ASCII characters",
        );
    }
    check_route(
        r#"domain = "a.test", channel = "local", host = "b.test""#,
        "router.routes[0].host: there is no host to go to; right would be a route without host",
    );
    check_route(
        r#"domain = "a.test", channel = "smtp", host = "b.test:smtp""#,
        "router.routes[0].host: \"b.test:smtp\" does not name a host; right would be \"mail.example.org\", \"mail.example.org:587\" or \"[192.0.2.1]:25\"",
    );
    check_route(
        r#"domain = "a.test", channel = "local", users = "ldap:x""#,
        "router.routes[0].users: ldap:x does not name a table; right would be \"file:\" and an absolute path, or a map in the configuration",
    );
}

#[test]
fn says_what_is_wrong_elsewhere() {
    check(
        "aliases = [\"file:aliases\"]",
        "router.aliases[0]: file:aliases does not name a table; right would be \"file:\" and an absolute path, or a map in the configuration",
    );
    check(
        "aliases = [{ info = \"a b\" }]",
        "router.aliases[0]: inline table, key info: \"a b\" is neither an address nor a name: malformed local part; right would be names and addresses, separated by commas",
    );
    check(
        "recipient_delimiter = \"@\"",
        "router.recipient_delimiter: '@' cannot begin a detail; right would be characters of +-=_#., or nothing",
    );
    check("alias_depth_max = 0", "router.alias_depth_max: 0; right would be a number from 1 to 50");
    check(
        "enqueue_deadline = \"0s\"",
        "router.enqueue_deadline: no time at all; right would be such as \"5s\"",
    );
}

#[test]
fn notices_what_is_hardly_meant() {
    let told = |settings: Settings| -> Vec<String> {
        settings.notices().iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        told(settings(
            r#"routes = [
              { domain = "example.test", channel = "local" },
              { domain = "Example.test", channel = "smtp" },
              { domain = "*.example.org", channel = "smtp", from = "any" },
              { domain = "*", channel = "smtp" },
              { domain = "late.test", channel = "smtp" },
            ]"#
        )),
        [
            "router.routes[0]: every address of example.test is taken; name them in users",
            "router.routes[1]: Example.test is never reached: routes[0] is for the same",
            "router.routes[2]: anyone may send to every domain of *.example.org",
            "router.routes[4]: late.test is never reached: routes[3] takes every domain",
        ]
    );
    assert_eq!(told(Settings::default()), ["router.routes: is empty: no mail can be delivered"]);
    let relay = settings("routes = [{ domain = \"*\", channel = \"smtp\" }]");
    assert_eq!(relay.notices().len(), 1, "{:?}", relay.notices());
}
