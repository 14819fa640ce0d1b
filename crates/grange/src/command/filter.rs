//! `grange filter test`: what each filter would say of a message, by contentfilter's own code.

use std::io::Read;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use contentfilter::{Facts, Found, Trial, Tried};
use job::inspect::{Refusal, Verdict};
use mail::{Address, Edit, MessageId, Timestamp};
use smtpserver::Received;

use super::{Failure, block_on, table};
use crate::configuration::Configuration;
use crate::{cli, print};

/// The exit status for a message that would not simply be taken.
const NOT_ACCEPTED: u8 = 1;

/// Has a message tried, and prints what came of it.
pub(super) fn run(
    configuration: &Configuration,
    options: &cli::FilterTest,
) -> Result<ExitCode, Failure> {
    let facts = facts(configuration, options)?;
    let message = message(configuration, options, &facts)?;
    let (settings, hostname) = (&configuration.contentfilter, &configuration.top.hostname);
    let trial =
        contentfilter::trial(settings, hostname, &configuration.dns, &facts, message.into());
    let trial = block_on(trial)?.map_err(Failure::Unavailable)?;
    show(&trial, &facts);
    if options.show {
        println!();
        print::bytes(&trial.message);
    }
    let is_accepted = trial.verdict == Verdict::Accept
        && trial.recipients.iter().all(|(_, verdict)| *verdict == Verdict::Accept);
    Ok(if is_accepted { ExitCode::SUCCESS } else { ExitCode::from(NOT_ACCEPTED) })
}

/// What the options say of the session.
fn facts(configuration: &Configuration, options: &cli::FilterTest) -> Result<Facts, Failure> {
    let recipients = match options.to.is_empty() {
        false => options.to.clone(),
        true => {
            let postmaster = format!("postmaster@{}", configuration.top.hostname);
            let address = postmaster.parse().map_err(|_| {
                Failure::Usage(format!("{postmaster} is no address: give a recipient with --to"))
            })?;
            vec![address]
        }
    };
    Ok(Facts {
        address: options.client,
        port: 0,
        trusted: options.trusted || configuration.smtpserver.may_relay(options.client),
        helo: options.helo.clone(),
        sender: options.from.clone(),
        recipients,
    })
}

/// The message in CRLF lines, behind the field that smtpserver puts before it.
fn message(
    configuration: &Configuration,
    options: &cli::FilterTest,
    facts: &Facts,
) -> Result<Vec<u8>, Failure> {
    let limit = configuration.smtpserver.message_bytes_max.0;
    let mut bytes = Vec::new();
    let path = &options.message;
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        }
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > limit {
        let wrong = format!("the message is larger than smtpserver takes: {limit} bytes");
        return Err(Failure::Usage(wrong));
    }
    let now = Timestamp::from(SystemTime::now());
    let received = Received {
        helo: &facts.helo,
        client: facts.address,
        hostname: &configuration.top.hostname,
        protocol: "ESMTP",
        id: MessageId::new(now, u64::from(std::process::id())),
        recipient: match &*facts.recipients {
            [only] => Some(only),
            _ => None,
        },
        at: now,
    };
    let mut message = received.field().into_bytes();
    message.extend_from_slice(&mail::crlf(&bytes));
    Ok(message)
}

fn show(trial: &Trial, facts: &Facts) {
    if trial.filters.is_empty() {
        println!("no filters are configured");
    }
    for Tried { name, took, found } in &trial.filters {
        let name = table::plain(name);
        let took = took.as_millis();
        match found {
            Ok(found) => {
                println!("{name}: {} ({took} ms)", verdict(&found.verdict));
                changes(found, &facts.recipients);
            }
            Err(why) => println!("{name}: failed: {} ({took} ms)", table::plain(why)),
        }
    }
    println!("together: {}", verdict(&trial.verdict));
    single(&trial.recipients, &facts.recipients);
}

/// What a filter wants beside its verdict, a line each.
fn changes(found: &Found, recipients: &[Address]) {
    single(&found.recipients, recipients);
    for edit in &found.edits {
        println!("  {}", table::plain(&change(edit)));
    }
    if found.is_body_replaced {
        println!("  another body");
    }
    if let Some(sender) = &found.sender {
        println!("  sender becomes {}", table::sender(sender.as_ref()));
    }
    for address in &found.add {
        println!("  adds recipient {address}");
    }
    for place in &found.remove {
        println!("  removes recipient {}", recipient(*place, recipients));
    }
}

fn single(verdicts: &[(u32, Verdict)], recipients: &[Address]) {
    for (place, of) in verdicts {
        println!("  {}: {}", recipient(*place, recipients), verdict(of));
    }
}

fn recipient(place: u32, recipients: &[Address]) -> String {
    match recipients.get(place as usize) {
        Some(address) => address.to_string(),
        None => format!("number {place}"),
    }
}

/// A verdict in a few words.
pub(super) fn verdict(verdict: &Verdict) -> String {
    let words = |what: &str, Refusal { code, status, text }: &Refusal| {
        format!("{what}: {code} {status} {}", text.replace('\n', " "))
    };
    table::plain(&match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Reject(refusal) => words("reject", refusal),
        Verdict::Tempfail(refusal) => words("tempfail", refusal),
        Verdict::Quarantine { reason } => format!("quarantine: {reason}"),
        Verdict::Discard => "discard".to_owned(),
    })
}

/// A change to the header section in one line: folds are shown as spaces.
fn change(edit: &Edit) -> String {
    let unfolded = |value: &str| value.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    match edit {
        Edit::Prepend { name, value } => format!("adds at the top: {name}: {}", unfolded(value)),
        Edit::Append { name, value } => format!("adds at the end: {name}: {}", unfolded(value)),
        Edit::Insert { index, name, value } => {
            format!("adds behind {index} fields: {name}: {}", unfolded(value))
        }
        Edit::Change { name, nth, value: Some(value) } => {
            format!("changes number {nth} of {name} to: {}", unfolded(value))
        }
        Edit::Change { name, nth, value: None } => format!("removes number {nth} of {name}"),
    }
}
