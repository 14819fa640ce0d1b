//! Farms on several hosts with their queue in a database: what is accepted arrives, whatever is cut, killed or stopped.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value without the key gives null, and a test fails on it"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::{
    Answer, Cluster, Event, Mail, Postgres, Received, Sink, Traffic, now_ms, state_of, token_of,
    until, until_within,
};

/// Messages that must have been accepted before the test ends.
const MESSAGES: usize = 10_000;
/// Jobs that a lane may have in hand.
const LANE_MAX: usize = 5;
/// How long a cut lasts; longer than a lease where the scheduler is concerned.
const CUT: Duration = Duration::from_secs(5);
const CUT_OVER_LEASE: Duration = Duration::from_secs(22);
/// How soon a stand-by takes over.
const TAKEN_OVER: Duration = Duration::from_secs(20);
/// How soon mail flows again when whatever was wrong is over.
const FLOWS: Duration = Duration::from_secs(60);
/// How long behind a fault a message may have come whose answer was lost in it.
const AFTERMATH_MS: u64 = 15_000;

/// A next hop of one lane: it takes some time over each message, and remembers how many it had in hand at once.
struct Hop {
    sink: Sink,
    most: Arc<AtomicUsize>,
}

impl Hop {
    fn at(address: SocketAddr) -> Self {
        let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let sink = Sink::at(address, move |event| match event {
            Event::Command(line) if line.contains("<nobody@") => {
                Answer::Say("550 5.1.1 There is nobody".to_owned())
            }
            Event::Message(_) => {
                seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
                now.fetch_sub(1, Ordering::SeqCst);
                Answer::Usual
            }
            _ => Answer::Usual,
        });
        Self { sink, most }
    }
}

/// When something was wrong, in milliseconds since 1970.
#[derive(Default)]
struct Windows(Vec<(u64, u64, String)>);

impl Windows {
    fn covers(&self, at: u64) -> bool {
        self.0.iter().any(|(from, to, _)| (*from..=*to + AFTERMATH_MS).contains(&at))
    }
}

/// The cluster under load.
struct Trial {
    cluster: Cluster,
    hops: Vec<Hop>,
    traffic: Vec<Traffic>,
    windows: Windows,
}

impl Trial {
    fn begin() -> Self {
        let limits = format!("lane_start = {LANE_MAX}\nlane_max = {LANE_MAX}\n");
        let mut cluster = Cluster::new(&limits);
        cluster.start();
        let sink = &cluster.sink;
        let hops = [2525, 2526, 2527]
            .map(|port| sink.within(|| Hop::at((sink.address, port).into())))
            .into();
        let mix = |number: usize| match number % 50 {
            0 => Mail::to("nobody@c.example"),
            1 => Mail { recipient: "large@a.example".to_owned(), lines: 8000 },
            _ => Mail::to(["x@a.example", "x@b.example", "x@c.example"][number % 3]),
        };
        let traffic = ["mx1", "mx2"].map(|name| {
            let server = cluster.node(name).smtp();
            let pause = Duration::from_millis(300);
            cluster.client.within(|| Traffic::start_at(server, 8, pause, mix))
        });
        let trial = Self { cluster, hops, traffic: traffic.into(), windows: Windows::default() };
        trial.flows("at first");
        trial
    }

    fn arrived(&self) -> usize {
        self.hops.iter().map(|hop| hop.sink.received().len()).sum()
    }

    fn accepted(&self) -> usize {
        self.traffic.iter().map(Traffic::accepted).sum()
    }

    /// Waits until mail comes in and goes out.
    fn flows(&self, when: &str) {
        let (accepted, arrived) = (self.accepted(), self.arrived());
        until_within(FLOWS, &format!("mail flows {when}"), || {
            (self.accepted() >= accepted + 20 && self.arrived() >= arrived + 20).then_some(())
        });
    }

    /// Does something that is wrong, notes when, and waits until mail flows again.
    fn fault(&mut self, what: &str, fault: impl FnOnce(&mut Cluster)) {
        let from = now_ms();
        eprintln!("{what}: {} accepted, {} arrived", self.accepted(), self.arrived());
        fault(&mut self.cluster);
        let over = now_ms();
        self.flows(&format!("after: {what}"));
        self.windows.0.push((from, now_ms().min(over + AFTERMATH_MS), what.to_owned()));
    }
}

fn taken_over(cluster: &Cluster, from: &str, database: &Postgres) -> String {
    until_within(TAKEN_OVER, &format!("another takes over from {from}"), || {
        let owner = cluster.owner(database);
        (owner != from).then_some(owner)
    })
}

#[test]
fn what_is_accepted_arrives_whatever_fails() {
    let mut trial = Trial::begin();
    every_host_can_look_and_steer(&trial);
    cut_each_link(&mut trial);
    kill_each_process(&mut trial);
    stop_the_scheduler(&mut trial);
    fail_over(&mut trial);
    until_within(Duration::from_secs(300), "enough was accepted", || {
        (trial.accepted() >= MESSAGES).then_some(())
    });
    settle(trial);
}

/// `grange status` and `grange queue` answer for the whole cluster from any host.
fn every_host_can_look_and_steer(trial: &Trial) {
    for (name, node) in &trial.cluster.nodes {
        let status = node.status().expect("a status");
        let hosts = status["hosts"].as_array().expect("a list of hosts");
        let states = hosts.iter().flat_map(|host| host["farms"].as_array().into_iter().flatten());
        let states: Vec<&str> = states
            .filter(|farm| farm["farm"] == "scheduler")
            .flat_map(|farm| farm["workers"].as_array().into_iter().flatten())
            .filter_map(|worker| worker["state"].as_str())
            .collect();
        let of = |wanted| states.iter().filter(|state| **state == wanted).count();
        assert_eq!((of("ready"), of("standby")), (1, 1), "{name}: {status}");
        let lane = format!("smtp/[{}]:2527", trial.cluster.sink.address);
        node.ok(&["queue", "suspend", &lane]);
        until(&format!("{name} sees mail wait"), || {
            let lanes = node.ok(&["queue", "summary", "--json"]);
            let lanes: serde_json::Value = serde_json::from_str(&lanes).expect("JSON");
            let lanes = lanes["lanes"].as_array().expect("a list of lanes");
            lanes.iter().any(|lane| lane["reason"] == "suspended").then_some(())
        });
        let message = until(&format!("{name} lists what waits"), || {
            let page = node.ok(&["queue", "list", "--lane", &lane, "--json"]);
            let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
            page["messages"][0]["id"].as_str().map(str::to_owned)
        });
        node.ok(&["queue", "show", &message]);
        node.ok(&["queue", "resume", &lane]);
    }
}

fn cut_each_link(trial: &mut Trial) {
    let nodes: Vec<String> = trial.cluster.nodes.keys().cloned().collect();
    for name in nodes {
        let owner = trial.cluster.owner(&trial.cluster.primary);
        trial.fault(&format!("{name} is cut off"), |cluster| {
            let begun = Instant::now();
            cluster.node(&name).host.cut();
            if name == owner {
                taken_over(cluster, &owner, &cluster.primary);
            }
            let cut = if name == owner { CUT_OVER_LEASE } else { CUT };
            std::thread::sleep(cut.saturating_sub(begun.elapsed()));
            cluster.node(&name).host.mend();
        });
    }
    for (what, host) in [
        ("the database is cut off", trial.cluster.primary_host.clone()),
        ("the standby database is cut off", trial.cluster.standby_host.clone()),
        ("the next hop is cut off", trial.cluster.sink.clone()),
    ] {
        trial.fault(what, |_| {
            host.cut();
            std::thread::sleep(CUT);
            host.mend();
        });
    }
    let owner = trial.cluster.owner(&trial.cluster.primary);
    for other in ["d1", "r1"] {
        trial.fault(&format!("{owner} and {other} do not reach each other"), |cluster| {
            let (one, two) = (&cluster.node(&owner).host, &cluster.node(other).host);
            one.part(two);
            std::thread::sleep(CUT_OVER_LEASE);
            one.rejoin(two);
        });
    }
    trial.fault(&format!("{owner} does not reach the database"), |cluster| {
        let (one, two) = (&cluster.node(&owner).host, &cluster.primary_host);
        one.part(two);
        taken_over(cluster, &owner, &cluster.primary);
        one.rejoin(two);
    });
}

fn kill_each_process(trial: &mut Trial) {
    let nodes: Vec<String> = trial.cluster.nodes.keys().cloned().collect();
    for name in nodes {
        // `grange run` itself goes last: its managers end with it.
        let mut processes = trial.cluster.node(&name).processes();
        processes.reverse();
        let runs = processes.pop().expect("it runs");
        trial.fault(&format!("each process of {name} is killed"), |cluster| {
            for pid in processes {
                if state_of(pid).is_some() && cluster.node(&name).processes().contains(&pid) {
                    cluster.node(&name).signal(pid, Signal::KILL);
                    std::thread::sleep(Duration::from_millis(300));
                }
            }
        });
        trial.fault(&format!("{name} dies"), |cluster| {
            assert!(cluster.node(&name).processes().contains(&runs));
            let owner = cluster.owner(&cluster.primary);
            let node = cluster.nodes.get_mut(&name).expect("it is there");
            node.kill();
            if name == owner {
                taken_over(cluster, &owner, &cluster.primary);
            }
            cluster.nodes.get_mut(&name).expect("it is there").start();
        });
    }
}

fn stop_the_scheduler(trial: &mut Trial) {
    let owner = trial.cluster.owner(&trial.cluster.primary);
    trial.fault(&format!("{owner} is stopped for a minute"), |cluster| {
        let begun = Instant::now();
        let processes = cluster.node(&owner).processes();
        for pid in &processes {
            cluster.node(&owner).signal(*pid, Signal::STOP);
        }
        taken_over(cluster, &owner, &cluster.primary);
        std::thread::sleep(Duration::from_secs(60).saturating_sub(begun.elapsed()));
        for pid in processes.iter().rev() {
            cluster.node(&owner).signal(*pid, Signal::CONT);
        }
    });
}

fn fail_over(trial: &mut Trial) {
    trial.fault("the database fails over", |cluster| {
        cluster.primary.kill();
        cluster.standby.promote();
    });
}

/// Nothing more is sent: all that was accepted arrives, and nothing is left of it.
fn settle(trial: Trial) {
    let Trial { cluster, hops, traffic, windows } = trial;
    let (mut accepted, mut maybe) = (Vec::new(), 0);
    for traffic in traffic {
        let sent = traffic.stop();
        maybe += sent.unsure.len() + sent.refused.len();
        accepted.extend(sent.accepted);
    }
    let arrived = || -> BTreeMap<String, Vec<u64>> {
        let mut arrived: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for hop in &hops {
            for message in hop.sink.received().iter() {
                arrived.entry(token(message)).or_default().push(message.at_ms);
            }
        }
        arrived
    };
    until_within(Duration::from_secs(120), "all that was accepted has arrived", || {
        let arrived = arrived();
        accepted.iter().all(|token| arrived.contains_key(token)).then_some(())
    });
    let database = &cluster.standby;
    until("nothing is left in the database", || {
        let tables = ["message", "routed", "recipient", "body"];
        let rows = |table: &&str| database.sql(&format!("SELECT count(*) FROM {table}"));
        tables.iter().all(|table| rows(table) == "0").then_some(())
    });
    let mut twice = 0;
    for (token, times) in arrived() {
        let Some((_, repeats)) = times.split_last().filter(|(_, others)| !others.is_empty()) else {
            continue;
        };
        twice += repeats.len();
        let first = times.iter().min().copied().unwrap_or_default();
        assert!(windows.covers(first), "{token} came {} times, first at {first}", times.len());
    }
    let most: Vec<usize> = hops.iter().map(|hop| hop.most.load(Ordering::SeqCst)).collect();
    println!(
        "{} accepted, all arrived; {maybe} unsure; {twice} came again; at once in a lane: {most:?}",
        accepted.len()
    );
    assert!(accepted.len() >= MESSAGES);
    assert!(most.iter().all(|most| *most <= LANE_MAX), "{most:?} at once in a lane");
}

/// The token of a message, or of the one that a report is about.
fn token(message: &Received) -> String {
    token_of(&message.data).unwrap_or("none").to_owned()
}
