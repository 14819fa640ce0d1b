//! contentfilter in the path: what its rules accept, reject, hold, discard and mark.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use tests::{Client, Reply, Site, until};

const FILTERS: &str = r#"filters = [
  { name = "virus", attachment = "\\.exe$", action = "reject", text = "no programs, please" },
  { name = "later", header = "X-Later", action = "tempfail" },
  { name = "suspect", header = "Subject", matches = "lottery", action = "quarantine", text = "looks like a lottery" },
  { name = "noise", body = "heartbeat", action = "discard" },
  { name = "large", size_over = "10KiB", action = { add_header = { name = "X-Size", value = "large" } } },
]"#;

#[test]
fn each_action_does_what_it_says() {
    let site = Site::new().replace("filters = []", FILTERS);
    let grange = site.start();
    let attachment = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
        Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"invoice.EXE\"\r\n\r\nMZ\r\n--b--\r\n";
    let refused = send(&site, attachment);
    assert_eq!(refused.code / 100, 5, "{refused:?}");
    assert!(refused.text().contains("no programs, please"), "{refused:?}");
    let later = send(&site, "X-Later: yes\r\nSubject: x\r\n\r\n");
    assert_eq!(later.code / 100, 4, "{later:?}");
    assert_eq!(send(&site, "Subject: x\r\n\r\nheartbeat 4711\r\n").code, 250);
    assert_eq!(
        send(&site, &format!("Subject: big\r\n\r\n{}", "A line of it.\r\n".repeat(1000))).code,
        250
    );
    let held = send(&site, "Subject: You won the LOTTERY\r\n\r\n");
    assert_eq!(held.code, 250, "{held:?}");
    assert_eq!(send(&site, "Subject: plain\r\n\r\n").code, 250);

    let mailbox = until("what is to arrive arrives", || {
        let mailbox = site.mailbox("example.test", "bob");
        (mailbox.len() >= 2).then_some(mailbox)
    });
    let (big, plain): (Vec<&String>, Vec<&String>) =
        mailbox.iter().partition(|text| text.contains("Subject: big"));
    assert_eq!((big.len(), plain.len()), (1, 1), "{mailbox:?}");
    assert!(big.iter().all(|text| text.contains("X-Size: large")));
    assert!(plain.iter().all(|text| !text.contains("X-Size") && text.contains("Subject: plain")));

    let queued = site.queued();
    assert_eq!(queued.len(), 1, "only the quarantined one waits: {queued:?}");
    let id = held.queued_as().expect("the reply names the message");
    let shown = site.ok(&["queue", "show", &id]);
    assert!(shown.contains("lottery"), "{shown}");
    site.ok(&["queue", "release", &id]);
    until("it arrives when released", || {
        (site.mailbox("example.test", "bob").len() == 3).then_some(())
    });
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn a_dead_filter_never_lets_mail_through() {
    let site = Site::new().replace("filters = []", FILTERS);
    let grange = site.start_only(&[
        "smtpserver",
        "router",
        "scheduler",
        "local",
        "smtp",
        "error",
        "requeue",
    ]);
    let reply = send(&site, "Subject: plain\r\n\r\n");
    assert_eq!(reply.code / 100, 4, "{reply:?}");
    assert!(site.queued().is_empty());
    assert!(grange.stop().success());
}

fn send(site: &Site, message: &str) -> Reply {
    let mut client = Client::ready(site.smtp.number);
    client.message("alice@example.test", &["bob@example.test"], message).expect("a reply")
}
