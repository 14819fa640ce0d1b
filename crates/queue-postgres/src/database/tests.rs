//! What is taken for a database, and what is never shown of it.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn parse(url: &str) -> Result<Database, Problem> {
    Database::new(url, &Settings::default())
}

#[test]
fn several_hosts_are_taken_apart() {
    let database = parse("postgres://db1:5433,db2,%2Frun%2Fpg:5434/queue").expect("it is a URL");
    assert_eq!(database.to_string(), "db1,db2,/run/pg/queue");
    let database = parse("postgres://grange:secret@db1:5433,db2:5434/queue").expect("it is a URL");
    assert_eq!(database.to_string(), "db1,db2/queue");
    let hosts = database.hosts().expect("there is no file to read");
    let ports: Vec<_> = hosts.iter().map(|host| host.get_ports().to_vec()).collect();
    assert_eq!(ports, [[5433], [5434]]);
    for host in &hosts {
        assert_eq!(host.get_hosts().len(), 1);
        assert_eq!(host.get_user(), Some("grange"));
        assert_eq!(host.get_password(), Some(&b"secret"[..]));
        assert_eq!(host.get_dbname(), Some("queue"));
        assert_eq!(host.get_application_name(), Some("grange"));
    }
    let database = parse("postgresql://db1,db2/queue?application_name=x&options=-cfoo%3Dbar");
    let hosts = database.expect("it is a URL").hosts().expect("there is no file to read");
    assert_eq!(hosts[1].get_application_name(), Some("x"));
    assert_eq!(hosts[1].get_options(), Some("-cfoo=bar"));
}

#[test]
fn what_is_no_database_is_explained() {
    for (url, says) in [
        ("spool", "does not begin with postgres://"),
        ("mysql://h/d", "does not begin with postgres://"),
        ("postgres:///d", "no host"),
        ("postgres://h:1,i:2,j:3,k:x/d", "not the URL"),
        ("postgres://h/d?sslmode=require", "ca_file"),
        ("postgres://h/d?hostaddr=127.0.0.1", "hostaddr"),
        ("postgres://h/d?sslmode=none", "not the URL"),
        ("postgres://h/d?password=x@y", "a character"),
        ("postgres://h%20i/d", "a character"),
        (&format!("postgres://{}/d", ["h"; 17].join(",")), "more than 16"),
    ] {
        let problem = parse(url).expect_err(url);
        assert_eq!(problem.key, "queue.store");
        assert!(problem.wrong.contains(says), "{url}: {}", problem.wrong);
    }
    let settings = Settings { ca_file: Some(PathBuf::from("ca.pem")), ..Settings::default() };
    let problem = Database::new("postgres://h/d?sslmode=disable", &settings).expect_err("TLS");
    assert!(problem.wrong.contains("forbids TLS"), "{}", problem.wrong);
}

#[test]
fn the_password_may_stand_in_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    let settings = Settings { password_file: Some(path.clone()), ..Settings::default() };
    let database = Database::new("postgres://grange@db1/queue", &settings).expect("it is a URL");
    let fault = database.hosts().expect_err("there is no file");
    assert!(fault.whole().contains(&*path.display().to_string()), "{}", fault.whole());
    std::fs::write(&path, "first\nand no more\n").expect("it can be written");
    let password = |database: &Database| {
        let hosts = database.hosts().expect("the file can be read");
        hosts[0].get_password().map(<[u8]>::to_vec)
    };
    assert_eq!(password(&database), Some(b"first".to_vec()));
    std::fs::write(&path, "second").expect("it can be written");
    assert_eq!(password(&database), Some(b"second".to_vec()));
    let both = Database::new("postgres://grange:secret@db1/queue", &settings);
    assert!(both.expect_err("two passwords").wrong.contains("password"), "two passwords");
}

proptest! {
    #[test]
    fn no_password_is_ever_shown(
        password in "[a-z]{3}[A-Z0-9%@:/?#, -]{4,20}[a-z]{3}",
        rest in "[ -~]{0,30}",
    ) {
        for url in [
            format!("postgres://grange:{password}@db/{rest}"),
            format!("postgres://grange:{password}@db:x/{rest}"),
            format!("postgres://db/queue?password={password}&{rest}"),
        ] {
            let shown = match parse(&url) {
                Ok(database) => format!("{database} {database:?} {}", database.name()),
                Err(problem) => format!("{problem} {problem:?}"),
            };
            prop_assert!(!shown.contains(&password), "{url} is shown as {shown}");
        }
    }

    #[test]
    fn no_text_is_too_much(text in "(postgres://)?[ -~]{0,100}") {
        if let Ok(database) = parse(&text) {
            prop_assert!(!database.hosts().expect("there is no file to read").is_empty());
        }
    }
}
