use super::*;

fn schema(on_delete: &str) -> String {
    format!(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, name);
         CREATE TABLE c(id INTEGER PRIMARY KEY, p DEFAULT 9 REFERENCES p {on_delete}, a);
         CREATE TABLE g(c REFERENCES c ON DELETE CASCADE, b);
         INSERT INTO p VALUES (1, 'one'), (2, 'two'), (9, 'nine');
         INSERT INTO c VALUES (1, 2, 'x');"
    )
}

const INSERTS: &str = "INSERT INTO c VALUES (500, 1, 'new'); INSERT INTO g VALUES (500, 'of new')";

fn state(done: &Done) -> String {
    assert_eq!(done.rows("PRAGMA foreign_key_check"), Vec::<String>::new());
    let all = ["SELECT id FROM p WHERE id < 9", "SELECT id, p FROM c", "SELECT c FROM g"]
        .map(|sql| done.rows(sql).join(" "));
    all.join(" / ")
}

#[test]
fn a_local_child_whose_parent_the_remote_deleted() {
    for (policy, stands, told) in [
        (Policy::Local, "1 2 / 1|2 500|1 / 500", vec![Decision::Local]),
        (Policy::Merge, "1 2 / 1|2 500|1 / 500", vec![Decision::Local]),
        (Policy::Remote, "2 / 1|2 / ", vec![Decision::Remote, Decision::Remote]),
    ] {
        for on_delete in ["", "ON DELETE CASCADE"] {
            let done = Case::new(&schema(on_delete), INSERTS, "DELETE FROM p WHERE id = 1")
                .policy(policy)
                .run();
            assert_eq!(state(&done), stands, "{policy:?}");
            let expected: Vec<_> =
                told.iter().map(|d| (ConflictKind::ForeignKey, d.clone())).collect();
            assert_eq!(done.told(), expected);
        }
    }
    let aborted = Case::new(&schema(""), INSERTS, "DELETE FROM p WHERE id = 1")
        .policy(Policy::Abort)
        .try_run();
    assert!(matches!(aborted, Err(RebaseError::Aborted { .. })));
}

#[test]
fn a_child_of_the_remote_whose_parent_was_deleted_here() {
    for (policy, on_delete, stands, told) in [
        (Policy::Local, "ON DELETE CASCADE", "2 / 1|2 / ", vec![Decision::Local, Decision::Local]),
        (Policy::Local, "ON DELETE SET NULL", "2 / 1|2 500|NULL / 500", vec![Decision::Merged]),
        (Policy::Local, "ON DELETE SET DEFAULT", "2 / 1|2 500|9 / 500", vec![Decision::Merged]),
        (Policy::Local, "ON DELETE RESTRICT", "1 2 / 1|2 500|1 / 500", vec![Decision::Remote]),
        (Policy::Merge, "", "1 2 / 1|2 500|1 / 500", vec![Decision::Remote]),
        (Policy::Remote, "ON DELETE CASCADE", "1 2 / 1|2 500|1 / 500", vec![Decision::Remote]),
    ] {
        let done = Case::new(&schema(on_delete), "DELETE FROM p WHERE id = 1", INSERTS)
            .policy(policy)
            .run();
        assert_eq!(state(&done), stands, "{policy:?} {on_delete}");
        let expected: Vec<_> = told.iter().map(|d| (ConflictKind::ForeignKey, d.clone())).collect();
        assert_eq!(done.told(), expected, "{policy:?} {on_delete}");
    }
}

#[test]
fn references_that_one_side_broke_stay_broken() {
    let done = Case::new(
        &schema(""),
        "INSERT INTO c VALUES (500, 77, 'here')",
        "INSERT INTO c VALUES (600, 88, 'there'); DELETE FROM p WHERE id = 1",
    )
    .run();
    assert_eq!(done.rows("SELECT id, p FROM c"), ["1|2", "500|77", "600|88"]);
    assert_eq!(done.told(), []);
}

#[test]
fn a_refused_parent_takes_its_local_children_along() {
    let done = Case::new(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE);
         CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p);",
        "INSERT INTO p VALUES (500, 'x'); INSERT INTO c VALUES (700, 500)",
        "INSERT INTO p VALUES (900, 'x'); INSERT INTO c VALUES (800, 900)",
    )
    .policy(Policy::Remote)
    .run();
    assert_eq!(done.rows("SELECT * FROM p"), ["900|x"]);
    assert_eq!(done.rows("SELECT * FROM c"), ["800|900"]);
    assert_eq!(
        done.told(),
        [(ConflictKind::Unique, Decision::Remote), (ConflictKind::ForeignKey, Decision::Remote)]
    );
}

#[test]
fn children_of_a_row_that_a_unique_index_displaced() {
    let base = "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE);
        CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p);";
    let there = "INSERT INTO p VALUES (900, 'x'); INSERT INTO c VALUES (800, 900)";
    let done = Case::new(base, "INSERT INTO p VALUES (500, 'x')", there).run();
    // The child must have its parent, so that the local row in turn cannot stand.
    assert_eq!(done.rows("SELECT * FROM p"), ["900|x"]);
    assert_eq!(done.rows("SELECT * FROM c"), ["800|900"]);
    assert_eq!(done.told().len(), 1);
    let cascade = base.replace("REFERENCES p", "REFERENCES p ON DELETE CASCADE");
    let done = Case::new(&cascade, "INSERT INTO p VALUES (500, 'x')", there).run();
    assert_eq!(done.rows("SELECT * FROM p"), ["500|x"]);
    assert_eq!(done.rows("SELECT * FROM c"), Vec::<String>::new());
    assert_eq!(
        done.told(),
        [(ConflictKind::Unique, Decision::Local), (ConflictKind::ForeignKey, Decision::Local)]
    );
}

#[test]
fn a_row_that_goes_with_its_parent_is_told_as_gone() {
    // The remote gave the number of a row that it deleted to another one, which refers to what the
    // unique index displaces: neither that row nor the one that is here still can stand.
    let base = "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE);
        CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE, x);
        INSERT INTO c VALUES (3, NULL, 'old')";
    let there =
        "INSERT INTO p VALUES (900, 'x'); DELETE FROM c; INSERT INTO c VALUES (3, 900, 'new')";
    let done = Case::new(base, "INSERT INTO p VALUES (500, 'x')", there).run();
    assert_eq!(done.rows("SELECT * FROM p"), ["500|x"]);
    assert_eq!(done.rows("SELECT * FROM c"), Vec::<String>::new());
    assert_eq!(
        done.told(),
        [(ConflictKind::Unique, Decision::Local), (ConflictKind::ForeignKey, Decision::Neither)]
    );
    let set_null = base.replace("CASCADE", "SET NULL");
    let both = "INSERT INTO c VALUES (800, 900, 'there')";
    let case = Case::new(
        &set_null,
        "INSERT INTO p VALUES (500, 'x'); INSERT INTO c VALUES (800, NULL, 'here')",
        &format!("{there}; {both}"),
    );
    let done = case.insert("c", InsertRule::Remote).run();
    assert_eq!(done.rows("SELECT * FROM c"), ["3|NULL|new", "800|NULL|there"]);
    let of_800 = done.journal.iter().find(|c| c.key.values == [Value::Integer(800)]).unwrap();
    assert_eq!((of_800.kind, &of_800.decision), (ConflictKind::ForeignKey, &Decision::Merged));
    assert!(of_800.detail.as_ref().unwrap().ends_with("else the remote's version stands"));
}

#[test]
fn a_reference_in_the_key_is_not_set_to_null() {
    let done = Case::new(
        "CREATE TABLE p(id INTEGER PRIMARY KEY);
         CREATE TABLE c(p REFERENCES p ON DELETE SET NULL, n, PRIMARY KEY(p, n));
         INSERT INTO p VALUES (1)",
        "DELETE FROM p",
        "INSERT INTO c VALUES (1, 1)",
    )
    .run();
    assert_eq!(done.rows("SELECT p.id, c.n FROM p, c"), ["1|1"]);
    assert_eq!(done.told(), [(ConflictKind::ForeignKey, Decision::Remote)]);
}

#[test]
fn rows_that_refer_to_each_other() {
    let done = Case::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, up REFERENCES t(id));
         INSERT INTO t VALUES (1, NULL), (2, 1), (3, 2), (4, 3)",
        "INSERT INTO t VALUES (50, 4)",
        "DELETE FROM t WHERE id > 1",
    )
    .run();
    assert_eq!(done.rows("SELECT * FROM t"), ["1|NULL", "2|1", "3|2", "4|3", "50|4"]);
    assert_eq!(done.told().len(), 3);
}

/// The remote made a table that refers to rows that are deleted here: they come back.
#[test]
fn a_table_of_the_remote_alone_keeps_what_it_refers_to() {
    for on_delete in ["", "ON DELETE CASCADE"] {
        let done = Case::new(
            "CREATE TABLE p(id INTEGER PRIMARY KEY, name); INSERT INTO p VALUES (1, 'one'), (2, 'two')",
            "DELETE FROM p",
            &format!(
                "CREATE TABLE n(p REFERENCES p {on_delete}); INSERT INTO n VALUES (1), (1), (NULL)"
            ),
        )
        .run();
        assert_eq!(done.rows("PRAGMA foreign_key_check"), Vec::<String>::new());
        assert_eq!(done.rows("SELECT id FROM p"), ["1"]);
        assert_eq!(done.rows("SELECT count(*) FROM n"), ["3"]);
        assert_eq!(done.told(), [(ConflictKind::ForeignKey, Decision::Remote)]);
    }
}

/// The remote let a table refer to one that it made: a row from here that refers to nothing goes.
#[test]
fn a_row_from_here_that_refers_to_nothing_in_a_table_of_the_remote_alone() {
    let done = Case::new(
        "CREATE TABLE c(id INTEGER PRIMARY KEY, p INT, a); INSERT INTO c VALUES (1, 1, 'x')",
        "INSERT INTO c VALUES (500, 7, 'nowhere'), (600, 1, 'there')",
        "CREATE TABLE n(id INTEGER PRIMARY KEY); INSERT INTO n VALUES (1);
         CREATE TABLE d(id INTEGER PRIMARY KEY, p INT REFERENCES n, a);
         INSERT INTO d SELECT * FROM c; DROP TABLE c; ALTER TABLE d RENAME TO c",
    )
    .run();
    assert_eq!(done.rows("PRAGMA foreign_key_check"), Vec::<String>::new());
    assert_eq!(done.rows("SELECT id, a FROM c"), ["1|x", "600|there"]);
    assert_eq!(done.told(), [(ConflictKind::ForeignKey, Decision::Remote)]);
}

/// A row goes with its parent, but another one refers to it and may not be left without: it comes back, and
/// so does its parent.
#[test]
fn a_row_that_may_not_go_with_its_parent_brings_it_back() {
    let done = Case::new(
        "CREATE TABLE top(id INTEGER PRIMARY KEY); INSERT INTO top VALUES (1), (2);
         CREATE TABLE t(id INTEGER PRIMARY KEY, n TEXT UNIQUE, p0 REFERENCES t(n) ON DELETE RESTRICT,
             p1 REFERENCES top ON DELETE CASCADE)",
        "DELETE FROM top WHERE id = 1",
        "INSERT INTO t VALUES (1, 'a', NULL, 1), (2, 'b', 'a', 2), (3, 'c', 'a', 2)",
    )
    .run();
    assert_eq!(done.rows("PRAGMA foreign_key_check"), Vec::<String>::new());
    assert_eq!(done.rows("SELECT id FROM top"), ["1", "2"]);
    assert_eq!(done.rows("SELECT n FROM t"), ["a", "b", "c"]);
    assert!(
        done.told().contains(&(ConflictKind::ForeignKey, Decision::Remote)),
        "{:?}",
        done.told()
    );
}

/// A rowid that refers to a key that is none is that row's: it does not get another number.
#[test]
fn a_rowid_that_refers_to_another_key_stays() {
    let done = Case::new(
        "CREATE TABLE p(k NUMERIC PRIMARY KEY DESC); INSERT INTO p VALUES (1);
         CREATE TABLE c(id INTEGER PRIMARY KEY REFERENCES p(k), a)",
        "INSERT INTO c VALUES (1, 'here')",
        "INSERT INTO c VALUES (1, 'there')",
    )
    .policy(Policy::Local)
    .run();
    assert_eq!(done.rows("PRAGMA foreign_key_check"), Vec::<String>::new());
    assert_eq!(done.rows("SELECT * FROM c"), ["1|here"]);
    assert_eq!(done.told(), [(ConflictKind::InsertInsert, Decision::Local)]);
}
