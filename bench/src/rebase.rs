//! Rebase: 1,000 rows changed here over 1,000 changed at the remote, in databases of two sizes; beside
//! it the pull of as many rows into a file that nobody else wrote. The application stays connected.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anabranch::Options;
use anabranch::blocking::Replica;

use crate::Result;
use crate::app::App;
use crate::child;
use crate::clone::{GIGABYTE, ROW};
use crate::report::{Report, Row, Series, ms, ratio, size, time_ratio};
use crate::stage::{Stage, length, settle_disk};
use crate::words::Words;

const CHANGES: usize = 1000;
const MEMORY_MAX: u64 = 128 << 20;

pub(crate) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let half_a_second = Duration::from_millis(500);
    for (bytes, row, limit) in
        [(100_000_000, 150, half_a_second), (GIGABYTE, ROW, Duration::from_secs(2))]
    {
        of_size(stage, bytes, row, limit, report)?;
    }
    Ok(())
}

fn of_size(
    stage: &Stage,
    bytes: u64,
    row: usize,
    limit: Duration,
    report: &mut Report,
) -> Result<()> {
    let (prepared, rows) = stage.prepared(bytes, row)?;
    let scene = stage.scene("rebase")?;
    let db = scene.database("a.db", Some(&prepared))?;
    let (there, remote) = scene.publish(&db, "remote")?;
    let clones = scene.clones(&remote, "b", 1)?;
    let second = clones.first().ok_or("no clone")?;
    let here = Replica::open(second, Options::default())?;
    let mut apps = [App::open(&db)?, App::open(second)?];
    let mut rows = Rows { words: Words::new(41), rows, row };
    settle_disk()?;
    let plain = Series::of(stage.rounds, |_| {
        rows.change(&mut apps[0])?;
        there.sync()?;
        let start = Instant::now();
        here.sync()?;
        Ok(start.elapsed())
    })?;
    let mut both = |apps: &mut [App; 2]| -> Result<()> {
        there.sync()?;
        for app in apps {
            rows.change(app)?;
        }
        there.sync()?;
        Ok(())
    };
    let rebased = Series::of(stage.rounds, |_| {
        both(&mut apps)?;
        let start = Instant::now();
        here.sync()?;
        Ok(start.elapsed())
    })?;
    both(&mut apps)?;
    let memory = peak(stage, second)?;
    report.row(Row {
        workload: "rebase",
        figure: format!(
            "sync of {CHANGES} rows changed here over {CHANGES} of the remote's, {} (library)",
            size(length(second))
        ),
        target: format!("< {}", ms(limit)),
        measured: rebased.show(),
        peer: format!("pull of {CHANGES} rows, none changed here: {}", plain.show()),
        ratio: Some(time_ratio(rebased.median(), plain.median())),
        met: Some(rebased.median() < limit),
    })?;
    report.row(Row {
        workload: "rebase",
        figure: format!("peak memory (VmHWM) of that, {} (program)", size(length(second))),
        target: "< 128 MiB".to_owned(),
        measured: format!("{}; {}", size(memory.peak_bytes), ms(memory.wall)),
        peer: format!("limit {}", size(MEMORY_MAX)),
        ratio: Some(ratio(memory.peak_bytes, MEMORY_MAX)),
        met: Some(memory.peak_bytes < MEMORY_MAX),
    })?;
    for app in apps {
        app.close()?;
    }
    scene.clear()
}

fn peak(stage: &Stage, file: &Path) -> Result<child::Cost> {
    child::watched(&stage.program, &[OsStr::new("sync"), file.as_os_str()])
}

/// Changes rows at random places.
struct Rows {
    words: Words,
    rows: u64,
    row: usize,
}

impl Rows {
    fn change(&mut self, app: &mut App) -> Result<()> {
        let (words, rows, row) = (&mut self.words, self.rows, self.row);
        app.feed(|out| {
            writeln!(out, "BEGIN IMMEDIATE;")?;
            for _ in 0..CHANGES {
                let id = 1 + words.below(rows);
                let body = words.json(row);
                writeln!(out, "UPDATE t SET body='{body}' WHERE id={id};")?;
            }
            writeln!(out, "COMMIT;")
        })?;
        Ok(())
    }
}
