use super::*;
use crate::plan::Key;

fn planned(sql: &str) -> SchemaPlan {
    let open = || {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        conn
    };
    plan(&open(), &open(), &open(), &Rules::default()).unwrap()
}

fn table<'a>(plan: &'a SchemaPlan, name: &str) -> &'a TablePlan {
    plan.tables.iter().find(|t| t.result == name).unwrap()
}

#[test]
fn keys_of_all_kinds_are_found() {
    let plan = planned(
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
    assert_eq!(table(&plan, "a").key, rowid("id", false));
    assert_eq!(table(&plan, "b").key, rowid("id", true));
    let columns = |columns: &[&str], alias| Key::Columns {
        columns: columns.iter().map(|&c| c.into()).collect(),
        alias,
    };
    assert_eq!(table(&plan, "c").key, columns(&["id"], Some("rowid")));
    assert_eq!(table(&plan, "d").key, columns(&["id"], Some("rowid")));
    assert_eq!(table(&plan, "e").key, columns(&["y", "x"], None));
    assert!(table(&plan, "e").without_rowid);
    assert_eq!(table(&plan, "f").key, Key::Rowid { alias: "oid" });
    assert_eq!(table(&plan, "g").key, rowid("a AUTOINCREMENT", false));
    assert_eq!(table(&plan, "h").key, rowid("id", false));
    assert_eq!(table(&plan, "sqlite_sequence").how, How::Sequence);
}

#[test]
fn generated_columns_and_shadow_tables_are_left_out() {
    let plan = planned(
        "CREATE TABLE a(x, y AS (x+1), z AS (x+2) STORED, w);
         CREATE VIRTUAL TABLE \"t u\" USING fts5(body);
         CREATE TABLE \"t u_other\"(x);
         ANALYZE;",
    );
    let names: Vec<&str> = table(&plan, "a").columns.iter().map(|c| c.result.as_str()).collect();
    assert_eq!(names, ["x", "w"]);
    let tables: Vec<&str> = plan.tables.iter().map(|t| t.result.as_str()).collect();
    assert_eq!(tables.iter().filter(|t| t.starts_with("t u")).collect::<Vec<_>>(), [&"t u_other"]);
}

#[test]
fn parents_come_before_children_and_their_columns_are_resolved() {
    let plan = planned(
        "CREATE TABLE a(x REFERENCES B, y, z, FOREIGN KEY(y, z) REFERENCES c(q, P) ON DELETE CASCADE);
         CREATE TABLE b(id INTEGER PRIMARY KEY, loop REFERENCES b);
         CREATE TABLE c(p, q, d REFERENCES d, UNIQUE(q, p));
         CREATE TABLE d(id INTEGER PRIMARY KEY, c REFERENCES nowhere);",
    );
    let place = |name: &str| plan.tables.iter().position(|t| t.result == name).unwrap();
    assert!(place("b") < place("a"));
    assert!(place("c") < place("a"));
    assert!(place("d") < place("c"));
    let of_a: Vec<&ForeignKey> = plan.foreign_keys.iter().filter(|k| k.child == "a").collect();
    let to_c = of_a.iter().find(|k| k.parent == "c").unwrap();
    assert_eq!(to_c.columns, ["y", "z"]);
    assert_eq!(to_c.parent_columns, ["q", "p"]);
    assert_eq!(to_c.on_delete, "CASCADE");
    let to_b = of_a.iter().find(|k| k.parent == "b").unwrap();
    assert_eq!(to_b.parent_columns, ["id"]);
    assert!(plan.foreign_keys.iter().all(|k| k.child != "d"));
}
