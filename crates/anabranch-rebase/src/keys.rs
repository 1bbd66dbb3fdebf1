//! Keys of rows that were inserted here, where the remote has rows under the same ones.
//!
//! A rowid that SQLite chose means nothing: two copies that each insert a row get the same one. Both
//! rows stay then, and the local one gets a new key. It counts as chosen by SQLite if it is what
//! SQLite would have chosen: the keys of the rows inserted here, as far as they lie above what the
//! base had, must form a run that begins right there, with no gap of more than [`GAP`].
//!
//! A key that refers to a row of another table as well (it is shared with a parent) means that row:
//! it gets a new value only with it. Where it refers to a column that is no rowid, it gets none.
//!
//! All new keys are decided before any row is written, parents before children, so that references
//! can follow: a column is mapped if a foreign key says that its values are rowids of the table.

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::cell::{Cell, RowKey, Tuple};
use crate::conflict::ConflictKind;
use crate::engine::{Engine, Foreign, parents};
use crate::error::RebaseError;
use crate::keymap::{KeyMap, MovedKey};
use crate::objects::read;
use crate::rules::InsertRule;
use crate::sequence;
use crate::sql::{quoted, same_name, unquoted};
use crate::table::{Side, Table};
use crate::work::{Change, Op, flag};

/// How far apart two keys may lie that SQLite chose one after the other: rows between them
/// may have been deleted since.
pub(crate) const GAP: i64 = 64;

/// Whether keys in ascending order are what SQLite would have chosen.
struct Run {
    /// `None`: the run is over.
    last: Option<i64>,
}

impl Run {
    fn continues(&mut self, key: i64) -> bool {
        let Some(last) = self.last else { return false };
        if key <= last {
            return false;
        }
        if key.checked_sub(last).is_some_and(|gap| gap <= GAP) {
            self.last = Some(key);
            return true;
        }
        self.last = None;
        false
    }
}

/// A unique index of the remote's: names of its columns there, and their places.
struct Unique {
    sql: String,
    columns: Vec<usize>,
}

impl Engine<'_> {
    /// Takes up what earlier rebases of the same local side moved.
    pub(crate) fn load_moves(&mut self, keys: &KeyMap) -> Result<(), RebaseError> {
        for key in &keys.moved {
            let table = self.tables.iter().find(|t| same_name(&t.plan.local.name, &key.table));
            if let Some(table) = table.filter(|t| t.by_rowid() && !t.exact()) {
                self.work.add_move(table.index, key.from, key.to, true)?;
                self.moving[table.index] = true;
            }
        }
        Ok(())
    }

    /// Adds what this rebase moved.
    pub(crate) fn save_moves(&self, keys: &mut KeyMap) -> Result<(), RebaseError> {
        self.work.each_move(|tab, from, to| {
            keys.moved.push(MovedKey { table: self.tables[tab].plan.local.name.clone(), from, to });
        })
    }

    /// Decides all keys. A table that shares its rowids with its parent comes after it, also where
    /// tables refer to each other in a circle; primary keys that have rowids in them come last.
    pub(crate) fn decide_all_keys(&mut self) -> Result<(), RebaseError> {
        let tables = self.tables;
        let mut decided = vec![false; tables.len()];
        for start in 0..tables.len() {
            let mut chain = vec![start];
            while let Some(&table) = chain.last() {
                let next = parents_of_rowid(self, &tables[table])
                    .into_iter()
                    .find(|parent| !decided[*parent] && !chain.contains(parent));
                if let Some(parent) = next {
                    chain.push(parent);
                    continue;
                }
                chain.pop();
                if !std::mem::replace(&mut decided[table], true) && tables[table].by_rowid() {
                    self.decide_keys(&tables[table])?;
                }
            }
        }
        for table in tables.iter().filter(|t| !t.by_rowid()) {
            self.decide_keys(table)?;
        }
        Ok(())
    }

    /// Decides the keys that the changed rows of a table have in the result.
    fn decide_keys(&mut self, table: &Table) -> Result<(), RebaseError> {
        if table.exact() {
            return Ok(());
        }
        if !table.by_rowid() {
            return self.map_keys(table);
        }
        if self.moving[table.index] {
            self.each(table, "op <> 1", |engine, change| engine.follow_old(table, change))?;
        }
        let mut next = None;
        if table.keyless() {
            self.find_elsewhere(table, &mut next)?;
        }
        let above = parents_of_rowid(self, table);
        let mut run = Run { last: Some(self.floor(table)?) };
        let unique = if table.keyless() { Vec::new() } else { self.unique_there(table)? };
        self.each(table, "op = 1", |engine, change| {
            engine.decide_insert(table, change, &above, &mut run, &unique, &mut next)
        })
    }

    /// Calls back with each change of a table that satisfies `filter`.
    pub(crate) fn each(
        &mut self,
        table: &Table,
        filter: &str,
        mut f: impl FnMut(&mut Self, Change) -> Result<(), RebaseError>,
    ) -> Result<(), RebaseError> {
        let mut after = 0;
        loop {
            let batch = self.work.batch(table.index, filter, after)?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.id;
            for change in batch {
                f(self, change)?;
            }
        }
    }

    /// Primary keys that are no rowids, but have such in them. New rows with NULL in their key
    /// get a rowid when they are written, unless what the remote has under theirs counts as they.
    fn map_keys(&mut self, table: &Table) -> Result<(), RebaseError> {
        self.each(table, "op = 1 AND rid IS NOT NULL", |engine, change| {
            if engine.rules.equal_rows_are_one && engine.same_there(table, &change)? {
                return Ok(());
            }
            engine.work.set_nowhere(table.index, change.id)
        })?;
        let at_work = table
            .key_at
            .iter()
            .any(|&at| self.roots[table.index][at].iter().any(|&root| self.moving[root]));
        if !at_work {
            return Ok(());
        }
        self.each(table, "1", |engine, change| {
            let Some(RowKey::Columns(mut cells)) = change.key else { return Ok(()) };
            for (cell, &at) in cells.iter_mut().zip(&table.key_at) {
                let old = change.op != Op::Insert;
                if let Some(to) = engine.renamed(&engine.roots[table.index][at], cell, old)? {
                    *cell = to;
                }
            }
            engine.work.set_dest(table.index, change.id, &RowKey::Columns(cells))
        })
    }

    /// Whether the remote has an equal row under the same key.
    fn same_there(&self, table: &Table, change: &Change) -> Result<bool, RebaseError> {
        let rows = self.versions(table, change)?;
        Ok(match (&rows.local, &rows.remote) {
            (Some(here), Some(there)) => table.same_here(here, there),
            _ => false,
        })
    }

    fn follow_old(&mut self, table: &Table, change: Change) -> Result<(), RebaseError> {
        let Some(from) = change.key.as_ref().and_then(RowKey::rowid) else { return Ok(()) };
        match self.work.moved(table.index, from, true)? {
            Some(to) => self.work.set_dest(table.index, change.id, &RowKey::Rowid(to)),
            None => Ok(()),
        }
    }

    fn decide_insert(
        &mut self,
        table: &Table,
        change: Change,
        above: &[usize],
        run: &mut Run,
        unique: &[Unique],
        next: &mut Option<i64>,
    ) -> Result<(), RebaseError> {
        let Some(from) = change.key.as_ref().and_then(RowKey::rowid) else { return Ok(()) };
        let automatic = run.continues(from) || table.keyless();
        if self.moving[table.index] && self.work.moved(table.index, from, true)?.is_some() {
            return self.follow_old(table, change);
        }
        if let Some(Cell::Integer(to)) = self.renamed(above, &Cell::Integer(from), false)? {
            return self.move_to(table, change, from, to, 0);
        }
        if !above.is_empty() || self.rowid_refers(table) {
            return Ok(());
        }
        if automatic
            && !unique.is_empty()
            && let Some(to) = self.twin(table, from, unique)?
        {
            let marks = if to == from { 0 } else { flag::RENUMBERED };
            return self.move_to(table, change, from, to, flag::TWIN | marks);
        }
        // A row that an earlier rebase moved here is certainly another one.
        let moved_here =
            self.moving[table.index] && self.work.came_from(table.index, from)?.is_some();
        let there = self.remote_row(table, &RowKey::Rowid(from))?;
        if !moved_here && there.is_none() {
            return Ok(());
        }
        if !moved_here {
            let equal = match (self.local_row(table, &RowKey::Rowid(from))?, &there) {
                (Some(here), Some(there)) => table.same_here(&here, there),
                _ => false,
            };
            let renumber = match self.rules.insert_rule_of(table.name()) {
                Some(InsertRule::Renumber) => automatic || !equal,
                Some(_) => table.keyless(),
                None => automatic,
            };
            if !renumber || (equal && self.rules.equal_rows_are_one) {
                return Ok(());
            }
        }
        let Some(to) = self.next_key(table, next)? else { return Ok(()) };
        let silent = if table.keyless() { flag::SILENT } else { 0 };
        self.move_to(table, change, from, to, flag::RENUMBERED | silent)
    }

    /// Whether the rowid refers to a column that is none: what that column says does not move.
    fn rowid_refers(&self, table: &Table) -> bool {
        let Some(at) = table.rowid_column() else { return false };
        let itself = |key: &Foreign| {
            key.parent == table.index
                && key.columns.iter().zip(&key.parent_columns).all(|(from, to)| from == to)
        };
        self.foreign
            .iter()
            .any(|key| key.child == table.index && key.columns.contains(&at) && !itself(key))
            || self.apart.iter().any(|key| key.refers_with(table, at))
    }

    fn move_to(
        &mut self,
        table: &Table,
        mut change: Change,
        from: i64,
        to: i64,
        marks: u32,
    ) -> Result<(), RebaseError> {
        if from != to {
            self.work.add_move(table.index, from, to, false)?;
            self.moving[table.index] = true;
            self.work.set_dest(table.index, change.id, &RowKey::Rowid(to))?;
        }
        change.flags |= marks;
        if marks & flag::RENUMBERED != 0 && marks & flag::SILENT == 0 {
            change.kind = Some(ConflictKind::InsertInsert);
            if marks & flag::TWIN != 0 {
                change.detail = Some("the remote has the same row under its own key".to_owned());
            }
        }
        self.work.settle(table.index, &change)
    }

    /// The highest key that SQLite had given when the two sides parted.
    fn floor(&self, table: &Table) -> Result<i64, RebaseError> {
        let Some(base) = &table.base else { return Ok(0) };
        let highest = highest(self.states.base, base).map_err(reading(table))?;
        let sequence = self.sequence(table, self.states.base, base)?;
        Ok(highest.into_iter().chain(sequence).max().unwrap_or(0).max(0))
    }

    fn sequence(
        &self,
        table: &Table,
        conn: &Connection,
        side: &Side,
    ) -> Result<Option<i64>, RebaseError> {
        if !table.autoincrement() {
            return Ok(None);
        }
        sequence::last(conn, &unquoted(&side.from)).map_err(reading(table))
    }

    /// A key above all that any side gave.
    pub(crate) fn next_key(
        &self,
        table: &Table,
        next: &mut Option<i64>,
    ) -> Result<Option<i64>, RebaseError> {
        if next.is_none() {
            let mut above = 0;
            // Rows of other tables whose rowids follow this one's need room as well.
            let followers = self.tables.iter().filter(|t| {
                t.index == table.index || parents_of_rowid(self, t).contains(&table.index)
            });
            for table in followers {
                let sides = [
                    (self.states.local, Some(&table.local)),
                    (self.states.remote, table.remote.as_ref()),
                ];
                for (conn, side) in sides {
                    let Some(side) = side else { continue };
                    let highest = highest(conn, side).map_err(reading(table))?;
                    let sequence = self.sequence(table, conn, side)?;
                    above = highest.into_iter().chain(sequence).fold(above, i64::max);
                }
                above = self.work.highest_move(table.index)?.map_or(above, |m| m.max(above));
            }
            *next = Some(above);
        }
        *next = next.and_then(|last| last.checked_add(1));
        Ok(*next)
    }

    /// The unique indices of the table at the remote, as far as they are over plain columns.
    fn unique_there(&self, table: &Table) -> Result<Vec<Unique>, RebaseError> {
        let Some(side) = &table.remote else { return Ok(Vec::new()) };
        let list = || -> rusqlite::Result<Vec<Unique>> {
            let mut found = Vec::new();
            let mut indices = self.states.remote.prepare(
                "SELECT name FROM pragma_index_list(?1, 'main') WHERE \"unique\" AND NOT partial",
            )?;
            let mut names = self.states.remote.prepare_cached(
                "SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno",
            )?;
            let name = unquoted(&side.from);
            let mut indices = indices.query([name])?;
            'index: while let Some(index) = indices.next()? {
                let mut columns = Vec::new();
                let mut terms = Vec::new();
                let mut rows = names.query([index.get::<_, String>(0)?])?;
                while let Some(row) = rows.next()? {
                    let name: Option<String> = row.get(0)?;
                    let name = name.map(|name| quoted(&name));
                    let at = side.columns.iter().position(|c| match (c, &name) {
                        (Some(c), Some(name)) => same_name(c, name),
                        _ => false,
                    });
                    let (Some(at), Some(name)) = (at, name) else { continue 'index };
                    columns.push(at);
                    let by = quoted(&row.get::<_, String>(1)?);
                    terms.push(format!("{name} COLLATE {by} = ?{}", columns.len()));
                }
                found.push(Unique {
                    sql: format!("{} WHERE {}", side.select, terms.join(" AND ")),
                    columns,
                });
            }
            Ok(found)
        };
        list().map_err(read(format!("the indices of table {}", table.name())))
    }

    /// The key of a row that the remote inserted, and that is this one but for the key: a unique
    /// index says that there can be only one.
    fn twin(
        &self,
        table: &Table,
        from: i64,
        unique: &[Unique],
    ) -> Result<Option<i64>, RebaseError> {
        let Some(here) = self.local_row(table, &RowKey::Rowid(from))? else { return Ok(None) };
        let Some(side) = &table.remote else { return Ok(None) };
        for index in unique {
            let values: Vec<&Cell> = index.columns.iter().map(|&at| &here.cells[at]).collect();
            let found: Option<Tuple> = self
                .states
                .remote
                .prepare_cached(&index.sql)
                .and_then(|mut s| {
                    s.query_row(params_from_iter(values), |row| side.tuple(row, &table.defaults))
                        .optional()
                })
                .map_err(reading(table))?;
            let Some((found, to)) = found.and_then(|f| f.rowid.map(|rowid| (f, rowid))) else {
                continue;
            };
            let equal = (0..found.cells.len()).all(|at| {
                Some(at) == table.rowid_column()
                    || !table.here(at)
                    || found.cells[at] == here.cells[at]
            });
            if equal && self.base_row(table, &RowKey::Rowid(to))?.is_none() {
                return Ok(Some(to));
            }
        }
        Ok(None)
    }
}

/// The tables whose rowids are those of this table: it shares its key with its parent.
fn parents_of_rowid(engine: &Engine<'_>, table: &Table) -> Vec<usize> {
    match table.rowid_column() {
        Some(at) => parents(engine.tables, &engine.foreign, table.index, at)
            .into_iter()
            .filter(|&parent| parent != table.index)
            .collect(),
        None => Vec::new(),
    }
}

fn highest(conn: &Connection, side: &Side) -> rusqlite::Result<Option<i64>> {
    let rowid = side.rowid.as_deref().unwrap_or("rowid");
    conn.query_row(&format!("SELECT max({rowid}) FROM main.{}", side.from), [], |row| row.get(0))
}

fn reading(table: &Table) -> impl FnOnce(rusqlite::Error) -> RebaseError {
    read(format!("table {}", table.name()))
}
