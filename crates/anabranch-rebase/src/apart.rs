//! References between a table that is merged and one that only the remote has: a table that it made, or
//! one that it has in place of ours. The rows of that one are not looked at one by one, so what breaks a
//! reference of theirs, or refers to what they do not have, is undone.

use rusqlite::OptionalExtension;
use rusqlite::params_from_iter;

use crate::cell::{Cell, Tuple};
use crate::conflict::ConflictKind;
use crate::decide::{Versions, aborted};
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::objects::read;
use crate::plan::ForeignKey;
use crate::rules::Policy;
use crate::sql::{quoted, same_name};
use crate::table::{Table, equal};
use crate::violations::{parent, values};
use crate::work::{Change, Op, flag};

const KIND: ConflictKind = ConflictKind::ForeignKey;

/// A foreign key of which one table is merged.
#[derive(Debug)]
pub(crate) struct Apart {
    /// The table that is merged.
    merged: usize,
    /// What refers in it, or is referred to.
    columns: Vec<usize>,
    /// The other table.
    other: String,
    role: Role,
}

#[derive(Debug)]
enum Role {
    /// The merged table refers; `find` looks for the row that is meant.
    Child { find: String },
    /// The other table refers; `missing` lists what it refers to and is not there. `due`: something
    /// went, and it has to be asked.
    Parent { missing: String, due: bool },
}

impl Apart {
    pub(crate) fn new(tables: &[Table], key: &ForeignKey) -> Option<Self> {
        let find = |name: &str| tables.iter().find(|t| same_name(&t.plan.result, name));
        let places = |table: &Table, names: &[String]| {
            names.iter().map(|c| table.position(c)).collect::<Option<Vec<_>>>()
        };
        let quote = |names: &[String]| names.iter().map(|c| quoted(c)).collect::<Vec<_>>();
        match (find(&key.child), find(&key.parent)) {
            (Some(child), None) => {
                let from = quoted(&key.parent);
                let found = equal(&quote(&key.parent_columns));
                Some(Self {
                    merged: child.index,
                    columns: places(child, &key.columns)?,
                    other: key.parent.clone(),
                    role: Role::Child { find: format!("SELECT 1 FROM main.{from} WHERE {found}") },
                })
            }
            (None, Some(parent)) => {
                let columns = quote(&key.columns);
                let set: Vec<String> =
                    columns.iter().map(|c| format!("the_child.{c} IS NOT NULL")).collect();
                let joined: Vec<String> = columns
                    .iter()
                    .zip(quote(&key.parent_columns))
                    .map(|(child, parent)| format!("the_parent.{parent} = the_child.{child}"))
                    .collect();
                let missing = format!(
                    "SELECT DISTINCT {} FROM main.{} AS the_child WHERE {}
                     AND NOT EXISTS(SELECT 1 FROM main.{} AS the_parent WHERE {})",
                    columns.join(", "),
                    quoted(&key.child),
                    set.join(" AND "),
                    parent.result.from,
                    joined.join(" AND ")
                );
                Some(Self {
                    merged: parent.index,
                    columns: places(parent, &key.parent_columns)?,
                    other: key.child.clone(),
                    role: Role::Parent { missing, due: false },
                })
            }
            _ => None,
        }
    }

    /// Whether a column of a merged table refers to the other one.
    pub(crate) fn refers_with(&self, table: &Table, column: usize) -> bool {
        self.merged == table.index
            && matches!(self.role, Role::Child { .. })
            && self.columns.contains(&column)
    }

    /// Whether what is to stand for a row may break this reference.
    pub(crate) fn concerns(&self, table: &Table, rows: &Versions, target: Option<&Tuple>) -> bool {
        let differs =
            |a: &Tuple, b: &Tuple| self.columns.iter().any(|&at| a.cells[at] != b.cells[at]);
        self.merged == table.index
            && match (&rows.remote, target, &self.role) {
                (Some(remote), Some(target), _) => differs(remote, target),
                (None, Some(_), Role::Child { .. }) | (Some(_), None, Role::Parent { .. }) => true,
                _ => false,
            }
    }
}

impl Engine<'_> {
    /// Looks at a row of a merged table.
    pub(crate) fn look_apart(
        &mut self,
        table: &Table,
        id: i64,
        apart: &mut [Apart],
    ) -> Result<(), RebaseError> {
        for key in apart.iter_mut().filter(|key| key.merged == table.index) {
            // What was done about one key may have changed the row.
            let change = self.work.get(table.index, id)?;
            let now = self.row_now(table, &change.dest)?;
            let rows = self.versions(table, &change)?;
            match (&mut key.role, now) {
                (Role::Child { find }, Some(now)) => {
                    let refers = values(&now, &key.columns);
                    let unchanged = rows
                        .remote
                        .as_ref()
                        .is_some_and(|remote| values(remote, &key.columns) == refers);
                    if unchanged
                        || change.op == Op::Nothing
                        || change.has(flag::UNDONE)
                        || refers.iter().any(|cell| cell.is_null())
                    {
                        continue;
                    }
                    let what = || read(format!("table {}", key.other));
                    let there = self
                        .states
                        .onto
                        .prepare_cached(find)
                        .and_then(|mut s| {
                            s.query_row(params_from_iter(refers), |_| Ok(())).optional()
                        })
                        .map_err(what())?;
                    if there.is_none() {
                        let why = format!("table {} has no row that it refers to", key.other);
                        self.undo_apart(table, change, &rows, why)?;
                    }
                }
                (Role::Child { .. }, None) => {}
                (Role::Parent { due, .. }, now) => {
                    *due |= rows.remote.as_ref().is_some_and(|remote| {
                        now.is_none_or(|now| {
                            values(remote, &key.columns) != values(&now, &key.columns)
                        })
                    });
                }
            }
        }
        Ok(())
    }

    /// Brings back what tables of the remote's refer to. Returns whether anything was looked for.
    pub(crate) fn bring_back(&mut self, apart: &mut [Apart]) -> Result<bool, RebaseError> {
        let mut looked = false;
        for key in apart {
            let Role::Parent { missing, due } = &mut key.role else { continue };
            if !std::mem::take(due) {
                continue;
            }
            looked = true;
            let what = || read(format!("references of table {}", key.other));
            let onto = self.states.onto;
            let mut statement = onto.prepare(missing).map_err(what())?;
            let mut rows = statement.query([]).map_err(what())?;
            while let Some(row) = rows.next().map_err(what())? {
                let mut refers = Vec::with_capacity(key.columns.len());
                for at in 0..key.columns.len() {
                    refers.push(Cell::from(row.get_ref(at).map_err(what())?));
                }
                self.bring_back_one(key.merged, &key.columns, &refers, &key.other)?;
            }
        }
        Ok(looked)
    }

    fn bring_back_one(
        &mut self,
        merged: usize,
        columns: &[usize],
        refers: &[Cell],
        other: &str,
    ) -> Result<(), RebaseError> {
        let tables = self.tables;
        let table = &tables[merged];
        let there = parent(self.states.remote, table.remote.as_ref(), table, columns, refers)?;
        let Some(there) = there else { return Ok(()) };
        let change = self.entry(table, &table.key_of(&there))?;
        if change.has(flag::UNDONE) {
            return Ok(());
        }
        let rows = self.versions(table, &change)?;
        self.undo_apart(table, change, &rows, format!("a row of table {other} refers to it"))
    }

    fn undo_apart(
        &mut self,
        table: &Table,
        mut change: Change,
        rows: &Versions,
        why: String,
    ) -> Result<(), RebaseError> {
        change.detail = Some(why);
        if self.rules.policy_of(table.name()) == Policy::Abort {
            return Err(aborted(self.conflict(table, &change, rows, KIND)));
        }
        self.undo(table, change, KIND)
    }
}
