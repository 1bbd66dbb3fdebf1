//! A rebase of states that are layers of pages: a connection on each of them.

use anabranch_sqlite::{PageFailure, Scratch, ScratchError, SharedOverlay, SharedPages};
use rusqlite::InterruptHandle;

use crate::candidates::Changed;
use crate::conflict::Conflict;
use crate::error::RebaseError;
use crate::keymap::KeyMap;
use crate::rebase::{BoxError, Sides, Summary, rebase};
use crate::rules::Rules;

/// The states of a rebase, and connections on them.
#[derive(Debug)]
pub struct Layered {
    changed: Changed,
    base: Scratch,
    local: Scratch,
    remote: Scratch,
    onto: Scratch,
}

/// Why a rebase of layers failed.
#[derive(Debug, thiserror::Error)]
pub enum LayeredError {
    /// The pages beneath could not be read or written: that is the reason for whatever SQLite says.
    #[error(transparent)]
    Pages(#[from] PageFailure),
    /// The rebase itself.
    #[error(transparent)]
    Rebase(RebaseError),
}

/// Ends what the connections of a [`Layered`] are at, from another thread.
pub struct Interrupts(Vec<InterruptHandle>);

impl std::fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupts").finish_non_exhaustive()
    }
}

impl Interrupts {
    /// Lets the statements fail that run just now.
    pub fn interrupt(&self) {
        self.0.iter().for_each(InterruptHandle::interrupt);
    }
}

impl Layered {
    /// Base and local state are those of `changed`; `result` lies on `remote`, as yet without pages of its
    /// own.
    pub fn open(
        changed: Changed,
        remote: SharedPages,
        result: &SharedOverlay,
    ) -> Result<Self, ScratchError> {
        Ok(Layered {
            base: Scratch::read_only(changed.before.clone())?,
            local: Scratch::read_only(changed.after.clone())?,
            remote: Scratch::read_only(remote)?,
            onto: Scratch::writable(result)?,
            changed,
        })
    }

    fn all(&self) -> [&Scratch; 4] {
        [&self.onto, &self.remote, &self.local, &self.base]
    }

    /// The local state.
    #[must_use]
    pub fn local(&self) -> &Scratch {
        &self.local
    }

    /// For who limits the time that it takes.
    #[must_use]
    pub fn interrupts(&self) -> Interrupts {
        Interrupts(self.all().map(|conn| conn.get_interrupt_handle()).into())
    }

    /// [Does](rebase) what was done between base and local state once more, on the remote's.
    pub fn rebase(
        &self,
        rules: &Rules,
        keys: &mut KeyMap,
        journal: &mut dyn FnMut(Conflict) -> Result<(), BoxError>,
    ) -> Result<Summary, LayeredError> {
        let sides = Sides {
            base: &self.base,
            local: &self.local,
            remote: &self.remote,
            onto: &self.onto,
            changed: Some(&self.changed),
        };
        rebase(sides, rules, keys, journal).map_err(|e| {
            let failure = self.all().into_iter().find_map(Scratch::take_failure);
            failure.map_or(LayeredError::Rebase(e), LayeredError::Pages)
        })
    }
}
