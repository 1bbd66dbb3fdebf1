//! The objects of a schema, as `sqlite_schema` lists them.

use rusqlite::Connection;

use crate::error::RebaseError;
use crate::sql::{Kind, same_name, tokens};

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKind {
    Table,
    Index,
    View,
    Trigger,
}

impl ObjectKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Index => "index",
            Self::View => "view",
            Self::Trigger => "trigger",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Table, Self::Index, Self::View, Self::Trigger].into_iter().find(|k| k.name() == name)
    }
}

/// A row of `sqlite_schema`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) kind: ObjectKind,
    pub(crate) name: String,
    /// The table that an index or trigger belongs to; its own name for others.
    pub(crate) table: String,
    /// Root page; 0 for what has no b-tree.
    pub(crate) root: u32,
    /// Absent for the indices that a table's declaration implies.
    pub(crate) sql: Option<String>,
    /// The module, if it is a virtual table.
    pub(crate) module: Option<String>,
}

/// All objects of one side, in the order in which they stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    pub(crate) all: Vec<Object>,
}

impl Objects {
    /// Reads them. Rows of no known type, which SQLite ignores as well, are left out.
    pub(crate) fn read(conn: &Connection) -> Result<Self, RebaseError> {
        let rows = || -> rusqlite::Result<Vec<Option<Object>>> {
            let mut statement = conn.prepare(
                "SELECT type, name, tbl_name, rootpage, sql FROM main.sqlite_schema ORDER BY rowid",
            )?;
            statement
                .query_map([], |row| {
                    let Some(kind) = ObjectKind::named(&row.get::<_, String>(0)?) else {
                        return Ok(None);
                    };
                    let sql: Option<String> = row.get(4)?;
                    Ok(Some(Object {
                        kind,
                        name: row.get(1)?,
                        table: row.get(2)?,
                        root: row.get::<_, Option<u32>>(3)?.unwrap_or(0),
                        module: sql.as_deref().and_then(module),
                        sql,
                    }))
                })?
                .collect()
        };
        let all = rows().map_err(RebaseError::read("the schema"))?.into_iter().flatten().collect();
        Ok(Self { all })
    }

    pub(crate) fn of_kind(&self, kind: ObjectKind) -> impl Iterator<Item = &Object> {
        self.all.iter().filter(move |o| o.kind == kind)
    }

    pub(crate) fn find(&self, kind: ObjectKind, name: &str) -> Option<&Object> {
        self.of_kind(kind).find(|o| same_name(&o.name, name))
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Object> {
        self.find(ObjectKind::Table, name)
    }

    /// The virtual table whose shadow this table is. SQLite knows the shadows of modules that are
    /// linked in; of others, whatever is named like one counts as one.
    pub(crate) fn owner_of_shadow(&self, table: &str) -> Option<&Object> {
        self.of_kind(ObjectKind::Table).find(|owner| {
            let Some(module) = &owner.module else { return false };
            let Some(suffix) = suffix(table, &owner.name) else { return false };
            match shadow_suffixes(module) {
                Some(known) => known.iter().any(|k| same_name(k, suffix)),
                None => true,
            }
        })
    }
}

/// What follows `prefix_` in a name.
fn suffix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let head = name.get(..prefix.len())?;
    same_name(head, prefix).then(|| name[prefix.len()..].strip_prefix('_')).flatten()
}

/// The shadow tables of the modules that come with SQLite; `None`: an unknown module.
pub(crate) fn shadow_suffixes(module: &str) -> Option<&'static [&'static str]> {
    match module.to_ascii_lowercase().as_str() {
        "fts5" => Some(&["data", "idx", "content", "docsize", "config"]),
        "fts3" | "fts4" => Some(&["content", "segments", "segdir", "docsize", "stat"]),
        "rtree" | "rtree_i32" | "geopoly" => Some(&["node", "parent", "rowid"]),
        "fts5vocab" | "fts4aux" | "fts3tokenize" | "dbstat" => Some(&[]),
        _ => None,
    }
}

/// Tables that SQLite keeps for itself.
pub(crate) fn is_internal(name: &str) -> bool {
    name.get(..7).is_some_and(|head| same_name(head, "sqlite_"))
}

/// The module of a `CREATE VIRTUAL TABLE`.
fn module(sql: &str) -> Option<String> {
    let tokens = tokens(sql);
    let is_virtual =
        tokens.first()?.is("CREATE") && tokens.get(1)?.is("VIRTUAL") && tokens.get(2)?.is("TABLE");
    if !is_virtual {
        return None;
    }
    let using = tokens.iter().skip(4).position(|t| t.kind == Kind::Word && t.is("USING"))?;
    tokens.get(4 + using + 1)?.name()
}

/// Turns an error of SQLite into one that says what was read.
pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> RebaseError {
    RebaseError::read(what)
}
