//! One operation at a time on one replica, whichever process it runs in.
//!
//! The lock is an OS lock on a file of its own beside the database. It is never taken on the
//! database or its sidecar: closing a descriptor of either would drop SQLite's own locks.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sidecar::lock_path_for;

/// How often a taken lock is tried again.
const POLL: Duration = Duration::from_millis(20);

/// Held for the length of an operation; released when dropped, and by the OS when the process dies.
#[derive(Debug)]
pub(crate) struct ReplicaLock {
    _file: File,
}

impl ReplicaLock {
    /// Takes the lock of the database at `db` (resolved), waiting up to `wait` for another operation.
    pub(crate) fn take(db: &Path, wait: Duration) -> Result<Self, Error> {
        let path = lock_path_for(db);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| Error::Io { what: "creating", path: path.clone(), source })?;
        let deadline = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(ReplicaLock { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: db.to_owned() }),
                Err(TryLockError::Error(source)) => {
                    return Err(Error::Io { what: "locking", path, source });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("app.db");
        let held = ReplicaLock::take(&db, Duration::ZERO).unwrap();
        assert!(matches!(ReplicaLock::take(&db, Duration::ZERO), Err(Error::Locked { .. })));
        drop(held);
        ReplicaLock::take(&db, Duration::ZERO).unwrap();
    }
}
