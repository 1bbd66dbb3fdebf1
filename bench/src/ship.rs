//! W1, W2, W4, W6: bytes shipped by one push, and the pull of them into a second replica.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anabranch::Options;
use anabranch::blocking::Replica;

use crate::Result;
use crate::app::{App, write_script};
use crate::child;
use crate::litestream;
use crate::report::{Report, Row, Series, ms, ratio, say, size, time_ratio};
use crate::stage::{Scene, Stage, changed_pages, new_objects, objects, settle_disk, zstd_3};
use crate::words::Words;

/// What a push may be in terms of its pages through `zstd -3`.
const SHIPPED_MAX: f64 = 1.1;
const SYNCS_MAX: usize = 5;

/// A workload that is pushed once.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Size of the database before, in bytes; 0 for an empty table.
    pub(crate) database: u64,
    pub(crate) row: usize,
    script: fn(&mut dyn Write, rows: u64) -> io::Result<()>,
    /// The longest that a pull may take.
    pull_max: Option<Duration>,
    /// What others were measured to ship: given, not of this run.
    given: &'static str,
}

const ALL: [Workload; 4] = [
    Workload {
        name: "W1",
        database: 0,
        row: 110,
        script: inserts,
        pull_max: Some(Duration::from_millis(50)),
        given: "given: Litestream 0.5.17 1.83 MB, libSQL client 87 MB",
    },
    Workload {
        name: "W2",
        database: 0,
        row: 150,
        script: one_transaction,
        pull_max: None,
        given: "given: Litestream 0.5.17 24.3 MB, libSQL client 33 MB",
    },
    Workload {
        name: "W4",
        database: 10_000_000,
        row: 150,
        script: same_rows,
        pull_max: Some(Duration::from_millis(10)),
        given: "given: Litestream 0.5.17 29 kB, libSQL client 20.6 MB",
    },
    Workload {
        name: "W6",
        database: 100_000_000,
        row: 150,
        script: random_rows,
        pull_max: Some(Duration::from_millis(80)),
        given: "given: Litestream 0.5.17 25.4 MB, libSQL client 41 MB",
    },
];

/// W1: 20,000 autocommit inserts of 110 bytes.
fn inserts(out: &mut dyn Write, _: u64) -> io::Result<()> {
    let mut words = Words::new(1);
    (0..20_000)
        .try_for_each(|_| writeln!(out, "INSERT INTO t(body) VALUES('{}');", words.json(110)))
}

/// W2: 200,000 rows of 150 bytes in one transaction.
fn one_transaction(out: &mut dyn Write, _: u64) -> io::Result<()> {
    let mut words = Words::new(2);
    writeln!(out, "BEGIN;")?;
    for _ in 0..200_000 {
        writeln!(out, "INSERT INTO t(body) VALUES('{}');", words.json(150))?;
    }
    writeln!(out, "COMMIT;")
}

/// W4: 5,000 autocommit updates of the same 10 rows.
fn same_rows(out: &mut dyn Write, _: u64) -> io::Result<()> {
    let mut words = Words::new(4);
    for n in 0..5_000 {
        let id = 1 + n % 10;
        writeln!(out, "UPDATE t SET body='{}' WHERE id={id};", words.json(150))?;
    }
    Ok(())
}

/// W6: 10,000 random single-row updates, 100 a transaction.
fn random_rows(out: &mut dyn Write, rows: u64) -> io::Result<()> {
    let mut words = Words::new(6);
    for _ in 0..100 {
        writeln!(out, "BEGIN;")?;
        for _ in 0..100 {
            let id = 1 + words.below(rows);
            writeln!(out, "UPDATE t SET body='{}' WHERE id={id};", words.json(150))?;
        }
        writeln!(out, "COMMIT;")?;
    }
    Ok(())
}

/// The workload of that name.
pub(crate) fn workload(name: &str) -> Result<&'static Workload> {
    ALL.iter().find(|w| w.name == name).ok_or_else(|| format!("no workload {name}").into())
}

impl Workload {
    /// The database before, and the script, in `scene`.
    pub(crate) fn lay_out(
        &self,
        stage: &Stage,
        scene: &Scene,
        db: &str,
    ) -> Result<(PathBuf, PathBuf)> {
        let prepared = match self.database {
            0 => None,
            bytes => Some(stage.prepared(bytes, self.row)?),
        };
        let rows = prepared.as_ref().map_or(0, |(_, rows)| *rows);
        let db = scene.database(db, prepared.as_ref().map(|(path, _)| path.as_path()))?;
        let script = scene.path("workload.sql");
        write_script(&script, |out| (self.script)(out, rows))?;
        Ok((db, script))
    }
}

/// The replicas that pull.
struct Replicas {
    /// An application has each of them open, and each has been pulled into before: what changed in
    /// it can be told from its WAL.
    connected: Vec<(PathBuf, App)>,
    /// Nobody has them open, so there is no WAL: every page must be compared before a pull.
    idle: Vec<PathBuf>,
}

/// Measures one of them.
pub(crate) fn measure(stage: &Stage, name: &str, report: &mut Report) -> Result<()> {
    let workload = workload(name)?;
    let scene = stage.scene(workload.name)?;
    let (db, script) = workload.lay_out(stage, &scene, "a.db")?;
    let (replica, remote) = scene.publish(&db, "remote")?;
    let mut app = App::open(&db)?;
    let connected = scene.clones(&remote, "connected", stage.rounds * 2)?;
    let connected = connected
        .into_iter()
        .map(|file| App::open(&file).map(|app| (file, app)))
        .collect::<Result<Vec<_>>>()?;
    app.run("INSERT INTO t(body) VALUES('the first change');")?;
    replica.push()?;
    for (file, _) in &connected {
        pull_in_library(file)?;
    }
    let idle = scene.clones(&remote, "idle", stage.rounds * 2 + 1)?;
    let before = scene.image(&db, "before.img")?;
    app.script(&script)?;

    let old = objects(&remote)?;
    let start = Instant::now();
    let pushed = replica.push()?.pushed.ok_or("nothing was pushed")?;
    let push_time = start.elapsed();
    let shipped = new_objects(&old, &objects(&remote)?);
    let after = scene.image(&db, "after.img")?;
    app.close()?;
    let pages = changed_pages(&before, &after)?;
    report.row(bytes_row(workload, &shipped, &pages)?)?;
    report.row(Row {
        workload: workload.name,
        figure: format!("push (library), {} pages", pushed.pages),
        target: String::new(),
        measured: ms(push_time),
        peer: String::new(),
        ratio: None,
        met: None,
    })?;
    if let Some(row) = litestream::bytes_row(stage, workload, &pages)? {
        report.row(row)?;
    }
    pulls(stage, workload, &scene, &pages, Replicas { connected, idle }, report)?;
    scene.clear()
}

fn bytes_row(workload: &Workload, shipped: &[(PathBuf, u64)], pages: &[Vec<u8>]) -> Result<Row> {
    let bytes: u64 = shipped.iter().map(|(_, bytes)| bytes).sum();
    let floor = zstd_3(pages)?;
    let ratio = ratio(bytes, floor);
    Ok(Row {
        workload: workload.name,
        figure: format!("bytes shipped by one push, in {} object(s)", shipped.len()),
        target: format!("≤ {SHIPPED_MAX} × pages"),
        measured: size(bytes),
        peer: format!(
            "{} changed pages, `zstd -3`: {}; {}",
            pages.len(),
            size(floor),
            workload.given
        ),
        ratio: Some(ratio),
        met: Some(ratio <= SHIPPED_MAX),
    })
}

/// The pulls of `replicas`: half in the library, half by the program, and the last one counted.
fn pulls(
    stage: &Stage,
    workload: &Workload,
    scene: &Scene,
    pages: &[Vec<u8>],
    replicas: Replicas,
    report: &mut Report,
) -> Result<()> {
    let Replicas { connected, idle } = replicas;
    let (files, apps): (Vec<_>, Vec<_>) = connected.into_iter().unzip();
    for (files, who) in [(&files, "application connected"), (&idle, "nobody connected: a scan")] {
        settle_disk()?;
        let copy = written(scene, stage.rounds, pages)?;
        let library = Series::of(stage.rounds, |n| pull_in_library(&files[n]))?;
        let program = Series::of(stage.rounds, |n| {
            let file = &files[stage.rounds + n];
            child::timed(&stage.program, &[OsStr::new("pull"), file.as_os_str()])
        })?;
        for (what, series) in [("library", &library), ("program", &program)] {
            let time = series.median();
            report.row(Row {
                workload: workload.name,
                figure: format!("pull ({what}), {who}"),
                target: workload.pull_max.map_or(String::new(), |max| format!("≤ {}", ms(max))),
                measured: series.show(),
                peer: format!("the pages written to a file and synced: {}", copy.show()),
                ratio: Some(time_ratio(time, copy.median())),
                met: workload.pull_max.map(|max| time <= max),
            })?;
        }
    }
    let last = idle.last().ok_or("no replica to count with")?;
    if let Some(row) = syncs_row(stage, workload, scene, last)? {
        report.row(row)?;
    }
    for app in apps {
        app.close()?;
    }
    for file in files.iter().chain(&idle) {
        verify(file)?;
    }
    Ok(())
}

fn pull_in_library(file: &Path) -> Result<Duration> {
    let replica = Replica::open(file, Options::default())?;
    let start = Instant::now();
    let report = replica.pull()?;
    let time = start.elapsed();
    report.pulled.map(|_| time).ok_or_else(|| "nothing was pulled".into())
}

/// The peer of a pull: its pages written into a file and made durable.
fn written(scene: &Scene, rounds: usize, pages: &[Vec<u8>]) -> Result<Series> {
    Series::of(rounds, |n| {
        let path = scene.path(&format!("written{n}"));
        let start = Instant::now();
        let mut file = io::BufWriter::with_capacity(1 << 20, File::create(&path)?);
        for page in pages {
            file.write_all(page)?;
        }
        file.into_inner()?.sync_all()?;
        Ok(start.elapsed())
    })
}

fn syncs_row(
    stage: &Stage,
    workload: &Workload,
    scene: &Scene,
    file: &Path,
) -> Result<Option<Row>> {
    let args = [OsStr::new("pull"), file.as_os_str()];
    let Some(syncs) = child::syncs(&stage.program, &args, &scene.path("strace.log"))? else {
        say("calls of fsync were not counted: strace is not installed")?;
        return Ok(None);
    };
    Ok(Some(Row {
        workload: workload.name,
        figure: "fsync calls of a pull (program)".to_owned(),
        target: format!("≤ {SYNCS_MAX}"),
        measured: format!("{}: {}", syncs.count, syncs.files.join(", ")),
        peer: format!("limit {SYNCS_MAX}"),
        ratio: Some(ratio(syncs.count as u64, SYNCS_MAX as u64)),
        met: Some(syncs.count <= SYNCS_MAX),
    }))
}

/// A fast pull of something else would be worth nothing.
fn verify(file: &Path) -> Result<()> {
    let found = Replica::open(file, Options::default())?.verify()?;
    if found.damaged.is_empty() && found.local.is_empty() && found.remote_consistent {
        return Ok(());
    }
    Err(format!("{} is not what the remote has: {found:?}", file.display()).into())
}
