//! One replay of the local changes, on layers.

use std::time::Instant;

use anabranch_rebase::{Conflict, KeyMap, Rules, Sides, Summary};
use anabranch_sqlite::{Scratch, ScratchError, SharedOverlay};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::layers::Layers;
use crate::report::{Rebased, TableRebased};
use crate::session::Session;

/// One replay of the local changes.
pub(crate) struct Replay<'a> {
    pub(crate) layers: &'a Layers,
    pub(crate) remote: &'a SharedOverlay,
    /// Lies on the remote's state; becomes the result.
    pub(crate) result: &'a SharedOverlay,
    pub(crate) rules: &'a Rules,
    /// Until when it must be done.
    pub(crate) deadline: Option<Instant>,
}

impl Replay<'_> {
    /// Replays the local changes, telling `journal` of each conflict.
    pub(crate) fn run(
        &self,
        session: &Session,
        journal: &mut dyn FnMut(Conflict) -> Result<(), Error>,
    ) -> Result<Summary, Error> {
        let failed = |e| of_scratch(session, e);
        let base = Scratch::read_only(self.layers.base.clone()).map_err(failed)?;
        let local = Scratch::read_only(self.layers.local.shared()).map_err(failed)?;
        let remote = Scratch::read_only(self.remote.clone()).map_err(failed)?;
        let onto = Scratch::writable(self.result).map_err(failed)?;
        let all = [&base, &local, &remote, &onto];
        let _watch = self.deadline.map(|deadline| Deadline::watch(deadline, &all)).transpose()?;
        let changed = self.layers.changed();
        let sides = Sides {
            base: &base,
            local: &local,
            remote: &remote,
            onto: &onto,
            changed: Some(&changed),
        };
        let mut keys = KeyMap::default();
        let done = anabranch_rebase::rebase(sides, self.rules, &mut keys, &mut |conflict| {
            journal(conflict).map_err(Into::into)
        });
        done.map_err(|e| {
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Error::TooLong { path: session.db.clone(), waited: session.patience() };
            }
            // What the pages beneath say is the reason for what SQLite says.
            let failure = all.into_iter().rev().find_map(|scratch| scratch.take_failure());
            match failure {
                Some(failure) => of_scratch(session, failure.into()),
                None => Error::from_rebase(&session.db, e),
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
