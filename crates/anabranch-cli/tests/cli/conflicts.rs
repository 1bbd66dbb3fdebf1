//! Two replicas that wrote the same row and different rows offline, on the command line.

use serde_json::{Value, json};

use crate::yard::Yard;

/// Both replicas have changed note 1; `a.db` has changed note 2 and added one, `b.db` note 3 and one.
fn both_changed() -> Yard {
    let yard = Yard::published();
    yard.sql(
        "a.db",
        "UPDATE note SET body = 'of a' WHERE id IN (1, 2); INSERT INTO note VALUES (500, 'a')",
    );
    yard.ok(["sync", "a.db"]);
    yard.sql(
        "b.db",
        "UPDATE note SET body = 'of b' WHERE id IN (1, 3); INSERT INTO note VALUES (700, 'b')",
    );
    yard
}

fn text(yard: &Yard, db: &str, sql: &str) -> String {
    let conn = rusqlite::Connection::open(yard.path(db)).unwrap();
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The bodies of the notes that the tests change.
fn bodies(yard: &Yard, db: &str) -> String {
    text(
        yard,
        db,
        "SELECT group_concat(body) FROM (SELECT body FROM note WHERE id < 4 OR id > 400 ORDER BY id)",
    )
}

fn assert_same(yard: &Yard) {
    assert_eq!(bodies(yard, "a.db"), bodies(yard, "b.db"));
    for db in ["a.db", "b.db"] {
        assert_eq!(yard.number(db, "SELECT count(*) FROM pragma_integrity_check"), 1);
        assert!(yard.ok(["sync", db]).starts_with("already in step"));
        assert!(yard.ok(["verify", db]).contains("every page is equal"));
    }
}

#[test]
fn i2_both_sync_and_what_lost_is_listed_and_can_be_taken_after_all() {
    let yard = both_changed();
    let said = yard.ok(["sync", "b.db"]);
    assert!(said.starts_with("pulled "), "{said}");
    let put = "both sides changed: 3 rows of this side put on top of the others'";
    assert!(said.contains(put), "{said}");
    assert!(said.contains("  note: 1 conflict\n") && said.contains("\npushed "), "{said}");
    assert!(said.contains("`anabranch conflicts` shows"), "{said}");
    yard.ok(["sync", "a.db"]);
    assert_eq!(bodies(&yard, "a.db"), "of b,of a,of b,a,b");
    assert_same(&yard);

    assert_eq!(yard.ok(["conflicts", "a.db"]), "no conflicts\n");
    let said = yard.ok(["conflicts", "b.db"]);
    let line = "note, id 1: changed on both sides; the local version stands";
    assert!(said.contains(line), "{said}");
    assert!(said.contains("    here    body 'of b'\n    remote  body 'of a'\n"), "{said}");
    let listed = yard.json(["conflicts", "b.db"]);
    let conflict = &listed["conflicts"][0];
    assert_eq!(listed["conflicts"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&conflict["table"], &conflict["kind"], &conflict["decision"], &conflict["key"]),
        (&json!("note"), &json!("update-update"), &json!("local"), &json!({ "id": 1 }))
    );
    assert_eq!(conflict["remote"]["body"], "of a");
    assert!(conflict["base"]["body"].as_str().unwrap().starts_with("note 1 "));
    assert!(conflict["base_lsn"].as_u64() < conflict["remote_lsn"].as_u64(), "{conflict}");

    let id = conflict["id"].to_string();
    let said = yard.ok(["conflicts", "resolve", "b.db", &id, "--take", "remote"]);
    assert!(said.contains("  is   id 1, body 'of a'\n"), "{said}");
    yard.ok(["sync", "b.db"]);
    yard.ok(["sync", "a.db"]);
    assert_eq!(bodies(&yard, "a.db"), "of a,of a,of b,a,b");
    assert_same(&yard);
    assert_eq!(yard.ok(["conflicts", "b.db"]), "no conflicts\n");
    let all = yard.json(["conflicts", "b.db", "--all"]);
    assert_eq!(all["conflicts"][0]["resolved"]["take"], "remote");
}

#[test]
fn conflicts_are_found_by_table_and_time() {
    let yard = both_changed();
    yard.ok(["sync", "b.db"]);
    let count = |args: &[&str]| {
        let all = ["conflicts", "b.db"].into_iter().chain(args.iter().copied());
        yard.json(all)["conflicts"].as_array().unwrap().len()
    };
    assert_eq!((count(&["--table", "NOTE"]), count(&["--table", "other"])), (1, 0));
    assert_eq!((count(&["--since", "-1h"]), count(&["--since", "today"])), (1, 1));
    let tomorrow = "2999-01-01";
    assert_eq!(count(&["--since", tomorrow]), 0);
    yard.fails(2, ["conflicts", "b.db", "--since", "teatime"]);
    let error = yard.run(["conflicts", "resolve", "b.db", "77", "--take", "local", "--json"]);
    assert_eq!((error.code, &error.json_error()["code"]), (2, &json!("no-conflict")));
}

#[test]
fn each_policy_is_set_shown_and_followed() {
    for (policy, expected) in [
        ("local", "of b,of a,of b,a,b"),
        ("remote", "of a,of a,of b,a,b"),
        ("merge", "of b,of a,of b,a,b"),
    ] {
        let yard = both_changed();
        let said = yard.ok(["config", "b.db", &format!("conflict.note = {policy}")]);
        assert_eq!(said, format!("conflict.note = {policy}\n"));
        yard.ok(["sync", "b.db"]);
        yard.ok(["sync", "a.db"]);
        assert_eq!(bodies(&yard, "a.db"), expected, "{policy}");
        assert_same(&yard);
        assert_eq!(yard.json(["conflicts", "b.db"])["conflicts"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn settings_are_listed_and_taken_back() {
    let yard = Yard::published();
    assert!(yard.ok(["config", "b.db"]).starts_with("nothing is set"));
    assert_eq!(yard.ok(["config", "b.db", "conflict"]), "conflict = local (not set)\n");
    yard.ok(["config", "b.db", "conflict", "merge"]);
    yard.ok(["config", "b.db", "conflict.Note.insert=remote"]);
    let all = yard.json(["config", "b.db"]);
    let keys: Vec<&Value> =
        all["settings"].as_array().unwrap().iter().map(|setting| &setting["key"]).collect();
    assert_eq!(keys, [&json!("conflict"), &json!("conflict.note.insert")]);
    assert_eq!(yard.json(["config", "a.db"])["settings"].as_array().unwrap().len(), 0);
    yard.ok(["config", "b.db", "conflict.note.insert", "--unset"]);
    assert_eq!(yard.ok(["config", "b.db"]), "conflict = merge\n");
    for wrong in [&["confict"][..], &["conflict", "=", "mine"], &["conflict", "--unset", "x"]] {
        let all = ["config", "b.db"].iter().chain(wrong);
        yard.fails(2, all);
    }
    assert_eq!(yard.ok(["config", "b.db"]), "conflict = merge\n");
}

#[test]
fn abort_is_three_names_the_row_and_changes_nothing() {
    let yard = both_changed();
    yard.ok(["config", "b.db", "conflict = abort"]);
    let before = bodies(&yard, "b.db");
    for command in ["sync", "pull"] {
        let said = yard.fails(3, [command, "b.db"]);
        assert!(said.contains("table note (id 1)"), "{said}");
        assert!(said.contains("anabranch config"), "{said}");
    }
    let error = yard.run(["sync", "b.db", "--json"]).json_error();
    assert_eq!(
        (&error["code"], &error["details"]["local"]["body"]),
        (&json!("conflict-abort"), &json!("of b"))
    );
    assert_eq!(bodies(&yard, "b.db"), before);
    assert_eq!(yard.ok(["conflicts", "b.db"]), "no conflicts\n");
    yard.ok(["config", "b.db", "conflict.note = remote"]);
    yard.ok(["sync", "b.db"]);
    assert_eq!(bodies(&yard, "b.db"), "of a,of a,of b,a,b");
}

#[test]
fn a_schema_that_both_changed_is_three_until_a_side_is_taken() {
    for (take, columns) in [("local", "id,body,b"), ("remote", "id,body,a")] {
        let yard = Yard::published();
        yard.sql(
            "a.db",
            "ALTER TABLE note ADD COLUMN a; UPDATE note SET body = 'of a' WHERE id = 2",
        );
        yard.ok(["sync", "a.db"]);
        yard.sql(
            "b.db",
            "ALTER TABLE note ADD COLUMN b; UPDATE note SET body = 'of b' WHERE id = 3",
        );
        let said = yard.fails(3, ["sync", "b.db"]);
        assert!(said.contains("the table note") && said.contains("--take local"), "{said}");
        let error = yard.run(["sync", "b.db", "--json"]).json_error();
        assert_eq!(
            (&error["code"], &error["details"]["name"]),
            (&json!("schema-conflict"), &json!("note"))
        );
        assert!(error["details"]["local"].as_str().unwrap().contains('b'), "{error}");
        yard.ok(["sync", "b.db", "--take", take]);
        yard.ok(["sync", "a.db"]);
        let found = text(&yard, "a.db", "SELECT group_concat(name) FROM pragma_table_info('note')");
        assert_eq!(found, columns, "{take}");
        assert_eq!(bodies(&yard, "a.db").split(',').skip(1).collect::<Vec<_>>(), ["of a", "of b"]);
        assert_same(&yard);
    }
}

/// What a file and its replica look like.
fn state(yard: &Yard, db: &str) -> (String, Value) {
    (bodies(yard, db), yard.json(["status", db, "--no-remote"])["local_pages"].clone())
}

#[test]
fn a_dry_run_shows_what_a_sync_would_do_and_changes_nothing() {
    let yard = both_changed();
    let before = state(&yard, "b.db");
    let head = yard.json(["log", "river"])["entries"][0]["lsn"].clone();
    let said = yard.ok(["sync", "b.db", "--dry-run"]);
    assert!(said.contains("would pull note: 1 inserted, 2 updated\n"), "{said}");
    assert!(said.contains("would push note: 1 inserted, 2 updated\n"), "{said}");
    assert!(said.contains("note, id 1: changed on both sides"), "{said}");
    assert!(said.ends_with("nothing was changed: this was a dry run\n"), "{said}");
    let report = yard.json(["sync", "b.db", "--dry-run"]);
    assert_eq!(report["conflicts"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["rebased"]["conflicts"], 1);
    assert_eq!(report["remote_lsn"], head);
    assert_eq!(state(&yard, "b.db"), before);
    assert_eq!(yard.json(["log", "river"])["entries"][0]["lsn"], head);
    assert_eq!(yard.ok(["conflicts", "b.db"]), "no conflicts\n");
    yard.ok(["sync", "b.db"]);
    let said = yard.ok(["sync", "b.db", "--dry-run"]);
    assert!(said.starts_with("no row would be pushed or pulled\n"), "{said}");
    // One side alone.
    let said = yard.ok(["sync", "a.db", "--dry-run"]);
    assert!(said.contains("would pull note: ") && !said.contains("would push"), "{said}");
}

#[test]
fn diff_shows_rows_of_either_side() {
    let yard = both_changed();
    let said = yard.ok(["diff", "b.db"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].starts_with("~ note, id 1: body 'note 1 "), "{said}");
    assert!(lines[0].ends_with("-> 'of b'"), "{said}");
    assert_eq!(lines[2], "+ note: id 700, body 'b'");
    let rows = yard.json(["diff", "b.db", "--remote"]);
    let changes: Vec<(&Value, &Value)> = rows["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (&row["change"], &row["after"]["body"]))
        .collect();
    let (update, insert, body) = (json!("update"), json!("insert"), json!("of a"));
    assert_eq!(changes, [(&update, &body), (&update, &body), (&insert, &json!("a"))]);
    yard.ok(["sync", "b.db"]);
    assert_eq!(yard.ok(["diff", "b.db"]), "no row changed here\n");
    assert_eq!(yard.json(["diff", "b.db"])["rows"], json!([]));
    assert!(yard.ok(["diff", "b.db", "--remote"]).starts_with("no row changed at the remote"));
    yard.sql("a.db", "DELETE FROM note WHERE id = 500");
    assert_eq!(yard.ok(["diff", "a.db"]), "- note: id 500, body 'a'\n");
}

#[test]
fn rows_of_both_under_a_key_that_sqlite_chose_both_survive() {
    let yard = Yard::published();
    yard.sql("a.db", "INSERT INTO note(body) VALUES ('new of a')");
    yard.ok(["sync", "a.db"]);
    yard.sql("b.db", "INSERT INTO note(body) VALUES ('new of b')");
    let said = yard.ok(["sync", "b.db"]);
    assert!(said.contains("  note: 1 row got a new key\n"), "{said}");
    yard.ok(["sync", "a.db"]);
    assert_eq!(text(&yard, "a.db", "SELECT body FROM note WHERE id = 101"), "new of a");
    assert_eq!(text(&yard, "a.db", "SELECT body FROM note WHERE id = 102"), "new of b");
    assert_same(&yard);
    let conflict = &yard.json(["conflicts", "b.db"])["conflicts"][0];
    assert_eq!((&conflict["decision"], &conflict["rowid"]), (&json!("renumbered"), &json!(102)));
}

#[test]
fn a_state_that_the_remote_does_not_keep_any_more_is_told_and_a_side_can_be_taken() {
    for take in ["local", "remote", "union"] {
        let yard = Yard::published();
        for n in 0..2 {
            yard.sql("a.db", &format!("UPDATE note SET body = 'of a {n}' WHERE id = 2"));
            yard.ok(["sync", "a.db"]);
            yard.ok(["compact", "river", "--retain", "0s"]);
        }
        yard.sql("b.db", "UPDATE note SET body = 'of b' WHERE id = 3");
        let before = state(&yard, "b.db");
        let said = yard.fails(3, ["sync", "b.db"]);
        for way in ["--take remote", "--take local", "--take union"] {
            assert!(said.contains(way), "{said}");
        }
        assert_eq!(yard.run(["sync", "b.db", "--json"]).json_error()["code"], "base-gone");
        assert_eq!(state(&yard, "b.db"), before);
        let said = yard.ok(["sync", "b.db", "--take", take]);
        yard.ok(["sync", "a.db"]);
        let found = bodies(&yard, "a.db");
        if take == "union" {
            // Both on one page: of a row that differs the remote's version stands.
            assert!(!found.contains("of b") && found.contains("of a 1"), "{found}");
            let entries = yard.json(["conflicts", "b.db"]);
            let entries = entries["conflicts"].as_array().unwrap();
            let ids: Vec<_> = entries.iter().map(|e| e["key"]["id"].as_i64().unwrap()).collect();
            assert_eq!(ids, [2, 3], "{entries:?}");
            let id = entries[1]["id"].to_string();
            yard.ok(["conflicts", "resolve", "b.db", &id, "--take", "local"]);
            yard.ok(["sync", "b.db"]);
            yard.ok(["sync", "a.db"]);
            let found = bodies(&yard, "a.db");
            assert!(found.contains("of b") && found.contains("of a 1"), "{found}");
        } else if take == "local" {
            assert!(found.ends_with(",of b") && !found.contains("of a"), "{found}");
        } else {
            assert!(!found.contains("of b") && found.contains("of a 1"), "{found}");
            assert!(said.contains("b.db.before-repair-1"), "{said}");
            assert!(bodies(&yard, "b.db.before-repair-1").ends_with("of b"));
        }
        assert_same(&yard);
    }
}

#[test]
fn union_leaves_alone_what_lies_on_pages_that_were_not_written_here() {
    let yard = Yard::published();
    let many = "WITH RECURSIVE n(n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM n WHERE n < 4000)
        INSERT INTO note SELECT n, 'note ' || n || hex(zeroblob(30)) FROM n";
    yard.sql("a.db", many);
    yard.ok(["sync", "a.db"]);
    yard.ok(["sync", "b.db"]);
    for n in 0..2 {
        let sql = format!(
            "DELETE FROM note WHERE id = 1100 + {n}; UPDATE note SET body = 'of a' WHERE id = 3000 + {n}"
        );
        yard.sql("a.db", &sql);
        yard.ok(["sync", "a.db"]);
        yard.ok(["compact", "river", "--retain", "0s"]);
    }
    yard.sql(
        "b.db",
        "INSERT INTO note VALUES (9000, 'of b'); UPDATE note SET body = 'of b' WHERE id = 2000",
    );
    yard.fails(3, ["sync", "b.db"]);
    let said = yard.ok(["sync", "b.db", "--take", "union"]);
    assert!(said.contains("1 row of this side") && said.contains("note: 1 conflict\n"), "{said}");
    yard.ok(["sync", "a.db"]);
    let count = "SELECT count(*) FROM note WHERE id IN (1100, 1101)";
    assert_eq!(
        (yard.number("b.db", count), text(&yard, "b.db", "SELECT body FROM note WHERE id = 3001")),
        (0, "of a".to_owned())
    );
    assert_eq!(text(&yard, "a.db", "SELECT body FROM note WHERE id = 9000"), "of b");
    assert_same(&yard);
    // Nothing tells whether it was changed here or by others.
    yard.ok(["conflicts", "resolve", "b.db", "1", "--take", "local"]);
    assert_eq!(text(&yard, "b.db", "SELECT body FROM note WHERE id = 2000"), "of b");
}

#[test]
fn i5_a_damaged_journal_or_settings_are_told_and_stop_nothing_else() {
    let yard = both_changed();
    yard.ok(["sync", "b.db"]);
    yard.sql("b.db-anabranch", "UPDATE conflict_value SET value = 'forged' WHERE name = 'body'");
    let said = yard.fails(1, ["conflicts", "b.db"]);
    assert!(said.contains("conflict 1") && said.contains("checksum"), "{said}");
    assert!(yard.ok(["sync", "b.db"]).starts_with("already in step"));
    yard.sql("b.db-anabranch", "INSERT INTO setting VALUES ('conflict', 'everything')");
    yard.sql("a.db", "UPDATE note SET body = 'again a' WHERE id = 1");
    yard.ok(["sync", "a.db"]);
    yard.sql("b.db", "UPDATE note SET body = 'again b' WHERE id = 1");
    let before = bodies(&yard, "b.db");
    let error = yard.run(["sync", "b.db", "--json"]).json_error();
    assert_eq!(error["code"], "sidecar-damaged", "{error}");
    assert_eq!(bodies(&yard, "b.db"), before);
    yard.ok(["config", "b.db", "conflict = local"]);
    yard.ok(["sync", "b.db"]);
    yard.ok(["sync", "a.db"]);
    assert!(bodies(&yard, "a.db").starts_with("again b"));
}

#[test]
fn i5_a_file_that_is_locked_all_the_time_is_busy_and_untouched() {
    let yard = both_changed();
    let before = bodies(&yard, "b.db");
    let conn = rusqlite::Connection::open(yard.path("b.db")).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let said = yard.fails(1, ["sync", "b.db", "--busy-timeout", "100ms"]);
    assert!(said.contains("another program holds"), "{said}");
    conn.execute_batch("ROLLBACK").unwrap();
    drop(conn);
    assert_eq!(bodies(&yard, "b.db"), before);
    assert_eq!(yard.ok(["conflicts", "b.db"]), "no conflicts\n");
    yard.ok(["sync", "b.db"]);
    yard.ok(["sync", "a.db"]);
    assert_same(&yard);
}

#[cfg(unix)]
#[test]
fn i5_a_disk_that_is_full_in_the_middle_changes_nothing() {
    let yard = Yard::published();
    let fill = |name: char| {
        format!(
            "CREATE TABLE {name}(x); INSERT INTO {name} SELECT randomblob(4000) FROM note;
             INSERT INTO {name} SELECT randomblob(4000) FROM note, (SELECT 1 UNION SELECT 2);
             UPDATE note SET body = 'of {name}' WHERE id = 1"
        )
    };
    yard.sql("a.db", &fill('a'));
    yard.ok(["sync", "a.db"]);
    yard.sql("b.db", &fill('b'));
    let before = state(&yard, "b.db");
    // The temporary files and the `-wal` are limited alike.
    let script = format!("ulimit -f 400; exec '{}' sync b.db", crate::yard::PROGRAM);
    let mut shell = std::process::Command::new("sh");
    let output = shell.args(["-c", &script]).current_dir(yard.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(state(&yard, "b.db"), before, "{said}");
    assert_eq!(yard.ok(["conflicts", "b.db"]), "no conflicts\n");
    yard.ok(["sync", "b.db"]);
    yard.ok(["sync", "a.db"]);
    assert_same(&yard);
    assert_eq!(yard.number("a.db", "SELECT count(*) FROM a, b"), 90_000);
}
