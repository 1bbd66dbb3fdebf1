//! The work database: which rows changed here, what was decided on them, which keys moved. It is a
//! temporary file of SQLite's, gone when it is closed; memory holds its cache and single batches.
//!
//! A table `c{n}` for each table that is replayed has a row for each row that changed here, and for
//! each of the remote's that something was done about:
//!
//! ```text
//! rid, k0..   its key on the local side (rid: a rowid); NULL if that side has no such row
//! dest, m0..  its key in the result
//! op          what was done to it here; 0: nothing
//! take        which version stands
//! kind        NULL: no conflict
//! ```
//! `moved` maps rowids of the local side to those of the result; `old` are those that an earlier
//! rebase moved, which count for the base as well.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};

use crate::cell::{Cell, RowKey};
use crate::conflict::ConflictKind;
use crate::error::RebaseError;
use crate::table::Table;

/// Changes that are read at once.
const BATCH: usize = 256;

/// Pages of the work database kept in memory, as SQLite's `cache_size` has it: 8 MiB.
const CACHE: &str = "-8192";

/// What the local side did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Nothing = 0,
    Insert = 1,
    Update = 2,
    Delete = 3,
}

/// Which version of a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    Local = 0,
    Remote = 1,
    /// Column by column.
    Merge = 2,
    /// What was put down with [`Work::keep_row`]: neither.
    Kept = 3,
}

/// Marks on a change.
pub(crate) mod flag {
    /// Its write waits for others: a unique index is in the way.
    pub(crate) const WAITS: u32 = 1;
    /// It was undone: the remote's version stands, and nothing brings the local one back.
    pub(crate) const UNDONE: u32 = 2;
    /// The local version was put back, for rows that refer to it. Only once.
    pub(crate) const RESTORED: u32 = 4;
    /// It is the remote's row at `dest`, with another key: there is nothing to write.
    pub(crate) const TWIN: u32 = 8;
    /// It has a new key.
    pub(crate) const RENUMBERED: u32 = 16;
    /// The local row is kept under a new key although the remote's has the old one: nothing
    /// about it is told, since the key is nothing that anybody sees.
    pub(crate) const SILENT: u32 = 32;
    /// The program was asked what becomes of its reference to a row that is gone.
    pub(crate) const ASKED: u32 = 64;
    /// It only has a rowid, and got one when it was written: the remote has no row there.
    pub(crate) const PLACED: u32 = 128;
}

/// A row that changed here, or that something is done about.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) id: i64,
    pub(crate) op: Op,
    /// Its key on the local side (and in the base).
    pub(crate) key: Option<RowKey>,
    /// Its key in the result. No columns at all: none yet, its rowid is chosen when it is written.
    pub(crate) dest: RowKey,
    pub(crate) take: Take,
    pub(crate) kind: Option<ConflictKind>,
    pub(crate) flags: u32,
    pub(crate) detail: Option<String>,
}

impl Change {
    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// The work database.
pub(crate) struct Work {
    conn: Connection,
    /// For each table, the statements on its changes.
    sql: Vec<Statements>,
}

struct Statements {
    columns: usize,
    mapped: bool,
    add: String,
    select: String,
}

impl Work {
    pub(crate) fn new() -> Result<Self, RebaseError> {
        let open = || -> rusqlite::Result<Connection> {
            let conn = Connection::open("")?;
            conn.pragma_update(None, "journal_mode", "OFF")?;
            conn.pragma_update(None, "synchronous", "OFF")?;
            conn.pragma_update(None, "cache_size", CACHE)?;
            conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            conn.set_prepared_statement_cache_capacity(256);
            conn.execute_batch(
                "BEGIN;
                 CREATE TABLE moved(tab INTEGER, src INTEGER, dest INTEGER, old INTEGER,
                                    PRIMARY KEY(tab, src)) WITHOUT ROWID;
                 CREATE INDEX moved_to ON moved(tab, dest);
                 CREATE TABLE kept(tab INTEGER, id INTEGER, col INTEGER, value,
                                   PRIMARY KEY(tab, id, col)) WITHOUT ROWID;
                 CREATE TABLE todo(tab INTEGER, id INTEGER, PRIMARY KEY(tab, id)) WITHOUT ROWID;
                 CREATE TABLE half(hash INTEGER, new INTEGER, id INTEGER);
                 CREATE TABLE content(there INTEGER, hash INTEGER, id INTEGER,
                                      PRIMARY KEY(there, hash, id)) WITHOUT ROWID;",
            )?;
            Ok(conn)
        };
        Ok(Self { conn: open().map_err(failed("the work database"))?, sql: Vec::new() })
    }

    /// Makes room for the changes of the next table. `mapped`: the key has columns that may get
    /// other values in the result.
    pub(crate) fn create(&mut self, table: &Table, mapped: bool) -> Result<(), RebaseError> {
        let n = table.index;
        let columns = if table.by_rowid() { 0 } else { table.key_at.len() };
        let names = |prefix: &str| -> Vec<String> {
            (0..columns).map(|at| format!("{prefix}{at}")).collect()
        };
        let mut all = names("k");
        let mapped = mapped && columns > 0;
        if mapped {
            all.extend(names("m"));
        }
        let batch = |collations: &[String]| {
            let declared: String = all
                .iter()
                .enumerate()
                .map(|(at, name)| format!(", {name} COLLATE {}", collations[at % columns.max(1)]))
                .collect();
            let mut batch = format!(
                "CREATE TABLE c{n}(id INTEGER PRIMARY KEY, op INTEGER NOT NULL, rid INTEGER,
                 dest INTEGER, take INTEGER NOT NULL DEFAULT 0, kind INTEGER,
                 flags INTEGER NOT NULL DEFAULT 0, detail TEXT{declared});
             CREATE INDEX c{n}_dest ON c{n}(dest) WHERE dest IS NOT NULL;"
            );
            if columns > 0 {
                batch += &format!("CREATE UNIQUE INDEX c{n}_k ON c{n}({});", names("k").join(", "));
            }
            if mapped {
                batch += &format!("CREATE INDEX c{n}_m ON c{n}({});", names("m").join(", "));
            }
            batch
        };
        // A collation that only the application has is not needed as long as nothing changed.
        self.conn
            .execute_batch(&batch(&table.result.collations))
            .or_else(|_| {
                self.conn.execute_batch(&format!("DROP TABLE IF EXISTS c{n}"))?;
                self.conn.execute_batch(&batch(&vec!["BINARY".to_owned(); columns]))
            })
            .map_err(failed("the work database"))?;
        let list: String = all.iter().map(|name| format!(", {name}")).collect();
        let marks: String = (0..all.len()).map(|at| format!(", ?{}", at + 4)).collect();
        self.sql.push(Statements {
            columns,
            mapped,
            add: format!(
                "INSERT OR IGNORE INTO c{n}(op, rid, dest{list}) VALUES (?1, ?2, ?3{marks})"
            ),
            select: format!("SELECT id, op, rid, dest, take, kind, flags, detail{list} FROM c{n}"),
        });
        Ok(())
    }

    /// Notes a row that changed here, under its key on that side; twice is once.
    pub(crate) fn add(&self, tab: usize, op: Op, key: &RowKey) -> Result<(), RebaseError> {
        self.insert(tab, op, Some(key), key).map(|_| ())
    }

    /// Notes a row of the result that nothing was done to here.
    pub(crate) fn add_other(
        &self,
        tab: usize,
        key: Option<&RowKey>,
        dest: &RowKey,
    ) -> Result<Change, RebaseError> {
        let id = self.insert(tab, Op::Nothing, key, dest)?;
        self.get(tab, id)
    }

    fn insert(
        &self,
        tab: usize,
        op: Op,
        key: Option<&RowKey>,
        dest: &RowKey,
    ) -> Result<i64, RebaseError> {
        let sql = &self.sql[tab];
        let (op, rid, to) = (op as i64, key.and_then(RowKey::rowid), dest.rowid());
        let null = Cell::Null;
        let mut values: Vec<&dyn ToSql> = vec![&op, &rid, &to];
        match key {
            Some(RowKey::Columns(cells)) => values.extend(cells.iter().map(|c| c as &dyn ToSql)),
            _ => values.extend((0..sql.columns).map(|_| &null as &dyn ToSql)),
        }
        if sql.mapped {
            match dest {
                RowKey::Columns(cells) => values.extend(cells.iter().map(|c| c as &dyn ToSql)),
                RowKey::Rowid(_) => values.extend((0..sql.columns).map(|_| &null as &dyn ToSql)),
            }
        }
        self.conn
            .prepare_cached(&sql.add)
            .and_then(|mut s| s.execute(values.as_slice()))
            .map_err(failed("the list of changes"))?;
        Ok(self.conn.last_insert_rowid())
    }

    pub(crate) fn get(&self, tab: usize, id: i64) -> Result<Change, RebaseError> {
        let sql = format!("{} WHERE id = ?1", self.sql[tab].select);
        self.conn
            .prepare_cached(&sql)
            .and_then(|mut s| s.query_row([id], |row| self.change(tab, row)))
            .map_err(failed("the list of changes"))
    }

    /// The change whose row has this key in the result.
    pub(crate) fn at(&self, tab: usize, dest: &RowKey) -> Result<Option<Change>, RebaseError> {
        let sql = &self.sql[tab];
        let found = match dest {
            RowKey::Rowid(rowid) => {
                let text = format!("{} WHERE dest = ?1", sql.select);
                self.conn
                    .prepare_cached(&text)
                    .and_then(|mut s| s.query_row([rowid], |row| self.change(tab, row)).optional())
            }
            RowKey::Columns(cells) => {
                let prefix = if sql.mapped { "m" } else { "k" };
                let names: Vec<String> =
                    (0..sql.columns).map(|at| format!("{prefix}{at}")).collect();
                let text = format!("{} WHERE {}", sql.select, crate::table::equal(&names));
                self.conn.prepare_cached(&text).and_then(|mut s| {
                    s.query_row(params_from_iter(cells), |row| self.change(tab, row)).optional()
                })
            }
        };
        found.map_err(failed("the list of changes"))
    }

    /// The next changes after `after` (0 to begin with) that satisfy `filter`, in the order in which
    /// they were found.
    pub(crate) fn batch(
        &self,
        tab: usize,
        filter: &str,
        after: i64,
    ) -> Result<Vec<Change>, RebaseError> {
        let sql = format!(
            "{} WHERE id > ?1 AND ({filter}) ORDER BY id LIMIT {BATCH}",
            self.sql[tab].select
        );
        let list = || -> rusqlite::Result<Vec<Change>> {
            let mut statement = self.conn.prepare_cached(&sql)?;
            let rows = statement.query_map([after], |row| self.change(tab, row))?;
            rows.collect()
        };
        list().map_err(failed("the list of changes"))
    }

    /// Takes a change off the list.
    pub(crate) fn forget(&self, tab: usize, id: i64) -> Result<(), RebaseError> {
        self.run(&format!("DELETE FROM c{tab} WHERE id = ?1"), params![id])
    }

    pub(crate) fn set_op(&self, tab: usize, id: i64, op: Op) -> Result<(), RebaseError> {
        self.run(&format!("UPDATE c{tab} SET op = ?2 WHERE id = ?1"), params![id, op as i64])
    }

    pub(crate) fn set_dest(&self, tab: usize, id: i64, dest: &RowKey) -> Result<(), RebaseError> {
        match dest {
            RowKey::Rowid(rowid) => {
                self.run(&format!("UPDATE c{tab} SET dest = ?2 WHERE id = ?1"), params![id, rowid])
            }
            RowKey::Columns(cells) if self.sql[tab].mapped => {
                let set: Vec<String> =
                    (0..cells.len()).map(|at| format!("m{at} = ?{}", at + 2)).collect();
                let mut values: Vec<&dyn ToSql> = vec![&id];
                values.extend(cells.iter().map(|c| c as &dyn ToSql));
                self.run(
                    &format!("UPDATE c{tab} SET {} WHERE id = ?1", set.join(", ")),
                    values.as_slice(),
                )
            }
            RowKey::Columns(_) => Ok(()),
        }
    }

    /// Notes that a row has no key in the result as long as it is not written.
    pub(crate) fn set_nowhere(&self, tab: usize, id: i64) -> Result<(), RebaseError> {
        self.run(&format!("UPDATE c{tab} SET dest = NULL WHERE id = ?1"), params![id])
    }

    /// Writes back what was decided: `take`, `kind`, `flags`, `detail`.
    pub(crate) fn settle(&self, tab: usize, change: &Change) -> Result<(), RebaseError> {
        self.run(
            &format!(
                "UPDATE c{tab} SET take = ?2, kind = ?3, flags = ?4, detail = ?5 WHERE id = ?1"
            ),
            params![
                change.id,
                change.take as i64,
                change.kind.map(|k| k as i64),
                change.flags,
                change.detail
            ],
        )
    }

    /// How many rows of a table satisfy `filter`.
    pub(crate) fn count(&self, tab: usize, filter: &str) -> Result<u64, RebaseError> {
        let sql = format!("SELECT count(*) FROM c{tab} WHERE {filter}");
        Ok(self.number(&sql, [])?.unwrap_or(0).unsigned_abs())
    }

    pub(super) fn number(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
    ) -> Result<Option<i64>, RebaseError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row(values, |row| row.get(0)).optional())
            .map_err(failed("the work database"))
    }

    pub(super) fn run(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), RebaseError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut s| s.execute(values))
            .map(|_| ())
            .map_err(failed("the work database"))
    }

    fn change(&self, tab: usize, row: &Row<'_>) -> rusqlite::Result<Change> {
        const FIXED: usize = 8;
        let sql = &self.sql[tab];
        let cells = |from: usize| -> rusqlite::Result<Option<RowKey>> {
            let mut cells = Vec::with_capacity(sql.columns);
            for at in from..from + sql.columns {
                cells.push(Cell::from(row.get_ref(at)?));
            }
            let whole = sql.columns > 0 && !cells.iter().any(Cell::is_null);
            Ok(whole.then_some(RowKey::Columns(cells)))
        };
        let rid: Option<i64> = row.get(2)?;
        let to: Option<i64> = row.get(3)?;
        let key = match rid {
            Some(rid) => Some(RowKey::Rowid(rid)),
            None => cells(FIXED)?,
        };
        let dest = match to {
            Some(to) => Some(RowKey::Rowid(to)),
            None if rid.is_some() => None,
            None if sql.mapped => cells(FIXED + sql.columns)?,
            None => key.clone(),
        };
        Ok(Change {
            id: row.get(0)?,
            op: match row.get(1)? {
                1 => Op::Insert,
                2 => Op::Update,
                3 => Op::Delete,
                _ => Op::Nothing,
            },
            key,
            dest: dest.unwrap_or(RowKey::Columns(Vec::new())),
            take: match row.get(4)? {
                1 => Take::Remote,
                2 => Take::Merge,
                3 => Take::Kept,
                _ => Take::Local,
            },
            kind: row.get::<_, Option<i64>>(5)?.and_then(kind_from),
            flags: row.get(6)?,
            detail: row.get(7)?,
        })
    }
}

fn kind_from(number: i64) -> Option<ConflictKind> {
    use ConflictKind::*;
    [UpdateUpdate, UpdateDelete, DeleteUpdate, InsertInsert, Unique, ForeignKey, Check, Dropped]
        .into_iter()
        .find(|kind| *kind as i64 == number)
}

/// Turns an error of SQLite into one that says what was being worked out.
pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> RebaseError {
    RebaseError::work(what)
}

mod lists;

/// Places of tables and columns, as the work database has them.
fn int(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

fn place(int: i64) -> usize {
    usize::try_from(int).unwrap_or(usize::MAX)
}
