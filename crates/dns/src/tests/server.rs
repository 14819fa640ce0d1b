//! A name server on loopback, for tests: answers from a table, by UDP and, where that does not hold it, by TCP.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What the server says to a question.
#[derive(Clone)]
pub(crate) enum Say {
    Mx(Vec<(u16, String)>),
    Addresses(Vec<IpAddr>),
    Cname(String),
    /// A record of the asked type with these bytes.
    Raw(Vec<u8>),
    ServFail,
    Nothing,
}

pub(crate) const MX: u16 = 15;
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    table: Arc<Mutex<HashMap<(String, u16), Say>>>,
    questions: Arc<AtomicUsize>,
}

impl Server {
    /// Starts; the threads end with the test process.
    pub(crate) fn start() -> Self {
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
                let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
                Some((udp, tcp))
            })
            .expect("a port is free for both");
        let address = udp.local_addr().unwrap();
        let server = Self { address, table: Arc::default(), questions: Arc::default() };
        let (over_udp, over_tcp) = (server.clone(), server.clone());
        std::thread::spawn(move || over_udp.serve_udp(&udp));
        std::thread::spawn(move || over_tcp.serve_tcp(&tcp));
        server
    }

    /// Sets what is said about a name and type. Names of which nothing is known do not exist.
    pub(crate) fn say(&self, name: &str, kind: u16, say: Say) -> &Self {
        self.table.lock().unwrap().insert((name.to_owned(), kind), say);
        self
    }

    pub(crate) fn mx(&self, name: &str, hosts: &[(u16, &str)]) -> &Self {
        let hosts = hosts.iter().map(|(preference, host)| (*preference, (*host).to_owned()));
        self.say(name, MX, Say::Mx(hosts.collect()))
    }

    pub(crate) fn host(&self, name: &str, addresses: &[&str]) -> &Self {
        let (four, six) = addresses
            .iter()
            .map(|address| address.parse::<IpAddr>().unwrap())
            .partition::<Vec<IpAddr>, _>(IpAddr::is_ipv4);
        self.say(name, A, Say::Addresses(four)).say(name, AAAA, Say::Addresses(six))
    }

    #[allow(dead_code)]
    pub(crate) fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(mut answer) = self.answer(&buffer[..length]) {
                if answer.len() > 1200 {
                    answer.truncate(12 + question_length(&buffer[..length]));
                    answer[2] |= 2;
                    answer[6..12].fill(0);
                }
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 2];
            while stream.read_exact(&mut head).is_ok() {
                let mut question = vec![0; usize::from(u16::from_be_bytes(head))];
                if stream.read_exact(&mut question).is_err() {
                    break;
                }
                let Some(answer) = self.answer(&question) else { continue };
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let _ = stream.write_all(&[&length, answer.as_slice()].concat());
            }
        }
    }

    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        let (name, kind) = asked(question);
        let table = self.table.lock().unwrap();
        let known = table.keys().any(|(other, _)| *other == name);
        let (code, records) = match table.get(&(name, kind)) {
            Some(Say::Nothing) => return None,
            Some(Say::ServFail) => (2, Vec::new()),
            Some(say) => (0, records(say, kind)),
            None => (if known { 0 } else { 3 }, Vec::new()),
        };
        drop(table);
        let mut answer = question[..12].to_vec();
        answer[2] = 0x81;
        answer[3] = 0x80 | code;
        answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        answer[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
        answer.extend_from_slice(&question[12..12 + question_length(question)]);
        for (kind, data) in records {
            // The owner is the question's name, at byte 12.
            answer.extend_from_slice(&[0xc0, 12]);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            answer.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend_from_slice(&data);
        }
        Some(answer)
    }
}

fn records(say: &Say, kind: u16) -> Vec<(u16, Vec<u8>)> {
    match say {
        Say::Mx(hosts) => hosts
            .iter()
            .map(|(preference, host)| {
                (MX, [&preference.to_be_bytes(), wire(host).as_slice()].concat())
            })
            .collect(),
        Say::Addresses(addresses) => addresses
            .iter()
            .map(|address| match address {
                IpAddr::V4(address) => (A, address.octets().to_vec()),
                IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
            })
            .collect(),
        Say::Cname(name) => vec![(5, wire(name))],
        Say::Raw(bytes) => vec![(kind, bytes.clone())],
        Say::ServFail | Say::Nothing => Vec::new(),
    }
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}

fn question_length(question: &[u8]) -> usize {
    question[12..].iter().position(|byte| *byte == 0).unwrap() + 5
}

fn asked(question: &[u8]) -> (String, u16) {
    let (mut labels, mut place) = (Vec::new(), 12);
    while question[place] != 0 {
        let length = usize::from(question[place]);
        let label = &question[place + 1..=place + length];
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        place += length + 1;
    }
    (labels.join("."), u16::from_be_bytes([question[place + 1], question[place + 2]]))
}
