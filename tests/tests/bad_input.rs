//! What no client, sink or operator should do: each gets a clear answer, nobody dies of it, nothing accepted is lost.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::{Answer, Client, Event, Mount, Running, Sink, Site, free_port, run, until};

#[test]
fn garbage_is_answered() {
    let site = Site::new();
    let grange = site.start();
    let long = [vec![b'N'; 70_000], b"\r\n".to_vec()].concat();
    let cases: &[(&[u8], &[u16])] = &[
        (b"FROBNICATE\r\n", &[500, 502]),
        (b"\r\n", &[500]),
        (b"\0\0\0\r\n", &[500, 501]),
        (b"\xff\xfe\xfd\r\n", &[500]),
        (b"NOOP \xff\r\n", &[250, 500, 501]),
        (b"EHLO\r\n", &[501]),
        (b"MAIL\r\n", &[501, 503]),
        (b"MAIL FROM:<a@b\0c>\r\n", &[501, 500, 503, 553]),
        (b"MAIL FROM:<<a@b>>\r\n", &[501, 503, 553]),
        (b"RCPT TO:<a@example.test>\r\n", &[503]),
        (b"DATA\r\n", &[503]),
        (b"BDAT 99999999999999999999\r\n", &[500, 502, 503]),
        (b"GET / HTTP/1.1\r\n", &[500, 502, 521, 554]),
        (b"\x16\x03\x01\x02\x00\x01\r\n", &[500]),
        (&long, &[500]),
    ];
    for (bytes, codes) in cases {
        let mut client = Client::connect(site.smtp.number);
        client.write(bytes).expect("written");
        let reply = client
            .reply()
            .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(bytes)));
        assert!(
            codes.contains(&reply.code),
            "{:?}: {reply:?}",
            String::from_utf8_lossy(bytes.get(..40.min(bytes.len())).unwrap_or_default())
        );
    }
    unharmed(&grange);
    assert!(grange.stop().success());
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    // Attack A1: whoever believes another end sees a second message in the first.
    let strangers =
        Site::new().replace("relay_from = [\"127.0.0.0/8\", \"::1/128\"]", "relay_from = []");
    let grange = strangers.start();
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r.\r",
        "\r.\r\n",
        "\r\n.\n",
        "\r\n.\r",
        "\r\r\n.\r\n",
        "\n\r\n.\r\n",
        "\0\n.\r\n",
    ] {
        let mut client = Client::ready(strangers.smtp.number);
        client.expect("MAIL FROM:<alice@source.example>", 250);
        client.expect("RCPT TO:<bob@example.test>", 250);
        client.expect("DATA", 354);
        let smuggled = format!(
            "Subject: one\r\n\r\nfirst{end}MAIL FROM:<smuggler@example.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\nSubject: two\r\n\r\nx\r\n.\r\n"
        );
        client.write(smuggled.as_bytes()).expect("written");
        let reply = client.reply().expect("a reply");
        assert_eq!(reply.code, 521, "{end:?}: {reply:?}");
        assert!(reply.text().starts_with("5.5.2"), "{reply:?}");
        assert!(client.is_closed(), "{end:?}: nothing further is taken");
    }
    assert!(strangers.queued().is_empty());
    assert!(strangers.mailbox("example.test", "bob").is_empty());
    unharmed(&grange);
    assert!(grange.stop().success());

    // Printers and scripts on our own networks mean well.
    let ours = Site::new();
    let grange = ours.start();
    let mut client = Client::ready(ours.smtp.number);
    client.expect("MAIL FROM:<alice@example.test>", 250);
    client.expect("RCPT TO:<bob@example.test>", 250);
    client.expect("DATA", 354);
    client.write(b"Subject: one\n\nfirst\n.\nsecond\n\r\n.\r\n").expect("written");
    assert_eq!(client.reply().expect("a reply").code, 250);
    let message =
        until("the message arrives", || ours.mailbox("example.test", "bob").into_iter().next());
    let body = message.replace("\r\n", "\n");
    assert!(body.contains("first\n.\nsecond"), "{message:?}");
    assert!(grange.stop().success());
}

#[test]
fn a_client_may_go_at_every_byte() {
    let site = Site::new();
    let grange = site.start();
    // Each is written after the reply to the one before.
    let turns = [
        "EHLO client.example\r\n",
        "MAIL FROM:<alice@example.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n",
        "Subject: x\r\n\r\n..\r\n.x\r\n.\r\n",
    ];
    let replies = [1, 3, 1];
    for (turn, text) in turns.iter().enumerate() {
        for cut in 0..text.len() {
            let mut client = Client::connect(site.smtp.number);
            for (before, count) in turns.iter().zip(replies).take(turn) {
                client.write(before.as_bytes()).expect("written");
                for _ in 0..count {
                    assert!(client.reply().expect("a reply").code < 400);
                }
            }
            client.write(text.as_bytes().get(..cut).expect("a cut")).expect("written");
            drop(client);
        }
    }
    // Only the last cut of all, which leaves nothing out but the reply, makes a message.
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@example.test"], "Subject: whole\r\n\r\n")
        .expect("a reply");
    assert_eq!(reply.code, 250);
    site.wait_empty();
    let mailbox = site.mailbox("example.test", "bob");
    assert_eq!(mailbox.len(), 1, "{mailbox:?}");
    unharmed(&grange);
    assert!(grange.stop().success());
}

#[test]
fn ten_thousand_recipients() {
    let site = Site::new().replace(
        "message_bytes_max = 52428800",
        "message_bytes_max = 52428800\nrecipients_max = 10000",
    );
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    client.expect("MAIL FROM:<alice@example.test>", 250);
    for hundred in 0..100 {
        let lines: String = (0..100)
            .map(|number| format!("RCPT TO:<r{}@sink.example>\r\n", hundred * 100 + number))
            .collect();
        client.write(lines.as_bytes()).expect("written");
        for _ in 0..100 {
            assert_eq!(client.reply().expect("a reply").code, 250);
        }
    }
    let reply = client.expect("RCPT TO:<one.more@sink.example>", 452);
    assert!(reply.text().starts_with("4.5.3"), "{reply:?}");
    client.expect("DATA", 354);
    client.expect("Subject: x\r\n\r\nto many\r\n.", 250);
    site.wait_empty();
    let received = sink.received();
    let mut served: Vec<&str> =
        received.iter().flat_map(|message| &message.recipients).map(String::as_str).collect();
    served.sort_unstable();
    let all = served.len();
    served.dedup();
    assert_eq!((served.len(), all), (10_000, 10_000), "each recipient once");
    assert!(received.len() <= 1000, "many recipients in a transaction: {}", received.len());
    unharmed(&grange);
    assert!(grange.stop().success());
}

#[test]
fn a_slow_client_costs_a_socket_and_no_more() {
    let site = Site::new().replace("message_bytes_max = 52428800", "message_bytes_max = 52428800\ncommand_timeout = \"2s\"\ndata_timeout = \"2s\"\nmessage_timeout = \"4s\"");
    let grange = site.start();
    // One that drips a command, one that drips a message, one that is silent.
    let drip = |prepare: fn(&mut Client), bytes: &'static [u8]| {
        let port = site.smtp.number;
        std::thread::spawn(move || {
            let mut client = Client::ready(port);
            prepare(&mut client);
            let begun = Instant::now();
            for byte in bytes.iter().cycle() {
                if client.write(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(300));
                if begun.elapsed() > Duration::from_secs(8) {
                    break;
                }
            }
            client.rest()
        })
    };
    let command = drip(|_| {}, b"N");
    let message = drip(
        |client| {
            client.expect("MAIL FROM:<alice@example.test>", 250);
            client.expect("RCPT TO:<bob@example.test>", 250);
            client.expect("DATA", 354);
        },
        b"x",
    );
    // Meanwhile others are served at once.
    for _ in 0..20 {
        let begun = Instant::now();
        let mut client = Client::ready(site.smtp.number);
        let reply = client
            .message("alice@example.test", &["bob@example.test"], "Subject: x\r\n\r\n")
            .expect("a reply");
        assert_eq!(reply.code, 250);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    for slow in [command, message] {
        let replies = slow.join().expect("no panic");
        assert!(replies.iter().any(|reply| reply.code == 421), "{replies:?}");
    }
    site.wait_empty();
    assert_eq!(site.mailbox("example.test", "bob").len(), 20);
    unharmed(&grange);
    assert!(grange.stop().success());
}

#[test]
fn bad_sinks_defer_and_hold_nobody_up() {
    type Script = fn(Event<'_>) -> Answer;
    let cases: &[(&str, Script)] = &[
        (
            "stall-greeting",
            |event| if event == Event::Connect { Answer::Stall } else { Answer::Usual },
        ),
        ("stall-dot", |event| {
            if matches!(event, Event::Message(_)) { Answer::Stall } else { Answer::Usual }
        }),
        ("gone-at-once", |_| Answer::Last(Vec::new())),
        ("gone-at-data", |event| {
            if event == Event::Command("DATA") { Answer::Last(Vec::new()) } else { Answer::Usual }
        }),
        ("gone-at-dot", |event| {
            if matches!(event, Event::Message(_)) {
                Answer::Last(Vec::new())
            } else {
                Answer::Usual
            }
        }),
        ("nonsense", |_| Answer::Last(b"\0\xffwhat?\r\nHTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ("half-a-reply", |_| Answer::Last(b"220-and then".to_vec())),
        ("endless-line", |_| Answer::Forever(vec![b'2'; 65_536])),
        ("endless-reply", |_| Answer::Forever(b"220-more\r\n".repeat(1000))),
        ("refuses-all", |event| {
            if event == Event::Connect {
                Answer::Last(b"421 4.3.2 not now\r\n".to_vec())
            } else {
                Answer::Usual
            }
        }),
    ];
    let site = Site::new();
    let sinks: Vec<_> = cases
        .iter()
        .map(|(name, script)| {
            let port = free_port();
            let sink = Sink::scripted(port.number, *script);
            (*name, port, sink)
        })
        .collect();
    let routes: String = sinks
        .iter()
        .map(|(name, port, _)| format!("  {{ domain = \"{name}.example\", channel = \"smtp\", host = \"[127.0.0.1]:{}\" }},\n", port.number))
        .collect();
    let site = site.replace("  { domain = \"*\"", &format!("{routes}  {{ domain = \"*\"")).replace(
        "agent = \"smtp\"",
        "agent = \"smtp\"\ntimeouts = { greeting = \"2s\", dot = \"3s\" }",
    );
    let good = Sink::start(site.sink.number);
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    for number in 0..10 {
        for name in sinks.iter().map(|(name, ..)| *name).chain(["good"]) {
            let recipient = format!("r{number}@{name}.example");
            let reply = client
                .message("alice@example.test", &[&recipient], "Subject: x\r\n\r\nx\r\n")
                .expect("a reply");
            assert_eq!(reply.code, 250, "{reply:?}");
        }
    }
    good.wait(10);
    for (name, port, _) in &sinks {
        until(&format!("{name} is noticed"), || {
            let domain = format!("{name}.example");
            let page = site.json(&["queue", "list", "--domain", &domain, "--json"]);
            let messages = page["messages"].as_array()?;
            assert_eq!(messages.len(), 10, "{name}: nothing is lost");
            let tried = messages.iter().any(|message| {
                message["recipients"][0]["state"]["open"]["count"].as_u64() > Some(0)
            });
            let summary = site.json(&["queue", "summary", "--json"]);
            let lanes = summary["lanes"].as_array()?;
            let host = format!("[127.0.0.1]:{}", port.number);
            let lane = lanes.iter().find(|lane| lane["host"] == *host)?;
            (tried || lane["last"].is_string()).then_some(())
        });
    }
    assert_eq!(site.queued().len(), 10 * cases.len(), "all wait");
    unharmed(&grange);
    assert!(grange.stop().success(), "it stops although sinks stall");
}

#[test]
fn a_read_only_data_dir_is_said_to_be_so() {
    let site = Site::new();
    let _mount = Mount::tmpfs(site.path("data"), "ro,mode=755");
    refuses_to_start(&site, &["ead-only"]);
}

#[test]
fn a_port_in_use_is_named() {
    let site = Site::new();
    let _taken =
        TcpListener::bind((Ipv4Addr::LOCALHOST, site.smtp.number)).expect("the port is ours");
    refuses_to_start(&site, &[&format!("127.0.0.1:{}", site.smtp.number), "in use"]);
}

#[test]
fn a_stale_socket_is_replaced() {
    let site = Site::new();
    site.start().stop();
    for name in ["router.route", "scheduler.enqueue", "smtp.deliver"] {
        let path = site.socket(name);
        let _ = std::fs::remove_file(&path);
        drop(UnixListener::bind(&path).expect("a stale socket can be made"));
    }
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@example.test"], "Subject: x\r\n\r\n")
        .expect("a reply");
    assert_eq!(reply.code, 250);
    until("it is delivered", || site.mailbox("example.test", "bob").pop());
    assert!(grange.stop().success());
}

#[test]
fn a_run_dir_that_others_may_write_is_refused() {
    let site = Site::new();
    std::fs::create_dir(site.path("run")).expect("a directory of our own");
    std::fs::set_permissions(site.path("run"), std::fs::Permissions::from_mode(0o777))
        .expect("our own directory");
    refuses_to_start(&site, &[site.path("run").to_str().expect("a plain path"), "writ"]);
}

#[test]
fn a_second_instance_is_refused() {
    let site = Site::new();
    let grange = site.start();
    let (port, other) = (free_port(), site.path("other.toml"));
    let text = site
        .text()
        .replace("/run\"", "/run2\"")
        .replace(&site.smtp.number.to_string(), &port.number.to_string());
    std::fs::write(&other, text).expect("written");
    let output = run(Command::new(tests::program()).arg("run").arg("--config").arg(&other));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains(site.path("data").to_str().expect("a plain path")), "{told}");
    unharmed(&grange);
    assert!(grange.stop().success());
}

/// Starts `grange run`, which must end by itself, unsuccessfully, and in these words.
fn refuses_to_start(site: &Site, words: &[&str]) {
    let mut grange = site.spawn(&["run"]);
    let status = until("it ends", || grange.process().ended());
    let told = site.log();
    assert!(!status.success(), "{told}");
    for word in words {
        assert!(told.contains(word), "{word} is not in {told}");
    }
}

/// Whether nobody died.
fn unharmed(grange: &Running<'_>) {
    for farm in ["smtpserver", "router", "scheduler", "smtp", "local", "error"] {
        let farm = grange.farm(farm);
        assert_eq!(farm["crashes"], 0, "{farm}");
        assert_eq!(farm["alive"], true, "{farm}");
    }
}
