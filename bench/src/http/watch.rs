//! Two replicas that are watched, and a server between them: how long a commit on one side takes to be
//! seen in the file of the other.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anabranch::Options;
use anabranch::blocking::Replica;
use rusqlite::Connection;

use super::server::Server;
use crate::Result;
use crate::app::App;
use crate::report::{Report, Row, Series, ms};
use crate::ship::workload;
use crate::stage::Stage;

const LATENCY_MAX: Duration = Duration::from_millis(30);
const COMMITS: usize = 200;
/// The reader looks this often.
const PAUSE: Duration = Duration::from_micros(200);
/// What takes longer does not happen.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let scene = stage.scene("http-watch")?;
    let server = Server::start(&stage.program, &scene.path("data"))?;
    let (db, _) = workload("W4")?.lay_out(stage, &scene, "a.db")?;
    let url = server.url("db");
    Replica::init(&db, OsStr::new(&url), Options::default())?;
    let other = scene.path("b.db");
    Replica::clone_from(OsStr::new(&url), &other, Options::default())?;
    let (writer, reader) = (open(&db)?, open(&other)?);
    let beside = App::open(&other)?;
    let watches = [Watch::start(&stage.program, &db)?, Watch::start(&stage.program, &other)?];
    let latency = Series::of(COMMITS, |n| {
        let body = format!("change {n}");
        writer.execute("INSERT INTO t(body) VALUES (?1)", [&body])?;
        let committed = Instant::now();
        let id = writer.last_insert_rowid();
        let mut look = reader.prepare_cached("SELECT body FROM t WHERE id = ?1")?;
        while !look.exists([id])? {
            if committed.elapsed() > PATIENCE {
                return Err("a commit is not seen on the other side".into());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(committed.elapsed())
    })?;
    drop(watches);
    beside.close()?;
    report.row(Row {
        workload: "watch",
        figure: "HTTP: from a commit until it is seen in another watched replica".to_owned(),
        target: format!("< {}", ms(LATENCY_MAX)),
        measured: latency.show(),
        peer: format!("{COMMITS} commits of a row, one after the other"),
        ratio: None,
        met: Some(latency.median() < LATENCY_MAX),
    })?;
    drop(server);
    scene.clear()
}

fn open(db: &Path) -> Result<Connection> {
    let connection = Connection::open(db)?;
    connection.busy_timeout(PATIENCE)?;
    // Programs that sync at the pace of commits do not wait for the disk at each of them.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// `anabranch watch` of one replica.
struct Watch(Child);

impl Watch {
    /// Starts it and waits until it is in step.
    fn start(program: &Path, db: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["--json", "watch"])
            .arg(db)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("it says nothing")?;
        let mut lines = BufReader::new(output).lines();
        let watch = Watch(child);
        for line in lines.by_ref() {
            if line?.contains("\"watching\"") {
                // It must not wait for somebody to read what it says.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(watch);
            }
        }
        Err("a watch ended before it was in step".into())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // What it has not sent is of no interest any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
