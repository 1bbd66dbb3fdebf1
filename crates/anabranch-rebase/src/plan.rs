//! What `schema` tells `rows`: which tables are replayed, how their rows are found on each side.

/// What tells a row from the others of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// The rowid, and it is the column of this name (INTEGER PRIMARY KEY); `autoincrement` if so
    /// declared.
    RowidColumn { column: String, autoincrement: bool },
    /// The rowid, which is no column. `alias` is the name under which statements can say it on all
    /// sides: one of `rowid`, `_rowid_`, `oid` that is no column.
    Rowid { alias: &'static str },
    /// The primary key of a table WITHOUT ROWID, or of one whose rowid is not its key.
    /// In such a rowid table a row with NULL in its key has only its rowid: `alias`, on the sides where
    /// the table has rowids; `None` if it has none anywhere.
    Columns { columns: Vec<String>, alias: Option<&'static str> },
}

/// A table on one side. A root of 0 means that pages do not tell which rows changed, and that the
/// table is walked whole: a virtual table that is merged through SQL on itself, or one whose rows
/// were written anew in another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableSide {
    /// Its name there.
    pub(crate) name: String,
    /// Root page of its b-tree there.
    pub(crate) root: u32,
}

/// A column of the result that holds values, and what the sides call it; `None` where a side has
/// no such column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) result: String,
    pub(crate) base: Option<String>,
    pub(crate) local: Option<String>,
    /// Its name at the remote before the schema was carried.
    pub(crate) remote: Option<String>,
}

/// How the rows of a table come into the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Row by row, under the rules.
    Merge,
    /// Row by row, exactly: only the local side changed it (a shadow table of a virtual table), and
    /// there can be no conflict. New keys are never given.
    Carry,
    /// `sqlite_sequence`: the higher of both sides' numbers. Its rows name tables as each side does.
    Sequence,
    /// `sqlite_stat1` and the like: the local rows if only the local side changed them, else the
    /// remote's.
    Statistics,
}

/// A table whose rows are replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TablePlan {
    /// `None`: created here.
    pub(crate) base: Option<TableSide>,
    pub(crate) local: TableSide,
    /// Its name at the remote before the schema was carried. `None`: it was not there.
    pub(crate) remote: Option<String>,
    /// Name in the result, after the schema was carried. Its root page may change until then.
    pub(crate) result: String,
    /// In terms of the result's columns.
    pub(crate) key: Key,
    /// All columns of the result that hold values (not generated ones), in order.
    pub(crate) columns: Vec<Column>,
    pub(crate) without_rowid: bool,
    pub(crate) how: How,
    /// For people: the virtual table whose content this is, else the same as `result`.
    pub(crate) shown_as: String,
}

/// A foreign key of the result: `child.columns` refer to `parent.parent_columns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    pub(crate) child: String,
    pub(crate) columns: Vec<String>,
    pub(crate) parent: String,
    /// Resolved: the parent's primary key where the declaration names none.
    pub(crate) parent_columns: Vec<String>,
    /// `CASCADE`, `SET NULL`, `SET DEFAULT`, `RESTRICT` or `NO ACTION`.
    pub(crate) on_delete: String,
}
