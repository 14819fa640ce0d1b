//! Logs: one line per event, text for people or JSON for programs, written by a thread of its own.
//!
//! A worker never waits for its log: lines go into a bounded buffer, and what finds no room is counted and said later.
//! Everything from outside is escaped, so that no message can write a line of its own.

pub mod output;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use config::Problem;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use self::output::Output;

/// The `[log]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `text` for people, `json` for programs. Default: `text`.
    pub format: Format,
    /// The least important level that is logged: error, warn, info, debug or trace. Default: `info`.
    pub level: LevelName,
    /// Where to: `stderr`, or the path of a file that lines are appended to. Started as root, `run` makes the file and gives it to
    /// the workers' user. A file that was moved away is written on until another stands under its name, which SIGHUP makes.
    /// Default: `stderr`.
    pub to: String,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `TIME WORKER LEVEL what happened key=value …`
    Text,
    /// One JSON object.
    Json,
}

/// The names of the levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LevelName {
    /// What somebody must mend.
    Error,
    /// What somebody should know.
    Warn,
    /// Each message's steps.
    Info,
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Text, level: LevelName::Info, to: "stderr".to_owned() }
    }
}

impl Settings {
    /// Checks for contradictions.
    pub fn check(&self) -> Result<(), Problem> {
        if self.to == "stderr" || self.to.starts_with('/') {
            return Ok(());
        }
        Err(Problem::new("log.to", format!("{:?}", self.to), "\"stderr\" or the path of a file"))
    }

    /// Checks that the log can be on this host.
    pub fn check_here(&self) -> Result<(), Problem> {
        let path = Path::new(&self.to);
        let Some(folder) = path.parent().filter(|_| self.to != "stderr") else { return Ok(()) };
        let wrong = if !folder.is_dir() {
            format!("there is no directory {}", folder.display())
        } else if path.is_dir() {
            format!("{} is a directory", self.to)
        } else {
            return Ok(());
        };
        Err(Problem::new(
            "log.to",
            wrong,
            "\"stderr\" or the path of a file in a directory that exists",
        ))
    }

    fn level(&self) -> Level {
        match self.level {
            LevelName::Error => Level::ERROR,
            LevelName::Warn => Level::WARN,
            LevelName::Info => Level::INFO,
            LevelName::Debug => Level::DEBUG,
            LevelName::Trace => Level::TRACE,
        }
    }
}

/// The most bytes of lines that wait for the writer.
const BUFFER_BYTES_MAX: usize = 4 << 20;
/// How long the writer gathers lines before it writes them in one go.
const GATHER: Duration = Duration::from_millis(20);
/// The longest value of one field, in characters; the rest is cut.
const VALUE_CHARACTERS_MAX: usize = 1024;

/// Installs the log of a process that must stay of one thread, a manager's: each line is written at once.
pub fn start_direct(settings: &Settings, who: &str) {
    let output = Mutex::new(Output::open(&settings.to));
    install(settings, who, move |line| {
        let mut output = output.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A log that cannot be written must not stop mail.
        let _ = output.write(line.as_bytes());
    });
}

/// Installs the log of this process; `who` is the worker's or command's name. The guard writes what is left when dropped.
pub fn start(settings: &Settings, who: &str) -> Flush {
    let shared = Arc::new(Shared { buffer: Mutex::default(), filled: Condvar::new() });
    let writer = Arc::clone(&shared);
    let to = settings.to.clone();
    let lost = Lost { format: settings.format, who: who.to_owned() };
    let spawned = std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(128 << 10)
        .spawn(move || write_lines(&writer, &to, &lost));
    if let Err(error) = spawned {
        eprintln!("cannot start the log's thread: {error}");
    }
    let lines = Arc::clone(&shared);
    install(settings, who, move |line| lines.add(line));
    let flush = Flush { shared };
    flush_on_panic(flush.clone());
    flush
}

fn install(settings: &Settings, who: &str, sink: impl Fn(&str) + Send + Sync + 'static) {
    let layer = Lines { sink: Box::new(sink), format: settings.format, who: who.to_owned() };
    let filtered =
        layer.with_filter(tracing_subscriber::filter::LevelFilter::from_level(settings.level()));
    let installed =
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filtered));
    if installed.is_err() {
        eprintln!("the log was started twice");
    }
}

/// A bug ends the process at once: its last words must not stay in the buffer.
fn flush_on_panic(flush: Flush) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(panic = %panic, "bug");
        flush.now();
        before(panic);
    }));
}

/// Writes what is left of the log when dropped.
#[derive(Clone)]
pub struct Flush {
    shared: Arc<Shared>,
}

impl Flush {
    fn now(&self) {
        let deadline = std::time::Instant::now() + Duration::from_millis(500);
        loop {
            self.shared.filled.notify_one();
            if self.shared.lock().is_idle() || std::time::Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.now();
    }
}

struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
}

#[derive(Default)]
struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    writing: bool,
}

impl Buffer {
    fn is_idle(&self) -> bool {
        self.lines.is_empty() && !self.writing
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn add(&self, line: &str) {
        let mut buffer = self.lock();
        if buffer.lines.len() + line.len() > BUFFER_BYTES_MAX {
            buffer.dropped += 1;
            return;
        }
        let first = buffer.is_idle();
        buffer.lines.extend_from_slice(line.as_bytes());
        drop(buffer);
        if first {
            self.filled.notify_one();
        }
    }
}

/// The writer's loop: waits for the first line, gathers more for a moment, writes all of them at once.
fn write_lines(shared: &Shared, to: &str, lost: &Lost) {
    let mut output = Output::open(to);
    let mut lines = Vec::new();
    loop {
        let mut buffer = shared.lock();
        buffer.writing = false;
        while buffer.lines.is_empty() {
            buffer = shared.filled.wait(buffer).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        let (mut buffer, _) = shared
            .filled
            .wait_timeout(buffer, GATHER)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.clear();
        std::mem::swap(&mut lines, &mut buffer.lines);
        let dropped = std::mem::take(&mut buffer.dropped);
        buffer.writing = true;
        drop(buffer);
        if dropped > 0 {
            lines.extend_from_slice(lost.line(dropped).as_bytes());
        }
        // A log that cannot be written must not stop mail: the lines are lost, and nobody can be told.
        let _ = output.write(&lines);
    }
}

/// Says how many lines were lost, as a line like the others.
struct Lost {
    format: Format,
    who: String,
}

impl Lost {
    fn line(&self, dropped: u64) -> String {
        let what = "log lines found no room";
        match self.format {
            Format::Text => format!("{} {} warn {what} lines={dropped}\n", now(), self.who),
            Format::Json => {
                let (time, worker) = (now(), self.who.as_str());
                let line = serde_json::json!({
                    "time": time, "worker": worker, "level": "warn", "message": what, "lines": dropped
                });
                format!("{line}\n")
            }
        }
    }
}

/// Formats events.
struct Lines {
    sink: Box<dyn Fn(&str) + Send + Sync>,
    format: Format,
    who: String,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = String::with_capacity(256);
        match self.format {
            Format::Text => self.text(event, &mut line),
            Format::Json => self.json(event, &mut line),
        }
        line.push('\n');
        (self.sink)(&line);
    }
}

impl Lines {
    fn text(&self, event: &Event<'_>, line: &mut String) {
        let mut fields = TextFields::default();
        event.record(&mut fields);
        let _ = write!(
            line,
            "{} {} {} {}{}",
            now(),
            self.who,
            level_name(event.metadata()),
            fields.message,
            fields.rest
        );
    }

    fn json(&self, event: &Event<'_>, line: &mut String) {
        let mut fields = JsonFields::default();
        event.record(&mut fields);
        let mut object = fields.0;
        object.insert("time".to_owned(), now().into());
        object.insert("worker".to_owned(), self.who.as_str().into());
        object.insert("level".to_owned(), level_name(event.metadata()).into());
        line.push_str(&serde_json::Value::Object(object).to_string());
    }
}

fn now() -> String {
    mail::Timestamp::from(SystemTime::now()).rfc3339()
}

fn level_name(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Gathers fields as ` key=value`, quoted where a space or a quote would mislead.
#[derive(Default)]
struct TextFields {
    message: String,
    rest: String,
}

impl TextFields {
    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            push_escaped(&mut self.message, value);
            return;
        }
        let _ = write!(self.rest, " {}=", name_of(field));
        let plain = !value.is_empty()
            && value.chars().all(|character| !matches!(character, ' ' | '"' | '='));
        if plain {
            push_escaped(&mut self.rest, value);
        } else {
            self.rest.push('"');
            push_escaped(&mut self.rest, &value.replace('"', "'"));
            self.rest.push('"');
        }
    }
}

impl TextFields {
    /// Adds what needs neither quotes nor escapes.
    fn add_safe(&mut self, field: &Field, value: impl std::fmt::Display) {
        let _ = write!(self.rest, " {}={value}", name_of(field));
    }
}

/// A field's name in a line. The process that writes the line is its `worker`; one that it speaks of is its peer.
fn name_of(field: &Field) -> &'static str {
    match field.name() {
        "worker" => "peer",
        name => name,
    }
}

/// A value, cut at the limit.
fn cut(value: &str) -> Cow<'_, str> {
    match value.char_indices().nth(VALUE_CHARACTERS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", value.split_at(end).0)),
        None => Cow::Borrowed(value),
    }
}

/// Adds a value, cut at a limit, with everything escaped that could break a line or turn its reading.
fn push_escaped(out: &mut String, value: &str) {
    let value = cut(value);
    if !value.contains(mail::header::is_unsafe) {
        return out.push_str(&value);
    }
    for character in value.chars() {
        if mail::header::is_unsafe(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
}

impl Visit for TextFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add_safe(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_safe(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_safe(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// Gathers fields as JSON values.
#[derive(Default)]
struct JsonFields(serde_json::Map<String, serde_json::Value>);

impl Visit for JsonFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(name_of(field).to_owned(), cut(value).into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(name_of(field).to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(name_of(field).to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(name_of(field).to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(name_of(field).to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(name_of(field).to_owned(), cut(&format!("{value:?}")).into());
    }
}

#[cfg(test)]
mod tests;
