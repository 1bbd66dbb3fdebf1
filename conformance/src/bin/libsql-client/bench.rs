//! How long the official client takes for the workloads of the benchmarks, against any server.
//!
//! Two clients share a database: one writes and pushes, the other pulls. What is timed is one call of
//! the library's `sync`, and for `bootstrap` opening a replica that is not there yet. Bytes and
//! requests are counted at the sockets, heads included. The rows are compared before a figure is
//! reported.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anabranch_conformance::Chance;
use libsql::{Builder, Connection, Database};
use serde_json::{Value, json};

use crate::connector::{Counted, Traffic};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) const USAGE: &str = "\
usage: libsql-client                             commands on standard input
       libsql-client bench WORKLOAD URL [TOKEN]  figures as JSON

WORKLOAD: w1  20,000 inserts of 110 B, each committed
          w2  200,000 rows of 150 B in one transaction
          w4  5,000 committed updates of the same 10 rows of a database of 10 MB
          bootstrap  a replica of what is there
          idle  1,000 syncs with nothing to do
URL names a database that is empty for w1, w2 and w4.";

/// Runs the workload named on the command line.
pub(crate) async fn run(args: &[String]) -> Result<Value> {
    let [workload, url, rest @ ..] = args else { return Err(USAGE.into()) };
    let token = rest.first().map_or("", String::as_str);
    let dir = tempfile::tempdir()?;
    match workload.as_str() {
        "bootstrap" => {
            let start = Instant::now();
            let replica = Replica::open(&dir.path().join("a.db"), url, token).await?;
            let opened = start.elapsed().as_secs_f64();
            let bytes = std::fs::metadata(dir.path().join("a.db"))?.len();
            let pull = replica.sync().await?;
            let requests = replica.traffic.requests.load(Ordering::Relaxed);
            Ok(json!({
                "workload": workload, "seconds": opened, "file_bytes": bytes,
                "requests": requests, "pull": pull,
            }))
        }
        "idle" => {
            let replica = Replica::open(&dir.path().join("a.db"), url, token).await?;
            replica.sync().await?;
            let mut seconds = Vec::new();
            for _ in 0..1_000 {
                let start = Instant::now();
                replica.database.sync().await?;
                seconds.push(start.elapsed().as_secs_f64());
            }
            seconds.sort_by(f64::total_cmp);
            Ok(json!({ "workload": workload, "p50": seconds[500], "p99": seconds[990] }))
        }
        "w1" | "w2" | "w4" => Box::pin(write_push_pull(workload, url, token, dir.path())).await,
        _ => Err(USAGE.into()),
    }
}

/// One side.
struct Replica {
    database: Database,
    connection: Connection,
    traffic: Arc<Traffic>,
}

impl Replica {
    async fn open(path: &Path, url: &str, token: &str) -> Result<Self> {
        let traffic = Arc::new(Traffic::default());
        let database = Builder::new_synced_database(path, url.to_owned(), token.to_owned())
            .connector(Counted::new(Arc::clone(&traffic)))
            .build()
            .await?;
        let connection = database.connect()?;
        Ok(Replica { database, connection, traffic })
    }

    /// One sync, timed and counted.
    async fn sync(&self) -> Result<Value> {
        let counts = || {
            let counters = [&self.traffic.requests, &self.traffic.sent, &self.traffic.received];
            counters.map(|counter| counter.load(Ordering::Relaxed))
        };
        let before = counts();
        let start = Instant::now();
        self.database.sync().await?;
        let seconds = start.elapsed().as_secs_f64();
        let after = counts();
        Ok(json!({
            "seconds": seconds,
            "requests": after[0] - before[0],
            "sent_bytes": after[1] - before[1],
            "received_bytes": after[2] - before[2],
        }))
    }

    async fn run(&self, sql: &str) -> Result<()> {
        self.connection.execute(sql, ()).await?;
        Ok(())
    }

    async fn rows(&self) -> Result<String> {
        let sql = "SELECT count(*) || ' rows, ' || sum(length(body)) || ' B' FROM t";
        let mut rows = self.connection.query(sql, ()).await?;
        let row = rows.next().await?.ok_or("no rows")?;
        Ok(row.get(0)?)
    }
}

async fn write_push_pull(workload: &str, url: &str, token: &str, dir: &Path) -> Result<Value> {
    let writer = Replica::open(&dir.join("a.db"), url, token).await?;
    writer.run("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)").await?;
    let mut chance = Chance::new(1);
    if workload == "w4" {
        // 32 rows of 110 B fill a page.
        insert(&writer, &mut chance, 10_000_000 / 4096 * 32, 110, true).await?;
    }
    writer.sync().await?;
    let reader = Replica::open(&dir.join("b.db"), url, token).await?;
    reader.sync().await?;

    let start = Instant::now();
    match workload {
        "w1" => insert(&writer, &mut chance, 20_000, 110, false).await?,
        "w2" => insert(&writer, &mut chance, 200_000, 150, true).await?,
        _ => {
            let update = writer.connection.prepare("UPDATE t SET body = ?1 WHERE id = ?2").await?;
            for turn in 0..5_000_i64 {
                update.reset();
                update.execute((chance.words(110), turn % 10 + 1)).await?;
            }
        }
    }
    let written = start.elapsed().as_secs_f64();
    let push = writer.sync().await?;
    let pull = reader.sync().await?;
    let (theirs, ours) = (writer.rows().await?, reader.rows().await?);
    if theirs != ours {
        return Err(format!("the writer has {theirs}, the reader {ours}").into());
    }
    Ok(json!({
        "workload": workload, "write_seconds": written, "push": push, "pull": pull, "holds": ours,
    }))
}

async fn insert(
    replica: &Replica,
    chance: &mut Chance,
    rows: usize,
    bytes: usize,
    one_transaction: bool,
) -> Result<()> {
    if one_transaction {
        replica.run("BEGIN").await?;
    }
    let insert = replica.connection.prepare("INSERT INTO t(body) VALUES (?1)").await?;
    for _ in 0..rows {
        insert.reset();
        insert.execute([chance.words(bytes)]).await?;
    }
    if one_transaction {
        replica.run("COMMIT").await?;
    }
    Ok(())
}
