//! Virtual tables.

use super::*;

const DOCS: &str = "CREATE VIRTUAL TABLE docs USING fts5(title, body);
    INSERT INTO docs(rowid, title, body) VALUES (1, 'one', 'apple pear'), (2, 'two', 'plum');";

fn found(merged: &Merged, word: &str) -> String {
    merged.text(&format!("SELECT rowid FROM docs WHERE docs MATCH '{word}' ORDER BY rowid"))
}

#[test]
fn a_full_text_index_written_here_only_is_carried() {
    let world = World::new(
        DOCS,
        "INSERT INTO docs(rowid, title, body) VALUES (3, 'three', 'cherry'); DELETE FROM docs WHERE rowid = 2;
         UPDATE docs SET body = 'fig' WHERE rowid = 1;",
        "CREATE TABLE t(x)",
    );
    let merged = world.merged();
    assert_eq!(
        (found(&merged, "cherry"), found(&merged, "plum"), found(&merged, "fig")),
        ("3".into(), "".into(), "1".into())
    );
}

#[test]
fn rows_of_a_full_text_index_written_on_both_sides_are_merged() {
    for module in [
        "fts5(title, body)",
        "fts5(title, body UNINDEXED, prefix='2')",
        "fts4(title, body)",
        "fts3(title, body)",
    ] {
        let base = DOCS.replace("fts5(title, body)", module);
        let world = World::new(
            &base,
            "INSERT INTO docs(rowid, title, body) VALUES (3, 'cherry', NULL); UPDATE docs SET title = 'fig' WHERE rowid = 1;",
            "INSERT INTO docs(rowid, title, body) VALUES (4, 'date', ''); DELETE FROM docs WHERE rowid = 2;",
        );
        let merged = world.merged();
        assert_eq!(
            merged.text("SELECT rowid, title FROM docs ORDER BY rowid"),
            "1,fig 3,cherry 4,date",
            "{module}"
        );
        assert_eq!(
            (
                found(&merged, "cherry"),
                found(&merged, "date"),
                found(&merged, "two"),
                found(&merged, "one")
            ),
            ("3".into(), "4".into(), "".into(), "".into()),
            "{module}"
        );
    }
}

#[test]
fn an_index_over_another_table_is_built_anew() {
    for module in ["fts5(body, content='t', content_rowid='id')", "fts4(body, content=\"t\")"] {
        let world = World::new(
            &format!(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, body); CREATE VIRTUAL TABLE docs USING {module};
                 CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO docs(rowid, body) VALUES (new.id, new.body); END;
                 INSERT INTO t VALUES (1, 'apple');"
            ),
            "INSERT INTO t VALUES (2, 'pear')",
            "INSERT INTO t VALUES (3, 'plum')",
        );
        let merged = world.merged();
        assert_eq!(
            (found(&merged, "apple"), found(&merged, "pear"), found(&merged, "plum")),
            ("1".into(), "2".into(), "3".into())
        );
    }
}

#[test]
fn an_index_that_was_built_anew_is_not_taken_for_the_one_before() {
    let anew = |row: &str| {
        format!("UPDATE t SET body = '{row}'; INSERT INTO docs(docs) VALUES ('rebuild')")
    };
    let world = World::new(
        &format!(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, body); INSERT INTO t VALUES (1, 'apple');
             CREATE VIRTUAL TABLE docs USING fts5(body, content='t', content_rowid='id');
             {}",
            anew("apple")
        ),
        "INSERT INTO t VALUES (2, 'pear'); INSERT INTO docs(rowid, body) VALUES (2, 'pear')",
        // The index has as many parts, rows and words as before.
        &anew("grape"),
    );
    let merged = world.merged();
    let all = ["apple", "grape", "pear"].map(|word| found(&merged, word));
    assert_eq!(all, ["", "1", "2"]);
    merged
        .conn
        .execute("INSERT INTO docs(docs, rank) VALUES ('integrity-check', 1)", [])
        .expect("the index says what the rows say");
}

#[test]
fn an_index_without_rows_cannot_be_merged() {
    let base = "CREATE VIRTUAL TABLE docs USING fts5(body, content=''); INSERT INTO docs(rowid, body) VALUES (1, 'apple')";
    let here = "INSERT INTO docs(rowid, body) VALUES (2, 'pear')";
    let there = "INSERT INTO docs(rowid, body) VALUES (3, 'plum')";
    let world = || World::new(base, here, there);
    match world().merge(&Rules::default()) {
        Err(RebaseError::Unmergeable { table, .. }) => assert_eq!(table, "docs"),
        other => panic!("{:?}", other.map(|m| m.schema())),
    }
    let merged = world().take(Side::Local).unwrap();
    assert_eq!((found(&merged, "pear"), found(&merged, "plum")), ("2".into(), "".into()));
    let merged = world().take(Side::Remote).unwrap();
    assert_eq!((found(&merged, "pear"), found(&merged, "plum")), ("".into(), "3".into()));
    assert_eq!(found(&World::new(base, here, "").merged(), "pear"), "2");
    assert_eq!(found(&World::new(base, "", there).merged(), "plum"), "3");
}

#[test]
fn an_r_tree_is_merged_by_its_rows() {
    let base = "CREATE VIRTUAL TABLE docs USING rtree(id, x0, x1, +what);
                INSERT INTO docs VALUES (1, 0.5, 1.5, 'a'), (2, 2, 3, 'b');";
    let here = "INSERT INTO docs VALUES (3, 10, 11.1, 'here'); UPDATE docs SET what = 'changed' WHERE id = 1";
    let there = "INSERT INTO docs VALUES (4, 20, 21, 'there'); DELETE FROM docs WHERE id = 2";
    let sql = "SELECT id, what FROM docs ORDER BY id";
    assert_eq!(World::new(base, here, there).merged().text(sql), "1,changed 3,here 4,there");
    assert_eq!(World::new(base, here, "").merged().text(sql), "1,changed 2,b 3,here");
    assert_eq!(World::new(base, "", there).merged().text(sql), "1,a 4,there");
}

#[test]
fn virtual_tables_come_go_and_change_their_names() {
    let world = World::new("CREATE TABLE t(x)", DOCS, "INSERT INTO t VALUES (1)");
    let merged = world.merged();
    assert_eq!(found(&merged, "plum"), "2");
    assert_eq!(merged.schema(), schema(&Connection::open(world.path("local")).unwrap()));

    let world = World::new(DOCS, "DROP TABLE docs", "CREATE TABLE t(x)");
    assert_eq!(world.merged().schema().len(), 1);
    let world = World::new(DOCS, "DROP TABLE docs", "DELETE FROM docs WHERE rowid = 1");
    assert!(matches!(world.merge(&Rules::default()), Err(RebaseError::SchemaConflict { .. })));

    let world = World::new(
        DOCS,
        "ALTER TABLE docs RENAME TO papers; INSERT INTO papers(rowid, title) VALUES (5, 'fig')",
        "INSERT INTO docs(rowid, title) VALUES (6, 'kiwi')",
    );
    let merged = world.merged();
    assert_eq!(
        merged.text("SELECT rowid FROM papers WHERE papers MATCH 'fig OR kiwi' ORDER BY 1"),
        "5 6"
    );

    let world = World::new(
        DOCS,
        "DROP TABLE docs; CREATE VIRTUAL TABLE docs USING fts5(title, tokenize='porter'); INSERT INTO docs(rowid, title) VALUES (1, 'running')",
        "CREATE TABLE t(x)",
    );
    assert_eq!(found(&world.merged(), "run"), "1");
}

#[test]
fn an_unknown_module_is_carried_but_never_merged() {
    // Its shadow is whatever is named like one.
    let base = "CREATE TABLE v_data(k INTEGER PRIMARY KEY, x); INSERT INTO v_data VALUES (1, 'a');
         PRAGMA writable_schema = ON;
         INSERT INTO sqlite_schema VALUES ('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING nobody_has(it)');";
    let here = "INSERT INTO v_data VALUES (2, 'here')";
    let there = "INSERT INTO v_data VALUES (3, 'there')";
    let sql = "SELECT x FROM v_data ORDER BY k";
    assert_eq!(World::new(base, here, "CREATE TABLE t(x)").merged().text(sql), "a here");
    assert_eq!(World::new(base, "CREATE TABLE t(x)", there).merged().text(sql), "a there");
    match World::new(base, here, there).merge(&Rules::default()) {
        Err(RebaseError::Unmergeable { table, why }) => {
            assert_eq!(table, "v");
            assert!(why.contains("nobody_has"));
        }
        other => panic!("{:?}", other.map(|m| m.schema())),
    }
    let merged = World::new(base, here, there).take(Side::Local).unwrap();
    assert_eq!(merged.text(sql), "a here");
    let merged = World::new("CREATE TABLE t(x)", base, "INSERT INTO t VALUES (1)").merged();
    assert_eq!(merged.text(sql), "a");
    assert!(merged.schema().contains_key("v"));
    let rename = "ALTER TABLE v_data RENAME TO w_data; PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET name = 'w', tbl_name = 'w', sql = 'CREATE VIRTUAL TABLE w USING nobody_has(it)' WHERE name = 'v'";
    let merged = World::new(base, rename, there).merged();
    assert_eq!(merged.text("SELECT x FROM w_data ORDER BY k"), "a there");
    assert!(World::new(base, "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'v'; PRAGMA writable_schema = RESET; DROP TABLE v_data", "CREATE TABLE t(x)").merged().schema().len() == 1);
}
