//! Many databases on one server, and many replicas at once.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use anabranch::Options;
use anabranch::blocking::Replica;

use super::server::{Server, get, send};
use crate::Result;
use crate::report::{Report, Row, Series, ms, ratio, say, size};
use crate::stage::Stage;

const DATABASES: usize = 10_000;
const ACTIVE: usize = 100;
const MEMORY_MAX: u64 = 512 << 20;
const COLD_MAX: Duration = Duration::from_millis(20);
const REPLICAS: usize = 64;
const PUSHES_EACH: usize = 8;

pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let scene = stage.scene("http-many")?;
    let data = scene.path("data");
    let server = Server::start(&stage.program, &data)?;
    let start = Instant::now();
    for n in 0..DATABASES {
        send(server.address, "PUT", &format!("/admin/v1/databases/db{n}"))?;
    }
    say(&format!("{DATABASES} databases made in {}", ms(start.elapsed())))?;
    let mut replicas = Vec::new();
    for n in 0..ACTIVE {
        let db = scene.database(&format!("r{n}.db"), None)?;
        let url = server.url(&format!("active{n}"));
        replicas.push((Replica::init(&db, OsStr::new(&url), Options::default())?.0, db));
    }
    for (replica, _) in &replicas {
        replica.sync()?;
    }
    let (memory, _) = server.memory()?;
    report.row(Row {
        workload: "many",
        figure: format!(
            "memory of the server (VmRSS): {DATABASES} databases asked for, {ACTIVE} active"
        ),
        target: "< 512 MiB".to_owned(),
        measured: size(memory),
        peer: format!("limit {}", size(MEMORY_MAX)),
        ratio: Some(ratio(memory, MEMORY_MAX)),
        met: Some(memory < MEMORY_MAX),
    })?;
    at_once(&replicas, report)?;
    drop(server);
    let server = Server::start(&stage.program, &data)?;
    let cold = Series::of(ACTIVE, |n| {
        let start = Instant::now();
        get(server.address, &format!("/active{n}/log/head"))?;
        Ok(start.elapsed())
    })?;
    report.row(Row {
        workload: "many",
        figure: "first request of a database after a restart".to_owned(),
        target: format!("< {}", ms(COLD_MAX)),
        measured: cold.show(),
        peer: String::new(),
        ratio: None,
        met: Some(cold.median() < COLD_MAX),
    })?;
    drop(server);
    scene.clear()
}

/// 64 replicas push to 64 databases at once.
fn at_once(replicas: &[(Replica, std::path::PathBuf)], report: &mut Report) -> Result<()> {
    let start = Instant::now();
    let failed = std::thread::scope(|scope| {
        let threads: Vec<_> = replicas
            .iter()
            .take(REPLICAS)
            .map(|(replica, db)| {
                scope.spawn(move || push_often(replica, db).map_err(|e| e.to_string()))
            })
            .collect();
        threads.into_iter().find_map(|thread| thread.join().unwrap_or(Err("a panic".into())).err())
    });
    if let Some(failed) = failed {
        return Err(failed.into());
    }
    let took = start.elapsed();
    let pushes = REPLICAS * PUSHES_EACH;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let rate = pushes as f64 / took.as_secs_f64();
    report.row(Row {
        workload: "many",
        figure: format!(
            "{REPLICAS} replicas push to {REPLICAS} databases at once, a row each time"
        ),
        target: String::new(),
        measured: format!("{rate:.0} pushes a second ({pushes} in {})", ms(took)),
        peer: String::new(),
        ratio: None,
        met: None,
    })
}

fn push_often(replica: &Replica, db: &std::path::Path) -> Result<()> {
    let conn = rusqlite::Connection::open(db)?;
    conn.busy_timeout(Duration::from_secs(60))?;
    for n in 0..PUSHES_EACH {
        conn.execute("INSERT INTO t(body) VALUES(?1)", [format!("row {n}")])?;
        replica.push()?;
    }
    Ok(())
}
