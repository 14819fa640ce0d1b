//! A name server on loopback: zones from text, by UDP and TCP, that can also be slow, lie, loop and break.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Port, free_port};

/// The server. Its threads end with the test's process.
///
/// A zone is lines of `NAME TYPE DATA`, with A, AAAA, MX, TXT, PTR and CNAME; the type `*` is all. Of TXT everything behind the type is
/// the text. A name of which nothing is known does not exist. Data may also be
///
/// - `!silent`: no answer,
/// - `!servfail`: an error,
/// - `!slow`: after a second, as if there were no such records,
/// - `!liar`: an answer to another question,
/// - `!garbage`: bytes that are no answer,
/// - `!torn`: by UDP and TCP, always cut off.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    _port: Option<Port>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    zone: Mutex<HashMap<String, Vec<(String, String)>>>,
    questions: AtomicUsize,
}

/// The longest answer by UDP, in bytes.
const UDP_BYTES_MAX: usize = 1200;
const SLOW: Duration = Duration::from_secs(1);

impl NameServer {
    /// Starts with a zone.
    pub fn start(zone: &str) -> Self {
        let port = free_port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number));
        Self { _port: Some(port), ..Self::at(address, zone) }
    }

    /// Starts with a zone, at an address of the network that this thread is in.
    pub fn at(address: SocketAddr, zone: &str) -> Self {
        let udp = UdpSocket::bind(address).expect("our port");
        let tcp = TcpListener::bind(address).expect("our port");
        let server = Self { address, _port: None, shared: Arc::default() };
        server.add(zone);
        let udp = Arc::new(udp);
        let shared = Arc::clone(&server.shared);
        std::thread::spawn(move || serve_udp(&udp, &shared));
        let shared = Arc::clone(&server.shared);
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve_tcp(stream, &shared));
            }
        });
        server
    }

    /// Where it listens, as `[dns]` names it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Adds lines to the zone.
    pub fn add(&self, zone: &str) {
        let mut table = self.shared.zone.lock().expect("no test panics with it");
        for line in zone.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_else(|| panic!("a line of a zone: {line}"));
            let (name, kind, data) = (word(), word(), word());
            let entries = table.entry(name.to_ascii_lowercase()).or_default();
            entries.push((kind.to_owned(), data.trim().to_owned()));
        }
    }

    /// How much was asked.
    pub fn questions(&self) -> usize {
        self.shared.questions.load(Ordering::SeqCst)
    }
}

fn serve_udp(socket: &Arc<UdpSocket>, shared: &Arc<Shared>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let Some(question) = buffer.get(..length).map(<[u8]>::to_vec) else { continue };
        let (socket, shared) = (Arc::clone(socket), Arc::clone(shared));
        // Each on a thread of its own, so that a slow one holds up no other.
        std::thread::spawn(move || {
            if let Some(mut answer) = shared.answer(&question) {
                if answer.len() > UDP_BYTES_MAX {
                    answer = cut_off(&question);
                }
                let _ = socket.send_to(&answer, from);
            }
        });
    }
}

fn serve_tcp(mut stream: std::net::TcpStream, shared: &Shared) {
    let mut head = [0; 2];
    while stream.read_exact(&mut head).is_ok() {
        let mut question = vec![0; usize::from(u16::from_be_bytes(head))];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        let Some(answer) = shared.answer(&question) else { continue };
        let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
        if stream.write_all(&[&length, answer.as_slice()].concat()).is_err() {
            return;
        }
    }
}

/// The question's name, its type, and where it ends.
fn asked(question: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*question.get(at)?, *question.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}

fn kind_name(kind: u16) -> &'static str {
    match kind {
        1 => "A",
        5 => "CNAME",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        _ => "?",
    }
}

impl Shared {
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        let (name, kind, end) = asked(question)?;
        let found = self.zone.lock().expect("no test panics with it").get(&name).cloned();
        let is_known = found.is_some();
        let wanted = |(other, _): &(String, String)| other == kind_name(kind) || other == "*";
        let mut records: Vec<(String, String)> =
            found.clone().into_iter().flatten().filter(wanted).collect();
        if records.is_empty() {
            let aliases = found.into_iter().flatten().filter(|(other, _)| other == "CNAME");
            records = aliases.collect();
        }
        let trick = records.iter().find_map(|(_, data)| data.strip_prefix('!'));
        match trick {
            None => Some(reply(question, end, if is_known { 0 } else { 3 }, &records)),
            Some("silent") => None,
            Some("servfail") => Some(reply(question, end, 2, &[])),
            Some("slow") => {
                std::thread::sleep(SLOW);
                Some(reply(question, end, 0, &[]))
            }
            Some("liar") => {
                let mut lie = question.get(..12)?.to_vec();
                lie.extend(wire("elsewhere.test"));
                lie.extend([0, 16, 0, 1]);
                let end = lie.len();
                let records = [("TXT".to_owned(), "v=spf1 +all".to_owned())];
                Some(reply(&lie, end, 0, &records))
            }
            Some("garbage") => Some([question.get(..2)?, &[0xff; 40]].concat()),
            Some("torn") => Some(cut_off(question)),
            Some(other) => panic!("what is !{other}?"),
        }
    }
}

/// An answer that says of itself that it is not whole.
fn cut_off(question: &[u8]) -> Vec<u8> {
    let end = asked(question).map_or(question.len(), |(_, _, end)| end);
    let mut answer = reply(question, end, 0, &[]);
    if let Some(flags) = answer.get_mut(2) {
        *flags |= 2;
    }
    answer
}

fn reply(question: &[u8], end: usize, code: u8, records: &[(String, String)]) -> Vec<u8> {
    let mut answer = question.get(..2).unwrap_or_default().to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1]);
    answer.extend(u16::try_from(records.len()).expect("few records").to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend_from_slice(question.get(12..end).unwrap_or_default());
    for (kind, data) in records {
        let (kind, bytes) = record(kind, data);
        // The owner is the question's name, at byte 12; for a minute.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend(u16::try_from(bytes.len()).expect("a short record").to_be_bytes());
        answer.extend(bytes);
    }
    answer
}

fn record(kind: &str, data: &str) -> (u16, Vec<u8>) {
    let address = || data.parse::<IpAddr>().unwrap_or_else(|_| panic!("an address: {data}"));
    match kind {
        "A" | "AAAA" => match address() {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        },
        "CNAME" => (5, wire(data)),
        "PTR" => (12, wire(data)),
        "MX" => {
            let (preference, host) = data.split_once(' ').expect("a preference and a host");
            let preference: u16 = preference.parse().expect("a number");
            (15, [&preference.to_be_bytes(), wire(host).as_slice()].concat())
        }
        "TXT" => {
            let strings = data.as_bytes().chunks(255);
            (16, strings.flat_map(|part| [&[part.len() as u8], part].concat()).collect())
        }
        other => panic!("records of type {other} are not known"),
    }
}

/// A name as it is sent.
fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}
