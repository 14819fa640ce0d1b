//! `grange keys …`: the authority of a cluster, the keys of its hosts, and keys that sign mail.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use authentication::key::{self, KeyFileError, Kind, SigningKey};
use tls::{Issue, IssueError, Keys};

use super::{Failure, table};
use crate::configuration::Configuration;
use crate::{cli, cluster, privilege};

/// Runs a command on keys. The configuration is looked at only for whose a key that signs mail is to be.
pub(super) fn run(configuration: &Path, command: cli::Keys) -> Result<ExitCode, Failure> {
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
        cli::Keys::Dkim(options) => dkim(configuration, options)?,
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

/// Where keys that sign mail are made.
const DKIM_DIRECTORY: &str = "/etc/grange/dkim";

fn dkim(configuration: &Path, options: cli::DkimKey) -> Result<(), Failure> {
    let domain = key::published(&options.domain).filter(|domain| domain.contains('.'));
    let Some(domain) = domain else {
        return Err(Failure::Usage(format!("{:?} is no domain", options.domain)));
    };
    let selector = options.selector;
    if !key::is_selector(&selector) {
        let wrong = format!("{selector:?} is no selector: letters, digits and hyphens");
        return Err(Failure::Usage(wrong));
    }
    let kind = if options.ed25519 { Kind::Ed25519 } else { Kind::Rsa(options.bits) };
    let path = match options.out {
        Some(path) => path,
        None => default_place(&domain, &selector)?,
    };
    // Whose the key is to be must be known before there is one.
    let owner = match privilege::is_root() {
        false => None,
        true => {
            let configuration = Configuration::load(configuration)?;
            let owner = privilege::user(&configuration.top);
            owner.map_err(|problem| Failure::Usage(problem.to_string()))?
        }
    };
    let key = SigningKey::make(&path, kind).map_err(not_made)?;
    if let Some((user, group)) = owner {
        chown(&path, Some(user), Some(group))
            .with_context(|| format!("cannot give {} to its user", path.display()))?;
    }
    println!("{}", key.zone_line(&domain, &selector));
    eprintln!("the key is in {}; publish the record above before it signs", path.display());
    Ok(())
}

fn default_place(domain: &str, selector: &str) -> Result<PathBuf, Failure> {
    let directory = Path::new(DKIM_DIRECTORY);
    // Others may look which keys there are, not into them.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
    made.with_context(|| format!("cannot make {DKIM_DIRECTORY}"))?;
    Ok(directory.join(format!("{domain}.{selector}.pem")))
}

fn not_made(error: KeyFileError) -> Failure {
    match error {
        KeyFileError::Exists(_) => Failure::Refused(error.to_string()),
        KeyFileError::Bits => Failure::Usage(error.to_string()),
        _ => Failure::System(error.into()),
    }
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
        run(
            Path::new("none.toml"),
            cli::Keys::Issue(cli::IssueKeys {
                directory: directory.to_owned(),
                host: host.to_owned(),
                farms: vec!["router".to_owned()],
                days: 10,
                out: None,
                replace,
            }),
        )
    }

    #[test]
    fn keys_are_made_issued_and_shown() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("authority");
        let init = || run(Path::new("none.toml"), cli::Keys::Init { directory: directory.clone() });
        init().unwrap();
        assert_eq!(init().unwrap_err().code(), 75);
        issue_for(&directory, "MX1.example", false).unwrap();
        assert_eq!(issue_for(&directory, "mx1.example", false).unwrap_err().code(), 75);
        issue_for(&directory, "mx1.example", true).unwrap();
        assert_eq!(issue_for(&directory, "no host", false).unwrap_err().code(), 64);
        let host = directory.join("mx1.example");
        for shown in [&directory, &host] {
            run(Path::new("none.toml"), cli::Keys::Show { directory: shown.clone() }).unwrap();
        }
        std::fs::write(host.join(tls::HOST_KEY_FILE), "nonsense").unwrap();
        assert_eq!(
            run(Path::new("none.toml"), cli::Keys::Show { directory: host }).unwrap_err().code(),
            78
        );
    }

    #[test]
    fn keys_that_sign_mail_are_made() {
        let scratch = tempfile::tempdir().unwrap();
        let user = if privilege::is_root() { "user = \"nobody\"\n" } else { "" };
        let configuration = scratch.path().join("grange.toml");
        std::fs::write(&configuration, format!("hostname = \"mx.example.test\"\n{user}")).unwrap();
        let make = |domain: &str, selector: &str, file: &str| {
            let out = Some(scratch.path().join(file));
            let (domain, selector) = (domain.to_owned(), selector.to_owned());
            let options = cli::DkimKey { domain, selector, ed25519: true, bits: 2048, out };
            run(&configuration, cli::Keys::Dkim(options))
        };
        make("Example.org", "2026a", "key").unwrap();
        SigningKey::load(&scratch.path().join("key")).unwrap();
        assert_eq!(make("example.org", "2026a", "key").unwrap_err().code(), 75);
        assert_eq!(make("no domain", "2026a", "b").unwrap_err().code(), 64);
        assert_eq!(make("example.org", "a;b", "b").unwrap_err().code(), 64);
        assert_eq!(make("example.org", "a", "no/b").unwrap_err().code(), 74);
    }
}
