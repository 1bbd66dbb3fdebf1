//! Nobody has the state any more that both sides started from.

use super::*;

/// Notes on many pages, and some in tables with keys of other kinds.
const BASE: &str = "CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT, done INT);
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
        INSERT INTO note SELECT n, 'note ' || n || hex(zeroblob(40)), 0 FROM n;
    CREATE TABLE tag(name TEXT PRIMARY KEY, color TEXT) WITHOUT ROWID;
    INSERT INTO tag VALUES ('a', 'red'), ('b', 'green');
    CREATE TABLE bare(x);
    INSERT INTO bare VALUES ('first'), ('second');";

fn body(done: &Done, id: i64) -> Vec<String> {
    done.rows(&format!("SELECT rtrim(body, '0') FROM note WHERE id = {id}"))
}

#[test]
fn what_was_written_here_is_added_and_what_others_changed_or_deleted_elsewhere_stands() {
    let local = "INSERT INTO note VALUES (5000, 'new here', 0); UPDATE note SET body = 'here' WHERE id = 1000;
        INSERT INTO tag VALUES ('c', 'blue'); INSERT INTO bare VALUES ('third')";
    let remote = "UPDATE note SET body = 'there' WHERE id IN (10, 1000); DELETE FROM note WHERE id IN (20, 1600);
        INSERT INTO note VALUES (6000, 'new there', 0); DELETE FROM tag WHERE name = 'b'; INSERT INTO bare VALUES ('other')";
    let done = Case::new(BASE, local, remote).run_without_base().unwrap();
    for (id, expected) in [
        (5000, vec!["new here"]),
        (6000, vec!["new there"]),
        (10, vec!["there"]),
        (20, vec![]),
        (1600, vec![]),
        // The remote's version stands, the local one is in the journal.
        (1000, vec!["there"]),
    ] {
        assert_eq!(body(&done, id), expected, "{id}");
    }
    assert_eq!(done.told(), [(ConflictKind::InsertInsert, Decision::Remote)]);
    let Some(local) = &done.journal[0].local else { panic!("{:?}", done.journal) };
    assert!(format!("{local:?}").contains("\"here\""), "{local:?}");
    // On the page of a row that was written here: nobody knows which side has deleted it, or not.
    assert_eq!(done.rows("SELECT name FROM tag"), ["a", "b", "c"]);
    let bare = done.rows("SELECT x FROM bare ORDER BY x");
    assert_eq!(bare, ["first", "other", "second", "third"]);
    let inserted = |table: &str| done.summary.tables[table].inserted;
    assert_eq!((inserted("note"), inserted("tag"), inserted("bare")), (1, 2, 1));
}

#[test]
fn new_rows_under_one_number_are_two_if_the_rules_say_so() {
    let local = "INSERT INTO note VALUES (2001, 'here', 0)";
    let remote = "INSERT INTO note VALUES (2001, 'there', 0)";
    let told = Case::new(BASE, local, remote).run_without_base().unwrap();
    assert_eq!(body(&told, 2001), ["there"]);
    assert_eq!(told.told(), [(ConflictKind::InsertInsert, Decision::Remote)]);

    let both = Case::new(BASE, local, remote).insert("note", InsertRule::Renumber);
    let done = both.run_without_base().unwrap();
    assert_eq!((body(&done, 2001), body(&done, 2002)), (vec!["there".into()], vec!["here".into()]));
    let whose = Case::new(BASE, local, remote).insert("note", InsertRule::Local);
    assert_eq!(body(&whose.run_without_base().unwrap(), 2001), ["there"]);
}

#[test]
fn the_remotes_schema_stands_and_what_only_one_side_has_stays() {
    let local = "CREATE TABLE mine(x); INSERT INTO mine VALUES (1);
        ALTER TABLE tag ADD COLUMN size; UPDATE tag SET size = 3 WHERE name = 'a'";
    let remote =
        "CREATE TABLE theirs(x); INSERT INTO theirs VALUES (2); ALTER TABLE tag ADD COLUMN weight;
        CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('found')";
    let done = Case::new(BASE, local, remote).run_without_base().unwrap();
    assert_eq!(done.rows("SELECT mine.x, theirs.x FROM mine, theirs"), ["1|2"]);
    assert_eq!(done.rows("SELECT name FROM pragma_table_info('tag')"), ["name", "color", "weight"]);
    assert_eq!(done.rows("SELECT x FROM f WHERE f MATCH 'found'"), ["found"]);
}

#[test]
fn full_text_and_shared_references_fit_together() {
    let base = "CREATE VIRTUAL TABLE page USING fts5(title);
        INSERT INTO page(rowid, title) VALUES (1, 'rivers'), (2, 'lakes');
        CREATE TABLE owner(id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE boat(id INTEGER PRIMARY KEY, owner REFERENCES owner(id), name TEXT);
        INSERT INTO owner VALUES (1, 'ann'), (2, 'bob');";
    let local = "INSERT INTO page(rowid, title) VALUES (3, 'ponds'); INSERT INTO boat VALUES (7, 2, 'swan')";
    let remote =
        "INSERT INTO page(rowid, title) VALUES (4, 'seas'); INSERT INTO boat VALUES (8, 1, 'duck')";
    let done = Case::new(base, local, remote).run_without_base().unwrap();
    assert_eq!(done.rows("SELECT rowid FROM page ORDER BY rowid"), ["1", "2", "3", "4"]);
    for (word, rowid) in [("rivers", "1"), ("ponds", "3"), ("seas", "4")] {
        assert_eq!(done.rows(&format!("SELECT rowid FROM page('{word}')")), [rowid]);
    }
    assert_eq!(done.rows("SELECT id, owner FROM boat"), ["7|2", "8|1"]);
    assert_eq!(done.rows("PRAGMA foreign_key_check"), [] as [&str; 0]);
    done.result
        .execute_batch("INSERT INTO page(page, rank) VALUES ('integrity-check', 1)")
        .unwrap();
    assert_eq!(done.told(), []);
}
