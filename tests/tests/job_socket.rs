//! Job sockets seen from outside: by a person, by strangers, by programs that talk nonsense, and by an agent in Python.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use queue_postgres::testing;
use rustix::process::Signal;
use serde_json::Value;
use tests::{
    Burst, HttpServer, Process, Sink, Site, as_user, burst, find, is_root, program, run, until,
};

/// Sockets and the conversations they hold.
const SOCKETS: &[(&str, &str)] = &[
    ("router.route", "route"),
    ("router.verify", "verify"),
    ("scheduler.enqueue", "enqueue"),
    ("scheduler.known", "known"),
    ("scheduler.strike", "strike"),
    ("scheduler.outcome", "outcome"),
    ("admin/scheduler.admin", "admin"),
    ("smtp.deliver", "deliver"),
    ("local.deliver", "deliver"),
    ("error.deliver", "deliver"),
];

#[test]
fn socat_shows_the_hello() {
    let site = Site::new();
    let grange = site.start();
    for (socket, conversation) in SOCKETS {
        let mut socat = Command::new(find("socat"));
        socat.args(["-", &format!("UNIX-CONNECT:{}", site.socket(socket).display())]);
        socat.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut socat = Process::spawn("socat", &mut socat);
        let stdout = socat.child().stdout.take().expect("its standard output is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let hello: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{socket}: {error}: {line}"));
        assert_eq!(hello["method"], "hello", "{line}");
        let params = &hello["params"];
        assert_eq!(params["conversation"], *conversation);
        assert_eq!(params["versions"], serde_json::json!([1]));
        assert!(params["window"].as_u64().is_some_and(|window| window > 0), "{line}");
        let worker = params["worker"].as_str().expect("a worker's name");
        assert!(worker.contains('/'), "{worker}");
    }
    assert!(grange.stop().success());
}

#[test]
fn another_user_cannot_connect() {
    assert!(is_root(), "trying as another user needs root: run cargo xtask test as root");
    let site = Site::new();
    let grange = site.start();
    for (socket, _) in SOCKETS {
        let mut socat = as_user("daemon", "socat");
        let output = run(socat.args([
            "-u",
            &format!("UNIX-CONNECT:{}", site.socket(socket).display()),
            "-",
        ]));
        assert!(!output.status.success(), "{socket} lets anyone in");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("Permission denied"), "{socket}: {told}");
    }
    assert!(grange.stop().success());
}

#[test]
fn nonsense_is_answered_and_kills_nobody() {
    let site = Site::new();
    let grange = site.start();
    let before: Vec<u32> =
        ["router", "scheduler", "smtp"].iter().flat_map(|farm| grange.workers(farm)).collect();
    for (socket, _) in SOCKETS {
        nonsense(&site.socket(socket));
    }
    let after: Vec<u32> =
        ["router", "scheduler", "smtp"].iter().flat_map(|farm| grange.workers(farm)).collect();
    assert_eq!(before, after, "the same workers live");
    for farm in ["router", "scheduler", "smtp", "local", "error"] {
        assert_eq!(grange.farm(farm)["crashes"], 0);
    }
    assert!(grange.stop().success());
}

#[test]
fn a_job_that_is_said_again_changes_nothing() {
    said_again(&Site::new());
}

#[test]
fn a_job_that_is_said_again_changes_nothing_in_a_database() {
    let server = testing::shared();
    let url = server.url(&server.database());
    let queue = format!("store = {url:?}\n\n[queue.postgres]\nmay_lose = [\"fsync\"]");
    said_again(&Site::new().replace("store = \"spool\"", &queue));
}

/// Says a message's `route` and `enqueue` again: while it waits, and when it has been delivered.
fn said_again(site: &Site) {
    let grange = site.start();
    site.ok(&["queue", "suspend", "smtp"]);
    let Burst { accepted, .. } = burst(site.smtp.number, 1, 1, "someone@sink.example");
    let message = until("it is routed", || {
        site.queued().pop().filter(|message| message["state"] != "accepted")
    });
    let again = |what: &str| {
        let (id, handle, recipient) =
            (&message["id"], &message["handle"], &message["recipients"][0]);
        let route = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"route","deadline_ms":5000,"params":{{"handle":{handle},"id":{id},"routing":1}}}}"#
        );
        let recipient = serde_json::json!({
            "index": recipient["index"], "address": recipient["address"],
            "channel": recipient["channel"], "host": recipient["host"], "user": recipient["user"],
        });
        let enqueue = serde_json::json!({
            "jsonrpc": "2.0", "id": 2, "method": "enqueue", "deadline_ms": 5000,
            "params": {
                "handle": handle, "id": id, "routing": 1, "sender": message["sender"],
                "size": message["size"], "accepted_at": message["accepted_at"],
                "recipients": [recipient],
            },
        });
        for _ in 0..3 {
            let mut router = Peer::ready(&site.socket("router.route"));
            let answer = router.ask(&route);
            // A router cannot read what has been delivered, and says so.
            assert!(answer["result"].is_object() || answer["error"]["code"].is_i64(), "{answer}");
            let mut scheduler = Peer::ready(&site.socket("scheduler.enqueue"));
            let answer = scheduler.ask(&enqueue.to_string());
            assert_eq!(answer["result"], serde_json::json!({}), "{what}: {answer}");
        }
    };
    again("while it waits");
    assert_eq!(site.queued().len(), 1);
    let sink = Sink::start(site.sink.number);
    site.ok(&["queue", "resume", "smtp"]);
    site.wait_empty();
    again("when it has been delivered");
    site.wait_empty();
    // What might have been sent again would have been by the time that a message behind it is.
    let Burst { accepted: later, .. } = burst(site.smtp.number, 1, 1, "someone@sink.example");
    sink.wait(2);
    site.wait_empty();
    let expected = accepted.union(&later).map(|token| (token.clone(), 1));
    assert!(sink.tokens().into_iter().eq(expected), "{:?}", sink.tokens());
    assert!(grange.stop().success());
}

fn nonsense(socket: &Path) {
    // Before a version is chosen, nothing is done.
    let mut peer = Peer::connect(socket);
    assert_eq!(
        peer.ask(r#"{"jsonrpc":"2.0","id":1,"method":"route","params":{}}"#)["error"]["code"],
        -32600
    );
    // An unknown version ends the connection.
    let mut peer = Peer::connect(socket);
    peer.say(r#"{"jsonrpc":"2.0","method":"use","params":{"version":4711}}"#);
    peer.ends();
    let mut peer = Peer::ready(socket);
    assert_eq!(peer.ask("garbage")["error"]["code"], -32700);
    assert_eq!(peer.ask("[1,2,3]")["error"]["code"], -32600);
    assert_eq!(
        peer.ask(r#"{"jsonrpc":"2.0","id":2,"method":"frobnicate","params":{}}"#)["error"]["code"],
        -32601
    );
    for method in ["route", "verify", "enqueue", "known", "strike", "deliver", "show"] {
        let reply = peer.ask(&format!(
            r#"{{"jsonrpc":"2.0","id":3,"method":"{method}","params":{{"handle":7}}}}"#
        ));
        assert!(
            matches!(reply["error"]["code"].as_i64(), Some(-32601 | -32602)),
            "{method}: {reply}"
        );
    }
    assert_eq!(peer.ask(r#"{"jsonrpc":"2.0","id":"text","method":"ping"}"#)["id"], "text");
    // A reply to a question that was never asked.
    let mut peer = Peer::ready(socket);
    peer.say(r#"{"jsonrpc":"2.0","id":99,"result":{}}"#);
    peer.ends();
    // A line that never ends.
    let mut peer = Peer::ready(socket);
    let piece = vec![b'x'; 64 * 1024];
    // The server may have closed before all was written.
    let _ = (0..40).try_for_each(|_| peer.stream.get_mut().write_all(&piece));
    peer.ends();
    // Half a frame, and gone.
    let mut peer = Peer::ready(socket);
    peer.stream.get_mut().write_all(b"{\"jsonrpc\":\"2.0\",\"id\":5,\"meth").expect("written");
}

/// The asking end of a job socket.
struct Peer {
    stream: BufReader<UnixStream>,
}

impl Peer {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket)
            .unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut peer = Self { stream: BufReader::new(stream) };
        assert!(peer.line().is_some_and(|line| line.contains("\"hello\"")));
        peer
    }

    fn ready(socket: &Path) -> Self {
        let mut peer = Self::connect(socket);
        peer.say(r#"{"jsonrpc":"2.0","method":"use","params":{"version":1}}"#);
        peer
    }

    fn say(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).expect("written");
    }

    fn ask(&mut self, line: &str) -> Value {
        self.say(line);
        // What the server says of itself meanwhile is no answer.
        loop {
            let answer = self.line().unwrap_or_else(|| panic!("no answer to {line}"));
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            if answer.get("method").is_none() {
                return answer;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line),
        }
    }

    /// The server closes; what it says before does not matter.
    fn ends(mut self) {
        until("the server closes the connection", || {
            let mut line = Vec::new();
            match self.stream.read_until(b'\n', &mut line) {
                Ok(count) => (count == 0).then_some(()),
                Err(error) => {
                    assert_ne!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock,
                        "the connection stays"
                    );
                    Some(())
                }
            }
        });
    }
}

#[test]
fn an_agent_in_python_delivers() {
    let site = webhook_site();
    let grange = site.start();
    let web = HttpServer::start(Duration::ZERO);
    let mut agent = agent(&site, web.port, 8);
    let sent = burst(site.smtp.number, 100, 10, "hook@hook.example");
    until("100 are posted", || (web.posts().len() >= 100).then_some(()));
    site.wait_empty();
    let tokens = tokens(&web);
    assert!(tokens.keys().eq(sent.accepted.iter()));
    assert!(tokens.values().all(|count| *count == 1), "{tokens:?}");
    let post = web.posts().first().cloned().expect("a post");
    for header in [
        "X-Sender: sender@source.example",
        "X-Recipient: hook@hook.example",
        "Content-Type: message/rfc822",
    ] {
        assert!(post.headers.iter().any(|line| line == header), "{header}: {:?}", post.headers);
    }
    assert!(post.body.contains("Received: from client.example"), "{}", post.body);
    assert!(agent.stop().success(), "it drains at SIGTERM");
    assert!(grange.stop().success());
}

#[test]
fn killing_the_agent_loses_nothing() {
    const THREADS: usize = 4;
    let site = webhook_site();
    let grange = site.start();
    let web = HttpServer::start(Duration::from_millis(100));
    let first = agent(&site, web.port, THREADS);
    let sent = burst(site.smtp.number, 100, 10, "hook@hook.example");
    until("some are posted", || (web.posts().len() >= 20).then_some(()));
    first.signal(Signal::KILL);
    drop(first);
    assert!(web.posts().len() < 100, "it was killed in the middle");
    let _second = agent(&site, web.port, THREADS);
    site.wait_empty();
    let tokens = tokens(&web);
    let missing: Vec<_> = sent.accepted.iter().filter(|it| !tokens.contains_key(*it)).collect();
    let strange: Vec<_> = tokens.keys().filter(|it| !sent.accepted.contains(*it)).collect();
    assert!(
        missing.is_empty() && strange.is_empty(),
        "missing {missing:?}, strange {strange:?}, unsure {:?}",
        sent.unsure
    );
    let duplicates: usize = tokens.values().map(|count| count - 1).sum();
    assert!(duplicates <= THREADS, "{duplicates} duplicates of {THREADS} in flight");
    assert!(grange.stop().success());
}

fn webhook_site() -> Site {
    Site::new()
        .replace(
            "  { domain = \"*\"",
            "  { domain = \"hook.example\", channel = \"webhook\" },\n  { domain = \"*\"",
        )
        .append("\n[channel.webhook]\nsocket = \"webhook.deliver\"\n")
}

/// Starts the example agent, as its page says.
fn agent(site: &Site, port: u16, threads: usize) -> Process {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/agent-webhook.py");
    // The agent becomes the workers' user, who may not reach the place where the program was built.
    let grange = site.path("grange");
    if !grange.is_file() {
        std::fs::copy(program(), &grange).expect("the program can be copied");
    }
    let log = std::fs::File::create(site.path("agent.log")).expect("a log file");
    let mut command = Command::new(find("python3"));
    command.arg(source).arg("--config").arg(site.config()).arg("--grange").arg(grange);
    command.args([
        "--url",
        &format!("http://127.0.0.1:{port}/mail"),
        "--threads",
        &threads.to_string(),
    ]);
    command.stdin(Stdio::null()).stderr(log);
    let agent = Process::spawn("agent-webhook", &mut command);
    let socket = site.socket("webhook.deliver");
    until("the agent listens", || UnixStream::connect(&socket).ok());
    agent
}

fn tokens(web: &HttpServer) -> BTreeMap<String, usize> {
    let mut tokens = BTreeMap::new();
    for post in web.posts().iter() {
        let line = post.body.lines().find_map(|line| line.strip_prefix("Message-ID: <"));
        let token = line.and_then(|line| line.split_once('@')).map_or("none", |(token, _)| token);
        *tokens.entry(token.to_owned()).or_default() += 1;
    }
    tokens
}

/// What an operator's own agent may do wrong, and what the scheduler must not mind.
const BAD_AGENTS: &[(&str, &str)] = &[
    ("silent", ""),
    ("garbage", "\u{0}\u{1}garbage\n{}\n[]\n\n"),
    (
        "unknown-version",
        "{\"jsonrpc\":\"2.0\",\"method\":\"hello\",\"params\":{\"conversation\":\"deliver\",\"versions\":[99],\"features\":[],\"window\":10,\"window_bytes\":100000,\"worker\":\"bad/1\",\"pid\":1,\"workers\":1,\"crashed\":[]}}\n",
    ),
    (
        "another-conversation",
        "{\"jsonrpc\":\"2.0\",\"method\":\"hello\",\"params\":{\"conversation\":\"route\",\"versions\":[1],\"features\":[],\"window\":10,\"window_bytes\":100000,\"worker\":\"bad/1\",\"pid\":1,\"workers\":1,\"crashed\":[]}}\n",
    ),
    (
        "unknown-id",
        "{\"jsonrpc\":\"2.0\",\"method\":\"hello\",\"params\":{\"conversation\":\"deliver\",\"versions\":[1],\"features\":[],\"window\":10,\"window_bytes\":100000,\"worker\":\"bad/1\",\"pid\":1,\"workers\":1,\"crashed\":[]}}\n{\"jsonrpc\":\"2.0\",\"id\":4711,\"result\":{\"outcomes\":[]}}\n",
    ),
    (
        "many-workers",
        "{\"jsonrpc\":\"2.0\",\"method\":\"hello\",\"params\":{\"conversation\":\"deliver\",\"versions\":[1],\"features\":[],\"window\":4294967295,\"window_bytes\":99999999999,\"worker\":\"bad/1\",\"pid\":1,\"workers\":4294967295,\"crashed\":[1,2,3]}}\n",
    ),
];

#[test]
fn an_agent_that_talks_nonsense_harms_nobody() {
    let mut site = Site::new();
    for (name, _) in BAD_AGENTS {
        let route = format!(
            "  {{ domain = \"{name}.example\", channel = \"{name}\" }},\n  {{ domain = \"*\""
        );
        site = site
            .replace("  { domain = \"*\"", &route)
            .append(&format!("\n[channel.{name}]\nsocket = \"{name}.deliver\"\n"));
    }
    let grange = site.start();
    let scheduler = grange.workers("scheduler");
    for (name, words) in BAD_AGENTS {
        serve_badly(&site.socket(&format!("{name}.deliver")), words.as_bytes().to_vec());
    }
    let mut client = tests::Client::ready(site.smtp.number);
    for round in 0..5 {
        for name in BAD_AGENTS.iter().map(|(name, _)| *name) {
            let recipient = format!("r{round}@{name}.example");
            let reply = client
                .message("alice@example.test", &[&recipient], "Subject: x\r\n\r\n")
                .expect("a reply");
            assert_eq!(reply.code, 250);
        }
        let recipient = format!("r{round}@example.test");
        assert_eq!(
            client
                .message("alice@example.test", &[&recipient], "Subject: x\r\n\r\n")
                .expect("a reply")
                .code,
            250
        );
        until("others are served meanwhile", || {
            site.mailbox("example.test", &format!("r{round}")).pop()
        });
    }
    assert_eq!(site.queued().len(), 5 * BAD_AGENTS.len(), "nothing is lost");
    assert_eq!(grange.workers("scheduler"), scheduler, "the scheduler lives");
    assert_eq!(grange.farm("scheduler")["crashes"], 0);
    assert!(grange.stop().success());
}

/// Says the same to everyone who connects, reads what they say, and never answers.
fn serve_badly(socket: &Path, words: Vec<u8>) {
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("a socket of our own");
    // The scheduler is another user than we are.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(socket, open).expect("our own socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let words = words.clone();
            std::thread::spawn(move || {
                if stream.write_all(&words).is_ok() {
                    let _ = std::io::copy(&mut stream, &mut std::io::sink());
                }
            });
        }
    });
}
