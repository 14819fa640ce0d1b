//! What an operator does with the program: reload, look, measure, explain, run farms one by one.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rustix::process::Signal;
use tests::{Client, Sink, Site, burst, free_port, until};

#[test]
fn a_reload_changes_settings_and_loses_no_session() {
    let site = Site::new();
    let grange = site.start();
    let mut old = Client::ready(site.smtp.number);
    let text = site.text().replace(
        "message_bytes_max = 52428800",
        "message_bytes_max = 100000\nbanner = \"ESMTP Second\"",
    );
    std::fs::write(site.config(), text).expect("written");
    grange.signal(grange.pid(), Signal::HUP);
    until("the new settings hold", || {
        let mut client = Client::open(site.smtp.number).ok()?;
        let greeting = client.reply().ok()?;
        greeting.text().contains("Second").then_some(())
    });
    let reply = old
        .message("alice@example.test", &["bob@example.test"], "Subject: x\r\n\r\n")
        .expect("a reply");
    assert_eq!(reply.code, 250, "the old session goes on: {reply:?}");
    until("it is delivered", || site.mailbox("example.test", "bob").pop());

    // A broken configuration changes nothing.
    std::fs::write(site.config(), "hostname = 7\n").expect("written");
    grange.signal(grange.pid(), Signal::HUP);
    until("it is said so", || site.log().contains("not reloaded").then_some(()));
    std::fs::write(site.config(), site.text()).expect("written");
    Client::ready(site.smtp.number).expect("QUIT", 221);
    assert!(grange.stop().success());
}

#[test]
fn reloads_under_load_lose_nothing() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let port = site.smtp.number;
    let sending = std::thread::spawn(move || burst(port, 1500, 10, "recipient@sink.example"));
    for part in 1..=3 {
        sink.wait(part * 300);
        grange.signal(grange.pid(), Signal::HUP);
    }
    let sent = sending.join().expect("the load goes through");
    site.wait_empty();
    let tokens = sink.tokens();
    assert!(sent.accepted.iter().all(|token| tokens.contains_key(token)), "all arrive");
    assert!(grange.stop().success());
}

#[test]
fn a_next_hop_that_says_nothing_holds_no_stop_up() {
    let site = Site::new();
    // Connections are made, and nobody ever accepts them.
    let _silent = TcpListener::bind((Ipv4Addr::LOCALHOST, site.sink.number)).expect("our port");
    let grange = site.start();
    let sent = burst(site.smtp.number, 3, 1, "user@next.example");
    assert_eq!(sent.accepted.len(), 3);
    until("agents wait for a greeting", || {
        (grange.farm("smtp")["workers"][0]["jobs"].as_u64() > Some(0)).then_some(())
    });
    assert!(grange.stop().success());
    let log = site.log();
    assert!(!log.contains("did not drain"), "{log}");
    // Nothing was tried, nothing is lost.
    let _grange = site.start_only(&["scheduler"]);
    let counts: Vec<_> = site.queued().iter().map(|one| one["recipients"][0].clone()).collect();
    assert_eq!(counts.len(), 3);
    assert!(counts.iter().all(|one| one["state"]["open"]["count"] == 0), "{counts:?}");
}

#[test]
fn an_alias_table_that_is_broken_is_refused_before_anyone_needs_it() {
    let site = Site::new();
    let aliases = site.path("aliases");
    let site = site.replace("aliases = []", &format!("aliases = [\"file:{}\"]", aliases.display()));
    std::fs::write(&aliases, "info: bob@example.test\n").expect("written");
    let grange = site.start();
    std::fs::write(&aliases, "info: bob@example.test\nbad: a@b@c\n").expect("written");
    let checked = site.run(&["check"]);
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(78), "{told}");
    assert!(told.contains("aliases:2") && told.contains("router.aliases[0]"), "{told}");
    grange.signal(grange.pid(), Signal::HUP);
    until("it is not taken", || site.log().contains("not reloaded").then_some(()));
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["info@example.test"], "Subject: x\r\n\r\n")
        .expect("a reply");
    assert_eq!(reply.code, 250, "what the table held before stays: {reply:?}");
    until("it is delivered", || site.mailbox("example.test", "bob").pop());
    assert!(grange.stop().success());
}

#[test]
fn a_second_instance_of_a_farm_is_refused() {
    let site = Site::new();
    let grange = site.start();
    let second = site.run(&["run", "--only", "local"]);
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(74), "{told}");
    assert!(told.contains("local runs already"), "{told}");
    assert!(grange.stop().success());
}

#[test]
fn metrics_are_prometheus_text() {
    let port = free_port();
    let site =
        Site::new().append(&format!("\n[metrics]\nlisten = \"127.0.0.1:{}\"\n", port.number));
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@example.test"], "Subject: x\r\n\r\n")
        .expect("a reply");
    assert_eq!(reply.code, 250);
    site.wait_empty();
    let printed = site.ok(&["metrics"]);
    let served = scrape(port.number);
    for text in [&printed, &served] {
        let accepted =
            text.lines().find(|line| !line.starts_with('#') && line.contains("accepted_total"));
        let accepted = accepted.unwrap_or_else(|| panic!("no accepted_total in {text}"));
        assert!(accepted.ends_with(" 1") && accepted.starts_with("grange_"), "{accepted}");
        assert!(text.contains("# TYPE"), "{text}");
    }
    assert!(grange.stop().success());
}

#[test]
fn a_file_that_has_become_wrong_takes_nothing_away() {
    let site = Site::new();
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@sink.example"], "Subject: x\r\n\r\n")
        .expect("a reply");
    let id = reply.queued_as().expect("the reply names the message");
    until("it is routed", || {
        (site.json(&["status", "--json"])["queue"]["messages"] == 1).then_some(())
    });
    let cases = [
        // A key that nobody knows, a contradiction, and what is no TOML at all.
        site.text().replace("[requeue]", "").replace("[scheduler]", "[scheduler]\nretries = 5"),
        site.text().replace("channel = \"local\" }", "channel = \"nowhere\" }"),
        site.text().replace("[scheduler]", "[scheduler\nretry = "),
    ];
    for text in cases {
        std::fs::write(site.config(), text).expect("written");
        assert_eq!(site.run(&["check"]).status.code(), Some(78));
        let looks: &[&[&str]] = &[
            &["status", "--json"],
            &["queue", "list"],
            &["queue", "summary"],
            &["queue", "show", &id],
            &["queue", "show", "--raw", &id],
            &["queue", "suspend", "smtp"],
            &["queue", "resume", "smtp"],
            &["queue", "retry", &id],
            &["requeue"],
            &["metrics"],
            &["spool", "check"],
        ];
        for arguments in looks {
            let output = site.run(arguments);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{arguments:?}: {told}");
            assert!(told.contains("grange.toml:") && told.contains("the file is wrong"), "{told}");
            assert!(told.contains(&site.path("run").display().to_string()), "{told}");
        }
        let farm = grange.farm("smtpserver");
        assert_eq!(farm["alive"], true);
        // What would act by the file is refused, and so is what does not tell where the instance is.
        for arguments in [&["route", "bob@example.test"][..], &["upgrade"], &["farm", "local"]] {
            assert_eq!(site.run(arguments).status.code(), Some(78), "{arguments:?}");
        }
    }
    for text in ["run_dir = 7\n", "run_dir = \"relative\"\n", "run_dir = \n"] {
        std::fs::write(site.config(), text).expect("written");
        assert_eq!(site.run(&["status"]).status.code(), Some(78), "{text}");
    }
    std::fs::write(site.config(), site.text()).expect("written");
    assert!(grange.stop().success());
}

#[test]
fn who_waits_for_a_scheduler_that_is_stopped_is_told_so() {
    let site = Site::new();
    let grange = site.start();
    let scheduler = grange.workers("scheduler").pop().expect("a scheduler");
    grange.signal(scheduler, Signal::STOP);
    let words = format!("scheduler/1, process {scheduler}, is stopped");
    let (summary, list) = std::thread::scope(|scope| {
        let list = scope.spawn(|| site.run(&["queue", "list"]));
        (site.run(&["queue", "summary"]), list.join().expect("no panic"))
    });
    grange.signal(scheduler, Signal::CONT);
    let told = String::from_utf8_lossy(&summary.stderr);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(summary.status.code(), Some(69), "{told}");
    assert!(
        lines[0].contains("waiting for scheduler.admin") && lines[0].contains(&words),
        "{told}"
    );
    assert!(lines[1].contains("has not answered in 20 s") && lines[1].contains(&words), "{told}");
    let told = String::from_utf8_lossy(&list.stderr);
    assert!(list.status.success() && told.contains("reading the store instead"), "{told}");
    assert!(site.ok(&["queue", "summary"]).contains("no lanes"));
    assert!(grange.stop().success());
}

fn scrape(port: u16) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("metrics are served");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("written");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

#[test]
fn route_explains() {
    let site = Site::new();
    let told = site.ok(&["route", "bob@example.test"]);
    assert!(told.contains("local"), "{told}");
    let told = site.ok(&["route", "carol@sink.example", "--from", "alice@example.test"]);
    assert!(told.contains("smtp") && told.contains(&site.sink.number.to_string()), "{told}");
    assert!(site.json(&["route", "carol@sink.example", "--json"]).is_array());
}

#[test]
fn a_message_can_be_looked_at() {
    let site = Site::new();
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@sink.example"], "Subject: look\r\n\r\nat me")
        .expect("a reply");
    let id = reply.queued_as().expect("the reply names the message");
    let shown = site.json(&["queue", "show", &id, "--json"]);
    let handle = shown["handle"].as_str().expect("a handle");
    for text in [site.ok(&["body", handle]), site.ok(&["queue", "show", "--raw", &id])] {
        assert!(text.contains("Received: from client.example"), "{text}");
        assert!(text.ends_with("Subject: look\r\n\r\nat me\r\n"), "{text:?}");
    }
    let check = site.ok(&["spool", "check"]);
    assert!(!check.is_empty());
    assert!(grange.stop().success());
    // Without a scheduler the store is read, and it is said so.
    let output = site.run(&["queue", "list"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains(&id));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("scheduler"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let check = site.json(&["spool", "check", "--json"]);
    assert!(check.is_object(), "{check}");
}

#[test]
fn each_farm_runs_alone() {
    let site = Site::new();
    let farms = ["local", "smtp", "error", "scheduler", "router", "requeue", "smtpserver"];
    let running: Vec<_> = farms.iter().map(|farm| site.spawn(&["farm", farm])).collect();
    until("mail is taken and delivered", || {
        let mut client = Client::open(site.smtp.number).ok()?;
        client.reply().ok()?;
        client.command("EHLO client.example").ok()?;
        let reply = client
            .message("alice@example.test", &["bob@example.test"], "Subject: x\r\n\r\n")
            .ok()?;
        (reply.code == 250).then_some(())
    });
    until("it is delivered", || site.mailbox("example.test", "bob").pop());
    // In the order of the stages, so that nobody asks who has gone.
    for farm in running.into_iter().rev() {
        assert!(farm.stop().success());
    }
}

#[test]
fn systemd_is_told() {
    let site = Site::new();
    let path = site.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket of our own");
    socket.set_read_timeout(Some(tests::PATIENCE)).expect("a timeout");
    let mut command = site.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000");
    let log = std::fs::File::create(site.path("log")).expect("a log file");
    let mut process = tests::Process::spawn(
        "grange",
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log),
    );
    let mut told = String::new();
    let mut buffer = [0; 4096];
    while !(told.contains("READY=1") && told.contains("WATCHDOG=1")) {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {told}"));
        told.push_str(&String::from_utf8_lossy(&buffer[..length]));
        told.push('\n');
    }
    assert!(process.stop().success());
    while !told.contains("STOPPING=1") {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {told}"));
        told.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}
