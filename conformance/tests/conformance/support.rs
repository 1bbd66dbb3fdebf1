//! A server with its store, the replicas of one scenario, and the judgement at its end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anabranch_conformance::{
    Answer, Client, Fault, Mock, Opening, Ours, Proxy, Seen, Server, ServerOptions, Sql, ask,
    checked_image, first_difference, rows,
};

/// The official client's program.
pub(crate) const CLIENT: &str = env!("CARGO_BIN_EXE_libsql-client");

/// The database of every scenario.
pub(crate) const DATABASE: &str = "app";

/// The table of most scenarios.
pub(crate) const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)";

/// All rows of that table.
pub(crate) const ALL: &str = "SELECT id, body FROM t ORDER BY id";

/// What the clients sync with.
pub(crate) enum Remote {
    Real(Box<Server>),
    /// For developing the suite, and to see that it fails where it must.
    Mock(Mock),
}

/// The place of one scenario.
pub(crate) struct Yard {
    dir: tempfile::TempDir,
    pub(crate) remote: Remote,
    token: Option<String>,
    fresh: AtomicUsize,
}

impl Yard {
    /// With a server that runs with its defaults.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With a server that is given more arguments.
    pub(crate) fn with(args: &[&str]) -> Self {
        Self::start(args, None)
    }

    /// With a server that asks for a token: `token`, or one of those in further lines of the file.
    pub(crate) fn with_tokens(token: &str, lines: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{token}\n{lines}\n")).unwrap();
        Self::start(&["--auth-token-file", file.path().to_str().unwrap()], Some(token))
    }

    fn start(args: &[&str], token: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = token.map(str::to_owned);
        let remote = if std::env::var_os("CONFORMANCE_SERVER").is_some_and(|name| name == "mock") {
            Remote::Mock(Mock::start(([127, 0, 0, 1], 0).into()))
        } else {
            Remote::Real(Box::new(Server::start(ServerOptions {
                data: dir.path().join("data"),
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                token: token.clone(),
            })))
        };
        Yard { dir, remote, token, fresh: AtomicUsize::new(0) }
    }

    /// The server; none if the mock stands in for it.
    pub(crate) fn server(&mut self) -> Option<&mut Server> {
        match &mut self.remote {
            Remote::Real(server) => Some(server),
            Remote::Mock(_) => None,
        }
    }

    /// Two servers on the scenario's store that know of each other; none if the mock stands in.
    pub(crate) fn two_more(&self) -> Option<[Server; 2]> {
        self.two_more_with(&[])
    }

    /// As [`Yard::two_more`], with more arguments.
    pub(crate) fn two_more_with(&self, args: &[&str]) -> Option<[Server; 2]> {
        let Remote::Real(server) = &self.remote else { return None };
        let data = server.data().to_owned();
        Some([(); 2].map(|()| {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            let (data, token) = (data.clone(), self.token.clone());
            Server::start_advertised(ServerOptions { data, args, token })
        }))
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        match &self.remote {
            Remote::Real(server) => server.address(),
            Remote::Mock(mock) => mock.address(),
        }
    }

    /// The URL of the scenario's database.
    pub(crate) fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The URL of another database.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("http://{}/{database}", self.address())
    }

    /// A proxy before the server.
    pub(crate) fn proxy(&self) -> Proxy {
        Proxy::start(self.address())
    }

    /// A place for the replica `name`: a folder of its own, with `app.db` in it.
    pub(crate) fn db(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir.join("app.db")
    }

    /// The official client's replica `name`, opened.
    #[track_caller]
    pub(crate) fn client(&self, name: &str) -> Client {
        self.client_at(name, &self.url())
    }

    /// The official client's replica `name`, opened against a URL.
    #[track_caller]
    pub(crate) fn client_at(&self, name: &str, url: &str) -> Client {
        let mut client = self.unopened(name);
        client.open(url, &self.opening()).unwrap_or_else(|e| panic!("{name}: {e}"));
        client
    }

    /// How a client opens a database of this server.
    pub(crate) fn opening(&self) -> Opening {
        Opening { token: self.token(), ..Opening::default() }
    }

    /// A running client that has not opened the replica `name` yet.
    pub(crate) fn unopened(&self, name: &str) -> Client {
        Client::start(Path::new(CLIENT), &self.db(name))
    }

    /// Our own program against the scenario's database; none against the mock.
    pub(crate) fn ours(&self) -> Option<Ours> {
        matches!(self.remote, Remote::Real(_))
            .then(|| Ours::new(&self.url(), self.token.as_deref()))
    }

    /// A plain client of SQL for the scenario's database.
    pub(crate) fn sql(&self) -> Sql {
        Sql::new(&self.url(), self.token.as_deref())
    }

    /// The token of this server; empty if it asks for none.
    pub(crate) fn token(&self) -> String {
        self.token.clone().unwrap_or_default()
    }

    /// Begins a new generation, as an administrator does.
    #[track_caller]
    pub(crate) fn roll_over(&self) {
        let answer = self.try_roll_over();
        assert!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.text());
    }

    /// Asks for a new generation.
    #[track_caller]
    pub(crate) fn try_roll_over(&self) -> Answer {
        self.admin("POST", &format!("/admin/v1/databases/{DATABASE}/rollover"))
    }

    /// A request to the server.
    #[track_caller]
    pub(crate) fn admin(&self, method: &str, path: &str) -> Answer {
        let url = format!("http://{}{path}", self.address());
        self.ask(method, &url, Vec::new())
    }

    /// One request, with the server's token.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, url: &str, body: Vec<u8>) -> Answer {
        let bearer = format!("Bearer {}", self.token.as_deref().unwrap_or_default());
        ask(method, url, &[("authorization", &bearer)], body).unwrap()
    }

    /// The server's current generation, as it tells a client.
    #[track_caller]
    pub(crate) fn generation(&self) -> u32 {
        let answer = self.ask("GET", &format!("{}/info", self.url()), Vec::new());
        let generation = answer.json()["current_generation"].as_u64();
        u32::try_from(generation.unwrap_or_else(|| panic!("{}", answer.text()))).unwrap()
    }

    /// The judgement at the end of a scenario.
    ///
    /// Brings the given clients up to date, clones the database anew with the official client and
    /// with ours, and compares: all hold the same pages, each passes `PRAGMA integrity_check` of
    /// stock SQLite, and `sql` answers `expected`.
    #[track_caller]
    pub(crate) fn settle(&self, clients: &mut [&mut Client], sql: &str, expected: &[String]) {
        let mut replicas = Vec::new();
        for client in clients {
            client.sync();
            let seen = client.rows(sql);
            assert_eq!(seen, expected, "{}, as the client sees it", client.db().display());
            replicas.push(client.db().to_owned());
        }
        self.judge(replicas, sql, expected);
    }

    /// As [`Yard::settle`], for replicas that are up to date already.
    #[track_caller]
    pub(crate) fn judge(&self, mut replicas: Vec<PathBuf>, sql: &str, expected: &[String]) {
        let number = self.fresh.fetch_add(1, Ordering::Relaxed);
        let mut fresh = self.client(&format!("fresh-{number}"));
        fresh.sync();
        fresh.close();
        replicas.push(fresh.db().to_owned());
        if let Some(ours) = self.ours() {
            let db = self.db(&format!("ours-{number}"));
            ours.clone_to(&db);
            replicas.push(db);
        }
        let first = checked_image(&replicas[0]);
        for replica in &replicas {
            assert_eq!(rows(replica, sql), expected, "{}", replica.display());
            let difference = first_difference(&first, &checked_image(replica));
            assert_eq!(difference, None, "{}", replica.display());
        }
    }
}

/// What `ALL` answers when these bodies were inserted in this order.
pub(crate) fn numbered<S: AsRef<str>>(bodies: &[S]) -> Vec<String> {
    bodies.iter().zip(1..).map(|(body, id)| format!("{id}|{}", body.as_ref())).collect()
}

/// A statement that inserts one row.
pub(crate) fn insert(body: &str) -> String {
    format!("INSERT INTO t(body) VALUES ('{body}')")
}

/// A statement that inserts rows of `bytes` bytes, in one transaction, of which each takes a page if
/// it is large.
pub(crate) fn insert_many(rows: usize, bytes: usize) -> String {
    format!(
        "INSERT INTO t(body) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n \
         WHERE i < {rows}) SELECT hex(randomblob({})) FROM n",
        bytes / 2
    )
}

/// A client, behind `proxy`, whose answer was lost in the middle of a transaction of several requests, and one
/// that has pushed since.
pub(crate) fn overtaken(yard: &Yard, proxy: &Proxy) -> (Client, Client) {
    let mut a = yard.client_at("a", &proxy.url(DATABASE));
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.execute(&insert("shared"));
    a.sync();
    b.sync();
    a.execute(&insert_many(280, 4000));
    proxy.nth(2, Seen::is_push, || Fault::Drop);
    assert_eq!(a.try_sync(), Ok(0));
    proxy.calm();
    b.repeat(5, "INSERT INTO t(body) VALUES ('b ' || ?1)");
    b.sync();
    (a, b)
}
