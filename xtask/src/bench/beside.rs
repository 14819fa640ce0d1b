//! `bench backlog` and `bench isolation`: fresh mail beside much that cannot be delivered now, against fresh mail alone.
//!
//! ```text
//! backlog    a million deferred recipients in ten thousand lanes, whose time comes in hours
//! isolation  a hundred thousand messages for a destination that is dead, and as many for one that greets nobody
//! ```
//!
//! A server without the burden is measured before the one with it runs, and once more when that has ended: a machine's drift is in both,
//! and what the burden costs all the time is in the one alone.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Scratch;
use super::grange::{self, Grange};
use super::load::{Sink, free_port, send, send_to, wait_for_port};
use super::measure::median;
use super::options::Options;
use super::start::{Backlog, Case};
use crate::{Failure, packages};

/// Recipients that wait, and their lanes.
const WAITING: usize = 1_000_000;
const LANES: usize = 10_000;
/// Seconds until they are due.
const WAIT_SECONDS: usize = 14_400;
/// Messages for each destination that does not take them.
const STUCK: usize = 100_000;
/// How long the burden is given to settle.
const SETTLE: Duration = Duration::from_secs(20);

/// A burden, and how a server comes by it.
type Burden = fn(&Path) -> Result<Loaded, Failure>;

/// Measures beside a backlog.
pub(super) fn run_backlog(words: &[&str]) -> Result<bool, Failure> {
    alone("backlog", backlog, words)
}

/// Measures beside destinations that do not take mail.
pub(super) fn run_isolation(words: &[&str]) -> Result<bool, Failure> {
    alone("isolation", isolation, words)
}

fn alone(name: &str, burden: Burden, words: &[&str]) -> Result<bool, Failure> {
    let options = Options::default().parse(words)?;
    packages::provide()?;
    let scratch = Scratch::new(name, options.journal)?;
    let result = measure(&options, &scratch.folder, burden);
    scratch.end(result.map(drop))
}

/// Says which part of the rate without a burden is reached beside it.
pub(super) fn measure(options: &Options, folder: &Path, burden: Burden) -> Result<f64, Failure> {
    println!("{}; medians of {} rounds", options.load(), options.rounds);
    let mut free = Loaded::new(&folder.join("free"), "", |_| Ok(()))?;
    let mut without = free.rounds(options, "without the burden")?;
    let mut loaded = burden(&folder.join("loaded"))?;
    let with = loaded.rounds(options, "beside it")?;
    drop(loaded);
    without.extend(free.rounds(options, "without it again")?);
    let ratio = median(with) / median(without);
    println!("beside the burden: {:.1} % of the mail", ratio * 100.0);
    Ok(ratio)
}

/// A server and its sink for fresh mail.
pub(super) struct Loaded {
    grange: Grange,
    sink: Sink,
}

impl Loaded {
    fn new(
        folder: &Path,
        routes: &str,
        prepare: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let binary = grange::build()?;
        let sink = Sink::start()?;
        std::fs::create_dir_all(folder)?;
        prepare(folder)?;
        let mut grange = Grange::spawn(&binary, folder, sink.port, routes)?;
        wait_for_port(grange.port, &mut grange.child)?;
        Ok(Self { grange, sink })
    }

    /// Messages relayed a second, of each round; one before them is to warm up.
    fn rounds(&mut self, options: &Options, how: &str) -> Result<Vec<f64>, Failure> {
        self.round(options)?;
        let rates = (0..options.rounds).map(|_| self.round(options));
        let rates: Vec<f64> = rates.collect::<Result<_, _>>()?;
        println!("relayed a second {how}: {:.0}", median(rates.clone()));
        Ok(rates)
    }

    fn round(&mut self, options: &Options) -> Result<f64, Failure> {
        let wanted = self.sink.messages() + options.messages as u64;
        let begun = Instant::now();
        send(options, options.messages, self.grange.port)?;
        self.sink.wait(wanted)?;
        Ok(options.messages as f64 / begun.elapsed().as_secs_f64())
    }
}

/// Many recipients whose time comes in hours.
pub(super) fn backlog(folder: &Path) -> Result<Loaded, Failure> {
    let maker = Backlog::build()?;
    let case = Case { messages: WAITING, recipients: WAITING, passed: 0 };
    let loaded = Loaded::new(folder, "", |folder| maker.make(LANES, WAIT_SECONDS, case, folder))?;
    println!("{WAITING} recipients wait in {LANES} lanes");
    std::thread::sleep(SETTLE);
    Ok(loaded)
}

/// Many messages for a destination at which nobody listens, and for one that takes connections and says nothing.
pub(super) fn isolation(folder: &Path) -> Result<Loaded, Failure> {
    let tarpit = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (dead_port, tarpit_port) = (free_port()?, tarpit.local_addr()?.port());
    std::thread::spawn(move || {
        let _kept: Vec<TcpStream> = tarpit.incoming().map_while(Result::ok).collect();
    });
    let routes = format!(
        "  {{ domain = \"dead.example\", channel = \"smtp\", host = \"[127.0.0.1]:{dead_port}\" }},
  {{ domain = \"tarpit.example\", channel = \"smtp\", host = \"[127.0.0.1]:{tarpit_port}\" }},\n"
    );
    let loaded = Loaded::new(folder, &routes, |_| Ok(()))?;
    let options = Options { reuse: true, sessions: 20, ..Options::default() };
    for domain in ["dead.example", "tarpit.example"] {
        send_to(&options, STUCK, loaded.grange.port, domain)?;
        println!("{STUCK} messages wait for {domain}");
    }
    std::thread::sleep(SETTLE);
    Ok(loaded)
}
