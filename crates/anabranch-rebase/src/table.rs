//! A table with the statements that read it on each side, and its rows in the terms of the result.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use crate::cell::{Cell, RowKey, Tuple, same};
use crate::conflict::Row;
use crate::error::RebaseError;
use crate::objects::read;
use crate::plan::{How, Key, TablePlan};
use crate::sql::{quoted, same_name};

/// A table as one side has it.
#[derive(Debug)]
pub(crate) struct Side {
    /// Its name in quotes.
    pub(crate) from: String,
    /// For each column of the result, its name here in quotes.
    pub(crate) columns: Vec<Option<String>>,
    /// What says the rowid, if there is one.
    pub(crate) rowid: Option<String>,
    /// The primary key, in quotes and with its collations; empty if rows are told apart by the rowid.
    pub(crate) key: Vec<String>,
    /// The collations of the key, as its index has them.
    pub(crate) collations: Vec<String>,
    /// Reads the rowid (or NULL) and all columns (or NULL), of all rows.
    pub(crate) select: String,
    by_rowid: String,
    pub(crate) by_key: String,
    names: Arc<[String]>,
}

/// A table whose rows are replayed.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its place among the tables.
    pub(crate) index: usize,
    pub(crate) plan: TablePlan,
    /// Where the columns of the key stand among the columns. Empty for a rowid that is none.
    pub(crate) key_at: Vec<usize>,
    pub(crate) base: Option<Side>,
    pub(crate) local: Side,
    /// In the remote's state, before the schema was carried. `None`: the table was made here.
    pub(crate) remote: Option<Side>,
    pub(crate) result: Side,
    /// What stands for a column on a side that lacks it: its default.
    pub(crate) defaults: Vec<Cell>,
}

/// Connections to the four states, as far as tables are read from them.
#[derive(Clone, Copy)]
pub(crate) struct States<'a> {
    pub(crate) base: &'a Connection,
    pub(crate) local: &'a Connection,
    pub(crate) remote: &'a Connection,
    pub(crate) onto: &'a Connection,
}

impl Table {
    pub(crate) fn new(
        index: usize,
        plan: TablePlan,
        states: States<'_>,
    ) -> Result<Self, RebaseError> {
        let result_names: Vec<Option<&str>> =
            plan.columns.iter().map(|c| Some(c.result.as_str())).collect();
        let base_names: Vec<Option<&str>> =
            plan.columns.iter().map(|c| c.base.as_deref()).collect();
        let local_names: Vec<Option<&str>> =
            plan.columns.iter().map(|c| c.local.as_deref()).collect();
        let key_at = match &plan.key {
            Key::RowidColumn { column, .. } => vec![place(&plan, column)?],
            Key::Rowid { .. } => Vec::new(),
            Key::Columns { columns, .. } => {
                columns.iter().map(|c| place(&plan, c)).collect::<Result<_, _>>()?
            }
        };
        let remote_names: Vec<Option<&str>> =
            plan.columns.iter().map(|c| c.remote.as_deref()).collect();
        let remote = match &plan.remote {
            Some(name) => Some(Side::new(states.remote, name, &remote_names, &key_at, &plan)?),
            None => None,
        };
        let base = match &plan.base {
            Some(base) => Some(Side::new(states.base, &base.name, &base_names, &key_at, &plan)?),
            None => None,
        };
        let local = Side::new(states.local, &plan.local.name, &local_names, &key_at, &plan)?;
        let result = Side::new(states.onto, &plan.result, &result_names, &key_at, &plan)?;
        let mut defaults = Vec::with_capacity(plan.columns.len());
        for column in &plan.columns {
            let here = match (&column.local, &column.base, column.remote.is_some()) {
                (_, Some(_), true) if column.local.is_some() => None,
                (Some(name), ..) => Some((states.local, plan.local.name.as_str(), name.as_str())),
                (None, ..) => Some((states.onto, plan.result.as_str(), column.result.as_str())),
            };
            defaults.push(match here {
                Some((conn, table, column)) => default_of(conn, table, column)?,
                None => Cell::Null,
            });
        }
        Ok(Self { index, key_at, base, local, remote, result, defaults, plan })
    }

    /// The name that people know it by.
    pub(crate) fn name(&self) -> &str {
        &self.plan.shown_as
    }

    /// Whether rows are told apart by the rowid alone.
    pub(crate) fn by_rowid(&self) -> bool {
        matches!(self.plan.key, Key::RowidColumn { .. } | Key::Rowid { .. })
    }

    /// Whether its rowid is no column, and there is no other key.
    pub(crate) fn keyless(&self) -> bool {
        matches!(self.plan.key, Key::Rowid { .. })
    }

    /// Where the column stands that is the rowid.
    pub(crate) fn rowid_column(&self) -> Option<usize> {
        match self.plan.key {
            Key::RowidColumn { .. } => self.key_at.first().copied(),
            _ => None,
        }
    }

    pub(crate) fn autoincrement(&self) -> bool {
        matches!(self.plan.key, Key::RowidColumn { autoincrement: true, .. })
    }

    pub(crate) fn exact(&self) -> bool {
        self.plan.how == How::Carry
    }

    pub(crate) fn position(&self, column: &str) -> Option<usize> {
        self.plan.columns.iter().position(|c| same_name(&c.result, column))
    }

    /// Whether the local side has the column.
    pub(crate) fn here(&self, column: usize) -> bool {
        self.local.columns[column].is_some()
    }

    pub(crate) fn key_of(&self, row: &Tuple) -> RowKey {
        match row.rowid {
            Some(rowid) if self.by_rowid() => RowKey::Rowid(rowid),
            Some(rowid) if self.key_at.iter().any(|&at| row.cells[at].is_null()) => {
                RowKey::Rowid(rowid)
            }
            _ => RowKey::Columns(self.key_at.iter().map(|&at| row.cells[at].clone()).collect()),
        }
    }

    /// Whether a row that was found under a key is told by it. A rowid tells a row of a table with another
    /// key only if that key has a NULL in it.
    pub(crate) fn is_told_by(&self, row: &Tuple, key: &RowKey) -> bool {
        key.rowid().is_none() || self.key_of(row) == *key
    }

    /// Whether what the local side can say of two rows is the same.
    pub(crate) fn same_here(&self, a: &Tuple, b: &Tuple) -> bool {
        (0..a.cells.len()).all(|at| !self.here(at) || a.cells[at] == b.cells[at])
    }

    /// A row for people, of a side: with the columns that the side has.
    pub(crate) fn row(&self, side: &Side, tuple: &Tuple) -> Row {
        let shows_rowid = self.keyless();
        let rowid = tuple.rowid.filter(|_| shows_rowid).map(rusqlite::types::Value::Integer);
        let cells = tuple
            .cells
            .iter()
            .zip(&side.columns)
            .filter(|(_, column)| column.is_some())
            .map(|(cell, _)| cell.to_value());
        Row { columns: Arc::clone(&side.names), values: rowid.into_iter().chain(cells).collect() }
    }

    /// A key for people.
    pub(crate) fn key_row(&self, key: &RowKey) -> Row {
        let (columns, values): (Vec<String>, Vec<_>) = match key {
            RowKey::Rowid(rowid) => {
                let name = match self.rowid_column() {
                    Some(at) => self.plan.columns[at].result.clone(),
                    None => "rowid".to_owned(),
                };
                (vec![name], vec![rusqlite::types::Value::Integer(*rowid)])
            }
            RowKey::Columns(cells) => (
                self.key_at.iter().map(|&at| self.plan.columns[at].result.clone()).collect(),
                cells.iter().map(Cell::to_value).collect(),
            ),
        };
        Row { columns: columns.into(), values }
    }
}

impl Side {
    fn new(
        conn: &Connection,
        name: &str,
        names: &[Option<&str>],
        key_at: &[usize],
        plan: &TablePlan,
    ) -> Result<Self, RebaseError> {
        let columns: Vec<Option<String>> = names.iter().map(|n| n.map(quoted)).collect();
        let key = key_at
            .iter()
            .map(|&at| {
                columns[at].clone().ok_or_else(|| RebaseError::Unmergeable {
                    table: plan.shown_as.clone(),
                    why: format!("{} is in its key on one side only", plan.columns[at].result),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (rowid, key) = match &plan.key {
            Key::RowidColumn { .. } => (key.into_iter().next(), Vec::new()),
            Key::Rowid { alias } => (Some((*alias).to_owned()), Vec::new()),
            Key::Columns { alias, .. } => {
                let rowids =
                    has_rowids(conn, name).map_err(read(format!("the columns of table {name}")))?;
                (alias.filter(|_| rowids).map(str::to_owned), key)
            }
        };
        let collations = if key.is_empty() {
            Vec::new()
        } else {
            collations(conn, name, key.len())
                .map_err(read(format!("the primary key of table {name}")))?
        };
        let key: Vec<String> =
            key.iter().zip(&collations).map(|(c, by)| format!("{c} COLLATE {by}")).collect();
        let from = quoted(name);
        let list: Vec<&str> = std::iter::once(rowid.as_deref())
            .chain(columns.iter().map(Option::as_deref))
            .map(|c| c.unwrap_or("NULL"))
            .collect();
        let select = format!("SELECT {} FROM main.{from}", list.join(", "));
        let by_rowid = match &rowid {
            Some(rowid) => format!("{select} WHERE {rowid} = ?1"),
            None => String::new(),
        };
        let by_key = format!("{select} WHERE {}", equal(&key));
        let shown = matches!(plan.key, Key::Rowid { .. }).then(|| "rowid".to_owned());
        let names = shown
            .into_iter()
            .chain(
                plan.columns
                    .iter()
                    .zip(&columns)
                    .filter(|(_, here)| here.is_some())
                    .map(|(column, _)| column.result.clone()),
            )
            .collect();
        Ok(Self { from, columns, rowid, key, collations, select, by_rowid, by_key, names })
    }

    /// The row with this key.
    pub(crate) fn get(
        &self,
        conn: &Connection,
        key: &RowKey,
        defaults: &[Cell],
    ) -> rusqlite::Result<Option<Tuple>> {
        match key {
            RowKey::Rowid(_) if self.rowid.is_none() => Ok(None),
            RowKey::Rowid(rowid) => conn
                .prepare_cached(&self.by_rowid)?
                .query_row([rowid], |row| self.tuple(row, defaults))
                .optional(),
            RowKey::Columns(cells) if cells.len() != self.key.len() => Ok(None),
            RowKey::Columns(cells) => conn
                .prepare_cached(&self.by_key)?
                .query_row(params_from_iter(cells), |row| self.tuple(row, defaults))
                .optional(),
        }
    }

    /// A row that [`select`](Self::select) has read.
    pub(crate) fn tuple(
        &self,
        row: &rusqlite::Row<'_>,
        defaults: &[Cell],
    ) -> rusqlite::Result<Tuple> {
        let mut cells = Vec::with_capacity(self.columns.len());
        for (at, column) in self.columns.iter().enumerate() {
            cells.push(match column {
                Some(_) => Cell::from(row.get_ref(at + 1)?),
                None => defaults[at].clone(),
            });
        }
        Ok(Tuple { rowid: row.get(0)?, cells })
    }

    /// Whether two rows that are being read, one of each side, are equal in what `b` has.
    pub(crate) fn equal(
        (a, row_a): (&Self, &rusqlite::Row<'_>),
        (b, row_b): (&Self, &rusqlite::Row<'_>),
        defaults: &[Cell],
    ) -> rusqlite::Result<bool> {
        for (at, default) in defaults.iter().enumerate() {
            if b.columns[at].is_none() {
                continue;
            }
            let there = row_b.get_ref(at + 1)?;
            let equal = match a.columns[at] {
                Some(_) => same(row_a.get_ref(at + 1)?, there),
                None => same(default.as_ref(), there),
            };
            if !equal {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// `a = ?1 AND b = ?2`, for columns in quotes.
pub(crate) fn equal(columns: &[String]) -> String {
    let terms: Vec<String> =
        columns.iter().enumerate().map(|(at, c)| format!("{c} = ?{}", at + 1)).collect();
    if terms.is_empty() { "1".to_owned() } else { terms.join(" AND ") }
}

/// The collations of a primary key, in quotes: those of its index, which may be others than those of
/// its columns.
fn collations(conn: &Connection, table: &str, count: usize) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare_cached(
        "SELECT x.coll FROM pragma_index_list(?1, 'main') AS i,
                pragma_index_xinfo(i.name, 'main') AS x
         WHERE i.origin = 'pk' AND x.key ORDER BY x.seqno",
    )?;
    let rows = statement.query_map([table], |row| row.get::<_, String>(0))?;
    let mut found = rows.map(|c| c.map(|c| quoted(&c))).collect::<Result<Vec<_>, _>>()?;
    found.resize(count, quoted("BINARY"));
    Ok(found)
}

fn has_rowids(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT NOT wr FROM pragma_table_list(?1) WHERE schema = 'main'")?
        .query_row([table], |row| row.get(0))
}

fn place(plan: &TablePlan, column: &str) -> Result<usize, RebaseError> {
    plan.columns.iter().position(|c| same_name(&c.result, column)).ok_or_else(|| {
        RebaseError::Unmergeable {
            table: plan.shown_as.clone(),
            why: format!("the column {column} of its key is computed"),
        }
    })
}

/// What rows have in a column that was added to them. An expression that is not constant cannot be
/// the default of such a column. It is asked of a table of its own, so that the column's affinity
/// counts.
pub(crate) fn default_of(
    conn: &Connection,
    table: &str,
    column: &str,
) -> Result<Cell, RebaseError> {
    let what = || format!("the default of {table}.{column}");
    let found: Option<(String, Option<String>)> = conn
        .prepare_cached(
            "SELECT type, dflt_value FROM pragma_table_xinfo(?1, 'main')
             WHERE name = ?2 COLLATE NOCASE",
        )
        .and_then(|mut s| {
            s.query_row([table, column], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(read(what()))?;
    let Some((declared, Some(default))) = found else { return Ok(Cell::Null) };
    let scratch = Connection::open_in_memory().map_err(read(what()))?;
    scratch
        .execute(&format!("CREATE TABLE d(a, x {declared} DEFAULT {default})"), [])
        .or_else(|_| scratch.execute(&format!("CREATE TABLE d(a, x DEFAULT {default})"), []))
        .and_then(|_| scratch.execute("INSERT INTO d(a) VALUES (1)", []))
        .and_then(|_| scratch.query_row("SELECT x FROM d", [], |row| Ok(row.get_ref(0)?.into())))
        .map_err(read(what()))
}
