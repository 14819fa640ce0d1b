//! Farms that are asked by other hosts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use socket::{Address, Client, ClientSettings, Places, Remote};
use sys::Signal;
use tls::{Issue, Keys};

use crate::echo::{Echo, Say};
use crate::support::{Place, Test, block_on, farm, free_address, soon, until};

/// All of them.
pub(crate) const ALL: &[Test] = &[
    ("other_hosts_ask_each_worker", other_hosts_ask_each_worker),
    ("other_hosts_ask_for_a_pass", other_hosts_ask_for_a_pass),
];

fn keys(place: &Place, host: &str, farm: &str) -> PathBuf {
    let (authority, out) = (place.path("authority"), place.path(host));
    if !authority.try_exists().unwrap() {
        tls::init(&authority).unwrap();
    }
    let (host, farms) = (host.to_owned(), vec![farm.to_owned()]);
    let until = tls::days_from_now(1);
    let wanted = Issue { host, farms, until, out: out.clone(), replace: false };
    tls::issue(&authority, &wanted).unwrap();
    out
}

fn client(place: &Place, address: SocketAddr) -> Client<Echo> {
    let keys = Rc::new(Keys::load(&keys(place, "asker.example", "asker")).unwrap());
    let at = Some(address.ip().to_string());
    let address = Address::Tcp { host: "one.example".into(), at, port: address.port() };
    let remote = Remote { keys, farm: "echo".into(), socket: "echo.echo".into() };
    let places = Places { addresses: vec![address], remote: Some(remote) };
    let deadline = Duration::from_secs(20);
    Client::new(places, ClientSettings { deadline, ..ClientSettings::default() })
}

fn other_hosts_ask_each_worker() {
    let mut place = Place::of(vec![farm("echo", 2)]);
    let address = free_address();
    place.config.farms[0].jobs = Some(address);
    place.config.farms[0].keys = Some(keys(&place, "one.example", "echo"));
    place.supervise(None);
    place.until_ready("echo", 2);
    block_on(async {
        let client = client(&place, address);
        client.connect();
        soon(|| client.peers().len() == 2).await;
        let pids = |client: &Client<Echo>| {
            let mut pids: Vec<u32> = client.peers().iter().map(|peer| peer.pid).collect();
            pids.sort_unstable();
            pids.dedup();
            pids
        };
        let before = pids(&client);
        assert_eq!(before.len(), 2);
        // A reload, while jobs go on: all of them are answered, at last by the new workers.
        place.config.farms[0].settings.text = "second".into();
        place.write_config();
        place.signal(Signal::Hangup);
        while client.call(&Say::default()).await.unwrap().text != "second" {}
        soon(|| client.peers().len() == 2 && pids(&client).iter().all(|pid| !before.contains(pid)))
            .await;
        // A crash is told of across hosts.
        let crashed = Rc::new(std::cell::Cell::new(None));
        let told = crashed.clone();
        client.on_crash(move |process| told.set(Some(process)));
        client.call(&Say { panic: true, ..Say::default() }).await.unwrap_err();
        soon(|| crashed.get().is_some()).await;
        client.call(&Say::default()).await.unwrap();
    });
}

fn other_hosts_ask_for_a_pass() {
    let mut place = Place::of(vec![farm("echo", 1)]);
    let address = free_address();
    let passes_path = place.path("passes");
    let keys = keys(&place, "one.example", "echo");
    let farm = &mut place.config.farms[0];
    farm.jobs = Some(address);
    farm.keys = Some(keys);
    farm.mode = "demand".into();
    farm.settings.passes = Some(passes_path.clone());
    place.manage();
    let passes = || std::fs::read_to_string(&passes_path).unwrap_or_default().lines().count();
    until(|| passes() == 1);
    until(|| place.view("echo").unwrap().workers.is_empty());
    block_on(async { client(&place, address).call(&Say::default()).await.unwrap() });
    assert_eq!(passes(), 2);
}
