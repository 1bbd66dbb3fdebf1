//! What Litestream ships for the same workload, if its program is named with `--litestream`.
//!
//! It runs beside the application and syncs once a second, as it does by default; its one-shot
//! mode, after the workload, is the closest to one push of ours and is shown beside it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::app::App;
use crate::report::{Row, ratio, size};
use crate::ship::Workload;
use crate::stage::{Scene, Stage, new_objects, objects, zstd_3};

/// Longest wait for a program that runs by its own clock.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that Litestream adds to its replica for `workload`.
pub(crate) fn bytes_row(
    stage: &Stage,
    workload: &Workload,
    pages: &[Vec<u8>],
) -> Result<Option<Row>> {
    let Some(program) = &stage.litestream else { return Ok(None) };
    let beside = shipped(stage, workload, |db, replica, work| {
        let mut child = Beside::start(program, db, replica)?;
        // The first copy of the whole database is not what is compared.
        child.wait_until_quiet(replica, &objects(replica)?)?;
        let before = objects(replica)?;
        work()?;
        child.wait_until_quiet(replica, &before)?;
        child.stop()?;
        Ok(new_objects(&before, &objects(replica)?).iter().map(|(_, bytes)| bytes).sum())
    })?;
    let once = shipped(stage, workload, |db, replica, work| {
        sync_once(program, db, replica)?;
        let before = objects(replica)?;
        work()?;
        sync_once(program, db, replica)?;
        Ok(new_objects(&before, &objects(replica)?).iter().map(|(_, bytes)| bytes).sum())
    })?;
    let floor = zstd_3(pages)?;
    Ok(Some(Row {
        workload: workload.name,
        figure: "for comparison: Litestream, this run".to_owned(),
        target: String::new(),
        measured: format!("{} beside the application, {} with `-once`", size(beside), size(once)),
        peer: format!("`zstd -3`: {}", size(floor)),
        ratio: Some(ratio(beside, floor)),
        met: None,
    }))
}

type Work<'a> = &'a mut dyn FnMut() -> Result<()>;

fn shipped(
    stage: &Stage,
    workload: &Workload,
    measure: impl FnOnce(&Path, &Path, Work<'_>) -> Result<u64>,
) -> Result<u64> {
    let scene: Scene = stage.scene(&format!("{}-litestream", workload.name))?;
    let (db, script) = workload.lay_out(stage, &scene, "a.db")?;
    let mut app = App::open(&db)?;
    let bytes = measure(&db, &scene.path("replica"), &mut || app.script(&script).map(|_| ()))?;
    app.close()?;
    scene.clear()?;
    Ok(bytes)
}

fn command(program: &Path, args: &[&str], db: &Path, replica: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("replicate").args(args).arg(db).arg(format!("file://{}", replica.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn sync_once(program: &Path, db: &Path, replica: &Path) -> Result<()> {
    let status = command(program, &["-once"], db, replica).status()?;
    if status.success() { Ok(()) } else { Err(format!("litestream ended with {status}").into()) }
}

/// Litestream running beside the application.
struct Beside(Child);

impl Beside {
    fn start(program: &Path, db: &Path, replica: &Path) -> Result<Self> {
        Ok(Beside(command(program, &[], db, replica).spawn()?))
    }

    /// Waits until the replica has grown beyond `before` and then not for three syncs.
    fn wait_until_quiet(
        &mut self,
        replica: &Path,
        before: &std::collections::BTreeMap<std::path::PathBuf, (u64, std::time::SystemTime)>,
    ) -> Result<()> {
        let start = Instant::now();
        let mut last = before.clone();
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
