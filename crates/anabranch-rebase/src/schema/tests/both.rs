//! Both sides changed the schema.

use super::*;

const T: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 'a'), (2, 'b');";

#[test]
fn equal_changes_are_made_once() {
    let change = "ALTER TABLE t ADD COLUMN b; CREATE TABLE u(x); CREATE INDEX i ON t(a);
                  CREATE VIEW v AS SELECT * FROM t;";
    let world = World::new(T, &format!("{change} INSERT INTO t VALUES (3, 'c', 'c')"), change);
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM t"), "1,a,- 2,b,- 3,c,c");
    assert_eq!(merged.schema(), schema(&Connection::open(world.path("local")).unwrap()));
    let drops = "DROP TABLE t";
    assert!(!World::new(T, drops, drops).merged().schema().contains_key("t"));
}

fn conflict(world: &World) -> (String, String, String, String) {
    match world.merge(&Rules::default()) {
        Err(RebaseError::SchemaConflict { kind, name, local, remote }) => {
            (kind, name, local, remote)
        }
        Err(other) => panic!("{other}"),
        Ok(merged) => panic!("merged to {:?}", merged.schema()),
    }
}

#[test]
fn different_changes_of_a_table_are_refused_with_both_statements() {
    let world = || {
        World::new(
            T,
            "ALTER TABLE t ADD COLUMN here; UPDATE t SET here = 'h' WHERE id = 1",
            "ALTER TABLE t ADD COLUMN there; UPDATE t SET there = 't'; INSERT INTO t VALUES (9, 'z', 'z')",
        )
    };
    let (kind, name, local, remote) = conflict(&world());
    assert_eq!((kind.as_str(), name.as_str()), ("table", "t"));
    assert!(local.contains("here") && !local.contains("there") && remote.contains("there"));
    let merged = world().take(Side::Remote).unwrap();
    assert_eq!(merged.text("SELECT id FROM t"), "1 2 9");
    assert_eq!(merged.conflicts.len(), 1, "what was written into the column that is gone");
    assert_eq!(merged.schema()["t"], remote);
    let merged = world().take(Side::Local).unwrap();
    assert_eq!(merged.text("SELECT id, here FROM t"), "1,h 2,- 9,-");
    assert_eq!(merged.conflicts.len(), 3);
    assert_eq!(merged.schema()["t"], local);
}

#[test]
fn a_table_dropped_on_one_side_and_written_on_the_other_is_refused() {
    let world = || World::new(T, "DROP TABLE t", "UPDATE t SET a = 'x' WHERE id = 2");
    let (_, name, local, _) = conflict(&world());
    assert_eq!((name.as_str(), local.as_str()), ("t", ""));
    let merged = world().take(Side::Local).unwrap();
    assert!(!merged.schema().contains_key("t"));
    assert_eq!(merged.conflicts.len(), 1);
    assert_eq!(merged.conflicts[0].base.as_ref().unwrap().values[1], Value::Text("b".into()));
    assert_eq!(world().take(Side::Remote).unwrap().text("SELECT a FROM t"), "a x");

    let world = || {
        World::new(T, "UPDATE t SET a = 'x' WHERE id = 2; CREATE INDEX i ON t(a)", "DROP TABLE t")
    };
    let (_, name, _, remote) = conflict(&world());
    assert_eq!((name.as_str(), remote.as_str()), ("t", ""));
    let merged = world().take(Side::Local).unwrap();
    assert_eq!(merged.text("SELECT a FROM t"), "a x");
    assert!(merged.schema().contains_key("i"));
    let merged = world().take(Side::Remote).unwrap();
    assert_eq!((merged.conflicts.len(), merged.schema().len()), (1, 0));

    // What nobody wrote goes without a word.
    assert!(
        World::new(T, "CREATE INDEX i ON t(a); DROP INDEX i", "DROP TABLE t")
            .merged()
            .schema()
            .is_empty()
    );
    assert!(World::new(T, "DROP TABLE t", "").merged().schema().is_empty());
    // Only deleting rows of a table that is gone loses nothing.
    assert!(
        World::new(T, "DROP TABLE t", "DELETE FROM t WHERE id = 1").merged().schema().is_empty()
    );
}

#[test]
fn two_tables_of_one_name_are_refused() {
    let world = || {
        World::new(
            T,
            "CREATE TABLE u(a, x); INSERT INTO u VALUES (1, 2)",
            "CREATE TABLE u(a, y); INSERT INTO u VALUES (3, 4)",
        )
    };
    assert_eq!(conflict(&world()).1, "u");
    assert_eq!(world().take(Side::Remote).unwrap().text("SELECT count(*) FROM u"), "2");
    let world = World::new(T, "ALTER TABLE t RENAME TO u", "CREATE TABLE u(x)");
    assert!(matches!(world.merge(&Rules::default()), Err(RebaseError::SchemaBroken { .. })));
}

#[test]
fn different_indices_views_and_triggers_are_refused() {
    let base = "CREATE TABLE t(a, b); CREATE VIEW v AS SELECT 1; CREATE INDEX i ON t(a);
                CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END;";
    for (kind, drop, one, two) in [
        ("view", "DROP VIEW v", "CREATE VIEW v AS SELECT 2", "CREATE VIEW v AS SELECT 3"),
        ("index", "DROP INDEX i", "CREATE INDEX i ON t(b)", "CREATE INDEX i ON t(a, b)"),
        (
            "trigger",
            "DROP TRIGGER tr",
            "CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 2; END",
            "CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 3; END",
        ),
    ] {
        let world = || World::new(base, &format!("{drop}; {one}"), &format!("{drop}; {two}"));
        assert_eq!(conflict(&world()).0, kind);
        assert!(world().take(Side::Local).unwrap().schema().values().any(|sql| sql == one));
        assert!(world().take(Side::Remote).unwrap().schema().values().any(|sql| sql == two));
        let world = World::new(base, drop, &format!("{drop}; {two}"));
        let (found, _, local, _) = conflict(&world);
        assert_eq!((found.as_str(), local.as_str()), (kind, ""));
    }
}

#[test]
fn a_view_that_one_side_broke_itself_hinders_nobody() {
    let base = format!("{T} CREATE TABLE u(x); CREATE VIEW v AS SELECT * FROM u");
    for (here, there) in [
        ("DROP TABLE u", "INSERT INTO t VALUES (3, 'c')"),
        ("INSERT INTO t VALUES (3, 'c'); CREATE INDEX i ON t(a)", "DROP TABLE u"),
    ] {
        let merged = World::new(&base, here, there).merged();
        assert_eq!(merged.text("SELECT count(*) FROM t"), "3");
        assert!(merged.schema().contains_key("v") && !merged.schema().contains_key("u"));
    }
}

#[test]
fn a_view_that_loses_its_table_is_refused() {
    let world = || World::new(T, "DROP TABLE t", "CREATE VIEW v AS SELECT a FROM t");
    match world().merge(&Rules::default()) {
        Err(RebaseError::SchemaBroken { kind, name, of, .. }) => {
            assert_eq!((kind.as_str(), name.as_str(), of), ("view", "v", Side::Remote));
        }
        other => panic!("{:?}", other.map(|m| m.schema())),
    }
    assert!(world().take(Side::Local).unwrap().schema().is_empty());

    let world = || {
        World::new(
            T,
            "CREATE TABLE log(x); CREATE TRIGGER tr AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (new.a); END",
            "ALTER TABLE t RENAME COLUMN a TO b",
        )
    };
    match world().merge(&Rules::default()) {
        Err(RebaseError::SchemaBroken { kind, of, .. }) => {
            assert_eq!((kind.as_str(), of), ("trigger", Side::Local));
        }
        other => panic!("{:?}", other.map(|m| m.schema())),
    }
    let merged = world().take(Side::Remote).unwrap();
    assert!(!merged.schema().contains_key("tr") && merged.schema().contains_key("log"));
}

#[test]
fn a_child_that_loses_its_parent_is_refused() {
    let world = World::new(T, "DROP TABLE t", "CREATE TABLE c(x REFERENCES t)");
    assert!(matches!(world.merge(&Rules::default()), Err(RebaseError::SchemaBroken { .. })));
}

#[test]
fn what_the_taken_side_made_keeps_what_it_needs() {
    let base = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 'x', 'y')";
    let makes = [
        ("CREATE VIEW v AS SELECT a FROM t", "SELECT a FROM v"),
        (
            "CREATE TABLE v(t REFERENCES t(id)); INSERT INTO v VALUES (1)",
            "SELECT 'x' FROM t, v WHERE id = v.t",
        ),
        (
            "CREATE TABLE v(x); CREATE TRIGGER tr AFTER INSERT ON v
             BEGIN UPDATE t SET a = new.x; END; INSERT INTO v VALUES ('x')",
            "SELECT a FROM t",
        ),
    ];
    let takes = [
        "DROP TABLE t",
        "ALTER TABLE t RENAME TO other",
        "ALTER TABLE t RENAME COLUMN a TO other",
        "ALTER TABLE t RENAME TO other; ALTER TABLE other ADD COLUMN more DEFAULT 1;
         ALTER TABLE other RENAME COLUMN a TO last",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t ADD COLUMN more",
    ];
    for (make, read) in makes {
        for take in takes {
            let merged = World::new(base, make, take).take(Side::Local).unwrap();
            assert_eq!(merged.text(read), "x", "{make} against {take}");
            World::new(base, take, make).take(Side::Remote).unwrap();
        }
    }
    // The other way round, names that were changed here take along what the remote made.
    for take in [takes[0], takes[4]] {
        for (make, read) in makes {
            let merged = World::new(base, take, make).take(Side::Remote).unwrap();
            assert_eq!(merged.text(read), "x", "{make} against {take}");
        }
    }
    let merged = World::new(base, makes[0].0, takes[5]).take(Side::Local).unwrap();
    assert_eq!(merged.text("SELECT * FROM t"), "1,x,y,-");
}

#[test]
fn a_unique_index_that_rows_of_the_remote_violate_is_refused() {
    let world = || World::new(T, "CREATE UNIQUE INDEX i ON t(a)", "INSERT INTO t VALUES (3, 'a')");
    assert!(matches!(world().merge(&Rules::default()), Err(RebaseError::SchemaBroken { .. })));
    assert!(!world().take(Side::Remote).unwrap().schema().contains_key("i"));
    // Rows that were put right here are put right before it counts.
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 'a'), (2, 'a')",
        "DELETE FROM t WHERE id = 2; CREATE UNIQUE INDEX i ON t(a)",
        "INSERT INTO t VALUES (3, 'b')",
    );
    assert_eq!(world.merged().text("SELECT a FROM t ORDER BY 1"), "a b");
}

#[test]
fn a_table_with_another_key_is_no_new_name_of_one_whose_page_it_got() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 'x', 'y')",
        "INSERT INTO t VALUES (2, 'here', NULL)",
        "DROP TABLE t; CREATE TABLE other(a, b); INSERT INTO other VALUES ('there', NULL)",
    );
    let merged = world.take(Side::Local).unwrap();
    assert_eq!(merged.text("SELECT a FROM t ORDER BY id"), "x here");
    assert_eq!(merged.text("SELECT a FROM other"), "there");
    assert!(merged.conflicts.is_empty());
}

#[test]
fn an_index_on_a_column_that_is_gone_is_none_on_a_text() {
    // SQLite takes a name in double quotes that no column has for a text.
    let base =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, \"b c\"); INSERT INTO t VALUES (1, 'x', 1)";
    let drops = "ALTER TABLE t DROP COLUMN \"b c\"; CREATE TABLE u(x)";
    for index in [
        "CREATE INDEX i ON t(\"b c\")",
        "CREATE INDEX i ON t([b c])",
        "CREATE UNIQUE INDEX i ON t(a, \"b c\")",
        "CREATE INDEX i ON t(a) WHERE \"b c\" > 0",
    ] {
        let refused = |world: &World, side: Side| match world.merge(&Rules::default()) {
            Err(RebaseError::SchemaBroken { kind, name, of, why }) => {
                assert_eq!((kind.as_str(), name.as_str(), of), ("index", "i", side), "{why}");
                assert!(why.contains("no such column"), "{why}");
            }
            Err(other) => panic!("{other}"),
            Ok(merged) => panic!("merged to {:?}", merged.schema()),
        };
        let (made, other) = (World::new(base, index, drops), World::new(base, drops, index));
        refused(&made, Side::Local);
        refused(&other, Side::Remote);
        for merged in [made.take(Side::Remote).unwrap(), other.take(Side::Local).unwrap()] {
            assert!(!merged.schema().contains_key("i"), "{:?}", merged.schema());
            assert_eq!(merged.text("SELECT * FROM t"), "1,x");
        }
        for merged in [made.take(Side::Local).unwrap(), other.take(Side::Remote).unwrap()] {
            assert!(merged.schema().contains_key("i") && merged.schema().contains_key("u"));
            assert_eq!(merged.text("SELECT * FROM t"), "1,x,1");
        }
    }
}

#[test]
fn an_index_with_a_text_in_double_quotes_stays_what_it_is() {
    let base =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE u(id INTEGER PRIMARY KEY, x);
                INSERT INTO t VALUES (1, 'x', 'y')";
    let make = "CREATE INDEX i ON u(\"no column\"); CREATE INDEX j ON t(a, \"no column\");
                CREATE INDEX k ON t(b COLLATE \"NOCASE\") WHERE a <> \"no column\"";
    let renames = "ALTER TABLE t RENAME COLUMN a TO c; INSERT INTO t VALUES (2, 'z', 'y')";
    let moved = "ALTER TABLE t RENAME TO w";
    let anew = "CREATE TABLE n(id INTEGER PRIMARY KEY, b, a); INSERT INTO n SELECT id, b, a FROM t;
                DROP TABLE t; ALTER TABLE n RENAME TO t";
    for other in [renames, moved, anew] {
        for world in [World::new(base, make, other), World::new(base, other, make)] {
            let merged = world.merged();
            for index in ["i", "j", "k"] {
                let schema = merged.schema();
                assert!(schema[index].contains("\"no column\""), "{other}: {schema:?}");
            }
            assert_eq!(merged.schema()["j"].contains("\"c\""), other == renames);
        }
    }
}

/// The remote's declaration of a table is taken, with its name: what refers to it keeps that.
#[test]
fn a_name_that_was_not_taken_is_not_referred_to() {
    let base = format!(
        "{T} CREATE TABLE c(id INTEGER PRIMARY KEY, t INTEGER REFERENCES t(id));
         INSERT INTO c VALUES (1, 1)"
    );
    let world = World::new(
        &base,
        "ALTER TABLE t RENAME TO u; ALTER TABLE u ADD COLUMN here; INSERT INTO c VALUES (2, 2)",
        "ALTER TABLE t ADD COLUMN there",
    );
    let merged = world.take(Side::Remote).unwrap();
    assert_eq!(merged.text("SELECT \"table\" FROM pragma_foreign_key_list('c')"), "t");
    assert_eq!(merged.rows("PRAGMA foreign_key_check").len(), 0);
    assert_eq!(merged.text("SELECT t FROM c"), "1 2");
}

/// A table of the remote's goes for one of this side: what refers to a row of it there must not be left alone.
#[test]
fn rows_that_refer_to_a_table_that_is_not_taken_are_refused() {
    let base = "CREATE TABLE p(k PRIMARY KEY, a) WITHOUT ROWID; INSERT INTO p VALUES ('old', 1);
                CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p(k) ON DELETE SET NULL)";
    let here = "DELETE FROM p; ALTER TABLE p RENAME TO q; INSERT INTO c VALUES (90, NULL)";
    let alter = "ALTER TABLE p RENAME COLUMN k TO k2";
    let world = World::new(
        base,
        here,
        &format!("{alter}; INSERT INTO p VALUES ('new', 2); INSERT INTO c VALUES (1, 'new')"),
    );
    match world.take(Side::Local) {
        Err(RebaseError::SchemaBroken { name, of, why, .. }) => {
            assert_eq!((name.as_str(), of), ("q", Side::Local));
            assert!(why.contains("table c") && why.contains("table p"), "{why}");
        }
        Err(other) => panic!("{other}"),
        Ok(merged) => panic!("merged to {:?}", merged.text("SELECT * FROM c")),
    }
    world.run("local", "INSERT INTO q(k) VALUES ('new')");
    let merged = world.take(Side::Local).unwrap();
    assert_eq!(merged.text("SELECT * FROM c"), "1,new 90,-");
    assert_eq!(merged.rows("PRAGMA foreign_key_check").len(), 0);
    // What was broken before is left as it is.
    let world = World::new(
        base,
        here,
        &format!("{alter}; INSERT INTO p VALUES ('new', 2); INSERT INTO c VALUES (1, 'nowhere')"),
    );
    assert_eq!(world.take(Side::Local).unwrap().text("SELECT * FROM c"), "1,nowhere 90,-");
}

/// This side declares a foreign key that rows of the remote's do not keep.
#[test]
fn a_new_foreign_key_that_rows_of_the_other_side_break_is_refused() {
    let base = "CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);
                CREATE TABLE c(id INTEGER PRIMARY KEY, p INT); INSERT INTO c VALUES (1, 1)";
    let anew = "CREATE TABLE n(id INTEGER PRIMARY KEY, p INT REFERENCES p(id));
                INSERT INTO n SELECT * FROM c; DROP TABLE c; ALTER TABLE n RENAME TO c";
    let world = World::new(base, anew, "INSERT INTO c VALUES (2, 77)");
    for merged in [world.merge(&Rules::default()), world.take(Side::Local)] {
        match merged {
            Err(RebaseError::SchemaBroken { name, of, why, .. }) => {
                assert_eq!((name.as_str(), of), ("c", Side::Local));
                assert!(why.contains("table p"), "{why}");
            }
            Err(other) => panic!("{other}"),
            Ok(merged) => panic!("merged to {:?}", merged.text("SELECT * FROM c")),
        }
    }
    world.run("local", "INSERT INTO p VALUES (77)");
    let merged = world.merged();
    assert_eq!(merged.text("SELECT * FROM c"), "1,1 2,77");
    assert_eq!(merged.rows("PRAGMA foreign_key_check").len(), 0);
    // What breaks it here is left as it is.
    let world = World::new(
        base,
        &format!("INSERT INTO c VALUES (3, 99); {anew}"),
        "INSERT INTO p VALUES (5)",
    );
    assert_eq!(world.merged().text("SELECT * FROM c"), "1,1 3,99");
}
