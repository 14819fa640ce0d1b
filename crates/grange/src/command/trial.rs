//! `grange try`: everything on loopback, with a built-in configuration and a scratch directory. What a newcomer meets first.
//!
//! It runs the real program, `grange run`, as a child, reads its log, and tells each message's journey from it.

mod journey;
mod scratch;
mod sink;
mod submit;

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use self::journey::Journeys;
use self::scratch::Scratch;
use self::submit::Submission;
use super::{Failure, block_on};
use crate::{cli, print};

/// The domain whose mail is delivered into Maildirs.
const HERE: &str = "here.test";
/// Any other domain goes to the built-in sink; this one stands for them all.
const ELSEWHERE: &str = "elsewhere.test";
/// The sink refuses this local part, so that a bounce can be seen.
const REFUSED: &str = "refused";
/// How long the farms may take to start, and a message to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the farms may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Runs the trial.
pub(super) fn run(options: cli::Try) -> Result<ExitCode, Failure> {
    // The farms must be stopped and the scratch directory removed, whoever looks on.
    print::go_on_unread();
    block_on(trial(options))?
}

async fn trial(options: cli::Try) -> Result<ExitCode, Failure> {
    let sink = sink::start().await.context("cannot start the sink")?;
    let scratch = Scratch::make(options.port, sink.address, options.keep)?;
    println!("Grange, on trial. Nothing leaves this machine.\n");
    println!("  directory  {}", scratch.path.display());
    println!("  listens    {}", scratch.listen);
    if scratch.as_root {
        println!("  user       started as root: the workers run as nobody");
    }
    let mut child = start(&scratch)?;
    let stderr = child.stderr.take().context("the farms' log was not piped")?;
    let journeys = Journeys::new(options.once);
    let reader = tokio::task::spawn_local(journeys.clone().follow(BufReader::new(stderr).lines()));
    let result = match scratch.wait_until_ready(&mut child).await {
        Ok(started) if options.once => {
            println!("  ready      after {} ms\n", started.as_millis());
            once(&scratch, &sink, &journeys).await
        }
        Ok(started) => {
            println!("  ready      after {} ms\n", started.as_millis());
            println!("{}", invitation(&scratch));
            until_interrupted(&mut child).await
        }
        Err(error) => Err(error),
    };
    stop(&mut child).await?;
    let _ = tokio::time::timeout(Duration::from_secs(2), reader).await;
    if result.is_err() || matches!(result, Ok(false)) {
        journeys.tell_trouble();
    }
    Ok(if result? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start(scratch: &Scratch) -> Result<Child, Failure> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let child = Command::new(program)
        .arg("--config")
        .arg(&scratch.config)
        .arg("run")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the farms")?;
    Ok(child)
}

fn invitation(scratch: &Scratch) -> String {
    let port = scratch.listen.port();
    let config = scratch.config.display();
    format!(
        "Send a message, in another terminal:\n\n\
         \x20 swaks --server {} --from me@{HERE} --to you@{HERE}          delivered into a Maildir\n\
         \x20 swaks --server {} --from me@{HERE} --to you@{ELSEWHERE}     relayed to the sink\n\
         \x20 swaks --server {} --from me@{HERE} --to {REFUSED}@{ELSEWHERE} bounced back to me@{HERE}\n\n\
         or with Python and nothing else:\n\n\
         \x20 python3 -c \"import smtplib; smtplib.SMTP('127.0.0.1',{port}).sendmail('me@{HERE}','you@{HERE}','Subject: hello\\r\\n\\r\\nhello')\"\n\n\
         and look at it from outside:\n\n\
         \x20 grange --config {config} status\n\
         \x20 grange --config {config} queue list\n\
         \x20 grange --config {config} route you@{ELSEWHERE}\n\n\
         Each step of each message is shown below. Ctrl-C ends the trial.\n",
        scratch.listen, scratch.listen, scratch.listen
    )
}

/// Waits for Ctrl-C, or for the farms to end by themselves, which would be wrong.
async fn until_interrupted(child: &mut Child) -> Result<bool, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        ended = child.wait() => {
            println!("the farms ended by themselves: {}", ended?);
            return Ok(false);
        }
    }
    println!("\nstopping");
    Ok(true)
}

/// Sends three messages and waits until each has come where it should.
async fn once(scratch: &Scratch, sink: &sink::Sink, journeys: &Journeys) -> Result<bool, Failure> {
    let messages = [
        ("delivered", format!("you@{HERE}")),
        ("relayed", format!("you@{ELSEWHERE}")),
        ("bounced", format!("{REFUSED}@{ELSEWHERE}")),
    ];
    let sender = format!("me@{HERE}");
    let mut all = true;
    for (what, recipient) in messages {
        let begun = Instant::now();
        let submission = Submission {
            to: scratch.listen,
            sender: sender.clone(),
            recipient: recipient.clone(),
            token: format!("{what}-{}", std::process::id()),
        };
        let id = submission.send().await?;
        let mailbox = match what {
            "delivered" => Some("you"),
            "bounced" => Some("me"),
            _ => None,
        };
        let arrived = async {
            loop {
                let here = match mailbox {
                    Some(user) => scratch.maildir_has(user, &submission.token),
                    None => sink.has(&submission.token),
                };
                if here {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let arrived = tokio::time::timeout(PATIENCE, arrived).await.is_ok();
        let took = begun.elapsed();
        journeys.settle().await;
        println!("{what}: {sender} to {recipient}");
        journeys.tell(&id);
        match arrived {
            true => println!("  all right: {} ms from connect to {what}\n", took.as_millis()),
            false => println!("  NOT {what} within {} s\n", PATIENCE.as_secs()),
        }
        all &= arrived;
    }
    Ok(all)
}

/// Asks the farms to stop, and makes sure of it.
async fn stop(child: &mut Child) -> Result<(), Failure> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGTERM,
        );
    }
    if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
        println!("the farms did not stop in time and are killed");
        child.kill().await?;
    }
    Ok(())
}
