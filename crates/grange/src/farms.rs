//! The table of farms: which there are, what each serves, and what its workers are handed.

use std::collections::BTreeMap;

use anyhow::Context;
use farm::Workers;
use farm::manager::{Farm, InPlace, Mode, NamedSocket, TcpListen};
use socket::Address;

use crate::configuration::{Agent, Channel, Configuration};
use crate::worker::{Handed, Role};
use crate::{cluster, metrics, status};

/// What the table says of a farm; the rest is the same for all.
struct Entry {
    name: String,
    role: Role,
    workers: Workers,
    mode: Mode,
    sockets: Vec<&'static str>,
    channel_socket: Option<String>,
    tcp: Vec<TcpListen>,
    counters: &'static [&'static str],
    on_crash: bool,
}

impl Entry {
    fn elastic(
        name: &str,
        role: Role,
        workers: &Workers,
        counters: &'static [&'static str],
    ) -> Self {
        Self {
            name: name.to_owned(),
            role,
            workers: workers.clone(),
            mode: Mode::Elastic,
            sockets: Vec::new(),
            channel_socket: None,
            tcp: Vec::new(),
            counters,
            on_crash: false,
        }
    }
}

impl Entry {
    fn takes_jobs(&self) -> bool {
        !self.sockets.is_empty() || self.channel_socket.is_some()
    }
}

/// Names of the farms that this host runs, in the order in which they start: who is asked comes before who asks.
pub fn names(configuration: &Configuration) -> Vec<String> {
    entries(configuration).into_iter().map(|entry| entry.name).collect()
}

/// The TCP listeners of each farm.
pub fn listeners(configuration: &Configuration) -> anyhow::Result<Vec<(String, TcpListen)>> {
    let mut listeners = Vec::new();
    for name in names(configuration) {
        let farm = farm(configuration, &name)?;
        listeners.extend(farm.listens().map(|listen| (name.clone(), listen)));
    }
    Ok(listeners)
}

/// The farm of that name, ready to be managed.
pub fn farm(configuration: &Configuration, name: &str) -> anyhow::Result<Farm> {
    let entry =
        entries(configuration).into_iter().find(|entry| entry.name == name).with_context(|| {
            format!("there is no farm {name}; there are {}", names(configuration).join(", "))
        })?;
    let top = &configuration.top;
    let handed =
        Handed { log: configuration.log.clone(), stores: configuration.stores(), role: entry.role };
    let mut sockets: Vec<NamedSocket> = entry
        .sockets
        .iter()
        .map(|name| NamedSocket { name: (*name).to_owned(), admin: name.ends_with(".admin") })
        .collect();
    sockets.extend(entry.channel_socket.map(|name| NamedSocket { name, admin: false }));
    let cluster = &configuration.cluster;
    let jobs = sockets.first().and_then(|_| cluster.listen(&top.hostname, &entry.name));
    let callers: BTreeMap<_, _> =
        sockets.iter().map(|it| (it.name.clone(), callers(configuration, &it.name))).collect();
    let has_requeue = cluster.runs_here(&top.hostname, "requeue");
    Ok(Farm {
        name: entry.name,
        workers: entry.workers,
        sockets,
        tcp: entry.tcp,
        jobs,
        callers,
        keys: cluster.is_on().then(|| cluster.keys.clone()),
        places: places(configuration),
        settings: serde_json::to_vec(&handed).context("cannot write the settings as JSON")?,
        counters: entry.counters.iter().map(|name| (*name).to_owned()).collect(),
        run_dir: top.run_dir.clone(),
        data_dir: top.data_dir.clone(),
        user: crate::privilege::user(top)?,
        admin_group: crate::privilege::admin_group(top)?,
        mode: entry.mode,
        drain: top.drain.0,
        drain_reload: top.drain_reload.0,
        in_place: InPlace::Member("role".to_owned()),
        on_crash: (entry.on_crash && has_requeue).then(|| "requeue.requeue".to_owned()),
    })
}

/// Where the farms are that take jobs, seen from this host; without a cluster all are here, which needs not be said.
fn places(configuration: &Configuration) -> BTreeMap<String, Vec<Address>> {
    let (top, cluster) = (&configuration.top, &configuration.cluster);
    if !cluster.is_on() {
        return BTreeMap::new();
    }
    let here = top.run_dir.join("sockets");
    let farms = entries_anywhere(configuration).into_iter().filter(Entry::takes_jobs);
    let places = |name: &str| cluster.places(&top.hostname, name, &here);
    farms.map(|farm| (farm.name.clone(), places(&farm.name))).collect()
}

/// Which farms may ask a socket from another host: the certificate that they show must name one of them.
fn callers(configuration: &Configuration, socket: &str) -> Vec<String> {
    let channels = |is_meant: fn(&Agent) -> bool| {
        let meant = configuration.channels.iter().filter(move |channel| is_meant(&channel.agent));
        meant.map(|channel| channel.name.as_str())
    };
    let acceptors = channels(|agent| matches!(agent, Agent::Error(_))).chain(["smtpserver"]);
    let callers: Vec<&str> = match socket {
        "router.route" => acceptors.chain(["scheduler", "requeue"]).collect(),
        "router.verify" => vec!["smtpserver"],
        "contentfilter.inspect" => vec!["smtpserver", cluster::ADMIN],
        "scheduler.enqueue" => vec!["router"],
        "scheduler.known" => vec!["requeue", cluster::ADMIN],
        "scheduler.home" => vec!["compact"],
        "scheduler.strike" => acceptors.chain(["router", "requeue"]).collect(),
        "scheduler.outcome" => channels(|agent| !matches!(agent, Agent::Socket(_))).collect(),
        "requeue.requeue" => acceptors.chain(["router", "scheduler", cluster::ADMIN]).collect(),
        "scheduler.admin" | "compact.compact" | status::SOCKET => vec![cluster::ADMIN],
        // The sockets of channels.
        _ => vec!["scheduler"],
    };
    callers.into_iter().map(str::to_owned).collect()
}

/// What the router is handed; `grange route` explains with the same.
pub fn router_assignment(configuration: &Configuration) -> router::Assignment {
    router::Assignment {
        settings: configuration.router.clone(),
        hostname: configuration.top.hostname.clone(),
        channels: configuration.channel_facts(),
    }
}

/// The farms that this host runs.
fn entries(configuration: &Configuration) -> Vec<Entry> {
    let hostname = &configuration.top.hostname;
    let mut entries = entries_anywhere(configuration);
    entries.retain(|entry| configuration.cluster.runs_here(hostname, &entry.name));
    entries.extend(metrics_farm(configuration));
    let names = entries.iter().map(|entry| entry.name.clone()).collect();
    entries.extend(status(configuration, names));
    entries
}

fn entries_anywhere(configuration: &Configuration) -> Vec<Entry> {
    let mut entries = Vec::new();
    entries.extend(configuration.channels.iter().filter_map(|one| channel(configuration, one)));
    entries.push(scheduler(configuration));
    entries.push(router(configuration));
    entries.push(requeue(configuration));
    // In a database each message's space is its own.
    if !configuration.queue.is_database() {
        entries.push(compact(configuration));
    }
    if configuration.inspects() {
        entries.push(contentfilter(configuration));
    }
    entries.push(smtpserver(configuration));
    entries
}

fn smtpserver(configuration: &Configuration) -> Entry {
    let settings = &configuration.smtpserver;
    let assignment = smtpserver::Assignment {
        settings: settings.clone(),
        hostname: configuration.top.hostname.clone(),
        inspect: configuration.inspects(),
        steps: configuration.contentfilter.steps(),
        on_filter_crash: match configuration.contentfilter.on_failure() {
            contentfilter::OnFailure::Tempfail => smtpserver::OnFilterCrash::Tempfail,
            contentfilter::OnFailure::Accept => smtpserver::OnFilterCrash::Accept,
            contentfilter::OnFailure::Quarantine => smtpserver::OnFilterCrash::Quarantine,
        },
    };
    let role = Role::Smtpserver(Box::new(assignment));
    let mut entry = Entry::elastic("smtpserver", role, &settings.workers, smtpserver::COUNTERS);
    entry.tcp = settings
        .listeners()
        .into_iter()
        .map(|(name, address)| TcpListen { name, address })
        .collect();
    entry.on_crash = true;
    entry
}

fn contentfilter(configuration: &Configuration) -> Entry {
    let settings = &configuration.contentfilter;
    let assignment = contentfilter::Assignment {
        settings: settings.clone(),
        hostname: configuration.top.hostname.clone(),
        dns: configuration.dns.clone(),
    };
    let role = Role::Contentfilter(Box::new(assignment));
    let mut entry =
        Entry::elastic("contentfilter", role, &settings.workers, contentfilter::COUNTERS);
    entry.sockets = vec!["contentfilter.inspect"];
    entry
}

fn router(configuration: &Configuration) -> Entry {
    let assignment = router_assignment(configuration);
    let workers = assignment.settings.workers.clone();
    let role = Role::Router(Box::new(assignment));
    let mut entry = Entry::elastic("router", role, &workers, router::COUNTERS);
    entry.sockets = vec!["router.route", "router.verify"];
    entry.on_crash = true;
    entry
}

/// What the scheduler is handed; `grange queue export` takes the ledger in with the same.
pub fn scheduler_assignment(configuration: &Configuration) -> scheduler::Assignment {
    let settings = &configuration.scheduler;
    let channels = configuration
        .channels
        .iter()
        .map(|channel| scheduler::ChannelFacts {
            name: channel.name.clone(),
            socket: Configuration::channel_socket(channel),
            slots_max: 0,
        })
        .collect();
    scheduler::Assignment {
        settings: settings.clone(),
        hostname: configuration.top.hostname.clone(),
        channels,
        requeue: "requeue.requeue".to_owned(),
    }
}

fn scheduler(configuration: &Configuration) -> Entry {
    let settings = &configuration.scheduler;
    let assignment = scheduler_assignment(configuration);
    let role = Role::Scheduler(Box::new(assignment));
    let mut entry = Entry::elastic("scheduler", role, &settings.workers, scheduler::COUNTERS);
    entry.mode = Mode::One;
    entry.sockets = vec![
        "scheduler.enqueue",
        "scheduler.known",
        "scheduler.home",
        "scheduler.strike",
        "scheduler.outcome",
        "scheduler.admin",
    ];
    entry
}

fn requeue(configuration: &Configuration) -> Entry {
    let settings = &configuration.requeue;
    let assignment = requeue::Assignment {
        settings: settings.clone(),
        route_deadline: configuration.smtpserver.route_timeout,
    };
    let role = Role::Requeue(Box::new(assignment));
    let mut entry = Entry::elastic("requeue", role, &Workers::default(), requeue::COUNTERS);
    entry.mode = Mode::OnDemand { every: settings.every.0 };
    entry.sockets = vec!["requeue.requeue"];
    entry
}

fn compact(configuration: &Configuration) -> Entry {
    let settings = &configuration.compact;
    let role = Role::Compact(compact::Assignment { settings: settings.clone() });
    let mut entry = Entry::elastic("compact", role, &Workers::default(), compact::COUNTERS);
    entry.mode = Mode::OnDemand { every: settings.every.0 };
    entry.sockets = vec!["compact.compact"];
    entry
}

fn channel(configuration: &Configuration, channel: &Channel) -> Option<Entry> {
    let hostname = configuration.top.hostname.clone();
    let data_dir = configuration.top.data_dir.clone();
    let name = channel.name.clone();
    let (role, workers, counters) = match &channel.agent {
        Agent::Smtp(settings) => {
            let workers = settings.workers.clone();
            let settings = (**settings).clone();
            let dns = configuration.dns.clone();
            let assignment = agent_smtp::Assignment { settings, hostname, channel: name, dns };
            (Role::AgentSmtp(Box::new(assignment)), workers, agent_smtp::COUNTERS)
        }
        Agent::Local(settings) => {
            let workers = settings.workers.clone();
            let settings = settings.clone();
            let assignment =
                agent_local::Assignment { settings, hostname, data_dir, channel: name };
            (Role::AgentLocal(Box::new(assignment)), workers, agent_local::COUNTERS)
        }
        Agent::Error(settings) => {
            let workers = settings.workers.clone();
            let settings = settings.clone();
            let assignment = agent_error::Assignment { settings, hostname, channel: name };
            (Role::AgentError(Box::new(assignment)), workers, agent_error::COUNTERS)
        }
        Agent::Socket(_) => return None,
    };
    let mut entry = Entry::elastic(&channel.name, role, &workers, counters);
    entry.channel_socket = Some(Configuration::channel_socket(channel));
    Some(entry)
}

/// The farm that other hosts ask; there is none without a cluster.
fn status(configuration: &Configuration, farms: Vec<String>) -> Option<Entry> {
    let (top, cluster) = (&configuration.top, &configuration.cluster);
    if !cluster.is_on() {
        return None;
    }
    let host = cluster.here(&top.hostname).to_owned();
    let assignment = status::Assignment { host, run_dir: top.run_dir.clone(), farms };
    let workers = Workers { max: 1, concurrency: 100, ..Workers::default() };
    let mut entry = Entry::elastic(cluster::STATUS, Role::Status(assignment), &workers, &[]);
    entry.sockets = vec![status::SOCKET];
    Some(entry)
}

fn metrics_farm(configuration: &Configuration) -> Option<Entry> {
    let address = configuration.metrics.listen?;
    let assignment = metrics::Assignment { run_dir: configuration.top.run_dir.clone() };
    let workers = Workers { max: 1, concurrency: 100, ..Workers::default() };
    let mut entry = Entry::elastic("metrics", Role::Metrics(assignment), &workers, &[]);
    entry.tcp = vec![TcpListen { name: metrics::LISTENER.to_owned(), address }];
    Some(entry)
}
