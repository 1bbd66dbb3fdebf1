//! What Litestream ships for the same workload, if its program is named with `--litestream`.
//!
//! It runs beside the application and syncs once a second, as it does by default. Only what it puts
//! on its level 0, the changes themselves, is counted: not its snapshots, nor what it compacts.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::app::App;
use crate::report::{Row, ratio, size};
use crate::ship::Workload;
use crate::stage::{Stage, new_objects, objects, zstd_3};

/// Longest wait for a program that runs by its own clock.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that Litestream adds to its replica for `workload`.
pub(crate) fn bytes_row(
    stage: &Stage,
    workload: &Workload,
    pages: &[Vec<u8>],
) -> Result<Option<Row>> {
    let Some(program) = &stage.litestream else { return Ok(None) };
    let bytes = shipped(stage, workload, program)?;
    let floor = zstd_3(pages)?;
    Ok(Some(Row {
        workload: workload.name,
        figure: "for comparison: shipped by Litestream in this run, syncing once a second"
            .to_owned(),
        target: String::new(),
        measured: size(bytes),
        peer: format!("`zstd -3`: {}", size(floor)),
        ratio: Some(ratio(bytes, floor)),
        met: None,
    }))
}

fn shipped(stage: &Stage, workload: &Workload, program: &Path) -> Result<u64> {
    let scene = stage.scene(&format!("{}-litestream", workload.name))?;
    let (db, script) = workload.lay_out(stage, &scene, "a.db")?;
    let replica = scene.path("replica");
    let mut app = App::open(&db)?;
    let mut beside = Beside::start(program, &db, &replica)?;
    // The first copy of the whole database is not what is compared.
    beside.wait_until_quiet(&replica)?;
    let before = objects(&replica)?;
    app.script(&script)?;
    beside.wait_until_quiet(&replica)?;
    beside.stop()?;
    let new = new_objects(&before, &objects(&replica)?);
    app.close()?;
    scene.clear()?;
    let changes =
        new.iter().filter(|(path, _)| path.parent().is_some_and(|p| p.ends_with("ltx/0")));
    Ok(changes.map(|(_, bytes)| bytes).sum())
}

/// Litestream running beside the application.
struct Beside(Child);

impl Beside {
    fn start(program: &Path, db: &Path, replica: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("replicate").arg(db).arg(format!("file://{}", replica.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Beside(command.spawn()?))
    }

    /// Waits until nothing was added to the replica for three syncs.
    fn wait_until_quiet(&mut self, replica: &Path) -> Result<()> {
        let start = Instant::now();
        let mut last = objects(replica)?;
        while start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_secs(3));
            if let Some(status) = self.0.try_wait()? {
                return Err(format!("litestream ended with {status}").into());
            }
            let now = objects(replica)?;
            if now == last && !now.is_empty() {
                return Ok(());
            }
            last = now;
        }
        Err("litestream does not come to rest".into())
    }

    fn stop(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Only after an error elsewhere; that one is reported.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
