//! A watcher beside applications that write, checkpoint and read: it misses no page, and keeps the
//! `-wal` short.

use std::sync::atomic::{AtomicU32, Ordering};

use anabranch_sqlite::{FRAMES_MAX, How};
use serde_json::json;

use crate::capture::{TABLES, step};
use crate::support::{App, Replica, Rng, assert_intact, cli};

/// Statements of the writer in each round.
const AT_ONCE: u64 = 40;

/// I4b: what was written before a look is in it; whatever the application does to its pages, and
/// whether or not the looks before led to anything.
fn every_change_is_seen_without_a_scan(page_size: u32, looks: u64) {
    let mut replica = Replica::new(page_size, TABLES);
    let mut rng = Rng::new(u64::from(page_size) + 1);
    let db = replica.db.clone();
    let mut app = replica.app();
    let mut fts = false;
    replica.watch();
    let mut changed = 0;
    for n in 0..looks {
        for m in 0..1 + rng.below(3) {
            step(&mut app, &mut rng, &mut fts, n * 10 + m);
            if rng.below(2) == 0 {
                replica.watcher().look().unwrap();
            }
        }
        if rng.below(12) == 0 {
            app.reopen(&db);
        }
        let between = rng.below(3) == 0;
        let captured = match rng.below(4) {
            0 => replica.look_in_vain(),
            _ => replica.look_while(|| {
                if between {
                    step(&mut app, &mut rng, &mut fts, n + 1_000);
                }
            }),
        };
        assert_eq!(captured.how, How::Watched);
        changed += captured.pages_changed;
    }
    let counts = replica.watcher().counts();
    assert!(changed > 0 && counts.restarts > 0 && counts.breaks == 0, "{counts:?}");
    // The whole file, page by page.
    replica.watcher().distrust();
    replica.mark = None;
    let scanned = replica.look();
    assert!(matches!(scanned.how, How::Scan(_)));
    assert_intact(&db);
}

#[test]
fn every_page_an_application_writes_is_seen_without_a_scan() {
    every_change_is_seen_without_a_scan(4096, 50);
}

#[test]
fn every_page_is_seen_with_the_smallest_pages() {
    every_change_is_seen_without_a_scan(512, 30);
}

/// One of those that are at work; it leaves by a panic, too, so that nobody waits for it for ever.
struct Leaves<'a>(&'a AtomicU32);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// I4b, I7: a writer that never rests, others that checkpoint in every way, and looks all the time.
#[test]
fn a_writer_that_never_rests_is_followed_and_the_wal_stays_short() {
    let mut replica = Replica::new(4096, TABLES);
    let db = replica.db.clone();
    let (mut writer, mut other, mut cleaner) = (replica.app(), replica.app(), replica.app());
    replica.watch();
    let (mut found, mut longest) = (0, 0);
    for round in 0..60_u64 {
        let writing = AtomicU32::new(3);
        let [first, second, third] = [(); 3].map(|()| Leaves(&writing));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _leaves = first;
                for n in 0..AT_ONCE {
                    let k = (round * 31 + n * 7) % 200 + 1;
                    writer.sql(&format!("UPDATE t SET v = hex(randomblob(60)) WHERE id = {k}"));
                }
            });
            scope.spawn(|| {
                let _leaves = second;
                other.sql("INSERT INTO t(v) SELECT hex(randomblob(90)) FROM t LIMIT 40");
                other.sql("DELETE FROM t WHERE id > 400");
            });
            scope.spawn(|| {
                let _leaves = third;
                // These wait for the watcher's pin to move, while they keep writers waiting.
                let mode = ["PASSIVE", "TRUNCATE", "RESTART", "FULL"][round as usize % 4];
                cleaner.sql(&format!("PRAGMA wal_checkpoint({mode})"));
            });
            while writing.load(Ordering::Relaxed) > 0 {
                replica.watcher().look().unwrap();
                longest = longest.max(replica.wal_frames());
            }
        });
        if round % 4 != 3 {
            let captured = replica.look();
            assert_eq!(captured.how, How::Watched);
            found += captured.pages_changed;
        }
    }
    let counts = replica.watcher().counts();
    assert!(found > 0 && counts.breaks == 0 && counts.restarts > 2, "{counts:?}");
    assert!(longest < 3 * u64::from(FRAMES_MAX), "{longest} frames, {counts:?}");
    // The whole file, page by page, is what the looks say.
    replica.look();
    replica.watcher().distrust();
    replica.mark = None;
    let scanned = replica.look();
    assert!(matches!(scanned.how, How::Scan(_)) && scanned.is_unchanged(), "{scanned:?}");
    assert_intact(&db);
}

/// Writes about `frames` frames.
fn write(app: &mut App, frames: u32) {
    for n in 0..frames {
        app.sql(&format!("UPDATE t SET v = hex(randomblob(40)) WHERE id = {}", n % 200 + 1));
    }
}

#[test]
fn a_wal_that_nobody_syncs_is_tidied_all_the_same() {
    // The remote is away: looks go on, nothing settles.
    let mut replica = Replica::new(4096, TABLES);
    let mut app = replica.app();
    app.sql("PRAGMA wal_autocheckpoint = 0");
    replica.watch();
    for _ in 0..60 {
        write(&mut app, 100);
        replica.watcher().look().unwrap();
    }
    assert!(replica.wal_frames() < 2 * u64::from(FRAMES_MAX), "{}", replica.wal_frames());
    let counts = replica.watcher().counts();
    assert!(counts.tidied > 1 && counts.restarts > 1 && counts.breaks == 0, "{counts:?}");
    let captured = replica.look();
    assert_eq!(captured.how, How::Watched);
    assert!(captured.pages_changed > 1);
}

#[test]
fn a_reader_of_an_old_state_only_puts_tidying_off() {
    let mut replica = Replica::new(4096, TABLES);
    let (mut app, mut reader) = (replica.app(), replica.app());
    app.sql("PRAGMA wal_autocheckpoint = 0");
    app.sql("UPDATE t SET v = 'old'");
    replica.watch();
    reader.sql("BEGIN");
    assert_eq!(reader.sql("SELECT count(*) FROM t WHERE v = 'old'"), [[json!(200)]]);
    for _ in 0..16 {
        write(&mut app, 100);
        replica.watcher().look().unwrap();
    }
    let held = replica.wal_frames();
    assert!(held > 1600, "what the reader sees is kept: {held}");
    assert_eq!(reader.sql("SELECT count(*) FROM t WHERE v = 'old'"), [[json!(200)]]);
    reader.sql("COMMIT");
    for _ in 0..20 {
        write(&mut app, 100);
        replica.watcher().look().unwrap();
    }
    assert!(replica.wal_frames() < held + 1000, "{} after {held}", replica.wal_frames());
    let counts = replica.watcher().counts();
    assert!(counts.restarts > 0 && counts.breaks == 0, "{counts:?}");
    assert_eq!(replica.look().how, How::Watched);
}

#[test]
fn what_was_not_announced_is_seen_by_the_next() {
    // Commits between the beginning of a view and its settling, with a look in between.
    let mut replica = Replica::new(4096, TABLES);
    let mut app = replica.app();
    replica.watch();
    app.sql("UPDATE t SET v = 'a' WHERE id = 1");
    assert_eq!(replica.look_while(|| {}).pages_changed, 1);
    assert!(replica.watcher().is_in_step());
    let captured = replica.look_while(|| {
        app.sql("UPDATE t SET v = 'b' WHERE id = 199");
    });
    assert_eq!(captured.pages_changed, 0);
    assert!(!replica.watcher().is_in_step());
    assert!(!replica.watcher().look().unwrap(), "it has been seen already");
    let captured = replica.look();
    assert_eq!((captured.how, captured.pages_changed, captured.pages_read), (How::Watched, 1, 1));
    assert!(replica.watcher().is_in_step());
    app.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(!replica.watcher().look().unwrap());
    assert!(replica.watcher().is_in_step(), "a checkpoint writes nothing new");
    assert_eq!(replica.look().pages_read, 0);
}

#[test]
fn the_last_application_that_closes_leaves_the_wal_to_the_watcher() {
    let mut replica = Replica::new(4096, TABLES);
    replica.watch();
    // Each of them opens, writes and closes.
    for n in 1..20 {
        cli(&replica.db.clone(), &format!("UPDATE t SET v = '{n}' WHERE id = {n}"));
        let captured = replica.look();
        assert_eq!((captured.how, captured.pages_changed), (How::Watched, 1));
    }
    assert!(replica.wal_exists());
    let wal = replica.live.wal_path().to_owned();
    let elsewhere = Replica::new(4096, "");
    drop(std::mem::replace(&mut replica.live, elsewhere.live));
    assert!(wal.exists());
    replica.watcher = None;
    assert!(!wal.exists(), "but it leaves none behind");
}

#[test]
fn a_very_long_wal_gives_its_space_back() {
    let mut replica = Replica::new(65536, TABLES);
    let mut app = replica.app();
    app.sql("PRAGMA wal_autocheckpoint = 0");
    replica.watch();
    app.sql("INSERT INTO t(v) SELECT zeroblob(640000) FROM t LIMIT 150");
    assert!(replica.wal_frames() * 65536 > 64 << 20);
    replica.watcher().look().unwrap();
    assert_eq!(replica.wal_frames(), 0);
    let captured = replica.look();
    assert_eq!(captured.how, How::Watched);
    assert!(captured.pages_changed > 1000);
    app.sql("UPDATE t SET v = 'a' WHERE id = 1");
    assert_eq!(replica.look().pages_changed, 1);
    assert_eq!(replica.watcher().counts().breaks, 0);
}
