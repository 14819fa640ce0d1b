//! Forged, broken and rude peers at a job port. Whatever they do, they get nowhere, and others are served meanwhile.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::*;
use crate::frame::LINE_BYTES_MAX;

/// So long an intruder waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
const USE: &str = "{\"method\":\"use\",\"params\":{\"version\":2}}\n";
const SAY: &str = "{\"id\":1,\"method\":\"say\",\"params\":{\"text\":\"let me in\"}}\n";

/// Certificates and their key, as they are shown.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A way to come to a port.
struct Intruder {
    shows: Option<Shown>,
    version: &'static SupportedProtocolVersion,
    asks: &'static [&'static str],
    roots: RootCertStore,
}

impl Intruder {
    fn of(hosts: &Hosts, shows: Option<Shown>) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(hosts.authority_text().as_bytes()).unwrap())
            .unwrap();
        Self { shows, version: &version::TLS13, asks: &["grange.test.echo"], roots }
    }

    fn shake(
        self,
        address: SocketAddr,
    ) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_root_certificates(self.roots);
        let mut config = match self.shows {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.asks.iter().map(|asked| asked.as_bytes().to_vec()).collect();
        let name = "localhost".try_into().unwrap();
        let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        rustls::StreamOwned::new(session, stream)
    }

    /// Comes, says something, and reads to the end: what it read, and how it ended.
    async fn comes(self, address: SocketAddr, says: String) -> (String, io::Result<usize>) {
        let come = move || {
            let mut stream = self.shake(address);
            let said = stream.write_all(says.as_bytes()).and_then(|()| stream.flush());
            let mut read = Vec::new();
            let end = said.and_then(|()| stream.read_to_end(&mut read));
            (String::from_utf8(read).unwrap(), end)
        };
        tokio::task::spawn_blocking(come).await.unwrap()
    }
}

fn shown(directory: &Path) -> Option<Shown> {
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
    let chain = CertificateDer::pem_slice_iter(&read("host.pem")).map(Result::unwrap).collect();
    Some((chain, PrivateKeyDer::from_pem_slice(&read("host.key")).unwrap()))
}

/// A port with a good client, which must be answered after every attack.
struct Scene {
    hosts: Hosts,
    port: Port,
    echoer: Rc<Echoer>,
    good: crate::Client<crate::testing::Echo>,
}

impl Scene {
    async fn new() -> Self {
        let hosts = Hosts::new();
        let echoer = Rc::<Echoer>::default();
        let port = port(&hosts, echoer.clone(), "test/1").await;
        let good = port.client(hosts.keys("good.example", &["asker"]));
        assert!(answers(&good).await);
        Self { hosts, port, echoer, good }
    }

    fn asker(&self) -> Option<Shown> {
        shown(&self.hosts.issue("asker.example", &["asker"], tls::days_from_now(1)))
    }

    fn intruder(&self, shows: Option<Shown>) -> Intruder {
        Intruder::of(&self.hosts, shows)
    }

    /// An intruder is turned away before anything of it is looked at.
    async fn turns_away(&self, intruder: Intruder, why: &str) {
        let taken = self.echoer.taken.get();
        let (read, end) = intruder.comes(self.port.address, format!("{USE}{SAY}")).await;
        assert_eq!(read, "", "{why}");
        let error = end.expect_err(why);
        assert!(!matches!(error.kind(), io::ErrorKind::WouldBlock), "{why}: {error}");
        self.is_well(taken, why).await;
    }

    async fn is_well(&self, taken: usize, why: &str) {
        assert_eq!(self.echoer.taken.get(), taken, "{why}");
        assert!(answers(&self.good).await, "{why}");
        until(|| self.port.server.connections() == 1).await;
    }
}

fn self_signed() -> Option<Shown> {
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["asker.example".to_owned()]).unwrap();
    let uri = "grange:farm/asker".try_into().unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(uri));
    let made = params.self_signed(&pair).unwrap();
    let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
    Some((vec![made.der().clone()], key))
}

#[test]
fn who_shows_nothing_or_something_forged_is_turned_away() {
    run(async {
        let scene = Scene::new().await;
        scene.turns_away(scene.intruder(None), "no certificate").await;
        scene.turns_away(scene.intruder(self_signed()), "self-signed").await;
        let others = Hosts::new();
        let stranger = shown(&others.issue("asker.example", &["asker"], tls::days_from_now(1)));
        scene.turns_away(scene.intruder(stranger), "another authority's").await;
        let yesterday = std::time::SystemTime::now() - Duration::from_secs(24 * 3600);
        let old = shown(&scene.hosts.issue("asker.example", &["asker"], yesterday));
        scene.turns_away(scene.intruder(old), "expired").await;
    });
}

#[test]
fn a_certificate_for_other_farms_opens_nothing_here() {
    run(async {
        let scene = Scene::new().await;
        for farms in [&["router", "test"][..], &["asker2"], &["Asker"]] {
            let shows = shown(&scene.hosts.issue("asker.example", farms, tls::days_from_now(1)));
            let taken = scene.echoer.taken.get();
            let (read, _) =
                scene.intruder(shows).comes(scene.port.address, format!("{USE}{SAY}")).await;
            assert!(read.contains("host asker.example may not use this socket"), "{read}");
            assert_eq!(read.lines().count(), 1, "{read}");
            scene.is_well(taken, "other farms").await;
        }
    });
}

#[test]
fn nothing_but_tls_13_and_a_conversation_that_is_served() {
    run(async {
        let scene = Scene::new().await;
        let mut old = scene.intruder(scene.asker());
        old.version = &version::TLS12;
        scene.turns_away(old, "TLS 1.2").await;
        for asks in [&["grange.test.other"][..], &["h2", "http/1.1"], &[]] {
            let mut other = scene.intruder(scene.asker());
            other.asks = asks;
            let taken = scene.echoer.taken.get();
            let (read, _) = other.comes(scene.port.address, format!("{USE}{SAY}")).await;
            assert_eq!(read, "");
            scene.is_well(taken, "a conversation that is not served").await;
        }
        for bytes in
            [&b"EHLO mx.example\r\n"[..], USE.as_bytes(), b"\0\0\0\0", &[0x16, 3, 1, 0xff, 0xff]]
        {
            let (address, taken) = (scene.port.address, scene.echoer.taken.get());
            let come = move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut read = Vec::new();
                let _ = stream.write_all(bytes);
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = stream.read_to_end(&mut read);
                read
            };
            let read = tokio::task::spawn_blocking(come).await.unwrap();
            // At most an alert of TLS.
            assert!(read.len() <= 7, "{read:?}");
            scene.is_well(taken, "plain text").await;
        }
    });
}

#[test]
fn long_frames_other_versions_and_garbage_end_only_their_own_connection() {
    run(async {
        let scene = Scene::new().await;
        let long = format!("{USE}{}", "x".repeat(LINE_BYTES_MAX + 1));
        let other_version = "{\"method\":\"use\",\"params\":{\"version\":9}}\n".to_owned();
        let garbage = format!("{USE}{}", "\u{0}garbage\n".repeat(100));
        for (says, expect) in [
            (long, "a frame has at most 1048576 bytes"),
            (other_version, "choose one of the versions [3, 2]"),
            (garbage, "not JSON"),
            (SAY.to_owned(), "choose a version first"),
        ] {
            let taken = scene.echoer.taken.get();
            let mut stream = scene.intruder(scene.asker());
            stream.asks = &["grange.test.echo"];
            let address = scene.port.address;
            let come = move || {
                let mut stream = stream.shake(address);
                // It may be cut off while it still talks.
                let _ = stream.write_all(says.as_bytes()).and_then(|()| stream.flush());
                let mut read = String::new();
                let mut chunk = [0; 4096];
                while !read.contains(expect) {
                    match stream.read(&mut chunk) {
                        Ok(length) if length > 0 => {
                            read.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
                        }
                        end => panic!("{expect}: {read}, then {end:?}"),
                    }
                }
            };
            tokio::task::spawn_blocking(come).await.unwrap();
            scene.is_well(taken, expect).await;
        }
    });
}

#[test]
fn who_stops_halfway_holds_nobody_up() {
    run(async {
        let scene = Scene::new().await;
        let address = scene.port.address;
        // Half of a frame, and silence.
        let intruder = scene.intruder(scene.asker());
        let half = move || {
            let mut stream = intruder.shake(address);
            stream.write_all(format!("{USE}{{\"id\":1,\"meth").as_bytes()).unwrap();
            stream.flush().unwrap();
            stream
        };
        let half = tokio::task::spawn_blocking(half).await.unwrap();
        assert!(answers(&scene.good).await);
        // More that begin a handshake, and say no more, than may do so at once.
        let silent: Vec<TcpStream> = (0..HANDSHAKES_MAX * 2)
            .map(|number| {
                let mut stream = TcpStream::connect(address).unwrap();
                if number % 2 == 0 {
                    stream.write_all(&[0x16, 3, 1, 0, 200, 1, 0]).unwrap();
                }
                stream
            })
            .collect();
        assert!(answers(&scene.good).await);
        let late = scene.port.client(scene.hosts.keys("late.example", &["asker"]));
        assert!(answers(&late).await, "a newcomer gets in");
        // Those who came first were pushed out.
        let mut first = silent.into_iter().next().unwrap();
        first.set_read_timeout(Some(PATIENCE)).unwrap();
        let end = tokio::task::spawn_blocking(move || first.read(&mut [0; 16])).await.unwrap();
        assert!(
            !matches!(&end, Err(error) if error.kind() == io::ErrorKind::WouldBlock),
            "{end:?}"
        );
        drop((half, late));
        until(|| scene.port.server.connections() == 1).await;
    });
}

#[test]
fn who_does_not_read_is_not_read_from() {
    run(async {
        let scene = Scene::new().await;
        let (intruder, address) = (scene.intruder(scene.asker()), scene.port.address);
        let flood = move || {
            let mut stream = intruder.shake(address);
            stream.write_all(USE.as_bytes()).unwrap();
            stream.sock.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let text = "x".repeat(500_000);
            let line =
                format!("{{\"id\":1,\"method\":\"say\",\"params\":{{\"text\":\"{text}\"}}}}\n");
            let mut sent = 0;
            // All of it is answered, and none of the answers is read.
            while sent < 64 << 20 && stream.write_all(line.as_bytes()).is_ok() {
                sent += line.len();
            }
            (stream, sent)
        };
        let (stream, sent) = tokio::task::spawn_blocking(flood).await.unwrap();
        assert!(sent < 32 << 20, "{sent} bytes were taken from one who reads nothing");
        assert!(answers(&scene.good).await);
        drop(stream);
        until(|| scene.port.server.connections() == 1).await;
    });
}
