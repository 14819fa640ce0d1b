//! The command line: every command, its options and its help. Man pages and completions come from here too.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use mail::{Address, MessageId};

/// Where the configuration is when nobody says.
pub const CONFIG_DEFAULT: &str = "/etc/grange/grange.toml";

const QUEUE_EXAMPLES: &str = "Examples:
  grange queue list --domain example.org        what waits for a domain
  grange queue summary                          each lane, and why it waits
  grange queue show 06h0wgtywmt084g7yzdp        everything about one message
  grange queue retry --lane smtp/example.org    try a lane now
  grange queue bounce --sender a@example.org --reason 'sent by mistake'
  grange queue suspend smtp/example.org --seconds 3600";

const QUARANTINE_EXAMPLES: &str = "Examples:
  grange quarantine list --domain example.org   what is held of a domain's mail, and why
  grange quarantine show 06h0wgtywmt084g7yzdp --raw    the message itself
  grange quarantine release 06h0wgtywmt084g7yzdp       it is delivered now
  grange quarantine release --inspect --all     what the filters accept now is delivered
  grange quarantine remove --sender a@example.org      all of a sender's, without telling them
  grange quarantine expire --older-than 7d      all that came a week ago or earlier";

const FILTER_EXAMPLES: &str = "Examples:
  grange filter test --config new.toml message.eml
  grange filter test --client 192.0.2.1 --helo mx.example.org --from a@example.org --to b@example.test message.eml
  grange filter test --trusted --show message.eml      with our signature";

const ROUTE_EXAMPLES: &str = "Examples:
  grange route anna@example.test                where it goes, and by which route
  grange route anna@example.org --client 192.0.2.1    whether that client may send there";

const RUN_EXAMPLES: &str = "Examples:
  grange run                                    every farm of the configuration
  grange run --only smtpserver,router           these two; others run elsewhere";

const KEYS_EXAMPLES: &str = "Examples:
  grange keys init authority                    once, on a machine that operators use
  grange keys issue authority mx1.example --farms smtpserver,requeue
                                                writes authority/mx1.example: copy it to mx1.example as it is
  grange keys issue authority mx1.example --farms smtpserver,requeue --replace
                                                a new certificate and key; copy host.pem and host.key
  grange keys show authority/mx1.example        whom it names, and until when it holds";

/// A mail transfer agent made of server farms.
#[derive(Debug, Parser)]
#[command(
    name = "grange",
    version,
    max_term_width = 100,
    about = "A mail transfer agent made of server farms",
    long_about = "Grange moves mail. Each stage of a message's way is a farm of identical worker processes: smtpserver, \
        contentfilter, router, and one farm of agents for each channel; one scheduler manages the queue. All of them take \
        jobs over named sockets.\n\nBegin with `grange try`: it needs no configuration and touches nothing outside a \
        scratch directory.",
    after_long_help = "Exit codes follow sysexits: 0 all right, 1 a message of `try` went astray, 64 wrong usage, 65 the queue's \
        files are damaged (`spool check`), 66 no such message or no queue, 69 a farm did not answer, 71 a worker cannot go on, \
        74 input or output failed, 75 try again later, 78 the configuration is wrong, or the queue is a newer program's. A bug ends a process with \
        SIGABRT, which a shell shows as 134."
)]
pub struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", env = "GRANGE_CONFIG", default_value = CONFIG_DEFAULT)]
    pub config: PathBuf,

    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything on loopback, with a built-in configuration and a scratch directory
    ///
    /// Starts all farms on a free port of 127.0.0.1, prints how to send a message, and then what happens to each. Nothing
    /// leaves this machine: mail for other domains goes to a built-in sink. Ctrl-C ends it. Its configuration is its own:
    /// `--config` means nothing here.
    Try(Try),
    /// Run the farms of this host
    ///
    /// Starts a manager for each farm and restarts one that dies. SIGHUP checks the configuration and reloads it; SIGTERM
    /// drains and stops.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Run one farm's manager alone
    ///
    /// The same as `grange run` does for each farm: for one systemd unit per farm, or one farm per host.
    Farm(Farm),
    /// Check the configuration: exit 0, or 78 with file:line, what is wrong and what would be right
    Check(Check),
    /// Show farms, workers, jobs in hand, lanes, and the queue's size and age
    Status(Output),
    /// Look into the queue and steer it
    #[command(subcommand, after_help = QUEUE_EXAMPLES)]
    Queue(Queue),
    /// Look at what filters hold, and release or remove it
    ///
    /// A filter that quarantines a message has it taken, and held with a reason. `[scheduler] quarantine_expire` removes what nobody
    /// decides on. What an operator or a crash holds is not meant here: `grange queue list --held` shows all of it.
    #[command(subcommand, after_help = QUARANTINE_EXAMPLES)]
    Quarantine(Quarantine),
    /// Try the filters out
    #[command(subcommand)]
    Filter(Filter),
    /// Explain, decision by decision, where mail for an address would go
    #[command(after_help = ROUTE_EXAMPLES)]
    Route(Route),
    /// Print a message as it would leave, by its handle
    ///
    /// For agents written in other languages: edits made by filters are applied, line ends are CRLF.
    Body(Body),
    /// Ask for a pass over accepted messages that are not routed yet
    Requeue,
    /// Ask for a pass that gives back the space of segments in which little still lives
    ///
    /// What lives in them, such as mail that has been deferred for long, is copied to files of its own. This happens every minute
    /// by itself.
    Compact,
    /// Look at the files of the embedded queue
    #[command(subcommand)]
    Spool(Spool),
    /// Make and look at the tables of a queue that is in a database
    #[command(subcommand)]
    Store(Store),
    /// Make the keys by which the hosts of a cluster know each other
    ///
    /// Farms on several hosts talk over TCP with TLS, and each end shows a certificate of a private authority: it names a host, and the
    /// farms that the host may run. docs/job-sockets.md says how one authority follows another without a restart.
    #[command(subcommand, after_help = KEYS_EXAMPLES)]
    Keys(Keys),
    /// Print metrics in Prometheus' text format
    Metrics,
    /// Check the new binary, then let the running farms continue with it
    ///
    /// Run this with the new binary, as root or as the user that `grange run` (or `grange farm`) runs as. It checks the
    /// configuration and has them execute it in place: process ids, sockets and sessions stay, no connection is refused. New
    /// workers take over as at a reload; the old ones finish what they have in hand. Waits until the new ones are ready; when
    /// that fails, exits with 75 and says which farms still run the old binary.
    Upgrade,
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man {
        /// Where to
        directory: PathBuf,
    },
}

/// What to do with the tables.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Make them, where there are none
    Init,
    /// Bring them up to date for this program: once, before the first host is upgraded
    ///
    /// A program refuses tables that are newer than it knows, and tables that are older.
    Migrate,
    /// Look whether they are there, whether the server keeps what it has committed, and whether every message is whole
    ///
    /// Changes nothing, and may run while mail comes and goes.
    Check,
}

/// Options of `try`.
#[derive(Debug, Args)]
pub struct Try {
    /// Send three messages (delivered, relayed, bounced), show their journeys, and exit 0 if all went right
    #[arg(long)]
    pub once: bool,
    /// The port to listen on; a free one if not given
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Keep the scratch directory
    #[arg(long)]
    pub keep: bool,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Only these farms of the configuration
    #[arg(long, value_name = "FARM", value_delimiter = ',')]
    pub only: Vec<String>,
}

/// Options of `farm`.
#[derive(Debug, Args)]
pub struct Farm {
    /// The farm: smtpserver, contentfilter, router, scheduler, requeue, compact, metrics, or a channel
    pub name: String,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Print the whole configuration with its defaults, as JSON
    ///
    /// What is not set and has no default (`user`, `metrics.listen`, a route's `host` …) is null or left out: docs/configuration.md
    /// has every key.
    #[arg(long)]
    pub print: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// Which part of a list, and how to print it.
#[derive(Debug, Args)]
pub struct Page {
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
    /// Go on where the page before ended
    #[arg(long)]
    pub cursor: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// Which message to show, and how.
#[derive(Debug, Args)]
pub struct Show {
    /// The message's id
    pub id: MessageId,
    /// Print the message itself, as it is stored
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Commands on the queue.
#[derive(Debug, Subcommand)]
pub enum Queue {
    /// List messages
    List {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        page: Page,
    },
    /// Show each lane: how many wait, how old they are, and why they wait
    Summary(Output),
    /// Write the whole queue to a file, to carry it to another store
    ///
    /// No scheduler may work with the queue meanwhile; smtpserver should not either, for what it accepts afterwards is not in the
    /// file. The file holds mail, and is made for nobody else to read. Nothing is removed from the queue: do not start Grange with
    /// it again once the file has been imported elsewhere.
    Export {
        /// Where to, `-` for standard output
        file: PathBuf,
    },
    /// Read a queue that was exported into the store of the configuration
    ///
    /// Messages keep their ids, their attempts and their holds. No scheduler may work with the queue meanwhile. What is there
    /// already stays as it is, so that an import that was cut off may be made again; but not once a scheduler has worked with the
    /// queue, for what has ended since would come again.
    Import {
        /// Where from, `-` for standard input
        file: PathBuf,
    },
    /// Show everything about a message
    Show(Show),
    /// Stop trying to deliver
    Hold(Change),
    /// Try what was held again
    Release(Change),
    /// Try now, whatever the schedule says
    Retry(Change),
    /// Delete, without telling the sender
    Remove(Change),
    /// Give up now, and tell the sender
    Bounce(Change),
    /// Ask the router again where to send it
    Reroute(Change),
    /// Stop dispatching a lane (CHANNEL/HOST) or a channel
    Suspend {
        /// The lane: CHANNEL or CHANNEL/HOST
        lane: String,
        /// For so many seconds; else until resumed
        #[arg(long)]
        seconds: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
    /// Dispatch a suspended lane again
    Resume {
        /// The lane: CHANNEL or CHANNEL/HOST
        lane: String,
        #[command(flatten)]
        output: Output,
    },
}

/// Commands on filters.
#[derive(Debug, Subcommand)]
pub enum Filter {
    /// Show what each filter would say of a message
    ///
    /// Asks them as a worker would, also clamd and name servers; no farm need run, and nothing is stored. Exits with 0 when the message would
    /// be taken as it is or with changes, with 1 when it would be refused, put off, held or discarded.
    #[command(after_help = FILTER_EXAMPLES)]
    Test(FilterTest),
}

/// Options of `filter test`.
#[derive(Debug, Args)]
pub struct FilterTest {
    /// The message, `-` for standard input
    pub message: PathBuf,
    /// The client's address; decides with `relay_from` whether it may relay
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub client: std::net::IpAddr,
    /// The client may relay, whatever its address
    #[arg(long)]
    pub trusted: bool,
    /// The name that the client gives
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub helo: String,
    /// The sender; the sender of reports if not given
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<Address>,
    /// A recipient; may be given several times. The postmaster of this host if not given
    #[arg(long, value_name = "ADDRESS")]
    pub to: Vec<Address>,
    /// Print the message too, as it would leave
    #[arg(long)]
    pub show: bool,
}

/// Commands on what filters hold.
#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// List what is held, and why
    List {
        #[command(flatten)]
        select: SelectQuarantined,
        #[command(flatten)]
        page: Page,
    },
    /// Show a message's envelope, its recipients and why it is held
    Show(Show),
    /// Deliver what was held
    ///
    /// With --inspect the filters of the configuration look at each message again, as it is stored, and it is delivered only if all accept
    /// it; of one that is held for some recipients, if they accept it for those. Others stay held, and it is said what each filter said.
    /// Exits with 1 when a message stays held.
    Release(Release),
    /// Delete, without telling the sender
    Remove(QuarantineChange),
    /// Delete what was accepted long ago, without telling the senders
    Expire {
        /// Accepted so long ago or longer, as in 7d
        #[arg(long, value_name = "TIME")]
        older_than: config::Span,
        #[command(flatten)]
        output: Output,
    },
}

/// Options of `quarantine release`.
#[derive(Debug, Args)]
pub struct Release {
    /// Have the filters look at it again, and release it only if all accept it
    #[arg(long)]
    pub inspect: bool,
    #[command(flatten)]
    pub change: QuarantineChange,
}

/// A change to messages that filters hold.
#[derive(Debug, Args)]
pub struct QuarantineChange {
    #[command(flatten)]
    pub select: SelectQuarantined,
    #[command(flatten)]
    pub output: Output,
}

/// Which of the messages that filters hold: all that is given must match.
#[derive(Debug, Clone, Default, Args)]
pub struct SelectQuarantined {
    /// Ids of messages
    #[arg(value_name = "ID")]
    pub ids: Vec<MessageId>,
    /// Recipients of a domain
    #[arg(long)]
    pub domain: Option<String>,
    /// Messages of a sender; <> is the sender of reports
    #[arg(long)]
    pub sender: Option<String>,
    /// Everything that filters hold
    #[arg(long)]
    pub all: bool,
}

/// Which messages: all that is given must match.
#[derive(Debug, Clone, Default, Args)]
pub struct Select {
    /// Ids of messages
    #[arg(value_name = "ID")]
    pub ids: Vec<MessageId>,
    /// Recipients of a lane: CHANNEL or CHANNEL/HOST
    #[arg(long)]
    pub lane: Option<String>,
    /// Recipients of a domain
    #[arg(long)]
    pub domain: Option<String>,
    /// Messages of a sender; <> is the sender of reports
    #[arg(long)]
    pub sender: Option<String>,
    /// Only what is held
    #[arg(long)]
    pub held: bool,
    /// Everything
    #[arg(long)]
    pub all: bool,
}

/// A change to messages.
#[derive(Debug, Args)]
pub struct Change {
    #[command(flatten)]
    pub select: Select,
    /// Why: shown with a hold, told to the sender with a bounce
    #[arg(long)]
    pub reason: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// Options of `route`.
#[derive(Debug, Args)]
pub struct Route {
    /// The recipient
    pub address: Address,
    /// The sender
    #[arg(long)]
    pub from: Option<Address>,
    /// The client's address; decides with `relay_from` who may relay
    #[arg(long)]
    pub client: Option<std::net::IpAddr>,
    #[command(flatten)]
    pub output: Output,
}

/// Options of `body`.
#[derive(Debug, Args)]
pub struct Body {
    /// The handle, as a deliver job names it
    pub handle: queue::Handle,
}

/// Commands on the spool.
#[derive(Debug, Subcommand)]
pub enum Spool {
    /// Verify every record of every file
    ///
    /// Says on one line each what is not as it should be, where, which message is concerned, and what it means for mail. Works
    /// while Grange runs, and changes nothing. Exits with 65 when something is damaged.
    Check(Output),
    /// Set aside what is damaged and put the rest right, while Grange is stopped
    ///
    /// Copies damaged records to spool/damaged, beside texts that explain them, and lists them no more; seals segments whose writer
    /// died, writes small files and heads anew, moves bodies aside that no record names. Messages that are routed are left: they
    /// are held, and `grange queue bounce` tells their senders. Removes nothing that is not in spool/damaged first. To be run
    /// as the user that owns the queue. Exits with 65 when damage is left, 75 when the queue is in use.
    Repair {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// Commands on keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make an authority: ca.pem, and ca.key, which stays where certificates are issued
    ///
    /// An authority that is there already is not touched.
    Init {
        /// The directory to make it in
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Issue a certificate and a key for a host: a directory with ca.pem, host.pem and host.key
    Issue(IssueKeys),
    /// Show which authorities a directory of keys believes, whom its certificate names, and until when
    ///
    /// Exits with 78 when a host could not use the directory as it is.
    Show {
        /// The directory of an authority or of a host's keys
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Make a key that signs mail with DKIM or seals it with ARC, and print its DNS record
    ///
    /// The record is a line for a zone file. Publish it before the key signs. A file that is there already is not touched. Made
    /// as root, the key is the configured user's; nobody else can read it.
    Dkim(DkimKey),
}

/// Options of `keys dkim`.
#[derive(Debug, Args)]
pub struct DkimKey {
    /// The domain that signs
    pub domain: String,
    /// The selector: the name of the key among the domain's, such as 2026a
    pub selector: String,
    /// An Ed25519 key (RFC 8463), which not all receivers know yet: sign with an RSA key too
    #[arg(long, conflicts_with = "bits")]
    pub ed25519: bool,
    /// The size of an RSA key: 2048, 3072 or 4096
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub bits: u32,
    /// The file to make; /etc/grange/dkim/DOMAIN.SELECTOR.pem if not given
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Options of `keys issue`.
#[derive(Debug, Args)]
pub struct IssueKeys {
    /// The authority's directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The host's name by which others connect to it, or its address
    pub host: String,
    /// The farms that it may run; `admin` lets it ask as the command line does
    #[arg(long, value_name = "FARM", value_delimiter = ',', required = true)]
    pub farms: Vec<String>,
    /// How many days the certificate holds
    #[arg(long, value_name = "N", default_value_t = tls::HOST_DAYS, value_parser = clap::value_parser!(u32).range(1..=i64::from(tls::HOST_DAYS_MAX)))]
    pub days: u32,
    /// Where to; DIR/HOST if not given
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace a certificate and a key that are there already
    #[arg(long)]
    pub replace: bool,
}

/// Parses this process's arguments; wrong usage ends it with 64.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        let code = if error.use_stderr() { 64 } else { 0 };
        let _ = error.print();
        std::process::exit(code)
    })
}

/// The definitions, for man pages and completions.
pub fn definitions() -> clap::Command {
    Cli::command()
}
