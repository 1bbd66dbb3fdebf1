//! What a table is made of, on one side.

use rusqlite::Connection;

use crate::error::RebaseError;
use crate::objects::Object;
use crate::plan::Key;
use crate::sql::{quoted, same_name, tokens};

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnInfo {
    pub(crate) name: String,
    /// The declared type, as it is written.
    pub(crate) declared: String,
    /// Whether NULL is refused.
    pub(crate) not_null: bool,
    /// The expression of its default.
    pub(crate) default: Option<String>,
    /// Place in the primary key, from 1; 0: not in it.
    pub(crate) in_key: u32,
    /// Computed from other columns, stored or not: never written.
    pub(crate) generated: bool,
    /// Of a virtual table, and not among the columns of `*`.
    pub(crate) hidden: bool,
}

/// An ordinary table on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) root: u32,
    pub(crate) columns: Vec<ColumnInfo>,
    pub(crate) without_rowid: bool,
    pub(crate) strict: bool,
    /// The primary key in its order; empty if there is none.
    pub(crate) key: Vec<String>,
    /// Whether the rowid is the one column of the key.
    pub(crate) rowid_is_key: bool,
    pub(crate) autoincrement: bool,
}

/// The names under which statements can say a rowid.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

impl Table {
    /// Reads what SQLite says of a table.
    pub(crate) fn read(conn: &Connection, object: &Object) -> Result<Self, RebaseError> {
        let what = || format!("the columns of table {}", object.name);
        let (without_rowid, strict): (bool, bool) = conn
            .prepare_cached("SELECT wr, strict FROM pragma_table_list(?1) WHERE schema = 'main'")
            .and_then(|mut s| s.query_row([&object.name], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(RebaseError::read(what()))?;
        let columns = columns(conn, &object.name).map_err(RebaseError::read(what()))?;
        let mut key: Vec<&ColumnInfo> = columns.iter().filter(|c| c.in_key > 0).collect();
        key.sort_by_key(|c| c.in_key);
        let key: Vec<String> = key.into_iter().map(|c| c.name.clone()).collect();
        // A key that is the rowid has no index of its own. The type alone does not tell: the rowid
        // is no INTEGER PRIMARY KEY DESC.
        let rowid_is_key = !without_rowid
            && key.len() == 1
            && !has_key_index(conn, &object.name).map_err(RebaseError::read(what()))?;
        let autoincrement = rowid_is_key
            && object
                .sql
                .as_deref()
                .is_some_and(|sql| tokens(sql).iter().any(|t| t.is("AUTOINCREMENT")));
        Ok(Self {
            name: object.name.clone(),
            root: object.root,
            columns,
            without_rowid,
            strict,
            key,
            rowid_is_key,
            autoincrement,
        })
    }

    /// The columns that hold values.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &ColumnInfo> {
        self.columns.iter().filter(|c| !c.generated && !c.hidden)
    }

    pub(crate) fn column(&self, name: &str) -> Option<&ColumnInfo> {
        self.columns.iter().find(|c| same_name(&c.name, name))
    }

    /// Whether its key can be compared: its collations may be the application's.
    pub(crate) fn orders_by_key(&self, conn: &Connection) -> Result<(), RebaseError> {
        if self.key.is_empty() {
            return Ok(());
        }
        let key: Vec<String> = self.key.iter().map(|c| quoted(c)).collect();
        let (name, key) = (quoted(&self.name), key.join(", "));
        conn.prepare(&format!("SELECT 1 FROM main.{name} ORDER BY {key}"))
            .map(drop)
            .map_err(RebaseError::read(format!("table {}", self.name)))
    }

    /// What tells its rows apart; `others` are the same table on the other sides. `None`: its rowid
    /// cannot be said on all sides, since columns have taken all of its names.
    pub(crate) fn key(&self, others: &[&Self]) -> Option<Key> {
        if self.rowid_is_key {
            let column = self.key.first()?.clone();
            return Some(Key::RowidColumn { column, autoincrement: self.autoincrement });
        }
        let alias = ROWID_NAMES.into_iter().find(|name| {
            self.column(name).is_none() && others.iter().all(|other| other.column(name).is_none())
        });
        if self.key.is_empty() {
            return alias.map(|alias| Key::Rowid { alias });
        }
        let rowids = [self].into_iter().chain(others.iter().copied()).any(|t| !t.without_rowid);
        let alias = if rowids { Some(alias?) } else { None };
        Some(Key::Columns { columns: self.key.clone(), alias })
    }
}

/// The columns of a table or view, generated and hidden ones included.
pub(crate) fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<ColumnInfo>> {
    let mut statement = conn.prepare_cached(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden
         FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
    )?;
    let found = statement.query_map([table], |row| {
        let hidden: u32 = row.get(5)?;
        Ok(ColumnInfo {
            name: row.get(0)?,
            declared: row.get(1)?,
            not_null: row.get(2)?,
            default: row.get(3)?,
            in_key: row.get(4)?,
            generated: hidden > 1,
            hidden: hidden == 1,
        })
    })?;
    found.collect()
}

fn has_key_index(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS(SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk')",
    )?
    .query_row([table], |row| row.get(0))
}
