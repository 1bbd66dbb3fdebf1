//! Which rows of a table differ between two states: a walk over both in the order of the key. It
//! holds one row of each. Where the orders cannot be the same, each row is looked up on the other
//! side instead.

use rusqlite::{Connection, params_from_iter};

use crate::cell::{Cell, RowKey};
use crate::error::RebaseError;
use crate::objects::read;
use crate::table::{Side, Table};
use crate::work::Op;

/// Takes what was found: what was done to the row, and its key: after the change, or before it if the
/// row is gone.
pub(crate) type Sink<'a> = dyn FnMut(Op, RowKey) -> Result<(), RebaseError> + 'a;

/// A table in two states.
pub(crate) struct Pair<'a> {
    pub(crate) table: &'a Table,
    pub(crate) before: (&'a Connection, Option<&'a Side>),
    pub(crate) after: (&'a Connection, &'a Side),
}

impl<'a> Pair<'a> {
    /// The base and the local state of a table.
    pub(crate) fn here(table: &'a Table, base: &'a Connection, local: &'a Connection) -> Self {
        Self { table, before: (base, table.base.as_ref()), after: (local, &table.local) }
    }

    /// Finds all rows that differ.
    pub(crate) fn walk(&self, sink: &mut Sink<'_>) -> Result<(), RebaseError> {
        let Some(before) = self.before.1 else { return self.all_new(sink) };
        let after = self.after.1;
        if self.table.by_rowid() {
            return self.walk_rowids(before, |_| String::new(), sink);
        }
        if before.rowid.is_some() || after.rowid.is_some() {
            self.walk_rowids(before, |side| self.null(side), sink)?;
        }
        let found = if before.collations == after.collations {
            self.walk_keys(before, sink)
        } else {
            self.look_up(before, sink)
        };
        match found {
            // A collation that only the application has: rowids do as long as nothing differs.
            Err(RebaseError::Unknown { .. }) if before.rowid.is_some() && after.rowid.is_some() => {
                let every = |_: &Side| String::new();
                self.walk_rowids(before, every, &mut |_, key| self.compare(before, &key, sink))
            }
            found => found,
        }
    }

    /// The columns of the primary key on a side.
    fn key_columns<'s>(&'s self, side: &'s Side) -> impl Iterator<Item = &'s str> {
        self.table.key_at.iter().filter_map(|&at| side.columns[at].as_deref())
    }

    /// The rows that have only their rowid, as their key has a NULL in it; none if there are no rowids.
    fn null(&self, side: &Side) -> String {
        if side.rowid.is_none() {
            return "WHERE 0".to_owned();
        }
        let terms: Vec<String> =
            self.key_columns(side).map(|column| format!("{column} IS NULL")).collect();
        format!("WHERE {}", terms.join(" OR "))
    }

    fn no_null(&self, side: &Side) -> String {
        let terms: Vec<String> =
            self.key_columns(side).map(|column| format!("{column} IS NOT NULL")).collect();
        terms.join(" AND ")
    }

    /// All rows were inserted.
    fn all_new(&self, sink: &mut Sink<'_>) -> Result<(), RebaseError> {
        let (conn, side) = self.after;
        let mut list = || -> rusqlite::Result<Result<(), RebaseError>> {
            let order = side.rowid.clone().unwrap_or_else(|| side.key.join(", "));
            let mut statement = conn.prepare(&format!("{} ORDER BY {order}", side.select))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if let Err(e) = sink(Op::Insert, self.key(row)?) {
                    return Ok(Err(e));
                }
            }
            Ok(Ok(()))
        };
        list().map_err(read(self.what()))?
    }

    fn what(&self) -> String {
        format!("the rows of table {}", self.table.name())
    }

    fn key(&self, row: &rusqlite::Row<'_>) -> rusqlite::Result<RowKey> {
        if self.table.by_rowid() {
            return Ok(RowKey::Rowid(row.get(0)?));
        }
        let mut cells = Vec::with_capacity(self.table.key_at.len());
        for &at in &self.table.key_at {
            cells.push(Cell::from(row.get_ref(at + 1)?));
        }
        match row.get(0)? {
            Some(rowid) if cells.iter().any(Cell::is_null) => Ok(RowKey::Rowid(rowid)),
            _ => Ok(RowKey::Columns(cells)),
        }
    }

    /// Both in the order of the rowid.
    fn walk_rowids(
        &self,
        before: &Side,
        filter: impl Fn(&Side) -> String,
        sink: &mut Sink<'_>,
    ) -> Result<(), RebaseError> {
        let what = || read(self.what());
        let after = self.after.1;
        let sql = |side: &Side| {
            let rowid = side.rowid.as_deref().unwrap_or("1");
            format!("{} {} ORDER BY {rowid}", side.select, filter(side))
        };
        let mut old = self.before.0.prepare(&sql(before)).map_err(what())?;
        let mut new = self.after.0.prepare(&sql(after)).map_err(what())?;
        let mut old = old.query([]).map_err(what())?;
        let mut new = new.query([]).map_err(what())?;
        let mut a = old.next().map_err(what())?;
        let mut b = new.next().map_err(what())?;
        loop {
            let left: Option<i64> = a.map(|r| r.get(0)).transpose().map_err(what())?;
            let right: Option<i64> = b.map(|r| r.get(0)).transpose().map_err(what())?;
            match (left, right, a, b) {
                (Some(left), Some(right), Some(row_a), Some(row_b)) if left == right => {
                    let equal = Side::equal((before, row_a), (after, row_b), &self.table.defaults)
                        .map_err(what())?;
                    if !equal {
                        sink(Op::Update, RowKey::Rowid(left))?;
                    }
                    a = old.next().map_err(what())?;
                    b = new.next().map_err(what())?;
                }
                (Some(left), right, ..) if right.is_none_or(|right| left < right) => {
                    sink(Op::Delete, RowKey::Rowid(left))?;
                    a = old.next().map_err(what())?;
                }
                (_, Some(right), ..) => {
                    sink(Op::Insert, RowKey::Rowid(right))?;
                    b = new.next().map_err(what())?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Both in the order of the primary key. Where the two rows at hand are not the same one, one
    /// look-up tells which of them the other side lacks: so nothing here has to know how SQLite
    /// orders.
    fn walk_keys(&self, before: &Side, sink: &mut Sink<'_>) -> Result<(), RebaseError> {
        let what = || read(self.what());
        let after = self.after.1;
        let sql = |side: &Side| {
            format!("{} WHERE {} ORDER BY {}", side.select, self.no_null(side), side.key.join(", "))
        };
        let mut old = self.before.0.prepare(&sql(before)).map_err(what())?;
        let mut new = self.after.0.prepare(&sql(after)).map_err(what())?;
        let mut old = old.query([]).map_err(what())?;
        let mut new = new.query([]).map_err(what())?;
        let mut a = old.next().map_err(what())?;
        let mut b = new.next().map_err(what())?;
        loop {
            match (a, b) {
                (None, None) => return Ok(()),
                (Some(row), None) => {
                    sink(Op::Delete, self.key(row).map_err(what())?)?;
                    a = old.next().map_err(what())?;
                }
                (None, Some(row)) => {
                    sink(Op::Insert, self.key(row).map_err(what())?)?;
                    b = new.next().map_err(what())?;
                }
                (Some(row_a), Some(row_b)) => {
                    let left = self.key(row_a).map_err(what())?;
                    let right = self.key(row_b).map_err(what())?;
                    let found = if left == right {
                        Some(right.clone())
                    } else {
                        self.key_there(self.after.0, after, &left).map_err(what())?
                    };
                    match found {
                        Some(found) if found == right => {
                            let equal =
                                Side::equal((before, row_a), (after, row_b), &self.table.defaults)
                                    .map_err(what())?;
                            if !equal {
                                sink(Op::Update, right)?;
                            }
                            a = old.next().map_err(what())?;
                            b = new.next().map_err(what())?;
                        }
                        // The other side has it further on: what it has here is new.
                        Some(_) => {
                            sink(Op::Insert, right)?;
                            b = new.next().map_err(what())?;
                        }
                        None => {
                            sink(Op::Delete, left)?;
                            a = old.next().map_err(what())?;
                        }
                    }
                }
            }
        }
    }

    /// Each row is looked up on the other side.
    fn look_up(&self, before: &Side, sink: &mut Sink<'_>) -> Result<(), RebaseError> {
        let what = || read(self.what());
        let after = self.after.1;
        let mut new = self
            .after
            .0
            .prepare(&format!("{} WHERE {}", after.select, self.no_null(after)))
            .map_err(what())?;
        let mut rows = new.query([]).map_err(what())?;
        while let Some(row) = rows.next().map_err(what())? {
            let key = self.key(row).map_err(what())?;
            match before.get(self.before.0, &key, &self.table.defaults).map_err(what())? {
                None => sink(Op::Insert, key)?,
                Some(old) => {
                    let new = after.tuple(row, &self.table.defaults).map_err(what())?;
                    if !self.table.same_here(&old, &new) {
                        sink(Op::Update, key)?;
                    }
                }
            }
        }
        let mut old = self
            .before
            .0
            .prepare(&format!("{} WHERE {}", before.select, self.no_null(before)))
            .map_err(what())?;
        let mut rows = old.query([]).map_err(what())?;
        while let Some(row) = rows.next().map_err(what())? {
            let key = self.key(row).map_err(what())?;
            if self.key_there(self.after.0, after, &key).map_err(what())?.is_none() {
                sink(Op::Delete, key)?;
            }
        }
        Ok(())
    }

    /// The key as the side writes it, if it has the row: to a collation, `a` may be `A`.
    fn key_there(
        &self,
        conn: &Connection,
        side: &Side,
        key: &RowKey,
    ) -> rusqlite::Result<Option<RowKey>> {
        let RowKey::Columns(cells) = key else { return Ok(None) };
        let mut statement = conn.prepare_cached(&side.by_key)?;
        let mut rows = statement.query(params_from_iter(cells))?;
        rows.next()?.map(|row| self.key(row)).transpose()
    }
}
