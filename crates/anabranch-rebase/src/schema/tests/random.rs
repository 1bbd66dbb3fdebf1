//! Any changes of schema and rows on both sides. Every value that a side wrote is unique, so that it
//! can be looked for: it is in the result, or told as a conflict.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A step: what is done, and numbers that pick to what.
type Step = (u8, u8, u8, u8);

const TABLES: [&str; 5] = ["t", "u", "Two Words", "q\"uote", "v"];
const COLUMNS: [&str; 6] = ["a", "b", "c d", "e\"f", "select", "G"];

fn any_steps(kinds: std::ops::Range<u8>) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((kinds, any::<u8>(), any::<u8>(), any::<u8>()), 0..10)
}

/// Steps below this change rows only.
const ROWS: u8 = 6;
const ALL: u8 = 20;

struct Writer<'a> {
    conn: &'a Connection,
    prefix: &'static str,
    written: u32,
    /// What was done, to be told if it fails.
    said: String,
}

fn pick<T>(all: &[T], by: u8) -> Option<&T> {
    if all.is_empty() { None } else { all.get(usize::from(by) % all.len()) }
}

/// Tables that people made, and their columns that can be written.
fn made(conn: &Connection) -> Vec<(String, Vec<String>)> {
    let names = rows(
        conn,
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')
         AND name NOT LIKE 'sqlite_%' ORDER BY name",
    );
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        _ => String::new(),
    };
    names
        .iter()
        .map(|row| {
            let name = text(&row[0]);
            let columns = rows(
                conn,
                &format!(
                    "SELECT name FROM pragma_table_xinfo('{}') WHERE hidden = 0 AND pk = 0 ORDER BY cid",
                    name.replace('\'', "''")
                ),
            );
            let columns = columns.iter().map(|row| text(&row[0])).collect();
            (name, columns)
        })
        .collect()
}

impl Writer<'_> {
    fn token(&mut self) -> String {
        self.written += 1;
        format!("{}{}", self.prefix, self.written)
    }

    /// What cannot be done is not done.
    fn step(&mut self, (kind, x, y, z): Step) {
        let tables = made(self.conn);
        let (one, other) = (pick(&tables, x), pick(&TABLES, y).map(|n| quoted(n)).unwrap());
        let new_column = pick(&COLUMNS, z).map(|n| quoted(n)).unwrap();
        let Some((name, columns)) = one else {
            self.run(&format!("CREATE TABLE {other}(id INTEGER PRIMARY KEY, {new_column})"));
            return;
        };
        let table = quoted(name);
        let column = pick(columns, y).map(|c| quoted(c));
        let token = self.token();
        match (kind, column) {
            (0..=2, Some(column)) => {
                self.run(&format!("INSERT INTO {table}({column}) VALUES ('{token}')"));
            }
            (3..=4, Some(column)) => self.run(&format!(
                "UPDATE {table} SET {column} = '{token}' WHERE rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {})",
                z % 4
            )),
            (5, _) => self.run(&format!(
                "DELETE FROM {table} WHERE rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {})",
                z % 4
            )),
            (6..=7, _) => {
                let default = if z % 2 == 0 { "DEFAULT 7" } else { "" };
                self.run(&format!("ALTER TABLE {table} ADD COLUMN {new_column} {default}"));
            }
            (8, Some(column)) => {
                self.run(&format!("ALTER TABLE {table} RENAME COLUMN {column} TO {new_column}"));
            }
            (9, Some(column)) => self.run(&format!("ALTER TABLE {table} DROP COLUMN {column}")),
            (10, _) => self.run(&format!("ALTER TABLE {table} RENAME TO {other}")),
            (11, _) => self.run(&format!("DROP TABLE {table}")),
            (12, Some(column)) => {
                self.run(&format!("CREATE INDEX \"i{x}\" ON {table}({column}) WHERE {column} > 'a'"));
            }
            (13, Some(column)) => {
                self.run(&format!("CREATE VIEW \"v{x}\" AS SELECT {column} AS w FROM {table}"));
            }
            (14, Some(column)) => self.run(&format!(
                "CREATE TRIGGER \"t{x}\" AFTER INSERT ON {table} BEGIN
                     UPDATE {table} SET {column} = new.{column} WHERE 0; END"
            )),
            (15, Some(column)) => self.run(&format!(
                "BEGIN; CREATE TABLE anew(id INTEGER PRIMARY KEY, {column} TEXT, extra{z} AS ({column} || 'x'));
                 INSERT INTO anew(id, {column}) SELECT rowid, {column} FROM {table};
                 DROP TABLE {table}; ALTER TABLE anew RENAME TO {table}; COMMIT"
            )),
            (16, _) => self.run(&format!("CREATE TABLE {other}({new_column} TEXT)")),
            (17, _) => {
                self.run(&format!("CREATE VIRTUAL TABLE {other} USING fts5({new_column}, more)"));
            }
            (18, _) => self.run("VACUUM"),
            (19, _) => self.run("ANALYZE"),
            _ => {}
        }
    }

    fn run(&mut self, sql: &str) {
        match self.conn.execute_batch(sql) {
            Ok(()) => self.said.push_str(&format!("{}: {sql};\n", self.prefix)),
            Err(_) if !self.conn.is_autocommit() => self.conn.execute_batch("ROLLBACK").unwrap(),
            Err(_) => {}
        }
    }
}

fn change(world: &World, name: &str, prefix: &'static str, steps: &[Step]) {
    let conn = Connection::open(world.path(name)).unwrap();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    conn.pragma_update(None, "synchronous", false).unwrap();
    let mut side = Writer { conn: &conn, prefix, written: 0, said: String::new() };
    for step in steps {
        side.step(*step);
    }
    let said = std::fs::read_to_string(world.path("said")).unwrap_or_default();
    std::fs::write(world.path("said"), said + &side.said).unwrap();
}

fn said(world: &World) -> String {
    std::fs::read_to_string(world.path("said")).unwrap_or_default()
}

/// What a side wrote and has.
fn written(conn: &Connection, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let shadows: BTreeSet<String> =
        rows(conn, "SELECT name FROM pragma_table_list WHERE type = 'shadow'")
            .iter()
            .map(|row| shown(&row[0]))
            .collect();
    for (name, _) in made(conn) {
        if shadows.contains(&name) {
            continue;
        }
        for row in rows(conn, &format!("SELECT * FROM {}", quoted(&name))) {
            // A generated column repeats what is written elsewhere.
            found.extend(
                row.iter().map(shown).filter(|v| v.starts_with(prefix) && !v.ends_with('x')),
            );
        }
    }
    found
}

fn told(conflicts: &[Conflict]) -> BTreeSet<String> {
    let versions = conflicts.iter().flat_map(|c| [&c.local, &c.remote].into_iter().flatten());
    versions.flat_map(|row| row.values.iter().map(shown)).collect()
}

fn nothing_is_lost(world: &World, merged: &Merged) {
    let kept = [written(&merged.conn, "L"), written(&merged.conn, "R"), told(&merged.conflicts)];
    for (name, prefix) in [("local", "L"), ("remote", "R")] {
        let conn = Connection::open(world.path(name)).unwrap();
        for value in written(&conn, prefix) {
            assert!(kept.iter().any(|k| k.contains(&value)), "{value} is lost:\n{}", said(world));
        }
    }
}

/// `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

fn of(world: &World, name: &str) -> BTreeMap<String, String> {
    let mut found = schema(&Connection::open(world.path(name)).unwrap());
    comparable(&mut found);
    found
}

/// Leaves out what is no matter of the schema: statistics, and how SQLite quotes what it renames.
fn comparable(schema: &mut BTreeMap<String, String>) {
    schema.retain(|name, _| !name.starts_with("sqlite_stat"));
    schema.values_mut().for_each(|sql| *sql = sql.replace('\'', "\""));
}

fn try_all(world: &World) {
    let (base, local, remote) = (of(world, "base"), of(world, "local"), of(world, "remote"));
    match world.merge(&Rules::default()) {
        Ok(merged) => {
            nothing_is_lost(world, &merged);
            let mut now = merged.schema();
            comparable(&mut now);
            if base == remote {
                assert_eq!(now, local, "{}", said(world));
            } else if base == local {
                assert_eq!(now, remote, "{}", said(world));
            }
        }
        Err(
            RebaseError::SchemaConflict { .. }
            | RebaseError::SchemaBroken { .. }
            | RebaseError::Unmergeable { .. },
        ) => {
            assert!(base != remote || base != local);
            for side in [Side::Local, Side::Remote] {
                match world.take(side) {
                    Ok(merged) => nothing_is_lost(world, &merged),
                    // Two tables of one name, for instance.
                    Err(RebaseError::SchemaBroken { .. } | RebaseError::Unmergeable { .. }) => {}
                    Err(other) => panic!("{other}:\n{}", said(world)),
                }
            }
        }
        Err(other) => panic!("{other}:\n{}", said(world)),
    }
}

fn started(base: &[Step]) -> World {
    let world = World::new("", "", "");
    change(&world, "base", "B", base);
    for name in ["local", "remote"] {
        std::fs::copy(world.path("base"), world.path(name)).unwrap();
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn changes_of_one_side_meet_rows_of_the_other(
        base in any_steps(0..ALL),
        local in any_steps(0..ALL),
        remote in any_steps(0..ROWS),
        turned in any::<bool>(),
        by_pages in any::<bool>(),
    ) {
        let world = World { by_pages, ..started(&base) };
        let (local, remote) = if turned { (remote, local) } else { (local, remote) };
        change(&world, "local", "L", &local);
        change(&world, "remote", "R", &remote);
        try_all(&world);
    }

    #[test]
    fn changes_of_both_sides_are_merged_or_refused(
        base in any_steps(0..ALL),
        local in any_steps(0..ALL),
        remote in any_steps(0..ALL),
        by_pages in any::<bool>(),
    ) {
        let world = World { by_pages, ..started(&base) };
        change(&world, "local", "L", &local);
        change(&world, "remote", "R", &remote);
        try_all(&world);
    }
}
