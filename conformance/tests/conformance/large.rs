//! Transactions that do not fit into one request.

use std::sync::{Arc, Mutex};

use anabranch_conformance::{Fault, Seen, Wal, path_beside};

use crate::support::{TABLE, Yard, insert_many};

const COUNT: &str = "SELECT count(*), sum(length(body)) FROM t";

fn counted(rows: usize, bytes: usize) -> Vec<String> {
    vec![format!("{rows}|{}", rows * bytes)]
}

#[test]
fn a_transaction_of_more_than_one_batch() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute(&insert_many(300, 4000));
    let frames = a.try_sync().unwrap();
    assert!(frames > 256, "{frames}");
    yard.settle(&mut [&mut a], COUNT, &counted(300, 4000));
}

#[test]
fn a_transaction_of_more_than_a_thousand_frames() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.sync();
    let mut b = yard.client("b");
    b.sync();
    a.execute(&insert_many(3000, 4000));
    let frames = a.try_sync().unwrap();
    assert!(frames > 3000, "{frames}");
    a.execute("DELETE FROM t WHERE id > 1000");
    a.sync();
    yard.settle(&mut [&mut a, &mut b], COUNT, &counted(1000, 4000));
}

#[test]
fn a_transaction_that_outgrew_its_cache_repeats_a_page_at_its_end() {
    let yard = Yard::new();
    let mut a = yard.client("a");
    a.execute(TABLE);
    a.execute("CREATE INDEX by_body ON t(body)");
    a.rows("PRAGMA cache_size = 10");
    a.rows("PRAGMA cache_spill = 1");
    a.batch("BEGIN; CREATE TABLE u(x)");
    for _ in 0..20 {
        a.execute(&insert_many(100, 500));
    }
    // Old pages again and again, in the order of the index: each is written out several times.
    for _ in 0..3 {
        a.execute("UPDATE t SET body = hex(randomblob(250))");
    }
    a.execute("COMMIT");
    let wal = Wal::read(&path_beside(a.db(), "-wal")).unwrap();
    assert!(wal.commits_that_repeat() > 0, "else this shows nothing");
    a.sync();
    yard.settle(&mut [&mut a], COUNT, &counted(2000, 500));
}

#[test]
fn batches_of_any_size_are_taken() {
    for batch in [1, 7, 1000] {
        let yard = Yard::new();
        let mut a = yard.unopened("a");
        let opening = anabranch_conformance::Opening { batch: Some(batch), ..Default::default() };
        a.open(&yard.url(), &opening).unwrap();
        a.execute(TABLE);
        a.execute(&insert_many(40, 4000));
        a.repeat(10, "INSERT INTO t(body) VALUES (printf('%04000d', ?1))");
        a.sync();
        yard.settle(&mut [&mut a], COUNT, &counted(50, 4000));
    }
}

#[test]
fn nobody_sees_a_transaction_before_its_last_batch() {
    let yard = Yard::new();
    let proxy = yard.proxy();
    let mut a = yard.client_at("a", &proxy.url("app"));
    a.execute(TABLE);
    a.execute("INSERT INTO t(body) VALUES ('first')");
    a.sync();
    let watcher = Arc::new(Mutex::new(yard.client("watcher")));
    let seen = Arc::new(Mutex::new(Vec::new()));
    a.execute(&insert_many(600, 4000));
    let (looking, counts) = (Arc::clone(&watcher), Arc::clone(&seen));
    proxy.script(move |request: &Seen| {
        if !request.is_push() {
            return Fault::None;
        }
        let (looking, counts) = (Arc::clone(&looking), Arc::clone(&counts));
        Fault::then(move || {
            let mut watcher = looking.lock().unwrap();
            let frames = watcher.try_sync();
            let rows = watcher.try_rows("SELECT count(*) FROM t");
            counts.lock().unwrap().push((frames, rows));
        })
    });
    a.try_sync().unwrap();
    proxy.calm();
    let seen = seen.lock().unwrap();
    let (last, before) = seen.split_last().unwrap();
    assert!(before.len() >= 4, "{before:?}");
    for (frames, rows) in before {
        assert_eq!((frames, rows), (&Ok(1), &Ok(vec!["1".to_owned()])));
    }
    assert_eq!(last.1, Ok(vec!["601".to_owned()]), "read after the last answer");
    let mut watcher = watcher.lock().unwrap();
    let expected = vec!["601".to_owned()];
    yard.settle(&mut [&mut a, &mut watcher], "SELECT count(*) FROM t", &expected);
}
