//! Several processes at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anabranch_sqlite::{ApplyError, CookieRule};
use serde_json::json;

use crate::support::{App, Replica, Source, assert_intact, cli};

const ACCOUNTS: &str = "CREATE TABLE a(id INTEGER PRIMARY KEY, n, pad);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
    INSERT INTO a SELECT i, 0, hex(randomblob(100)) FROM n;
    CREATE TABLE mine(id INTEGER PRIMARY KEY, v);";

/// Sets a flag when dropped, also by a panic, so that other threads end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// I3: readers see whole transactions of one consistent state, always.
#[test]
fn readers_elsewhere_see_only_whole_transactions_during_many_applies() {
    let mut replica = Replica::new(1024, ACCOUNTS);
    let mut source = Source::copy_of(&replica);
    let mut writer = source.app();
    let stop = AtomicBool::new(false);
    let db = replica.db.clone();
    // All have looked once before the first apply.
    let ready = Barrier::new(3);
    std::thread::scope(|scope| {
        let ends = Stop(&stop);
        let readers: Vec<_> = (0..2)
            .map(|index| {
                let (db, stop, ready) = (db.clone(), &stop, &ready);
                scope.spawn(move || {
                    let mut app = App::open(&db);
                    let (mut looks, mut last) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        // Every transaction of the source sets all rows to one number.
                        let found = app.sql("SELECT min(n), max(n), count(*) FROM a");
                        let n = found[0][0].as_i64().unwrap();
                        assert_eq!(found[0], [json!(n), json!(n), json!(200)]);
                        assert!(n >= last, "never back from {last} to {n}");
                        last = n;
                        looks += 1;
                        if looks == 1 {
                            ready.wait();
                        }
                        if looks % 10 == index {
                            assert_eq!(app.sql("PRAGMA integrity_check"), [[json!("ok")]]);
                        }
                    }
                    looks
                })
            })
            .collect();
        ready.wait();
        for n in 1..=60 {
            writer.sql(&format!("UPDATE a SET n = {n}"));
            if n % 9 == 0 {
                writer.sql("VACUUM");
            }
            if n % 13 == 0 {
                writer.sql(&format!("CREATE TABLE x{n}(a)"));
            }
            let change = replica.change_to(&mut source.live);
            replica.apply(&change);
        }
        drop(ends);
        for reader in readers {
            assert!(reader.join().unwrap() >= 1);
        }
    });
    assert_intact(&replica.db);
}

/// I2: a local commit is never lost. I4b: none that came before a look is missing from it.
#[test]
fn commits_of_others_come_before_an_apply_or_after_it_and_none_is_lost() {
    let mut replica = Replica::new(4096, ACCOUNTS);
    let mut source = Source::copy_of(&replica);
    let mut remote = source.app();
    let stop = AtomicBool::new(false);
    let db = replica.db.clone();
    let (mut done, mut moved) = (0, 0);
    // The writer keeps pace, a commit for every other attempt, so that they meet again and again and
    // the attempts come to an end.
    let (attempts, ready) = (AtomicU64::new(0), Barrier::new(2));
    let committed = std::thread::scope(|scope| {
        let ends = Stop(&stop);
        // Rewrites one row that no change touches, each commit on the same page: what it adds is
        // counted in `mine`, which the changes leave alone.
        let writer = scope.spawn(|| {
            let mut app = App::open(&db);
            let mut committed = 0u64;
            ready.wait();
            while !stop.load(Ordering::Relaxed) {
                if 2 * committed >= attempts.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                    continue;
                }
                match app.try_sql("BEGIN IMMEDIATE") {
                    Ok(_) => {}
                    Err(error) => {
                        assert!(error.contains("locked"), "{error}");
                        continue;
                    }
                }
                app.sql("INSERT INTO mine(v) VALUES ('m')");
                app.sql("COMMIT");
                committed += 1;
            }
            committed
        });
        ready.wait();
        for n in 1..=40 {
            remote.sql(&format!("UPDATE a SET n = {n} WHERE id = {n}"));
            // What the remote changed of `a` only: the local rows stay as they are. This is what a
            // later merge will do; here it makes changes that can follow any local commit.
            loop {
                attempts.fetch_add(1, Ordering::Relaxed);
                replica.look();
                let change = {
                    let view = source.live.begin().unwrap();
                    let there = crate::support::Image::of(&view, replica.live.page_size());
                    only_table_a(&replica, &there, &view)
                };
                if change.pages.is_empty() {
                    break;
                }
                // What was committed since the look is in no change and no base.
                let at = replica.mark;
                let (outcome, intent) = replica.try_apply_at(&change, CookieRule::Keep, at, || {});
                match outcome {
                    Ok(applied) => {
                        replica.settle(&change, intent.unwrap().id, applied.mark);
                        done += 1;
                        break;
                    }
                    Err(ApplyError::Moved) => moved += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        drop(ends);
        writer.join().unwrap()
    });
    // The looks checked every capture; now the whole.
    replica.look();
    assert_intact(&db);
    assert_eq!(cli(&db, "SELECT count(*) FROM mine"), committed.to_string());
    assert_eq!(cli(&db, "SELECT sum(n) FROM a"), (1..=40).sum::<i32>().to_string());
    println!("{done} applies, {moved} times moved, {committed} commits of the other process");
}

/// The pages of table `a` (without overflow pages) that differ, taken from `view`.
fn only_table_a(
    replica: &Replica,
    there: &crate::support::Image,
    view: &anabranch_sqlite::View<'_>,
) -> crate::support::Change {
    let pages = there
        .pages
        .iter()
        .filter(|(n, page)| {
            // Leaves of `a` were made before the two went apart and never move.
            **n > 1 && page[0] == 13 && has_pad(page) && replica.image.pages.get(n) != Some(page)
        })
        .map(|(n, _)| {
            let mut page = vec![0; replica.live.page_size().bytes()];
            view.page(crate::support::p(*n), &mut page).unwrap();
            (*n, page)
        })
        .collect();
    crate::support::Change {
        page_size: replica.live.page_size(),
        size_after: replica.image.size,
        pages,
    }
}

/// Rows of `a` hold a text of 200 hex digits, rows of `mine` none.
fn has_pad(page: &[u8]) -> bool {
    page.windows(64).any(|w| w.iter().all(u8::is_ascii_hexdigit))
}
