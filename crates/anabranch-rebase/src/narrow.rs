//! Which rows of a table differ, where pages tell which may.

use rusqlite::Connection;

use crate::candidates::{Candidates, Changed, Finder, Trees};
use crate::cell::{RowKey, Tuple};
use crate::error::RebaseError;
use crate::find::{Pair, Sink};
use crate::objects::read;
use crate::table::{Side, Table};
use crate::work::Op;

/// Finds rows that differ between two states.
pub(crate) struct Rows {
    /// `None`: pages tell nothing, tables are walked.
    finder: Option<Finder>,
    /// See [`Changed::before_gone`].
    before_gone: bool,
}

impl Rows {
    /// `changed` tells which pages differ between the states of both connections.
    pub(crate) fn new(
        changed: Option<&Changed>,
        before: &Connection,
        after: &Connection,
    ) -> Result<Self, RebaseError> {
        let before_gone = changed.is_some_and(|changed| changed.before_gone);
        let finder = changed.map(|changed| match before_gone {
            true => Finder::of_one(changed, after),
            false => Finder::new(changed, before, after),
        });
        Ok(Self { finder: finder.transpose()?, before_gone })
    }

    /// Calls back with all rows of a table that differ, with some perhaps twice.
    pub(crate) fn find(&mut self, pair: &Pair<'_>, sink: &mut Sink<'_>) -> Result<(), RebaseError> {
        if self.before_gone {
            return self.find_new(pair, sink);
        }
        let trees = trees(pair.table);
        let (Some(finder), Some(trees), (_, Some(before))) = (&mut self.finder, trees, pair.before)
        else {
            return pair.walk(sink);
        };
        match finder.candidates(trees)? {
            Candidates::All => pair.walk(sink),
            Candidates::Rowids(rowids) => {
                for rowid in rowids {
                    pair.compare(before, &RowKey::Rowid(rowid), sink)?;
                }
                Ok(())
            }
            Candidates::Keys(keys) => {
                for key in keys {
                    pair.compare(before, &RowKey::Columns(key), sink)?;
                }
                Ok(())
            }
        }
    }

    /// What lies on pages that differ from a state that nobody has any more is new.
    fn find_new(&mut self, pair: &Pair<'_>, sink: &mut Sink<'_>) -> Result<(), RebaseError> {
        let trees = trees_from(pair.table, pair.table.plan.local.root);
        let (Some(finder), Some(trees)) = (&mut self.finder, trees) else { return pair.walk(sink) };
        match finder.on_changed_pages(trees)? {
            Candidates::All => pair.walk(sink),
            Candidates::Rowids(rowids) => {
                rowids.into_iter().try_for_each(|rowid| pair.inserted(&RowKey::Rowid(rowid), sink))
            }
            Candidates::Keys(keys) => {
                keys.into_iter().try_for_each(|key| pair.inserted(&RowKey::Columns(key), sink))
            }
        }
    }
}

/// Where a table lies in both states; `None`: its pages tell nothing.
fn trees(table: &Table) -> Option<Trees> {
    trees_from(table, table.plan.base.as_ref()?.root)
}

fn trees_from(table: &Table, before: u32) -> Option<Trees> {
    let after = table.plan.local.root;
    let key_columns = table.plan.without_rowid.then_some(table.key_at.len());
    (before > 0 && after > 0).then_some(Trees { before, after, key_columns })
}

impl Pair<'_> {
    /// Tells of the row under a candidate as of a new one.
    fn inserted(&self, candidate: &RowKey, sink: &mut Sink<'_>) -> Result<(), RebaseError> {
        match self.get(self.after, candidate)? {
            Some(row) => sink(Op::Insert, self.table.key_of(&row)),
            None => Ok(()),
        }
    }

    /// Compares what stands under a candidate.
    pub(crate) fn compare(
        &self,
        before: &Side,
        candidate: &RowKey,
        sink: &mut Sink<'_>,
    ) -> Result<(), RebaseError> {
        let old = self.get((self.before.0, before), candidate)?;
        let new = self.get(self.after, candidate)?;
        let (old_key, new_key) = (
            old.as_ref().map(|r| self.table.key_of(r)),
            new.as_ref().map(|r| self.table.key_of(r)),
        );
        if let (Some(old), Some(new), true) = (&old, &new, old_key == new_key) {
            return self.updated(old, new, sink);
        }
        // A rowid under which another row stands now, or one whose key is written otherwise.
        if let (Some(old), Some(key)) = (&old, old_key) {
            match self.get_by_key(self.after, &key)? {
                Some(new) => self.updated(old, &new, sink)?,
                None => sink(Op::Delete, key)?,
            }
        }
        if let (Some(new), Some(key)) = (&new, new_key) {
            match self.get_by_key((self.before.0, before), &key)? {
                Some(old) => self.updated(&old, new, sink)?,
                None => sink(Op::Insert, key)?,
            }
        }
        Ok(())
    }

    fn updated(&self, old: &Tuple, new: &Tuple, sink: &mut Sink<'_>) -> Result<(), RebaseError> {
        if self.table.same_here(old, new) {
            return Ok(());
        }
        sink(Op::Update, self.table.key_of(new))
    }

    fn get(
        &self,
        (conn, side): (&Connection, &Side),
        key: &RowKey,
    ) -> Result<Option<Tuple>, RebaseError> {
        side.get(conn, key, &self.table.defaults)
            .map_err(read(format!("the rows of table {}", self.table.name())))
    }

    /// The row with a key; a rowid alone tells a row only if its other key has a NULL in it.
    fn get_by_key(
        &self,
        side: (&Connection, &Side),
        key: &RowKey,
    ) -> Result<Option<Tuple>, RebaseError> {
        let row = self.get(side, key)?;
        Ok(row.filter(|row| self.table.is_told_by(row, key)))
    }
}
