//! Layers on layers, sizes, the lock page, and how connections are set up.

use std::sync::{Arc, Mutex};

use anabranch_format::PageSize;
use anabranch_sqlite::{Difference, Overlay, PageRead, Scratch, ScratchError, SharedPages};
use rusqlite::Connection;

use crate::support::{count, image_of, integrity, layer_on, numbers, p, pinned};

const SIZE: PageSize = PageSize::DEFAULT;

/// A state of `size` pages, each filled with its number.
struct Counted(u32);

impl PageRead for Counted {
    fn page_size(&self) -> PageSize {
        PageSize::MIN
    }

    fn size(&self) -> u32 {
        self.0
    }

    fn read(&mut self, pgno: anabranch_format::Pgno, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(pgno.get().to_le_bytes()[0]);
        Ok(())
    }
}

fn counted(size: u32) -> SharedPages {
    Arc::new(Mutex::new(Counted(size)))
}

#[test]
fn what_was_cut_off_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer_on(counted(10), folder.path());
    let first = |n: u32| {
        let mut page = [1; 512];
        layer.lock().unwrap().read(p(n), &mut page).map(|()| page[0])
    };
    {
        let mut layer = layer.lock().unwrap();
        layer.put(p(3), &[103; 512]).unwrap();
        layer.put(p(9), &[109; 512]).unwrap();
        layer.resize(7).unwrap();
        layer.resize(9).unwrap();
        layer.put(p(12), &[112; 512]).unwrap();
    }
    let found: Vec<u8> = (1..=12).map(|n| first(n).unwrap()).collect();
    assert_eq!(found, [1, 2, 103, 4, 5, 6, 7, 0, 0, 0, 0, 112]);
    assert!(first(13).is_err());
    let mut layer = layer.lock().unwrap();
    assert_eq!(numbers(layer.pages(), PageSize::MIN), [3, 8, 9, 10, 11, 12]);
    let set: Vec<u32> = layer.page_set().iter().map(|pgno| pgno.get()).collect();
    assert_eq!(set, [3, 8, 9, 10, 11, 12]);
    assert_eq!((layer.own_pages(), layer.size()), (2, 12));
    assert!(!layer.contains(p(7)) && layer.contains(p(8)) && !layer.contains(p(13)));
    assert!(layer.put(p(1), &[0; 511]).is_err());
}

#[test]
fn the_difference_spans_layers_and_leaves_out_what_is_equal() {
    let folder = tempfile::tempdir().unwrap();
    let bottom = counted(10);
    let lower = layer_on(bottom.clone(), folder.path());
    let upper = layer_on(lower.clone(), folder.path());
    lower.lock().unwrap().put(p(4), &[200; 512]).unwrap();
    lower.lock().unwrap().put(p(5), &[201; 512]).unwrap();
    lower.lock().unwrap().resize(8).unwrap();
    let upper_again = Overlay::new(lower.clone(), folder.path()).unwrap().shared();
    drop(upper);
    {
        let mut top = upper_again.lock().unwrap();
        top.put(p(4), &[4; 512]).unwrap(); // as it was at the bottom
        top.put(p(7), &[207; 512]).unwrap();
        top.put(p(9), &[9; 512]).unwrap(); // as it was, cut off, and put again
        top.resize(11).unwrap();
    }
    let layers = vec![lower.clone(), upper_again.clone()];
    let between = Difference::new(bottom.clone(), layers);
    assert_eq!(numbers(between, PageSize::MIN), [5, 7, 10, 11]);
    let push = Difference::new(lower, vec![upper_again]);
    assert_eq!(numbers(push, PageSize::MIN), [4, 7, 9, 10, 11]);
    assert!(numbers(Difference::new(bottom, Vec::new()), PageSize::MIN).is_empty());
}

#[test]
fn four_states_are_read_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(v); INSERT INTO t VALUES (1)")
        .unwrap();
    let local = pinned(&path);
    let mut states = vec![local.clone()];
    let mut layers = Vec::new();
    for n in 0..3 {
        let layer = layer_on(states[n].clone(), folder.path());
        Scratch::writable(&layer)
            .unwrap()
            .execute_batch("UPDATE t SET v = v + 1; INSERT INTO t SELECT zeroblob(5000)")
            .unwrap();
        states.push(layer.clone());
        layers.push(layer);
    }
    let conns: Vec<_> = states.iter().map(|s| Scratch::read_only(s.clone()).unwrap()).collect();
    for (n, conn) in (1..).zip(&conns) {
        assert_eq!(count(conn, "SELECT max(v) FROM t WHERE typeof(v) = 'integer'"), n);
        assert_eq!(integrity(conn), "ok");
    }
    // The difference, put onto the lowest, is the highest.
    let again = layer_on(local.clone(), folder.path());
    {
        let mut again = again.lock().unwrap();
        again.resize(states[3].lock().unwrap().size()).unwrap();
        again.put_all(&mut Difference::new(local, layers)).unwrap();
    }
    let again: SharedPages = again;
    assert_eq!(image_of(&again), image_of(&states[3]));
}

#[test]
fn the_lock_page_is_stepped_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA page_size = 512; CREATE TABLE t(v)")
        .unwrap();
    let layer = layer_on(pinned(&path), folder.path());
    let lock_page = PageSize::MIN.lock_page();
    layer.lock().unwrap().resize(lock_page.get() - 3).unwrap();
    let scratch = Scratch::writable(&layer).unwrap();
    scratch.execute_batch("INSERT INTO t VALUES (zeroblob(5000)), ('end')").unwrap();
    drop(scratch);
    let mut page = [1; 512];
    {
        let mut layer = layer.lock().unwrap();
        assert!(layer.size() > lock_page.get() && !layer.contains(lock_page));
        assert_eq!(layer.next_after(lock_page.get() - 1), p(lock_page.get() + 1).into());
        layer.put(lock_page, &[9; 512]).unwrap();
        layer.read(lock_page, &mut page).unwrap();
    }
    assert_eq!(page, [0; 512]);
    let reader = Scratch::read_only(layer).unwrap();
    assert_eq!(count(&reader, "SELECT count(*) FROM t WHERE v = 'end' OR length(v) = 5000"), 2);
}

#[test]
fn a_database_is_made_on_an_empty_state_in_its_page_size() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in [512, 65536] {
        let path = folder.path().join(format!("{bytes}.db"));
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!("PRAGMA page_size = {bytes}; CREATE TABLE t(v)"))
            .unwrap();
        let layer = layer_on(pinned(&path), folder.path());
        layer.lock().unwrap().resize(0).unwrap();
        let scratch = Scratch::writable(&layer).unwrap();
        assert_eq!(count(&scratch, "SELECT count(*) FROM sqlite_schema"), 0);
        scratch.execute_batch("CREATE TABLE other(v); INSERT INTO other VALUES (5)").unwrap();
        drop(scratch);
        let reader = Scratch::read_only(layer).unwrap();
        assert_eq!(count(&reader, "SELECT v FROM other"), 5);
        assert_eq!(count(&reader, "PRAGMA page_size"), bytes);
    }
}

#[test]
fn connections_are_set_up_as_they_must_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE p(k INTEGER PRIMARY KEY); CREATE TABLE log(v);
             CREATE TABLE c(k REFERENCES p(k));
             CREATE TRIGGER tr AFTER INSERT ON c BEGIN INSERT INTO log VALUES (1); END;
             CREATE VIRTUAL TABLE f USING fts5(x)",
        )
        .unwrap();
    let layer = layer_on(pinned(&path), folder.path());
    let scratch = Scratch::writable(&layer).unwrap();
    assert!(matches!(Scratch::writable(&layer), Err(ScratchError::InUse)));
    scratch.execute_batch("INSERT INTO c VALUES (7)").unwrap();
    assert_eq!(count(&scratch, "SELECT count(*) FROM log"), 0, "triggers");
    scratch.execute_batch("DELETE FROM f_data WHERE id > 10").unwrap();
    scratch
        .execute_batch(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = sql WHERE name = 'c'",
        )
        .unwrap();
    assert!(scratch.execute_batch("SELECT zeroblob(1 << 29)").is_err(), "too large a value");
    assert!(scratch.execute_batch("ATTACH 'other.db' AS other").is_err());
    scratch.execute_batch("CREATE TEMP TABLE keys(k); INSERT INTO keys VALUES (1)").unwrap();
    drop(scratch);
    drop(Scratch::writable(&layer).unwrap());

    let reader = Scratch::read_only(layer).unwrap();
    assert!(reader.is_readonly(rusqlite::MAIN_DB).unwrap());
    assert!(reader.execute_batch("INSERT INTO c VALUES (8)").is_err());
    assert!(reader.execute_batch("DROP TABLE c").is_err());
    reader.execute_batch("CREATE TEMP TABLE keys(k); INSERT INTO keys VALUES (1)").unwrap();
    assert_eq!(count(&reader, "PRAGMA cell_size_check"), 1);
    assert_eq!(
        reader.query_row("PRAGMA journal_mode", [], |r| r.get::<_, String>(0)).unwrap(),
        "delete"
    );
}

#[test]
fn a_state_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Scratch::read_only(counted(3)), Err(ScratchError::PageOne(_))));
    let path = folder.path().join("app.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(v)").unwrap();
    let layer = layer_on(pinned(&path), folder.path());
    let mut one = vec![0; SIZE.bytes()];
    layer.lock().unwrap().read(p(1), &mut one).unwrap();
    one[16..18].copy_from_slice(&8192u16.to_be_bytes());
    layer.lock().unwrap().put(p(1), &one).unwrap();
    assert!(matches!(Scratch::read_only(layer), Err(ScratchError::PageSize { .. })));
}
