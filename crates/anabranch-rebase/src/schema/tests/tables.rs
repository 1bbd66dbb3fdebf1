//! One side changed the schema.

use super::*;

const PEOPLE: &str = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, age INT);
    INSERT INTO people VALUES (1, 'ann', 30), (2, 'bob', 40);";

#[test]
fn a_column_added_here_meets_rows_of_the_remote() {
    let world = World::new(
        PEOPLE,
        "ALTER TABLE people ADD COLUMN mail TEXT DEFAULT 'none';
         UPDATE people SET mail = 'a@x' WHERE id = 1;",
        "INSERT INTO people VALUES (3, 'cid', 50); UPDATE people SET age = 41 WHERE id = 2;",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM people"), "1,ann,30,a@x 2,bob,41,none 3,cid,50,none");
    let local = schema(&Connection::open(world.path("local")).unwrap());
    assert_eq!(merged.schema(), local);
}

#[test]
fn a_column_added_at_the_remote_meets_rows_from_here() {
    let world = World::new(
        PEOPLE,
        "INSERT INTO people VALUES (3, 'cid', 50)",
        "ALTER TABLE people ADD COLUMN mail TEXT DEFAULT 'none';
         UPDATE people SET mail = 'a@x' WHERE id = 1;",
    );
    assert_eq!(
        world.merged().text("SELECT * FROM people"),
        "1,ann,30,a@x 2,bob,40,none 3,cid,50,none"
    );
}

#[test]
fn appended_columns_stand_before_constraints_and_may_be_generated() {
    let world = World::new(
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b INT, UNIQUE(b), CHECK(b > 0)) STRICT;",
        "INSERT INTO t VALUES (1, 1);
         ALTER TABLE t ADD COLUMN c INT NOT NULL DEFAULT 7;
         ALTER TABLE t ADD COLUMN d INT AS (a + c) VIRTUAL;",
        "INSERT INTO t VALUES (2, 2)",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM t ORDER BY a"), "1,1,7,8 2,2,7,9");
    let local = schema(&Connection::open(world.path("local")).unwrap());
    assert_eq!(merged.schema(), local);
}

#[test]
fn renames_here_take_along_what_the_remote_made() {
    let world = World::new(
        "CREATE TABLE \"a t\"(id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT);
         INSERT INTO \"a t\"(x) VALUES ('one'), ('two');
         CREATE TABLE child(id INTEGER PRIMARY KEY, of REFERENCES \"a t\"(id));
         CREATE VIEW seen AS SELECT x FROM \"a t\";",
        "ALTER TABLE \"a t\" RENAME TO \"b \"\"t\";
         ALTER TABLE \"b \"\"t\" RENAME COLUMN x TO \"the y\";
         INSERT INTO \"b \"\"t\"(\"the y\") VALUES ('three');",
        "INSERT INTO \"a t\"(x) VALUES ('four');
         CREATE INDEX by_x ON \"a t\"(x);
         CREATE TABLE more(of REFERENCES \"a t\"(id));
         CREATE VIEW seen_more AS SELECT x AS z FROM \"a t\";
         CREATE TRIGGER t AFTER INSERT ON \"a t\" BEGIN SELECT new.x; END;
         DELETE FROM \"a t\" WHERE x = 'one';",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT \"the y\" FROM \"b \"\"t\" ORDER BY 1"), "four three two");
    assert_eq!(merged.text("SELECT z FROM seen_more ORDER BY 1"), "four three two");
    assert_eq!(merged.text("SELECT name FROM sqlite_sequence WHERE name = 'b \"t'"), "b \"t");
    assert_eq!(merged.text("SELECT \"table\" FROM pragma_foreign_key_list('more')"), "b \"t");
    assert_eq!(merged.text("SELECT tbl_name FROM sqlite_schema WHERE name = 'by_x'"), "b \"t");
}

#[test]
fn renames_at_the_remote_are_followed_by_rows_and_indices_from_here() {
    let world = World::new(
        PEOPLE,
        "INSERT INTO people VALUES (3, 'cid', 50); CREATE INDEX by_name ON people(name, age);",
        "ALTER TABLE people RENAME TO persons; ALTER TABLE persons RENAME COLUMN name TO called;",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT called FROM persons ORDER BY id"), "ann bob cid");
    assert_eq!(merged.schema()["by_name"], "CREATE INDEX by_name ON \"persons\"(\"called\", age)");
}

#[test]
fn names_may_go_round_in_a_circle_or_change_their_spelling() {
    let world = World::new(
        "CREATE TABLE a(id INTEGER PRIMARY KEY, x, y); INSERT INTO a VALUES (1, 'x', 'y');
         CREATE TABLE b(other TEXT PRIMARY KEY); INSERT INTO b VALUES ('b');",
        "ALTER TABLE b RENAME TO c; ALTER TABLE a RENAME COLUMN x TO X;
         ALTER TABLE a RENAME COLUMN y TO z;",
        "INSERT INTO a VALUES (2, 'p', 'q'); INSERT INTO b VALUES ('bb');",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM a"), "1,x,y 2,p,q");
    assert_eq!(merged.schema()["a"], "CREATE TABLE a(id INTEGER PRIMARY KEY, X, z)");
    assert_eq!(merged.text("SELECT other FROM c ORDER BY 1"), "b bb");
}

#[test]
fn a_dropped_column_goes_and_what_the_remote_wrote_into_it_is_told() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a, b); INSERT INTO t VALUES (1, 'a', 'b'), (2, 'a', 'b');
         CREATE INDEX by_a ON t(a); CREATE TRIGGER tr AFTER DELETE ON t BEGIN SELECT 1; END;",
        "ALTER TABLE t DROP COLUMN b; UPDATE t SET a = 'here' WHERE id = 2;",
        "UPDATE t SET b = 'there' WHERE id = 1; INSERT INTO t VALUES (9, 'new', NULL); DELETE FROM t WHERE id = 9;",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM t"), "1,a 2,here");
    assert_eq!(merged.conflicts.len(), 1);
    let conflict = &merged.conflicts[0];
    assert_eq!(conflict.kind, crate::ConflictKind::Dropped);
    assert_eq!(conflict.decision, crate::Decision::Local);
    assert_eq!(conflict.key.values, [Value::Integer(1)]);
    assert_eq!(conflict.remote.as_ref().unwrap().values[2], Value::Text("there".into()));
    // The number that the remote had given away is not given again.
    assert_eq!(merged.text("SELECT seq FROM sqlite_sequence"), "9");
    assert!(merged.schema().contains_key("by_a") && merged.schema().contains_key("tr"));
}

#[test]
fn a_column_dropped_at_the_remote_and_written_here_is_told() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 'a', 'b'), (2, 'a', 'b');",
        "UPDATE t SET b = 'here' WHERE id = 1; INSERT INTO t VALUES (3, 'c', NULL), (4, 'd', 'd');",
        "ALTER TABLE t DROP COLUMN b;",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM t"), "1,a 2,a 3,c 4,d");
    let keys: Vec<&Value> = merged.conflicts.iter().map(|c| &c.key.values[0]).collect();
    assert_eq!(keys, [&Value::Integer(1), &Value::Integer(4)]);
    assert!(merged.conflicts.iter().all(|c| c.decision == crate::Decision::Remote));
}

#[test]
fn a_table_made_anew_by_a_mapper_keeps_rows_of_the_remote() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n TEXT, gone); INSERT INTO t VALUES (1, '1', 0), (2, NULL, 0);
         CREATE UNIQUE INDEX by_n ON t(n);",
        "CREATE TABLE new_t(n TEXT NOT NULL, id INTEGER PRIMARY KEY, more INT DEFAULT 5);
         INSERT INTO new_t(id, n) SELECT id, coalesce(n, 'was null') FROM t;
         DROP TABLE t; ALTER TABLE new_t RENAME TO t; CREATE UNIQUE INDEX by_n ON t(n);
         INSERT INTO t(id, n) VALUES (7, 'seven');",
        "INSERT INTO t VALUES (3, '3', NULL), (4, NULL, NULL);",
    );
    let merged = world.merged();
    assert_eq!(
        merged.text("SELECT id, n, more FROM t ORDER BY id"),
        "1,1,5 2,was null,5 3,3,5 7,seven,5"
    );
    // The remote's row that the new declaration refuses.
    let told: Vec<_> = merged.conflicts.iter().map(|c| (c.kind, c.key.values[0].clone())).collect();
    assert_eq!(told, [(crate::ConflictKind::Check, Value::Integer(4))]);
    assert!(merged.schema().contains_key("by_n"));
}

#[test]
fn a_key_that_is_new_here_takes_the_table_as_it_is_if_nobody_else_wrote_it() {
    let base = "CREATE TABLE t(name TEXT); INSERT INTO t VALUES ('a'), ('b');";
    let local = "CREATE TABLE n(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO n(id, name) SELECT rowid + 10, name FROM t;
                 DROP TABLE t; ALTER TABLE n RENAME TO t;";
    let merged = World::new(base, local, "CREATE TABLE other(x)").merged();
    assert_eq!(merged.text("SELECT * FROM t"), "11,a 12,b");
    let world = World::new(base, local, "INSERT INTO t VALUES ('c')");
    assert!(matches!(world.merge(&Rules::default()), Err(RebaseError::SchemaConflict { .. })));
    let merged = world.take(Side::Local).unwrap();
    assert_eq!(merged.text("SELECT * FROM t"), "11,a 12,b");
    assert_eq!(merged.conflicts.len(), 1);
    let merged = World::new(base, local, "INSERT INTO t VALUES ('c')").take(Side::Remote).unwrap();
    assert_eq!(merged.text("SELECT * FROM t ORDER BY 1"), "a b c");
}

#[test]
fn tables_come_and_go() {
    let world = World::new(
        "CREATE TABLE gone(x); INSERT INTO gone VALUES (1); CREATE TABLE stays(x);",
        "DROP TABLE gone; CREATE TABLE made(id INTEGER PRIMARY KEY AUTOINCREMENT, p REFERENCES made);
         INSERT INTO made(p) VALUES (NULL), (1); CREATE INDEX on_made ON made(p);
         CREATE TABLE keyed(a, b, PRIMARY KEY(b, a)) WITHOUT ROWID; INSERT INTO keyed VALUES (1, 2);
         ANALYZE;",
        "INSERT INTO stays VALUES (1)",
    );
    let merged = world.merged();
    assert!(!merged.schema().contains_key("gone"));
    assert_eq!(merged.text("SELECT * FROM made"), "1,- 2,1");
    assert_eq!(merged.text("SELECT * FROM keyed"), "1,2");
    assert!(
        merged.schema().contains_key("on_made") && merged.schema().contains_key("sqlite_stat1")
    );
    assert!(merged.schema().contains_key("sqlite_sequence"));
    assert_eq!(merged.objects, 4);
}

#[test]
fn views_triggers_and_indices_come_and_go() {
    let world = World::new(
        "CREATE TABLE t(a, b); CREATE VIEW old AS SELECT a FROM t; CREATE INDEX gone ON t(a);
         CREATE INDEX changed ON t(a); CREATE TABLE log(x);
         CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a); END;",
        "DROP INDEX gone; DROP INDEX changed; CREATE INDEX changed ON t(b) WHERE a > 1;
         DROP VIEW old; CREATE VIEW old AS SELECT b FROM t; CREATE UNIQUE INDEX e ON t(lower(a), b COLLATE NOCASE);
         CREATE TRIGGER two INSTEAD OF DELETE ON old BEGIN DELETE FROM t WHERE b = old.b; END;
         INSERT INTO t VALUES (1, 2);",
        "INSERT INTO t VALUES (3, 4); CREATE TABLE elsewhere(x); CREATE VIEW there AS SELECT * FROM elsewhere",
    );
    let merged = world.merged();
    let local = schema(&Connection::open(world.path("local")).unwrap());
    let mut expected = local;
    expected.insert("elsewhere".into(), "CREATE TABLE elsewhere(x)".into());
    expected.insert("there".into(), "CREATE VIEW there AS SELECT * FROM elsewhere".into());
    assert_eq!(merged.schema(), expected);
    // Fired once on each side, and never by the merge.
    assert_eq!(merged.text("SELECT x FROM log ORDER BY 1"), "1 3");
}

#[test]
fn root_pages_may_move() {
    let world = World::new(
        "PRAGMA auto_vacuum = FULL; CREATE TABLE first(x); CREATE TABLE a(id INTEGER PRIMARY KEY, x);
         INSERT INTO a VALUES (1, 'one'); CREATE TABLE b(y TEXT); INSERT INTO b VALUES ('b');",
        "DROP TABLE first; ALTER TABLE b RENAME TO c; CREATE TABLE d(z); INSERT INTO c VALUES ('c');",
        "INSERT INTO a VALUES (2, 'two'); CREATE TABLE e(x); INSERT INTO b VALUES ('bb');",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM a"), "1,one 2,two");
    assert_eq!(merged.text("SELECT count(*) > 1 FROM c"), "1");
    assert!(!merged.schema().contains_key("first") && !merged.schema().contains_key("b"));
}

#[test]
fn what_only_the_application_knows_is_named() {
    let world = World::new(
        "CREATE TABLE t(a)",
        "CREATE INDEX i ON t(a); PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t(mine(a))' WHERE name = 'i';",
        "INSERT INTO t VALUES (1)",
    );
    match world.merge(&Rules::default()) {
        Err(RebaseError::Unknown { kind, name, .. }) => {
            assert_eq!((kind, name.as_str()), ("function", "mine"));
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("merged"),
    }
}

#[test]
fn a_collation_of_the_application_does_no_harm_where_it_is_not_needed() {
    let base = "CREATE TABLE named(name TEXT PRIMARY KEY, x); CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 2);
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE TABLE named(name TEXT COLLATE mine PRIMARY KEY, x)' WHERE name = 'named';";
    let world = World::new(
        base,
        "ALTER TABLE t RENAME TO u; ALTER TABLE u DROP COLUMN b",
        "INSERT INTO t VALUES (3, 4); ALTER TABLE named ADD COLUMN y",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT a FROM u"), "1 3");
}

#[test]
fn names_that_are_taken_are_not_taken_again() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, anabranch_aside_1 TEXT); INSERT INTO t VALUES (1, 'a', 'b', 'x');",
        "ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t RENAME COLUMN b TO a; ALTER TABLE t RENAME COLUMN c TO b;
         CREATE TABLE n(id INTEGER PRIMARY KEY, b, a, anabranch_aside_1 TEXT, CHECK(id > 0)); INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t",
        "CREATE TABLE taken(x); ALTER TABLE taken RENAME TO anabranch_0; INSERT INTO t VALUES (2, 'aa', 'bb', 'y')",
    );
    let merged = world.merged();
    // Names that changed places are columns that changed their values, to whoever looks at names.
    assert_eq!(merged.text("SELECT id, a, b, anabranch_aside_1 FROM t"), "1,b,a,x 2,aa,bb,y");
}

#[test]
fn strict_declarations_refuse_what_does_not_fit() {
    let world = World::new(
        "CREATE TABLE t(id TEXT PRIMARY KEY, n); INSERT INTO t VALUES ('1', 1);",
        "CREATE TABLE s(id TEXT PRIMARY KEY, n INTEGER) STRICT, WITHOUT ROWID; INSERT INTO s SELECT * FROM t;
         DROP TABLE t; ALTER TABLE s RENAME TO t; INSERT INTO t VALUES ('here', 5)",
        "INSERT INTO t VALUES ('2', 2), ('3', 'three')",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM t ORDER BY 1"), "1,1 2,2 here,5");
    assert_eq!(merged.conflicts.len(), 1);
    assert_eq!(merged.conflicts[0].kind, crate::ConflictKind::Check);
}
