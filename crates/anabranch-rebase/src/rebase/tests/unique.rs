use super::*;

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, a);
    INSERT INTO t VALUES (1, 'one', 0), (2, 'two', 0), (3, 'three', 0);";

fn all(done: &Done) -> Vec<String> {
    done.rows("SELECT * FROM t ORDER BY id")
}

#[test]
fn values_that_rows_exchange_come_through() {
    let done = Case::new(
        T,
        "UPDATE t SET u = 'x' WHERE id = 1; UPDATE t SET u = 'one' WHERE id = 2;
         UPDATE t SET u = 'two' WHERE id = 3; UPDATE t SET u = 'three' WHERE id = 1;",
        "UPDATE t SET a = 9 WHERE id = 3; INSERT INTO t VALUES (50, 'there', 1)",
    )
    .policy(Policy::Merge)
    .run();
    assert_eq!(all(&done), ["1|three|0", "2|one|0", "3|two|9", "50|there|1"]);
    assert_eq!(done.told(), [(ConflictKind::UpdateUpdate, Decision::Merged)]);
}

#[test]
fn a_row_of_the_remote_in_the_way() {
    for (policy, rows, decision) in [
        (Policy::Local, vec!["1|one|0", "2|two|0", "3|three|0", "500|new|here"], Decision::Local),
        (
            Policy::Remote,
            vec!["1|one|0", "2|two|0", "3|three|0", "900|new|there"],
            Decision::Remote,
        ),
    ] {
        let done = Case::new(
            T,
            "INSERT INTO t VALUES (500, 'new', 'here')",
            "INSERT INTO t VALUES (900, 'new', 'there')",
        )
        .policy(policy)
        .run();
        assert_eq!(all(&done), rows);
        assert_eq!(done.told(), [(ConflictKind::Unique, decision)]);
        let told = &done.journal[0];
        let lost = if policy == Policy::Local { &told.remote } else { &told.local };
        assert_eq!(lost.as_ref().unwrap().values[1], Value::Text("new".into()));
        assert!(told.detail.as_ref().unwrap().contains("t.u"));
    }
}

#[test]
fn a_row_that_the_remote_only_changed_goes_back_to_the_local_version() {
    let done = Case::new(
        T,
        "INSERT INTO t VALUES (500, 'new', 'here')",
        "UPDATE t SET u = 'new' WHERE id = 2",
    )
    .run();
    assert_eq!(all(&done), ["1|one|0", "2|two|0", "3|three|0", "500|new|here"]);
    assert_eq!(done.told(), [(ConflictKind::Unique, Decision::Local)]);
}

#[test]
fn undoing_one_change_undoes_what_took_its_place() {
    let done = Case::new(
        T,
        "UPDATE t SET u = 'x' WHERE id = 1; UPDATE t SET u = 'one' WHERE id = 2;
         UPDATE t SET u = 'two' WHERE id = 3;",
        "INSERT INTO t VALUES (50, 'x', 'there')",
    )
    .policy(Policy::Remote)
    .run();
    assert_eq!(all(&done), ["1|one|0", "2|two|0", "3|three|0", "50|x|there"]);
    assert_eq!(done.told().len(), 3);
    assert!(done.told().iter().all(|t| *t == (ConflictKind::Unique, Decision::Remote)));
}

#[test]
fn partial_and_computed_indices() {
    for index in [
        "CREATE UNIQUE INDEX i ON s(lower(u) DESC) WHERE a IS NOT NULL -- only those",
        "CREATE UNIQUE INDEX i ON s(u COLLATE NOCASE) WHERE a IS NOT NULL",
        "CREATE UNIQUE INDEX i ON s(g) WHERE a > 0",
        "CREATE UNIQUE INDEX i ON s(1, substr(lower(u), 1, 3) || ',)', lower(u))",
    ] {
        let done = Case::new(
            &format!(
                "CREATE TABLE s(id INTEGER PRIMARY KEY, u, a, g AS (upper(u))); {index}\n;
                 INSERT INTO s(id, u, a) VALUES (1, 'one', 1)"
            ),
            "INSERT INTO s(id, u, a) VALUES (500, 'NEW', 1), (501, 'other', 1)",
            "INSERT INTO s(id, u, a) VALUES (900, 'new', 1), (901, 'third', NULL)",
        )
        .run();
        assert_eq!(
            done.rows("SELECT id, u FROM s ORDER BY id"),
            ["1|one", "500|NEW", "501|other", "901|third"],
            "{index}"
        );
        assert_eq!(done.told(), [(ConflictKind::Unique, Decision::Local)]);
    }
}
