//! Foreign keys: references that neither side broke, and that both changes together do.
//!
//! Only rows that were written can have made one: a child that was written may have no parent, and
//! a row that went, or changed what is referred to, may have left children behind. Those are on a
//! list, and what is done about them puts further rows on it. It ends: a row is undone,
//! restored or taken along at most once, and the remote's own state breaks nothing.

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::apart::Apart;
use crate::cell::{Cell, Tuple};
use crate::conflict::ConflictKind;
use crate::decide::{Verdict, aborted, ask, local_over};
use crate::engine::{Engine, Foreign, OnDelete};
use crate::error::RebaseError;
use crate::objects::read;
use crate::put::Put;
use crate::rows::added;
use crate::rules::Policy;
use crate::table::{Side, Table, equal};
use crate::work::{Change, Op, Take, flag};

const KIND: ConflictKind = ConflictKind::ForeignKey;

/// How the children of a row are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// By an index on what they refer with.
    Index,
    /// By a walk over all of them: once for all rows that went.
    Scan { due: bool },
}

impl Engine<'_> {
    /// Settles references to rows that are no longer there.
    pub(crate) fn settle_references(&mut self) -> Result<(), RebaseError> {
        let foreign = std::mem::take(&mut self.foreign);
        let mut apart = std::mem::take(&mut self.apart);
        let done = self.settle_all(&foreign, &mut apart);
        self.foreign = foreign;
        self.apart = apart;
        done
    }

    fn settle_all(&mut self, foreign: &[Foreign], apart: &mut [Apart]) -> Result<(), RebaseError> {
        let tables = self.tables;
        let mut search = Vec::with_capacity(foreign.len());
        for key in foreign {
            search.push(self.search(key)?);
        }
        loop {
            while let Some((tab, id)) = self.work.pop()? {
                let change = self.work.get(tab, id)?;
                self.look_at(&tables[tab], change, foreign, &mut search)?;
                self.look_apart(&tables[tab], id, apart)?;
            }
            let mut scanned = self.bring_back(apart)?;
            for (key, search) in foreign.iter().zip(&mut search) {
                if *search == (Search::Scan { due: true }) {
                    *search = Search::Scan { due: false };
                    self.scan(key)?;
                    scanned = true;
                }
            }
            if !scanned {
                return Ok(());
            }
        }
    }

    /// Looks at a row as a child, and at the children that it may have left behind.
    fn look_at(
        &mut self,
        table: &Table,
        change: Change,
        foreign: &[Foreign],
        search: &mut [Search],
    ) -> Result<(), RebaseError> {
        for key in foreign.iter().filter(|key| key.child == table.index) {
            // What was done about one key may have changed the row.
            let change = self.work.get(table.index, change.id)?;
            if let Some(now) = self.row_now(table, &change.dest)? {
                self.check_child(key, table, &change, &now)?;
            }
        }
        if !foreign.iter().any(|key| key.parent == table.index) {
            return Ok(());
        }
        let change = self.work.get(table.index, change.id)?;
        let now = self.row_now(table, &change.dest)?;
        let rows = self.versions(table, &change)?;
        for (key, search) in foreign.iter().zip(search) {
            if key.parent != table.index {
                continue;
            }
            let standing = now.as_ref().map(|now| values(now, &key.parent_columns));
            for version in [&rows.remote, &rows.local].into_iter().flatten() {
                let values = values(version, &key.parent_columns);
                if standing.as_ref() == Some(&values) || values.iter().any(|v| v.is_null()) {
                    continue;
                }
                match search {
                    Search::Index => self.list_children(key, &values)?,
                    Search::Scan { due } => *due = true,
                }
            }
        }
        Ok(())
    }

    /// A child as it stands: has it a parent, or had it none before?
    fn check_child(
        &mut self,
        key: &Foreign,
        table: &Table,
        change: &Change,
        now: &Tuple,
    ) -> Result<(), RebaseError> {
        let parents = &self.tables[key.parent];
        let refers: Vec<Cell> = values(now, &key.columns).into_iter().cloned().collect();
        if self.reference_stands(key, &refers)? {
            return Ok(());
        }
        let rows = self.versions(table, change)?;
        let same = |row: &Option<Tuple>| {
            row.as_ref().is_some_and(|row| values(row, &key.columns).into_iter().eq(refers.iter()))
        };
        let there = parent(
            self.states.remote,
            parents.remote.as_ref(),
            parents,
            &key.parent_columns,
            &refers,
        )?;
        if there.is_none() && same(&rows.remote) {
            return Ok(());
        }
        let here = match self.named_here(parents, key, &refers)? {
            Some(refers) => parent(
                self.states.local,
                Some(&parents.local),
                parents,
                &key.parent_columns,
                &refers,
            )?,
            None => None,
        };
        if !change.has(flag::ASKED) {
            let mut change = change.clone();
            change.flags |= flag::ASKED;
            self.work.settle(table.index, &change)?;
            let verdict = ask(table, KIND, &rows, self.rules, |decision| {
                self.describe(table, &change, &rows, KIND, decision)
            })?;
            if let Some(Verdict::Kept(row)) = verdict {
                change.kind = Some(KIND);
                return self.write_kept(table, change, row.as_ref());
            }
        }
        let unchanged = change.op == Op::Nothing || change.op == Op::Delete;
        if here.is_none() && same(&rows.local) {
            return Ok(());
        }
        match (there, here) {
            (Some(there), _) => {
                let lost = self.entry(parents, &parents.key_of(&there))?;
                self.deleted_here(key, table, change.clone(), now, lost)
            }
            (None, Some(mut here)) => {
                self.rename(parents, &mut here, false)?;
                let lost = self.entry(parents, &parents.key_of(&here))?;
                self.deleted_there(table, change.clone(), parents, lost)
            }
            (None, None) if unchanged || change.has(flag::UNDONE) => Ok(()),
            (None, None) => self.undo(table, change.clone(), KIND),
        }
    }

    /// The remote's row refers to one that is gone because of what was done here.
    fn deleted_here(
        &mut self,
        key: &Foreign,
        table: &Table,
        mut child: Change,
        now: &Tuple,
        mut parent: Change,
    ) -> Result<(), RebaseError> {
        let parents = &self.tables[key.parent];
        let why = format!("a row of table {} refers to it", table.name());
        match self.rules.policy_of(parents.name()) {
            Policy::Abort => {
                parent.detail = Some(why);
                let rows = self.versions(parents, &parent)?;
                return Err(aborted(self.conflict(parents, &parent, &rows, KIND)));
            }
            // One that was brought back since, for another row refers to it, stays.
            Policy::Local | Policy::Merge if !child.has(flag::UNDONE) => {
                // A row whose key would change is another row.
                let in_key = key.columns.iter().any(|at| table.key_at.contains(at));
                let row = match key.on_delete {
                    OnDelete::Cascade => Some(None),
                    OnDelete::SetNull if in_key => None,
                    OnDelete::SetNull => Some(Some(Cell::Null)),
                    OnDelete::SetDefault | OnDelete::Refuse => None,
                };
                let row = match row {
                    Some(cell) => Some(cell.map(|cell| {
                        let mut row = now.clone();
                        for &at in &key.columns {
                            row.cells[at] = cell.clone();
                        }
                        row
                    })),
                    None if key.on_delete == OnDelete::SetDefault && !in_key => {
                        self.with_defaults(key, table, now)?.map(Some)
                    }
                    None => None,
                };
                if let Some(row) = row
                    && self.writer.put(table, Some(now), row.as_ref(), false)? == Put::Done
                {
                    let rows = self.versions(table, &child)?;
                    let gone_here = row.is_none() && rows.local.is_none();
                    // What was decided on the rest of the row is no longer told by the kind.
                    let rest = match (&row, child.kind, child.take) {
                        (Some(_), Some(_), Take::Local) => "; else the local version stands",
                        (Some(_), Some(_), Take::Remote) => "; else the remote's version stands",
                        _ => "",
                    };
                    child.take = if gone_here { Take::Local } else { Take::Kept };
                    child.kind = Some(KIND);
                    child.detail =
                        Some(format!("the row of table {} was deleted here{rest}", parents.name()));
                    self.work.keep_row(table.index, child.id, row.as_ref())?;
                    self.work.settle(table.index, &child)?;
                    return self.work.push(table.index, child.id);
                }
            }
            _ => {}
        }
        if parent.has(flag::UNDONE) {
            // Each is undone once: that both are as the remote has them, and do not fit, must not go
            // round for ever.
            if child.has(flag::UNDONE) {
                return Err(RebaseError::Unmergeable {
                    table: table.name().to_owned(),
                    why: format!(
                        "a row refers to one of table {} that cannot stand any more",
                        parents.name()
                    ),
                });
            }
            return self.undo(table, child, KIND);
        }
        parent.detail = Some(why);
        self.undo(parents, parent, KIND)
    }

    /// The local row refers to one that is gone because of what the remote did.
    fn deleted_there(
        &mut self,
        table: &Table,
        mut child: Change,
        parents: &Table,
        mut parent: Change,
    ) -> Result<(), RebaseError> {
        child.detail =
            Some(format!("the row of table {} was deleted at the remote", parents.name()));
        match self.rules.policy_of(table.name()) {
            Policy::Abort => {
                let rows = self.versions(table, &child)?;
                return Err(aborted(self.conflict(table, &child, &rows, KIND)));
            }
            Policy::Local | Policy::Merge
                if !parent.has(flag::UNDONE) && !parent.has(flag::RESTORED) =>
            {
                let rows = self.versions(parents, &parent)?;
                let now = self.row_now(parents, &parent.dest)?;
                if let Some(row) = local_over(parents, &rows)
                    && self.writer.put(parents, now.as_ref(), Some(&row), added(&rows))?
                        == Put::Done
                {
                    parent.take = Take::Local;
                    parent.kind = Some(KIND);
                    parent.flags |= flag::RESTORED;
                    self.placed(parents, &mut parent, &rows)?;
                    parent.detail = Some(format!("a row of table {} refers to it", table.name()));
                    self.work.settle(parents.index, &parent)?;
                    return self.work.push(parents.index, parent.id);
                }
            }
            _ => {}
        }
        self.undo(table, child, KIND)
    }

    /// A child that refers to its default parent; `None` if there is none.
    fn with_defaults(
        &self,
        key: &Foreign,
        table: &Table,
        now: &Tuple,
    ) -> Result<Option<Tuple>, RebaseError> {
        let mut row = now.clone();
        for &at in &key.columns {
            let column = &table.plan.columns[at].result;
            row.cells[at] = crate::table::default_of(self.states.onto, &table.plan.result, column)?;
        }
        let refers: Vec<Cell> = values(&row, &key.columns).into_iter().cloned().collect();
        let stands = self.reference_stands(key, &refers)?;
        Ok(stands.then_some(row))
    }

    /// Whether what a row refers to is in the result, or it refers to nothing.
    fn reference_stands(&self, key: &Foreign, refers: &[Cell]) -> Result<bool, RebaseError> {
        let (parents, onto) = (&self.tables[key.parent], self.states.onto);
        let result = Some(&parents.result);
        Ok(refers.iter().any(Cell::is_null)
            || parent(onto, result, parents, &key.parent_columns, refers)?.is_some())
    }

    /// The values with which the local side refers to a row; `None`: it has no such row.
    fn named_here(
        &self,
        parents: &Table,
        key: &Foreign,
        refers: &[Cell],
    ) -> Result<Option<Vec<Cell>>, RebaseError> {
        let mut refers = refers.to_vec();
        for (cell, &at) in refers.iter_mut().zip(&key.parent_columns) {
            let Cell::Integer(to) = *cell else { continue };
            for &root in &self.roots[parents.index][at] {
                match self.rowid_here(root, to)? {
                    Some(from) => *cell = Cell::Integer(from),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(refers))
    }

    /// Puts the rows that refer to `values` on the list.
    fn list_children(&self, key: &Foreign, values: &[&Cell]) -> Result<(), RebaseError> {
        let table = &self.tables[key.child];
        let names = names(&table.result, &key.columns);
        let sql = format!("{} WHERE {}", table.result.select, equal(&names));
        self.list(table, &sql, values)
    }

    /// Puts all rows without a parent on the list.
    fn scan(&self, key: &Foreign) -> Result<(), RebaseError> {
        let (table, parents) = (&self.tables[key.child], &self.tables[key.parent]);
        let sql = orphans(key, table, parents);
        self.list(table, &sql, &[])
    }

    fn list(&self, table: &Table, sql: &str, values: &[&Cell]) -> Result<(), RebaseError> {
        let what = || read(format!("references of table {}", table.name()));
        let mut statement = self.states.onto.prepare_cached(sql).map_err(what())?;
        let mut rows = statement.query(params_from_iter(values)).map_err(what())?;
        while let Some(row) = rows.next().map_err(what())? {
            let row = table.result.tuple(row, &table.defaults).map_err(what())?;
            let child = self.entry(table, &table.key_of(&row))?;
            self.work.push(table.index, child.id)?;
        }
        Ok(())
    }

    fn search(&self, key: &Foreign) -> Result<Search, RebaseError> {
        let table = &self.tables[key.child];
        let names = names(&table.result, &key.columns);
        let sql = format!("EXPLAIN QUERY PLAN {} WHERE {}", table.result.select, equal(&names));
        let steps = || -> rusqlite::Result<bool> {
            let mut statement = self.states.onto.prepare(&sql)?;
            let rows =
                statement.query_map(params_from_iter(names.iter().map(|_| 0)), |row| row.get(3))?;
            let steps: Vec<String> = rows.collect::<Result<_, _>>()?;
            Ok(steps.iter().any(|step| step.starts_with("SCAN")))
        };
        let scan = steps().map_err(read(format!("references of table {}", table.name())))?;
        Ok(if scan { Search::Scan { due: false } } else { Search::Index })
    }
}

/// Lists the rows of a table without a parent.
pub(crate) fn orphans(key: &Foreign, table: &Table, parents: &Table) -> String {
    let mut terms = Vec::new();
    let mut joined = Vec::new();
    let columns = names(&table.result, &key.columns);
    for (child, parent) in columns.iter().zip(names(&parents.result, &key.parent_columns)) {
        terms.push(format!("the_child.{child} IS NOT NULL"));
        joined.push(format!("the_parent.{parent} = the_child.{child}"));
    }
    format!(
        "{} AS the_child WHERE {}
         AND NOT EXISTS(SELECT 1 FROM main.{} AS the_parent WHERE {})",
        table.result.select,
        terms.join(" AND "),
        parents.result.from,
        joined.join(" AND ")
    )
}

/// The row that `refers` names, on one side.
pub(crate) fn parent(
    conn: &Connection,
    side: Option<&Side>,
    parents: &Table,
    columns: &[usize],
    refers: &[Cell],
) -> Result<Option<Tuple>, RebaseError> {
    let Some(side) = side else { return Ok(None) };
    if columns.iter().any(|&at| side.columns[at].is_none()) {
        return Ok(None);
    }
    let sql = format!("{} WHERE {}", side.select, equal(&names(side, columns)));
    conn.prepare_cached(&sql)
        .and_then(|mut s| {
            s.query_row(params_from_iter(refers), |row| side.tuple(row, &parents.defaults))
                .optional()
        })
        .map_err(read(format!("table {}", parents.name())))
}

fn names(side: &Side, columns: &[usize]) -> Vec<String> {
    columns.iter().filter_map(|&at| side.columns[at].clone()).collect()
}

pub(crate) fn values<'t>(row: &'t Tuple, columns: &[usize]) -> Vec<&'t Cell> {
    columns.iter().map(|&at| &row.cells[at]).collect()
}
