//! Reloads and upgrades under load: no session fails, nothing is lost, nothing comes twice, and nothing is left behind.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tests::{
    Client, Follow, Load, Manner, PATIENCE, Process, Running, Sessions, Sink, Site, descendants,
    descriptors, executable, free_port, own_kib, program, run, state_of, until,
};

/// Every farm that has a manager and workers all the time.
const FARMS: &[&str] = &["smtp", "local", "error", "scheduler", "router", "smtpserver"];

/// What the memory of a manager may differ by, in KiB, from after its first upgrade to after its last.
const GROWTH_KIB: u64 = 1024;

/// Short sessions, sessions that live through several reloads, and sessions in the midst of a message.
const CLIENTS: &[Manner] = &[
    Manner::SHORT,
    Manner::SHORT,
    Manner::SHORT,
    Manner::LONG,
    Manner::LONG,
    Manner::LASTING,
    Manner::DRIPPING,
    Manner::DRIPPING,
];

const RECIPIENTS: &[&str] = &["one@sink.example", "two@second.example", "three@third.example"];

/// What is done to a running instance.
struct Operator<'site> {
    site: &'site Site,
    grange: &'site Running<'site>,
    follow: Follow,
    /// How many copies of the program were made.
    copies: usize,
}

impl<'site> Operator<'site> {
    fn new(site: &'site Site, grange: &'site Running<'site>) -> Self {
        Self { site, grange, follow: site.follow(), copies: 0 }
    }

    /// Reloads with this configuration, and waits until the supervisor has told its managers.
    fn reload(&mut self, text: &str) {
        std::fs::write(self.site.config(), text).expect("written");
        self.grange.signal(self.grange.pid(), Signal::HUP);
        self.follow.line("reloading all farms");
    }

    /// Asks for a reload that must be refused, in these words.
    fn reload_in_vain(&mut self, text: &str, why: &str) {
        let good = std::fs::read(self.site.config()).expect("read");
        std::fs::write(self.site.config(), text).expect("written");
        self.grange.signal(self.grange.pid(), Signal::HUP);
        let line = self.follow.line("not reloaded: the old configuration stays");
        assert!(line.contains(why), "{line}");
        std::fs::write(self.site.config(), good).expect("written");
    }

    /// A copy of the program at a path of its own.
    fn copy(&mut self) -> PathBuf {
        self.copies += 1;
        let path = self.site.path(&format!("grange-{}", self.copies));
        std::fs::copy(program(), &path).expect("the program can be copied");
        path
    }

    /// Upgrades to a copy of the program, and checks that everything goes on as it.
    fn upgrade(&mut self) {
        let (pid, managers) = (self.grange.pid(), self.managers());
        let copy = self.copy();
        let output =
            run(Command::new(&copy).arg("upgrade").arg("--config").arg(self.site.config()));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert_eq!(self.managers(), managers, "the same processes go on");
        for pid in managers.into_iter().chain([pid]) {
            assert_eq!(executable(pid).as_deref(), Some(copy.as_path()), "process {pid}");
        }
        let scheduler = self.grange.workers("scheduler");
        let is_new = |pid: &u32| executable(*pid).as_deref() == Some(copy.as_path());
        assert!(scheduler.iter().all(is_new), "the ledger is the new program's");
    }

    /// Asks what runs to go on as something that is not fit for it.
    fn upgrade_in_vain(&mut self, program: &Path, why: &str) {
        let before = executable(self.grange.pid());
        let request = self.site.path("run/upgrade");
        std::fs::write(&request, format!("{}\n", program.display())).expect("written");
        std::fs::set_permissions(&request, PermissionsExt::from_mode(0o644)).expect("our own");
        self.grange.signal(self.grange.pid(), Signal::USR2);
        let line = self.follow.line("not upgraded: the old program goes on");
        assert!(line.contains(why), "{line}");
        assert_eq!(executable(self.grange.pid()), before);
        std::fs::remove_file(request).expect("our own");
    }

    fn managers(&self) -> Vec<u32> {
        let all = FARMS.iter().chain(&["requeue", "compact"]);
        all.map(|farm| self.grange.manager(farm)).collect()
    }

    /// Waits until only managers and the workers that serve now are left.
    fn settle(&self) {
        until("old workers have gone", || {
            let mut expected: BTreeSet<u32> = self.managers().into_iter().collect();
            for farm in FARMS {
                let farm = self.grange.farm(farm);
                let workers = farm["workers"].as_array()?.iter();
                let all = workers.clone().count();
                let ready = workers.filter(|worker| worker["state"] == "ready");
                let pids: Vec<u32> = ready
                    .filter_map(|worker| worker["pid"].as_u64())
                    .map(|pid| pid as u32)
                    .collect();
                if pids.len() != all {
                    return None;
                }
                expected.extend(pids);
            }
            let there: BTreeSet<u32> = descendants(self.grange.pid()).into_iter().collect();
            (there == expected && there.iter().all(|pid| state_of(*pid) != Some('Z'))).then_some(())
        });
    }

    /// What must be the same before and after.
    fn standing(&self) -> Standing {
        self.settle();
        let names = |folder: &str| {
            let entries = std::fs::read_dir(self.site.path(folder)).expect("a directory");
            let names = entries.map(|entry| entry.expect("an entry").file_name());
            names.map(|name| name.to_string_lossy().into_owned()).collect()
        };
        let managers = self.managers().into_iter().chain([self.grange.pid()]);
        // Each worker costs its manager two descriptors, and there may be more of them now.
        let workers_of = |pid: u32| {
            let serving = FARMS.iter().find(|farm| self.grange.manager(farm) == pid);
            serving.map_or(0, |farm| self.grange.workers(farm).len())
        };
        Standing {
            sockets: names("run/sockets"),
            admin: names("run/sockets/admin"),
            scoreboards: names("run/scoreboards"),
            descriptors: managers
                .map(|pid| (pid, descriptors(pid).expect("it runs") - 2 * workers_of(pid)))
                .collect(),
        }
    }

    fn memory(&self) -> Vec<(u32, u64)> {
        let pids = self.managers().into_iter().chain([self.grange.pid()]);
        pids.map(|pid| (pid, own_kib(pid).expect("it runs"))).collect()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Standing {
    sockets: BTreeSet<String>,
    admin: BTreeSet<String>,
    scoreboards: BTreeSet<String>,
    descriptors: Vec<(u32, usize)>,
}

/// Everything went through, and each message that was taken came once.
fn all_came_once(site: &Site, sink: &Sink, sessions: &Sessions) {
    assert!(sessions.failed.is_empty(), "{:#?}", sessions.failed);
    site.wait_empty();
    let tokens = sink.tokens();
    let lost: Vec<_> =
        sessions.accepted.iter().filter(|(token, _)| !tokens.contains_key(*token)).collect();
    assert!(lost.is_empty(), "taken and not delivered: {lost:?}");
    let twice: Vec<_> = tokens.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "nobody died, and these came more than once: {twice:?}");
    assert_eq!(tokens.len(), sessions.accepted.len(), "nothing else came");
}

/// Configurations to reload with, by turns, each different from the one before.
fn variants(site: &Site, second_port: u16) -> Vec<String> {
    let base = site.text();
    let with = |from: &str, to: &str| {
        assert!(base.contains(from), "{from}");
        base.replace(from, to)
    };
    let sink = site.sink.number;
    vec![
        with("start = 2, max = 2", "start = 1, max = 3"),
        with("retry = [\"1s\", \"2s\"]", "retry = [\"2s\", \"3s\"]"),
        with(
            "  { domain = \"*\"",
            &format!(
                "  {{ domain = \"second.example\", channel = \"second\", host = \"[127.0.0.1]:{sink}\" }},\n  {{ domain = \"*\""
            ),
        ) + "\n[channel.second]\nagent = \"smtp\"\n",
        with(
            "  { domain = \"*\"",
            &format!(
                "  {{ domain = \"third.example\", channel = \"smtp\", host = \"localhost:{sink}\" }},\n  {{ domain = \"*\""
            ),
        ),
        with(
            "service = \"mx\" }]",
            &format!(
                "service = \"mx\" }}, {{ address = \"127.0.0.1:{second_port}\", service = \"mx\" }}]"
            ),
        ),
        base.to_owned(),
    ]
}

#[test]
fn twenty_reloads_and_five_upgrades_under_load_lose_nothing() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let second = free_port();
    let grange = site.start();
    let mut operator = Operator::new(&site, &grange);
    let variants = variants(&site, second.number);
    let before = operator.standing();
    let load = Load::start(site.smtp.number, CLIENTS, RECIPIENTS);
    load.more(20);

    let (mut reloads, mut upgrades, mut memory) = (0, 0, Vec::new());
    for text in variants.iter().cycle().take(20) {
        operator.reload(text);
        reloads += 1;
        match reloads % 4 {
            // While the reload's old workers drain.
            0 => {
                operator.upgrade();
                upgrades += 1;
                load.more(20);
            }
            // One reload close upon the other.
            1 => load.more(3),
            _ => load.more(20),
        }
        match reloads {
            3 => assert_eq!(grange.farm("second")["alive"], true, "a new channel has its farm"),
            5 => {
                until("the new address greets", || {
                    Client::open(second.number).ok()?.reply().ok().filter(|it| it.code == 220)
                });
            }
            6 => {
                operator.reload_in_vain("hostname = 7\n", "hostname");
                // What only trying shows, and what only a restart can do.
                let taken = format!("127.0.0.1:{}", site.sink.number);
                let listens = format!("127.0.0.1:{}", site.smtp.number);
                operator.reload_in_vain(&site.text().replace(&listens, &taken), "listens there");
                let moved = site.text().replace("/run\"", "/elsewhere\"");
                operator.reload_in_vain(&moved, "by a restart");
                let text = operator.site.path("text");
                std::fs::write(&text, "no program\n").expect("written");
                operator.upgrade_in_vain(&text, "is no program");
                std::fs::set_permissions(&text, PermissionsExt::from_mode(0o755)).expect("ours");
                operator.upgrade_in_vain(&text, "cannot be executed");
                operator.upgrade_in_vain(Path::new("/bin/false"), "would not begin");
            }
            8 => memory = operator.memory(),
            _ => {}
        }
    }
    assert_eq!((reloads, upgrades), (20, 5));
    operator.reload(site.text());
    load.more(20);
    let sessions = load.stop();
    all_came_once(&site, &sink, &sessions);
    assert!(sessions.whole > 50, "{} sessions", sessions.whole);
    for farm in FARMS {
        assert_eq!(grange.farm(farm)["crashes"], 0, "{farm}");
    }
    assert_eq!(operator.standing(), before);
    for ((pid, first), (_, last)) in memory.iter().zip(operator.memory()) {
        assert!(last <= first + GROWTH_KIB, "process {pid} had {first} KiB and has {last}");
    }
    assert!(grange.stop().success());
}

/// Each farm under a manager of its own, which nobody supervises.
const ALONE: &[&str] =
    &["local", "smtp", "error", "scheduler", "router", "requeue", "compact", "smtpserver"];

#[test]
fn lone_managers_reload_and_are_upgraded_under_load() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let managers: Vec<_> = ALONE.iter().map(|farm| site.spawn(&["farm", farm])).collect();
    managers.last().expect("smtpserver's").wait_ready(|_| true);
    let load = Load::start(site.smtp.number, CLIENTS, RECIPIENTS);
    let mut follow = site.follow();
    let own = |running: &Running<'_>| own_kib(running.pid()).expect("it runs");
    let mut memory = Vec::new();
    for round in 0..10 {
        for (farm, manager) in ALONE.iter().zip(&managers) {
            manager.signal(manager.pid(), Signal::HUP);
            follow.line(&format!(" reloaded farm={farm} "));
        }
        load.more(10);
        if round == 4 {
            memory = managers.iter().map(own).collect();
        }
    }
    for ((farm, before), manager) in ALONE.iter().zip(memory).zip(&managers) {
        let after = own(manager);
        assert!(after <= before + GROWTH_KIB, "{farm} had {before} KiB and has {after}");
    }

    // One takes its new settings, the others are not asked.
    let text =
        site.text().replace("service = \"mx\" }]", "service = \"mx\" }]\nbanner = \"Second\"");
    std::fs::write(site.config(), text).expect("written");
    let smtpserver = managers.last().expect("smtpserver's");
    smtpserver.signal(smtpserver.pid(), Signal::HUP);
    until("the new settings hold", || {
        let greeting = Client::open(site.smtp.number).ok()?.reply().ok()?;
        greeting.text().contains("Second").then_some(())
    });
    // A broken file changes nothing.
    std::fs::write(site.config(), "hostname = 7\n").expect("written");
    smtpserver.signal(smtpserver.pid(), Signal::HUP);
    follow.line("not reloaded");
    std::fs::write(site.config(), site.text()).expect("written");

    for copy in ["second", "third"] {
        let copy = site.path(copy);
        std::fs::copy(program(), &copy).expect("the program can be copied");
        let output = run(Command::new(&copy).arg("upgrade").arg("--config").arg(site.config()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let runs_it = |one: &Running<'_>| executable(one.pid()).as_deref() == Some(copy.as_path());
        assert!(managers.iter().all(runs_it));
        load.more(20);
    }
    all_came_once(&site, &sink, &load.stop());
    for manager in managers.into_iter().rev() {
        assert!(manager.stop().success());
    }
}

#[test]
fn one_manager_of_several_reloads_alone() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let load = Load::start(site.smtp.number, CLIENTS, RECIPIENTS);
    let mut follow = site.follow();
    for farm in FARMS.iter().chain(FARMS) {
        let manager = grange.manager(farm);
        grange.signal(manager, Signal::HUP);
        follow.line(&format!(" reloaded farm={farm} "));
        load.more(10);
        assert_eq!(grange.manager(farm), manager);
    }
    all_came_once(&site, &sink, &load.stop());
    assert!(!follow.rest().contains("reloading all farms"));
    assert!(grange.stop().success());
}

/// What a service manager hears.
struct Systemd {
    socket: UnixDatagram,
    told: String,
}

impl Systemd {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket of our own");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, told: String::new() }
    }

    /// Waits until it is told this, and gives all that it was told up to then.
    fn until(&mut self, word: &str) -> String {
        let mut buffer = [0; 4096];
        while !self.told.lines().any(|line| line == word) {
            let length = self.socket.recv(&mut buffer);
            let length = length.unwrap_or_else(|error| panic!("{error}: {:?}", self.told));
            self.told.push_str(&String::from_utf8_lossy(&buffer[..length]));
            self.told.push('\n');
        }
        std::mem::take(&mut self.told)
    }
}

#[test]
fn a_service_manager_keeps_its_main_process_through_an_upgrade() {
    let site = Site::new();
    let path = site.path("notify");
    let mut systemd = Systemd::listen(&path);
    let log = std::fs::File::create(site.path("log")).expect("a log file");
    let mut command = site.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
    let mut grange = Process::spawn("grange", &mut command);
    let mut told = systemd.until("READY=1");
    // Installed over what runs, as a package does it.
    let copy = site.path("grange");
    for _ in 0..3 {
        let aside = site.path("grange.new");
        std::fs::copy(program(), &aside).expect("the program can be copied");
        std::fs::rename(aside, &copy).expect("our own file");
        let mut upgrade = Command::new(&copy);
        let output = run(upgrade.arg("upgrade").arg("--config").arg(site.config()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(executable(grange.pid()).as_ref(), Some(&copy), "not one that was deleted");
        let reloading = systemd.until("RELOADING=1");
        assert!(!reloading.contains("STOPPING"), "{reloading}");
        told.push_str(&reloading);
        told.push_str(&systemd.until("READY=1"));
        // The new program goes on to say that it lives.
        told.push_str(&systemd.until("WATCHDOG=1"));
    }
    // Who is told nothing of another main process goes on with the one it has.
    assert!(!told.contains("MAINPID"), "{told}");
    assert!(grange.stop().success());
    let told = systemd.until("STOPPING=1");
    assert!(!told.contains("RELOADING"), "{told}");
}
