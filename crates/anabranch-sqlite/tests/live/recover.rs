use anabranch_sqlite::{ApplyIntent, BaseMap, CookieRule, LiveFile, Mark, Verdict};

use crate::support::{BUSY, Change, Replica, SEED, Source, cli};

const TABLES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
    CREATE TABLE numbered(id INTEGER PRIMARY KEY AUTOINCREMENT, v);
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
            replaces: false,
            before: None,
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

/// The file was ahead of its base before the apply: its own pages from before are those that are
/// staged, not the base's.
#[test]
fn a_file_that_was_ahead_of_its_base_is_told_by_how_it_was() {
    let mut cut = cut(false, UPDATE, CookieRule::Keep);
    cli(&cut.replica.db, "UPDATE t SET v = 'mine' WHERE id % 10 = 0");
    {
        let map = BaseMap::new(&cut.replica.sidecar, SEED, cut.replica.live.page_size());
        let view = cut.replica.live.begin().unwrap();
        let mut before = map.stage(-5);
        let mut page = vec![0; 4096];
        for n in cut.change.pages.keys() {
            let pgno = crate::support::p(*n);
            view.page(pgno, &mut page).unwrap();
            before.push(pgno, map.entry(pgno, &page)).unwrap();
        }
        before.finish().unwrap();
    }
    lose_the_wal(&mut cut);
    cut.intent.mark_before = None;
    assert_eq!(verdict(&mut cut), Verdict::Undecided, "nothing is as in the base");
    cut.intent.before = Some(-5);
    assert_eq!(verdict(&mut cut), Verdict::NotApplied);
    let text = serde_json::to_string(&cut.intent).unwrap();
    assert_eq!(serde_json::from_str::<ApplyIntent>(&text).unwrap(), cut.intent);
}

#[test]
fn pages_tell_nothing_once_others_counted_the_schema_cookie_up() {
    for applied in [true, false] {
        let sql = &["UPDATE t SET v = 'other' WHERE id = 1"];
        let mut cut = cut(applied, sql, CookieRule::Keep);
        // As it was before, and what `VACUUM` might do without leaving the other pages alone.
        cli(
            &cut.replica.db,
            "UPDATE t SET v = 'start' WHERE id = 1; CREATE TABLE mine(a); DROP TABLE mine",
        );
        lose_the_wal(&mut cut);
        assert_eq!(verdict(&mut cut), Verdict::Undecided);
    }
}

#[test]
fn a_page_that_is_by_chance_as_it_would_be_is_not_enough() {
    let sql = &["INSERT INTO numbered(v) VALUES ('there')"];
    let mut cut = cut(false, sql, CookieRule::Keep);
    // Another row, and with it the same number in `sqlite_sequence`.
    cli(&cut.replica.db, "INSERT INTO numbered(v) VALUES ('mine, and longer')");
    lose_the_wal(&mut cut);
    assert_eq!(verdict(&mut cut), Verdict::Undecided);
}

#[test]
fn an_intent_and_its_mark_survive_their_text() {
    let cut = cut(true, UPDATE, CookieRule::Keep);
    let text = serde_json::to_string(&cut.intent).unwrap();
    assert_eq!(serde_json::from_str::<ApplyIntent>(&text).unwrap(), cut.intent);
    let mark: Option<Mark> = cut.intent.mark_before;
    assert!(mark.is_some());
}

/// I5. An apply in a process of its own, which meets its end there.
mod child {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::process::{Command, ExitStatus};

    use anabranch_format::PageSize;
    use rusqlite::Connection;

    use super::*;

    const NAME: &str = "recover::child::applies_what_the_source_has";
    const DIRECTORY: &str = "ANABRANCH_TEST_CHILD";

    /// What the child does: nothing, unless a test of this module started it.
    #[test]
    fn applies_what_the_source_has() {
        let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
        #[cfg(feature = "failpoints")]
        let _scenario = fail::FailScenario::setup();
        let sidecar = Connection::open(dir.join("sidecar")).unwrap();
        let mut live = LiveFile::open(&dir.join("app.db"), BUSY).unwrap();
        let map = BaseMap::new(&sidecar, SEED, PageSize::DEFAULT);
        let change = whole(&dir.join("source.db"));
        let view = live.begin().unwrap();
        let outcome = view.apply::<std::fmt::Error>(
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
                intent: 1,
            },
            &mut |lock| {
                let text = serde_json::to_string(&lock.intent).unwrap();
                std::fs::write(dir.join("intent"), text).unwrap();
                Ok(())
            },
        );
        let text = match outcome {
            Ok(_) => "applied".to_owned(),
            Err(error) => format!("{} {error:?}", error.may_be_committed()),
        };
        std::fs::write(dir.join("outcome"), text).unwrap();
    }

    /// Every page of a database as a change.
    fn whole(db: &Path) -> Change {
        let mut source = LiveFile::open(db, BUSY).unwrap();
        let there = source.begin().unwrap();
        let mut pages = BTreeMap::new();
        for n in 1..=there.db_size() {
            let mut page = vec![0; 4096];
            there.page(crate::support::p(n), &mut page).unwrap();
            pages.insert(n, page);
        }
        Change { page_size: PageSize::DEFAULT, size_after: there.db_size(), pages }
    }

    /// A database with its base settled in a sidecar file, and a source that `sql` changed.
    fn set_the_scene(sql: &str) -> Replica {
        let replica = Replica::new(4096, TABLES);
        let dir = replica.dir.path();
        cli(&replica.db, &format!(".backup '{}'", dir.join("source.db").display()));
        cli(&dir.join("source.db"), &format!("PRAGMA journal_mode=WAL; {sql}"));
        let sidecar = Connection::open(dir.join("sidecar")).unwrap();
        sidecar.pragma_update(None, "journal_mode", "wal").unwrap();
        BaseMap::create_tables(&sidecar).unwrap();
        let map = BaseMap::new(&sidecar, SEED, PageSize::DEFAULT);
        let mut live = LiveFile::open(&replica.db, BUSY).unwrap();
        let view = live.begin().unwrap();
        let mut staging = map.stage(9);
        let with = anabranch_sqlite::Compare {
            ahead: None,
            since: None,
            base_size: 0,
            page_one_always: false,
            restarted: false,
            watched: None,
        };
        view.capture(&with, &map, &mut |n, _, entry| staging.push(n, entry)).unwrap();
        staging.finish().unwrap();
        map.settle(9, view.db_size()).unwrap();
        drop(view);
        replica
    }

    fn run(command: &mut Command, dir: &Path) -> ExitStatus {
        command.env(DIRECTORY, dir).stdout(std::process::Stdio::null()).status().unwrap()
    }

    #[test]
    fn a_disk_that_is_full_in_the_middle_changes_nothing() {
        // A limit on the size of files stands for the disk; in a child, since it is for ever.
        let replica = set_the_scene("INSERT INTO t(v) SELECT hex(randomblob(4000)) FROM t");
        let dir = replica.dir.path();
        let before = cli(&replica.db, "SELECT count(*), sum(length(v)) FROM t");
        let exe = std::env::current_exe().unwrap();
        let script = format!(
            "trap '' XFSZ; ulimit -f 1200; exec '{}' {NAME} --exact",
            exe.to_str().unwrap()
        );
        run(Command::new("sh").args(["-c", &script]), dir);
        let outcome = std::fs::read_to_string(dir.join("outcome")).unwrap();
        assert!(outcome.starts_with("false File(Sqlite"), "{outcome}");
        assert_eq!(cli(&replica.db, "PRAGMA integrity_check"), "ok");
        assert_eq!(cli(&replica.db, "SELECT count(*), sum(length(v)) FROM t"), before);
    }

    /// Kills an apply at `point`; the verdict afterwards, if an intent had been written.
    #[cfg(feature = "failpoints")]
    fn killed_at(point: &str) -> Option<Verdict> {
        let replica = set_the_scene("UPDATE t SET v='r' WHERE id%7=0");
        let dir = replica.dir.path();
        let exe = std::env::current_exe().unwrap();
        let mut command = Command::new(exe);
        command.args([NAME, "--exact"]).env("FAILPOINTS", format!("{point}=return"));
        assert!(!run(&mut command, dir).success() && !dir.join("outcome").exists(), "killed");
        assert_eq!(cli(&replica.db, "PRAGMA integrity_check"), "ok");
        let rows = cli(&replica.db, "SELECT count(*) FROM t WHERE v = 'r'");
        let intent = std::fs::read_to_string(dir.join("intent")).ok()?;
        let intent: ApplyIntent = serde_json::from_str(&intent).unwrap();
        let sidecar = Connection::open(dir.join("sidecar")).unwrap();
        let map = BaseMap::new(&sidecar, SEED, PageSize::DEFAULT);
        let mut live = LiveFile::open(&replica.db, BUSY).unwrap();
        let found = live.begin().unwrap().was_applied(&intent, &map).unwrap();
        assert_eq!(rows == "42", found == Verdict::Applied);
        Some(found)
    }

    #[test]
    #[cfg(feature = "failpoints")]
    fn a_kill_under_the_lock_leaves_the_file_as_it_was() {
        assert_eq!(killed_at("apply::under-lock"), None);
    }

    #[test]
    #[cfg(feature = "failpoints")]
    fn a_kill_before_the_commit_is_recognised_as_not_applied() {
        assert_eq!(killed_at("apply::before-commit"), Some(Verdict::NotApplied));
    }

    #[test]
    #[cfg(feature = "failpoints")]
    fn a_kill_after_the_commit_is_recognised_as_applied() {
        assert_eq!(killed_at("apply::after-commit"), Some(Verdict::Applied));
    }
}
