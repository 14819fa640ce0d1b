use rustls::{ClientConnection, Connection, ServerConnection};

use super::*;
use crate::{Issue, days_from_now, init, issue};

/// An authority, and hosts with keys of it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap() };
        init(&this.authority()).unwrap();
        this
    }

    fn authority(&self) -> PathBuf {
        self.directory.path().join("authority")
    }

    fn host(&self, host: &str, until: SystemTime) -> PathBuf {
        let out = self.directory.path().join(host);
        let (host, farms) = (host.to_owned(), vec!["router".to_owned()]);
        let wanted = Issue { host, farms, until, out: out.clone(), replace: true };
        issue(&self.authority(), &wanted).unwrap();
        out
    }

    fn keys(&self, host: &str) -> Keys {
        Keys::load(&self.host(host, days_from_now(30))).unwrap()
    }
}

/// Carries over what one has to say, until the other minds something.
fn send(from: &mut Connection, to: &mut Connection, minds: &mut Option<rustls::Error>) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = bytes.as_slice();
    while !bytes.is_empty() && minds.is_none() {
        to.read_tls(&mut bytes).unwrap();
        *minds = to.process_new_packets().err();
    }
}

/// Lets two shake hands in memory; each says whom it met, or what it minds.
fn meet(server: &Keys, client: &Keys, host: &str) -> [Result<String, rustls::Error>; 2] {
    let config = server.server(vec![b"grange.a".to_vec(), b"grange.b".to_vec()]);
    let mut server = Connection::from(ServerConnection::new(config).unwrap());
    let config = client.client(b"grange.b".to_vec());
    let name = host.to_owned().try_into().unwrap();
    let mut client = Connection::from(ClientConnection::new(config, name).unwrap());
    let (mut server_minds, mut client_minds) = (None, None);
    for _ in 0..4 {
        send(&mut client, &mut server, &mut server_minds);
        send(&mut server, &mut client, &mut client_minds);
    }
    let met = |end: &Connection, minds: Option<rustls::Error>| match minds {
        Some(error) => Err(error),
        None => {
            assert!(!end.is_handshaking());
            assert_eq!(end.alpn_protocol(), Some(&b"grange.b"[..]));
            Ok(Identity::of(end.peer_certificates().unwrap().first().unwrap()).unwrap().host)
        }
    };
    [met(&server, server_minds), met(&client, client_minds)]
}

#[test]
fn hosts_of_one_authority_meet_and_know_each_other() {
    let place = Place::new();
    let (one, two) = (place.keys("one.example"), place.keys("192.0.2.7"));
    let [server, client] = meet(&one, &two, "one.example");
    assert_eq!((server.unwrap().as_str(), client.unwrap().as_str()), ("192.0.2.7", "one.example"));
    let [server, client] = meet(&two, &one, "192.0.2.7");
    assert_eq!((server.unwrap().as_str(), client.unwrap().as_str()), ("one.example", "192.0.2.7"));
    let [_, client] = meet(&one, &two, "two.example");
    client.expect_err("it is called by another name");
}

#[test]
fn those_of_another_authority_and_those_that_ran_out_are_refused() {
    let (place, other) = (Place::new(), Place::new());
    let (one, stranger) = (place.keys("one.example"), other.keys("two.example"));
    let [_, client] = meet(&one, &stranger, "one.example");
    client.expect_err("the server is a stranger");
    let yesterday = SystemTime::now() - Duration::from_secs(24 * 3600);
    let old = Keys::load(&place.host("old.example", yesterday)).expect("only told of");
    let [server, _] = meet(&one, &old, "one.example");
    server.expect_err("the client's certificate has run out");
    let [_, client] = meet(&old, &one, "old.example");
    client.expect_err("the server's certificate has run out");
}

#[test]
fn changed_files_are_taken_up_and_broken_ones_are_not() {
    let place = Place::new();
    let keys = place.keys("one.example");
    let directory = place.directory.path().join("one.example");
    let look = |keys: &Keys| {
        keys.looked.set(Instant::now() - LOOK_EVERY);
        keys.generation()
    };
    assert_eq!(look(&keys), 0);
    let key = directory.join("host.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "nonsense").unwrap();
    assert_eq!((look(&keys), look(&keys)), (0, 0));
    std::fs::remove_file(&key).unwrap();
    assert_eq!(look(&keys), 0);
    files::write_new(&key, &good, 0o640).unwrap();
    assert_eq!(look(&keys), 1);
    // Another certificate, and for a moment the key of the one before.
    let before = std::fs::read(&key).unwrap();
    place.host("one.example", days_from_now(40));
    let after = std::fs::read(&key).unwrap();
    std::fs::write(&key, before).unwrap();
    assert_eq!(look(&keys), 1);
    std::fs::write(&key, after).unwrap();
    assert_eq!(look(&keys), 2);
    let left = keys.identity().time_left(SystemTime::now());
    assert!(left > Duration::from_secs(39 * 24 * 3600));
    assert_eq!(look(&keys), 2, "nothing has changed since");
}

#[test]
fn what_cannot_be_used_is_said() {
    let place = Place::new();
    let directory = place.host("one.example", days_from_now(30));
    let other = place.host("two.example", days_from_now(30));
    let error = |text: &str| {
        let error = Keys::load(&directory).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let key = directory.join("host.key");
    std::fs::copy(other.join("host.key"), &key).unwrap();
    error("host.key");
    place.host("one.example", days_from_now(30));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o604)).unwrap();
    error("chmod o= ");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    Keys::load(&directory).unwrap();
    std::fs::write(directory.join("host.pem"), "no certificate").unwrap();
    error("it holds no certificate");
    std::fs::write(directory.join("host.pem"), vec![b'a'; 300 << 10]).unwrap();
    error("more than");
    std::fs::copy(directory.join("ca.pem"), directory.join("host.pem")).unwrap();
    error("names 0 hosts");
    std::fs::remove_file(directory.join("ca.pem")).unwrap();
    error("ca.pem");
}
