//! The command line: what can be asked, and the help texts.
//!
//! Owns names, defaults and texts. Decides nothing about what a command does; times, durations and
//! places are only parsed here so that a mistake is a usage error before anything is touched.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::when::{self, When};

mod exchange;
mod shell;

pub(crate) use exchange::{
    Config, Conflicts, ConflictsCommand, ConflictsResolve, Diff, Pull, Sync,
};
pub(crate) use shell::SqlShell;

const AFTER_HELP: &str = "\
FILE may be left out where exactly one replica (a file with an -anabranch sidecar) lies in the
current directory. URL is a folder (a path or file:...), s3://bucket/prefix, gs://bucket/prefix,
az://container/prefix (buckets use the customary variables: AWS_*, GOOGLE_*, AZURE_*), or a server:
https://host/database, http://..., libsql://... .

Examples:
  anabranch init notes.db --remote /mnt/shared/notes     publish a database
  anabranch clone /mnt/shared/notes notes.db             get a copy on another machine
  anabranch sync notes.db                                send and fetch what changed
  anabranch demo                                         see all of it happen

Exit codes:
  0  done
  1  error
  2  the command line or the request makes no sense as it stands
  3  both sides changed and somebody must decide (see sync --help), or the remote is ahead of a
     push
  4  offline: the remote cannot be reached; local changes are safe and wait
  130 (Ctrl-C) or 143 (SIGTERM): interrupted; the next sync goes on from there

With --json an error is {\"error\": {\"code\", \"message\", \"causes\"}}. Codes that say what is wrong with
a remote: no-remote, remote-empty, remote-gone, other-database, deleted, remote-went-back, rewound
(an older copy is in its place), incomplete or missing (objects are not there), damaged, refused
(permissions, credentials), no-space, not-a-folder, unconditional (it cannot create an object only
if it is absent), before-history and beyond-head (no such state), settings; with a server:
unauthorized (a token is wanted), forbidden, certificate, invalid-name, no-dialect, redirect,
protocol, server. Others are named after
the exit code (usage, diverged, behind, offline, unconfirmed), after what must be decided
(schema-conflict, schema-broken, unmergeable, conflict-abort, base-gone) or after what is wrong with the file
(not-a-replica, file-is-older, not-the-same-file, locked, sidecar-damaged, ...).";

/// Keeps copies of a SQLite database in step through a folder, a bucket or a server.
///
/// Each copy (a replica) is an ordinary SQLite file that any program writes with any SQLite
/// driver, online or not; `sync` sends what changed here and fetches what changed elsewhere.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What every command understands.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print one JSON document instead of text (errors as JSON on standard error)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print errors, and what was explicitly asked for, but no reports and no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Tell on standard error what is being done; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Endpoint of an S3-compatible service
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Proves to a server who asks. LIBSQL_AUTH_TOKEN and TURSO_AUTH_TOKEN count too
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "ANABRANCH_AUTH_TOKEN",
        hide_env_values = true
    )]
    pub(crate) auth_token: Option<String>,
    /// Key, in base64, for a database that a libSQL server keeps encrypted
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "ANABRANCH_ENCRYPTION_KEY",
        hide_env_values = true
    )]
    pub(crate) encryption_key: Option<String>,
    /// How long to wait for programs that hold the database locked [default: 5s]
    #[arg(long, global = true, value_name = "TIME", value_parser = when::parse_busy_timeout)]
    pub(crate) busy_timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(Init),
    Clone(Clone_),
    Adopt(Adopt),
    /// Send local changes to the remote
    ///
    /// Fails with exit code 3 if the remote is ahead: pull first, or use sync.
    #[command(after_help = "Example:\n  anabranch push notes.db")]
    Push(OneFile),
    Pull(Pull),
    Sync(Sync),
    Conflicts(Conflicts),
    Diff(Diff),
    Config(Config),
    Watch(Watch),
    Status(Status),
    Log(Log),
    Restore(Restore),
    /// Compare a replica with its remote, page by page
    ///
    /// Names pages that differ although nothing was changed here (exit code 1), and pages that
    /// were changed here and wait to be pushed. Changes nothing.
    #[command(after_help = "Example:\n  anabranch verify notes.db")]
    Verify(OneFile),
    Remote(Remote),
    Repair(Repair),
    Compact(Compact),
    Inspect(Inspect),
    // By far the largest.
    Serve(Box<Serve>),
    Shell(SqlShell),
    Demo(Demo),
    Completions(Completions),
}

/// Commands that need a replica and nothing else.
#[derive(Debug, Args)]
pub(crate) struct OneFile {
    /// The replica [default: the only one in the current directory]
    pub(crate) file: Option<PathBuf>,
}

/// Publish a database at a remote, or link an empty one to it
///
/// The database stays where it is; a sidecar FILE-anabranch appears beside it. A database in
/// rollback-journal mode is switched to WAL mode.
///
/// All writers must see one and the same folder: one that Syncthing, Dropbox and the like keep is a
/// copy on each machine, and pushes to it can be lost.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch init notes.db --remote /mnt/shared/notes\n  \
    anabranch init notes.db --remote s3://bucket/notes --endpoint https://minio.example\n  \
    anabranch init new.db --remote ./river --create")]
pub(crate) struct Init {
    /// The database
    pub(crate) file: PathBuf,
    /// Where to publish it: a folder, or a bucket's URL
    #[arg(long, value_name = "URL")]
    pub(crate) remote: OsString,
    /// Create FILE, as an empty database, if it does not exist
    #[arg(long)]
    pub(crate) create: bool,
}

/// Get a replica of what is at a remote
///
/// FILE must not exist; it appears complete or not at all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch clone /mnt/shared/notes notes.db\n  \
    anabranch clone s3://bucket/notes notes.db")]
pub(crate) struct Clone_ {
    /// Where the database is: a folder, or a bucket's URL
    #[arg(value_name = "URL")]
    pub(crate) remote: OsString,
    /// The file to make
    pub(crate) file: PathBuf,
}

/// Keep replicas in step for as long as it runs
///
/// What programs commit to FILE is sent at once, what others send is fetched at once; a line tells of
/// each. The system's file notification tells of commits; where there is none (network drives), FILE
/// is looked at every 10 s. A server tells of news; a folder is asked at least every 2 s, a bucket
/// every 30 s, less often if nothing happens for long: see --interval.
///
/// A remote that cannot be reached is tried again until it can. Where both sides changed, rows are
/// merged as by `sync`; where somebody must decide, nothing is touched, and it is tried again after
/// each local change. Other commands may be used meanwhile.
///
/// Ctrl-C or SIGTERM ends it, after what was committed is sent: exit code 0 if everything is in step
/// then, else those of `sync`. A second one ends it at once, which is safe too. An error that trying
/// again cannot help ends it as well.
///
/// Programs that use FILE may find that `PRAGMA journal_mode=DELETE` fails, and that checkpoints
/// other than passive ones report \"busy\", while it is watched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch watch notes.db\n  \
    anabranch watch notes.db tasks.db --interval 300\n  \
    anabranch watch notes.db --json | while read -r event; do ...; done\n\n\
    With --json there is one object on each line, with \"file\" and \"event\": watching, synced,\n\
    offline, online, diverged, busy, failed, stopped.")]
pub(crate) struct Watch {
    /// The replicas [default: the only one in the current directory]
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Ask a folder or bucket for news at most so many seconds apart; 0: never, then news is found
    /// whenever something is sent
    #[arg(long, value_name = "SECONDS", value_parser = when::parse_duration)]
    pub(crate) interval: Option<Duration>,
}

/// Take over a replica that an official libSQL client made
///
/// FILE and FILE-info are what that client left; end it first. What it had not pushed become local
/// changes, and the next sync sends them. FILE-info is put aside as FILE-info.adopted-1: from then
/// on any SQLite may use FILE, and that client must not any more.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  anabranch adopt app.db --remote libsql://app.example.turso.io")]
pub(crate) struct Adopt {
    /// The replica
    pub(crate) file: PathBuf,
    /// The server that it was in step with
    #[arg(long, value_name = "URL")]
    pub(crate) remote: OsString,
}

/// Show position, local changes and how far the remote is ahead
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch status\n  anabranch status notes.db --tables")]
pub(crate) struct Status {
    /// The replica [default: the only one in the current directory]
    pub(crate) file: Option<PathBuf>,
    /// Count changed rows of each table
    #[arg(long)]
    pub(crate) tables: bool,
    /// Do not ask the remote
    #[arg(long)]
    pub(crate) no_remote: bool,
}

/// Show the history, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch log\n  anabranch log notes.db -n 100\n  \
    anabranch log s3://bucket/notes --json")]
pub(crate) struct Log {
    /// A remote, or a replica of it [default: the only replica in the current directory]
    #[arg(value_name = "URL|FILE")]
    pub(crate) place: Option<OsString>,
    /// How many entries
    #[arg(short = 'n', long = "number", value_name = "N", default_value_t = 20)]
    pub(crate) number: usize,
}

/// Write the state at a position or a time into a new file
///
/// OUT must not exist. It is a plain database, not a replica. A clock time means the state at that
/// second's end; a day (2026-11-22, yesterday) means the state at that day's end. Times are those at
/// which the remote received something: `log` shows them where they are not the writer's.
#[derive(Debug, Args)]
#[command(
    override_usage = "anabranch restore [OPTIONS] [URL|FILE] <OUT>",
    after_help = "Examples:\n  anabranch restore /mnt/shared/notes old.db --at yesterday\n  \
    anabranch restore notes.db old.db --at '2026-11-23 10:00'\n  \
    anabranch restore notes.db old.db --at -2h\n  \
    anabranch restore notes.db old.db --at '3 days ago'\n  \
    anabranch restore notes.db old.db --at 2026-11-23T10:00:00Z\n  \
    anabranch restore notes.db old.db --at 00000000000004d2"
)]
pub(crate) struct Restore {
    /// A remote, or a replica of it; may be left out where only one replica is
    #[arg(value_name = "URL|FILE", required = true)]
    place: OsString,
    /// The file to make
    #[arg(value_name = "OUT")]
    out: Option<OsString>,
    /// The position or time to restore [default: the newest]
    #[arg(long, value_name = "LSN|TIME", allow_hyphen_values = true, value_parser = when::parse_at)]
    pub(crate) at: Option<When>,
}

impl Restore {
    /// The remote or replica, if one was named, and the file to make.
    pub(crate) fn places(&self) -> (Option<OsString>, PathBuf) {
        match &self.out {
            Some(out) => (Some(self.place.clone()), PathBuf::from(out)),
            None => (None, PathBuf::from(&self.place)),
        }
    }
}

/// Show or change where a replica's remote is
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch remote notes.db\n  \
    anabranch remote notes.db --set /media/usb/notes")]
pub(crate) struct Remote {
    /// The replica [default: the only one in the current directory]
    pub(crate) file: Option<PathBuf>,
    /// The place the remote moved to; it must hold the same database
    #[arg(long, value_name = "URL")]
    pub(crate) set: Option<OsString>,
    /// With --set: do not look whether it holds the same database (it cannot be reached now)
    #[arg(long, requires = "set")]
    pub(crate) no_check: bool,
}

/// Settle a replica that cannot go on by itself
///
/// Without an option, the same as --take-remote.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch repair notes.db\n  \
    anabranch repair notes.db --adopt\n  \
    anabranch repair notes.db --keep\n  \
    anabranch repair notes.db --relink --remote /mnt/shared/notes")]
pub(crate) struct Repair {
    /// The replica
    pub(crate) file: Option<PathBuf>,
    /// Make the file what the remote has; the file as it is is kept beside it
    #[arg(long, conflicts_with_all = ["adopt", "keep", "relink"])]
    pub(crate) take_remote: bool,
    /// Take the file as it is, as a replica of its own: an old copy is at its old position again,
    /// and follows from there; of any other file what differs becomes local changes
    #[arg(long, conflicts_with_all = ["keep", "relink"])]
    pub(crate) adopt: bool,
    /// The values in the file are meant, also where they are what they were earlier: what differs
    /// from the last common state becomes local changes, and the next sync pushes it
    #[arg(long, conflicts_with = "relink")]
    pub(crate) keep: bool,
    /// Build a new sidecar for a file that lost its own
    #[arg(long, requires = "remote")]
    pub(crate) relink: bool,
    /// With --relink: the remote
    #[arg(long, value_name = "URL", requires = "relink")]
    pub(crate) remote: Option<OsString>,
}

/// Merge old history into larger objects and drop what is older than the retention
///
/// Done by itself every 1,000 pushes; never needed for correctness.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch compact /mnt/shared/notes\n  \
    anabranch compact notes.db --retain 90d")]
pub(crate) struct Compact {
    /// A remote, or a replica of it [default: the only replica in the current directory]
    #[arg(value_name = "URL|FILE")]
    pub(crate) place: Option<OsString>,
    /// How long every state stays restorable
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = when::parse_duration)]
    pub(crate) retain: Duration,
}

/// Explain a WAL, segment, delta, snapshot, SQLite database or sidecar, and check it
///
/// Checks every checksum in it and names the first damaged frame or chunk (exit code 1).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch inspect notes.db-wal --frames\n  \
    anabranch inspect /mnt/shared/notes/db/*/snapshot/*.db.zst")]
pub(crate) struct Inspect {
    /// The file
    pub(crate) path: PathBuf,
    /// List every frame or chunk
    #[arg(long)]
    pub(crate) frames: bool,
}

/// Serve databases over HTTP, to replicas and to official libSQL clients
///
/// One server holds any number of databases, each made by the first push to its name. A replica's
/// remote, and a libSQL client's sync URL, is http://HOST:PORT/NAME. Without tokens the server
/// listens on loopback addresses only. Ctrl-C or SIGTERM: what is under way is finished first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch serve\n  \
    anabranch serve --data s3://bucket/databases --listen 0.0.0.0:8080 --auth-token-file tokens\n  \
    anabranch init notes.db --remote http://127.0.0.1:8080/notes\n\n\
    A line of the token file is a token, or 'read' and a token that may only read.\n\
    Health is at /livez and /readyz, metrics are at /metrics of --metrics-listen.")]
pub(crate) struct Serve {
    /// Where the databases are: a folder, or a bucket's URL
    #[arg(long, value_name = "URL", default_value = "anabranch-data", env = "ANABRANCH_DATA")]
    pub(crate) data: OsString,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "ANABRANCH_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Where to listen for Prometheus [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "ANABRANCH_METRICS_LISTEN")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Ask for one of the tokens in this file
    #[arg(long, value_name = "FILE", env = "ANABRANCH_AUTH_TOKEN_FILE")]
    pub(crate) auth_token_file: Option<PathBuf>,
    /// When a database comes to be: with the first push, or only by PUT /admin/v1/databases/NAME
    #[arg(long, value_name = "WHEN", default_value = "push", env = "ANABRANCH_CREATE")]
    pub(crate) create: CreateWhen,
    /// What names the database: the first segment of the path, or the first label of the host
    #[arg(long, value_name = "BY", default_value = "path", env = "ANABRANCH_TENANT_BY")]
    pub(crate) tenant_by: TenantBy,
    /// With --tenant-by host: databases are at NAME.DOMAIN, and the domain itself is `default`
    #[arg(long, value_name = "DOMAIN", default_value = "localhost", env = "ANABRANCH_DOMAIN")]
    pub(crate) domain: String,
    /// This server's URL, for clients that another server on the same store sends here
    #[arg(long, value_name = "URL", env = "ANABRANCH_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// No other program writes to the store: reads need not ask it what is new
    #[arg(long, env = "ANABRANCH_SOLE_SERVER")]
    pub(crate) sole_server: bool,
    /// Before each read by SQL, look for what other servers on the same store have appended; without
    /// this a read may be a second behind them
    #[arg(long, env = "ANABRANCH_READ_FRESH")]
    pub(crate) read_fresh: bool,
    /// Merge what libSQL clients wrote past a conflict, instead of refusing it for ever
    #[arg(long, value_name = "WHETHER", default_value = "on", env = "ANABRANCH_HEAL")]
    pub(crate) heal: Switch,
    /// How long every state stays restorable
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30d",
        value_parser = when::parse_duration,
        env = "ANABRANCH_RETAIN"
    )]
    pub(crate) retain: Duration,
    /// Directory for temporary files [default: the data folder, or the system's]
    #[arg(long, value_name = "DIR", env = "ANABRANCH_SCRATCH")]
    pub(crate) scratch: Option<PathBuf>,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "logfmt", env = "ANABRANCH_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) limits: ServeLimits,
    #[command(flatten)]
    pub(crate) sql: ServeSql,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    /// It is
    On,
    /// It is not
    Off,
}

/// What one client, or all of them, may take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct ServeLimits {
    /// Longest body of a push by a libSQL client
    #[arg(long, value_name = "BYTES", default_value = "64MiB", env = "ANABRANCH_MAX_LIBSQL_BODY")]
    pub(crate) max_libsql_body: ByteSize,
    /// Longest body of a push by a replica; it lies in a temporary file
    #[arg(long, value_name = "BYTES", default_value = "16GiB", env = "ANABRANCH_MAX_BODY")]
    pub(crate) max_body: ByteSize,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 4096, env = "ANABRANCH_MAX_CONNECTIONS")]
    pub(crate) max_connections: usize,
    /// Requests of one database that are worked on at once; further ones wait 10 s at most
    #[arg(long, value_name = "N", default_value_t = 64, env = "ANABRANCH_MAX_REQUESTS")]
    pub(crate) max_requests: usize,
    /// How long the headers of a request may take, and a connection may be idle
    #[arg(
        long,
        value_name = "TIME",
        default_value = "75s",
        value_parser = when::parse_duration,
        env = "ANABRANCH_HEADER_TIMEOUT"
    )]
    pub(crate) header_timeout: Duration,
    /// How long a body may stand still, in either direction
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = when::parse_duration,
        env = "ANABRANCH_STALL_TIMEOUT"
    )]
    pub(crate) stall_timeout: Duration,
    /// How long an unfinished push of a libSQL client is kept without a further request
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = when::parse_duration,
        env = "ANABRANCH_PUSH_SESSION"
    )]
    pub(crate) push_session: Duration,
    /// How long a database stays open without a request
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5min",
        value_parser = when::parse_duration,
        env = "ANABRANCH_IDLE_DATABASE"
    )]
    pub(crate) idle_database: Duration,
    /// How long requests may take to finish once the server is told to stop
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = when::parse_duration,
        env = "ANABRANCH_GRACE"
    )]
    pub(crate) grace: Duration,
}

/// What clients may take that speak SQL.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of SQL clients")]
pub(crate) struct ServeSql {
    /// How long an open transaction may be without a statement; then it is rolled back
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = when::parse_duration,
        env = "ANABRANCH_SQL_TRANSACTION_IDLE"
    )]
    pub(crate) sql_transaction_idle: Duration,
    /// How long a transaction may be open in all
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = when::parse_duration,
        env = "ANABRANCH_SQL_TRANSACTION"
    )]
    pub(crate) sql_transaction: Duration,
    /// How long a statement may run
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = when::parse_duration,
        env = "ANABRANCH_SQL_STATEMENT"
    )]
    pub(crate) sql_statement: Duration,
    /// How long a write waits for other clients' transactions
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = when::parse_duration,
        env = "ANABRANCH_SQL_BUSY"
    )]
    pub(crate) sql_busy: Duration,
    /// Longest result of a statement or a batch
    #[arg(long, value_name = "BYTES", default_value = "10MiB", env = "ANABRANCH_SQL_RESULT")]
    pub(crate) sql_result: ByteSize,
    /// Longest result of a cursor; it lies in a temporary file
    #[arg(long, value_name = "BYTES", default_value = "1GiB", env = "ANABRANCH_SQL_CURSOR")]
    pub(crate) sql_cursor: ByteSize,
    /// Longest body of a request with SQL, and longest message over WebSocket
    #[arg(long, value_name = "BYTES", default_value = "64MiB", env = "ANABRANCH_MAX_SQL_BODY")]
    pub(crate) max_sql_body: ByteSize,
    /// Streams at once, each a connection of SQLite's
    #[arg(long, value_name = "N", default_value_t = 1024, env = "ANABRANCH_SQL_STREAMS")]
    pub(crate) sql_streams: usize,
    /// Streams of one database at once
    #[arg(long, value_name = "N", default_value_t = 256, env = "ANABRANCH_SQL_STREAMS_EACH")]
    pub(crate) sql_streams_each: usize,
    /// How long a stream outside a transaction is kept without a request
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5min",
        value_parser = when::parse_duration,
        env = "ANABRANCH_SQL_STREAM_IDLE"
    )]
    pub(crate) sql_stream_idle: Duration,
    /// WebSockets at once
    #[arg(long, value_name = "N", default_value_t = 1024, env = "ANABRANCH_SQL_SOCKETS")]
    pub(crate) sql_sockets: usize,
}

/// When a database of a server comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CreateWhen {
    /// With the first push to its name
    Push,
    /// By the administration only
    Explicit,
}

/// What names a database of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TenantBy {
    /// The first segment of the path; without one, `default`
    Path,
    /// The first label of the host
    Host,
}

/// Form of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// key=value
    Logfmt,
    /// One JSON object a line
    Json,
}

/// Do the whole job once for real, in a folder, showing each step as the command to type
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch demo\n  anabranch demo ./try-it")]
pub(crate) struct Demo {
    /// An empty or new folder to work in, kept afterwards [default: a temporary one]
    pub(crate) dir: Option<PathBuf>,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  anabranch completions bash > \
    ~/.local/share/bash-completion/completions/anabranch")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
