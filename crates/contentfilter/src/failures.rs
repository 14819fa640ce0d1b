//! Each failure of a service outside, at each moment, under each rule: a table in which no row is open by accident.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use job::inspect::Verdict;
use mail::{Envelope, Recipient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::chain::Chain;
use crate::filter::Session;
use crate::message::Message;
use crate::settings::Settings;

/// How a service fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It closes the connection.
    Dies,
    /// It says this.
    Says(&'static [u8]),
    /// It says this and closes the connection.
    SaysAndDies(&'static [u8]),
    /// It says nothing and reads nothing.
    Stalls,
    /// It says this, over and over, a byte at a time.
    Drips(&'static [u8]),
}

/// How long all of the table may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a filter may take for a message; a step has less.
const TIMEOUTS: &str = r#"{ connect = "500ms", command = "500ms", message = "700ms" }"#;
/// The rules, and the verdict that each is.
const RULES: [&str; 3] = ["tempfail", "accept", "quarantine"];
/// Large enough that not all of it can be on its way unread.
const LARGE_BYTES: usize = 16 << 20;

impl Failure {
    async fn act(self, mut stream: TcpStream) {
        match self {
            Self::Dies => drop(stream),
            Self::Says(text) => {
                let _ = stream.write_all(text).await;
                sleep(PATIENCE).await;
            }
            Self::SaysAndDies(text) => {
                let _ = stream.write_all(text).await;
                let _ = stream.shutdown().await;
                // What was sent must not be lost by a reset.
                let _ =
                    timeout(PATIENCE, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
            }
            Self::Stalls => sleep(PATIENCE).await,
            Self::Drips(text) => {
                for byte in text.iter().cycle() {
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

/// What a filter says of a message, in a word.
async fn asked(filter: &str, rule: &str, size: usize) -> &'static str {
    let text = format!(
        "filters = [{{ {filter}, name = \"outside\", on_failure = \"{rule}\", timeouts = {TIMEOUTS} }}]"
    );
    let settings: Settings = toml::from_str(&text).expect(&text);
    settings.check().expect("settings without contradiction");
    let chain = Chain::new(&settings, "mx.test", &dns::Settings::default()).expect("filters");
    let recipient = "b@x.test".parse::<mail::Address>().expect("an address");
    let envelope = Envelope {
        sender: "a@x.test".parse().ok(),
        recipients: vec![Recipient::from(recipient)],
        body: Default::default(),
        smtputf8: false,
        ret: None,
        envid: None,
    };
    let mut session = Session {
        // Nobody is asked for the name of nobody.
        address: None,
        port: 4711,
        trusted: false,
        service: "mx".to_owned(),
        helo: Some("client.test".to_owned()),
        protocol: Some("ESMTP".to_owned()),
        envelope: Some(Rc::new(envelope)),
        ..Session::default()
    };
    let content = Bytes::from(format!("Subject: x\r\n\r\n{}\r\n", "y".repeat(size)));
    let message = Message::new(content.len() as u64, content, 1 << 20, None);
    let mut looks = chain.open();
    let (judgement, left) = chain.message(&mut looks, &mut session, Ok(message), None, None).await;
    assert!(left.edits().is_empty() && left.replaced().is_none(), "{filter} {rule}");
    match judgement.verdict() {
        Verdict::Accept if judgement.failures.is_empty() => "passes",
        Verdict::Accept => "accept",
        Verdict::Tempfail(_) => "tempfail",
        Verdict::Quarantine { .. } if judgement.failures.is_empty() => "found",
        Verdict::Quarantine { .. } => "quarantine",
        Verdict::Reject(_) => "reject",
        Verdict::Discard => "discard",
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let in_time = async { timeout(PATIENCE, test).await.expect("in time") };
    LocalSet::new().block_on(&runtime, in_time);
}

/// A service for one test; each connection is a task of `serve`.
async fn service<F>(serve: impl Fn(TcpStream) -> F + 'static) -> u16
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(stream));
        }
    });
    port
}

/// A port at which nobody listens.
async fn nobody() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    listener.local_addr().expect("an address").port()
}

/// Tries each row with each rule, all at once, and says which did not follow it.
async fn follow(rows: Vec<(String, String, usize)>) {
    let mut tried = Vec::new();
    for (what, filter, size) in rows {
        for rule in RULES {
            let (what, filter) = (what.clone(), filter.clone());
            tried.push(tokio::task::spawn_local(async move {
                let said = asked(&filter, rule, size).await;
                (said != rule).then(|| format!("{what}, on_failure = {rule}: {said}"))
            }));
        }
    }
    let mut wrong = Vec::new();
    for one in tried {
        wrong.extend(one.await.expect("it is tried to its end"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

mod clamd {
    //! A clamd that fails: before it reads, after the command, in the middle of the message, and instead of an answer.

    use super::*;

    /// Up to where it reads before it fails.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Moment {
        Connected,
        Command,
        Middle,
        End,
    }

    async fn read_to(stream: &mut TcpStream, moment: Moment) -> std::io::Result<()> {
        if moment == Moment::Connected {
            return Ok(());
        }
        let mut command = [0; 10];
        stream.read_exact(&mut command).await?;
        assert_eq!(&command, b"zINSTREAM\0");
        if moment == Moment::Command {
            return Ok(());
        }
        loop {
            let length = stream.read_u32().await? as usize;
            let mut piece = vec![0; length];
            stream.read_exact(&mut piece).await?;
            if moment == Moment::Middle || length == 0 {
                return Ok(());
            }
        }
    }

    async fn failing(moment: Moment, failure: Failure) -> u16 {
        service(move |mut stream| async move {
            if read_to(&mut stream, moment).await.is_ok() {
                failure.act(stream).await;
            }
        })
        .await
    }

    #[test]
    fn follows_the_rule_whatever_fails() {
        run(async {
            let filter = |port| format!("clamd = 'inet:127.0.0.1:{port}'");
            let mut rows = vec![
                ("nobody listens".to_owned(), filter(nobody().await), 10),
                ("no socket".to_owned(), "clamd = 'unix:/nonexistent/clamd.ctl'".to_owned(), 10),
            ];
            let failures = [
                Failure::Dies,
                Failure::Stalls,
                Failure::Drips(b"stream: "),
                Failure::Drips(&[0]),
                Failure::SaysAndDies(b"stream: OK"),
                Failure::SaysAndDies(b"stream: OK\n"),
                Failure::Says(b"\0"),
                Failure::Says(b"stream: OK FOUND ERROR\0"),
                Failure::Says(b"stream: FOUND\0"),
                Failure::Says(b"INSTREAM size limit exceeded. ERROR\0"),
                Failure::Says(b"UNKNOWN COMMAND\0"),
                Failure::Says(&[0xff; 8192]),
            ];
            for moment in [Moment::Connected, Moment::Command, Moment::Middle, Moment::End] {
                for failure in failures {
                    let row = filter(failing(moment, failure).await);
                    rows.push((format!("{moment:?} {failure:?}"), row, 100_000));
                }
            }
            // That all is well is not believed of what was not read.
            for moment in [Moment::Connected, Moment::Command, Moment::Middle] {
                let failure = Failure::Says(b"stream: OK\0");
                let row = filter(failing(moment, failure).await);
                rows.push((format!("{moment:?} {failure:?}"), row, LARGE_BYTES));
            }
            follow(rows).await;
        });
    }

    #[test]
    fn says_what_was_found() {
        run(async {
            for (answer, expected) in [
                (&b"stream: OK\0"[..], "passes"),
                (b"stream: Eicar-Test-Signature FOUND\0", "found"),
            ] {
                let port = failing(Moment::End, Failure::Says(answer)).await;
                let filter = format!("clamd = 'inet:127.0.0.1:{port}'");
                assert_eq!(asked(&filter, "tempfail", 200_000).await, expected);
            }
        });
    }
}

mod milter {
    //! A milter that fails instead of an answer: at negotiation, at each command, and within its changes.

    use super::*;

    /// Commands of the MTA that are answered, in their order: negotiation, connect, HELO, MAIL, RCPT, DATA, a header field, the end of the
    /// header section, a piece of the body, the end of the message.
    const COMMANDS: &[u8] = b"OCHMRTLNBE";
    /// Negotiation: version 6, all changes, all commands answered.
    const NEGOTIATION: &[u8] = &[0, 0, 0, 13, b'O', 0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0, 0, 0];
    /// "Go on".
    const CONTINUE: &[u8] = &[0, 0, 0, 1, b'c'];

    async fn command(stream: &mut TcpStream) -> std::io::Result<u8> {
        let length = stream.read_u32().await?;
        let mut packet = vec![0; length as usize];
        stream.read_exact(&mut packet).await?;
        packet.first().copied().ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }

    async fn serve(mut stream: TcpStream, fails_at: u8, failure: Failure) {
        while let Ok(command) = command(&mut stream).await {
            let answer = match command {
                command if command == fails_at => return failure.act(stream).await,
                b'O' => NEGOTIATION,
                // Macros, abort and quit are not answered.
                b'D' | b'A' | b'Q' | b'K' => continue,
                _ => CONTINUE,
            };
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }

    #[test]
    fn follows_the_rule_whatever_fails() {
        run(async {
            let filter = |port| format!("milter = 'inet:127.0.0.1:{port}'");
            let mut rows = vec![
                ("nobody listens".to_owned(), filter(nobody().await), 10),
                ("no socket".to_owned(), "milter = 'unix:/nonexistent/milter'".to_owned(), 10),
            ];
            let failures = [
                Failure::Dies,
                Failure::Stalls,
                // Progress without end.
                Failure::Drips(&[0, 0, 0, 1, b'p']),
                Failure::Says(&[0, 0, 0, 0]),
                Failure::Says(&[0, 0, 0, 1, b'?']),
                Failure::Says(&[0, 0, 0, 1, 0]),
                Failure::Says(&[0xff, 0xff, 0xff, 0xff, b'c']),
                Failure::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                // Replies whose code is none, or whose text has no end.
                Failure::Says(&[0, 0, 0, 7, b'y', b'9', b'9', b'9', b' ', b'x', 0]),
                Failure::Says(&[0, 0, 0, 4, b'y', b'5', b'5', 0]),
                Failure::Says(&[0, 0, 0, 6, b'y', b'5', b'5', b'0', b' ', b'x']),
                Failure::SaysAndDies(&[0, 0, 0, 200, b'y', b'5', b'5', b'0']),
            ];
            let at_the_end = [
                // It dies after a part of another body, or of a header field.
                Failure::SaysAndDies(&[0, 0, 0, 4, b'b', b'n', b'e', b'w']),
                Failure::SaysAndDies(&[0, 0, 0, 5, b'h', b'X', 0, b'y', 0]),
                Failure::Says(&[0, 0, 0, 4, b'h', b'X', 0, b'y']),
                Failure::Says(&[0, 0, 0, 3, b'm', 0, 0]),
            ];
            for command in COMMANDS {
                let last = at_the_end.iter().filter(|_| *command == b'E');
                for failure in failures.iter().chain(last).copied() {
                    let fails_at = *command;
                    let port = service(move |stream| serve(stream, fails_at, failure)).await;
                    let what = format!("{} {failure:?}", char::from(fails_at));
                    rows.push((what, filter(port), 10));
                }
            }
            follow(rows).await;
        });
    }

    #[test]
    fn a_milter_that_does_not_fail_lets_the_message_pass() {
        run(async {
            let port = service(|stream| serve(stream, 0, Failure::Dies)).await;
            let filter = format!("milter = 'inet:127.0.0.1:{port}'");
            assert_eq!(asked(&filter, "tempfail", 10).await, "passes");
        });
    }
}
