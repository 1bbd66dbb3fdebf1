//! Applies the changes of a table: deletes, updates, inserts; each row against the remote's.

use crate::cell::{RowKey, Tuple};
use crate::conflict::{Conflict, ConflictKind, Decision};
use crate::content::cancel;
use crate::decide::{Verdict, Versions, aborted, ask, conflict, judge};
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::find::Pair;
use crate::narrow::Rows;
use crate::put::Put;
use crate::rules::Policy;
use crate::table::Table;
use crate::work::{Change, Op, Take, flag};

impl Engine<'_> {
    /// Lists the rows that changed here.
    pub(crate) fn find(&mut self, table: &Table, rows: &mut Rows) -> Result<(), RebaseError> {
        let pair = Pair::here(table, self.states.base, self.states.local);
        let work = &self.work;
        rows.find(&pair, &mut |op, key| work.add(table.index, op, &key))?;
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
        let refused = self.is_refused(table, &change, &rows)?;
        if refused {
            self.decide_refused(table, &mut change, &rows)?;
        }
        let target = self.target(table, &change, &rows)?;
        self.note_references(table, &change, &rows, target.as_ref())?;
        if change.take != Take::Remote {
            let now =
                if refused { self.row_now(table, &change.dest)? } else { rows.remote.clone() };
            match self.writer.put(table, now.as_ref(), target.as_ref(), added(&rows))? {
                Put::Done => self.placed(table, &mut change, &rows)?,
                Put::Unique(text) => {
                    change.flags |= flag::WAITS;
                    change.detail = Some(text);
                    if !table.by_rowid() && rows.remote.is_none() && change.dest.rowid().is_some() {
                        self.work.set_nowhere(table.index, change.id)?;
                    }
                    return self.work.settle(table.index, &change);
                }
                Put::Check(text) => return self.refuse(table, change, &rows, text),
            }
        }
        let changed = change.kind.is_some() || change.take != Take::Local || change.flags != 0;
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

    /// After a row was written: SQLite has chosen a rowid for one that has no other key.
    pub(crate) fn placed(
        &self,
        table: &Table,
        change: &mut Change,
        rows: &Versions,
    ) -> Result<(), RebaseError> {
        if table.by_rowid() || rows.remote.is_some() {
            return Ok(());
        }
        if let Some(RowKey::Rowid(_)) = change.key {
            let rowid = self.states.onto.last_insert_rowid();
            change.flags |= flag::PLACED;
            change.dest = RowKey::Rowid(rowid);
            self.work.set_dest(table.index, change.id, &change.dest)?;
        }
        Ok(())
    }

    /// A row that violates a constraint of its own: the program may know another one, else the
    /// remote's version stands.
    pub(crate) fn refuse(
        &mut self,
        table: &Table,
        mut change: Change,
        rows: &Versions,
        text: String,
    ) -> Result<(), RebaseError> {
        const KIND: ConflictKind = ConflictKind::Check;
        if change.take == Take::Kept {
            return Err(RebaseError::Resolved { table: table.name().to_owned(), why: text });
        }
        change.detail = Some(text);
        change.flags &= !flag::WAITS;
        let verdict = ask(table, KIND, rows, self.rules, |decision| {
            self.describe(table, &change, rows, KIND, decision)
        })?;
        if let Some(Verdict::Kept(row)) = verdict {
            change.kind = Some(KIND);
            return self.write_kept(table, change, row.as_ref());
        }
        if verdict.is_none() && self.rules.policy_of(table.name()) == Policy::Abort {
            return Err(aborted(self.conflict(table, &change, rows, KIND)));
        }
        self.undo(table, change, KIND)
    }

    /// Writes the row that the program decided on, when all else was written.
    pub(crate) fn write_kept(
        &mut self,
        table: &Table,
        mut change: Change,
        row: Option<&Tuple>,
    ) -> Result<(), RebaseError> {
        let now = self.row_now(table, &change.dest)?;
        match self.writer.put(table, now.as_ref(), row, false)? {
            Put::Done => {
                change.take = Take::Kept;
                change.flags &= !flag::WAITS;
                self.work.keep_row(table.index, change.id, row)?;
                self.work.settle(table.index, &change)?;
                self.work.push(table.index, change.id)
            }
            Put::Unique(why) | Put::Check(why) => {
                Err(RebaseError::Resolved { table: table.name().to_owned(), why })
            }
        }
    }

    /// Puts a row on the list of those whose references have to be looked at, if what is to stand
    /// may have broken one.
    fn note_references(
        &self,
        table: &Table,
        change: &Change,
        rows: &Versions,
        target: Option<&Tuple>,
    ) -> Result<(), RebaseError> {
        let differs =
            |a: &Tuple, b: &Tuple, at: &[usize]| at.iter().any(|&at| a.cells[at] != b.cells[at]);
        let broken = self.foreign.iter().any(|key| {
            let child = key.child == table.index
                && match (target, &rows.remote) {
                    (Some(target), Some(remote)) => differs(target, remote, &key.columns),
                    (target, _) => target.is_some(),
                };
            let parent = key.parent == table.index
                && [&rows.remote, &rows.local].into_iter().flatten().any(|row| match target {
                    Some(target) => differs(target, row, &key.parent_columns),
                    None => true,
                });
            child || parent
        });
        let broken = broken || self.apart.iter().any(|key| key.concerns(table, rows, target));
        if broken { self.work.push(table.index, change.id) } else { Ok(()) }
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
