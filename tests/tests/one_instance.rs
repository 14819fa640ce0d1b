//! A `data_dir` has one instance at a time: a second one is refused, whatever way it comes, and one that has died is in nobody's way.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tests::{Client, Port, Process, Site, free_port, program, run, until};

/// A configuration with the same `data_dir`, and everything else its own.
struct Other {
    config: PathBuf,
    _port: Port,
}

impl Other {
    fn of(site: &Site) -> Self {
        let port = free_port();
        let (from, to) = (site.smtp.number.to_string(), port.number.to_string());
        let text = site.text().replace("/run\"", "/run2\"").replace(&from, &to);
        let config = site.path("other.toml");
        std::fs::write(&config, text).expect("written");
        Self { config, _port: port }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).arg("--config").arg(&self.config);
        command
    }

    /// It must be refused, and name the instance that is there.
    fn is_refused(&self, site: &Site, arguments: &[&str]) {
        let output = run(&mut self.command(arguments));
        refused(&output, &[&site.path("data"), &site.path("run")]);
    }
}

fn refused(output: &Output, paths: &[&Path]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{told}");
    for path in paths {
        assert!(told.contains(&path.display().to_string()), "{} in {told}", path.display());
    }
}

fn takes_mail(site: &Site, user: &str) {
    let mut client = Client::ready(site.smtp.number);
    let recipient = format!("{user}@example.test");
    let reply = client.message("alice@example.test", &[&recipient], "Subject: x\r\n\r\n");
    assert_eq!(reply.expect("a reply").code, 250);
    until("it is delivered", || site.mailbox("example.test", user).pop());
}

fn instance(site: &Site) -> String {
    std::fs::read_to_string(site.path("data/instance")).expect("there is an instance")
}

#[test]
fn another_run_dir_is_refused_for_all_farms_and_for_each() {
    let site = Site::new();
    let grange = site.start();
    let other = Other::of(&site);
    let before = instance(&site);
    other.is_refused(&site, &["run"]);
    other.is_refused(&site, &["run", "--only", "local"]);
    for farm in ["local", "scheduler", "requeue", "smtpserver"] {
        other.is_refused(&site, &["farm", farm]);
    }
    assert_eq!(instance(&site), before);
    takes_mail(&site, "bob");
    assert!(grange.stop().success());
}

#[test]
fn the_same_twice_is_refused() {
    let site = Site::new();
    let grange = site.start();
    refused(&site.run(&["run"]), &[&site.path("run")]);
    refused(&site.run(&["farm", "scheduler"]), &[&site.path("run")]);
    takes_mail(&site, "bob");
    assert!(grange.stop().success());
}

#[test]
fn a_manager_alone_keeps_another_instance_out() {
    let site = Site::new();
    let manager = site.spawn(&["farm", "local"]);
    until("it runs", || site.socket("local.deliver").metadata().ok());
    let other = Other::of(&site);
    other.is_refused(&site, &["run"]);
    other.is_refused(&site, &["farm", "smtp"]);
    // Of the same instance, others may come.
    let second = site.spawn(&["farm", "smtp"]);
    until("it runs", || site.socket("smtp.deliver").metadata().ok());
    assert!(second.stop().success());
    assert!(manager.stop().success());
}

#[test]
fn an_upgrade_keeps_the_lock() {
    let site = Site::new();
    let grange = site.start();
    let other = Other::of(&site);
    for name in ["second", "third"] {
        let copy = site.path(name);
        std::fs::copy(program(), &copy).expect("the program can be copied");
        let output = run(Command::new(&copy).arg("upgrade").arg("--config").arg(site.config()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        other.is_refused(&site, &["run"]);
        refused(&site.run(&["run"]), &[&site.path("run")]);
    }
    assert!(grange.stop().success());
    // All of it was let go of.
    let mut grange = Process::spawn("grange", &mut other.command(&["run"]));
    until("the other instance has its turn", || instance(&site).contains("/run2\n").then_some(()));
    assert!(grange.stop().success());
}

#[test]
fn after_the_death_of_all_the_next_start_works() {
    let site = Site::new();
    for user in ["one", "two", "three"] {
        let mut grange = site.start();
        takes_mail(&site, user);
        grange.kill_all();
    }
    let grange = site.start();
    takes_mail(&site, "four");
    assert!(grange.stop().success());
    assert!(!site.log().contains("taken over"), "it is the same instance");
}

#[test]
fn a_dead_instance_of_another_run_dir_is_taken_over_and_told_of() {
    let site = Site::new();
    let mut grange = site.start();
    takes_mail(&site, "bob");
    grange.kill_all();
    let before = instance(&site);
    let other = Other::of(&site);
    let log = std::fs::File::create(site.path("other.log")).expect("a log file");
    let mut command = other.command(&["run"]);
    command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
    let mut second = Process::spawn("grange", &mut command);
    let told = || std::fs::read_to_string(site.path("other.log")).expect("a log");
    until("it is ready", || told().contains("all farms are ready").then_some(()));
    let line = told();
    let line = line.lines().find(|line| line.contains("taken over")).expect("a line about it");
    assert!(line.contains(before.trim_end()), "{line}");
    assert!(instance(&site).ends_with("/run2\n"));
    // Now the first is the stranger.
    refused(&site.run(&["run"]), &[&site.path("data"), &site.path("run2")]);
    assert!(second.stop().success());
}
