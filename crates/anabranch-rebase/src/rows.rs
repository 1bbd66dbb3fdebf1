//! Applies the changes of a table: deletes, updates, inserts; each row against the remote's.

use crate::cell::RowKey;
use crate::conflict::{Conflict, ConflictKind, Decision};
use crate::content::cancel;
use crate::decide::{Verdict, Versions, aborted, conflict, judge};
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::find::Pair;
use crate::put::Put;
use crate::rules::Policy;
use crate::table::Table;
use crate::work::{Change, Op, Take, flag};

impl Engine<'_> {
    /// Lists the rows that changed here.
    pub(crate) fn find(&mut self, table: &Table) -> Result<(), RebaseError> {
        let pair = Pair::here(table, self.states.base, self.states.local);
        let work = &self.work;
        pair.walk(&mut |op, key| work.add(table.index, op, &key))?;
        if table.keyless() { cancel(&pair, work) } else { Ok(()) }
    }

    /// Applies what was listed, and settles what unique indices put in its way.
    pub(crate) fn apply(&mut self, table: &Table) -> Result<(), RebaseError> {
        for filter in ["op = 3", "op = 2", "op = 1"] {
            self.each(table, filter, |engine, change| engine.apply_one(table, change))?;
        }
        self.settle_waiting(table)
    }

    fn apply_one(&mut self, table: &Table, mut change: Change) -> Result<(), RebaseError> {
        if change.has(flag::TWIN) {
            return Ok(());
        }
        let rows = self.versions(table, &change)?;
        if !table.exact() {
            match conflict(table, change.op, &rows) {
                Err(take) => change.take = take,
                Ok(kind) => self.decide(table, &mut change, &rows, kind)?,
            }
        }
        let changed = change.kind.is_some() || change.take != Take::Local;
        if change.take != Take::Remote {
            let target = self.target(table, &change, &rows)?;
            match self.writer.put(table, rows.remote.as_ref(), target.as_ref(), added(&rows))? {
                Put::Done => self.placed(table, &change, &rows)?,
                Put::Unique(text) => {
                    change.flags |= flag::WAITS;
                    change.detail = Some(text);
                    return self.work.settle(table.index, &change);
                }
                Put::Check(text) => return self.refuse(table, change, &rows, text),
            }
        }
        if changed { self.work.settle(table.index, &change) } else { Ok(()) }
    }

    /// Decides on a conflict: the program, else the rules.
    pub(crate) fn decide(
        &self,
        table: &Table,
        change: &mut Change,
        rows: &Versions,
        kind: ConflictKind,
    ) -> Result<(), RebaseError> {
        let verdict = judge(table, kind, rows, self.rules, |decision| {
            self.describe(table, change, rows, kind, decision)
        })?;
        change.kind = Some(kind);
        match verdict {
            Verdict::Take(take) => change.take = take,
            Verdict::Kept(row) => {
                change.take = Take::Kept;
                self.work.keep_row(table.index, change.id, row.as_ref())?;
            }
        }
        Ok(())
    }

    /// After a row was written: SQLite may have chosen a rowid for one that has no other key.
    pub(crate) fn placed(
        &self,
        table: &Table,
        change: &Change,
        rows: &Versions,
    ) -> Result<(), RebaseError> {
        if !table.by_rowid() && change.dest.rowid().is_some() && rows.remote.is_none() {
            let rowid = self.states.onto.last_insert_rowid();
            return self.work.set_dest(table.index, change.id, &RowKey::Rowid(rowid));
        }
        Ok(())
    }

    /// A row that cannot stand: the remote's version does.
    pub(crate) fn refuse(
        &mut self,
        table: &Table,
        mut change: Change,
        rows: &Versions,
        text: String,
    ) -> Result<(), RebaseError> {
        if change.take == Take::Kept {
            return Err(RebaseError::Resolved { table: table.name().to_owned(), why: text });
        }
        change.detail = Some(text);
        if self.rules.policy_of(table.name()) == Policy::Abort {
            return Err(aborted(self.conflict(table, &change, rows, ConflictKind::Check)));
        }
        change.take = Take::Remote;
        change.kind = Some(ConflictKind::Check);
        change.flags |= flag::UNDONE;
        change.flags &= !flag::WAITS;
        self.work.settle(table.index, &change)
    }

    pub(crate) fn conflict(
        &self,
        table: &Table,
        change: &Change,
        rows: &Versions,
        kind: ConflictKind,
    ) -> Conflict {
        self.describe(table, change, rows, kind, Decision::Remote)
    }

    /// How many changes of a kind came into the result.
    pub(crate) fn applied(&self, table: &Table, op: Op) -> Result<u64, RebaseError> {
        self.work.count(table.index, &format!("op = {} AND take <> 1", op as i64))
    }
}

/// Whether an insert leaves out the columns that the local side lacks.
pub(crate) fn added(rows: &Versions) -> bool {
    rows.remote.is_none()
}
