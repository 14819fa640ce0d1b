//! What no section can say alone: names and addresses that must differ, and what is hardly meant in the light of the rest.

use std::net::SocketAddr;

use config::{Notice, Problem};

use crate::cluster;

use super::{Agent, CHANNELS_DEFAULT, Channel, Configuration, External, SECTIONS, Top};

/// The longest path of a socket, in bytes, while it is bound under its temporary name, `.NAME.new`.
const SOCKET_PATH_BYTES_MAX: usize = 107 - ".".len() - ".new".len();
/// The longest name below `run_dir` that is always there.
const LONGEST_SOCKET: &str = "sockets/admin/scheduler.admin";

/// Finds what contradicts itself between sections.
pub(super) fn check(configuration: &Configuration) -> Result<(), Problem> {
    check_listeners(configuration)?;
    check_cluster(configuration)?;
    for (index, channel) in configuration.channels.iter().enumerate() {
        let key = |name: &str| format!("channel.{}.{name}", channel.name);
        match &channel.agent {
            Agent::Socket(external) => {
                check_external(&channel.name, external)?;
                let others = configuration.channels.iter().enumerate();
                let mut others =
                    others.filter(|(other, _)| *other != index).map(|(_, other)| other);
                if let Some(other) =
                    others.find(|other| Configuration::channel_socket(other) == external.socket)
                {
                    let wrong =
                        format!("{:?} is the socket of channel {}", external.socket, other.name);
                    let right = format!("a name of its own, \"{}.deliver\"", channel.name);
                    return Err(Problem::new(key("socket"), wrong, right));
                }
            }
            Agent::Smtp(_) | Agent::Local(_) if channel.name == router::ERROR_CHANNEL => {
                let wrong = "channel error writes the delivery reports, which this agent cannot";
                let right = "\"error\"; or socket = \"error.deliver\" for a program of your own";
                return Err(Problem::new(key("agent"), wrong, right));
            }
            _ => {}
        }
        check_path(
            &configuration.top,
            &format!("sockets/{}", Configuration::channel_socket(channel)),
        )?;
    }
    check_path(&configuration.top, LONGEST_SOCKET)
}

fn check_cluster(configuration: &Configuration) -> Result<(), Problem> {
    let farms = configuration.farms_of_mail();
    let mut jobs: Vec<String> =
        farms.iter().filter(|farm| *farm != "smtpserver").cloned().collect();
    jobs.push(cluster::STATUS.to_owned());
    let hosts = configuration.cluster.hosts.len();
    if hosts > 1 && !configuration.queue.is_database() {
        let wrong = format!("a spool is one host's, and cluster.hosts names {hosts}");
        let right = "\"postgres://USER@HOST/DATABASE\", which all of them reach";
        return Err(Problem::new("queue.store", wrong, right));
    }
    configuration.cluster.check(&configuration.top.hostname, &farms, &jobs)
}

fn check_listeners(configuration: &Configuration) -> Result<(), Problem> {
    let Some(address) = configuration.metrics.listen else { return Ok(()) };
    let mut listeners = configuration.smtpserver.listen.iter().map(|listen| listen.address);
    let Some(other) = listeners.find(|other: &SocketAddr| smtpserver::overlap(*other, address))
    else {
        return Ok(());
    };
    let wrong = match other == address {
        true => format!("{address} is in smtpserver.listen too"),
        false => format!("{address} and {other} of smtpserver.listen cannot both be listened on"),
    };
    Err(Problem::new("metrics.listen", wrong, "a port of its own"))
}

fn check_external(channel: &str, external: &External) -> Result<(), Problem> {
    let socket = &external.socket;
    let plain = !socket.is_empty()
        && !socket.starts_with('.')
        && socket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let first = socket.split('.').next().unwrap_or_default();
    let wrong = if !plain {
        format!("{socket:?} is not the name of a socket in run_dir/sockets")
    } else if SECTIONS.contains(&first) {
        format!("{socket:?} is a name of the farm {first}")
    } else if first == "admin" || socket.ends_with(".admin") {
        format!("{socket:?} is kept for administration")
    } else {
        return Ok(());
    };
    Err(Problem::new(format!("channel.{channel}.socket"), wrong, format!("\"{channel}.deliver\"")))
}

fn check_path(top: &Top, socket: &str) -> Result<(), Problem> {
    let path = top.run_dir.join(socket);
    let length = path.as_os_str().len();
    if length <= SOCKET_PATH_BYTES_MAX {
        return Ok(());
    }
    let wrong = format!("is too long: {} would have {length} bytes", path.display());
    let right = format!("a shorter path: that of a socket may have {SOCKET_PATH_BYTES_MAX} bytes");
    Err(Problem::new("run_dir", wrong, right))
}

/// Whether a text is a host's name: labels of letters, digits and hyphens, with dots between them.
pub(crate) fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// What is allowed and should be known.
pub(super) fn notices(configuration: &Configuration) -> Vec<Notice> {
    let mut notices = configuration.router.notices();
    let scheduler = &configuration.scheduler;
    if !scheduler.delay_notice.0.is_zero() && scheduler.expire <= scheduler.delay_notice {
        let what = format!(
            "{} is not after delay_notice = {}: no sender is told of a delay",
            scheduler.expire, scheduler.delay_notice
        );
        notices.push(Notice::new("scheduler.expire", what));
    }
    notices.extend(configuration.cluster.notices());
    notices.extend(configuration.channels.iter().flat_map(channel_notices));
    notices
}

fn channel_notices(channel: &Channel) -> Vec<Notice> {
    let mut notices = Vec::new();
    let agent = match &channel.agent {
        Agent::Smtp(_) => "smtp",
        Agent::Local(settings) => {
            if !settings.mailbox.contains("{user}") {
                let what = "has no {user}: the mail of all users goes into one Maildir";
                notices.push(Notice::new(format!("channel.{}.mailbox", channel.name), what));
            }
            "local"
        }
        Agent::Error(_) => "error",
        Agent::Socket(_) => "socket",
    };
    let known = CHANNELS_DEFAULT.contains(&channel.name.as_str());
    if known && agent != "socket" && agent != channel.name {
        let what = match channel.name.as_str() {
            router::LOCAL_CHANNEL => format!(
                "is \"{agent}\": routes to channel local still take mail from anyone and can have no host"
            ),
            _ => format!("is \"{agent}\" in the channel {}", channel.name),
        };
        notices.push(Notice::new(format!("channel.{}.agent", channel.name), what));
    }
    notices
}
