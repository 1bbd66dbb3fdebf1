//! What rows are told of tables.

use super::*;
use crate::plan::Key;

/// The plan of one schema on all sides.
fn planned(sql: &str) -> (Vec<TablePlan>, Vec<ForeignKey>) {
    let world = World::new(sql, "", "");
    let (base, local, onto) = world.open();
    onto.execute_batch("PRAGMA query_only = OFF").unwrap();
    let rules = Rules::default();
    let mut plan = plan(&base, &local, &onto, None, &rules).unwrap();
    plan.carry_before_rows(&mut |_| panic!("a conflict")).unwrap();
    assert_eq!(plan.carried, 0);
    (plan.tables.clone(), plan.foreign_keys.clone())
}

fn table<'a>(tables: &'a [TablePlan], name: &str) -> &'a TablePlan {
    tables.iter().find(|t| t.result == name).unwrap()
}

#[test]
fn keys_of_all_kinds_are_found() {
    let (tables, _) = planned(
        "CREATE TABLE a(id INTEGER PRIMARY KEY, x);
         CREATE TABLE b(id INTEGER PRIMARY KEY AUTOINCREMENT, x);
         CREATE TABLE c(id INTEGER PRIMARY KEY DESC, x);
         CREATE TABLE d(id INT PRIMARY KEY, x);
         CREATE TABLE e(x, y, PRIMARY KEY(y, x)) WITHOUT ROWID;
         CREATE TABLE f(rowid TEXT, _rowid_ TEXT);
         CREATE TABLE g(\"a AUTOINCREMENT\" INTEGER PRIMARY KEY);
         CREATE TABLE h(id INTEGER, PRIMARY KEY(id));",
    );
    let rowid =
        |column: &str, autoincrement| Key::RowidColumn { column: column.into(), autoincrement };
    assert_eq!(table(&tables, "a").key, rowid("id", false));
    assert_eq!(table(&tables, "b").key, rowid("id", true));
    let columns = |columns: &[&str], alias| Key::Columns {
        columns: columns.iter().map(|&c| c.into()).collect(),
        alias,
    };
    assert_eq!(table(&tables, "c").key, columns(&["id"], Some("rowid")));
    assert_eq!(table(&tables, "d").key, columns(&["id"], Some("rowid")));
    assert_eq!(table(&tables, "e").key, columns(&["y", "x"], None));
    assert!(table(&tables, "e").without_rowid);
    assert_eq!(table(&tables, "f").key, Key::Rowid { alias: "oid" });
    assert_eq!(table(&tables, "g").key, rowid("a AUTOINCREMENT", false));
    assert_eq!(table(&tables, "h").key, rowid("id", false));
    assert_eq!(table(&tables, "sqlite_sequence").how, How::Sequence);
}

#[test]
fn generated_columns_and_shadow_tables_are_left_out() {
    let (tables, _) = planned(
        "CREATE TABLE a(x, y AS (x+1), z AS (x+2) STORED, w);
         CREATE VIRTUAL TABLE \"t u\" USING fts5(body);
         CREATE TABLE \"t u_other\"(x);
         ANALYZE;",
    );
    let names: Vec<&str> = table(&tables, "a").columns.iter().map(|c| c.result.as_str()).collect();
    assert_eq!(names, ["x", "w"]);
    let all: Vec<&str> =
        tables.iter().filter(|t| t.how == How::Merge).map(|t| t.result.as_str()).collect();
    assert_eq!(all.iter().filter(|t| t.starts_with("t u")).collect::<Vec<_>>(), [&"t u_other"]);
}

#[test]
fn parents_come_before_children_and_their_columns_are_resolved() {
    let (tables, keys) = planned(
        "CREATE TABLE a(x REFERENCES B, y, z, FOREIGN KEY(y, z) REFERENCES c(q, P) ON DELETE CASCADE);
         CREATE TABLE b(id INTEGER PRIMARY KEY, loop REFERENCES b);
         CREATE TABLE c(p, q, d REFERENCES d, UNIQUE(q, p));
         CREATE TABLE d(id INTEGER PRIMARY KEY, c REFERENCES nowhere);",
    );
    let place = |name: &str| tables.iter().position(|t| t.result == name).unwrap();
    assert!(place("b") < place("a"));
    assert!(place("c") < place("a"));
    assert!(place("d") < place("c"));
    let of_a: Vec<&ForeignKey> = keys.iter().filter(|k| k.child == "a").collect();
    let to_c = of_a.iter().find(|k| k.parent == "c").unwrap();
    assert_eq!(to_c.columns, ["y", "z"]);
    assert_eq!(to_c.parent_columns, ["q", "p"]);
    assert_eq!(to_c.on_delete, "CASCADE");
    let to_b = of_a.iter().find(|k| k.parent == "b").unwrap();
    assert_eq!(to_b.parent_columns, ["id"]);
    assert!(keys.iter().all(|k| k.child != "d"));
}
