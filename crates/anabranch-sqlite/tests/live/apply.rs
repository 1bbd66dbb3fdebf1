use std::collections::BTreeSet;

use anabranch_format::{PageOne, PageSize};
use anabranch_sqlite::{ApplyError, CookieRule, How, LiveFile};

use crate::support::{App, BUSY, Change, Image, Replica, Rng, Source, assert_intact, cli};

const TABLES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
    INSERT INTO t SELECT i, hex(randomblob(40)) FROM n;";

/// A replica, and a change to it that `sql` makes elsewhere.
fn with_change(page_size: u32, sql: &[&str]) -> (Replica, Source, Change) {
    let replica = Replica::new(page_size, TABLES);
    let mut source = Source::copy_of(&replica);
    source.app().all(sql);
    let change = replica.change_to(&mut source.live);
    (replica, source, change)
}

fn rows(db: &std::path::Path) -> String {
    cli(db, "SELECT count(*), sum(length(v)), max(id) FROM t")
}

#[test]
fn what_is_applied_is_what_the_source_has_whatever_it_did() {
    for page_size in [512, 4096, 65536] {
        let mut replica = Replica::new(page_size, TABLES);
        let mut source = Source::copy_of(&replica);
        let mut app = source.app();
        for sql in [
            "UPDATE t SET v = 'x' WHERE id = 9",
            "INSERT INTO t(v) VALUES (zeroblob(10000000))",
            "DELETE FROM t WHERE length(v) > 1000000",
            "CREATE TABLE w(a TEXT PRIMARY KEY, b) WITHOUT ROWID",
            "INSERT INTO w SELECT v, id FROM t WHERE id > 10",
            "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO w VALUES (random(), 1); END",
            "INSERT INTO t(v) VALUES (1), (2), (3)",
            "ALTER TABLE t ADD COLUMN more DEFAULT 5",
            "CREATE VIRTUAL TABLE f USING fts5(body)",
            "INSERT INTO f SELECT v FROM t",
            "DROP TABLE w",
            "VACUUM",
            "DELETE FROM t WHERE id % 2",
            "VACUUM",
        ] {
            app.sql(sql);
            let change = replica.change_to(&mut source.live);
            let applied = replica.apply(&change);
            assert!(applied.verified, "{sql}");
            assert_eq!(applied.pages, change.pages.len() as u64);
            let captured = replica.look();
            assert_eq!(captured.how, How::Chain { frames: 0 }, "the mark is our own commit");
        }
        assert_intact(&replica.db);
        assert_eq!(rows(&replica.db), rows(&source.db));
    }
}

#[test]
fn an_automatic_vacuum_does_not_rewrite_what_is_applied() {
    // The live file vacuums at each commit; the change comes from one that no longer does, and
    // brings free pages with it.
    let setup = format!("PRAGMA auto_vacuum=FULL; VACUUM; {TABLES}");
    for mode in ["INCREMENTAL", "FULL", "NONE"] {
        let mut replica = Replica::new(4096, &setup);
        cli(&replica.db, "INSERT INTO t(v) SELECT hex(randomblob(600)) FROM t");
        replica.look();
        let mut source = Source::copy_of(&replica);
        let mut app = source.app();
        app.all(&[&format!("PRAGMA auto_vacuum={mode}"), "DELETE FROM t WHERE id % 3 > 0"]);
        assert_eq!(cli(&replica.db, "PRAGMA auto_vacuum"), "1");
        let change = replica.change_to(&mut source.live);
        assert!(replica.apply(&change).verified);
        let free = app.number("PRAGMA freelist_count");
        assert!(mode != "INCREMENTAL" || free > 20, "{free} free pages are carried");
        assert_eq!(cli(&replica.db, "PRAGMA freelist_count"), free.to_string());
        assert_intact(&replica.db);
    }
}

#[test]
fn a_change_that_shrinks_cuts_the_file_off_and_the_file_shrinks_at_a_checkpoint() {
    let (mut replica, _source, change) =
        with_change(4096, &["DELETE FROM t WHERE id > 5", "VACUUM"]);
    let before = replica.base_size;
    replica.apply(&change);
    assert!(change.size_after < before);
    assert_eq!(cli(&replica.db, "PRAGMA page_count"), change.size_after.to_string());
    cli(&replica.db, "PRAGMA wal_checkpoint(TRUNCATE)");
    let bytes = replica.db.metadata().unwrap().len();
    assert_eq!(bytes, u64::from(change.size_after) * 4096);
}

/// The layout of page 1 that the writing connection remembers is not that of the new page 1.
#[test]
fn a_change_that_drops_most_of_the_schema_and_shrinks_is_applied() {
    for random in [7, u32::MAX] {
        let (mut replica, mut source, change) = with_change(
            4096,
            &[
                "CREATE TABLE x1(a)",
                "CREATE TABLE x2(a)",
                "CREATE TABLE x3(a)",
                "CREATE INDEX ix ON x2(a)",
                "INSERT INTO x1 SELECT hex(randomblob(3000)) FROM t",
            ],
        );
        replica.apply(&change);
        let drops = ["DROP TABLE x1", "DROP TABLE x2", "DROP TABLE x3", "DROP TABLE t"];
        source.app().all(&drops);
        source.app().all(&["CREATE TABLE last(a)", "VACUUM"]);
        let change = replica.change_to(&mut source.live);
        let rule = CookieRule::Replace { random };
        let (applied, intent) = replica.try_apply(&change, rule, || {});
        let applied = applied.unwrap();
        assert!(applied.verified);
        replica.settle(&change, intent.unwrap().id, applied.mark);
        let view = replica.live.begin().unwrap();
        assert_eq!(view.page_one().schema_cookie, applied.local_cookie);
        assert_ne!(applied.local_cookie, source.live.begin().unwrap().page_one().schema_cookie);
        drop(view);
        assert_eq!(cli(&replica.db, "SELECT name FROM sqlite_schema"), "last");
        assert_intact(&replica.db);
    }
}

#[test]
fn a_commit_since_the_view_began_is_not_overwritten() {
    let (mut replica, _source, change) = with_change(4096, &["UPDATE t SET v = 'remote'"]);
    let mut app = replica.app();
    let (outcome, told) = replica.try_apply(&change, CookieRule::Keep, || {
        app.sql("INSERT INTO t(v) VALUES ('local')");
    });
    assert!(matches!(outcome, Err(ApplyError::Moved)), "{outcome:?}");
    assert!(told.is_none());
    assert_eq!(cli(&replica.db, "SELECT count(*) FROM t WHERE v IN ('local', 'remote')"), "1");
    assert_eq!(replica.look().pages_changed, 1, "the local row");
}

#[test]
fn a_writer_that_rolls_back_is_waited_for_and_one_that_commits_is_noticed() {
    for (end, moved) in [("ROLLBACK", false), ("COMMIT", true)] {
        let (mut replica, _source, change) = with_change(4096, &["UPDATE t SET v = 'remote'"]);
        let mut app = replica.app();
        let waiting = std::thread::scope(|scope| {
            let (outcome, _) = replica.try_apply(&change, CookieRule::Keep, || {
                app.all(&["BEGIN IMMEDIATE", "INSERT INTO t(v) VALUES ('local')"]);
                // The other process ends its transaction whenever it gets to it: before the first
                // try of ours or after some, the outcome is the same.
                scope.spawn(move || app.sql(end));
            });
            outcome
        });
        match waiting {
            Ok(_) => assert!(!moved),
            Err(ApplyError::Moved) => assert!(moved),
            Err(error) => panic!("{error:?}"),
        }
        assert_intact(&replica.db);
    }
}

#[test]
fn a_writer_that_stays_makes_us_busy_and_changes_nothing() {
    let (replica, _source, change) = with_change(4096, &["UPDATE t SET v = 'remote'"]);
    let Replica { dir, db, .. } = replica;
    let mut replica = Replica::of(dir, db.clone());
    replica.live = LiveFile::open(&db, std::time::Duration::from_millis(60)).unwrap();
    let mut app = replica.app();
    app.all(&["BEGIN IMMEDIATE", "INSERT INTO t(v) VALUES ('local')"]);
    let (outcome, _) = replica.try_apply(&change, CookieRule::Keep, || {});
    match outcome {
        Err(ApplyError::File(error)) => assert!(error.is_busy(), "{error:?}"),
        other => panic!("{other:?}"),
    }
    app.sql("ROLLBACK");
    assert!(replica.look().is_unchanged());
    assert!(replica.try_apply(&change, CookieRule::Keep, || {}).0.is_ok());
}

#[test]
fn a_failing_callback_rolls_everything_back() {
    let (mut replica, _source, change) =
        with_change(4096, &["CREATE TABLE fresh(a)", "UPDATE t SET v = 'remote'"]);
    let map =
        anabranch_sqlite::BaseMap::new(&replica.sidecar, crate::support::SEED, PageSize::DEFAULT);
    let view = replica.live.begin().unwrap();
    let outcome = view.apply(
        anabranch_sqlite::ApplyDelta {
            before: None,
            page_size: change.page_size,
            size_after: change.size_after,
            pages: &mut anabranch_sqlite::Hashed::new(
                change.source(),
                map.hasher(),
                change.page_size,
            ),
            schema_cookie: CookieRule::Keep,
            base: &map,
            intent: 77,
        },
        &mut |_| Err(std::fmt::Error),
    );
    assert!(matches!(&outcome, Err(ApplyError::Callback(_))));
    assert!(!outcome.unwrap_err().may_be_committed());
    map.drop_staged(77).unwrap();
    assert!(replica.look().is_unchanged());
    replica.apply(&change);
}

#[test]
fn page_one_keeps_what_is_the_files_own_and_is_refused_when_it_does_not_fit() {
    let (mut replica, _source, change) = with_change(4096, &["CREATE TABLE fresh(a)"]);
    let before = *replica.live.begin().unwrap().page_one();
    let broken = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut change = change.clone();
        edit(change.pages.get_mut(&1).unwrap());
        change
    };
    let mut refused = vec![
        ("another page size", broken(&|p| p[16..18].copy_from_slice(&[2, 0]))),
        ("reserved bytes", broken(&|p| p[20] = 8)),
        ("a size in the header that is not the size", broken(&|p| p[31] ^= 1)),
        ("no database header", broken(&|p| p[0] = b'X')),
    ];
    let mut without = change.clone();
    without.pages.remove(&1);
    refused.push(("no page 1 although the size changes", without));
    for (what, bad) in refused {
        let (outcome, _) = replica.try_apply(&bad, CookieRule::Keep, || {});
        assert!(matches!(outcome, Err(ApplyError::PageOne(_))), "{what}: {outcome:?}");
        assert!(replica.look().is_unchanged(), "{what}");
    }
    let cookie = change.pages[&1].clone();
    let incoming = PageOne::read(&cookie).unwrap().schema_cookie;
    let (applied, told) = replica.try_apply(
        &change,
        CookieRule::ByLog { log_cookie: incoming.wrapping_sub(1), random: before.schema_cookie },
        || {},
    );
    let applied = applied.unwrap();
    let after = *replica.live.begin().unwrap().page_one();
    assert_eq!(after.schema_cookie, applied.local_cookie);
    assert!(after.schema_cookie != before.schema_cookie && after.schema_cookie != incoming);
    assert_eq!(told.unwrap().cookie_after, Some(after.schema_cookie));
    assert_eq!(applied.log_cookie, Some(incoming));
    assert_eq!((after.write_version, after.read_version), (2, 2));
    assert!(after.change_counter > before.change_counter);
    assert_eq!(after.change_counter, after.version_valid_for);
    assert_eq!(after.db_size, change.size_after);
}

#[test]
fn changes_that_are_no_change_to_this_file_are_refused() {
    let (mut replica, _source, change) =
        with_change(4096, &["INSERT INTO t(v) SELECT hex(randomblob(500)) FROM t"]);
    let last = *change.pages.keys().last().unwrap();
    let mut hole = change.clone();
    hole.pages.remove(&(last - 1));
    let mut beyond = change.clone();
    beyond.size_after -= 1;
    beyond.pages.get_mut(&1).unwrap()[28..32]
        .copy_from_slice(&(change.size_after - 1).to_be_bytes());
    for bad in [hole, beyond] {
        let (outcome, _) = replica.try_apply(&bad, CookieRule::Keep, || {});
        assert!(matches!(outcome, Err(ApplyError::Pages(_))), "{outcome:?}");
    }
    let mut none = change.clone();
    none.size_after = 0;
    assert!(replica.try_apply(&none, CookieRule::Keep, || {}).0.is_err());
    let mut other = change.clone();
    other.page_size = PageSize::MIN;
    let (outcome, _) = replica.try_apply(&other, CookieRule::Keep, || {});
    assert!(matches!(outcome, Err(ApplyError::PageSize { .. })));
    assert!(replica.look().is_unchanged());
}

#[test]
fn a_database_switched_out_of_wal_mode_is_refused_until_it_is_prepared() {
    let (mut replica, _source, change) = with_change(4096, &["UPDATE t SET v = 'remote'"]);
    let db = replica.db.clone();
    // Only the last connection can switch.
    drop(std::mem::replace(&mut replica.live, Replica::new(4096, "").live));
    cli(&db, "PRAGMA journal_mode=DELETE");
    replica.live = LiveFile::open(&db, BUSY).unwrap();
    let (outcome, _) = replica.try_apply(&change, CookieRule::Keep, || {});
    assert!(matches!(outcome, Err(ApplyError::NotWal)), "{outcome:?}");
    assert!(replica.live.prepare().unwrap().switched_to_wal);
    replica.mark = None;
    replica.apply(&change);
}

#[test]
fn connections_that_were_open_see_the_new_schema_and_rows() {
    let (mut replica, _source, change) = with_change(
        4096,
        &[
            "DROP TABLE t",
            "CREATE TABLE other(x)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v, extra)",
            "INSERT INTO t VALUES (1, 'remote', 2)",
            "CREATE INDEX i ON t(extra)",
        ],
    );
    let mut app = replica.app();
    assert_eq!(app.number("SELECT count(*) FROM t"), 300);
    replica.apply(&change);
    assert_eq!(app.number("SELECT count(*) FROM t"), 1);
    assert_eq!(app.number("SELECT extra FROM t INDEXED BY i WHERE extra = 2"), 2);
    app.sql("INSERT INTO other VALUES (5)");
    assert_intact(&replica.db);
    assert!(replica.look().pages_changed > 0);
}

#[test]
fn no_trigger_runs_and_no_foreign_key_reaches_out_when_pages_are_applied() {
    let setup = format!(
        "{TABLES} CREATE TABLE log(a); CREATE TABLE child(t REFERENCES t(id) ON DELETE CASCADE);
         INSERT INTO child VALUES (5);
         CREATE TRIGGER tr AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (new.id); END;"
    );
    let mut replica = Replica::new(4096, &setup);
    let mut source = Source::copy_of(&replica);
    source.app().all(&["UPDATE t SET v = 'x' WHERE id = 1", "DELETE FROM t WHERE id = 5"]);
    let change = replica.change_to(&mut source.live);
    replica.apply(&change);
    assert_eq!(cli(&replica.db, "SELECT count(*) FROM log"), "1", "the one of the source");
    assert_eq!(cli(&replica.db, "SELECT count(*) FROM child"), "1");
}

#[test]
fn the_lock_page_is_stepped_over_in_a_database_above_one_gibibyte() {
    // Pages of 64 KiB make it few; the middle of the file is a hole, pages that no table uses.
    let lock_page = PageSize::MAX.lock_page().get();
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    cli(&db, &format!("PRAGMA page_size=65536; {TABLES}"));
    let mut bytes = std::fs::read(&db).unwrap();
    bytes[28..32].copy_from_slice(&(lock_page - 2).to_be_bytes());
    std::fs::write(&db, bytes).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&db)
        .unwrap()
        .set_len(u64::from(lock_page - 2) * 65536)
        .unwrap();
    // Not the oracle of the other tests: it keeps an image of every page.
    let mut live = LiveFile::open(&db, BUSY).unwrap();
    live.prepare().unwrap();
    let sidecar = rusqlite::Connection::open_in_memory().unwrap();
    anabranch_sqlite::BaseMap::create_tables(&sidecar).unwrap();
    let map = anabranch_sqlite::BaseMap::new(&sidecar, 1, PageSize::MAX);
    let capture =
        |live: &mut LiveFile, base_size: u32, mark: Option<&anabranch_sqlite::Mark>, id| {
            let view = live.begin().unwrap();
            let mut staging = map.stage(id);
            let mut pages = BTreeSet::new();
            let with = anabranch_sqlite::Compare {
                ahead: None,
                since: mark,
                base_size,
                page_one_always: false,
                restarted: false,
                watched: None,
            };
            view.capture(&with, &map, &mut |pgno, _, entry| {
                pages.insert(pgno.get());
                staging.push(pgno, entry)
            })
            .unwrap();
            staging.finish().unwrap();
            let out = (pages, view.db_size(), view.mark().copied());
            drop(view);
            map.settle(id, out.1).unwrap();
            out
        };
    let (pages, size, _) = capture(&mut live, 0, None, 1);
    assert_eq!((pages.len(), size), (lock_page as usize - 2, lock_page - 2));
    let mut app = App::open(&db);
    app.sql("UPDATE t SET v = 'here' WHERE id = 1");
    let (_, _, mark) = capture(&mut live, size, None, 2);
    app.sql("INSERT INTO t(v) VALUES (zeroblob(300000))");
    let (pages, grown, _) = capture(&mut live, size, mark.as_ref(), 3);
    assert!(grown > lock_page && pages.contains(&(lock_page + 1)), "{pages:?}");
    assert!(!pages.contains(&lock_page));

    // Back below the lock page, and above it again, by apply.
    let (above, page_size) = (grown, PageSize::MAX);
    let read = |live: &mut LiveFile, numbers: &BTreeSet<u32>| -> Change {
        let view = live.begin().unwrap();
        let mut change =
            Change { page_size, size_after: view.db_size(), pages: Default::default() };
        for n in numbers {
            let mut page = vec![0; 65536];
            view.page(crate::support::p(*n), &mut page).unwrap();
            change.pages.insert(*n, page);
        }
        change
    };
    let grow = read(&mut live, &pages);
    app.all(&["DELETE FROM t WHERE length(v) = 300000", "DROP TABLE t"]);
    let mut shrink = read(&mut live, &BTreeSet::from([1]));
    shrink.size_after = lock_page - 2;
    shrink.pages.get_mut(&1).unwrap()[28..32].copy_from_slice(&(lock_page - 2).to_be_bytes());
    for (change, id) in [(&shrink, 4), (&grow, 5)] {
        let view = live.begin().unwrap();
        let applied = view
            .apply::<std::fmt::Error>(
                anabranch_sqlite::ApplyDelta {
                    before: None,
                    page_size,
                    size_after: change.size_after,
                    pages: &mut anabranch_sqlite::Hashed::new(
                        change.source(),
                        map.hasher(),
                        change.page_size,
                    ),
                    schema_cookie: CookieRule::Replace { random: 5 },
                    base: &map,
                    intent: id,
                },
                &mut |_| Ok(()),
            )
            .unwrap();
        assert!(applied.verified);
        assert_eq!(live.begin().unwrap().db_size(), change.size_after);
    }
    assert_eq!(grow.size_after, above);
    assert_eq!(app.number("SELECT sum(length(v) = 300000) FROM t"), 1);
}

#[test]
fn a_transaction_larger_than_the_cache_is_applied_exactly() {
    // SQLite writes such a transaction into the WAL before it is complete, and may write the commit
    // frame for a page a second time.
    let (mut replica, _source, change) = with_change(
        512,
        &["INSERT INTO t(v) SELECT hex(randomblob(2000)) FROM t", "UPDATE t SET v = v || 'x'"],
    );
    assert!(change.pages.len() > 2000, "{}", change.pages.len());
    assert!(replica.apply(&change).verified);
    assert_intact(&replica.db);
    assert_eq!(replica.look().how, How::Chain { frames: 0 });
}

#[test]
fn the_connection_that_wrote_is_replaced_and_leaves_no_wal_behind() {
    let (mut replica, source, change) = with_change(4096, &["CREATE TABLE fresh(a)"]);
    replica.apply(&change);
    assert!(replica.wal_exists());
    // The next change goes through the next connection.
    source.app().sql("INSERT INTO fresh VALUES (1)");
    let mut source = source;
    let change = replica.change_to(&mut source.live);
    replica.apply(&change);
    let Replica { live, db, dir, .. } = replica;
    drop(live);
    assert!(!db.with_extension("db-wal").exists());
    assert!(!db.with_extension("db-shm").exists());
    assert_eq!(cli(&db, "SELECT a FROM fresh"), "1");
    drop(dir);
}

#[test]
fn random_changes_applied_one_after_the_other_keep_two_files_the_same() {
    for vacuum in 0..3 {
        let mut rng = Rng::new(vacuum);
        let setup = format!("PRAGMA auto_vacuum={vacuum}; VACUUM; {TABLES}");
        let mut replica = Replica::new(1024, &setup);
        let mut source = Source::copy_of(&replica);
        let mut app = source.app();
        let mut reader = replica.app();
        for n in 0..25 {
            let k = rng.below(400);
            for sql in [
                format!("INSERT INTO t(v) SELECT hex(randomblob({k})) FROM t LIMIT 40"),
                format!("DELETE FROM t WHERE id % 7 = {n} % 7"),
                format!("UPDATE t SET v = hex(randomblob({k})) WHERE id % 5 = 1"),
                "PRAGMA incremental_vacuum(7)".to_owned(),
                format!("PRAGMA auto_vacuum={}", k % 3),
                "VACUUM".to_owned(),
                "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
            ] {
                if rng.below(2) == 0 {
                    app.sql(&sql);
                }
            }
            let change = replica.change_to(&mut source.live);
            if change.pages.is_empty() {
                continue;
            }
            replica.apply(&change);
            assert_eq!(
                reader.sql("SELECT count(*), total(length(v)) FROM t"),
                app.sql("SELECT count(*), total(length(v)) FROM t")
            );
            if rng.below(4) == 0 {
                reader.sql("PRAGMA wal_checkpoint(RESTART)");
            }
        }
        assert_intact(&replica.db);
        let same = Image::of(&source.live.begin().unwrap(), replica.page_size());
        assert!(same == replica.image);
    }
}
