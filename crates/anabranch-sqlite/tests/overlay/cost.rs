//! What reading through an overlay costs. Not run by itself: `--ignored`, best in release.

use std::time::Instant;

use anabranch_sqlite::{Scratch, SharedPages};
use rusqlite::Connection;

use crate::support::{layer_on, pinned};

/// Rows of the table, a gigabyte in all.
const ROWS: i64 = 1_000_000;
const READS: i64 = 200_000;

fn point_reads(conn: &Connection, what: &str) {
    let began = Instant::now();
    let mut statement = conn.prepare("SELECT length(v) FROM t WHERE k = ?1").unwrap();
    let mut sum = 0;
    for n in 0..READS {
        let k = n * 7_919_993 % ROWS + 1;
        sum += statement.query_row([k], |row| row.get::<_, i64>(0)).unwrap();
    }
    assert_eq!(sum, READS * 1000);
    let each = began.elapsed() / u32::try_from(READS).unwrap();
    println!("{what}: {each:?} for each of {READS} rows");
}

#[test]
#[ignore = "makes a database of a gigabyte"]
fn point_reads_on_a_gigabyte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA synchronous = OFF; CREATE TABLE t(k INTEGER PRIMARY KEY, v);
         INSERT INTO t(v) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n
         LIMIT {ROWS}) SELECT zeroblob(1000) FROM n; PRAGMA cache_size = -8192"
    ))
    .unwrap();
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    for round in ["cold", "warm"] {
        point_reads(&conn, &format!("the file, {round}"));
    }
    let mut states: Vec<SharedPages> = vec![pinned(&path)];
    for layer in 0..3 {
        let top = layer_on(states[layer].clone(), folder.path());
        Scratch::writable(&top)
            .unwrap()
            .execute("UPDATE t SET v = zeroblob(1000) WHERE k % 1000 = ?1", [7 + layer as i64])
            .unwrap();
        states.push(top);
    }
    for (layers, state) in states.iter().enumerate() {
        let began = Instant::now();
        let conn = Scratch::read_only(state.clone()).unwrap();
        println!("opening beneath {layers} layers: {:?}", began.elapsed());
        point_reads(&conn, &format!("a pinned view beneath {layers} layers"));
    }
}
