//! Three copies of one database, changed by SQL, and what the schema of the result is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::OptionalExtension;
use rusqlite::config::DbConfig;
use rusqlite::types::Value;

use super::*;

mod both;
mod plans;
mod random;
mod tables;
mod virtuals;

/// Three files: the base, and two that started from it.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new(base: &str, local: &str, remote: &str) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        world.run("base", base);
        for (name, sql) in [("local", local), ("remote", remote)] {
            std::fs::copy(world.path("base"), world.path(name)).unwrap();
            world.run(name, sql);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What an application does: triggers fire, foreign keys are not enforced.
    fn run(&self, name: &str, sql: &str) {
        let conn = Connection::open(self.path(name)).unwrap();
        conn.pragma_update(None, "foreign_keys", false).unwrap();
        conn.pragma_update(None, "synchronous", false).unwrap();
        conn.execute_batch(
            "CREATE TABLE IF NOT EXISTS anabranch_test(x); DROP TABLE anabranch_test",
        )
        .unwrap();
        conn.execute_batch(sql).unwrap();
    }

    /// Connections as a rebase has them.
    fn open(&self) -> (Connection, Connection, Connection) {
        let open = |name| {
            let conn = Connection::open(self.path(name)).unwrap();
            for off in [
                DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
                DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY,
                DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
                DbConfig::SQLITE_DBCONFIG_DEFENSIVE,
            ] {
                conn.set_db_config(off, false).unwrap();
            }
            conn.execute_batch("PRAGMA cell_size_check = ON").unwrap();
            conn
        };
        let (base, local) = (open("base"), open("local"));
        for conn in [&base, &local] {
            conn.execute_batch("PRAGMA query_only = ON").unwrap();
        }
        let onto = open("remote");
        onto.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF").unwrap();
        (base, local, onto)
    }

    /// Merges into the remote's file.
    fn merge(&self, rules: &Rules) -> Result<Merged, RebaseError> {
        let (base, local, onto) = self.open();
        let mut conflicts = Vec::new();
        let mut journal = |conflict| {
            conflicts.push(conflict);
            Ok(())
        };
        let mut plan = plan(&base, &local, &onto, rules)?;
        plan.carry_before_rows(&mut journal)?;
        for table in &plan.tables {
            replay(table, &base, &local, &onto);
        }
        plan.carry_after_rows()?;
        drop(plan);
        drop(onto);
        let conn = Connection::open(self.path("remote")).unwrap();
        sound(&conn);
        Ok(Merged { conn, conflicts })
    }

    /// Merges without a rule for schemas.
    fn merged(&self) -> Merged {
        self.merge(&Rules::default()).unwrap()
    }

    fn take(&self, side: Side) -> Result<Merged, RebaseError> {
        self.merge(&Rules { take_schema: Some(side), ..Rules::default() })
    }
}

struct Merged {
    conn: Connection,
    conflicts: Vec<Conflict>,
}

impl Merged {
    /// Statements of the schema, by name.
    fn schema(&self) -> BTreeMap<String, String> {
        schema(&self.conn)
    }

    fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        rows(&self.conn, sql)
    }

    /// Rows as text: values with commas, rows with blanks between them.
    fn text(&self, sql: &str) -> String {
        let row = |row: Vec<Value>| {
            let values: Vec<String> = row.into_iter().map(|v| shown(&v)).collect();
            values.join(",")
        };
        self.rows(sql).into_iter().map(row).collect::<Vec<_>>().join(" ")
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Integer(i) => i.to_string(),
        Value::Real(r) => r.to_string(),
        Value::Text(t) => t.clone(),
        Value::Blob(b) => format!("{b:02x?}"),
    }
}

fn schema(conn: &Connection) -> BTreeMap<String, String> {
    let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL";
    let mut statement = conn.prepare(sql).unwrap();
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    found.collect::<rusqlite::Result<_>>().unwrap()
}

fn rows(conn: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let found =
        statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).unwrap();
    found.collect::<rusqlite::Result<_>>().unwrap()
}

/// What must hold of any result.
fn sound(conn: &Connection) {
    let said: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
    let mut left =
        conn.prepare("SELECT name FROM sqlite_schema WHERE name LIKE 'anabranch_aside%'").unwrap();
    assert!(!left.exists([]).unwrap());
    let virtuals = conn
        .prepare("SELECT name, sql FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE%'")
        .unwrap()
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .unwrap()
        .collect::<rusqlite::Result<Vec<_>>>()
        .unwrap();
    for (name, sql) in virtuals {
        let quoted = quoted(&name);
        let check = if sql.contains("fts5(") {
            format!("INSERT INTO {quoted}({quoted}, rank) VALUES ('integrity-check', 1)")
        } else if sql.contains("fts4(") {
            format!("INSERT INTO {quoted}({quoted}) VALUES ('integrity-check')")
        } else if sql.contains("rtree(") {
            format!("SELECT rtreecheck('{name}') WHERE rtreecheck('{name}') <> 'ok'")
        } else {
            continue;
        };
        match conn.prepare(&check) {
            Ok(mut check) if check.column_count() > 0 => assert!(!check.exists([]).unwrap()),
            Ok(mut check) => {
                check.execute([]).unwrap();
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// Rows of the local side in place of those of the base, as simply as it can be said: conflicts
/// between rows are not what is tested here.
fn replay(table: &TablePlan, base: &Connection, local: &Connection, onto: &Connection) {
    use crate::plan::Key;
    let keys: Vec<String> = match &table.key {
        Key::RowidColumn { column, .. } => vec![column.clone()],
        Key::Rowid { alias } => vec![(*alias).to_owned()],
        Key::Columns { columns, .. } => columns.clone(),
    };
    if matches!(table.how, How::Sequence | How::Statistics) {
        return;
    }
    let extra = matches!(table.key, Key::Rowid { .. }).then(|| keys[0].clone());
    let result: Vec<String> =
        extra.iter().cloned().chain(table.columns.iter().map(|c| c.result.clone())).collect();
    let read = |conn: &Connection, name: &str, of: fn(&Column) -> &Option<String>| {
        let named = |c: &String| {
            let column = table.columns.iter().find(|column| column.result == *c);
            match column {
                Some(column) => of(column).as_deref().map_or("NULL".to_owned(), quoted),
                None => c.clone(),
            }
        };
        let list: Vec<String> = keys.iter().chain(&result).map(named).collect();
        let sql = format!("SELECT {} FROM {}", list.join(", "), quoted(name));
        let all = rows(conn, &sql).into_iter().map(|mut row| {
            let values = row.split_off(keys.len());
            (format!("{row:?}"), (row, values))
        });
        all.collect::<BTreeMap<_, _>>()
    };
    let before = match &table.base {
        Some(side) => read(base, &side.name, |c| &c.base),
        None => BTreeMap::new(),
    };
    let after = read(local, &table.local.name, |c| &c.local);
    let condition: Vec<String> = keys.iter().map(|k| format!("{} IS ?", quoted(k))).collect();
    let from = quoted(&table.result);
    let delete = format!("DELETE FROM {from} WHERE {}", condition.join(" AND "));
    let here: Vec<usize> = (0..result.len())
        .filter(|&at| {
            table.columns.iter().find(|c| c.result == result[at]).is_none_or(|c| c.local.is_some())
        })
        .collect();
    let list: Vec<String> = here.iter().map(|&at| quoted(&result[at])).collect();
    let places = vec!["?"; list.len()].join(", ");
    let list = list.join(", ");
    let insert = format!("INSERT INTO {from} ({list}) VALUES ({places})");
    let get = format!("SELECT {list} FROM {from} WHERE {}", condition.join(" AND "));
    for (key, (values, _)) in &before {
        if !after.contains_key(key) {
            onto.execute(&delete, rusqlite::params_from_iter(values)).unwrap();
        }
    }
    for (key, (values, row)) in &after {
        let old = before.get(key).map(|(_, old)| old);
        if old == Some(row) {
            continue;
        }
        let now = onto
            .query_row(&get, rusqlite::params_from_iter(values), |row| {
                (0..here.len())
                    .map(|at| row.get::<_, Value>(at))
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .optional()
            .unwrap();
        // What the base had and this side left alone is as the remote has it.
        let value = |(place, &at): (usize, &usize)| match (old, &now) {
            (Some(old), Some(now)) if old[at] == row[at] => now[place].clone(),
            _ => row[at].clone(),
        };
        let row: Vec<Value> = here.iter().enumerate().map(value).collect();
        onto.execute(&delete, rusqlite::params_from_iter(values)).unwrap();
        onto.execute(&insert, rusqlite::params_from_iter(row)).unwrap();
    }
}
