//! What a long-lived program keeps open between the operations on one replica: a watcher on the file,
//! and the way to its remote.
//!
//! Nothing that is kept is trusted more than what an operation reads anew under its lock: the sidecar
//! may have been changed by another program in between. What the watcher saw counts only if the
//! sidecar still says what this program left in it ([`Stamp`]); the remote is used only if the
//! sidecar still names it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anabranch_format::WriterId;
use anabranch_sqlite::{FileError, FileIdentity, Mark, PageSet, Watcher, WatcherCounts};
use anabranch_store::Anchor;

use crate::remote::Remote;
use crate::sidecar::beside;
use crate::state::State;

/// What is kept.
pub(crate) struct Keep {
    watched: Mutex<Watched>,
    remote: Mutex<Option<(State, Arc<dyn Remote>)>>,
    /// The sidecar as the last sync that succeeded left it.
    sidecar: Mutex<Option<Written>>,
}

/// How files were last written.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    sidecar: PathBuf,
    /// Of the sidecar and of its `-wal`: length and time of the last write.
    files: [Option<(u64, SystemTime)>; 2],
}

impl Written {
    fn of(sidecar: &Path) -> Self {
        let look = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        let files = [look(sidecar), look(&beside(sidecar, "-wal"))];
        Written { sidecar: sidecar.to_owned(), files }
    }
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keep").finish_non_exhaustive()
    }
}

struct Watched {
    watcher: Watcher,
    /// What the sidecar said when the watcher was last told of the base.
    stamp: Option<Stamp>,
    /// Another file lies at the path: the sync that is due will refuse it.
    replaced: bool,
}

/// What tells that nobody else has moved the base.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    replica: WriterId,
    seed: u64,
    base: Anchor,
    mark: Option<Mark>,
}

impl Stamp {
    fn of(state: &State) -> Self {
        Stamp {
            replica: state.replica.clone(),
            seed: state.seed,
            base: state.base.anchor.clone(),
            mark: state.mark,
        }
    }
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Another number than before if something was written.
    pub(crate) version: u64,
    /// Nothing was written since the file was known to be as its base.
    pub(crate) in_step: bool,
}

impl Keep {
    pub(crate) fn new(watcher: Watcher) -> Self {
        let watched = Watched { watcher, stamp: None, replaced: false };
        Keep { watched: Mutex::new(watched), remote: Mutex::new(None), sidecar: Mutex::new(None) }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            // Whoever panicked left it in the middle of something.
            self.watched.clear_poison();
            let mut watched = poisoned.into_inner();
            watched.watcher.distrust();
            watched
        })
    }

    /// Looks at what was written to the file.
    pub(crate) fn look(&self) -> Result<Seen, FileError> {
        let mut watched = self.watched();
        watched.replaced = !watched.watcher.identity().is_at(watched.watcher.path());
        watched.watcher.look()?;
        Ok(watched.seen())
    }

    /// What the last look found.
    pub(crate) fn seen(&self) -> Seen {
        self.watched().seen()
    }

    /// What the watcher did so far.
    pub(crate) fn counts(&self) -> WatcherCounts {
        self.watched().watcher.counts()
    }

    /// An operation begins, on the file that `file` tells, with `state` in the sidecar. Answers
    /// whether that is the file that is watched.
    pub(crate) fn begin(&self, file: &FileIdentity, state: &State) -> bool {
        let mut watched = self.watched();
        watched.watcher.announce();
        if watched.stamp != Some(Stamp::of(state)) {
            watched.watcher.distrust();
        }
        watched.watcher.identity().same_file(file)
    }

    /// The pages that may differ from the base in a view of the operation that began last; `None` if
    /// that must be found out otherwise.
    pub(crate) fn candidates(&self) -> Option<PageSet> {
        let mut watched = self.watched();
        watched.watcher.candidates().unwrap_or_else(|error| {
            tracing::debug!(%error, "looking at the file failed");
            None
        })
    }

    /// The pages that differ from the base of `state` in a view that ends at `mark` were found out.
    pub(crate) fn captured(&self, changed: PageSet, mark: Option<&Mark>, state: &State) {
        self.tell(state, |watcher| watcher.captured(changed, mark));
    }

    /// The base has become another one, and what was written since the file was like that may not
    /// have been seen.
    pub(crate) fn distrust(&self) {
        self.watched().watcher.distrust();
    }

    /// The base is that of `state` now, which the file was at its mark: a state that the operation
    /// that began last has seen.
    pub(crate) fn settled(&self, state: &State) {
        self.tell(state, |watcher| watcher.settled(state.mark.as_ref()));
    }

    fn tell(&self, state: &State, what: impl FnOnce(&mut Watcher) -> Result<(), FileError>) {
        let mut watched = self.watched();
        watched.stamp = Some(Stamp::of(state));
        if let Err(error) = what(&mut watched.watcher) {
            tracing::debug!(%error, "looking at the file failed");
        }
    }

    /// The remote that `state` names, if it is the one that was kept.
    pub(crate) fn remote_of(&self, state: &State) -> Option<Arc<dyn Remote>> {
        let kept = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |of: &State| {
            (&of.remote, &of.name, &of.database, of.dialect)
                == (&state.remote, &state.name, &state.database, state.dialect)
        };
        kept.as_ref().filter(|(of, _)| same(of)).map(|(_, remote)| Arc::clone(remote))
    }

    /// The remote that is kept, and the end of its log as far as the replica knows it.
    pub(crate) fn known(&self) -> Option<(Arc<dyn Remote>, Anchor)> {
        let base = self.watched().stamp.as_ref()?.base.clone();
        let kept = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map(|(_, remote)| (Arc::clone(remote), base))
    }

    /// A sync is through that left the sidecar at `path` as it is now; its lock is still held.
    pub(crate) fn synced(&self, path: &Path) {
        let written = Written::of(path);
        *self.sidecar.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
    }

    /// The remote, and the end of its log that the file is in step with, if nobody has written the
    /// file or the sidecar since the last sync that succeeded. Looks at both.
    pub(crate) fn unwritten(&self) -> Option<(Arc<dyn Remote>, Anchor)> {
        if !self.look().is_ok_and(|seen| seen.in_step) {
            return None;
        }
        let kept = self.sidecar.lock().unwrap_or_else(PoisonError::into_inner);
        let unwritten = kept.as_ref().is_some_and(|kept| Written::of(&kept.sidecar) == *kept);
        drop(kept);
        if unwritten { self.known() } else { None }
    }

    /// Keeps the remote that `state` names; `None`: the next operation connects anew.
    pub(crate) fn keep_remote(&self, remote: Option<(&State, &Arc<dyn Remote>)>) {
        let mut kept = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = remote.map(|(state, remote)| (state.clone(), Arc::clone(remote)));
    }
}

impl Watched {
    fn seen(&self) -> Seen {
        let version = self.watcher.counts().written + u64::from(self.replaced);
        Seen { version, in_step: self.watcher.is_in_step() && !self.replaced }
    }
}
