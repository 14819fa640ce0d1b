//! Workers that ask those of another host, as far as one machine can be two.

use std::path::PathBuf;

use socket::{Address, CallError};
use tls::Issue;

use super::*;

/// An authority, and a host for each farm.
struct Hosts {
    directory: tempfile::TempDir,
}

impl Hosts {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        tls::init(&directory.path().join("authority")).unwrap();
        Self { directory }
    }

    fn keys(&self, host: &str, farm: &str) -> PathBuf {
        let out = self.directory.path().join(farm);
        let (host, farms) = (host.to_owned(), vec![farm.to_owned()]);
        let until = tls::days_from_now(1);
        let wanted = Issue { host, farms, until, out: out.clone(), replace: false };
        tls::issue(&self.directory.path().join("authority"), &wanted).unwrap();
        out
    }

    /// A farm `echo` with a job port for hosts that may run `asker`.
    fn echo(&self, directory: &tempfile::TempDir, host: &str) -> Farm {
        Farm {
            jobs: Some((Ipv4Addr::LOCALHOST, 0).into()),
            callers: [("echo.echo".to_owned(), vec!["asker".to_owned()])].into(),
            keys: Some(self.keys(host, "echo")),
            ..farm(directory)
        }
    }

    /// A farm `asker` that asks `echo` in these places.
    fn asker(&self, directory: &tempfile::TempDir, places: Vec<Address>) -> Farm {
        Farm {
            name: "asker".into(),
            sockets: Vec::new(),
            tcp: Vec::new(),
            keys: Some(self.keys("asker.example", "asker")),
            places: [("echo".to_owned(), places)].into(),
            ..farm(directory)
        }
    }
}

fn at(host: &str, worker: &Worker) -> Address {
    let port = worker.job_port().unwrap().port();
    Address::Tcp { host: host.to_owned(), at: Some("127.0.0.1".to_owned()), port }
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

async fn says(client: &Client<Echo>, text: &str) -> Result<Say, CallError> {
    client.call(&Say { text: text.to_owned() }).await
}

#[test]
fn a_farm_is_asked_on_another_host_and_followed_to_a_third() {
    let (one, two) = (place(), place());
    let hosts = Hosts::new();
    run(async {
        let (echo, _manager) = Worker::alone(&hosts.echo(&one, "one.example")).unwrap();
        echo.serve::<Echo>("echo.echo", Rc::new(Echoer)).unwrap();
        echo.ready();
        assert_eq!(echo.tcp_listeners().len(), 1, "the job port is none of the stage's");
        let places = vec![at("one.example", &echo)];
        let (asker, manager) = Worker::alone(&hosts.asker(&two, places)).unwrap();
        let client = asker.client::<Echo>("echo.echo", ClientSettings::default());
        asker.ready();
        assert_eq!(says(&client, "far").await.unwrap().text, "far");

        // It serves at its named socket, too.
        let path = one.path().join("run/sockets/echo.echo");
        let near = Client::<Echo>::new(path, ClientSettings::default());
        assert_eq!(says(&near, "near").await.unwrap().text, "near");

        let directory = one.path().join("run/sockets");
        let places = |places: Vec<Address>| [("echo".to_owned(), places)].into();
        // Now it is here, as far as the asker knows …
        manager.new_places(&places(vec![Address::Path(directory)])).unwrap();
        let before = client.peers()[0].pid;
        while client.peers().len() != 1 || client.peers()[0].pid == before {
            client.changed().await;
        }
        assert_eq!(client.peers()[0].pid, std::process::id());
        assert_eq!(says(&client, "here").await.unwrap().text, "here");
        // … and then on a host that cannot be found.
        let away = Address::Tcp { host: "three.example".into(), at: None, port: 1 };
        manager.new_places(&places(vec![away])).unwrap();
        while !client.peers().is_empty() {
            client.changed().await;
        }
    });
}

#[test]
fn only_named_sockets_are_for_other_hosts() {
    let (one, two) = (place(), place());
    let hosts = Hosts::new();
    run(async {
        let mut farm = hosts.echo(&one, "one.example");
        farm.sockets.push(NamedSocket { name: "echo.secret".into(), admin: false });
        let (echo, _manager) = Worker::alone(&farm).unwrap();
        echo.serve::<Echo>("echo.echo", Rc::new(Echoer)).unwrap();
        echo.serve::<Echo>("echo.secret", Rc::new(Echoer)).unwrap();
        echo.ready();
        let places = vec![at("one.example", &echo)];
        let (asker, _manager) = Worker::alone(&hosts.asker(&two, places)).unwrap();
        let settings =
            ClientSettings { deadline: Duration::from_millis(300), ..ClientSettings::default() };
        let open = asker.client::<Echo>("echo.echo", settings.clone());
        let secret = asker.client::<Echo>("echo.secret", settings);
        assert!(says(&open, "?").await.is_ok());
        assert!(says(&secret, "?").await.is_err());
    });
}

#[test]
fn a_farm_without_keys_works_with_no_other_host() {
    let directory = place();
    let (jobs, none) = (Some((Ipv4Addr::LOCALHOST, 0).into()), BTreeMap::new());
    let away = Address::Tcp { host: "three.example".into(), at: None, port: 1 };
    let asks = [("echo".to_owned(), vec![away])].into();
    for (jobs, places) in [(jobs, none), (None, asks)] {
        let farm = Farm { jobs, places, ..farm(&directory) };
        let error = Worker::alone(&farm).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("has no keys"), "{error}");
    }
    let missing = Farm { keys: Some(directory.path().join("nowhere")), ..farm(&directory) };
    let error = Worker::alone(&missing).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("nowhere/ca.pem"), "{error}");
}
