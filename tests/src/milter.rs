//! A milter of the test's own, written with the independent library pymilter: it writes down what it hears and does what it is told.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Port, Process, free_port, open_to, until};

/// `every.py`, whose first lines say what a plan is.
const SCRIPT: &str = include_str!("../tests/milters/every.py");

/// The milter. Dropped, it is ended.
#[derive(Debug)]
pub struct Milter {
    // Ended before its folder goes.
    process: Option<Process>,
    folder: TempDir,
    name: String,
    plan: Value,
    port: Option<Port>,
    /// Whether it wants the white space before values as it is.
    leading_space: bool,
}

/// What it heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Which of its connections, from 1 on.
    pub session: u64,
    /// The callback's name.
    pub callback: String,
    /// What the callback was given.
    pub arguments: Vec<String>,
    /// The macros that can be read then.
    pub macros: BTreeMap<String, String>,
}

impl Milter {
    /// Starts one on a named socket. Messages order it in `X-Do-NAME`.
    pub fn start(name: &str, plan: &Value) -> Self {
        Self::begin(name, plan, None, false)
    }

    /// Starts one on a port of 127.0.0.1.
    pub fn start_tcp(name: &str, plan: &Value) -> Self {
        Self::begin(name, plan, Some(free_port()), false)
    }

    /// Starts one that asks for header values with the white space before them, and gives them so.
    pub fn start_with_leading_space(name: &str, plan: &Value) -> Self {
        Self::begin(name, plan, None, true)
    }

    fn begin(name: &str, plan: &Value, port: Option<Port>, leading_space: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("milter-").tempdir().expect("a folder");
        open_to(folder.path(), 0o755);
        let (name, plan) = (name.to_owned(), plan.clone());
        let mut milter = Self { process: None, folder, name, plan, port, leading_space };
        milter.restart();
        milter
    }

    /// Starts it again, after it was killed.
    pub fn restart(&mut self) {
        let socket = match &self.port {
            Some(port) => format!("inet:{}@127.0.0.1", port.number),
            None => format!("unix:{}", self.socket().display()),
        };
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-c").arg(SCRIPT).args([&self.name, &socket]).arg(self.log());
        command.arg(self.plan.to_string()).stdin(Stdio::null());
        if self.leading_space {
            command.env("LEADING_SPACE", "1");
        }
        self.process = Some(Process::spawn("the milter", &mut command));
        until("the milter listens", || match &self.port {
            Some(port) => std::net::TcpStream::connect(("127.0.0.1", port.number)).map(drop).ok(),
            None => UnixStream::connect(self.socket()).map(drop).ok(),
        });
    }

    /// Ends it as a crash does, and waits until it has gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            until("the milter has gone", || process.ended());
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("socket")
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    /// Where it listens, as `milter` of a filter names it.
    pub fn endpoint(&self) -> String {
        match &self.port {
            Some(port) => format!("inet:127.0.0.1:{}", port.number),
            None => format!("unix:{}", self.socket().display()),
        }
    }

    /// What it heard so far, in order.
    pub fn heard(&self) -> Vec<Heard> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        // The last line may not be whole.
        let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| heard(&serde_json::from_str(line).expect("JSON"))).collect()
    }

    /// The arguments of all calls of one callback, in order.
    pub fn calls(&self, callback: &str) -> Vec<Vec<String>> {
        let heard = self.heard().into_iter().filter(|one| one.callback == callback);
        heard.map(|one| one.arguments).collect()
    }
}

fn heard(line: &Value) -> Heard {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let arguments = line["arguments"].as_array().expect("a list");
    let macros = line["macros"].as_object().expect("a map");
    Heard {
        session: line["session"].as_u64().expect("a number"),
        callback: text(&line["callback"]),
        arguments: arguments.iter().map(text).collect(),
        macros: macros.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
    }
}
