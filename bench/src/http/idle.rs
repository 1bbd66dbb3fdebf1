//! W5: a sync with nothing to do.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use anabranch::Options;
use anabranch::blocking::Replica;

use super::server::Server;
use crate::Result;
use crate::app::App;
use crate::child;
use crate::report::{Report, Row, Series, ms};
use crate::ship::workload;
use crate::stage::Stage;

const LIBRARY_MAX: Duration = Duration::from_micros(500);
const PROGRAM_MAX: Duration = Duration::from_millis(5);
const TIMES: usize = 200;

pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let scene = stage.scene("http-W5")?;
    let server = Server::start(&stage.program, &scene.path("data"))?;
    let (db, _) = workload("W4")?.lay_out(stage, &scene, "a.db")?;
    let url = server.url("db");
    let (replica, _) = Replica::init(&db, OsStr::new(&url), Options::default())?;
    let mut app = App::open(&db)?;
    // From here on the -wal tells that nothing was written since.
    app.run("INSERT INTO t(body) VALUES('the first change');")?;
    replica.sync()?;
    let held = replica.hold()?;
    held.sync()?;
    let asked = server.requests()?;
    let library = Series::of(TIMES, |_| {
        let start = Instant::now();
        held.sync()?;
        Ok(start.elapsed())
    })?;
    let requests = server.requests()? - asked;
    let program = Series::of(TIMES / 4, |_| {
        child::timed(&stage.program, &[OsStr::new("sync"), db.as_os_str()])
    })?;
    app.close()?;
    let limits =
        [("library, held open", &library, LIBRARY_MAX), ("program", &program, PROGRAM_MAX)];
    for (who, series, most) in limits {
        report.row(Row {
            workload: "W5",
            figure: format!("HTTP: a sync with nothing to do ({who}), application connected"),
            target: format!("≤ {}", ms(most)),
            measured: series.show(),
            peer: format!("{requests} requests for {TIMES} syncs"),
            ratio: None,
            met: Some(series.median() <= most && requests == TIMES as u64),
        })?;
    }
    drop(server);
    scene.clear()
}
