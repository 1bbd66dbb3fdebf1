//! One replay of the local changes, on layers.

use std::time::Instant;

use anabranch_rebase::{Changed, Conflict, KeyMap, Layered, LayeredError, Rules, Summary};
use anabranch_sqlite::{ScratchError, SharedOverlay, SharedPages};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::report::{Rebased, TableRebased};
use crate::session::Session;

/// One replay of the local changes.
pub(crate) struct Replay<'a> {
    pub(crate) changed: Changed,
    /// What it is replayed on.
    pub(crate) remote: SharedPages,
    /// Lies on that; becomes the result.
    pub(crate) result: &'a SharedOverlay,
    pub(crate) rules: &'a Rules,
    /// Until when it must be done.
    pub(crate) deadline: Option<Instant>,
}

impl Replay<'_> {
    /// Replays the local changes, telling `journal` of each conflict. `keys`: what earlier replays of the
    /// same file gave new keys; what this one does is added.
    pub(crate) fn run(
        self,
        session: &Session,
        keys: &mut KeyMap,
        journal: &mut dyn FnMut(Conflict) -> Result<(), Error>,
    ) -> Result<Summary, Error> {
        let states = Layered::open(self.changed, self.remote, self.result)
            .map_err(|e| of_scratch(session, e))?;
        let watch = |deadline| Deadline::watch(deadline, states.interrupts());
        let _watch = self.deadline.map(watch).transpose()?;
        let done =
            states.rebase(self.rules, keys, &mut |conflict| journal(conflict).map_err(Into::into));
        done.map_err(|e| {
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Error::TooLong { path: session.db.clone(), waited: session.patience() };
            }
            match e {
                LayeredError::Rebase(e) => {
                    Error::from_rebase(&session.db, self.rules.take_schema, e)
                }
                LayeredError::Pages(failure) => of_scratch(session, failure.into()),
            }
        })
    }
}

pub(crate) fn of_scratch(session: &Session, source: ScratchError) -> Error {
    Error::Layers { path: session.db.clone(), source: Box::new(source) }
}

/// What is told of a replay.
pub(crate) fn report(summary: &Summary) -> Rebased {
    let tables = summary.tables.iter().map(|(table, done)| TableRebased {
        table: table.clone(),
        inserted: done.inserted,
        updated: done.updated,
        deleted: done.deleted,
        conflicts: done.conflicts,
        renumbered: done.renumbered,
    });
    let tables: Vec<_> = tables.collect();
    let conflicts = tables.iter().map(|table| table.conflicts + table.renumbered).sum();
    Rebased { tables, schema: summary.objects as u64, conflicts }
}
