//! Rows of a table that differ between two states whose tables may be declared differently. Only for
//! tables and columns that one side dropped: the table is read to its end.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use crate::cell::same;
use crate::columns::Table;
use crate::conflict::Row;
use crate::error::RebaseError;
use crate::sql::quoted;
use crate::values::{Raw, shown};

/// A table in a state, as far as it is compared.
pub(crate) struct Part<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) table: &'a str,
    /// What finds a row; as many as the other part has.
    pub(crate) key: Vec<String>,
    /// Compared one by one with the other part's; `None`: the part has no such column, which counts
    /// as NULL.
    pub(crate) compared: Vec<Option<String>>,
    /// The columns of a row that is told.
    pub(crate) shown: Vec<String>,
}

/// A row that differs: what it was, if it was there, and what it is.
pub(crate) struct Differs {
    pub(crate) key: Row,
    pub(crate) before: Option<Row>,
    pub(crate) after: Row,
}

impl Part<'_> {
    fn list(&self) -> String {
        let named = |name: &String| quoted(name);
        let compared = self.compared.iter().map(|c| c.as_ref().map_or("NULL".into(), named));
        let all = self.key.iter().map(named).chain(compared).chain(self.shown.iter().map(named));
        all.collect::<Vec<_>>().join(", ")
    }

    fn row(&self, row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
        let from = self.key.len() + self.compared.len();
        let values: rusqlite::Result<Vec<Value>> =
            (from..from + self.shown.len()).map(|at| row.get_ref(at).map(shown)).collect();
        Ok(Row { columns: self.shown.clone().into(), values: values? })
    }
}

/// Gives `each` the rows of `after` that are not in `before`, or differ there; it may end the walk
/// by answering `false`. Without `before`, all rows are new. A new row whose compared columns are
/// all NULL says nothing in them, and does not count unless all of its columns are compared.
pub(crate) fn differing(
    before: Option<&Part<'_>>,
    after: &Part<'_>,
    each: &mut dyn FnMut(Differs) -> Result<bool, RebaseError>,
) -> Result<(), RebaseError> {
    let reading = |part: &Part<'_>| RebaseError::read(format!("table {}", part.table));
    let mut lookup = match before {
        None => None,
        Some(before) => {
            let condition: Vec<String> =
                before.key.iter().map(|k| format!("{} IS ?", quoted(k))).collect();
            let sql = format!(
                "SELECT {} FROM main.{} WHERE {}",
                before.list(),
                quoted(before.table),
                condition.join(" AND ")
            );
            Some((before, before.conn.prepare(&sql).map_err(reading(before))?))
        }
    };
    let whole = after.compared.len() == after.shown.len();
    let walk = format!("SELECT {} FROM main.{}", after.list(), quoted(after.table));
    let mut walk = after.conn.prepare(&walk).map_err(reading(after))?;
    let mut rows = walk.query([]).map_err(reading(after))?;
    let keys = after.key.len();
    let names: Arc<[String]> = after.key.clone().into();
    while let Some(row) = rows.next().map_err(reading(after))? {
        let mut look = || -> rusqlite::Result<Option<Differs>> {
            let key = (0..keys).map(|at| row.get_ref(at).map(Raw));
            let key = key.collect::<rusqlite::Result<Vec<_>>>()?;
            let compared = keys..keys + after.compared.len();
            let mut old = None;
            if let Some((before, lookup)) = &mut lookup {
                let mut found = lookup.query(rusqlite::params_from_iter(&key))?;
                if let Some(found) = found.next()? {
                    let mut equal = true;
                    for at in compared.clone() {
                        equal &= same(found.get_ref(at)?, row.get_ref(at)?);
                    }
                    if equal {
                        return Ok(None);
                    }
                    old = Some(before.row(found)?);
                }
            }
            if old.is_none() && !whole {
                let mut empty = true;
                for at in compared {
                    empty &= row.get_ref(at)? == ValueRef::Null;
                }
                if empty {
                    return Ok(None);
                }
            }
            let values = key.iter().map(|value| shown(value.0)).collect();
            let key = Row { columns: Arc::clone(&names), values };
            Ok(Some(Differs { key, before: old, after: after.row(row)? }))
        };
        let differs = look().map_err(reading(after))?;
        if let Some(differs) = differs
            && !each(differs)?
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether two tables of the same make hold the same rows, among those with `condition`, in the same
/// order. Rowids that are no column do not count.
pub(crate) fn same_rows(
    (a, table_a): (&Connection, &Table),
    (b, table_b): (&Connection, &Table),
    condition: &str,
) -> Result<bool, RebaseError> {
    let names = |table: &Table| table.stored().map(|c| c.name.clone()).collect::<Vec<_>>();
    let columns = names(table_a);
    if columns != names(table_b) {
        return Ok(false);
    }
    let select = |table: &Table| {
        let list =
            |names: &[String]| names.iter().map(|n| quoted(n)).collect::<Vec<_>>().join(", ");
        let mut sql = format!(
            "SELECT {} FROM main.{} NOT INDEXED WHERE {condition}",
            list(&columns),
            quoted(&table.name)
        );
        // Other tables come in the order of their rowids, whatever their keys are.
        if table.without_rowid || table.rowid_is_key {
            sql.push_str(" ORDER BY ");
            sql.push_str(&list(&table.key));
        }
        sql
    };
    let compare = || -> rusqlite::Result<bool> {
        let (mut a, mut b) = (a.prepare(&select(table_a))?, b.prepare(&select(table_b))?);
        let (mut a, mut b) = (a.query([])?, b.query([])?);
        loop {
            match (a.next()?, b.next()?) {
                (None, None) => return Ok(true),
                (Some(a), Some(b)) => {
                    for at in 0..columns.len() {
                        if !same(a.get_ref(at)?, b.get_ref(at)?) {
                            return Ok(false);
                        }
                    }
                }
                _ => return Ok(false),
            }
        }
    };
    compare().map_err(RebaseError::read(format!("table {}", table_a.name)))
}
