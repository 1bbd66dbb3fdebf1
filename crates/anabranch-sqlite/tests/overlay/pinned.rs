//! A view that owns its file.

use std::time::Duration;

use anabranch_sqlite::{BaseMap, Compare, LiveFile, PageRead, PinnedView};
use rusqlite::Connection;

use crate::support::{count, p, pinned};

fn live(path: &std::path::Path) -> LiveFile {
    LiveFile::open(path, Duration::from_secs(5)).unwrap()
}

fn written(path: &std::path::Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE t(k INTEGER PRIMARY KEY, v);
         INSERT INTO t(v) VALUES (1), (2)",
    )
    .unwrap();
    conn
}

#[test]
fn it_shows_one_state_while_others_write_and_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let other = written(&path);
    let pages = pinned(&path);
    let conn = anabranch_sqlite::Scratch::read_only(pages).unwrap();
    other
        .execute_batch("UPDATE t SET v = 100; PRAGMA wal_checkpoint; INSERT INTO t(v) VALUES (7)")
        .unwrap();
    // Elsewhere, too: it belongs to nobody's stack.
    let sum = std::thread::spawn(move || count(&conn, "SELECT sum(v) FROM t")).join().unwrap();
    assert_eq!((sum, count(&other, "SELECT sum(v) FROM t")), (3, 207));
}

#[test]
fn it_captures_as_a_borrowed_view_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let _other = written(&path);
    let sidecar = Connection::open_in_memory().unwrap();
    BaseMap::create_tables(&sidecar).unwrap();
    let base = BaseMap::new(&sidecar, 1, anabranch_format::PageSize::DEFAULT);
    let compare = Compare {
        since: None,
        watched: None,
        restarted: false,
        base_size: 0,
        ahead: None,
        page_one_always: false,
    };
    let mut file = live(&path);
    let view = file.begin().unwrap();
    let mut seen = (Vec::new(), Vec::new());
    let wanted = view
        .capture(&compare, &base, &mut |pgno, page, _| {
            seen.0.push((pgno, page.to_vec()));
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap();
    let (mark, one) = (view.mark().copied(), *view.page_one());
    drop(view);
    let mut pinned = PinnedView::begin(file).unwrap();
    let found = pinned
        .capture(&compare, &base, &mut |pgno, page, _| {
            seen.1.push((pgno, page.to_vec()));
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap();
    assert_eq!((found, seen.1), (wanted, seen.0.clone()));
    assert_eq!((pinned.mark().copied(), *pinned.page_one()), (mark, one));
    assert_eq!(pinned.size(), pinned.db_size());
    let mut page = vec![0; pinned.page_size().bytes()];
    pinned.read(p(2), &mut page).unwrap();
    assert_eq!(page, seen.0[1].1);
    assert!(pinned.read(p(99), &mut page).is_err());
}

#[test]
fn an_earlier_state_is_shown_as_long_as_the_wal_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let other = written(&path);
    other.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    let mut file = live(&path);
    let view = file.begin().unwrap();
    let (mark, size) = (*view.mark().unwrap(), view.db_size());
    drop(view);
    let again = |mark, size| PinnedView::begin_at(live(&path), mark, size).unwrap();
    assert!(again(&mark, size).is_some(), "it is the newest");
    other
        .execute_batch(
            "UPDATE t SET v = 100; CREATE TABLE more(v); INSERT INTO more VALUES (zeroblob(90000))",
        )
        .unwrap();
    let earlier = again(&mark, size).unwrap();
    assert_eq!((earlier.mark(), earlier.db_size()), (Some(&mark), size));
    assert_eq!(earlier.tables(9).unwrap().len(), 1, "the schema of then");
    let earlier: anabranch_sqlite::SharedPages =
        std::sync::Arc::new(std::sync::Mutex::new(earlier));
    let conn = anabranch_sqlite::Scratch::read_only(earlier).unwrap();
    assert_eq!(count(&conn, "SELECT sum(v) FROM t"), 3);
    assert_eq!(crate::support::integrity(&conn), "ok");
    assert!(again(&mark, size + 1).is_none(), "never of another size");
    // Held by a reader, a checkpoint goes no further; without one it does.
    let checkpoint = || other.query_row("PRAGMA wal_checkpoint", [], |_| Ok(())).unwrap();
    checkpoint();
    assert!(again(&mark, size).is_some());
    drop(conn);
    checkpoint();
    assert!(again(&mark, size).is_none(), "copied beyond the mark");
    other.execute_batch("UPDATE t SET v = 7").unwrap();
    assert!(again(&mark, size).is_none(), "restarted");
    let now = file.begin().unwrap();
    let (mark, size) = (*now.mark().unwrap(), now.db_size());
    drop(now);
    drop(file);
    other.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).unwrap();
    assert!(again(&mark, size).is_none(), "not in WAL mode");
}
