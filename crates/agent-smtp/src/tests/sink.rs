//! Against Postfix's `smtp-sink`, where it is installed.

use std::process::{Child, Command, Stdio};

use super::*;

const SINK: &str = "/usr/sbin/smtp-sink";

struct Sink {
    process: Child,
    host: String,
}

impl Sink {
    /// Starts a sink on a free port; nothing where there is none to start.
    async fn start(arguments: &[&str]) -> Option<Self> {
        if !std::fs::exists(SINK).unwrap_or(false) {
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let mut command = Command::new(SINK);
        if std::fs::read_to_string("/proc/self/status").ok()?.contains("Uid:\t0\t") {
            command.args(["-u", "nobody"]);
        }
        command.args(arguments).args([&format!("127.0.0.1:{port}"), "1000"]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let sink = Self { process, host: format!("[127.0.0.1]:{port}") };
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(sink);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the sink does not listen");
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends so many messages, several at once, and says how each recipient fared.
async fn send(
    bench: &Bench,
    host: &str,
    messages: usize,
    at_once: usize,
    recipients: &[&str],
) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..messages / at_once {
        let tasks: Vec<_> = (0..at_once)
            .map(|_| {
                let job = Job { request: request(host, recipients), gate: Gate::open_for_test() };
                tokio::task::spawn_local(Rc::clone(&bench.smtp).deliver(job))
            })
            .collect();
        for task in tasks {
            answers.push(short(&task.await.unwrap(), recipients.len()));
        }
    }
    answers
}

#[test]
fn a_sink_takes_everything_over_a_few_connections() {
    on_loop(async {
        let Some(sink) = Sink::start(&[]).await else { return };
        let bench = Bench::new(Shelf::of(TEXT), |_| ());
        let answers =
            send(&bench, &sink.host, 1000, 20, &["a@example.test", "b@example.test"]).await;
        assert!(answers.iter().all(|answer| answer == "+2.0.0 +2.0.0"), "{}", answers[0]);
        assert!(bench.count(counter::CONNECTIONS) <= 20, "{}", bench.count(counter::CONNECTIONS));
        assert_eq!(bench.count(counter::OUTCOMES), 2000);
    });
}

#[test]
fn a_sink_is_spoken_to_in_every_dialect() {
    for (arguments, protocol, expected) in [
        (&["-L"][..], Protocol::Lmtp, "+ +"),
        (&["-e"], Protocol::Smtp, "+ +"),
        (&["-p"], Protocol::Smtp, "+ +"),
        (&["-8"], Protocol::Smtp, "+ +"),
        (&["-f", "RCPT"], Protocol::Smtp, "- -"),
        (&["-r", "RCPT"], Protocol::Smtp, "~ ~"),
        (&["-f", "."], Protocol::Smtp, "- -"),
        (&["-r", "DATA"], Protocol::Smtp, "~ ~"),
        (&["-q", "."], Protocol::Smtp, "~ ~"),
        (&["-q", "MAIL"], Protocol::Smtp, "? ? lane"),
    ] {
        on_loop(async {
            let Some(sink) = Sink::start(arguments).await else { return };
            let bench = Bench::new(large(), |assignment| assignment.settings.protocol = protocol);
            let recipients = ["a@example.test", "b@example.test"];
            let answers = send(&bench, &sink.host, 4, 2, &recipients).await;
            let signs = |answer: &String| {
                let words = answer.split(' ').filter(|word| !word.starts_with('4'));
                words
                    .map(|word| word.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit()))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            assert!(
                answers.iter().all(|answer| signs(answer) == expected),
                "{arguments:?} {answers:?}"
            );
        });
    }
}
