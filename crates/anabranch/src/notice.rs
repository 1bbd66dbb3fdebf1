//! File notification of the operating system, reduced to "something was written here".
//!
//! Events are merged: who looks after each notice misses nothing, however many there were. A notice
//! is a hint, never a proof: file systems on other machines send none, and queues overflow. Opening
//! and reading files are no events here, so that a look at what was written is no new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Notices of writes at one place, until it is dropped.
pub(crate) struct Notice {
    _watcher: RecommendedWatcher,
    noticed: Arc<Notify>,
}

impl Notice {
    /// Of everything below `directory`; `None` where the system has no such thing (or no more).
    pub(crate) fn of_tree(directory: &Path) -> Option<Self> {
        Self::start(directory, RecursiveMode::Recursive, |_| true)
    }

    /// Of the files `names`, all in `directory`, whether they are there yet or not.
    pub(crate) fn of_files(directory: &Path, files: Vec<PathBuf>) -> Option<Self> {
        let names: Vec<_> =
            files.iter().filter_map(|file| file.file_name().map(ToOwned::to_owned)).collect();
        Self::start(directory, RecursiveMode::NonRecursive, move |path| {
            path.file_name().is_some_and(|name| names.iter().any(|n| n == name))
        })
    }

    fn start(
        directory: &Path,
        mode: RecursiveMode,
        wanted: impl Fn(&Path) -> bool + Send + 'static,
    ) -> Option<Self> {
        let noticed = Arc::new(Notify::new());
        let told = Arc::clone(&noticed);
        let started = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if tells(&event, &wanted) {
                told.notify_one();
            }
        })
        .and_then(|mut watcher| watcher.watch(directory, mode).map(|()| watcher));
        match started {
            Ok(watcher) => Some(Notice { _watcher: watcher, noticed }),
            Err(error) => {
                tracing::debug!(path = %directory.display(), %error, "no file notification");
                None
            }
        }
    }

    /// Returns at the next write, or at once if there was one since the last time.
    pub(crate) async fn noticed(&self) {
        self.noticed.notified().await;
    }
}

/// Whether an event may be a write to something that is wanted.
fn tells(event: &notify::Result<notify::Event>, wanted: &dyn Fn(&Path) -> bool) -> bool {
    match event {
        Ok(event) if event.need_rescan() => true,
        Ok(event) => is_write(event.kind) && event.paths.iter().any(|path| wanted(path)),
        // An error, such as a queue that overflowed, may hide anything.
        Err(_) => true,
    }
}

fn is_write(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Far longer than any notification takes.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn writes_to_what_is_wanted_are_told_and_looks_are_not() {
        let wanted = |path: &Path| path.ends_with("app.db-wal");
        let event = |kind, path: &str| Ok(notify::Event::new(kind).add_path(path.into()));
        let write = EventKind::Modify(notify::event::ModifyKind::Any);
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let closed = |mode| EventKind::Access(AccessKind::Close(mode));
        assert!(tells(&event(write, "/d/app.db-wal"), &wanted));
        assert!(tells(&event(closed(AccessMode::Write), "/d/app.db-wal"), &wanted));
        assert!(!tells(&event(closed(AccessMode::Read), "/d/app.db-wal"), &wanted));
        assert!(!tells(&event(open, "/d/app.db-wal"), &wanted));
        assert!(!tells(&event(write, "/d/app.db-shm"), &wanted));
        assert!(tells(&Err(notify::Error::generic("the queue overflowed")), &wanted));
    }

    #[tokio::test]
    async fn a_file_is_noticed_whether_or_not_it_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.db-wal");
        let notice = Notice::of_files(dir.path(), vec![file.clone()]).unwrap();
        for text in ["x", "y"] {
            std::fs::write(&file, text).unwrap();
            tokio::time::timeout(LONG, notice.noticed()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_written_in_a_directory_made_later_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with("log"));
        let notice = Notice::start(dir.path(), RecursiveMode::Recursive, wanted).unwrap();
        let shard = dir.path().join("log");
        std::fs::create_dir(&shard).unwrap();
        // What is written before the new directory is watched as well goes unnoticed.
        let writing = async {
            for n in 0_u32.. {
                std::fs::write(shard.join(n.to_string()), "x").unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = notice.noticed() => {}
            () = writing => {}
            () = tokio::time::sleep(LONG) => panic!("nothing was noticed"),
        }
    }
}
