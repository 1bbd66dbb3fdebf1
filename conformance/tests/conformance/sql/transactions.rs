//! Open transactions, and those who wait for them: what comes of it, not how long it takes.

use std::thread;

use anabranch_conformance::{Sql, SqlFailure, sqlite};

use crate::support::{ALL, TABLE, Yard, insert, numbered};

/// How a server says that a transaction was taken away.
#[track_caller]
fn taken_away(failure: &SqlFailure) {
    let known = ["TRANSACTION_TIMEOUT", "STREAM_EXPIRED", "SQLITE_BUSY"];
    assert!(known.contains(&failure.code()), "{failure}");
}

#[test]
fn an_abandoned_transaction_is_rolled_back_and_others_go_on() {
    let yard = Yard::with(&["--sql-transaction-idle", "1s"]);
    let (mut idle, mut other) = (yard.sql(), yard.sql());
    other.once(TABLE).unwrap();
    idle.run("BEGIN IMMEDIATE").unwrap();
    idle.run(&insert("abandoned")).unwrap();
    // Waits until the other one is given up on.
    other.once(&insert("a")).unwrap();
    let failure = idle.run(&insert("too late")).unwrap_err();
    taken_away(&failure);
    // Told once; a new transaction is as good as any.
    idle.abandon();
    idle.run("BEGIN IMMEDIATE").unwrap();
    idle.run(&insert("b")).unwrap();
    idle.run("COMMIT").unwrap();
    yard.settle(&mut [], ALL, &numbered(&["a", "b"]));
}

#[test]
fn a_stream_that_is_closed_in_a_transaction_rolls_back() {
    let yard = Yard::new();
    let mut sql = yard.sql();
    sql.once(TABLE).unwrap();
    sql.run("BEGIN").unwrap();
    sql.run(&insert("undone")).unwrap();
    sql.once("SELECT 1").unwrap();
    sql.once(&insert("a")).unwrap();
    yard.settle(&mut [], ALL, &numbered(&["a"]));
}

#[test]
fn an_open_transaction_does_not_keep_clients_with_files_away() {
    let yard = Yard::new();
    let ours = yard.ours().unwrap();
    let mut official = yard.client("official");
    official.execute(TABLE);
    official.sync();
    let mine = yard.db("mine");
    ours.clone_to(&mine);

    for (round, who) in ["official", "mine", "official", "mine"].into_iter().enumerate() {
        let mut open = yard.sql();
        open.run("BEGIN IMMEDIATE").unwrap();
        open.run(&insert("never")).unwrap();
        // A pull waits for nobody, and sees what is committed.
        official.try_sync().unwrap();
        assert_eq!(official.rows("SELECT count(*) FROM t"), [round.to_string()]);
        if who == "official" {
            official.execute(&insert(who));
            official.sync();
        } else {
            sqlite(&mine, &insert(who));
            ours.sync(&mine);
        }
        // The push went before it, on what the transaction did not see.
        taken_away(&open.run("COMMIT").unwrap_err());
        official.sync();
        ours.sync(&mine);
    }
    let expected = numbered(&["official", "mine", "official", "mine"]);
    yard.settle(&mut [&mut official], ALL, &expected);
}

#[test]
fn a_push_that_waits_for_a_transaction_comes_after_it() {
    let yard = Yard::new();
    let mut official = yard.client("official");
    official.execute("CREATE TABLE who(name TEXT PRIMARY KEY)");
    official.sync();
    let proxy = yard.proxy();
    let mut official = yard.client_at("behind", &proxy.url(crate::support::DATABASE));
    official.sync();
    official.execute("INSERT INTO who VALUES ('pushed')");
    let mut open = yard.sql();
    open.run("BEGIN IMMEDIATE").unwrap();
    open.run("INSERT INTO who VALUES ('in a transaction')").unwrap();
    let pushing = thread::spawn(move || {
        official.sync();
        official
    });
    // Whichever comes first, both are told the truth.
    let committed = open.run("COMMIT");
    let mut official = pushing.join().unwrap();
    let mut expected = vec!["pushed".to_owned()];
    match committed {
        Ok(_) => expected.insert(0, "in a transaction".to_owned()),
        Err(failure) => taken_away(&failure),
    }
    for _ in 0..2 {
        official.sync();
    }
    yard.settle(&mut [&mut official], "SELECT name FROM who ORDER BY 1", &expected);
}

#[test]
fn of_two_open_transactions_the_second_waits_for_the_first() {
    let yard = Yard::new();
    let (mut first, mut second) = (yard.sql(), yard.sql());
    first.once("CREATE TABLE n(n)").unwrap();
    first.once("INSERT INTO n VALUES (0)").unwrap();
    first.run("BEGIN IMMEDIATE").unwrap();
    let waiting = thread::spawn(move || {
        second.run("BEGIN IMMEDIATE").unwrap();
        let seen = second.rows("SELECT n FROM n").unwrap();
        second.run("UPDATE n SET n = n * 10").unwrap();
        second.run("COMMIT").unwrap();
        seen
    });
    first.run("UPDATE n SET n = n + 7").unwrap();
    first.run("COMMIT").unwrap();
    let seen = waiting.join().unwrap();
    let expected = match seen[0].as_str() {
        "7" => "70",
        // The thread was faster than the first statement.
        "0" => "7",
        other => panic!("it saw {other}"),
    };
    yard.settle(&mut [], "SELECT n FROM n", &[expected.to_owned()]);
}

#[test]
fn a_token_that_may_only_read_reads() {
    let yard = Yard::with_tokens("writer", "read reader");
    let mut writer = yard.sql();
    writer.once(TABLE).unwrap();
    writer.once(&insert("a")).unwrap();
    let mut reader = Sql::new(&yard.url(), Some("reader"));
    assert_eq!(reader.rows(ALL).unwrap(), numbered(&["a"]));
    for begin in ["BEGIN", "BEGIN IMMEDIATE"] {
        reader.run(begin).unwrap();
        let writes = [insert("b"), "DELETE FROM t".into(), "CREATE TABLE u(x)".into()];
        for sql in writes {
            let failure = reader.run(&sql).unwrap_err();
            let known = ["SQLITE_READONLY", "AUTH_FORBIDDEN", "BLOCKED", "SQLITE_AUTH"];
            assert!(known.contains(&failure.code()), "{failure}");
        }
        assert_eq!(reader.rows(ALL).unwrap(), numbered(&["a"]), "the stream lives on");
        // It holds up nobody, whatever it calls its transaction.
        writer.once("UPDATE t SET body = 'a'").unwrap();
        reader.run("ROLLBACK").unwrap();
    }
    let mut reader = Sql::new(&yard.url(), Some("reader"));
    let failure = reader.transaction(&[insert("b")]).unwrap_err();
    assert!(!failure.code().is_empty(), "{failure}");
    for token in [None, Some("somebody")] {
        let failure = Sql::new(&yard.url(), token).once("SELECT 1").unwrap_err();
        assert!(matches!(failure, SqlFailure::Refused { status: 401, .. }), "{failure}");
    }
    yard.settle(&mut [], ALL, &numbered(&["a"]));
}

#[test]
fn rights_are_those_of_the_present_request() {
    let yard = Yard::with_tokens("writer", "read reader");
    let mut sql = yard.sql();
    sql.once(TABLE).unwrap();
    sql.run("BEGIN IMMEDIATE").unwrap();
    sql.run(&insert("a")).unwrap();
    sql.set_token("reader");
    let failure = sql.run(&insert("stolen")).unwrap_err();
    assert!(!failure.is_unknown(), "{failure}");
    sql.set_token("somebody");
    let failure = sql.run("SELECT 1").unwrap_err();
    assert!(matches!(failure, SqlFailure::Refused { status: 401, .. }), "{failure}");
    // Neither did any harm but to the transaction, at most.
    let sql = &mut yard.sql();
    sql.once(&insert("b")).unwrap();
    let all = sql.rows("SELECT body FROM t").unwrap();
    assert_eq!(all, ["b"]);
    yard.settle(&mut [], "SELECT body FROM t", &all);
}
