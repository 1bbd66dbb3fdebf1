//! Two clients that wrote without having seen each other, where the server heals nothing.
//!
//! To the official client a conflict is a dead end (libsql #2122): each later sync fails the same way,
//! and only deleting the local files helps. The server must make sure that this is loud, that nothing
//! of the loser's enters the log, and that the winner is not disturbed.

use std::fs;

use crate::support::{ALL, TABLE, Yard, insert, insert_many, numbered};

#[test]
fn the_second_to_push_is_told_of_the_conflict_each_time_and_keeps_its_rows() {
    let yard = Yard::with(&["--heal", "off"]);
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.execute(&insert("shared"));
    a.sync();
    b.sync();
    a.execute(&insert("from a"));
    b.execute(&insert("from b"));
    b.execute(&insert("from b too"));
    a.sync();
    for _ in 0..3 {
        let error = b.try_sync().unwrap_err().error();
        assert!(error.contains("conflict"), "{error}");
    }
    assert_eq!(b.rows(ALL), numbered(&["shared", "from b", "from b too"]));
    a.execute(&insert("from a again"));
    let mut bodies = vec!["shared", "from a", "from a again"];
    yard.settle(&mut [&mut a], ALL, &numbered(&bodies));

    // The way out that the library leaves: away with the files.
    b.close();
    fs::remove_dir_all(b.db().parent().unwrap()).unwrap();
    drop(b);
    let mut b = yard.client("b");
    b.sync();
    b.execute(&insert("from b once more"));
    bodies.push("from b once more");
    b.sync();
    yard.settle(&mut [&mut a, &mut b], ALL, &numbered(&bodies));
}

#[test]
fn a_conflict_in_the_middle_of_a_large_push_leaves_nothing_behind() {
    let yard = Yard::with(&["--heal", "off"]);
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.sync();
    b.sync();
    a.execute(&insert_many(300, 4000));
    b.execute(&insert_many(500, 4000));
    a.sync();
    assert!(b.try_sync().unwrap_err().error().contains("conflict"));
    assert_eq!(b.rows("SELECT count(*) FROM t"), ["500"]);
    yard.settle(&mut [&mut a], "SELECT count(*) FROM t", &["300".to_owned()]);
}

#[test]
fn equal_inserts_of_two_clients_do_not_become_one_row_in_silence() {
    // Both write the same row at the same place: their frames are equal byte for byte, salts aside. It
    // looks like the repeat of a push whose answer was lost, and is not: two commits, two orders.
    let yard = Yard::with(&["--heal", "off"]);
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.execute(&insert("shared"));
    a.sync();
    b.sync();
    a.execute(&insert("an order"));
    b.execute(&insert("an order"));
    a.try_sync().unwrap();
    let said = b.try_sync();
    let expected = match &said {
        Err(failure) => {
            let error = failure.clone().error();
            assert!(error.contains("conflict"), "{error}");
            numbered(&["shared", "an order"])
        }
        Ok(_) => numbered(&["shared", "an order", "an order"]),
    };
    yard.settle(&mut [&mut a], ALL, &expected);
}

#[test]
fn our_replica_and_an_official_client_in_conflict() {
    let yard = Yard::with(&["--heal", "off"]);
    let Some(ours) = yard.ours() else { return };
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert("shared"));
    a.sync();
    let replica = yard.db("replica");
    ours.clone_to(&replica);
    a.execute(&insert("theirs"));
    anabranch_conformance::sqlite(&replica, &insert("ours"));
    ours.sync(&replica);
    assert!(a.try_sync().unwrap_err().error().contains("conflict"));
    assert_eq!(a.rows(ALL), numbered(&["shared", "theirs"]));
    yard.settle(&mut [], ALL, &numbered(&["shared", "ours"]));
}
