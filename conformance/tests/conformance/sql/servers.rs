//! Two servers on one store, and programs that write by SQL at both.

use std::thread;
use std::time::Instant;

use anabranch_conformance::{PATIENCE, Sql};

use super::writer::{COUNTING, Outcome, Writer};
use crate::ledger::{Ledger, SCHEMA, rounds, seed};
use crate::support::{ALL, DATABASE, TABLE, Yard, insert, numbered};

#[test]
fn what_is_written_at_one_is_read_at_the_other() {
    let yard = Yard::new();
    let Some(fresh) = yard.two_more_with(&["--read-fresh"]) else { return };
    let Some([_, late]) = yard.two_more() else { return };
    let mut at = [&fresh[0], &fresh[1]].map(|server| Sql::new(&server.url(DATABASE), None));
    let mut late = Sql::new(&late.url(DATABASE), None);
    at[0].once(TABLE).unwrap();
    let mut bodies = Vec::new();
    for n in 0..6 {
        bodies.push(n.to_string());
        at[n % 2].once(&insert(&n.to_string())).unwrap();
        assert_eq!(at[(n + 1) % 2].rows(ALL).unwrap(), numbered(&bodies), "each read looks");
        // Without that flag a reader's state may be a little older, but not that of who is to write.
        late.run("BEGIN IMMEDIATE").unwrap();
        assert_eq!(late.rows(ALL).unwrap(), numbered(&bodies));
        late.once("ROLLBACK").unwrap();
    }
    at[0].once(&insert("last")).unwrap();
    bodies.push("last".to_owned());
    let deadline = Instant::now() + PATIENCE;
    while late.rows(ALL).unwrap() != numbered(&bodies) {
        assert!(Instant::now() < deadline, "never seen");
    }
    yard.settle(&mut [], ALL, &numbered(&bodies));
}

#[test]
fn a_transaction_that_another_server_overtook_is_busy_and_undone() {
    let yard = Yard::new();
    let Some([first, second]) = yard.two_more() else { return };
    let mut open = Sql::new(&first.url(DATABASE), None);
    let mut other = Sql::new(&second.url(DATABASE), None);
    open.once(TABLE).unwrap();
    open.run("BEGIN IMMEDIATE").unwrap();
    open.run(&insert("overtaken")).unwrap();
    other.once(&insert("a")).unwrap();
    let failure = open.run("COMMIT").unwrap_err();
    assert_eq!(failure.code(), "SQLITE_BUSY", "{failure}");
    open.once(&insert("b")).unwrap();
    yard.settle(&mut [], ALL, &numbered(&["a", "b"]));
}

#[test]
fn writers_at_both_lose_nothing_and_are_not_told_to_repeat() {
    let seed = seed();
    println!("CONFORMANCE_SEED={seed}");
    let yard = Yard::new();
    let Some([first, second]) = yard.two_more() else { return };
    yard.sql().script(SCHEMA).unwrap();
    yard.sql().script(COUNTING).unwrap();
    let urls = [first.url(DATABASE), second.url(DATABASE)];
    let turns = rounds() / 6;
    let ledgers: Vec<(Ledger, u64)> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let urls = &urls;
                scope.spawn(move || {
                    let name = format!("writer{number}");
                    let url = &urls[number % 2];
                    let mut writer = Writer::new(&name, url, seed ^ (number as u64) << 40);
                    let mut taken = 0;
                    for _ in 0..turns {
                        match writer.turn() {
                            Outcome::Acknowledged => {}
                            Outcome::TakenAway => taken += 1,
                            Outcome::Unknown => panic!("nobody died"),
                        }
                    }
                    (writer.ledger, taken)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let mut all = Ledger::default();
    for (ledger, taken) in ledgers {
        println!("{} acknowledged, {taken} taken away", ledger.acknowledged.len());
        all.take(ledger);
    }
    let fresh = yard.db("judged");
    yard.ours().unwrap().clone_to(&fresh);
    all.judge(&fresh);
    let count = vec![all.acknowledged.len().to_string()];
    yard.settle(&mut [], "SELECT n FROM counter", &count);
}
