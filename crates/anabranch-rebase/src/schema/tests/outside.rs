//! Full-text indices over another table's rows. What any result must have, `sound`, has the index
//! compared with the rows.

use super::*;

const PARENT: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, body, more);
    CREATE TABLE child(id INTEGER PRIMARY KEY, t REFERENCES t(id));";

const FOLLOWS: &str = "
    CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO docs(rowid, body) VALUES (new.id, new.body); END;
    CREATE TRIGGER ad AFTER DELETE ON t BEGIN INSERT INTO docs(docs, rowid, body) VALUES ('delete', old.id, old.body); END;
    CREATE TRIGGER au AFTER UPDATE OF body ON t BEGIN INSERT INTO docs(docs, rowid, body) VALUES ('delete', old.id, old.body);
        INSERT INTO docs(rowid, body) VALUES (new.id, new.body); END;";

fn base() -> String {
    format!(
        "{PARENT} CREATE VIRTUAL TABLE docs USING fts5(body, content='t', content_rowid='id'); {FOLLOWS}
         INSERT INTO t VALUES (1, 'apple', ''), (2, 'pear', '');"
    )
}

fn found(merged: &Merged, word: &str) -> String {
    merged.text(&format!("SELECT rowid FROM docs WHERE docs MATCH '{word}' ORDER BY rowid"))
}

/// What tells whether an index is the one that was there.
fn structure(conn: &Connection) -> Vec<Vec<Value>> {
    rows(conn, "SELECT hex(block) FROM docs_data WHERE id = 10")
}

#[test]
fn a_row_that_comes_back_is_found() {
    // Deleted at the remote, and referred to here: the index is the remote's.
    let world =
        World::new(&base(), "INSERT INTO child VALUES (1, 1)", "DELETE FROM t WHERE id = 1");
    let merged = world.merged();
    assert_eq!(merged.text("SELECT id FROM t"), "1 2");
    assert_eq!(found(&merged, "apple"), "1");

    // Deleted here, and referred to there: the index is the local one.
    let world =
        World::new(&base(), "DELETE FROM t WHERE id = 1", "INSERT INTO child VALUES (1, 1)");
    let merged = world.merged();
    assert_eq!(merged.text("SELECT id FROM t"), "1 2");
    assert_eq!(found(&merged, "apple"), "1");
}

#[test]
fn an_index_that_is_new_on_one_side_has_the_rows_of_both() {
    let new = "CREATE VIRTUAL TABLE docs USING fts5(body, content='t', content_rowid='id');
               INSERT INTO docs(docs) VALUES ('rebuild');";
    let new = format!("{new} {FOLLOWS}");
    let base = format!("{PARENT} INSERT INTO t VALUES (1, 'apple', '')");
    let row = "INSERT INTO t VALUES (2000, 'pear', '')";
    for (here, there) in [(new.as_str(), row), (row, new.as_str())] {
        let merged = World::new(&base, here, there).merged();
        assert_eq!((found(&merged, "apple"), found(&merged, "pear")), ("1".into(), "2000".into()));
    }
}

#[test]
fn an_index_over_a_view_follows_the_tables_of_the_view() {
    let base = "CREATE TABLE t(id INTEGER PRIMARY KEY, body);
         CREATE TABLE child(id INTEGER PRIMARY KEY, t REFERENCES t(id));
         CREATE VIEW v AS SELECT id, upper(body) AS body FROM t;
         CREATE VIRTUAL TABLE docs USING fts5(body, content='v', content_rowid='id');
         INSERT INTO t VALUES (1, 'apple'), (2, 'pear'); INSERT INTO docs(docs) VALUES ('rebuild')";
    let gone = "DELETE FROM t WHERE id = 1; INSERT INTO docs(docs) VALUES ('rebuild')";
    let world = World::new(base, "INSERT INTO child VALUES (1, 1)", gone);
    assert_eq!(found(&world.merged(), "apple"), "1");
}

#[test]
fn an_index_stays_as_it_is_if_its_rows_do() {
    let index = |world: &World, name: &str| structure(&Connection::open(world.path(name)).unwrap());
    // A column that is not in the index was changed here, and the index at the remote.
    let world = World::new(
        &base(),
        "UPDATE t SET more = 'x' WHERE id = 2",
        "UPDATE t SET body = 'fig' WHERE id = 1",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT body, more FROM t"), "fig, pear,x");
    assert_eq!(structure(&merged.conn), index(&world, "remote"));

    // The other way round.
    let world = World::new(
        &base(),
        "UPDATE t SET body = 'fig' WHERE id = 1",
        "UPDATE t SET more = 'x' WHERE id = 2",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT body, more FROM t"), "fig, pear,x");
    assert_eq!(structure(&merged.conn), index(&world, "local"));
}
