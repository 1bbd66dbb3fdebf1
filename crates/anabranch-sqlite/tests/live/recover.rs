use anabranch_sqlite::{ApplyIntent, BaseMap, CookieRule, LiveFile, Mark, Verdict};

use crate::support::{BUSY, Change, Replica, SEED, Source, cli};

const TABLES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
    INSERT INTO t SELECT i, hex(randomblob(60)) FROM n;";

/// A replica whose apply was cut short before it settled: applied or not, staged in any case.
struct Cut {
    replica: Replica,
    _source: Source,
    change: Change,
    intent: ApplyIntent,
}

fn cut(applied: bool, sql: &[&str], cookie: CookieRule) -> Cut {
    let mut replica = Replica::new(4096, TABLES);
    // A first frame, so that there is a mark before.
    cli(&replica.db, "UPDATE t SET v = 'start' WHERE id = 1");
    replica.look();
    let mut source = Source::copy_of(&replica);
    source.app().all(sql);
    let change = replica.change_to(&mut source.live);
    let intent = if applied {
        let (outcome, intent) = replica.try_apply(&change, cookie, || {});
        outcome.unwrap();
        intent.unwrap()
    } else {
        let map = BaseMap::new(&replica.sidecar, SEED, replica.live.page_size());
        replica.intents += 1;
        let mut staging = map.stage(replica.intents);
        for (n, page) in &change.pages {
            let pgno = crate::support::p(*n);
            staging.push(pgno, map.entry(pgno, page)).unwrap();
        }
        let pages = staging.finish().unwrap();
        let view = replica.live.begin().unwrap();
        ApplyIntent {
            id: replica.intents,
            mark_before: view.mark().copied(),
            size_before: view.db_size(),
            size_after: change.size_after,
            pages,
            cookie_before: view.page_one().schema_cookie,
            cookie_after: (cookie != CookieRule::Keep).then_some(987_654_321),
        }
    };
    assert!(intent.mark_before.is_some());
    Cut { replica, _source: source, change, intent }
}

fn verdict(cut: &mut Cut) -> Verdict {
    let map = BaseMap::new(&cut.replica.sidecar, SEED, cut.replica.live.page_size());
    let view = cut.replica.live.begin().unwrap();
    view.was_applied(&cut.intent, &map).unwrap()
}

/// All connections closed: the WAL is gone, and the chain with it.
fn lose_the_wal(cut: &mut Cut) {
    let db = cut.replica.db.clone();
    let other = Replica::new(4096, "").live;
    drop(std::mem::replace(&mut cut.replica.live, other));
    assert!(!db.with_extension("db-wal").exists());
    cut.replica.live = LiveFile::open(&db, BUSY).unwrap();
}

const UPDATE: &[&str] = &["UPDATE t SET v = 'remote' WHERE id % 10 = 0"];

fn expected(applied: bool) -> Verdict {
    if applied { Verdict::Applied } else { Verdict::NotApplied }
}

#[test]
fn the_wal_tells_whether_the_next_transaction_was_ours() {
    for applied in [true, false] {
        let mut cut = cut(applied, UPDATE, CookieRule::Keep);
        assert_eq!(verdict(&mut cut), expected(applied));
        // Whatever others write afterwards, even over every page of ours.
        cli(&cut.replica.db, "UPDATE t SET v = 'later' || id");
        assert_eq!(verdict(&mut cut), expected(applied));
        cli(&cut.replica.db, "VACUUM");
        assert_eq!(verdict(&mut cut), expected(applied));
    }
}

#[test]
fn without_the_wal_the_pages_tell_although_others_wrote_some_since() {
    for applied in [true, false] {
        let mut cut = cut(applied, UPDATE, CookieRule::Keep);
        assert!(cut.change.pages.len() > 2);
        // The case that must not be guessed: one row into a page of the change, then the WAL gone.
        cli(&cut.replica.db, "UPDATE t SET v = 'mine' WHERE id = 10");
        lose_the_wal(&mut cut);
        assert_eq!(verdict(&mut cut), expected(applied));
        let doubt = ApplyIntent { mark_before: None, ..cut.intent.clone() };
        cut.intent = doubt;
        assert_eq!(verdict(&mut cut), expected(applied));
    }
}

#[test]
fn a_change_that_only_grows_the_file_is_recognised() {
    for applied in [true, false] {
        let sql = &["INSERT INTO t(v) SELECT hex(randomblob(900)) FROM t"];
        let mut cut = cut(applied, sql, CookieRule::Keep);
        lose_the_wal(&mut cut);
        assert_eq!(verdict(&mut cut), expected(applied));
    }
}

#[test]
fn the_new_schema_cookie_tells_when_every_page_was_rewritten() {
    for applied in [true, false] {
        let sql = &["CREATE TABLE fresh(a)", "UPDATE t SET v = 'remote'"];
        let mut cut = cut(applied, sql, CookieRule::Replace { random: 987_654_321 });
        cli(
            &cut.replica.db,
            "UPDATE t SET v = hex(randomblob(61)); CREATE TABLE mine(a);
            CREATE TABLE mine2(a); DROP TABLE IF EXISTS fresh; VACUUM",
        );
        lose_the_wal(&mut cut);
        assert_eq!(verdict(&mut cut), expected(applied));
    }
}

#[test]
fn what_cannot_be_told_is_undecided() {
    for applied in [true, false] {
        let mut cut = cut(applied, UPDATE, CookieRule::Keep);
        cli(&cut.replica.db, "UPDATE t SET v = hex(randomblob(61)); VACUUM");
        lose_the_wal(&mut cut);
        assert_eq!(verdict(&mut cut), Verdict::Undecided);
    }
}

#[test]
fn an_intent_and_its_mark_survive_their_text() {
    let cut = cut(true, UPDATE, CookieRule::Keep);
    let text = serde_json::to_string(&cut.intent).unwrap();
    assert_eq!(serde_json::from_str::<ApplyIntent>(&text).unwrap(), cut.intent);
    let mark: Option<Mark> = cut.intent.mark_before;
    assert!(mark.is_some());
}

/// Kills the process at a named point of an apply and decides from what is left.
#[cfg(feature = "failpoints")]
mod crash {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "recover::crash::child_that_applies_and_is_killed";

    /// What the child does, when it is started by `killed_at`.
    #[test]
    fn child_that_applies_and_is_killed() {
        let Ok(dir) = std::env::var("ANABRANCH_TEST_CHILD") else { return };
        let dir = std::path::Path::new(&dir);
        let _scenario = fail::FailScenario::setup();
        let sidecar = rusqlite::Connection::open(dir.join("sidecar")).unwrap();
        let mut live = LiveFile::open(&dir.join("app.db"), BUSY).unwrap();
        let mut source = LiveFile::open(&dir.join("source.db"), BUSY).unwrap();
        let map = BaseMap::new(&sidecar, SEED, live.page_size());
        let there = source.begin().unwrap();
        let mut pages = std::collections::BTreeMap::new();
        for n in 1..=there.db_size() {
            let mut page = vec![0; 4096];
            there.page(crate::support::p(n), &mut page).unwrap();
            pages.insert(n, page);
        }
        let change = Change { page_size: map_page_size(), size_after: there.db_size(), pages };
        drop(there);
        let view = live.begin().unwrap();
        let _ = view.apply::<std::fmt::Error>(
            anabranch_sqlite::ApplyDelta {
                page_size: change.page_size,
                size_after: change.size_after,
                pages: &mut change.source(),
                schema_cookie: CookieRule::Keep,
                base: &map,
                intent: 1,
            },
            &mut |lock| {
                let text = serde_json::to_string(&lock.intent).unwrap();
                std::fs::write(dir.join("intent"), text).unwrap();
                Ok(())
            },
        );
        unreachable!("the fail point kills");
    }

    fn map_page_size() -> anabranch_format::PageSize {
        anabranch_format::PageSize::DEFAULT
    }

    /// Kills an apply at `point`; answers whether an intent was written, and the verdict.
    fn killed_at(point: &str) -> Option<Verdict> {
        let replica = Replica::new(4096, TABLES);
        let dir = replica.dir.path().to_owned();
        cli(&replica.db, &format!(".backup '{}'", dir.join("source.db").display()));
        cli(&dir.join("source.db"), "PRAGMA journal_mode=WAL; UPDATE t SET v='r' WHERE id%7=0");
        cli(&dir.join("sidecar"), "PRAGMA journal_mode=WAL");
        {
            let sidecar = rusqlite::Connection::open(dir.join("sidecar")).unwrap();
            BaseMap::create_tables(&sidecar).unwrap();
            let map = BaseMap::new(&sidecar, SEED, map_page_size());
            let mut live = LiveFile::open(&replica.db, BUSY).unwrap();
            let view = live.begin().unwrap();
            let mut staging = map.stage(9);
            let with =
                anabranch_sqlite::Compare { since: None, base_size: 0, page_one_always: false };
            view.capture(&with, &map, &mut |n, _, entry| staging.push(n, entry)).unwrap();
            staging.finish().unwrap();
            map.settle(9, view.db_size()).unwrap();
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, "--exact", "--nocapture"])
            .env("ANABRANCH_TEST_CHILD", &dir)
            .env("FAILPOINTS", format!("{point}=return"))
            .status()
            .unwrap();
        assert!(!status.success(), "it was killed");
        assert_eq!(cli(&replica.db, "PRAGMA integrity_check"), "ok");
        let intent = std::fs::read_to_string(dir.join("intent")).ok()?;
        let intent: ApplyIntent = serde_json::from_str(&intent).unwrap();
        let sidecar = rusqlite::Connection::open(dir.join("sidecar")).unwrap();
        let map = BaseMap::new(&sidecar, SEED, map_page_size());
        let mut live = LiveFile::open(&replica.db, BUSY).unwrap();
        let found = live.begin().unwrap().was_applied(&intent, &map).unwrap();
        let rows = cli(&replica.db, "SELECT count(*) FROM t WHERE v = 'r'");
        assert_eq!(rows == "42", found == Verdict::Applied);
        Some(found)
    }

    #[test]
    fn a_kill_under_the_lock_leaves_the_file_as_it_was() {
        assert_eq!(killed_at("apply::under-lock"), None);
    }

    #[test]
    fn a_kill_before_the_commit_is_recognised_as_not_applied() {
        assert_eq!(killed_at("apply::before-commit"), Some(Verdict::NotApplied));
    }

    #[test]
    fn a_kill_after_the_commit_is_recognised_as_applied() {
        assert_eq!(killed_at("apply::after-commit"), Some(Verdict::Applied));
    }
}
