//! Asking a farm, and saying what stands in the way of its answer.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use farm::scoreboard::{self, WorkerState};
use socket::{Address, CallError, Client, ClientSettings, Conversation, Places, Remote};
use tls::Keys;

use super::Failure;
use crate::configuration::Configuration;

/// How long a command waits for a farm.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// After so long it says for what it waits.
const SAID_AFTER: Duration = Duration::from_secs(2);

/// Asks one request of a socket, wherever its farm is.
pub(super) async fn ask<C: Conversation>(
    configuration: &Configuration,
    socket: &str,
    request: &C::Request,
) -> Result<C::Answer, Failure> {
    ask_within::<C>(configuration, socket, request, ANSWER_DEADLINE).await
}

/// Asks one request that must be answered so soon.
pub(super) async fn ask_within<C: Conversation>(
    configuration: &Configuration,
    socket: &str,
    request: &C::Request,
    deadline: Duration,
) -> Result<C::Answer, Failure> {
    let places = places(configuration, socket)?;
    ask_at::<C>(configuration, places, socket, request, deadline).await
}

/// Asks one request of a socket at these places.
pub(super) async fn ask_at<C: Conversation>(
    configuration: &Configuration,
    places: Places,
    socket: &str,
    request: &C::Request,
    deadline: Duration,
) -> Result<C::Answer, Failure> {
    let run_dir = &configuration.top.run_dir;
    let settings = ClientSettings { deadline, waiting_max: 1, ..ClientSettings::default() };
    let client = client_at::<C>(configuration, places, socket, settings)?;
    let mut call = std::pin::pin!(client.call(request));
    let answer = match tokio::time::timeout(SAID_AFTER.min(deadline), &mut call).await {
        Ok(answer) => answer,
        Err(_) => {
            let seconds = deadline.as_secs();
            let why = hindrance(run_dir, socket);
            eprintln!("grange: waiting for {socket} to answer, {seconds} s at most: {why}");
            call.await
        }
    };
    answer.map_err(|error| match error {
        CallError::Refused(error) if error.code == socket::codes::NOT_FOUND => {
            Failure::NotFound(error.message)
        }
        CallError::Refused(error) if error.code == socket::codes::PARAMS => {
            Failure::Usage(error.message)
        }
        CallError::Refused(error) => Failure::Refused(error.message),
        CallError::Deadline | CallError::NotSent(_) => Failure::Unavailable(format!(
            "{socket} has not answered in {} s: {}",
            deadline.as_secs(),
            hindrance(run_dir, socket)
        )),
        lost @ CallError::Lost { .. } => {
            Failure::Unavailable(format!("{socket} does not answer: {lost}"))
        }
    })
}

/// A client of a socket, wherever its farm is, for several requests. Says at once why a socket of this host cannot be used.
pub(super) fn client<C: Conversation>(
    configuration: &Configuration,
    socket: &str,
    settings: ClientSettings,
) -> Result<Client<C>, Failure> {
    let places = places(configuration, socket)?;
    client_at(configuration, places, socket, settings)
}

fn client_at<C: Conversation>(
    configuration: &Configuration,
    places: Places,
    socket: &str,
    settings: ClientSettings,
) -> Result<Client<C>, Failure> {
    let run_dir = &configuration.top.run_dir;
    if let [Address::Path(path)] = places.addresses.as_slice() {
        reachable(path)?;
        if newest(run_dir, socket).is_some_and(|worker| worker.state == WorkerState::Standby) {
            return Err(Failure::Unavailable(format!("{socket}: {}", hindrance(run_dir, socket))));
        }
    }
    Ok(Client::new(places, settings))
}

/// Where a socket is: on this host, on others, or on both.
pub fn places(configuration: &Configuration, socket: &str) -> Result<Places, Failure> {
    let (top, cluster) = (&configuration.top, &configuration.cluster);
    let here = path_of(&top.run_dir, socket);
    if !cluster.is_on() {
        return Ok(here.into());
    }
    let farm = socket.split('.').next().unwrap_or(socket);
    let addresses = cluster.places(&top.hostname, farm, &here);
    remote_places(configuration, socket, addresses)
}

/// These addresses of a socket, with what is shown there if they are other hosts'.
pub(super) fn remote_places(
    configuration: &Configuration,
    socket: &str,
    addresses: Vec<Address>,
) -> Result<Places, Failure> {
    let is_remote = |address: &Address| matches!(address, Address::Tcp { .. });
    if !addresses.iter().any(is_remote) {
        return Ok(Places { addresses, remote: None });
    }
    let directory = &configuration.cluster.keys;
    let keys = Keys::load(directory).map_err(|error| {
        Failure::Unavailable(format!("other hosts must be shown this one's keys: {error}"))
    })?;
    let farm = socket.split('.').next().unwrap_or(socket).to_owned();
    let remote = Remote { keys: Rc::new(keys), farm, socket: socket.to_owned() };
    Ok(Places { addresses, remote: Some(remote) })
}

fn path_of(run_dir: &Path, socket: &str) -> PathBuf {
    let directory = run_dir.join("sockets");
    match socket.ends_with(".admin") {
        true => directory.join("admin").join(socket),
        false => directory.join(socket),
    }
}

/// The newest worker of the farm behind a socket.
fn newest(run_dir: &Path, socket: &str) -> Option<scoreboard::Line> {
    let farm = socket.split('.').next().unwrap_or(socket);
    let views = scoreboard::read_all(run_dir).unwrap_or_default();
    let view = views.into_iter().find(|view| view.farm == farm)?;
    view.workers.into_iter().max_by_key(|line| line.generation)
}

/// Why the farm behind a socket may be silent, by its scoreboard and by what the system says of its workers.
fn hindrance(run_dir: &Path, socket: &str) -> String {
    let farm = socket.split('.').next().unwrap_or(socket);
    let views = scoreboard::read_all(run_dir).unwrap_or_default();
    let Some(view) = views.iter().find(|view| view.farm == farm) else {
        return format!("the farm {farm} has no manager here");
    };
    let Some(worker) = view.workers.iter().max_by_key(|line| line.generation) else {
        return format!("the farm {farm} has no worker now");
    };
    let (name, pid) = (&worker.worker, worker.pid);
    let state = match (process_state(pid), worker.state) {
        (Some('T' | 't'), _) => format!("is stopped; kill -CONT {pid} lets it go on"),
        (Some('D'), _) => "waits for a disk".to_owned(),
        (None | Some('Z' | 'X'), _) => "has ended".to_owned(),
        (_, WorkerState::Starting) => "is starting".to_owned(),
        (_, WorkerState::Draining) => "finishes what it has in hand".to_owned(),
        (_, WorkerState::Standby) => "stands by: another host does its work".to_owned(),
        (_, WorkerState::Ready) => format!("was at work {}% of the last second", worker.load / 10),
    };
    format!("{name}, process {pid}, {state}")
}

/// The letter of `/proc/PID/stat`, if there is such a process.
fn process_state(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

/// Says at once, in plain words, why a socket cannot be used, instead of waiting for the deadline.
fn reachable(path: &Path) -> Result<(), Failure> {
    use std::io::ErrorKind;
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Unavailable(match error.kind() {
            ErrorKind::NotFound => format!("no farm serves {}: is grange running?", path.display()),
            ErrorKind::ConnectionRefused => {
                format!("nobody listens on {}: is grange running?", path.display())
            }
            ErrorKind::PermissionDenied => {
                format!("you may not use {} (its directory says who may)", path.display())
            }
            _ => format!("cannot connect to {}: {error}", path.display()),
        })),
    }
}
