//! W3 over HTTP: a clone of a 1 GB database, beside `curl` of its export.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use anabranch::Options;
use anabranch::blocking::Replica;

use super::server::{Server, get};
use crate::Result;
use crate::child;
use crate::clone::{BASE_ENTRY, GIGABYTE, MEMORY_MAX, ROUNDS_MAX, ROW, SLOWER_MAX};
use crate::report::{Report, Row, Series, ms, ratio, size, time_ratio};
use crate::stage::{Stage, length, remove_replica, settle_disk};

const CLONE_MAX: Duration = Duration::from_millis(1200);

pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let (prepared, _) = stage.prepared(GIGABYTE, ROW)?;
    let scene = stage.scene("http-W3")?;
    let db = scene.database("a.db", Some(&prepared))?;
    let server = Server::start(&stage.program, &scene.path("data"))?;
    let url = server.url("db");
    Replica::init(&db, OsStr::new(&url), Options::default())?;
    let info = get(server.address, "/db/info")?;
    let digits: String = info.chars().filter(char::is_ascii_digit).collect();
    let export = format!("{url}/export/{digits}");
    let (mut copies, mut clones, mut peak, mut growth) = (Vec::new(), Vec::new(), 0, 0);
    let file = scene.path("clone.db");
    for _ in 0..stage.rounds.min(ROUNDS_MAX) {
        settle_disk()?;
        copies.push(curl(&export, &scene.path("export.db"))?);
        settle_disk()?;
        server.reset_peak()?;
        let before = server.memory()?.0;
        let args = [OsStr::new("clone"), OsStr::new(&url), file.as_os_str()];
        let cost = child::watched(&stage.program, &args)?;
        growth = growth.max(server.memory()?.1.saturating_sub(before));
        clones.push(cost.wall);
        peak = peak.max(cost.peak_bytes);
        remove_replica(&file);
    }
    let (copies, clones) = (Series::from(copies), Series::from(clones));
    let slower = time_ratio(clones.median(), copies.median());
    report.row(Row {
        workload: "W3",
        figure: format!("HTTP: clone of {} (program)", size(length(&db))),
        target: format!("≤ {}, or {SLOWER_MAX} × curl", ms(CLONE_MAX)),
        measured: clones.show(),
        peer: format!("`curl` of the export and fsync: {}", copies.show()),
        ratio: Some(slower),
        met: Some(clones.median() <= CLONE_MAX || slower <= SLOWER_MAX),
    })?;
    let limit = MEMORY_MAX + length(&db) / 4096 * BASE_ENTRY;
    for (figure, found, limit) in [
        ("HTTP: peak memory of that clone (VmHWM)", peak, limit),
        ("HTTP: growth of the server's memory during it", growth, MEMORY_MAX),
    ] {
        report.row(Row {
            workload: "W3",
            figure: figure.to_owned(),
            target: format!("< {}", size(limit)),
            measured: size(found),
            peer: format!("limit {}", size(limit)),
            ratio: Some(ratio(found, limit)),
            met: Some(found < limit),
        })?;
    }
    drop(server);
    scene.clear()
}

fn curl(url: &str, to: &std::path::Path) -> Result<Duration> {
    let start = Instant::now();
    let status = Command::new("curl").args(["-sSf", "-o"]).arg(to).arg(url).status()?;
    if !status.success() {
        return Err(format!("curl ended with {status}").into());
    }
    File::open(to)?.sync_all()?;
    let time = start.elapsed();
    fs::remove_file(to)?;
    Ok(time)
}
