//! The process dies at each named point of append, compaction and retention; whoever comes next
//! finds a remote that is whole. Runs with the feature `failpoints`.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::time::Duration;

use anabranch_format::Micros;
use anabranch_store::{Anchor, Appended, Location, Log, Progress, Root, StoreOptions};
use common::{Db, Fixture, Random, Replica, cloned};

const NOW: Micros = Micros(i64::MAX);

async fn log_in(folder: &std::path::Path) -> Log {
    let options = StoreOptions::new(folder.parent().unwrap());
    let root = Root::open(&Location::folder(folder), &options).await.unwrap();
    let name = "default".parse().unwrap();
    let id = root.find(&name).await.unwrap().unwrap();
    root.log(&name, &id)
}

/// Started again by the tests with a crash point set: does one thing, and dies in it.
#[tokio::test]
#[ignore = "started by the other tests"]
async fn child() {
    let Ok(folder) = std::env::var("ANABRANCH_TEST_FOLDER") else { return };
    let _points = fail::FailScenario::setup();
    let log = log_in(folder.as_ref()).await;
    let mut a = cloned(&log, "a").await.unwrap();
    if std::env::var("ANABRANCH_TEST_WHAT").unwrap() == "compact" {
        log.compact(NOW, Duration::ZERO, &Progress::none()).await.unwrap();
        return;
    }
    let after = if std::env::var_os("ANABRANCH_TEST_LARGE").is_some() {
        large()
    } else {
        a.db.edited(1, 7)
    };
    let segment = a.db.segment(&after, "a", "the-push", 1);
    let won = log.append(&a.head, segment, &Progress::none()).await.unwrap();
    assert!(matches!(won, Appended::Won(_)));
    a.db = after;
}

fn large() -> Db {
    let mut random = Random(99);
    Db { pages: (0..20_000).map(|_| random.page(512)).collect(), ..Db::empty() }
}

/// Dies at `point` while doing `what`.
async fn die(fixture: &Fixture, what: &str, point: &str, large: bool) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "child", "--ignored"])
        .env("FAILPOINTS", format!("{point}=return"))
        .env("ANABRANCH_TEST_FOLDER", fixture.folder_path())
        .env("ANABRANCH_TEST_WHAT", what);
    if large {
        child.env("ANABRANCH_TEST_LARGE", "1");
    }
    let ended = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), None, "it was not killed at {point}: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_an_append_that_dies_is_there_or_not_and_its_repeat_counts_once() {
    for large_one in [false, true] {
        for (point, landed) in [("append::before-put", false), ("append::after-put", true)] {
            let fixture = Fixture::folder().await;
            let log = fixture.log().await;
            let mut a = Replica::new(&log, "a");
            a.pushed(5).await;
            die(&fixture, "append", point, large_one).await;
            let found = log.at_key_after(a.at()).await.unwrap();
            assert_eq!(found.is_some(), landed, "{point}");
            // The owner comes back and repeats the same push.
            let after = if large_one { large() } else { a.db.edited(1, 7) };
            let segment = a.db.segment(&after, "a", "the-push", 1);
            let won = log.append(&a.head, segment, &Progress::none()).await.unwrap();
            assert!(matches!(won, Appended::Won(_)), "{won:?}");
            assert_eq!(log.history(9).await.unwrap().len(), 2);
            assert_eq!(cloned(&log, "b").await.unwrap().db, after);
            // What the dead one left is cleaned up.
            log.compact(NOW, Duration::from_secs(9), &Progress::none()).await.unwrap();
            assert!(fixture.keys("tmp").await.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_that_dies_anywhere_is_finished_by_the_next() {
    let points = [
        "compact::before-snapshot",
        "compact::after-snapshot",
        "retain::after-floor",
        "retain::midway",
    ];
    for point in points {
        let fixture = Fixture::folder().await;
        let log = fixture.log().await;
        let mut a = Replica::new(&log, "a");
        for size in [5, 9, 7] {
            a.pushed(size).await;
            log.compact(NOW, Duration::from_secs(9999), &Progress::none()).await.unwrap();
        }
        a.pushed(8).await;
        die(&fixture, "compact", point, false).await;
        assert_eq!(cloned(&log, "b").await.unwrap().db, a.db, "{point}");
        a.pull().await.unwrap();
        a.pushed(6).await;
        let report = log.compact(NOW, Duration::ZERO, &Progress::none()).await.unwrap();
        assert!(report.floor > anabranch_format::Lsn::ZERO);
        assert_eq!(cloned(&log, "c").await.unwrap().db, a.db, "{point}");
        let head = log.head(&Anchor::start()).await.unwrap();
        assert_eq!((head.lsn(), head.floor), (a.at(), report.floor));
        // What the dead one had staged goes once the floor has passed it.
        for _ in 0..2 {
            a.pushed(6).await;
            log.compact(NOW, Duration::ZERO, &Progress::none()).await.unwrap();
        }
        assert_eq!(fixture.keys("floor").await.len(), 1);
        assert!(fixture.keys("tmp").await.is_empty(), "{point}");
    }
}
