//! Journeys of messages, told from the farms' log.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::Lines;

/// The most journeys remembered.
const JOURNEYS_MAX: usize = 1000;
/// The most lines remembered that belong to no message.
const OTHER_LINES_MAX: usize = 40;
/// Fields shown in this order; others follow.
const FIELDS_FIRST: [&str; 8] =
    ["sender", "recipient", "recipients", "client", "host", "remote", "status", "reply"];
/// Fields not shown again in every line.
const FIELDS_HIDDEN: [&str; 6] = ["time", "worker", "level", "message", "id", "handle"];

/// What is known of each message. Cheap to clone.
#[derive(Clone)]
pub(super) struct Journeys {
    inner: Rc<RefCell<Inner>>,
}

struct Inner {
    quiet: bool,
    lines: HashMap<String, Vec<String>>,
    order: VecDeque<String>,
    /// Reports by the message they are about.
    reports: HashMap<String, Vec<String>>,
    other: VecDeque<String>,
    heard: u64,
}

impl Journeys {
    /// Begins to gather; unless `quiet`, each step is shown as it happens.
    pub(super) fn new(quiet: bool) -> Self {
        let inner = Inner {
            quiet,
            lines: HashMap::new(),
            order: VecDeque::new(),
            reports: HashMap::new(),
            other: VecDeque::new(),
            heard: 0,
        };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Reads the log to its end.
    pub(super) async fn follow<R>(self, mut lines: Lines<R>)
    where
        R: tokio::io::AsyncBufRead + Unpin,
    {
        while let Ok(Some(line)) = lines.next_line().await {
            self.inner.borrow_mut().add(&line);
        }
    }

    /// Waits until the log has been quiet for a moment.
    pub(super) async fn settle(&self) {
        for _ in 0..20 {
            let before = self.inner.borrow().heard;
            tokio::time::sleep(Duration::from_millis(60)).await;
            if self.inner.borrow().heard == before {
                return;
            }
        }
    }

    /// Tells one message's journey, and those of the reports it caused.
    pub(super) fn tell(&self, id: &str) {
        let inner = self.inner.borrow();
        let mut ids = vec![id.to_owned()];
        let mut index = 0;
        while let Some(id) = ids.get(index).cloned() {
            for line in inner.lines.get(&id).into_iter().flatten() {
                println!("  {line}");
            }
            ids.extend(inner.reports.get(&id).into_iter().flatten().cloned());
            index += 1;
        }
    }

    /// Tells what the farms said besides, when something went wrong.
    pub(super) fn tell_trouble(&self) {
        for line in &self.inner.borrow().other {
            println!("  {line}");
        }
    }
}

impl Inner {
    fn add(&mut self, line: &str) {
        self.heard += 1;
        let Ok(Value::Object(event)) = serde_json::from_str(line) else {
            self.keep_other(line.to_owned());
            return;
        };
        let told = sentence(&event);
        let Some(id) = event.get("id").and_then(Value::as_str) else {
            self.keep_other(told);
            return;
        };
        if let Some(about) = event.get("about").and_then(Value::as_str) {
            self.reports.entry(about.to_owned()).or_default().push(id.to_owned());
        }
        if !self.quiet {
            println!("{id}  {told}");
        }
        if !self.lines.contains_key(id) {
            self.order.push_back(id.to_owned());
            if self.order.len() > JOURNEYS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.lines.remove(&oldest);
                self.reports.remove(&oldest);
            }
        }
        self.lines.entry(id.to_owned()).or_default().push(told);
    }

    fn keep_other(&mut self, line: String) {
        if self.other.len() == OTHER_LINES_MAX {
            self.other.pop_front();
        }
        self.other.push_back(line);
    }
}

/// An event as a line: who, what, and the fields that tell more.
fn sentence(event: &Map<String, Value>) -> String {
    let text = |key: &str| match event.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let mut line = format!("{:<16} {:<10}", text("worker"), text("message"));
    let first = FIELDS_FIRST.iter().copied().filter(|name| event.contains_key(*name));
    let rest = event
        .keys()
        .map(String::as_str)
        .filter(|name| !FIELDS_FIRST.contains(name) && !FIELDS_HIDDEN.contains(name));
    for name in first.chain(rest) {
        line.push_str(&format!(" {name}={}", text(name)));
    }
    line
}
