//! Settings of a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anabranch_store::Location;

use crate::auth::Tokens;

/// How a request tells which database it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantBy {
    /// The first segment of the path; without one, the database `default`.
    Path,
    /// The first label of the `Host` header below this domain; the domain itself is `default`.
    Host(String),
}

/// When a database comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// With the first push to its name.
    OnPush,
    /// Only with `PUT /admin/v1/databases/NAME`.
    Explicit,
}

/// What one client, or all of them, may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest body of a libSQL push, in bytes.
    pub libsql_body: u64,
    /// Longest body of a push in our own dialect, in bytes. It lies in a temporary file.
    pub push_body: u64,
    /// Longest body of a request with SQL, and longest message over WebSocket, in bytes.
    pub sql_body: u64,
    /// Streams of SQL at once, those that wait for their client's next request included.
    pub sql_streams: usize,
    /// The same, of one database.
    pub sql_streams_per_database: usize,
    /// How long a stream of SQL over HTTP is kept without a further request.
    pub sql_stream_idle: Duration,
    /// WebSockets at once.
    pub sql_sockets: usize,
    /// Connections at once; further ones wait to be accepted.
    pub connections: usize,
    /// Requests of one database that are worked on at once; further ones wait.
    pub requests_per_database: usize,
    /// How long a request waits for its turn before it is told to come back.
    pub turn: Duration,
    /// How long the headers of a request may take, an idle connection included.
    pub headers: Duration,
    /// How long a body may stand still, in either direction.
    pub stall: Duration,
    /// How long an unfinished push of a libSQL client is kept without a further request.
    pub push_session: Duration,
    /// How long a database stays open without a request.
    pub idle_database: Duration,
    /// How long requests under way may take to finish once the server is told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            libsql_body: 64 << 20,
            push_body: 16 << 30,
            sql_body: 64 << 20,
            sql_streams: 1024,
            sql_streams_per_database: 256,
            sql_stream_idle: Duration::from_secs(300),
            sql_sockets: 1024,
            connections: 4096,
            requests_per_database: 64,
            turn: Duration::from_secs(10),
            headers: Duration::from_secs(75),
            stall: Duration::from_secs(30),
            push_session: Duration::from_secs(30),
            idle_database: Duration::from_secs(300),
            grace: Duration::from_secs(30),
        }
    }
}

/// What SQL clients may take.
#[derive(Debug, Clone)]
pub struct SqlLimits {
    /// How long a transaction that is open may go without a statement; then it is rolled back.
    pub transaction_idle: Duration,
    /// How long a transaction may be open in all.
    pub transaction: Duration,
    /// How long a statement may run.
    pub statement: Duration,
    /// How long a write waits for another client's transaction.
    pub busy: Duration,
    /// Longest result of a statement or batch, in bytes.
    pub result: u64,
    /// Longest result that is read row by row (a cursor), in bytes. It lies in a temporary file.
    pub cursor: u64,
}

impl Default for SqlLimits {
    fn default() -> Self {
        SqlLimits {
            transaction_idle: Duration::from_secs(5),
            transaction: Duration::from_secs(30),
            statement: Duration::from_secs(30),
            busy: Duration::from_secs(10),
            result: 10 << 20,
            cursor: 1 << 30,
        }
    }
}

/// Everything a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the databases are.
    pub data: Location,
    /// Endpoint of an S3-compatible service, if not the provider's own.
    pub endpoint: Option<String>,
    /// Directory for temporary files.
    pub scratch: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to listen for metrics; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Who may do what; `None`: anybody who reaches the server may do anything.
    pub tokens: Option<Tokens>,
    /// How a request tells its database.
    pub tenant_by: TenantBy,
    /// When a database comes to be.
    pub create: Create,
    /// This server's URL, as other servers on the same store and their clients reach it.
    pub advertise: Option<String>,
    /// No other program writes to the store: what was seen of a log is its end.
    pub sole: bool,
    /// Whether what libSQL clients wrote past a conflict is merged into the log.
    pub heal: bool,
    /// How long every state stays restorable.
    pub retain: Duration,
    /// Limits.
    pub limits: Limits,
    /// Limits of SQL clients.
    pub sql: SqlLimits,
    /// Whether a read by SQL looks for what other servers appended, before it begins.
    pub read_fresh: bool,
}

impl Config {
    /// The defaults, for the databases at `data`.
    #[must_use]
    pub fn new(data: Location, scratch: impl Into<PathBuf>) -> Self {
        Config {
            data,
            endpoint: None,
            scratch: scratch.into(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            metrics_listen: None,
            tokens: None,
            tenant_by: TenantBy::Path,
            create: Create::OnPush,
            advertise: None,
            sole: false,
            heal: true,
            retain: Duration::from_secs(30 * 24 * 60 * 60),
            limits: Limits::default(),
            sql: SqlLimits::default(),
            read_fresh: false,
        }
    }
}
