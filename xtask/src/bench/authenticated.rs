//! Mail for `bench relay --authenticated`: from strangers, who have signed it, and from clients, for whom a server signs.
//!
//! ```text
//! stranger  [::1]      source.example, signed by dkimpy ──▶ server verifies ──▶ sink.example
//! client    127.0.0.1  client.example, not signed       ──▶ server signs ─────▶ sink.example
//! ```
//!
//! All messages of a kind are the same: no server here keeps what it found of one for the next. What of DNS it may keep, it keeps; a
//! name server of the benchmark's own knows all that is asked for.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::options::Options;
use super::postfix::user_id;
use super::speak::body;
use crate::Failure;
use crate::process::{Guarded, cargo, find, is_root, output, succeeds, target_dir};

/// The domain of strangers, and the selector of their key.
const STRANGERS: (&str, &str) = ("source.example", "s1");
/// The domain of clients, and the selector of their key, which servers sign with.
pub(super) const CLIENTS: (&str, &str) = ("client.example", "c1");
/// Where mail goes that is counted.
pub(super) const SINK: &str = "sink.example";
/// Where mail goes that is looked at.
pub(super) const SAMPLES: &str = "samples.example";

/// What is asked of DNS, but for keys.
const ZONE: &str = "\
source.example TXT v=spf1 ip6:::1 -all
mail.source.example TXT v=spf1 a -all
mail.source.example AAAA ::1
_dmarc.source.example TXT v=DMARC1; p=reject
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa PTR mail.source.example
";

/// Messages, keys and who answers for them.
pub(super) struct Authenticated {
    // Ended when this is dropped.
    _names: Guarded,
    /// Where the name server listens, as `IP:PORT`.
    pub(super) name_server: String,
    /// The TXT records of both keys, by their names.
    pub(super) records: [(String, String); 2],
    /// The key of clients, as OpenDKIM's tool made it.
    key: PathBuf,
    pub(super) kinds: [Kind; 2],
}

/// Mail of strangers, or of clients.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Where it comes from: a connection to here has the same address at its other end.
    host: &'static str,
    helo: String,
    sender: String,
    file: PathBuf,
}

impl Authenticated {
    /// Makes keys and messages in a folder, and starts the name server.
    pub(super) fn start(options: &Options, folder: &Path) -> Result<Self, Failure> {
        TcpListener::bind((Ipv6Addr::LOCALHOST, 0))
            .map_err(|error| format!("strangers come from ::1, which cannot be used: {error}"))?;
        let folder = folder.join("mail");
        std::fs::create_dir_all(&folder)?;
        let [strangers, clients] = [STRANGERS, CLIENTS].map(|(domain, selector)| {
            let record = make_key(domain, selector, &folder)?;
            Ok::<_, Failure>((format!("{selector}._domainkey.{domain}"), record))
        });
        let records = [strangers?, clients?];
        let mut zone = ZONE.to_owned();
        for (name, record) in &records {
            let _ = writeln!(zone, "{name} TXT {record}");
        }
        std::fs::write(folder.join("zone"), zone)?;
        let (names, name_server) = start_names(&folder.join("zone"))?;
        let kinds = [
            Kind::make("strangers", "[::1]", STRANGERS.0, options.length, &folder)?,
            Kind::make("clients", "127.0.0.1", CLIENTS.0, options.length, &folder)?,
        ];
        let [strangers, _] = &kinds;
        sign(&strangers.file, &key_file(&folder, STRANGERS.1))?;
        let key = key_file(&folder, CLIENTS.1);
        Ok(Self { _names: names, name_server, records, key, kinds })
    }

    /// Gives a server its own copy of the key, which its user alone may read.
    pub(super) fn give_key(&self, user: &str, folder: &Path) -> Result<PathBuf, Failure> {
        let file = folder.join("key.pem");
        std::fs::copy(&self.key, &file)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        if is_root() {
            std::os::unix::fs::chown(&file, Some(user_id(user)?), None)?;
        }
        Ok(file)
    }

    /// Sends the messages of a round, as many of either kind and both at once; returns when the last was accepted.
    ///
    /// Whoever tells no kinds apart listens on IPv4 alone.
    pub(super) fn send(
        &self,
        options: &Options,
        messages: usize,
        port: u16,
        ipv4: bool,
    ) -> Result<(), Failure> {
        let [strangers, clients] = &self.kinds;
        let half = messages / 2;
        let first = strangers.spawn(options, half, port, SINK, ipv4)?;
        let second = clients.spawn(options, messages - half, port, SINK, ipv4)?;
        for mut source in [first, second].into_iter().flatten() {
            source.finish()?;
        }
        Ok(())
    }
}

impl Kind {
    fn make(
        name: &'static str,
        host: &'static str,
        domain: &str,
        length: usize,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let sender = format!("sender@{domain}");
        let subject = subject(name);
        let mut text = format!(
            "From: Sender <{sender}>\nTo: recipient@{SINK}\n{subject}\n\
             Date: Sun, 1 Feb 2026 12:00:00 +0000\nMessage-ID: <1@{domain}>\nMIME-Version: 1.0\n\
             Content-Type: text/plain; charset=us-ascii\n\n"
        );
        text.push_str(&String::from_utf8(body(length))?.replace("\r\n", "\n"));
        let file = folder.join(name);
        std::fs::write(&file, text)?;
        Ok(Self { name, host, helo: format!("mail.{domain}"), sender, file })
    }

    /// Starts to send so many messages; nothing if that is none.
    fn spawn(
        &self,
        options: &Options,
        messages: usize,
        port: u16,
        domain: &str,
        ipv4: bool,
    ) -> Result<Option<Guarded>, Failure> {
        if messages == 0 {
            return Ok(None);
        }
        let host = if ipv4 { "127.0.0.1" } else { self.host };
        let sessions = (options.sessions / 2).clamp(1, messages);
        let mut command = Command::new(find("smtp-source").ok_or("smtp-source is not installed")?);
        command
            .args(["-s", &sessions.to_string(), "-m", &messages.to_string()])
            .args(["-r", &options.recipients.to_string(), "-M", &self.helo, "-f", &self.sender])
            .args(["-t", &format!("recipient@{domain}"), "-F"])
            .arg(&self.file)
            .args(options.reuse.then_some("-d"))
            .arg(format!("{host}:{port}"));
        Guarded::spawn("smtp-source", &mut command).map(Some)
    }

    /// The field that tells its messages from others.
    pub(super) fn subject(&self) -> String {
        subject(self.name)
    }

    /// Whether it is what servers verify, not what they sign.
    pub(super) fn is_strangers(&self) -> bool {
        self.name == "strangers"
    }

    /// Sends some to who looks at them, one after the other, and returns when the last was accepted.
    pub(super) fn send_samples(&self, messages: usize, port: u16) -> Result<(), Failure> {
        let options = Options { sessions: 1, ..Options::default() };
        let source = self.spawn(&options, messages, port, SAMPLES, false)?;
        source.map_or(Ok(()), |mut source| source.finish())
    }
}

fn subject(name: &str) -> String {
    format!("Subject: Mail from {name}")
}

/// Makes a key with OpenDKIM's tool and gives its TXT record.
fn make_key(domain: &str, selector: &str, folder: &Path) -> Result<String, Failure> {
    let tool = find("opendkim-genkey").ok_or("opendkim-genkey is not installed")?;
    output(
        Command::new(tool).args(["-b", "2048", "-d", domain, "-s", selector, "-D"]).arg(folder),
    )?;
    // Strings in quotation marks, over several lines.
    let text = std::fs::read_to_string(folder.join(format!("{selector}.txt")))?;
    Ok(text.split('"').skip(1).step_by(2).collect())
}

fn key_file(folder: &Path, selector: &str) -> PathBuf {
    folder.join(format!("{selector}.private"))
}

/// Signs a message with dkimpy, as a stranger does.
fn sign(file: &Path, key: &Path) -> Result<(), Failure> {
    let (domain, selector) = STRANGERS;
    let mut command = Command::new(find("dkimsign").ok_or("dkimsign is not installed")?);
    command.args(["--hcanon", "relaxed", "--bcanon", "relaxed", selector, domain]).arg(key);
    let signed = output(command.stdin(std::fs::File::open(file)?))?;
    std::fs::write(file, signed.replace("\r\n", "\n"))?;
    Ok(())
}

fn start_names(zone: &Path) -> Result<(Guarded, String), Failure> {
    let build = ["build", "--quiet", "--release", "--package", "tests", "--example", "name_server"];
    if !succeeds(&mut cargo(&build))? {
        return Err("the name server does not build".into());
    }
    let mut command = Command::new(target_dir()?.join("release/examples/name_server"));
    let mut names = Guarded::spawn("name_server", command.arg(zone).stdout(Stdio::piped()))?;
    let mut address = String::new();
    let stdout = names.stdout().ok_or("the name server has no standard output")?;
    BufReader::new(stdout).read_line(&mut address)?;
    Ok((names, address.trim().to_owned()))
}
