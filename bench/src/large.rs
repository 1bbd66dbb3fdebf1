//! A transaction of 500 MB: peak memory of the push and of the pull.

use std::ffi::OsStr;
use std::path::Path;

use crate::Result;
use crate::app::App;
use crate::child;
use crate::report::{Report, Row, ms, ratio, size};
use crate::stage::{Stage, length, settle_disk};
use crate::words::Words;

const BYTES: u64 = 500_000_000;
const ROW: usize = 1000;
const MEMORY_MAX: u64 = 128 << 20;

pub(crate) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let scene = stage.scene("large")?;
    let db = scene.database("a.db", None)?;
    let (_, remote) = scene.publish(&db, "remote")?;
    let clones = scene.clones(&remote, "b", 1)?;
    let second = clones.first().ok_or("no clone")?;
    let mut app = App::open(&db)?;
    let mut words = Words::new(500);
    app.feed(|out| {
        writeln!(out, "BEGIN;")?;
        for _ in 0..BYTES / ROW as u64 {
            writeln!(out, "INSERT INTO t(body) VALUES('{}');", words.json(ROW))?;
        }
        writeln!(out, "COMMIT;")
    })?;
    settle_disk()?;
    row(stage, "push", &db, report)?;
    app.close()?;
    settle_disk()?;
    row(stage, "pull", second, report)?;
    scene.clear()
}

fn row(stage: &Stage, command: &str, file: &Path, report: &mut Report) -> Result<()> {
    let cost = child::watched(&stage.program, &[OsStr::new(command), file.as_os_str()])?;
    report.row(Row {
        workload: "large",
        figure: format!(
            "peak memory (VmHWM) of the {command} of a transaction of 500 MB (program)"
        ),
        target: "< 128 MiB".to_owned(),
        measured: format!(
            "{}; {} for {}",
            size(cost.peak_bytes),
            ms(cost.wall),
            size(length(file))
        ),
        peer: format!("limit {}", size(MEMORY_MAX)),
        ratio: Some(ratio(cost.peak_bytes, MEMORY_MAX)),
        met: Some(cost.peak_bytes < MEMORY_MAX),
    })
}
