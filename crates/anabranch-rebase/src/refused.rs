//! Rows of the remote's that a table does not take that was made anew as the local side declares it: there
//! the remote's version cannot stand, and what the local side has counts. Each is told once, by the
//! change of the same row here where there is one.
//!
//! Nothing is listed while the table is copied: a row of the remote's that is not in the scratch copy
//! before rows are merged is one that was refused.

use crate::cell::Tuple;
use crate::conflict::ConflictKind;
use crate::decide::Versions;
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::objects::read;
use crate::put::Put;
use crate::rows::added;
use crate::table::Table;
use crate::work::{Change, Op, Take};

impl Engine<'_> {
    /// Settles the rows of the remote's that a table has refused and nothing was done to here. To be
    /// called once keys are decided on, before rows are written.
    pub(crate) fn settle_refused(&mut self, table: &Table) -> Result<(), RebaseError> {
        self.refused[table.index] = true;
        let Some(side) = &table.remote else { return Ok(()) };
        let what = || read(format!("table {} of the remote", table.name()));
        let mut all = self.states.remote.prepare(&side.select).map_err(what())?;
        let mut rows = all.query([]).map_err(what())?;
        while let Some(row) = rows.next().map_err(what())? {
            let remote = side.tuple(row, &table.defaults).map_err(what())?;
            let key = table.key_of(&remote);
            if self.row_now(table, &key)?.is_some() {
                continue;
            }
            let change = self.entry(table, &key)?;
            if change.op == Op::Nothing {
                self.settle_unchanged(table, change, &remote)?;
            }
        }
        Ok(())
    }

    /// A row that was not changed here: the local version of it stands, if it is there and fits.
    fn settle_unchanged(
        &mut self,
        table: &Table,
        mut change: Change,
        remote: &Tuple,
    ) -> Result<(), RebaseError> {
        let why = match self.writer.put(table, None, Some(remote), false)? {
            Put::Done => return Ok(()),
            Put::Unique(why) | Put::Check(why) => why,
        };
        let rows = self.versions(table, &change)?;
        let written = rows.base.as_ref().is_none_or(|base| base.cells != remote.cells);
        change.take = Take::Local;
        let fits = match (&rows.base, &rows.local) {
            (Some(base), Some(local)) if table.same_here(base, local) => {
                self.writer.put(table, None, Some(local), false)? == Put::Done
            }
            // Another row that only has the same rowid now, and stands under its own.
            (_, Some(_)) => false,
            (_, None) => true,
        };
        if !fits {
            change.take = Take::Kept;
            self.work.keep_row(table.index, change.id, None)?;
        }
        if written || !fits {
            change.kind = Some(ConflictKind::Check);
            change.detail = Some(why);
        }
        self.work.settle(table.index, &change)?;
        self.work.push(table.index, change.id)
    }

    /// Whether the remote's version of a row that is about to be written is not there.
    pub(crate) fn is_refused(
        &self,
        table: &Table,
        change: &Change,
        rows: &Versions,
    ) -> Result<bool, RebaseError> {
        Ok(self.refused[table.index]
            && rows.remote.is_some()
            && self.row_now(table, &change.dest)?.is_none())
    }

    /// What stands if it is not: not the remote's version, and one of both only if it fits.
    pub(crate) fn decide_refused(
        &self,
        table: &Table,
        change: &mut Change,
        rows: &Versions,
    ) -> Result<(), RebaseError> {
        let wanted = match change.take {
            Take::Remote | Take::Merge => self.target(table, change, rows)?,
            Take::Local | Take::Kept => return Ok(()),
        };
        let Some(wanted) = wanted else { return Ok(()) };
        match (self.writer.put(table, None, Some(&wanted), added(rows))?, change.take) {
            // What was in its way has changed as well.
            (Put::Done, _) => {}
            // It waits, as any row that is written.
            (Put::Unique(_), Take::Merge) => {}
            (Put::Unique(why) | Put::Check(why), _) => {
                change.take = Take::Local;
                change.detail = change.kind.map(|_| why);
            }
        }
        Ok(())
    }
}
