//! What the steps of a rebase share: the states, the tables, the work database, the scratch copy.

use crate::apart::Apart;
use crate::cell::{Cell, RowKey, Tuple};
use crate::conflict::{Conflict, ConflictKind, Decision};
use crate::decide::{Versions, decision, local_over, merged};
use crate::error::RebaseError;
use crate::objects::read;
use crate::plan::ForeignKey;
use crate::put::Writer;
use crate::rules::Rules;
use crate::sql::same_name;
use crate::table::{Side, States, Table};
use crate::work::{Change, Op, Take, Work, flag};

/// A foreign key, by the places of tables and columns.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) child: usize,
    pub(crate) columns: Vec<usize>,
    pub(crate) parent: usize,
    pub(crate) parent_columns: Vec<usize>,
    pub(crate) on_delete: OnDelete,
}

/// What becomes of a row whose parent is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDelete {
    Cascade,
    SetNull,
    SetDefault,
    /// RESTRICT, NO ACTION: the parent may not go.
    Refuse,
}

pub(crate) struct Engine<'a> {
    pub(crate) states: States<'a>,
    pub(crate) rules: &'a Rules,
    pub(crate) tables: &'a [Table],
    pub(crate) foreign: Vec<Foreign>,
    /// References to and from tables that only the remote has.
    pub(crate) apart: Vec<Apart>,
    /// For each column of each table, the tables whose rowids its values are.
    pub(crate) roots: Vec<Vec<Vec<usize>>>,
    /// Whether any rowid of the table moved.
    pub(crate) moving: Vec<bool>,
    /// Whether rows of the remote's are missing in the scratch copy, as the table refused them.
    pub(crate) refused: Vec<bool>,
    pub(crate) work: Work,
    pub(crate) writer: Writer<'a>,
}

impl<'a> Engine<'a> {
    pub(crate) fn new(
        states: States<'a>,
        rules: &'a Rules,
        tables: &'a [Table],
        keys: &[ForeignKey],
    ) -> Result<Self, RebaseError> {
        let foreign: Vec<Foreign> = keys.iter().filter_map(|key| foreign(tables, key)).collect();
        let roots = roots(tables, &foreign);
        let mut work = Work::new()?;
        for table in tables {
            let mapped = table.key_at.iter().any(|&at| !roots[table.index][at].is_empty());
            work.create(table, mapped)?;
        }
        Ok(Self {
            states,
            rules,
            tables,
            foreign,
            apart: keys.iter().filter_map(|key| Apart::new(tables, key)).collect(),
            roots,
            moving: vec![false; tables.len()],
            refused: vec![false; tables.len()],
            work,
            writer: Writer::begin(states.onto)?,
        })
    }

    /// The row of the base.
    pub(crate) fn base_row(
        &self,
        table: &Table,
        key: &RowKey,
    ) -> Result<Option<Tuple>, RebaseError> {
        let Some(side) = &table.base else { return Ok(None) };
        let row = side
            .get(self.states.base, key, &table.defaults)
            .map_err(read(format!("table {} of the base", table.name())))?;
        let mut row = row.filter(|row| table.is_told_by(row, key));
        if let Some(row) = &mut row {
            self.rename(table, row, true)?;
        }
        Ok(row)
    }

    /// The local row.
    pub(crate) fn local_row(
        &self,
        table: &Table,
        key: &RowKey,
    ) -> Result<Option<Tuple>, RebaseError> {
        let row = table
            .local
            .get(self.states.local, key, &table.defaults)
            .map_err(read(format!("table {} here", table.name())))?;
        let mut row = row.filter(|row| table.is_told_by(row, key));
        if let Some(row) = &mut row {
            self.rename(table, row, false)?;
        }
        Ok(row)
    }

    /// The remote's row, as it was before anything was written.
    pub(crate) fn remote_row(
        &self,
        table: &Table,
        key: &RowKey,
    ) -> Result<Option<Tuple>, RebaseError> {
        let Some(side) = &table.remote else { return Ok(None) };
        let row = side
            .get(self.states.remote, key, &table.defaults)
            .map_err(read(format!("table {} of the remote", table.name())))?;
        Ok(row.filter(|row| table.is_told_by(row, key)))
    }

    /// The row as it stands in the scratch copy.
    pub(crate) fn row_now(
        &self,
        table: &Table,
        key: &RowKey,
    ) -> Result<Option<Tuple>, RebaseError> {
        let row = table
            .result
            .get(self.states.onto, key, &table.defaults)
            .map_err(read(format!("table {} of the scratch copy", table.name())))?;
        Ok(row.filter(|row| table.is_told_by(row, key)))
    }

    /// The three versions of a change's row.
    pub(crate) fn versions(&self, table: &Table, change: &Change) -> Result<Versions, RebaseError> {
        let mut rows = Versions::default();
        if let Some(key) = &change.key {
            if change.op != Op::Insert {
                rows.base = self.base_row(table, key)?;
            }
            if change.op != Op::Delete {
                rows.local = self.local_row(table, key)?;
            }
        }
        if !change.has(flag::PLACED) {
            rows.remote = self.remote_row(table, &change.dest)?;
        }
        Ok(rows)
    }

    /// What is to stand for a change.
    pub(crate) fn target(
        &self,
        table: &Table,
        change: &Change,
        rows: &Versions,
    ) -> Result<Option<Tuple>, RebaseError> {
        Ok(match change.take {
            Take::Local => local_over(table, rows),
            Take::Remote => rows.remote.clone(),
            Take::Merge => merged(table, rows),
            Take::Kept => {
                let rowid = rows.local.as_ref().or(rows.remote.as_ref()).and_then(|r| r.rowid);
                self.work.kept_row(table.index, change.id)?.map(|cells| Tuple { rowid, cells })
            }
        })
    }

    /// The conflict of a change, as it is told.
    pub(crate) fn describe(
        &self,
        table: &Table,
        change: &Change,
        rows: &Versions,
        kind: ConflictKind,
        decision: Decision,
    ) -> Conflict {
        let shown = |side: Option<&Side>, row: &Option<Tuple>| {
            side.zip(row.as_ref()).map(|(side, row)| table.row(side, row))
        };
        Conflict {
            table: table.name().to_owned(),
            key: table.key_row(match (&change.dest, &change.key) {
                (RowKey::Columns(cells), Some(key)) if cells.is_empty() => key,
                (dest, _) => dest,
            }),
            kind,
            base: shown(table.base.as_ref(), &rows.base),
            local: shown(Some(&table.local), &rows.local),
            remote: shown(table.remote.as_ref(), &rows.remote),
            decision,
            detail: change.detail.clone(),
        }
    }

    /// Calls back with everything that did not end as it was written.
    pub(crate) fn tell(
        &self,
        journal: &mut dyn FnMut(Conflict) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<(), RebaseError> {
        for table in self.tables {
            let mut after = 0;
            loop {
                let batch = self.work.batch(table.index, "kind IS NOT NULL", after)?;
                let Some(last) = batch.last() else { break };
                after = last.id;
                for change in &batch {
                    let Some(kind) = change.kind else { continue };
                    let mut rows = self.versions(table, change)?;
                    let gone = change.take == Take::Kept
                        && self.work.kept_row(table.index, change.id)?.is_none();
                    let decision =
                        if gone { Decision::Neither } else { decision(table, change, &rows) };
                    if let (Decision::Renumbered(_), Some(key)) = (&decision, &change.key) {
                        // What stands in the way is told, under the key that both had.
                        let there = if change.has(flag::TWIN) { &change.dest } else { key };
                        rows.remote = self.remote_row(table, there)?;
                    }
                    let mut conflict = self.describe(table, change, &rows, kind, decision);
                    if let (Decision::Renumbered(_), Some(key)) = (&conflict.decision, &change.key)
                    {
                        conflict.key = table.key_row(key);
                    }
                    journal(conflict)?;
                }
            }
        }
        Ok(())
    }

    /// Lets a row of the base (`old`) or of the local side name rows by the keys that they have in
    /// the result.
    pub(crate) fn rename(
        &self,
        table: &Table,
        row: &mut Tuple,
        old: bool,
    ) -> Result<(), RebaseError> {
        if let (Some(rowid), true, true) = (row.rowid, table.by_rowid(), self.moving[table.index]) {
            row.rowid = Some(self.work.moved(table.index, rowid, old)?.unwrap_or(rowid));
        }
        for (at, roots) in self.roots[table.index].iter().enumerate() {
            if let Some(to) = self.renamed(roots, &row.cells[at], old)? {
                row.cells[at] = to;
            }
        }
        Ok(())
    }

    /// The new value of a column that holds rowids of `roots`, if it has one.
    pub(crate) fn renamed(
        &self,
        roots: &[usize],
        cell: &Cell,
        old: bool,
    ) -> Result<Option<Cell>, RebaseError> {
        let Cell::Integer(from) = cell else { return Ok(None) };
        for &root in roots.iter().filter(|&&root| self.moving[root]) {
            if let Some(to) = self.work.moved(root, *from, old)? {
                return Ok(Some(Cell::Integer(to)));
            }
        }
        Ok(None)
    }
}

fn foreign(tables: &[Table], key: &ForeignKey) -> Option<Foreign> {
    let find = |name: &str| tables.iter().find(|t| same_name(&t.plan.result, name));
    let (child, parent) = (find(&key.child)?, find(&key.parent)?);
    let columns = key.columns.iter().map(|c| child.position(c)).collect::<Option<Vec<_>>>()?;
    let parent_columns =
        key.parent_columns.iter().map(|c| parent.position(c)).collect::<Option<Vec<_>>>()?;
    let on_delete = match key.on_delete.to_ascii_uppercase().as_str() {
        "CASCADE" => OnDelete::Cascade,
        "SET NULL" => OnDelete::SetNull,
        "SET DEFAULT" => OnDelete::SetDefault,
        _ => OnDelete::Refuse,
    };
    Some(Foreign { child: child.index, columns, parent: parent.index, parent_columns, on_delete })
}

/// For each column, the tables whose rowids its values are: its own, if it is the rowid, else
/// the table that a foreign key leads to, perhaps by way of others.
fn roots(tables: &[Table], foreign: &[Foreign]) -> Vec<Vec<Vec<usize>>> {
    tables
        .iter()
        .map(|table| {
            (0..table.plan.columns.len())
                .map(|column| {
                    if table.rowid_column() == Some(column) {
                        return vec![table.index];
                    }
                    parents(tables, foreign, table.index, column)
                })
                .collect()
        })
        .collect()
}

/// The tables whose rowids a column's values are by its foreign keys.
pub(crate) fn parents(
    tables: &[Table],
    foreign: &[Foreign],
    table: usize,
    column: usize,
) -> Vec<usize> {
    let mut found = Vec::new();
    let mut seen = vec![(table, column)];
    let mut next = vec![(table, column)];
    while let Some((table, column)) = next.pop() {
        for key in foreign.iter().filter(|key| key.child == table) {
            for (&from, &to) in key.columns.iter().zip(&key.parent_columns) {
                if from != column {
                    continue;
                }
                if tables[key.parent].rowid_column() == Some(to) {
                    if !found.contains(&key.parent) {
                        found.push(key.parent);
                    }
                } else if !seen.contains(&(key.parent, to)) {
                    seen.push((key.parent, to));
                    next.push((key.parent, to));
                }
            }
        }
    }
    found
}
