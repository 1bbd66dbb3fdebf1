//! Foreign keys as declared, and the order of tables that follows from them.

use rusqlite::Connection;

use crate::columns::Table;
use crate::error::RebaseError;
use crate::plan::ForeignKey;
use crate::sql::same_name;

/// The foreign keys of `tables`, all of one state. Those that refer to no table, to columns that
/// are not there, or to a key of another length are left out: SQLite cannot enforce them either.
pub(crate) fn foreign_keys(
    conn: &Connection,
    tables: &[&Table],
) -> Result<Vec<ForeignKey>, RebaseError> {
    let mut found = Vec::new();
    for child in tables {
        let declared = declared(conn, &child.name)
            .map_err(RebaseError::read(format!("the foreign keys of table {}", child.name)))?;
        found.extend(declared.into_iter().filter_map(|key| resolved(child, key, tables)));
    }
    Ok(found)
}

/// Foreign keys that refer to a table that is not there: the child and the parent.
pub(crate) fn dangling(
    conn: &Connection,
    tables: &[&Table],
) -> Result<Vec<(String, String)>, RebaseError> {
    let mut found = Vec::new();
    for child in tables {
        let declared = declared(conn, &child.name)
            .map_err(RebaseError::read(format!("the foreign keys of table {}", child.name)))?;
        let missing = declared
            .into_iter()
            .filter(|key| tables.iter().all(|t| !same_name(&t.name, &key.parent)))
            .map(|key| (child.name.clone(), key.parent));
        found.extend(missing);
    }
    Ok(found)
}

/// A foreign key as SQLite lists it.
struct Declared {
    id: i64,
    parent: String,
    on_delete: String,
    columns: Vec<String>,
    /// `None`: the parent's primary key is meant.
    parent_columns: Option<Vec<String>>,
}

fn declared(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Declared>> {
    let mut statement = conn.prepare_cached(
        "SELECT id, \"table\", on_delete, \"from\", \"to\"
         FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq",
    )?;
    let mut rows = statement.query([table])?;
    let mut found: Vec<Declared> = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let to: Option<String> = row.get(4)?;
        let column: String = row.get(3)?;
        match found.last_mut() {
            Some(last) if last.id == id => {
                last.columns.push(column);
                if let (Some(columns), Some(to)) = (&mut last.parent_columns, to) {
                    columns.push(to);
                }
            }
            _ => found.push(Declared {
                id,
                parent: row.get(1)?,
                on_delete: row.get(2)?,
                columns: vec![column],
                parent_columns: to.map(|to| vec![to]),
            }),
        }
    }
    Ok(found)
}

fn resolved(child: &Table, declared: Declared, tables: &[&Table]) -> Option<ForeignKey> {
    let parent = tables.iter().find(|t| same_name(&t.name, &declared.parent))?;
    let named = |table: &Table, columns: &[String]| -> Option<Vec<String>> {
        columns.iter().map(|name| table.column(name).map(|c| c.name.clone())).collect()
    };
    let parent_columns = match &declared.parent_columns {
        Some(columns) => named(parent, columns)?,
        None => parent.key.clone(),
    };
    let columns = named(child, &declared.columns)?;
    (columns.len() == parent_columns.len()).then(|| ForeignKey {
        child: child.name.clone(),
        columns,
        parent: parent.name.clone(),
        parent_columns,
        on_delete: declared.on_delete,
    })
}

/// The places of `names` in an order that has parents before children. Where tables refer to each
/// other in a circle, the first of them comes first.
pub(crate) fn parents_first(names: &[&str], keys: &[ForeignKey]) -> Vec<usize> {
    let place = |name: &str| names.iter().position(|n| same_name(n, name));
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
    for key in keys {
        if let (Some(child), Some(parent)) = (place(&key.child), place(&key.parent)) {
            parents[child].push(parent);
        }
    }
    let mut order = Vec::with_capacity(names.len());
    let mut seen = vec![false; names.len()];
    for start in 0..names.len() {
        // Depth first with a stack of its own: a chain of tables may be long.
        let mut stack = vec![(start, 0)];
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        while let Some((table, next)) = stack.last_mut() {
            match parents[*table].get(*next) {
                Some(&parent) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[parent], true) {
                        stack.push((parent, 0));
                    }
                }
                None => {
                    order.push(*table);
                    stack.pop();
                }
            }
        }
    }
    order
}
