//! Texts in double quotes.
//!
//! A name in double quotes that no column has is a text to SQLite, in an index as well. So an index
//! on a column that the other side dropped would be made, on a text, and nobody would be told. It is
//! made as if there were no such texts, unless it had one where it was made.
//!
//! An index that has one is nothing that `ALTER TABLE … RENAME COLUMN` can deal with: SQLite writes
//! the text in single quotes, and reads a name from that. The statement is written back as it was.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::columns::{ColumnInfo, columns};
use crate::declared::{Renames, renamed_index};
use crate::error::RebaseError;
use crate::objects::{ObjectKind, Objects};
use crate::sql::{Kind, same_name, tokens};

/// Whether the statement of an index has a text in double quotes, on a table with these columns.
pub(crate) fn in_index(sql: &str, columns: &[ColumnInfo]) -> bool {
    let all = tokens(sql);
    let Some(on) = all.iter().position(|t| t.is("ON")) else { return false };
    // The name of the table comes first.
    all.iter().enumerate().skip(on + 2).any(|(place, token)| {
        let of_another_kind =
            all[place - 1].is("COLLATE") || all.get(place + 1).is_some_and(|next| next.sign(b'('));
        token.kind == Kind::Quoted
            && token.text.starts_with('"')
            && !of_another_kind
            && token.name().is_some_and(|n| !columns.iter().any(|c| same_name(&c.name, &n)))
    })
}

/// Makes an index. `texts`: names in double quotes that no column has are texts.
pub(crate) fn make_index(onto: &Connection, sql: &str, texts: bool) -> rusqlite::Result<()> {
    let before = onto.db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL)?;
    onto.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, texts)?;
    let made = onto.execute(sql, []).map(drop);
    onto.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, before)?;
    made
}

/// Indices with such texts, by their names, and what they say when `table` has renamed a column.
pub(crate) fn after_rename(
    onto: &Connection,
    table: &str,
    from: &str,
    to: &str,
) -> Result<Vec<(String, String)>, RebaseError> {
    let mut renames = Renames::default();
    renames.add(from, to);
    let mut found = Vec::new();
    for index in Objects::read(onto)?.all.into_iter().filter(|o| o.kind == ObjectKind::Index) {
        let Some(sql) = index.sql else { continue };
        let columns = columns(onto, &index.table)
            .map_err(RebaseError::read(format!("table {}", index.table)))?;
        if in_index(&sql, &columns) {
            let renamed = same_name(&index.table, table)
                .then(|| renamed_index(&sql, &index.table, &renames))
                .flatten();
            found.push((index.name, renamed.unwrap_or(sql)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_from_names() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t(a, \"b c\", \"on\")").unwrap();
        let columns = columns(&conn, "t").unwrap();
        for (sql, texts) in [
            ("CREATE INDEX i ON t(\"A\", \"b c\" COLLATE \"NOCASE\" DESC)", false),
            ("CREATE INDEX \"on\" ON \"t\"(\"on\") WHERE \"b c\" <> 'd'", false),
            ("CREATE INDEX i ON t(\"lower\"(a), [b c], `b c`)", false),
            ("CREATE INDEX i ON t(\"d\")", true),
            ("CREATE INDEX i ON t(a) WHERE \"b c\" <> \"d\"", true),
            ("", false),
        ] {
            assert_eq!(in_index(sql, &columns), texts, "{sql}");
        }
    }
}
