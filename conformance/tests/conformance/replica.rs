//! Embedded replicas: reads from the file, writes over SQL at the server.

use anabranch_conformance::Opening;

use crate::support::{ALL, DATABASE, TABLE, Yard, insert, numbered};

#[test]
fn an_embedded_replica_takes_this_dialect_and_follows() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert("one"));
    a.sync();
    let proxy = yard.proxy();
    let mut replica = yard.unopened("replica");
    let opening = Opening { remote_writes: true, ..yard.opening() };
    replica.open(&proxy.url(DATABASE), &opening).unwrap();
    replica.try_sync().unwrap();
    let paths: Vec<String> = proxy.take_log().into_iter().map(|e| e.path).collect();
    assert_eq!(paths[..3], ["/app/info", "/app/info", "/app/export/1"], "the first is the probe");
    assert!(paths[3..].iter().all(|path| path.starts_with("/app/sync/1/")), "{paths:?}");
    assert_eq!(replica.rows(ALL), numbered(&["one"]));
    a.execute(&insert("two"));
    a.sync();
    yard.roll_over();
    a.sync();
    a.execute(&insert("three"));
    a.sync();
    replica.try_sync().unwrap();
    assert_eq!(replica.rows(ALL), numbered(&["one", "two", "three"]));
    assert_eq!(replica.position(), a.position());
    yard.settle(&mut [&mut a], ALL, &numbered(&["one", "two", "three"]));
}

#[test]
fn a_write_of_an_embedded_replica_is_done_at_the_server() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.sync();
    let mut replica = yard.unopened("replica");
    let opening = Opening { remote_writes: true, ..yard.opening() };
    replica.open(&yard.url(), &opening).unwrap();
    replica.try_sync().unwrap();
    assert_eq!(replica.execute(&insert("written over SQL")), 1);
    // Pulled before the write returned.
    assert_eq!(replica.rows(ALL), numbered(&["written over SQL"]));
    yard.settle(&mut [&mut a], ALL, &numbered(&["written over SQL"]));
}
