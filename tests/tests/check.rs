//! Broken configurations: `grange check` names file, line and key, and says what would be right.

use tests::Site;

/// What is replaced by what, which line then is named, which key, and a word of what would be right.
struct Broken {
    from: &'static str,
    to: &'static str,
    key: &'static str,
    right: &'static str,
}

const BROKEN: &[Broken] = &[
    Broken {
        from: "hostname = \"mta.example.test\"",
        to: "hostnam = \"mta.example.test\"",
        key: "hostnam",
        right: "hostname",
    },
    Broken {
        from: "hostname = \"mta.example.test\"",
        to: "hostname = \"mta example\"",
        key: "hostname",
        right: "letters, digits",
    },
    Broken {
        from: "expire = \"5d\"",
        to: "expire = \"5 fortnights\"",
        key: "scheduler.expire",
        right: "d or w",
    },
    Broken {
        from: "retry = [\"1s\", \"2s\"]",
        to: "retries = [\"1s\"]",
        key: "scheduler.retries",
        right: "retry",
    },
    Broken {
        from: "message_bytes_max = 52428800",
        to: "message_bytes_max = \"plenty\"",
        key: "smtpserver.message_bytes_max",
        right: "50MiB",
    },
    Broken {
        from: "start = 2, max = 2",
        to: "start = 3, max = 2",
        key: "smtpserver.workers.start",
        right: "1 to max",
    },
    Broken {
        from: "\"::1/128\"]",
        to: "\"::1/129\"]",
        key: "smtpserver.relay_from",
        right: "192.0.2.0/24",
    },
    Broken {
        from: "{ domain = \"example.test\", channel = \"local\" }",
        to: "{ domain = \"example.test\", channel = \"locl\" }",
        key: "router.routes[0].channel",
        right: "local",
    },
    Broken {
        from: "{ domain = \"*\",            channel",
        to: "{ domain = \"*\", from = \"any\", channel",
        key: "router.routes[1].from",
        right: "clients",
    },
    Broken {
        from: "agent = \"smtp\"",
        to: "agent = \"smpt\"",
        key: "channel.smtp.agent",
        right: "smtp",
    },
    Broken {
        from: "store = \"spool\"",
        to: "store = \"spol\"",
        key: "queue.store",
        right: "spool",
    },
    Broken { from: "[scheduler]", to: "[schedular]", key: "schedular", right: "scheduler" },
    Broken { from: "filters = []", to: "filters = [", key: "", right: "`,`" },
    Broken {
        from: "agent = \"local\"",
        to: "agent = \"local\"\nhost = 1",
        key: "channel.local.host",
        right: "`mailbox`",
    },
    Broken {
        from: "expire = \"5d\"",
        to: "expire = 5",
        key: "scheduler.expire",
        right: "with its unit, in quotes",
    },
    Broken {
        from: "aliases = []",
        to: "aliases = [5]",
        key: "router.aliases[0]",
        right: "a list of names",
    },
    Broken {
        from: "service = \"mx\"",
        to: "service = \"smtp\"",
        key: "smtpserver.listen[0].service",
        right: "\"mx\"",
    },
    Broken {
        from: "[channel.smtp]",
        to: "[log]\nto = \"/nonexistent/grange.log\"\n[channel.smtp]",
        key: "log.to",
        right: "a directory that exists",
    },
];

#[test]
fn each_is_named_with_its_place_and_what_would_be_right() {
    for broken in BROKEN {
        let site = Site::new().replace(broken.from, broken.to);
        // Where lines are added, the wrong one is the last but for the heading that follows.
        let mut lines = broken.to.lines().rev().filter(|line| !line.starts_with("[channel"));
        let wrong = lines.next().unwrap_or(broken.to);
        let line = site.text().lines().position(|line| line.contains(wrong)).expect("the line") + 1;
        let output = site.run(&["check"]);
        let told = String::from_utf8_lossy(&output.stderr);
        let case = broken.to;
        assert_eq!(output.status.code(), Some(78), "{case}: {told}");
        // An unclosed list is noticed only where something else follows.
        if !broken.key.is_empty() {
            let place = format!("{}:{line}: ", site.config().display());
            assert!(told.contains(&place), "{case}: {place} is not in {told}");
        } else {
            assert!(told.contains(&format!("{}:", site.config().display())), "{case}: {told}");
        }
        assert!(told.contains(broken.key), "{case}: {} is not in {told}", broken.key);
        assert!(broken.key.is_empty() || told.contains("right would be"), "{case}: {told}");
        assert!(told.contains(broken.right), "{case}: {} is not in {told}", broken.right);
    }
}

#[test]
fn a_good_one_is_good() {
    let site = Site::new();
    site.ok(&["check"]);
    let minimal = Site::new();
    std::fs::write(
        minimal.config(),
        "hostname = \"mta.example.test\"\nuser = \"nobody\"\nsmtpserver = { listen = [{ address = \"127.0.0.1:2525\" }] }\n\
         router = { routes = [{ domain = \"example.test\", channel = \"local\" }, { domain = \"*\", channel = \"smtp\" }] }\n",
    )
    .expect("written");
    minimal.ok(&["check"]);
}

#[test]
fn what_run_would_refuse_is_refused_with_its_place() {
    if !tests::is_root() {
        return; // Only root becomes somebody else.
    }
    let user = "user     = \"nobody\"";
    for (to, key) in [
        ("user = \"root\"", "user"),
        ("user = \"no-such-user\"", "user"),
        ("user = \"nobody\"\ngroup = \"no-such-group\"", "group"),
        ("user = \"nobody\"\nadmin_group = \"no-such-group\"", "admin_group"),
        ("", "user"),
    ] {
        let site = Site::new().replace(user, to);
        for command in [&["check"][..], &["run"], &["farm", "router"]] {
            let output = site.run(command);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{to} {command:?}: {told}");
            let line = site.text().lines().position(|line| line.starts_with(key));
            let place =
                format!("{}:{}: {key}: ", site.config().display(), line.map_or(1, |line| line + 1));
            assert!(told.contains(&place), "{to} {command:?}: {place} is not in {told}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let site = Site::new();
    for arguments in [&["check"][..], &["check", "--print"], &["route", "bob@example.test"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = site.command(arguments);
        command.stdout(writer).stderr(std::process::Stdio::piped());
        let output = command.spawn().and_then(|child| child.wait_with_output()).expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), told.as_ref()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_place_without_a_queue_is_said_to_be_so() {
    let site = Site::new();
    for arguments in [&["spool", "check"][..], &["queue", "list"]] {
        let output = site.run(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(66), "{arguments:?}: {told}");
        assert!(told.contains("no queue in"), "{arguments:?}: {told}");
    }
}

#[test]
fn a_missing_file_and_a_directory_are_said_to_be_so() {
    let site = Site::new();
    for name in ["none.toml", "."] {
        let mut command = std::process::Command::new(tests::program());
        let output = tests::run(command.arg("check").arg("--config").arg(site.path(name)));
        assert_eq!(output.status.code(), Some(78), "{name}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("cannot read"), "{told}");
    }
}
