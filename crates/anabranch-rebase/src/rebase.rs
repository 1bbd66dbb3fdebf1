//! The steps of a rebase, in their order.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

use crate::candidates::Changed;
use crate::conflict::{Conflict, Row};
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::find::Pair;
use crate::keymap::KeyMap;
use crate::narrow::Rows;
use crate::objects::read;
use crate::plan::How;
use crate::rules::Rules;
use crate::schema::{pairs, plan};
use crate::sequence;
use crate::sql::unquoted;
use crate::table::{States, Table};
use crate::work::{Op, failed};

/// The longest value or row that is read, SQLite's own limit: one is in memory a few times.
const MAX_ROW: i32 = 1_000_000_000;

/// What a program makes of a conflict or row may fail.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The states of a database that a rebase starts from, each with a connection of its own.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    /// What both sides started from.
    pub base: &'a Connection,
    /// The local state.
    pub local: &'a Connection,
    /// The remote's state. It is read until the end: it must not be the connection or the file
    /// that is written.
    pub remote: &'a Connection,
    /// A scratch copy of the remote's state, which becomes the result.
    pub onto: &'a Connection,
    /// The pages in which base and local state differ, so that only what lies on them is compared.
    /// `None`: all rows of all tables are.
    pub changed: Option<&'a Changed>,
}

/// What a rebase did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// By the names that the tables have in the result; those that nothing happened to are left
    /// out.
    pub tables: BTreeMap<String, TableSummary>,
    /// Objects of the schema that were carried over.
    pub objects: usize,
}

/// What was done to the rows of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableSummary {
    /// Rows inserted here that are in the result.
    pub inserted: u64,
    /// Rows changed here that are in the result.
    pub updated: u64,
    /// Rows deleted here that are not in the result.
    pub deleted: u64,
    /// Rows that did not end as they were written; renumbered ones aside.
    pub conflicts: u64,
    /// Rows that got a new key.
    pub renumbered: u64,
}

/// Sets what a connection needs, so that content that comes from anybody does no harm and what is
/// written causes nothing else: no triggers, no foreign keys, no functions that a schema cannot be
/// trusted with, no strings in double quotes. [`rebase`] and [`changed_rows`] do it themselves.
pub fn prepare(conn: &Connection) -> Result<(), RebaseError> {
    let set = || -> rusqlite::Result<()> {
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        conn.pragma_update(None, "cell_size_check", true)?;
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW)?;
        conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        conn.set_prepared_statement_cache_capacity(128);
        Ok(())
    };
    set().map_err(read("the settings of a connection"))
}

/// Does what was done between base and local state once more on top of the remote's state, in
/// `sides.onto`. If it fails, the scratch copy is good for nothing; else nothing of it is in an open
/// transaction.
///
/// `keys`: what earlier rebases of the same local state renumbered; what this one does is added.
/// `journal` is given each row that did not end as it was written, once, in the end.
pub fn rebase(
    sides: Sides<'_>,
    rules: &Rules,
    keys: &mut KeyMap,
    journal: &mut dyn FnMut(Conflict) -> Result<(), BoxError>,
) -> Result<Summary, RebaseError> {
    let Sides { base, local, remote, onto, changed } = sides;
    for conn in [base, local, remote, onto] {
        prepare(conn)?;
    }
    let states = States { base, local, remote, onto };
    let mut schema = plan(base, local, onto, changed, rules)?;
    schema.carry_before_rows(journal)?;
    let mut tables = Vec::new();
    let mut statistics = Vec::new();
    for table in &schema.tables {
        match table.how {
            How::Merge | How::Carry => {
                tables.push(Table::new(tables.len(), table.clone(), states)?);
            }
            How::Statistics => statistics.push(table.clone()),
            // Read together with the tables that it is about.
            How::Sequence => {}
        }
    }
    let mut engine = Engine::new(states, rules, &tables, &schema.foreign_keys)?;
    engine.load_moves(keys)?;
    let mut rows = Rows::new(changed, base, local)?;
    for table in &tables {
        engine.find(table, &mut rows)?;
    }
    drop(rows);
    engine.decide_all_keys()?;
    for table in tables.iter().filter(|t| schema.refused.contains(&t.plan.result)) {
        engine.settle_refused(table)?;
    }
    for table in &tables {
        engine.apply(table)?;
    }
    engine.settle_references()?;
    if schema.carried > 0 {
        engine.refuse_orphans(&schema.foreign_keys_there)?;
    }
    schema.look_at_indices(&engine)?;
    raise_sequences(&engine)?;
    for table in statistics {
        carry_statistics(&Table::new(0, table, states)?, states)?;
    }
    let mut summary = summary(&engine)?;
    engine.tell(journal)?;
    engine.save_moves(keys)?;
    engine.writer.commit()?;
    schema.carry_after_rows(remote)?;
    summary.objects = schema.carried;
    Ok(summary)
}

/// A row that differs between two states.
#[derive(Debug, Clone, PartialEq)]
pub struct RowChange {
    /// The table, as the later state names it.
    pub table: String,
    /// Names and values of the key.
    pub key: Row,
    /// The row in the earlier state, if it is there.
    pub before: Option<Row>,
    /// The row in the later state, if it is there.
    pub after: Option<Row>,
}

/// Lists the rows that differ between two states of a database, table by table, in the order of
/// their keys. `changed`: the pages in which the states differ, so that only what lies on them is
/// compared; then rows of a table without a rowid come in no order. Of tables without a key, rows that only have another rowid are left out.
pub fn changed_rows(
    before: &Connection,
    after: &Connection,
    changed: Option<&Changed>,
    each: &mut dyn FnMut(RowChange) -> Result<(), BoxError>,
) -> Result<(), RebaseError> {
    prepare(before)?;
    prepare(after)?;
    let states = States { base: before, local: after, remote: after, onto: after };
    let mut rows = Rows::new(changed, before, after)?;
    for plan in pairs(before, after, changed)? {
        if plan.how != How::Merge {
            continue;
        }
        let table = Table::new(0, plan, states)?;
        let mut work = crate::work::Work::new()?;
        work.create(&table, false)?;
        let pair = Pair::here(&table, before, after);
        rows.find(&pair, &mut |op, key| work.add(0, op, &key))?;
        if table.keyless() {
            crate::content::cancel(&pair, &work)?;
        }
        let what = || read(format!("table {}", table.name()));
        let mut last = 0;
        loop {
            let batch = work.batch(0, "1", last)?;
            let Some(change) = batch.last() else { break };
            last = change.id;
            for change in batch {
                let old = match &table.base {
                    Some(side) if change.op != Op::Insert => {
                        side.get(before, &change.dest, &table.defaults).map_err(what())?
                    }
                    _ => None,
                };
                let new = match change.op {
                    Op::Delete => None,
                    _ => table.local.get(after, &change.dest, &table.defaults).map_err(what())?,
                };
                let base = table.base.as_ref();
                each(RowChange {
                    table: table.name().to_owned(),
                    key: table.key_row(&change.dest),
                    before: base.zip(old).map(|(side, row)| table.row(side, &row)),
                    after: new.map(|row| table.row(&table.local, &row)),
                })?;
            }
        }
    }
    Ok(())
}

fn summary(engine: &Engine<'_>) -> Result<Summary, RebaseError> {
    let mut summary = Summary::default();
    for table in engine.tables {
        let found = TableSummary {
            inserted: engine.applied(table, Op::Insert)?,
            updated: engine.applied(table, Op::Update)?,
            deleted: engine.applied(table, Op::Delete)?,
            conflicts: engine.work.count(table.index, "kind IS NOT NULL AND NOT flags & 16")?,
            renumbered: engine.work.count(table.index, "flags & 16")?,
        };
        if found != TableSummary::default() {
            summary.tables.insert(table.name().to_owned(), found);
        }
    }
    Ok(summary)
}

/// No key that either side gave is given again.
fn raise_sequences(engine: &Engine<'_>) -> Result<(), RebaseError> {
    for table in engine.tables.iter().filter(|t| t.autoincrement()) {
        let onto = engine.states.onto;
        let what = || failed(format!("the sequence of table {}", table.name()));
        let here = sequence::last(engine.states.local, &unquoted(&table.local.from));
        if let Some(here) = here.map_err(what())? {
            sequence::raise(onto, &table.plan.result, here).map_err(what())?;
        }
    }
    Ok(())
}

/// Statistics of the query planner: the local ones if the remote did not make new ones.
fn carry_statistics(table: &Table, states: States<'_>) -> Result<(), RebaseError> {
    if let Some(remote) = &table.remote {
        let before = (states.base, table.base.as_ref());
        if differs(&Pair { table, before, after: (states.remote, remote) })? {
            return Ok(());
        }
    }
    if !differs(&Pair::here(table, states.base, states.local))? {
        return Ok(());
    }
    let what = || failed(format!("table {}", table.name()));
    let columns: Vec<&str> = table.result.columns.iter().flatten().map(String::as_str).collect();
    let marks: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
    states.onto.execute(&format!("DELETE FROM main.{}", table.result.from), []).map_err(what())?;
    let mut write = states
        .onto
        .prepare(&format!(
            "INSERT INTO main.{}({}) VALUES ({})",
            table.result.from,
            columns.join(", "),
            marks.join(", ")
        ))
        .map_err(what())?;
    let mut all = states.local.prepare(&table.local.select).map_err(what())?;
    let mut rows = all.query([]).map_err(what())?;
    while let Some(row) = rows.next().map_err(what())? {
        let row = table.local.tuple(row, &table.defaults).map_err(what())?;
        write.execute(rusqlite::params_from_iter(&row.cells)).map_err(what())?;
    }
    Ok(())
}

fn differs(pair: &Pair<'_>) -> Result<bool, RebaseError> {
    let mut found = false;
    pair.walk(&mut |_, _| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests;
