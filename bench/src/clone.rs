//! W3: a clone of a 1 GB database from a folder, beside `cp` and fsync of the same file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Result;
use crate::child;
use crate::report::{Report, Row, Series, ms, ratio, say, size, time_ratio};
use crate::stage::{Stage, length, remove_replica, settle_disk};

/// The 1 GB database of W3 and W7.
pub(crate) const GIGABYTE: u64 = 1_000_000_000;
/// Bytes of its rows.
pub(crate) const ROW: usize = 400;

pub(crate) const SLOWER_MAX: f64 = 2.0;
pub(crate) const MEMORY_MAX: u64 = 32 << 20;
/// What the base map takes for a page.
pub(crate) const BASE_ENTRY: u64 = 16;

/// Rounds at most: each writes 2 GB.
pub(crate) const ROUNDS_MAX: usize = 5;

pub(crate) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let (prepared, _) = stage.prepared(GIGABYTE, ROW)?;
    let scene = stage.scene("W3")?;
    let db = scene.database("a.db", Some(&prepared))?;
    settle_disk()?;
    let start = Instant::now();
    let (_, remote) = scene.publish(&db, "remote")?;
    say(&format!("W3: published {} in {}", size(length(&db)), ms(start.elapsed())))?;
    // In turns, so that a slow spell of the disk meets both.
    let (mut copies, mut clones, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..stage.rounds.min(ROUNDS_MAX) {
        settle_disk()?;
        copies.push(copy(&db, &scene.path("copy.db"))?);
        settle_disk()?;
        let file = scene.path("clone.db");
        let args = [OsStr::new("clone"), remote.as_os_str(), file.as_os_str()];
        let cost = child::watched(&stage.program, &args)?;
        clones.push(cost.wall);
        peak = peak.max(cost.peak_bytes);
        remove_replica(&file);
    }
    let (copies, clones) = (Series::from(copies), Series::from(clones));
    let slower = time_ratio(clones.median(), copies.median());
    report.row(Row {
        workload: "W3",
        figure: format!("clone of {} from a folder (program)", size(length(&db))),
        target: format!("≤ {SLOWER_MAX} × cp"),
        measured: clones.show(),
        peer: format!("`cp` + fsync: {}", copies.show()),
        ratio: Some(slower),
        met: Some(slower <= SLOWER_MAX),
    })?;
    let limit = MEMORY_MAX + length(&db) / 4096 * BASE_ENTRY;
    report.row(Row {
        workload: "W3",
        figure: "peak memory of that clone (VmHWM)".to_owned(),
        target: "< 32 MiB + base map".to_owned(),
        measured: size(peak),
        peer: format!("limit {}", size(limit)),
        ratio: Some(ratio(peak, limit)),
        met: Some(peak < limit),
    })?;
    scene.clear()
}

/// Copies as `cp` does, and makes the copy durable.
fn copy(from: &Path, to: &Path) -> Result<Duration> {
    let start = Instant::now();
    let status = Command::new("cp").arg("--reflink=never").arg(from).arg(to).status()?;
    if !status.success() {
        return Err(format!("cp ended with {status}").into());
    }
    File::open(to)?.sync_all()?;
    let time = start.elapsed();
    fs::remove_file(to)?;
    Ok(time)
}
