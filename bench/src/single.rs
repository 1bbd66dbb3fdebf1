//! W7: one row changed, in databases of three sizes; with the chain of the WAL intact, since the
//! application stays connected, and broken, since it closed the database.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anabranch::blocking::Replica;

use crate::Result;
use crate::app::App;
use crate::child;
use crate::clone::{GIGABYTE, ROW};
use crate::report::{Report, Row, Series, ms, size, time_ratio};
use crate::stage::{Stage, length, read_through};
use crate::words::Words;

const PUSH_MAX: Duration = Duration::from_millis(20);
const SCAN_MIN: f64 = 0.7;

pub(crate) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    for (bytes, row) in [(10_000_000, 150), (100_000_000, 150), (GIGABYTE, ROW)] {
        let (prepared, rows) = stage.prepared(bytes, row)?;
        let scene = stage.scene("W7")?;
        let db = scene.database("a.db", Some(&prepared))?;
        let (replica, _) = scene.publish(&db, "remote")?;
        let mut one = OneRow { words: Words::new(7), rows, row };
        intact(stage, &db, &replica, &mut one, report)?;
        broken(stage, &db, &replica, &mut one, report)?;
        scene.clear()?;
    }
    Ok(())
}

/// Changes one row after the other.
struct OneRow {
    words: Words,
    rows: u64,
    row: usize,
}

impl OneRow {
    fn change(&mut self, app: &mut App) -> Result<()> {
        let id = 1 + self.words.below(self.rows);
        let body = self.words.json(self.row);
        app.run(&format!("UPDATE t SET body='{body}' WHERE id={id};"))?;
        Ok(())
    }
}

fn push(replica: &Replica) -> Result<Duration> {
    let start = Instant::now();
    let report = replica.push()?;
    let time = start.elapsed();
    report.pushed.map(|_| time).ok_or_else(|| "nothing was pushed".into())
}

fn intact(
    stage: &Stage,
    db: &Path,
    replica: &Replica,
    one: &mut OneRow,
    report: &mut Report,
) -> Result<()> {
    let mut app = App::open(db)?;
    // The first push finds no mark in the WAL: the chain begins with it.
    one.change(&mut app)?;
    push(replica)?;
    let library = Series::of(stage.rounds * 3, |_| {
        one.change(&mut app)?;
        push(replica)
    })?;
    let program = Series::of(stage.rounds, |_| {
        one.change(&mut app)?;
        child::timed(&stage.program, &[OsStr::new("push"), db.as_os_str()])
    })?;
    app.close()?;
    for (what, series) in [("library", &library), ("program", &program)] {
        report.row(Row {
            workload: "W7",
            figure: format!("one row of {}, chain intact: push ({what})", size(length(db))),
            target: format!("< {}", ms(PUSH_MAX)),
            measured: series.show(),
            peer: format!("limit {}", ms(PUSH_MAX)),
            ratio: Some(time_ratio(series.median(), PUSH_MAX)),
            met: Some(series.median() < PUSH_MAX),
        })?;
    }
    Ok(())
}

fn broken(
    stage: &Stage,
    db: &Path,
    replica: &Replica,
    one: &mut OneRow,
    report: &mut Report,
) -> Result<()> {
    let series = Series::of(stage.rounds, |_| {
        let mut app = App::open(db)?;
        one.change(&mut app)?;
        app.close()?;
        push(replica)
    })?;
    let reading = Series::of(stage.rounds, |_| {
        let start = Instant::now();
        read_through(db)?;
        Ok(start.elapsed())
    })?;
    let speed = speed(length(db), series.median());
    report.row(Row {
        workload: "W7",
        figure: format!(
            "one row of {}, chain broken: push with a scan (library)",
            size(length(db))
        ),
        target: format!("≥ {SCAN_MIN} GB/s"),
        measured: format!("{speed:.2} GB/s: {}", series.show()),
        peer: format!("the file read through once: {}", reading.show()),
        ratio: Some(time_ratio(series.median(), reading.median())),
        // In a small database what every push costs weighs more than the scan.
        met: (length(db) >= GIGABYTE / 2).then_some(speed >= SCAN_MIN),
    })
}

/// In GB/s.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn speed(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e9 / time.as_secs_f64()
}
