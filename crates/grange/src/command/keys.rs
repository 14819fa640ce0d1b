//! `grange keys …`: the authority of a cluster, and the keys of its hosts.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use tls::{Issue, IssueError, Keys};

use super::{Failure, table};
use crate::{cli, cluster};

/// Runs a command on keys.
pub(super) fn run(command: cli::Keys) -> Result<ExitCode, Failure> {
    match command {
        cli::Keys::Init { directory } => {
            tls::init(&directory).map_err(refused)?;
            println!(
                "{} is made; its {} signs for whoever has it: keep it where no host of the cluster can read it",
                directory.display(),
                tls::AUTHORITY_KEY_FILE
            );
        }
        cli::Keys::Issue(options) => issue(options)?,
        cli::Keys::Show { directory } => show(&directory)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn issue(options: cli::IssueKeys) -> Result<(), Failure> {
    let host = tls::check_host(&options.host).map_err(|error| Failure::Usage(error.to_string()))?;
    let out = options.out.unwrap_or_else(|| options.directory.join(&host));
    let until = tls::days_from_now(options.days);
    let mut farms = options.farms;
    // Every host tells the others how its farms stand.
    if !farms.is_empty() && !farms.iter().any(|farm| farm == cluster::STATUS) {
        farms.push(cluster::STATUS.to_owned());
    }
    let wanted = Issue { host, farms, until, out: out.clone(), replace: options.replace };
    tls::issue(&options.directory, &wanted).map_err(refused)?;
    show_host(&out)
}

fn refused(error: IssueError) -> Failure {
    match error {
        IssueError::Name(_) | IssueError::NoFarm => Failure::Usage(error.to_string()),
        IssueError::Exists(_) => Failure::Refused(error.to_string()),
        IssueError::NoAuthority(_) => Failure::NotFound(error.to_string()),
        IssueError::File(_) | IssueError::Unusable { .. } | IssueError::Make(_) => {
            Failure::System(error.into())
        }
    }
}

fn show(directory: &Path) -> Result<(), Failure> {
    for (name, until) in tls::authorities(&directory.join(tls::AUTHORITY_FILE))? {
        println!("believes   {}, until {}", table::plain(&name), time(until));
    }
    let host = directory.join(tls::HOST_FILE);
    if host.try_exists()? {
        show_host(directory)?;
        Keys::load(directory)?;
    }
    Ok(())
}

fn show_host(directory: &Path) -> Result<(), Failure> {
    let identity = tls::host_identity(&directory.join(tls::HOST_FILE))?;
    let left = identity.time_left(SystemTime::now());
    let left = if left.is_zero() { "has run out".to_owned() } else { table::span(left) };
    println!("host       {}, until {} ({left})", identity.host, time(identity.not_after));
    println!("may run    {}", identity.farms.join(", "));
    Ok(())
}

fn time(time: SystemTime) -> String {
    mail::Timestamp::from(time).rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue_for(directory: &Path, host: &str, replace: bool) -> Result<ExitCode, Failure> {
        run(cli::Keys::Issue(cli::IssueKeys {
            directory: directory.to_owned(),
            host: host.to_owned(),
            farms: vec!["router".to_owned()],
            days: 10,
            out: None,
            replace,
        }))
    }

    #[test]
    fn keys_are_made_issued_and_shown() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("authority");
        let init = || run(cli::Keys::Init { directory: directory.clone() });
        init().unwrap();
        assert_eq!(init().unwrap_err().code(), 75);
        issue_for(&directory, "MX1.example", false).unwrap();
        assert_eq!(issue_for(&directory, "mx1.example", false).unwrap_err().code(), 75);
        issue_for(&directory, "mx1.example", true).unwrap();
        assert_eq!(issue_for(&directory, "no host", false).unwrap_err().code(), 64);
        let host = directory.join("mx1.example");
        for shown in [&directory, &host] {
            run(cli::Keys::Show { directory: shown.clone() }).unwrap();
        }
        std::fs::write(host.join(tls::HOST_KEY_FILE), "nonsense").unwrap();
        assert_eq!(run(cli::Keys::Show { directory: host }).unwrap_err().code(), 78);
    }
}
