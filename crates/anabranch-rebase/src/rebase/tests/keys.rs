use super::*;
use crate::keymap::MovedKey;

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a);
    INSERT INTO t VALUES (1, 'x'), (2, 'y');";

#[test]
fn automatic_keys_make_two_rows() {
    let done = Case::new(
        T,
        "INSERT INTO t(a) VALUES ('here 3'), ('here 4')",
        "INSERT INTO t(a) VALUES ('there 3')",
    )
    .run();
    assert_eq!(
        done.rows("SELECT * FROM t ORDER BY id"),
        ["1|x", "2|y", "3|there 3", "4|here 4", "5|here 3"]
    );
    assert_eq!(done.told(), [(ConflictKind::InsertInsert, Decision::Renumbered(5))]);
    assert_eq!(done.journal[0].key.values, [Value::Integer(3)]);
    assert_eq!(done.journal[0].remote.as_ref().unwrap().values[1], Value::Text("there 3".into()));
    assert_eq!(done.keys.moved, [MovedKey { table: "t".into(), from: 3, to: 5 }]);
    assert_eq!(done.summary.tables["t"].renumbered, 1);
}

#[test]
fn keys_that_a_program_chose_are_one_row() {
    let (here, there) =
        ("INSERT INTO t VALUES (5000, 'here')", "INSERT INTO t VALUES (5000, 'there')");
    for (policy, stands) in [(Policy::Local, "5000|here"), (Policy::Remote, "5000|there")] {
        let done = Case::new(T, here, there).policy(policy).run();
        assert_eq!(done.rows("SELECT * FROM t WHERE id > 2"), [stands]);
        assert_eq!(done.told().len(), 1);
        assert_eq!(done.told()[0].0, ConflictKind::InsertInsert);
    }
    let done = Case::new(T, here, here).policy(Policy::Abort).run();
    assert_eq!(done.told(), []);
}

#[test]
fn the_rule_for_inserts_comes_before_the_kind_of_key() {
    let (here, there) =
        ("INSERT INTO t VALUES (5000, 'here')", "INSERT INTO t VALUES (5000, 'there')");
    let done = Case::new(T, here, there).insert("t", InsertRule::Renumber).run();
    assert_eq!(done.rows("SELECT * FROM t WHERE id > 2"), ["5000|there", "5001|here"]);
    let (here, there) = ("INSERT INTO t(a) VALUES ('here')", "INSERT INTO t(a) VALUES ('there')");
    let done = Case::new(T, here, there).insert("t", InsertRule::Remote).run();
    assert_eq!(done.rows("SELECT * FROM t WHERE id > 2"), ["3|there"]);
    let done = Case::new(T, here, there).insert("t", InsertRule::Abort).try_run();
    assert!(matches!(done, Err(RebaseError::Aborted { .. })));
}

#[test]
fn equal_rows_under_automatic_keys_are_two() {
    let both = "INSERT INTO t(a) VALUES ('same')";
    let mut case = Case::new(T, both, both);
    assert_eq!(case.run().rows("SELECT * FROM t WHERE id > 2"), ["3|same", "4|same"]);
    case.rules.equal_rows_are_one = true;
    let done = case.run();
    assert_eq!(done.rows("SELECT * FROM t WHERE id > 2"), ["3|same"]);
    assert_eq!(done.told(), []);
}

#[test]
fn a_unique_index_makes_equal_rows_one() {
    let done = Case::new(
        "CREATE TABLE tag(id INTEGER PRIMARY KEY, name UNIQUE);
         CREATE TABLE use(tag REFERENCES tag, what);",
        "INSERT INTO tag(name) VALUES ('red'), ('blue'); INSERT INTO use VALUES (1, 'r'), (2, 'b')",
        "INSERT INTO tag(name) VALUES ('green'), ('red');",
    )
    .run();
    assert_eq!(done.rows("SELECT * FROM tag ORDER BY id"), ["1|green", "2|red", "3|blue"]);
    assert_eq!(done.rows("SELECT * FROM use ORDER BY what"), ["3|b", "2|r"]);
    assert_eq!(done.told().len(), 2);
}

#[test]
fn references_follow_a_row_that_moved() {
    let done = Case::new(
        "CREATE TABLE a(id INTEGER PRIMARY KEY, up REFERENCES a(id), name);
         CREATE TABLE b(id INTEGER PRIMARY KEY REFERENCES a(id), note);
         CREATE TABLE c(a INTEGER, n INTEGER, x, PRIMARY KEY(a, n), FOREIGN KEY(a) REFERENCES b)
             WITHOUT ROWID;
         CREATE TABLE d(a, n, FOREIGN KEY(a, n) REFERENCES c);",
        "INSERT INTO a VALUES (1, NULL, 'here 1'), (2, 1, 'here 2'), (3, 3, 'here 3');
         INSERT INTO b VALUES (1, 'here'); INSERT INTO c VALUES (1, 1, 'here');
         INSERT INTO d VALUES (1, 1);",
        "INSERT INTO a VALUES (1, 1, 'there 1'), (2, NULL, 'there 2');
         INSERT INTO b VALUES (1, 'there'); INSERT INTO c VALUES (1, 1, 'there');
         INSERT INTO d VALUES (1, 1);",
    )
    .run();
    assert_eq!(
        done.rows("SELECT * FROM a ORDER BY id"),
        ["1|1|there 1", "2|NULL|there 2", "3|3|here 3", "4|NULL|here 1", "5|4|here 2"]
    );
    assert_eq!(done.rows("SELECT * FROM b ORDER BY id"), ["1|there", "4|here"]);
    assert_eq!(done.rows("SELECT * FROM c ORDER BY a"), ["1|1|there", "4|1|here"]);
    assert_eq!(done.rows("SELECT * FROM d ORDER BY a"), ["1|1", "4|1"]);
    assert_eq!(done.rows("PRAGMA foreign_key_check"), Vec::<String>::new());
}

#[test]
fn sequences_rise_to_the_higher_of_both() {
    let base = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a);
        INSERT INTO t(a) VALUES ('x'), ('y'); DELETE FROM t WHERE id = 2;";
    let done = Case::new(
        base,
        "INSERT INTO t(a) VALUES ('here'), ('gone'); DELETE FROM t WHERE a = 'gone'",
        "INSERT INTO t(a) VALUES ('there')",
    )
    .run();
    assert_eq!(done.rows("SELECT * FROM t ORDER BY id"), ["1|x", "3|there", "5|here"]);
    assert_eq!(done.rows("SELECT seq FROM sqlite_sequence"), ["5"]);
    let done = Case::new(
        base,
        "INSERT INTO t(id, a) VALUES (90, 'gone'); DELETE FROM t WHERE a = 'gone'",
        "INSERT INTO t(a) VALUES ('there')",
    )
    .run();
    assert_eq!(done.rows("SELECT seq FROM sqlite_sequence"), ["90"]);
}

#[test]
fn a_later_rebase_knows_rows_by_their_old_keys() {
    let base = "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE u(t REFERENCES t, b);";
    let first = Case::new(
        base,
        "INSERT INTO t VALUES (1, 'here'); INSERT INTO u VALUES (1, 'mine')",
        "INSERT INTO t VALUES (1, 'there')",
    );
    let done = first.run();
    assert_eq!(done.rows("SELECT * FROM t ORDER BY id"), ["1|there", "2|here"]);
    let again = support::copy(&first.local);
    again
        .execute_batch(
            "UPDATE t SET a = 'later' WHERE id = 1; UPDATE u SET b = 'more';
             INSERT INTO t VALUES (2, 'next'); INSERT INTO u VALUES (2, 'of next')",
        )
        .unwrap();
    let second = Case {
        base: first.local,
        local: again,
        remote: done.result,
        rules: Rules::default(),
        keys: done.keys,
    };
    let done = second.run();
    assert_eq!(done.rows("SELECT * FROM t ORDER BY id"), ["1|there", "2|later", "3|next"]);
    assert_eq!(done.rows("SELECT * FROM u ORDER BY t"), ["2|more", "3|of next"]);
    assert_eq!(done.told(), [(ConflictKind::InsertInsert, Decision::Renumbered(3))]);
}

#[test]
fn keys_of_other_kinds() {
    for table in [
        "CREATE TABLE t(k TEXT PRIMARY KEY, a)",
        "CREATE TABLE t(k TEXT PRIMARY KEY COLLATE NOCASE, a) WITHOUT ROWID",
        "CREATE TABLE t(k TEXT, a, PRIMARY KEY(k DESC))",
        "CREATE TABLE t(k TEXT, a, PRIMARY KEY(k COLLATE NOCASE))",
    ] {
        let done = Case::new(
            &format!("{table}; INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)"),
            "UPDATE t SET a = 11 WHERE k = 'a'; DELETE FROM t WHERE k = 'b';
             INSERT INTO t VALUES ('e', 'here'), ('d', 'here')",
            "UPDATE t SET a = 33 WHERE k = 'c'; INSERT INTO t VALUES ('e', 'there'), ('f', 'there')",
        )
        .run();
        assert_eq!(
            done.rows("SELECT k, a FROM t ORDER BY k"),
            ["a|11", "c|33", "d|here", "e|here", "f|there"],
            "{table}"
        );
        assert_eq!(done.told(), [(ConflictKind::InsertInsert, Decision::Local)]);
    }
}

#[test]
fn a_key_in_another_case_is_the_same_row() {
    for suffix in ["", "WITHOUT ROWID"] {
        let done = Case::new(
            &format!(
                "CREATE TABLE t(k TEXT PRIMARY KEY COLLATE NOCASE, a, b) {suffix};
                 INSERT INTO t VALUES ('a', 1, 1), ('b', 2, 2)"
            ),
            "UPDATE t SET k = 'A' WHERE k = 'a'",
            "UPDATE t SET b = 5 WHERE k = 'b'",
        )
        .run();
        assert_eq!(done.rows("SELECT * FROM t ORDER BY k"), ["A|1|1", "b|2|5"]);
        assert_eq!(done.told(), []);
    }
}

#[test]
fn rows_with_null_in_their_key() {
    let done = Case::new(
        "CREATE TABLE t(k, l, a, PRIMARY KEY(k, l));
         INSERT INTO t VALUES (NULL, 1, 'x'), (1, NULL, 'y'), (1, 1, 'z')",
        "UPDATE t SET a = 'here' WHERE k IS NULL; INSERT INTO t VALUES (NULL, 1, 'here too')",
        "DELETE FROM t WHERE l IS NULL; INSERT INTO t VALUES (NULL, 1, 'there')",
    )
    .run();
    assert_eq!(
        done.rows("SELECT * FROM t ORDER BY k, a"),
        ["NULL|1|here", "NULL|1|here too", "NULL|1|there", "1|1|z"]
    );
    assert_eq!(done.told(), []);
}

#[test]
fn rows_without_a_key_are_content() {
    let done = Case::new(
        "CREATE TABLE t(a); INSERT INTO t VALUES ('a'), ('b'), ('c'), ('c')",
        // As VACUUM may do it.
        "DELETE FROM t; INSERT INTO t(rowid, a) VALUES (10, 'b'), (11, 'c'), (12, 'c'), (5, 'here')",
        "INSERT INTO t VALUES ('there')",
    )
    .run();
    assert_eq!(done.rows("SELECT a FROM t ORDER BY a"), ["b", "c", "c", "here", "there"]);
    assert_eq!(done.told(), []);
}

#[test]
fn rows_without_a_key_are_found_where_the_remote_moved_them() {
    let base = "CREATE TABLE t(a); INSERT INTO t VALUES ('a'), ('b'), ('c'), ('c'), ('d'), ('e')";
    let done = Case::new(
        base,
        "UPDATE t SET a = 'B' WHERE a = 'b'; DELETE FROM t WHERE a = 'e'; INSERT INTO t VALUES ('f');
         DELETE FROM t WHERE rowid = 4; UPDATE t SET a = 'D' WHERE a = 'd'",
        // As VACUUM does it.
        "DELETE FROM t WHERE a IN ('a', 'd'); CREATE TABLE x AS SELECT a FROM t ORDER BY rowid;
         DELETE FROM t; INSERT INTO t SELECT a FROM x ORDER BY rowid; DROP TABLE x",
    )
    .run();
    assert_eq!(done.rows("SELECT a FROM t ORDER BY a"), ["B", "D", "c", "f"]);
    assert_eq!(done.told(), [(ConflictKind::UpdateDelete, Decision::Local)]);
}

#[test]
fn rows_without_a_key_do_not_meet_what_got_their_rowid_at_the_remote() {
    // The remote's VACUUM moves `b`, which stays as it is, to where `a` was.
    let there = |gone: &str, then: &str| {
        format!(
            "DELETE FROM t WHERE a = '{gone}'; CREATE TABLE x AS SELECT a FROM t ORDER BY rowid;
             DELETE FROM t; INSERT INTO t SELECT a FROM x ORDER BY rowid; DROP TABLE x; {then}"
        )
    };
    let base = "CREATE TABLE t(a); INSERT INTO t VALUES ('a'), ('b'), ('c')";
    let lost = [(ConflictKind::UpdateDelete, Decision::Local)];
    for (here, rows) in [
        ("UPDATE t SET a = 'A' WHERE a = 'a'", "A b c there"),
        // Both changes would be of one row.
        ("UPDATE t SET a = 'A' WHERE a = 'a'; DELETE FROM t WHERE a = 'b'", "A c there"),
        ("UPDATE t SET a = 'A' WHERE a = 'a'; UPDATE t SET a = 'B' WHERE a = 'b'", "A B c there"),
        ("UPDATE t SET a = 'A' WHERE a = 'a'; INSERT INTO t VALUES ('d')", "A b c d there"),
    ] {
        let done = Case::new(base, here, &there("a", "INSERT INTO t VALUES ('there')")).run();
        assert_eq!(done.rows("SELECT a FROM t ORDER BY a").join(" "), rows, "{here}");
        assert_eq!(done.told(), lost, "{here}");
    }
    let done = Case::new(base, "DELETE FROM t WHERE a = 'a'", &there("a", "")).run();
    assert_eq!(done.rows("SELECT a FROM t ORDER BY a").join(" "), "b c");
    assert_eq!(done.told(), []);
    // Under the other policy the local version goes, and nothing else.
    let done = Case::new(base, "UPDATE t SET a = 'A' WHERE a = 'a'", &there("a", ""))
        .policy(Policy::Remote)
        .run();
    assert_eq!(done.rows("SELECT a FROM t ORDER BY a").join(" "), "b c");
    assert_eq!(done.told(), [(ConflictKind::UpdateDelete, Decision::Remote)]);
}

#[test]
fn equal_rows_with_null_in_their_key_are_one_where_a_pull_is_open() {
    let both = "INSERT INTO t VALUES (NULL, 'same')";
    let mut case = Case::new("CREATE TABLE t(k TEXT PRIMARY KEY, a)", both, both);
    assert_eq!(case.run().rows("SELECT * FROM t"), ["NULL|same", "NULL|same"]);
    case.rules.equal_rows_are_one = true;
    let done = case.run();
    assert_eq!(done.rows("SELECT * FROM t"), ["NULL|same"]);
    assert_eq!(done.told(), []);
}

/// Rows with NULL in their key have only a rowid, and a table that was made anew may have none.
#[test]
fn rows_with_null_in_a_key_that_may_have_none_any_more() {
    let done = Case::new(
        "CREATE TABLE t(k TEXT PRIMARY KEY, a); INSERT INTO t VALUES ('x', 1)",
        "INSERT INTO t VALUES (NULL, 2), ('y', 3)",
        "CREATE TABLE n(k TEXT PRIMARY KEY, a) WITHOUT ROWID;
         INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t",
    )
    .run();
    assert_eq!(done.rows("SELECT * FROM t ORDER BY k"), ["x|1", "y|3"]);
    assert_eq!(done.told(), [(ConflictKind::Check, Decision::Remote)]);
    let done = Case::new(
        "CREATE TABLE t(k TEXT PRIMARY KEY, a) WITHOUT ROWID; INSERT INTO t VALUES ('x', 1)",
        "CREATE TABLE n(k TEXT PRIMARY KEY, a);
         INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t;
         INSERT INTO t VALUES (NULL, 2)",
        "INSERT INTO t VALUES ('y', 3)",
    )
    .run();
    assert_eq!(done.rows("SELECT * FROM t ORDER BY a"), ["x|1", "NULL|2", "y|3"]);
    assert_eq!(done.told(), []);
}

/// The number of a row with NULL in its key may be that of another such row elsewhere.
#[test]
fn rows_with_null_in_their_key_under_one_number() {
    let done = Case::new(
        "CREATE TABLE t(k TEXT PRIMARY KEY, u UNIQUE, a)",
        "INSERT INTO t VALUES (NULL, 1, 'here')",
        "INSERT INTO t VALUES (NULL, 1, 'there')",
    )
    .run();
    assert_eq!(done.rows("SELECT a FROM t"), ["here"]);
    assert_eq!(done.told(), [(ConflictKind::Unique, Decision::Local)]);
}

/// A row whose key became NULL there is not the one that has its rowid here.
#[test]
fn a_key_that_became_null_under_the_rowid_of_another_row() {
    let done = Case::new(
        "CREATE TABLE t(k TEXT PRIMARY KEY, u UNIQUE, a); INSERT INTO t VALUES ('x', 1, 'base')",
        "UPDATE t SET a = 'here' WHERE k = 'x'",
        "UPDATE t SET k = NULL, a = 'there' WHERE k = 'x'",
    )
    .run();
    assert_eq!(done.rows("SELECT * FROM t"), ["x|1|here"]);
    let told =
        [(ConflictKind::UpdateDelete, Decision::Local), (ConflictKind::Unique, Decision::Local)];
    for one in &told {
        assert!(done.told().contains(one), "{:?}", done.told());
    }
}
