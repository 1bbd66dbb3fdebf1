//! What all databases of a server share for SQL: limits, and the folder of their files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anabranch_sqlite::FileError;

use crate::config::{Config, SqlLimits};

/// Folders of runs of servers have this name, and something that tells them apart.
const FOLDER: &str = "anabranch-sql-";
/// Held locked by the run that a folder belongs to.
const LOCK: &str = "lock";

/// What all databases of a server share for SQL.
#[derive(Debug)]
pub(crate) struct SqlSettings {
    pub(super) limits: SqlLimits,
    /// The same, as a connection takes them.
    pub(super) session: anabranch_sql::Limits,
    /// Whether a read looks for what other servers appended.
    pub(super) read_fresh: bool,
    pub(super) folder: SqlFolder,
}

impl SqlSettings {
    pub(crate) fn new(config: &Config) -> Self {
        SqlSettings {
            limits: config.sql.clone(),
            session: anabranch_sql::Limits {
                run_time: config.sql.statement,
                result_bytes: config.sql.result,
                ..anabranch_sql::Limits::default()
            },
            read_fresh: config.read_fresh && !config.sole,
            folder: SqlFolder::below(&config.scratch),
        }
    }
}

/// The folder of this run's files: made when the first is, gone with the server. What runs that were
/// killed have left is removed then too.
#[derive(Debug)]
pub(crate) struct SqlFolder {
    below: PathBuf,
    made: Mutex<Option<Made>>,
    files: AtomicU64,
}

#[derive(Debug)]
struct Made {
    folder: tempfile::TempDir,
    /// Unlocked when it is closed.
    _lock: File,
}

impl SqlFolder {
    fn below(folder: &Path) -> Self {
        SqlFolder { below: folder.into(), made: Mutex::default(), files: AtomicU64::new(0) }
    }

    /// Where a new file may be.
    pub(super) fn new_file(&self) -> Result<PathBuf, FileError> {
        let number = self.files.fetch_add(1, Ordering::SeqCst);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = match &*made {
            Some(made) => made.folder.path(),
            None => made.insert(self.make()?).folder.path(),
        };
        Ok(folder.join(format!("{number}.db")))
    }

    fn make(&self) -> Result<Made, FileError> {
        sweep(&self.below);
        let make = || {
            let folder = tempfile::Builder::new().prefix(FOLDER).tempdir_in(&self.below)?;
            let lock = File::create_new(folder.path().join(LOCK))?;
            lock.lock()?;
            Ok(Made { folder, _lock: lock })
        };
        make().map_err(|source| FileError::Io {
            path: self.below.clone(),
            what: "making a folder for replicas in",
            source,
        })
    }
}

/// Removes what runs have left that were killed.
fn sweep(below: &Path) {
    let Ok(entries) = std::fs::read_dir(below) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(FOLDER) {
            continue;
        }
        // A folder without a lock is about to get one.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok()
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(folder = %entry.path().display(), %error, "cannot be removed");
        }
    }
}
