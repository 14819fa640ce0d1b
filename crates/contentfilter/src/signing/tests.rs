//! Which settings are right, and that what is signed is what leaves.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use authentication::key::Kind;
use job::inspect::Verdict;
use mail::header;

use super::*;
use crate::chain::Chain;
use crate::settings::Settings;

fn settings(text: &str) -> Settings {
    toml::from_str(text).expect("well-formed settings")
}

#[test]
fn settings_are_checked() {
    for (text, key) in [
        ("{ dkim_sign = [] }", "dkim_sign"),
        ("{ dkim_sign = [{ domain = 'a b', selector = 's', key = '/k' }] }", "dkim_sign[0].domain"),
        (
            "{ dkim_sign = [{ domain = 'test', selector = 's', key = '/k' }] }",
            "dkim_sign[0].domain",
        ),
        (
            "{ dkim_sign = [{ domain = 'a.test', selector = 's;', key = '/k' }] }",
            "dkim_sign[0].selector",
        ),
        ("{ dkim_sign = [{ domain = 'a.test', selector = 's', key = 'k' }] }", "dkim_sign[0].key"),
        (
            "{ dkim_sign = [{ domain = '*', selector = 's', key = '/k', subdomains = true }] }",
            "dkim_sign[0].subdomains",
        ),
        (
            "{ dkim_sign = [{ domain = '*', selector = 's', key = '/k', canonicalization = 'nowsp' }] }",
            "dkim_sign[0].canonicalization",
        ),
        (
            "{ dkim_sign = [{ domain = '*', selector = 's', key = '/k', expire = '5m' }] }",
            "dkim_sign[0].expire",
        ),
        (
            "{ dkim_sign = [{ domain = '*', selector = 's', key = '/k', signed = ['Received'] }] }",
            "dkim_sign[0].signed",
        ),
        (
            "{ dkim_sign = [{ domain = '*', selector = 's', key = '/k', oversigned = ['a b'] }] }",
            "dkim_sign[0].oversigned",
        ),
        ("{ arc_seal = { domain = 'a.test', selector = 's', key = '/k' } }", "arc_seal"),
    ] {
        let problem = settings(&format!("filters = [{text}]")).check().expect_err(text);
        assert_eq!(problem.key, format!("contentfilter.filters[0].{key}"), "{text}");
    }
    let seal = "{ arc_seal = { domain = 'a.test', selector = 's', key = '/k', clients = 'all' } }";
    let some = settings(&format!("filters = [{{ authentication = {{}} }}, {seal}]"));
    assert_eq!(some.check().expect_err("not for all").key, "contentfilter.filters[1].arc_seal");
    let all =
        settings(&format!("filters = [{{ authentication = {{ clients = 'all' }} }}, {seal}]"));
    assert_eq!(all.check(), Ok(()));
    let problem = all.check_files(None).expect_err("there is no such file");
    assert_eq!(problem.key, "contentfilter.filters[1].arc_seal.key");
    assert!(problem.wrong.contains("No such file"), "{}", problem.wrong);
}

const MESSAGE: &str = "Received: by mx.test\r\nFrom: A <a@a.test>\r\nSubject: one\r\n\r\nHello\r\n";

/// The header section that leaves.
fn leaves(filters: &str, trusted: bool) -> String {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let settings = settings(filters);
    settings.check().expect("right settings");
    // Nobody answers there: what is found does not matter here.
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let dns = dns::Settings { nameservers: vec![nowhere], ..dns::Settings::default() };
    let chain = Chain::new(&settings, "mx.test", &dns).expect("filters");
    let mut session = Session {
        address: Some("192.0.2.1".parse().expect("an address")),
        port: 25,
        trusted,
        service: "mx".to_owned(),
        helo: Some("client.test".to_owned()),
        ..Session::default()
    };
    let size = MESSAGE.len() as u64;
    let message = Message::new(size, MESSAGE.into(), MESSAGE.len(), None);
    let (judgement, message) =
        runtime.block_on(chain.message(&mut chain.open(), &mut session, Ok(message), None, None));
    assert_eq!(judgement.verdict(), Verdict::Accept, "{:?}", judgement.failures);
    assert_eq!(judgement.failures, [""; 0]);
    String::from_utf8(message.head().to_vec()).expect("text")
}

fn key(directory: &Path, name: &str, kind: Kind) -> String {
    let path = directory.join(name);
    PrivateKey::make(&path, kind).expect("a key");
    path.display().to_string()
}

#[test]
fn our_clients_mail_is_signed_and_strangers_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let (rsa, ed) =
        (key(directory.path(), "rsa", Kind::Rsa(2048)), key(directory.path(), "ed", Kind::Ed25519));
    let filters = format!(
        "[[filters]]\nheader = 'Subject'\naction = {{ add_header = {{ name = 'Reply-To', value = 'b@a.test' }} }}\n\
         [[filters]]\ndkim_sign = [{{ domain = 'a.test', selector = 'rsa', key = '{rsa}' }}, \
         {{ domain = 'a.test', selector = 'ed', key = '{ed}' }}, \
         {{ domain = '*', selector = 'any', key = '{ed}', clients = 'strangers' }}]"
    );
    let signed = leaves(&filters, true);
    assert_eq!(header::count(signed.as_bytes(), "DKIM-Signature"), 2, "{signed}");
    // What a filter before added is signed, and signed once more.
    let unfolded = signed.replace("\r\n\t", "").replace(' ', "");
    assert!(unfolded.contains("From:From:Reply-To:Reply-To:Subject:Subject:"), "{signed}");
    let strangers = leaves(&filters, false);
    assert_eq!(header::count(strangers.as_bytes(), "DKIM-Signature"), 1, "{strangers}");
    assert!(strangers.contains("s=any"), "{strangers}");
}

#[test]
fn strangers_mail_is_sealed_and_our_clients_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let ed = key(directory.path(), "ed", Kind::Ed25519);
    let filters = format!(
        "[[filters]]\nauthentication = {{ dns_time = '100ms', authserv_id = 'id.test' }}\n\
         [[filters]]\narc_seal = {{ domain = 'a.test', selector = 'ed', key = '{ed}' }}"
    );
    let sealed = leaves(&filters, false);
    for (name, value) in [
        ("ARC-Seal", "i=1; a=ed25519-sha256; "),
        ("ARC-Message-Signature", "i=1; a=ed25519-sha256; "),
        ("ARC-Authentication-Results", "i=1; id.test; iprev="),
        ("Authentication-Results", "id.test;\tiprev="),
    ] {
        let field = header::first(sealed.as_bytes(), name).expect(name);
        let found = String::from_utf8_lossy(&field.value()).into_owned();
        assert!(found.starts_with(value), "{name}: {found}");
    }
    let plain = leaves(&filters, true);
    assert_eq!(plain, MESSAGE.strip_suffix("Hello\r\n").expect("the header section"));
}

#[test]
fn key_files_are_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ed");
    let ed = key(directory.path(), "ed", Kind::Ed25519);
    let settings = settings(&format!(
        "filters = [{{ dkim_sign = [{{ domain = 'a.test', selector = 's', key = '{ed}' }}] }}]"
    ));
    let facts = std::fs::metadata(&path).expect("the key");
    let (owner, group) = (facts.uid(), facts.gid());
    assert_eq!(settings.check_files(None), Ok(()));
    assert_eq!(settings.check_files(Some((owner, group))), Ok(()));
    let check = |reader, wrong: &str| {
        let problem = settings.check_files(reader).expect_err(wrong);
        assert_eq!(problem.key, "contentfilter.filters[0].dkim_sign[0].key");
        assert!(problem.wrong.contains(wrong), "{}", problem.wrong);
    };
    check(Some((owner + 1, group)), "cannot be read by the user");
    let mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("our file");
    };
    mode(0o640);
    assert_eq!(settings.check_files(Some((owner + 1, group))), Ok(()));
    check(Some((owner + 1, group + 1)), "cannot be read by the user");
    mode(0o644);
    check(None, "can be read by everyone");
    mode(0o600);
    std::fs::write(&path, "no key").expect("our file");
    check(None, "holds no private key");
}
