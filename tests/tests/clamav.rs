//! Debian's clamd as a filter, with a signature of the test's own: what it finds is held, released, and delivered.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::{Client, Process, Reply, Site, find, open_to, until};

/// What the test's signature is of.
const VIRUS: &str = "this is the virus of a test and harms nobody";
const VIRUS_IN_BASE64: &str = "dGhpcyBpcyB0aGUgdmlydXMgb2YgYSB0ZXN0IGFuZCBoYXJtcyBub2JvZHk=";

/// A clamd that knows one virus and takes a megabyte. It needs no database of ClamAV's.
struct Clamd {
    // Ended before its folder goes.
    _process: Process,
    folder: tempfile::TempDir,
}

impl Clamd {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("clamd-").tempdir().expect("a folder");
        let path = folder.path();
        open_to(path, 0o755);
        std::fs::create_dir(path.join("db")).expect("a folder");
        let hex = VIRUS.bytes().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a text takes it");
            hex
        });
        std::fs::write(path.join("db/test.ndb"), format!("Grange.Test:0:*:{hex}\n"))
            .expect("written");
        std::fs::write(path.join("clamd.conf"), configuration(path)).expect("written");
        let mut clamd = Command::new(find("clamd"));
        clamd.arg("-c").arg(path.join("clamd.conf"));
        clamd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::spawn("clamd", &mut clamd);
        let this = Self { _process: process, folder };
        let socket = this.socket();
        until("clamd listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        this
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("clamd.ctl")
    }
}

fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Foreground yes\nLocalSocket {folder}/clamd.ctl\nLocalSocketMode 666\nDatabaseDirectory {folder}/db\n\
         TemporaryDirectory {folder}\nStreamMaxLength 1M\n"
    )
}

#[test]
fn a_virus_is_held_released_and_delivered() {
    let clamd = Clamd::start();
    let filters = format!("filters = [{{ clamd = \"unix:{}\" }}]", clamd.socket().display());
    let site = Site::new().replace("filters = []", &filters);
    let grange = site.start();
    assert_eq!(send(&site, "Subject: well\r\n\r\nnothing\r\n").code, 250);
    // In an attachment, in base64, as it would come.
    let infected = format!(
        "Subject: ill\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
         Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
        VIRUS_IN_BASE64
    );
    let held = send(&site, &infected);
    assert_eq!(held.code, 250, "{held:?}");
    // What is larger than clamd takes cannot be looked at.
    let large =
        send(&site, &format!("Subject: large\r\n\r\n{}", "A line of it.\r\n".repeat(100_000)));
    assert_eq!(large.code, 451, "{large:?}");
    until("the one that is well arrives", || {
        (site.mailbox("example.test", "bob").len() == 1).then_some(())
    });
    let id = held.queued_as().expect("the reply names the message");
    let shown = site.ok(&["queue", "show", &id]);
    assert!(shown.contains("virus found: Grange.Test"), "{shown}");
    assert_eq!(site.queued().len(), 1);
    site.ok(&["queue", "release", &id]);
    until("it arrives when released", || {
        let mailbox = site.mailbox("example.test", "bob");
        mailbox.iter().any(|text| text.contains("Subject: ill")).then_some(())
    });
    site.wait_empty();
    drop(clamd);
    let gone = send(&site, "Subject: well\r\n\r\nnothing\r\n");
    assert_eq!(gone.code, 451, "{gone:?}");
    assert!(grange.stop().success());
}

fn send(site: &Site, message: &str) -> Reply {
    let mut client = Client::ready(site.smtp.number);
    client.message("alice@example.test", &["bob@example.test"], message).expect("a reply")
}
