//! Messages looked at as they arrive, while the server is busy: whether what is said to be done to all mail was done to these.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::authenticated::{Authenticated, CLIENTS, Kind};
use super::contender::Contender;
use super::speak;
use crate::process::output;
use crate::{Failure, root};

/// Samples of each kind.
const EACH: usize = 20;
/// How long the last may take to arrive.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
/// What verifies signatures with dkimpy.
const VERIFIER: &str = "tests/tests/authentication/verify.py";
/// The Python that Debian's modules belong to.
const PYTHON: &str = "/usr/bin/python3";

/// Mail that servers examine, and where samples of it go.
#[derive(Clone, Copy)]
pub(super) struct Examined<'a> {
    pub(super) mail: &'a Authenticated,
    /// The port that takes samples.
    pub(super) samples: u16,
}

/// Sends samples to a server while `load` runs, and fails unless each arrives as it should: of strangers with what was found and a
/// signature that still holds, of clients with a new one that holds.
pub(super) fn examine(
    mail: &Authenticated,
    contender: &Contender,
    sink: &speak::Sink,
    folder: &Path,
    load: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        let samples = scope.spawn(|| {
            let mut kinds = mail.kinds.iter();
            let sent = kinds.try_for_each(|kind| kind.send_samples(EACH, contender.port));
            sent.map_err(|error| error.to_string())
        });
        load()?;
        samples.join().map_err(|_| "the sender of samples panicked")?.map_err(Failure::from)
    })?;
    let until = Instant::now() + ARRIVAL_MAX;
    while sink.kept().len() < EACH * mail.kinds.len() {
        if Instant::now() > until {
            return Err(format!("{} samples arrived", sink.kept().len()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for kind in &mail.kinds {
        let of_kind = |text: &String| text.contains(&kind.subject());
        let messages: Vec<String> = sink.kept().into_iter().filter(of_kind).collect();
        if messages.len() != EACH {
            return Err(format!("{} samples of {}, not {EACH}", messages.len(), kind.name).into());
        }
        for text in &messages {
            let seen = check(mail, kind, contender, text, &folder.join("sample"));
            seen.map_err(|error| format!("a sample of {}: {error}\n{text}", kind.name))?;
        }
    }
    let words = contender.findings.join(", ");
    println!(
        "{:<8} under load, of {EACH} samples of strangers each says {words}; of {EACH} of clients each bears a signature that dkimpy verifies",
        contender.name
    );
    Ok(())
}

fn check(
    mail: &Authenticated,
    kind: &Kind,
    contender: &Contender,
    text: &str,
    file: &Path,
) -> Result<(), Failure> {
    let header = unfolded_header(text);
    match kind.is_strangers() {
        true => shows_findings(&header, contender.findings)?,
        false => is_signed_by(&header, CLIENTS.0)?,
    }
    std::fs::write(file, text)?;
    let [(a, b), (c, d)] = &mail.records;
    let records = format!("{{\"{a}\": \"{b}\", \"{c}\": \"{d}\"}}");
    let mut command = Command::new(PYTHON);
    let verified = output(command.arg(root().join(VERIFIER)).arg(records).arg(file))?;
    if verified.contains("\"good\": true") && !verified.contains("\"good\": false") {
        return Ok(());
    }
    Err(format!("its signatures do not hold: {verified}").into())
}

/// Fails unless the first Authentication-Results has all these findings.
fn shows_findings(header: &[String], findings: &[&str]) -> Result<(), Failure> {
    let results = all(header, "authentication-results:").next().ok_or("nothing was found")?;
    let is_there = |finding: &&&str| results.split([' ', ';']).any(|word| word == **finding);
    match findings.iter().find(|finding| !is_there(finding)) {
        None => Ok(()),
        Some(missing) => Err(format!("{missing} was not found").into()),
    }
}

/// Fails unless a signature is a domain's.
fn is_signed_by(header: &[String], domain: &str) -> Result<(), Failure> {
    let tag = format!("d={domain};");
    let mut signatures = all(header, "dkim-signature:");
    match signatures.any(|field| field.split(' ').any(|word| word == tag)) {
        true => Ok(()),
        false => Err(format!("{domain} has not signed it").into()),
    }
}

/// The fields of a name, which is told in small letters and with its colon.
fn all<'a>(header: &'a [String], name: &'a str) -> impl Iterator<Item = &'a String> {
    header.iter().filter(move |field| field.to_ascii_lowercase().starts_with(name))
}

/// The fields of a message's header, each in one line.
fn unfolded_header(text: &str) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for line in text.lines().take_while(|line| !line.is_empty()) {
        match fields.last_mut() {
            Some(field) if line.starts_with([' ', '\t']) => {
                field.push(' ');
                field.push_str(line.trim_start());
            }
            _ => fields.push(line.to_owned()),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_unfolded() {
        let text = "A: 1\r\n\t2\r\n 3\r\nB: 4\r\n\r\nC: 5\r\n";
        assert_eq!(unfolded_header(text), ["A: 1 2 3", "B: 4"]);
    }

    #[test]
    fn a_sample_without_what_should_be_done_is_seen() {
        let header = unfolded_header(
            "Authentication-Results: mx.test; spf=pass smtp.helo=a.test;\r\n\tdkim=pass (2048-bit key)\r\n\
             Authentication-Results: other.test; dmarc=pass\r\nDKIM-Signature: v=1; d=source.example; s=s1\r\n",
        );
        shows_findings(&header, &["spf=pass", "dkim=pass"]).expect("both are there");
        for missing in ["dmarc=pass", "dkim=fail", "spf"] {
            assert!(shows_findings(&header, &[missing]).is_err(), "{missing}");
        }
        assert!(shows_findings(&[], &[]).is_err());
        is_signed_by(&header, "source.example").expect("it is");
        for other in ["client.example", "example"] {
            assert!(is_signed_by(&header, other).is_err(), "{other}");
        }
    }
}
