//! Pages that cannot be read or written: typed errors, no panic across SQLite.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anabranch_sqlite::{Scratch, ScratchError, SharedPages};
use rusqlite::Connection;

use crate::support::{Fault, Faulty, integrity, layer_on, pinned};

fn database(folder: &Path) -> SharedPages {
    let path = folder.join("app.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v); CREATE INDEX by_v ON t(v);
             INSERT INTO t(v) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n
             LIMIT 500) SELECT printf('%.200c', 'x') || i FROM n",
        )
        .unwrap();
    pinned(&path)
}

fn faulty(pages: &SharedPages, fault: Fault, after: u32) -> SharedPages {
    Arc::new(Mutex::new(Faulty { pages: pages.clone(), fault, after }))
}

/// The whole chain of an error.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

#[test]
fn a_page_that_cannot_be_read_is_told_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let pages = database(folder.path());
    let mut outcomes = (0, 0);
    for after in (0..60).chain([100_000]) {
        let layer = layer_on(faulty(&pages, Fault::Error, after), folder.path());
        let work = || -> Result<(), ScratchError> {
            let scratch = Scratch::writable(&layer)?;
            scratch
                .execute_batch("UPDATE t SET v = v || 'y'; DELETE FROM t WHERE k % 3 = 0; VACUUM")
                .map_err(|e| scratch.explain(e))
        };
        match work() {
            Ok(()) => outcomes.0 += 1,
            Err(error) => {
                outcomes.1 += 1;
                assert!(matches!(error, ScratchError::Pages(_)), "{error:?}");
                assert!(told(&error).ends_with("the disk is on fire"), "{}", told(&error));
            }
        }
    }
    assert!(outcomes.0 > 0 && outcomes.1 > 10, "{outcomes:?}");
}

#[test]
fn a_panic_ends_at_the_border() {
    let folder = tempfile::tempdir().unwrap();
    let pages = database(folder.path());
    let scratch = Scratch::read_only(faulty(&pages, Fault::Panic, 12)).unwrap();
    for _twice in 0..2 {
        let error = scratch.execute_batch("SELECT sum(length(v)) FROM t").unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::SystemIoFailure));
    }
    assert!(told(&scratch.take_failure().unwrap()).contains("panicked"));
}

#[test]
fn a_layer_that_cannot_be_kept_is_told_and_undone() {
    let folder = tempfile::tempdir().unwrap();
    let pages = database(folder.path());
    // Where it would overflow to is not there.
    let layer = layer_on(pages, &folder.path().join("missing"));
    let scratch = Scratch::writable(&layer).unwrap();
    let error = scratch.execute_batch("UPDATE t SET v = v || 'y'").unwrap_err();
    let error = scratch.explain(error);
    assert!(told(&error).contains("writing page"), "{}", told(&error));
    drop(scratch);
    // The layer itself may be left half written; the state below is not.
}

#[test]
fn the_page_size_cannot_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer_on(database(folder.path()), folder.path());
    let scratch = Scratch::writable(&layer).unwrap();
    let outcome = scratch.execute_batch("PRAGMA page_size = 8192; VACUUM");
    let error = scratch.explain(outcome.unwrap_err());
    assert!(told(&error).contains("size cannot be changed"), "{}", told(&error));
    drop(scratch);
    assert_eq!(integrity(&Scratch::read_only(layer).unwrap()), "ok", "undone");
}

#[test]
fn statements_and_transactions_that_fail_are_undone() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer_on(database(folder.path()), folder.path());
    let scratch = Scratch::writable(&layer).unwrap();
    scratch.execute_batch("PRAGMA cache_size = 5; CREATE TABLE c(v UNIQUE)").unwrap();
    scratch
        .execute_batch("INSERT INTO c SELECT CASE WHEN k < 400 THEN k ELSE 1 END FROM t")
        .unwrap_err();
    scratch
        .execute_batch("BEGIN; DELETE FROM t; INSERT INTO c SELECT 1; DROP TABLE c; ROLLBACK")
        .unwrap();
    assert_eq!(integrity(&scratch), "ok");
    assert_eq!(crate::support::count(&scratch, "SELECT count(*) FROM c"), 0);
    assert_eq!(crate::support::count(&scratch, "SELECT count(*) FROM t"), 500);
    assert!(scratch.take_failure().is_none());
}
