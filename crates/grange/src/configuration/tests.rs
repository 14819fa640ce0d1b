use super::*;

/// A configuration in which nothing is wrong, before what a case adds.
const GOOD: &str = "hostname = \"mta.example.test\"\n\
    router.routes = [{ domain = \"example.test\", channel = \"local\", users = [\"anna\"] }]\n";

fn load(text: &str) -> Result<Configuration, String> {
    let file = File::parse(Path::new("x.toml"), text.to_owned());
    file.and_then(|file| Configuration::from_file(&file)).map_err(|error| error.to_string())
}

#[test]
fn what_no_section_can_say_alone_is_refused() {
    let long = format!("run_dir = \"/{}\"\n", "x".repeat(90));
    let cases = [
        (
            "[channel.error]\nagent = \"local\"",
            "x.toml:4: channel.error.agent: channel error writes",
        ),
        (
            "[channel.error]\nagent = \"smtp\"",
            "x.toml:4: channel.error.agent: channel error writes",
        ),
        ("[channel.smtp]\nagent = 5", "x.toml:4: channel.smtp.agent: is an integer"),
        (
            "[channel.a]\nsocket = \"router.route\"",
            "channel.a.socket: \"router.route\" is a name of",
        ),
        ("[channel.a]\nsocket = \"scheduler.x\"", "channel.a.socket: \"scheduler.x\" is a name of"),
        ("[channel.a]\nsocket = \"a.admin\"", "channel.a.socket: \"a.admin\" is kept"),
        ("[channel.a]\nsocket = \"admin\"", "channel.a.socket: \"admin\" is kept"),
        ("[channel.a]\nsocket = \"a/b\"", "channel.a.socket: \"a/b\" is not the name"),
        (
            "[channel.a]\nsocket = \"smtp.deliver\"",
            "channel.a.socket: \"smtp.deliver\" is the socket of channel smtp",
        ),
        (
            "[channel.a]\nsocket = \"x\"\n[channel.b]\nsocket = \"x\"",
            "x.toml:4: channel.a.socket: \"x\" is the socket of channel b",
        ),
        (
            "smtpserver.listen = [{ address = \"0.0.0.0:2525\" }]\nmetrics.listen = \"127.0.0.1:2525\"",
            "x.toml:4: metrics.listen: 127.0.0.1:2525 and 0.0.0.0:2525 of smtpserver.listen cannot",
        ),
        (long.as_str(), "x.toml:3: run_dir: is too long"),
        (
            "[channel.smtp]\nport = 70000",
            "x.toml:4: channel.smtp.port: invalid value: integer `70000`",
        ),
        ("router.postmaster = \"nobody\"", "\"nobody\" is not an address (domain is missing)"),
        ("smtpserver.workers = 4", "right would be a table, as in { start"),
        ("smtpserver.listen = [\"[::]:25\"]", "right would be a table, as in { address"),
        ("router.aliases = [5]", "right would be \"file:/path\", a list of names"),
    ];
    for (added, expected) in cases {
        let refused = load(&format!("{GOOD}{added}\n"));
        let told = refused.err().unwrap_or_else(|| panic!("{added} was taken"));
        assert!(told.contains(expected), "{added}: {told}");
        assert!(!told.contains("as docs/configuration.md says"), "{added}: {told}");
    }
}

#[test]
fn what_differs_is_taken() {
    for added in [
        "[channel.a]\nsocket = \"a.deliver\"\n[channel.b]\nsocket = \"b.deliver\"",
        "[channel.error]\nsocket = \"error.deliver\"",
        "smtpserver.listen = [{ address = \"0.0.0.0:25\" }, { address = \"[::]:25\" }]",
        "smtpserver.listen = [{ address = \"127.0.0.1:25\" }]\nmetrics.listen = \"127.0.0.2:25\"",
    ] {
        let taken = load(&format!("{GOOD}{added}\n")).map(|configuration| configuration.notices);
        assert_eq!(taken, Ok(Vec::new()), "{added}");
    }
}

#[test]
fn a_partial_table_of_workers_keeps_each_stages_defaults() {
    let text =
        format!("{GOOD}smtpserver.workers = {{ max = 4 }}\nscheduler.workers = {{ max = 4 }}\n");
    let configuration = load(&text).unwrap();
    for (workers, of) in [
        (&configuration.smtpserver.workers, smtpserver::Settings::default().workers),
        (&configuration.scheduler.workers, scheduler::Settings::default().workers),
    ] {
        assert_eq!(*workers, farm::Workers { max: 4, ..of });
    }
}

#[test]
fn a_host_name_has_labels_of_letters_digits_and_hyphens() {
    for (name, right) in [
        ("mta.example.test", true),
        ("a", true),
        ("m-1.x", true),
        ("mta_1", false),
        ("", false),
        ("mta.", false),
        ("-a.b", false),
        ("[192.0.2.1]", false),
        ("mta example", false),
    ] {
        assert_eq!(across::is_host_name(name), right, "{name}");
    }
}

#[test]
fn what_is_hardly_meant_is_noted_with_its_place() {
    for (added, expected) in [
        ("scheduler.expire = \"1h\"", "x.toml:3: scheduler.expire: 1h is not after"),
        (
            "[channel.local]\nmailbox = \"/var/mail/all/\"",
            "x.toml:4: channel.local.mailbox: has no",
        ),
        ("[channel.local]\nagent = \"smtp\"", "x.toml:4: channel.local.agent: is \"smtp\""),
    ] {
        let notices = load(&format!("{GOOD}{added}\n")).unwrap().notices;
        assert_eq!(notices.len(), 1, "{added}: {notices:?}");
        assert!(notices.iter().all(|notice| notice.starts_with(expected)), "{added}: {notices:?}");
    }
    assert_eq!(load(GOOD).unwrap().notices, Vec::<String>::new());
}

#[test]
fn the_examples_are_right_and_describe_one_cluster() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/three-hosts");
    let load = |host: &str| {
        let loaded = Configuration::load(&folder.join(format!("{host}.toml")));
        loaded.unwrap_or_else(|error| panic!("{host}: {error}"))
    };
    let hosts = ["mx1", "q1", "q2"].map(load);
    for host in &hosts {
        assert_eq!((&host.cluster, &host.queue), (&hosts[0].cluster, &hosts[0].queue));
        assert!(host.notices.is_empty(), "{:?}", host.notices);
    }
    assert_eq!(crate::farms::names(&hosts[0]), ["smtpserver", "status"]);
    assert!(crate::farms::names(&hosts[2]).contains(&"scheduler".to_owned()));
}
