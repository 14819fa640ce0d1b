//! Programs of different versions: on job sockets while some are newer than others, and over a queue that a newer one wrote.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Client, Load, Manner, Site, executable, program, until};

/// An agent that stands in for one of another version: it delivers by taking note.
struct Agent {
    shared: Arc<Shared>,
}

struct Shared {
    versions: Vec<u32>,
    /// The version that each connection has chosen.
    chosen: Mutex<Vec<u64>>,
    /// Message ids, as often as each was delivered.
    delivered: Mutex<BTreeMap<String, usize>>,
    connections: Mutex<Vec<UnixStream>>,
    draining: AtomicBool,
    /// Nothing is answered until it is let go.
    holds: AtomicBool,
}

impl Agent {
    /// Serves a socket from now on, as a new worker does: whoever served it before is connected to no more.
    fn serve(socket: &Path, versions: &[u32]) -> Self {
        let aside = socket.with_extension("new");
        let listener = UnixListener::bind(&aside).expect("a socket of our own");
        // The scheduler is another user than we are.
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&aside, open).expect("our own socket");
        std::fs::rename(&aside, socket).expect("our own socket");
        let shared = Arc::new(Shared {
            versions: versions.to_vec(),
            chosen: Mutex::default(),
            delivered: Mutex::default(),
            connections: Mutex::default(),
            draining: AtomicBool::new(false),
            holds: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = accepting.clone();
                std::thread::spawn(move || {
                    // The scheduler may leave at any time.
                    let _ = shared.converse(stream);
                });
            }
        });
        Self { shared }
    }

    /// Says to everyone that it takes no more.
    fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        for stream in self.shared.connections.lock().expect("no panic").iter_mut() {
            let _ = say(stream, &json!({"jsonrpc": "2.0", "method": "drain", "params": {}}));
        }
    }

    fn hold(&self, holds: bool) {
        self.shared.holds.store(holds, Ordering::Release);
    }

    fn chosen(&self) -> Vec<u64> {
        self.shared.chosen.lock().expect("no panic").clone()
    }

    fn delivered(&self) -> BTreeMap<String, usize> {
        self.shared.delivered.lock().expect("no panic").clone()
    }
}

fn say(stream: &mut UnixStream, frame: &Value) -> std::io::Result<()> {
    stream.write_all(format!("{frame}\n").as_bytes())
}

impl Shared {
    fn converse(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let hello = json!({
            "conversation": "deliver", "versions": self.versions, "features": [], "window": 10,
            "window_bytes": 1_000_000, "worker": "second/1", "pid": std::process::id(),
            "workers": 1, "crashed": [],
        });
        say(&mut stream, &json!({"jsonrpc": "2.0", "method": "hello", "params": hello}))?;
        self.connections.lock().expect("no panic").push(stream.try_clone()?);
        for line in BufReader::new(stream.try_clone()?).lines() {
            let frame: Value = serde_json::from_str(&line?)?;
            let (id, params) = (&frame["id"], &frame["params"]);
            match frame["method"].as_str() {
                Some("use") => {
                    let version = params["version"].as_u64().unwrap_or_default();
                    self.chosen.lock().expect("no panic").push(version);
                }
                Some("deliver") if self.draining.load(Ordering::Acquire) => {
                    let error = json!({"code": -32001, "message": "not taken"});
                    say(&mut stream, &json!({"jsonrpc": "2.0", "id": id, "error": error}))?;
                }
                Some("deliver") => {
                    until("it may be answered", || {
                        (!self.holds.load(Ordering::Acquire)).then_some(())
                    });
                    let message = params["id"].as_str().unwrap_or_default().to_owned();
                    *self.delivered.lock().expect("no panic").entry(message).or_default() += 1;
                    let recipients = params["recipients"].as_array().into_iter().flatten();
                    let words = json!({"status": "2.0.0", "text": "taken", "report": "final"});
                    let outcomes: Vec<Value> = recipients
                        .map(|one| json!({"index": one["index"], "outcome": {"delivered": words}}))
                        .collect();
                    let result = json!({"outcomes": outcomes});
                    say(&mut stream, &json!({"jsonrpc": "2.0", "id": id, "result": result}))?;
                }
                Some("ping") => {
                    say(&mut stream, &json!({"jsonrpc": "2.0", "id": id, "result": {}}))?
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A site whose mail for `second.example` goes to a program of somebody else's.
fn site() -> Site {
    Site::new()
        .replace(
            "  { domain = \"*\"",
            "  { domain = \"second.example\", channel = \"second\" },\n  { domain = \"*\"",
        )
        .append("\n[channel.second]\nsocket = \"second.deliver\"\n")
}

fn send(site: &Site) -> String {
    let mut client = Client::ready(site.smtp.number);
    let reply = client.message("alice@example.test", &["bob@second.example"], "Subject: x\r\n\r\n");
    reply.expect("a reply").queued_as().expect("the reply names the message")
}

/// Each message that was taken came once, to one of the agents.
fn came_once(accepted: &BTreeSet<String>, agents: &[&Agent]) {
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for (id, count) in agents.iter().flat_map(|agent| agent.delivered()) {
        *all.entry(id).or_default() += count;
    }
    assert!(all.keys().eq(accepted), "taken: {accepted:?}, delivered: {all:?}");
    assert!(all.values().all(|count| *count == 1), "{all:?}");
}

#[test]
fn agents_of_several_versions_take_mail_while_one_follows_the_other() {
    let site = site();
    let grange = site.start();
    let socket = site.socket("second.deliver");
    // One of the present, a newer one that still knows the present version, and one that does no longer.
    let present = Agent::serve(&socket, &[1]);
    let load = Load::start(site.smtp.number, &[Manner::SHORT; 3], &["bob@second.example"]);
    load.more(20);
    let newer = Agent::serve(&socket, &[2, 1]);
    present.drain();
    until("the newer one is used", || (newer.delivered().len() > 20).then_some(()));
    assert!(newer.chosen().iter().all(|version| *version == 1), "{:?}", newer.chosen());

    let mut follow = site.follow();
    let newest = Agent::serve(&socket, &[3, 2]);
    newer.drain();
    let line = follow.line("no connection");
    assert!(line.contains("it speaks the versions [3, 2], and here [1] are spoken"), "{line}");
    // Nobody is told more often than it helps.
    load.more(50);
    assert!(!follow.rest().contains("no connection"));
    assert!(newest.chosen().is_empty() && newest.delivered().is_empty());

    let again = Agent::serve(&socket, &[2, 1]);
    until("what has waited is taken", || (again.delivered().len() > 20).then_some(()));
    let sessions = load.stop();
    assert!(sessions.failed.is_empty(), "{:?}", sessions.failed);
    site.wait_empty();
    let accepted = sessions.accepted.into_values().collect();
    came_once(&accepted, &[&present, &newer, &again]);
    assert!(grange.stop().success());
}

#[test]
fn a_client_without_a_common_version_is_left_with_a_reason() {
    let site = Site::new();
    let grange = site.start();
    let mut follow = site.follow();
    let mut stream = UnixStream::connect(site.socket("router.route")).expect("it is served");
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
    let hello = lines.next().expect("a line").expect("a line");
    assert!(hello.contains("\"versions\":[1]"), "{hello}");
    say(&mut stream, &json!({"jsonrpc": "2.0", "method": "use", "params": {"version": 2}}))
        .expect("written");
    let last: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(last[0].contains("choose one of the versions [1]"), "{last:?}");
    assert_eq!(last.len(), 1, "the connection has ended");
    let line = follow.line("a peer chose no version that is spoken here");
    assert!(line.contains("chosen=2") && line.contains("[1]"), "{line}");
    assert!(grange.stop().success());
}

#[test]
fn a_channel_moves_to_another_socket_at_a_reload() {
    let site = site();
    let grange = site.start();
    let first = Agent::serve(&site.socket("second.deliver"), &[1]);
    let mut accepted = BTreeSet::from([send(&site)]);
    until("it is delivered", || (first.delivered().len() == 1).then_some(()));
    // What is in the first one's hand is answered there.
    first.hold(true);
    accepted.insert(send(&site));
    until("it is in hand", || {
        let status = site.json(&["status", "--json"]);
        (status["queue"]["active"] == 1).then_some(())
    });
    let scheduler = grange.workers("scheduler");
    let second = Agent::serve(&site.socket("moved.deliver"), &[1]);
    let text = site.text().replace("socket = \"second.deliver\"", "socket = \"moved.deliver\"");
    std::fs::write(site.config(), text).expect("written");
    let mut follow = site.follow();
    grange.signal(grange.pid(), Signal::HUP);
    follow.line("new settings of the scheduler");
    accepted.insert(send(&site));
    until("the second one has it", || (second.delivered().len() == 1).then_some(()));
    assert_eq!(first.delivered().len(), 1);
    first.hold(false);
    site.wait_empty();
    assert_eq!(grange.workers("scheduler"), scheduler, "the same worker");
    assert_eq!((first.delivered().len(), second.delivered().len()), (2, 1));
    came_once(&accepted, &[&first, &second]);
    assert!(grange.stop().success());
}

/// The sum that ends a head: CRC-32C.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    let all = bytes
        .iter()
        .fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)));
    !all
}

/// Makes the head of a segment or a log one of this version.
fn set_version(path: &Path, version: u32) {
    let mut bytes = std::fs::read(path).expect("a file of the queue");
    assert!(bytes.starts_with(b"GrangeQ\n"), "{}", path.display());
    assert_eq!(crc32c(&bytes[..60]).to_le_bytes(), bytes[60..64], "{}", path.display());
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let sum = crc32c(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&sum);
    std::fs::write(path, bytes).expect("written");
}

/// Every file below a directory, with what is in it.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), std::fs::read(&path).expect("a file"));
        }
    }
    all
}

/// The first file with this ending, below a directory.
fn file_of(directory: &Path, ending: &str) -> PathBuf {
    let all = contents(directory).into_iter();
    let mut found = all.filter(|(path, bytes)| {
        path.to_string_lossy().ends_with(ending) && bytes.starts_with(b"GrangeQ\n")
    });
    found.next().unwrap_or_else(|| panic!("no {ending}")).0
}

#[test]
fn a_queue_that_a_newer_program_wrote_is_refused_and_left_as_it_is() {
    let site = Site::new();
    let grange = site.start();
    // It stays: nobody listens at its next hop.
    let mut client = Client::ready(site.smtp.number);
    let reply = client.message("alice@example.test", &["bob@sink.example"], "Subject: x\r\n\r\n");
    let id = reply.expect("a reply").queued_as().expect("the reply names the message");
    assert!(grange.stop().success());
    let spool = site.path("data/spool");
    let (format, segment, log) =
        (spool.join("format"), file_of(&spool, ".seg"), file_of(&spool, ".log"));
    for path in [&format, &segment, &log] {
        let before = std::fs::read(path).expect("a file");
        if *path == format {
            std::fs::write(path, "2\n").expect("written");
        } else {
            set_version(path, 2);
        }
        let left = contents(&site.path("data"));
        let commands: &[&[&str]] = &[
            &["check"],
            &["run"],
            &["farm", "scheduler"],
            &["farm", "smtpserver"],
            &["queue", "list"],
            &["queue", "show", &id],
            &["queue", "show", "--raw", &id],
            &["spool", "check"],
            &["upgrade"],
        ];
        for arguments in commands {
            let output = site.run(arguments);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{arguments:?}: {told}");
            for words in [&*path.to_string_lossy(), "has format \"2\",", "up to 1", "newer grange"]
            {
                assert!(told.contains(words), "{arguments:?}: {words} is not in {told}");
            }
        }
        assert!(contents(&site.path("data")) == left, "nothing is changed");
        std::fs::write(path, before).expect("written");
    }
    // All of it is still there.
    let grange = site.start();
    assert!(site.ok(&["queue", "list"]).contains(&id));
    assert!(grange.stop().success());
}

#[test]
fn a_program_too_old_for_the_queue_is_not_gone_on_as() {
    let site = Site::new();
    let grange = site.start();
    let before = executable(grange.pid());
    let copy = site.path("second");
    std::fs::copy(program(), &copy).expect("the program can be copied");
    std::fs::write(site.path("data/spool/format"), "2\n").expect("written");
    let mut follow = site.follow();
    let request = site.path("run/upgrade");
    std::fs::write(&request, format!("{}\n", copy.display())).expect("written");
    std::fs::set_permissions(&request, PermissionsExt::from_mode(0o644)).expect("our own");
    grange.signal(grange.pid(), Signal::USR2);
    follow.line("has format \"2\",");
    let line = follow.line("not upgraded: the old program goes on");
    assert!(line.contains("would not begin") && line.contains("78"), "{line}");
    assert_eq!(executable(grange.pid()), before);
    std::fs::write(site.path("data/spool/format"), "1\n").expect("written");
    let mut client = Client::ready(site.smtp.number);
    let reply = client.message("alice@example.test", &["bob@example.test"], "Subject: x\r\n\r\n");
    assert_eq!(reply.expect("a reply").code, 250);
    until("it is delivered", || site.mailbox("example.test", "bob").pop());
    assert!(grange.stop().success());
}
