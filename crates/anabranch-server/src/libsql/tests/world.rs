//! Servers on one store, without sockets, and whoever else writes to it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_format::{
    DatabaseId, DbChecksum, DeltaEncoder, Lsn, Micros, PageChecksum, PageOne, PageSize, Pgno,
    canonicalise_page_one,
};
use anabranch_store::{
    Anchor, Appended, Head, Location, Log, NewSegment, Progress, Rollover, Root, Spool,
    StoreOptions,
};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Method, Request, StatusCode};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::config::Config;
use crate::server::App;
use crate::{dispatch, entropy};

pub(super) const PAGE: usize = 4096;

/// A repeatable source of numbers.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// An answer of a server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) location: Option<String>,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    root: Root,
    servers: Mutex<Vec<Arc<App>>>,
    heal: bool,
}

impl World {
    pub(super) fn new(servers: usize) -> Self {
        Self::with(servers, true)
    }

    pub(super) fn without_healing(servers: usize) -> Self {
        Self::with(servers, false)
    }

    fn with(servers: usize, heal: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::memory(&StoreOptions::new(dir.path()));
        let world = World { dir, root, servers: Mutex::default(), heal };
        for n in 0..servers {
            let app = world.app(n);
            world.servers.lock().unwrap().push(app);
        }
        world
    }

    fn app(&self, n: usize) -> Arc<App> {
        let data = Location::folder(self.dir.path().join("data"));
        let mut config = Config::new(data, self.dir.path());
        config.heal = self.heal;
        config.advertise = Some(format!("http://localhost:{n}"));
        App::new(config, self.root.clone())
    }

    pub(super) fn server_count(&self) -> usize {
        self.servers.lock().unwrap().len()
    }

    /// A server is killed and starts anew: it forgets everything.
    pub(super) fn restart(&self, n: usize) {
        let app = self.app(n);
        self.servers.lock().unwrap()[n] = app;
    }

    pub(super) async fn ask(&self, n: usize, method: &Method, path: &str, body: Bytes) -> Answer {
        let app = Arc::clone(&self.servers.lock().unwrap()[n]);
        // Far slower than in life, so that whoever waits for a while need not wait long.
        *app.databases.libsql().skipped.lock().unwrap() += Duration::from_secs(7);
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let response = dispatch::handle(app, request.body(Body::from(body)).unwrap()).await;
        let status = response.status();
        let location = response.headers().get("location");
        let location = location.map(|location| location.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Answer { status, location, body }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask(0, &Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn rollover(&self) -> serde_json::Value {
        let answer = self.try_rollover().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }

    /// Refused while somebody is in the middle of a push.
    pub(super) async fn try_rollover(&self) -> Answer {
        let path = "/admin/v1/databases/default/rollover";
        self.ask(0, &Method::POST, path, Bytes::new()).await
    }

    /// The log, as another program sees it.
    pub(super) async fn log(&self) -> Log {
        let name = "default".parse().unwrap();
        let id: DatabaseId = match self.root.find(&name).await.unwrap() {
            Some(id) => id,
            None => {
                let id = entropy::database_id();
                self.root.name(&name, &id).await.unwrap();
                id
            }
        };
        self.root.log(&name, &id)
    }

    /// Pages of the state at the head.
    pub(super) async fn state(&self) -> (Head, Vec<Vec<u8>>) {
        let log = self.log().await;
        let head = log.head(&Anchor::start()).await.unwrap();
        let fetched = log.fetch(Lsn::ZERO, &head, &Progress::none()).await.unwrap();
        let mut pages = vec![vec![0; PAGE]; fetched.pages.1 as usize];
        fetched
            .for_each(|pgno, page| {
                pages[pgno.get() as usize - 1] = page.to_vec();
                Ok::<(), anabranch_store::StoreError>(())
            })
            .unwrap();
        (head, pages)
    }

    /// A replica of another kind pulls, runs `sql` and pushes what changed, straight to the store.
    pub(super) async fn replica_runs(&self, sql: &str) {
        let path = self.dir.path().join("replica.db");
        loop {
            let (head, before) = self.state().await;
            std::fs::write(&path, before.concat()).unwrap();
            let file = open(&path);
            file.execute_batch(sql).unwrap();
            file.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            drop(file);
            remove(&path, &["-wal", "-shm"]);
            let bytes = std::fs::read(&path).unwrap();
            let after: Vec<Vec<u8>> = bytes.chunks(PAGE).map(<[u8]>::to_vec).collect();
            let Some(new) = delta(&before, &after, Rollover::WhenDue) else { return };
            let log = self.log().await;
            let appended = log.append(&head, new, &Progress::none()).await.unwrap();
            if let Appended::Won(_) = appended {
                return;
            }
        }
    }
}

pub(super) fn pgno(n: usize) -> Pgno {
    Pgno::new(u32::try_from(n).unwrap()).unwrap()
}

pub(super) fn sum(pages: &[Vec<u8>]) -> DbChecksum {
    let mut sum = DbChecksum::EMPTY;
    for (n, page) in (1..).zip(pages) {
        sum.toggle(PageChecksum::of(pgno(n), page));
    }
    sum
}

/// What leads from one state to another, as a replica of our own pushes it.
pub(super) fn delta(
    before: &[Vec<u8>],
    after: &[Vec<u8>],
    rollover: Rollover,
) -> Option<NewSegment> {
    let mut encoder =
        DeltaEncoder::new(Spool::from_bytes(Vec::new()), PageSize::DEFAULT, Lsn::ZERO).unwrap();
    let size = u32::try_from(after.len()).unwrap();
    for (n, page) in (1..).zip(after) {
        let same = before
            .get(n - 1)
            .is_some_and(|old| PageChecksum::of(pgno(n), old) == PageChecksum::of(pgno(n), page));
        let mut page = page.clone();
        if n == 1 {
            let cookie = PageOne::read(&page).unwrap().schema_cookie;
            canonicalise_page_one(&mut page, cookie, size);
        }
        if !same {
            encoder.page(pgno(n), &page).unwrap();
        }
    }
    if encoder.is_empty() {
        return None;
    }
    let encoded = encoder.finish(size).unwrap();
    Some(NewSegment {
        push: entropy::push_id(),
        writer: entropy::writer_id(),
        now: Micros(1),
        page_size: PageSize::DEFAULT,
        pages: (u32::try_from(before.len()).unwrap(), size),
        sum: (sum(before), sum(after)),
        frames: encoded.frames,
        transactions: None,
        rollover,
        body: encoded.sink,
    })
}

/// Opens a database as a client's library does: nothing is checkpointed unless asked for.
pub(super) fn open(path: &Path) -> Connection {
    let file = Connection::open(path).unwrap();
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    file.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=20; \
         PRAGMA synchronous=OFF",
    )
    .unwrap();
    file
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn remove(path: &Path, suffixes: &[&str]) {
    for suffix in suffixes {
        let _ = std::fs::remove_file(beside(path, suffix));
    }
}

/// All rows, and that the database is whole.
pub(super) fn rows(path: &Path) -> Vec<String> {
    let file = open(path);
    let found: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok", "{path:?}");
    let mut all = match file.prepare("SELECT marker FROM t ORDER BY marker") {
        Ok(all) => all,
        Err(_) => return Vec::new(),
    };
    let rows = all.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}
