//! Clients whose `-wal` no longer continues what the server holds.
//!
//! An official client numbers its frames by their place in its `-wal`. Let any other SQLite open and
//! close the file, and the `-wal` is gone: the next one begins at 1 again, and from the number at which
//! the client believes the server to stand, it sends frames of which the first ones are missing. A
//! server that appends them ruins every later clone, and tells nobody. Ours wants each push proven.

use std::fs;

use anabranch_conformance::{Client, Wal, path_beside, sqlite};

use crate::support::{ALL, TABLE, Yard, insert, numbered, overtaken};

/// A client that has pushed ten rows and is closed, and what it pushed.
fn pushed_and_closed(yard: &Yard) -> (Client, Vec<String>) {
    let mut a = yard.client("a");
    a.execute(TABLE);
    let mut bodies = Vec::new();
    for n in 0..10 {
        let body = format!("row {n}");
        a.execute(&insert(&body));
        bodies.push(body);
    }
    a.sync();
    a.close();
    (a, bodies)
}

/// Writes more frames than were ever pushed, so that the client finds something to push.
fn write_much(a: &mut Client) {
    a.repeat(60, "INSERT INTO t(body) VALUES ('later ' || ?1)");
}

/// The push is refused, again and again, the server says why, and whoever clones gets what was there.
fn refused(yard: &mut Yard, a: &mut Client, bodies: &[String]) {
    for _ in 0..2 {
        let error = a.try_sync().unwrap_err().error();
        assert!(error.contains("conflict"), "{error}");
    }
    if let Some(server) = yard.server() {
        let line = server.await_log("does not continue");
        assert!(line.contains("app"), "it names the database: {line}");
        assert!(line.contains("WARN") || line.contains("warn"), "{line}");
    }
    yard.settle(&mut [], ALL, &numbered(bodies));
    // Others go on.
    let mut b = yard.client("b");
    b.sync();
    b.execute(&insert("from b"));
    b.sync();
    let mut all = bodies.to_vec();
    all.push("from b".to_owned());
    yard.settle(&mut [&mut b], ALL, &numbered(&all));
}

#[test]
fn a_file_that_another_sqlite_opened_and_closed_cannot_push() {
    let mut yard = Yard::new();
    let (mut a, bodies) = pushed_and_closed(&yard);
    assert_eq!(sqlite(a.db(), "SELECT count(*) FROM t"), "10");
    assert!(!path_beside(a.db(), "-wal").exists(), "it only looked, and the -wal is gone");
    a.open(&yard.url(), &yard.opening()).unwrap();
    write_much(&mut a);
    refused(&mut yard, &mut a, &bodies);
    assert_eq!(a.rows("SELECT count(*) FROM t"), ["70"], "nothing is lost in the file");
}

#[test]
fn a_file_that_another_sqlite_wrote_to_and_closed_cannot_push() {
    let mut yard = Yard::new();
    let (mut a, bodies) = pushed_and_closed(&yard);
    sqlite(a.db(), &insert("by another program"));
    assert!(!path_beside(a.db(), "-wal").exists());
    a.open(&yard.url(), &yard.opening()).unwrap();
    write_much(&mut a);
    refused(&mut yard, &mut a, &bodies);
    assert_eq!(a.rows("SELECT count(*) FROM t"), ["71"]);
}

/// Changes the `-wal` of a closed client so that SQLite finds it in order.
fn tampered(change: impl FnOnce(&mut Wal)) {
    let mut yard = Yard::new();
    let (mut a, bodies) = pushed_and_closed(&yard);
    let path = path_beside(a.db(), "-wal");
    let mut wal = Wal::read(&path).unwrap();
    change(&mut wal);
    wal.write(&path).unwrap();
    let shm = path_beside(a.db(), "-shm");
    if shm.exists() {
        fs::remove_file(shm).unwrap();
    }
    a.open(&yard.url(), &yard.opening()).unwrap();
    write_much(&mut a);
    refused(&mut yard, &mut a, &bodies);
}

#[test]
fn a_wal_with_some_bytes_of_an_earlier_frame_changed_cannot_push() {
    tampered(|wal| {
        let middle = wal.frames.len() / 2;
        // In the text of a row: no check of SQLite's own would notice.
        let last = wal.frames[middle].len() - 3;
        wal.frames[middle][last - 7..=last].iter_mut().for_each(|byte| *byte ^= 0x5b);
    });
}

#[test]
fn a_wal_with_an_earlier_transaction_missing_cannot_push() {
    tampered(|wal| {
        let commits: Vec<usize> =
            (1..=wal.frames.len()).filter(|number| wal.is_commit(*number)).collect();
        // A transaction from the middle, of which later ones have newer versions of each page.
        let (from, to) = (commits[4], commits[5]);
        wal.frames.drain(from..to);
    });
}

#[test]
fn a_wal_with_two_earlier_frames_swapped_cannot_push() {
    tampered(|wal| {
        let commits: Vec<usize> =
            (1..=wal.frames.len()).filter(|number| wal.is_commit(*number)).collect();
        wal.frames.swap(commits[4] - 1, commits[5] - 1);
    });
}

#[test]
fn a_begun_transaction_that_was_overtaken_cannot_go_on() {
    // The library counts the batches of an unfinished transaction as done. Its answer is lost, somebody
    // else pushes, and the next sync goes on in the middle. Told how far the server is, the library
    // goes on from *there*, with frames that follow others of its own, not the server's.
    let yard = Yard::with(&["--heal", "off"]);
    let proxy = yard.proxy();
    let (mut a, mut b) = overtaken(&yard, &proxy);
    for _ in 0..3 {
        let error = a.try_sync().unwrap_err().error();
        assert!(error.contains("conflict") || error.contains("lower frame_no"), "{error}");
    }
    assert_eq!(a.rows("SELECT count(*) FROM t"), ["281"]);
    let bodies = ["shared", "b 1", "b 2", "b 3", "b 4", "b 5"];
    yard.settle(&mut [&mut b], ALL, &numbered(&bodies));
}

#[test]
fn another_sqlite_may_write_beside_an_open_client() {
    // Then it is not the last to close the file, and its frames continue the client's.
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert("by the client"));
    a.sync();
    sqlite(a.db(), &insert("by another program"));
    a.execute(&insert("by the client again"));
    a.sync();
    let bodies = ["by the client", "by another program", "by the client again"];
    yard.settle(&mut [&mut a], ALL, &numbered(&bodies));
}

#[test]
fn a_client_that_pulled_may_push_in_every_generation() {
    // Its frames before the push are others', its salts are new with each generation: no false alarm.
    let yard = Yard::new();
    let mut a = yard.client("a");
    let mut b = yard.client("b");
    a.execute(TABLE);
    a.sync();
    b.sync();
    let mut bodies = Vec::new();
    for n in 0..12 {
        for (name, client) in [("a", &mut a), ("b", &mut b)] {
            client.sync();
            for part in 0..=n % 3 {
                let body = format!("{name} {n} {part}");
                client.execute(&insert(&body));
                bodies.push(body);
            }
            client.sync();
        }
        if n % 4 == 3 {
            yard.roll_over();
        }
    }
    yard.settle(&mut [&mut a, &mut b], ALL, &numbered(&bodies));
}
