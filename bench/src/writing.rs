//! The application's own writing: W1 and W4 with a replica that syncs once a second, beside plain
//! SQLite; and the length of the `-wal` afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch::blocking::Replica;

use crate::Result;
use crate::app::App;
use crate::report::{Report, Row, Series, ratio, size, time_ratio};
use crate::ship::{Workload, workload};
use crate::stage::{Stage, length, settle_disk, with_suffix};

const SLOWER_MAX: f64 = 1.05;
const EVERY: Duration = Duration::from_secs(1);

/// One run of the application.
struct Run {
    time: Duration,
    wal: u64,
    syncs: usize,
}

pub(crate) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    for name in ["W1", "W4"] {
        let workload = workload(name)?;
        let (mut plain, mut synced) = (Vec::new(), Vec::new());
        // In turns, so that a slow spell of the disk meets both.
        for _ in 0..stage.rounds {
            plain.push(run(stage, workload, false)?);
            synced.push(run(stage, workload, true)?);
        }
        rows(workload, &plain, &synced, report)?;
    }
    Ok(())
}

fn run(stage: &Stage, workload: &Workload, with_replica: bool) -> Result<Run> {
    let scene = stage.scene("writing")?;
    let (db, script) = workload.lay_out(stage, &scene, "a.db")?;
    let replica = match with_replica {
        true => Some(scene.publish(&db, "remote")?.0),
        false => None,
    };
    settle_disk()?;
    let mut app = App::open(&db)?;
    let (time, syncs) = match replica {
        Some(replica) => beside(&replica, || app.script(&script))?,
        None => (app.script(&script)?, 0),
    };
    let wal = length(&with_suffix(&db, "-wal"));
    app.close()?;
    scene.clear()?;
    Ok(Run { time, wal, syncs })
}

/// Runs `work` while another thread syncs once a second, and once more after it.
fn beside(replica: &Replica, work: impl FnOnce() -> Result<Duration>) -> Result<(Duration, usize)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| {
            let mut syncs = 0;
            let mut next = Instant::now();
            while !over.load(Ordering::Acquire) {
                replica.sync().map_err(|e| e.to_string())?;
                syncs += 1;
                next += EVERY;
                std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
            }
            replica.sync().map_err(|e| e.to_string())?;
            Ok::<_, String>(syncs + 1)
        });
        let time = work();
        over.store(true, Ordering::Release);
        syncing.thread().unpark();
        let syncs = syncing.join().map_err(|_| "the thread that syncs panicked")??;
        Ok((time?, syncs))
    })
}

fn rows(workload: &Workload, plain: &[Run], synced: &[Run], report: &mut Report) -> Result<()> {
    let times = |runs: &[Run]| Series::from(runs.iter().map(|r| r.time).collect::<Vec<_>>());
    let wal = |runs: &[Run]| runs.iter().map(|r| r.wal).max().unwrap_or(0);
    let (alone, beside) = (times(plain), times(synced));
    let slower = time_ratio(beside.median(), alone.median());
    let syncs = synced.iter().map(|r| r.syncs).max().unwrap_or(0);
    report.row(Row {
        workload: workload.name,
        figure: format!("application's time, a replica syncing once a second ({syncs} syncs)"),
        target: format!("≤ {SLOWER_MAX} × plain"),
        measured: beside.show(),
        peer: format!("plain SQLite: {}", alone.show()),
        ratio: Some(slower),
        met: Some(slower <= SLOWER_MAX),
    })?;
    let (grown, usual) = (wal(synced), wal(plain));
    report.row(Row {
        workload: workload.name,
        figure: "longest -wal after that".to_owned(),
        target: "≤ plain".to_owned(),
        measured: size(grown),
        peer: format!("plain SQLite: {}", size(usual)),
        ratio: Some(ratio(grown, usual)),
        met: Some(grown <= usual),
    })
}
