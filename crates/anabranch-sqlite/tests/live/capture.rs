use std::os::unix::fs::FileExt;

use anabranch_sqlite::{Compare, How, PageSet, ScanReason};

use crate::support::{App, Replica, Rng, cli};

pub const TABLES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
    INSERT INTO t SELECT i, hex(randomblob(40)) FROM n;";

fn is_chain(how: How) -> bool {
    matches!(how, How::Chain { .. })
}

/// One step of an application that does all that stock SQLite can do to its pages.
pub fn step(app: &mut App, rng: &mut Rng, fts: &mut bool, n: u64) {
    let k = rng.below(200);
    match rng.below(24) {
        0..=5 => {
            app.sql(&format!("INSERT INTO t(v) SELECT hex(randomblob({k})) FROM t LIMIT 20"));
        }
        6..=8 => {
            app.sql(&format!("UPDATE t SET v = hex(randomblob({k})) WHERE id % 17 = {n} % 17"));
        }
        9 => {
            app.sql("DELETE FROM t WHERE id % 3 = 1 AND id > 60");
        }
        10 => app.all(&[
            "BEGIN",
            "PRAGMA cache_size = 5",
            "UPDATE t SET v = hex(randomblob(300))",
            "ROLLBACK",
        ]),
        11 => app.all(&[
            "BEGIN",
            "PRAGMA cache_size = 5",
            "SAVEPOINT a",
            "UPDATE t SET v = hex(randomblob(200))",
            "ROLLBACK TO a",
            "INSERT INTO t(v) VALUES (hex(randomblob(2000)))",
            "COMMIT",
        ]),
        12 => {
            app.sql("VACUUM");
        }
        13 => {
            // Takes effect at the next VACUUM, except between 1 and 2.
            app.sql(&format!("PRAGMA auto_vacuum = {}", rng.below(3)));
        }
        14 => {
            app.sql("PRAGMA incremental_vacuum(10)");
        }
        15 => {
            let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][rng.below(4) as usize];
            app.sql(&format!("PRAGMA wal_checkpoint({mode})"));
        }
        16 => {
            app.sql(&format!("CREATE TABLE IF NOT EXISTS x{}(a, b) ", k % 3));
            app.sql(&format!("INSERT INTO x{} SELECT id, v FROM t", k % 3));
        }
        17 => {
            app.sql(&format!("DROP TABLE IF EXISTS x{}", k % 3));
        }
        18 => {
            app.sql(&format!("ALTER TABLE t ADD COLUMN c{n} DEFAULT {k}"));
        }
        19 => {
            if !*fts {
                app.sql("CREATE VIRTUAL TABLE f USING fts5(body)");
                *fts = true;
            }
            app.sql("INSERT INTO f SELECT v FROM t LIMIT 30");
        }
        20 => {
            app.sql("CREATE INDEX IF NOT EXISTS i ON t(v)");
        }
        21 => {
            app.sql("DROP INDEX IF EXISTS i");
        }
        22 => {
            app.sql("INSERT INTO t(v) VALUES (zeroblob(100000))");
        }
        _ => {
            app.sql("CREATE TABLE IF NOT EXISTS w(a TEXT PRIMARY KEY, b) WITHOUT ROWID");
            app.sql("INSERT OR REPLACE INTO w SELECT v, id FROM t LIMIT 25");
        }
    }
}

/// I4b. `Replica::look` compares each capture with the true difference of two committed states.
fn looks_find_exactly_what_changed(page_size: u32, looks: u64) {
    let mut replica = Replica::new(page_size, TABLES);
    let mut rng = Rng::new(u64::from(page_size));
    let db = replica.db.clone();
    let mut app = replica.app();
    let mut fts = false;
    let (mut chains, mut scans, mut changed) = (0, 0, 0);
    for n in 0..looks {
        for _ in 0..1 + rng.below(3) {
            step(&mut app, &mut rng, &mut fts, n);
        }
        if rng.below(12) == 0 {
            app.reopen(&db);
        }
        // A commit between the view's start and its capture belongs to the next look.
        let between = rng.below(3) == 0;
        let captured = replica.look_while(|| {
            if between {
                step(&mut app, &mut rng, &mut fts, n + 1_000);
            }
        });
        changed += captured.pages_changed;
        if is_chain(captured.how) { chains += 1 } else { scans += 1 }
    }
    assert!(chains > looks / 3, "{chains} chains, {scans} scans");
    assert!(scans > 0 && changed > 0);
}

#[test]
fn capture_is_exactly_the_difference_between_committed_states() {
    looks_find_exactly_what_changed(4096, 60);
}

#[test]
fn capture_is_exact_with_the_smallest_pages() {
    looks_find_exactly_what_changed(512, 40);
}

#[test]
fn capture_is_exact_with_the_largest_pages() {
    looks_find_exactly_what_changed(65536, 25);
}

/// I7: the cost grows with the changed pages, not with the database.
#[test]
fn one_changed_row_costs_a_page_or_two_when_the_chain_is_intact() {
    let mut replica = Replica::new(4096, TABLES);
    let mut app = replica.app();
    app.sql("INSERT INTO t(v) SELECT randomblob(4000) FROM t");
    replica.look();
    app.sql("UPDATE t SET v = 'x' WHERE id = 7");
    let captured = replica.look();
    assert_eq!(captured.how, How::Chain { frames: 1 });
    assert_eq!((captured.pages_read, captured.pages_changed), (1, 1));
    assert!(replica.look().is_unchanged());
}

#[test]
fn frames_of_a_rolled_back_transaction_are_no_mark_and_hide_no_commit() {
    // A transaction too large for its cache writes frames before it is rolled back; the commits
    // after it overwrite some of them, so the end of the file stays what it was.
    let mut replica = Replica::new(4096, TABLES);
    let mut app = replica.app();
    app.all(&["PRAGMA wal_autocheckpoint = 0", "UPDATE t SET v = hex(randomblob(100))"]);
    app.all(&["BEGIN", "PRAGMA cache_size = 5"]);
    app.sql("INSERT INTO t(v) SELECT hex(randomblob(1500)) FROM t");
    app.sql("INSERT INTO t(v) SELECT hex(randomblob(1500)) FROM t");
    let frames = |r: &Replica| (r.live.wal_path().metadata().unwrap().len() - 32) / (4096 + 24);
    let spilled = frames(&replica);
    replica.look();
    let at = replica.mark.unwrap().frame();
    assert!(spilled > u64::from(at) + 20, "{spilled} frames in the file, mark at {at}");
    app.sql("ROLLBACK");
    app.sql("UPDATE t SET v = 'one' WHERE id = 1");
    app.sql("UPDATE t SET v = 'two' WHERE id = 150");
    assert_eq!(frames(&replica), spilled, "the two commits lie where the file was written before");
    let captured = replica.look();
    assert_eq!(captured.how, How::Chain { frames: 2 });
    assert_eq!(captured.pages_changed, 2);
}

#[test]
fn a_hole_before_the_mark_breaks_the_chain() {
    // A power failure loses a piece in the middle of the WAL; recovery cuts there; new commits do
    // not reach the old mark, whose frame is still in the file as it was.
    let mut replica = Replica::new(4096, TABLES);
    let db = replica.db.clone();
    let mut app = replica.app();
    app.sql("PRAGMA wal_autocheckpoint = 0");
    for n in 1..30 {
        app.sql(&format!("UPDATE t SET v = hex(randomblob({n})) WHERE id = {n}"));
    }
    replica.look();
    let mark = replica.mark.unwrap();
    let wal = std::fs::read(replica.live.wal_path()).unwrap();
    let main = std::fs::read(&db).unwrap();
    // A copy of the files with a hole: what the machine finds when it comes up again.
    let dir = tempfile::tempdir().unwrap();
    let crashed = dir.path().join("app.db");
    std::fs::write(&crashed, main).unwrap();
    let wal_path = dir.path().join("app.db-wal");
    std::fs::write(&wal_path, &wal).unwrap();
    let hole = 32 + u64::from(mark.frame() - 10) * (4096 + 24);
    std::fs::File::options()
        .write(true)
        .open(&wal_path)
        .unwrap()
        .write_all_at(&[0; 500], hole)
        .unwrap();
    let mut app = App::open(&crashed);
    app.all(&["PRAGMA wal_autocheckpoint = 0", "UPDATE t SET v = 'new' WHERE id = 100"]);
    let tail = 32 + u64::from(mark.frame() - 1) * (4096 + 24);
    let now = std::fs::read(&wal_path).unwrap();
    let tail = usize::try_from(tail).unwrap();
    assert_eq!(now[tail..tail + 24], wal[tail..tail + 24], "the marked frame is still there");
    replica.live = anabranch_sqlite::LiveFile::open(&crashed, crate::support::BUSY).unwrap();
    let captured = replica.look();
    assert_eq!(captured.how, How::Scan(ScanReason::Lost { frame: mark.frame() }));
    assert!(captured.pages_changed > 1, "what was lost differs, and what was written since");
}

#[test]
fn a_restart_of_the_wal_under_a_view_is_noticed() {
    // A view that finds everything copied into the database does not keep the WAL from being
    // restarted by the next writer.
    let mut replica = Replica::new(4096, TABLES);
    let mut app = replica.app();
    app.sql("UPDATE t SET v = 'a' WHERE id = 1");
    replica.look();
    app.sql("UPDATE t SET v = 'b' WHERE id = 199");
    app.sql("PRAGMA wal_checkpoint(PASSIVE)");
    let before = std::fs::read(replica.live.wal_path()).unwrap()[16..24].to_vec();
    let captured = replica.look_while(|| {
        app.sql("UPDATE t SET v = 'c'");
    });
    let after = std::fs::read(replica.live.wal_path()).unwrap()[16..24].to_vec();
    assert_ne!(before, after, "the writer restarted the WAL while the view was open");
    assert_eq!(captured.how, How::Scan(ScanReason::Restarted));
    assert_eq!(captured.pages_changed, 1);
}

#[test]
fn the_last_one_to_close_deletes_the_wal_and_the_next_look_scans() {
    let mut replica = Replica::new(4096, TABLES);
    let db = replica.db.clone();
    let mut app = replica.app();
    app.sql("UPDATE t SET v = 'a'");
    replica.look();
    assert!(replica.mark.is_some() && replica.wal_exists());
    app.close();
    assert!(replica.wal_exists(), "we are still there");
    // Ours is the last connection now: replacing it by one to a temporary file closes it.
    let elsewhere = Replica::new(4096, "");
    let other = std::mem::replace(&mut replica.live, elsewhere.live);
    drop(other);
    assert!(!db.with_extension("db-wal").exists(), "no WAL is left behind");
    cli(&db, "UPDATE t SET v = 'b' WHERE id = 3");
    replica.live = anabranch_sqlite::LiveFile::open(&db, crate::support::BUSY).unwrap();
    let captured = replica.look();
    assert_eq!(captured.how, How::Scan(ScanReason::NoWal));
    assert_eq!(captured.pages_changed, 1);
}

#[test]
fn a_database_that_left_wal_mode_is_still_captured() {
    let mut replica = Replica::new(4096, TABLES);
    cli(&replica.db, "UPDATE t SET v = 'a' WHERE id = 3");
    replica.look();
    assert!(replica.mark.is_some());
    let (db, page_size) = (replica.db.clone(), replica.page_size());
    drop(std::mem::replace(&mut replica.live, Replica::new(4096, "").live));
    cli(&db, "PRAGMA journal_mode=DELETE; UPDATE t SET v = 'b' WHERE id = 3");
    replica.live = anabranch_sqlite::LiveFile::open(&db, crate::support::BUSY).unwrap();
    let captured = replica.look();
    assert_eq!(captured.how, How::Scan(ScanReason::NoWal));
    assert_eq!(captured.pages_changed, 1);
    assert_eq!(replica.mark, None);
    assert!(!replica.live.begin().unwrap().is_wal());
    assert_eq!(replica.page_size(), page_size);
}

#[test]
fn page_one_is_reported_when_asked_for_although_it_is_as_in_the_base() {
    let mut replica = Replica::new(4096, TABLES);
    let mut app = replica.app();
    app.sql("UPDATE t SET v = 'a' WHERE id = 3");
    replica.look();
    let map = anabranch_sqlite::BaseMap::new(
        &replica.sidecar,
        crate::support::SEED,
        replica.live.page_size(),
    );
    let (size, mark) = (replica.base_size, replica.mark);
    let view = replica.live.begin().unwrap();
    for since in [None, mark.as_ref()] {
        let with = Compare {
            ahead: None,
            since,
            base_size: size,
            page_one_always: true,
            restarted: false,
            watched: None,
        };
        let mut pages = vec![];
        let captured = view
            .capture(&with, &map, &mut |pgno, _, _| -> Result<(), std::fmt::Error> {
                pages.push(pgno.get());
                Ok(())
            })
            .unwrap();
        assert_eq!(pages, [1]);
        assert_eq!(captured.checksum_change.0, 0, "the same page before and after");
    }
}

#[test]
fn pages_in_which_the_file_was_ahead_at_the_mark_are_looked_at() {
    let mut replica = Replica::new(4096, TABLES);
    let mut app = replica.app();
    app.sql("UPDATE t SET v = 'base' WHERE id = 3");
    replica.look();
    // From here on the file is ahead of its base, and that is all that is known of it.
    app.sql("UPDATE t SET v = 'ahead' WHERE id = 3");
    let map = anabranch_sqlite::BaseMap::new(
        &replica.sidecar,
        crate::support::SEED,
        replica.live.page_size(),
    );
    let size = replica.base_size;
    let ahead_at = replica.live.begin().unwrap().mark().copied();
    app.sql("UPDATE t SET v = 'later' WHERE id = 190");
    let view = replica.live.begin().unwrap();
    let captured = |since, ahead| {
        let with = Compare {
            ahead,
            since,
            base_size: size,
            page_one_always: false,
            restarted: false,
            watched: None,
        };
        let mut pages = PageSet::new(view.db_size());
        let found = view.capture(&with, &map, &mut |pgno, _, _| -> Result<(), std::fmt::Error> {
            pages.insert(pgno);
            Ok(())
        });
        (pages.iter().collect::<Vec<_>>(), found.unwrap().how)
    };
    let (all, how) = captured(None, None);
    assert!(matches!(how, How::Scan(_)) && all.len() == 2, "{all:?}");
    let (after, _) = captured(ahead_at.as_ref(), None);
    assert_eq!(after.len(), 1, "a mark alone promises that the file was as the base");
    let mut ahead = PageSet::new(u32::from(u16::MAX));
    for pgno in all.iter().filter(|pgno| !after.contains(pgno)) {
        ahead.insert(*pgno);
    }
    // A page that is gone by now does no harm.
    ahead.insert(crate::support::p(60_000));
    let (found, how) = captured(ahead_at.as_ref(), Some(&ahead));
    assert!(matches!(how, How::Chain { .. }), "{how:?}");
    assert_eq!(found, all);
}

#[test]
fn syncing_works_in_every_state_of_the_wal() {
    let mut replica = Replica::new(4096, TABLES);
    let mut app = replica.app();
    for sql in [
        "UPDATE t SET v = 'a'",
        "PRAGMA wal_checkpoint(PASSIVE)",
        "DELETE FROM t",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    ] {
        app.sql(sql);
        replica.live.begin().unwrap().sync_wal().unwrap();
    }
}
