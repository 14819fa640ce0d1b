//! TLS to the database: the authority that is named and no other, the host that is named and no other.

use std::path::PathBuf;

use queue_postgres::testing::{Server, USER, block_on, settings};
use queue_postgres::{Checks, Connection, Database, Fault, Settings};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are names");
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let pem = params.self_signed(&key).expect("it can be signed").pem();
        Self(Issuer::new(params, key), pem)
    }

    /// A certificate for a name, and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0).expect("it can be signed");
        (certificate.pem(), key.serialize_pem())
    }
}

async fn version(url: &str, settings: &Settings) -> Result<String, Fault> {
    let database = Database::new(url, settings).expect("it is a URL");
    let connection = Connection::open(&database, Checks::Writable).await?;
    let statement =
        "SELECT coalesce(version, 'none') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = connection.client().query_typed_one(statement, &[]).await.expect("it is there");
    Ok(row.get(0))
}

#[test]
fn only_the_named_authority_and_host_are_believed() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (certificate, key) = ours.issue("localhost");
    let access = ["hostssl shown all 127.0.0.1/32 trust clientcert=verify-ca"];
    let access: Vec<&str> =
        access.into_iter().chain(["host shown all 127.0.0.1/32 reject"]).collect();
    let (server, port) = Server::start_with_tls(&certificate, &key, &ours.1, &access);
    server.sql("postgres", "CREATE DATABASE shown");
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| -> Option<PathBuf> {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        Some(path)
    };
    let url = |host: &str, database: &str| format!("postgres://{USER}@{host}:{port}/{database}");
    let with_ca = |authority: &Authority, name: &str| Settings {
        ca_file: write(name, &authority.1),
        ..settings()
    };
    block_on(async {
        let plain = version(&url("localhost", "postgres"), &settings()).await;
        assert_eq!(plain.expect("TLS is not asked for"), "none");
        let ours_named = with_ca(&ours, "ours.pem");
        let encrypted = version(&url("localhost", "postgres"), &ours_named).await;
        assert_eq!(encrypted.expect("it is believed"), "TLSv1.3");
        let fault = version(&url("127.0.0.1", "postgres"), &ours_named).await;
        let text = fault.expect_err("the certificate is another host's").whole();
        assert!(text.contains("certificate"), "{text}");
        let fault = version(&url("localhost", "postgres"), &with_ca(&other, "other.pem")).await;
        let text = fault.expect_err("it is not the authority's").whole();
        assert!(text.contains("certificate"), "{text}");
        let fault = version(&url("localhost", "shown"), &ours_named).await;
        fault.expect_err("a certificate is to be shown");
        let (certificate, key) = ours.issue("mx1.example");
        let showing = Settings {
            certificate_file: write("host.pem", &certificate),
            key_file: write("host.key", &key),
            ..ours_named.clone()
        };
        let shown = version(&url("localhost", "shown"), &showing).await;
        assert_eq!(shown.expect("it is shown"), "TLSv1.3");
        for (name, text) in [("none.pem", ""), ("broken.pem", "-----BEGIN CERTIFICATE-----\nx")] {
            let settings = Settings { ca_file: write(name, text), ..settings() };
            let fault = version(&url("localhost", "postgres"), &settings).await;
            let text = fault.expect_err("there is no authority").whole();
            assert!(text.contains(name), "{text}");
        }
    });
}
