//! Processes that are stopped for longer than every deadline and then go on: nothing is lost, and nothing comes twice but what
//! was at the next hop already.

use std::time::Duration;

use rustix::process::Signal;
use tests::{
    Client, Mail, Sink, Site, Traffic, count_tokens, descendants, state_of, until, until_within,
};

/// A peer that says nothing for so long is given up: it is pinged after 15 seconds and has as long again.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// Until everybody has noticed and others have done the work.
const NOTICED: Duration = Duration::from_secs(90);

/// Where a worker is stopped, for whom the message is that it has in hand, and how often that may arrive.
const CASES: &[(&str, &str, usize)] = &[
    ("smtp.deliver.before", "c@sink.example", 1),
    // Its gate has closed when it goes on.
    ("smtp.dot.before", "d@sink.example", 1),
    // The next hop has the message, and nobody can know that.
    ("smtp.dot.after", "e@sink.example", 2),
    ("smtp.answer.before", "f@sink.example", 2),
    ("local.deliver.before", "g@example.test", 1),
    ("local.link.before", "h@example.test", 1),
    ("local.link.after", "i@example.test", 1),
    // Last, for others take these up soon.
    ("router.route.before", "a@sink.example", 1),
    // Its late `enqueue` comes when the message is known, or retired.
    ("router.enqueue.after", "b@sink.example", 1),
];

#[test]
fn workers_past_every_deadline() {
    let workers = "workers = { start = 8, max = 8 }";
    let site = site()
        .replace("agent = \"smtp\"", &format!("agent = \"smtp\"\n{workers}"))
        .replace("agent = \"local\"", &format!("agent = \"local\"\n{workers}"))
        .replace("[router]", &format!("[router]\n{workers}"));
    let faults = site.faults();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let mut stopped = Vec::new();
    for (number, (point, recipient, _)) in CASES.iter().enumerate() {
        faults.arm(point, "stop");
        let text = format!("Message-ID: <{number}@source.example>\r\nSubject: {point}\r\n\r\n");
        // Whoever asks one that was stopped before is told to come again.
        until("it is accepted", || {
            let mut client = Client::ready(site.smtp.number);
            let sent = client.message("sender@source.example", &[recipient], &text);
            (sent.expect("a reply").code == 250).then_some(())
        });
        let pid = faults.wait(point, 1).pid;
        until("it has stopped", || (state_of(pid) == Some('T')).then_some(()));
        stopped.push(pid);
    }
    let arrived = |number: usize| {
        let (_, recipient, _) = CASES[number];
        let (user, domain) = recipient.split_once('@').expect("an address");
        let mailbox = site.mailbox(domain, user);
        let mut tokens = count_tokens(mailbox.iter().map(String::as_str));
        tokens.extend(sink.tokens());
        tokens.get(&number.to_string()).copied().unwrap_or(0)
    };
    // Others do what they had in hand; to whoever holds a copy at its end, that is the second.
    for (number, (point, _, copies)) in CASES.iter().enumerate() {
        until_within(NOTICED, &format!("the message of {point} has arrived"), || {
            (arrived(number) >= *copies).then_some(())
        });
    }
    until_within(NOTICED, "the queue is empty though they are stopped", || {
        site.queued().is_empty().then_some(())
    });
    until_within(NOTICED, "others have taken their places", || {
        let serving = ["router", "smtp", "local"].map(|farm| grange.workers(farm));
        let replaced = stopped.iter().all(|pid| !serving.iter().flatten().any(|it| it == pid));
        (replaced && serving.iter().all(|workers| !workers.is_empty())).then_some(())
    });
    stopped.iter().for_each(|pid| grange.signal(*pid, Signal::CONT));
    until("they go on", || stopped.iter().all(|pid| state_of(*pid) != Some('T')).then_some(()));
    // What they had in hand they give up, and take the next.
    let sent = tests::burst(site.smtp.number, 200, 10, "z@sink.example");
    until("all of it arrives", || {
        let tokens = sink.tokens();
        sent.accepted.iter().all(|token| tokens.contains_key(token)).then_some(())
    });
    site.wait_empty();
    for (number, (point, _, copies)) in CASES.iter().enumerate() {
        assert_eq!(arrived(number), *copies, "{point}");
    }
    assert!(grange.stop().success());
}

#[test]
fn a_report_is_written_though_its_writer_is_stopped() {
    // Behind its gate, the writer commits what another has written meanwhile.
    for (point, copies_max) in
        [("error.deliver.before", 1), ("error.commit.before", 2), ("error.commit.after", 2)]
    {
        let site = site()
            .replace("agent = \"error\"", "agent = \"error\"\nworkers = { start = 2, max = 2 }");
        let faults = site.faults();
        let grange = site.start();
        faults.arm(point, "stop");
        let id = bounced(&site);
        let pid = faults.wait(point, 1).pid;
        until_within(NOTICED, "alice is told", || site.mailbox("example.test", "alice").pop());
        grange.signal(pid, Signal::CONT);
        until("it goes on", || (state_of(pid) != Some('T')).then_some(()));
        let sent = tests::burst(site.smtp.number, 50, 5, "bob@example.test");
        until("mail flows", || {
            (site.mailbox("example.test", "bob").len() >= sent.accepted.len()).then_some(())
        });
        site.wait_empty();
        let told = site.mailbox("example.test", "alice");
        assert!((1..=copies_max).contains(&told.len()), "{point}: {} reports", told.len());
        assert!(told.iter().all(|report| report.contains(&id)), "{told:?}");
        assert!(grange.stop().success());
    }
}

/// Sends a message that an operator bounces; gives its id.
fn bounced(site: &Site) -> String {
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@sink.example"], "Subject: x\r\n\r\n")
        .expect("a reply");
    let id = reply.queued_as().expect("the reply names the message");
    until("it is routed", || {
        let output = site.run(&["queue", "bounce", &id]);
        output.status.success().then_some(())
    });
    id
}

#[test]
fn the_scheduler() {
    let site = site();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let traffic = traffic(&site);
    until("mail flows", || (sink.received().len() >= 200).then_some(()));
    let scheduler = grange.workers("scheduler");
    pause(&grange, &scheduler, &traffic);
    end(&site, &sink, traffic);
    assert!(grange.stop().success());
}

#[test]
fn everything_at_once() {
    let site = site();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let traffic = traffic(&site);
    until("mail flows", || (sink.received().len() >= 200).then_some(()));
    let mut family = descendants(grange.pid());
    family.push(grange.pid());
    // As a machine that sleeps, or a frozen container.
    family.iter().for_each(|pid| grange.signal(*pid, Signal::STOP));
    std::thread::sleep(GIVEN_UP + Duration::from_secs(5));
    family.iter().for_each(|pid| grange.signal(*pid, Signal::CONT));
    end(&site, &sink, traffic);
    assert!(grange.stop().success());
}

#[test]
fn managers() {
    let site = site();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let traffic = traffic(&site);
    until("mail flows", || (sink.received().len() >= 200).then_some(()));
    let managers: Vec<u32> = ["smtpserver", "router", "scheduler", "smtp", "requeue"]
        .iter()
        .map(|farm| grange.manager(farm))
        .collect();
    managers.iter().for_each(|pid| grange.signal(*pid, Signal::STOP));
    let accepted = traffic.accepted();
    until("workers need no manager", || (traffic.accepted() >= accepted + 500).then_some(()));
    managers.iter().for_each(|pid| grange.signal(*pid, Signal::CONT));
    end(&site, &sink, traffic);
    assert!(grange.stop().success());
}

fn site() -> Site {
    Site::new()
        .replace("[router]", "[requeue]\nevery = \"10s\"\n[router]\nenqueue_deadline = \"500ms\"")
}

fn traffic(site: &Site) -> Traffic {
    let mix = |_| Mail::to("recipient@sink.example");
    Traffic::start(site.smtp.number, 4, Duration::from_millis(20), mix)
}

/// Stops processes until everybody must have given them up; mail is accepted meanwhile.
fn pause(grange: &tests::Running<'_>, pids: &[u32], traffic: &Traffic) {
    pids.iter().for_each(|pid| grange.signal(*pid, Signal::STOP));
    let accepted = traffic.accepted();
    std::thread::sleep(GIVEN_UP + Duration::from_secs(5));
    assert!(traffic.accepted() > accepted + 200, "mail is accepted meanwhile");
    pids.iter().for_each(|pid| grange.signal(*pid, Signal::CONT));
}

/// Everything arrives, and once: nobody died.
fn end(site: &Site, sink: &Sink, traffic: Traffic) {
    let accepted = traffic.accepted();
    until("mail flows", || (traffic.accepted() >= accepted + 100).then_some(()));
    let sent = traffic.stop();
    until_within(NOTICED, "what got 250 arrives", || {
        let tokens = sink.tokens();
        sent.accepted.iter().all(|token| tokens.contains_key(token)).then_some(())
    });
    site.wait_empty();
    let twice: Vec<_> = sink.tokens().into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
