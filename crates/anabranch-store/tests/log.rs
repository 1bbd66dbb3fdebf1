//! The log on memory and on a folder, and on a store that fails.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_format::{
    DbChecksum, Lsn, Metadata, Micros, PageChecksum, Pgno, Salts, WalHeader, WalWriter,
};
use anabranch_store::{
    Anchor, AppendError, Appended, At, Log, Progress, Root, StoreError, StoreKind,
};
use common::fault::{Fault, Faulty, Objects};
use common::{Db, Fixture, PAGE, Random, Replica, cloned};
use object_store::memory::InMemory;

suite!(memory, async { super::Fixture::memory() });
suite!(folder, async { super::Fixture::folder().await });

struct FaultyFixture {
    fixture: Fixture,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    unreadable: Arc<Mutex<Option<String>>>,
    overtaken: Arc<Mutex<Option<(String, String)>>>,
    appears: Arc<Mutex<Objects>>,
    conflicting: Arc<Mutex<Option<(String, u32)>>>,
}

fn faulty(unconditional: bool) -> FaultyFixture {
    let mut store = Faulty::new(Arc::new(InMemory::new()));
    store.unconditional = unconditional;
    let (faults, unreadable) = (store.faults.clone(), store.unreadable.clone());
    let (overtaken, appears) = (store.overtaken.clone(), store.appears.clone());
    let conflicting = store.conflicting.clone();
    let fixture = Fixture::on(Arc::new(store), StoreKind::Memory);
    FaultyFixture { fixture, faults, unreadable, overtaken, appears, conflicting }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    let refused = faulty(true).fixture.root.verify_conditional_put().await.unwrap_err();
    assert!(matches!(refused, StoreError::ConditionIgnored { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_lost_answer_is_cleared_up_by_reading_back() {
    let f = faulty(false);
    let log = f.fixture.log().await;
    let mut a = Replica::new(&log, "a");
    for fault in [Fault::LostAnswer, Fault::Repeated, Fault::ConflictWithNothing] {
        f.faults.lock().unwrap().push_back(fault);
        a.pushed(4).await;
    }
    f.faults.lock().unwrap().extend([Fault::ConflictWithNothing; 4]);
    a.pushed(4).await;
    assert_eq!(log.history(100).await.unwrap().len(), 4);
}

#[tokio::test]
async fn an_append_that_nobody_answers_is_unknown_until_an_object_stands_there() {
    let f = faulty(false);
    let log = f.fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    f.faults.lock().unwrap().push_back(Fault::LostRequest);
    let after = a.db.edited(1, 4);
    let segment = || a.db.segment(&after, "a", "x", 5);
    let e = log.append(&a.head, segment(), &Progress::none()).await.unwrap_err();
    assert!(matches!(e, AppendError::Unknown { .. }), "{e:?}");
    assert_eq!(log.at_key_after(a.at()).await.unwrap(), None, "which decides nothing");
    // The answer is lost, and the store cannot be asked either.
    f.faults.lock().unwrap().push_back(Fault::LostAnswer);
    *f.unreadable.lock().unwrap() = Some("/log/".to_owned());
    let e = log.append(&a.head, segment(), &Progress::none()).await.unwrap_err();
    assert!(matches!(e, AppendError::Unknown { .. }), "{e:?}");
    *f.unreadable.lock().unwrap() = None;
    let found = log.at_key_after(a.at()).await.unwrap().unwrap();
    let won = log.append(&a.head, segment(), &Progress::none()).await.unwrap();
    assert_eq!(won, Appended::Won(found));
}

#[tokio::test]
async fn i1_a_push_that_retention_overtook_is_not_acknowledged_and_leaves_nothing() {
    let f = faulty(false);
    let log = f.fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    let late = Replica { head: a.head.clone(), db: a.db.clone(), ..Replica::new(&log, "late") };
    a.pushed(4).await;
    // Between the look at the floor and the put the key is deleted and the floor rises.
    let key = f.fixture.keys("log").await.pop().unwrap();
    f.fixture.delete(&key).await;
    let floor = format!("db/0123456789abcdef/floor/{}", a.at());
    *f.overtaken.lock().unwrap() = Some((key.clone(), floor));
    let segment = late.db.segment(&late.db.edited(1, 3), "late", "late-1", 1);
    let e = log.append(&late.head, segment, &Progress::none()).await.unwrap_err();
    assert!(matches!(e, AppendError::BelowFloor { .. }), "{e:?}");
    assert!(!f.fixture.keys("log").await.contains(&key), "the orphan is deleted");
}

#[tokio::test]
async fn a_reader_that_retention_overtook_does_not_take_its_place_for_the_head() {
    let f = faulty(false);
    let log = f.fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    let late = a.head.anchor.clone();
    a.pushed(4).await;
    let next = f.fixture.keys("log").await.pop().unwrap();
    let floor = format!("db/0123456789abcdef/floor/{}", a.at());
    a.pushed(5).await;
    f.fixture.delete(&next).await;
    *f.overtaken.lock().unwrap() = Some((next, floor));
    let head = log.head(&late).await.unwrap();
    assert_eq!(head.lsn(), a.at());
    assert!(head.floor > late.last);
}

#[tokio::test]
async fn a_floor_without_its_log_is_told_from_a_cleanup_in_progress() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let (a, floor) = two_snapshots(&log).await;
    compacted(&log).await.unwrap();
    for key in fixture.keys("log").await {
        fixture.delete(&key).await;
    }
    for known in [Anchor::start(), Anchor { last: Lsn::new(1), ..a.head.anchor }] {
        let e = log.head(&known).await.unwrap_err();
        let StoreError::Incomplete { key, proof, .. } = &e else { panic!("{e:?}") };
        assert!(key.contains(&floor.to_string()) && proof.contains("/floor/"), "{e}");
        assert!(e.to_string().contains("anabranch init FILE --remote NEW"), "{e}");
    }
}

#[tokio::test]
async fn segments_that_others_append_between_probe_and_listing_are_no_hole() {
    let f = faulty(false);
    let log = f.fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    let mut b = cloned(&log, "b").await.unwrap();
    a.pushed(4).await;
    a.pushed(5).await;
    let mut newest = Vec::new();
    for key in f.fixture.keys("log").await.split_off(1) {
        let bytes = f.fixture.read(&key).await;
        f.fixture.delete(&key).await;
        newest.push((key, bytes));
    }
    f.appears.lock().unwrap().clone_from(&newest);
    b.pull().await.unwrap();
    assert_eq!(b.db, a.db);
    // The same right before an append, which then loses as usual.
    let mut c = Replica::new(&log, "c");
    for (key, _) in &newest {
        f.fixture.delete(key).await;
    }
    c.pull().await.unwrap();
    *f.appears.lock().unwrap() = newest;
    let appended = c.push(6).await.unwrap();
    assert!(matches!(appended, Appended::Lost(_)), "{appended:?}");
}

#[tokio::test]
async fn endless_conflicts_end_in_an_unknown_outcome() {
    let f = faulty(false);
    let log = f.fixture.log().await;
    f.faults.lock().unwrap().extend([Fault::ConflictWithNothing; 100]);
    let e = Replica::new(&log, "a").push(3).await.unwrap_err();
    assert!(matches!(e, AppendError::Unknown { .. }), "{e:?}");
}

#[tokio::test]
async fn only_the_state_at_the_head_can_be_appended_to() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let (mut a, b) = (Replica::new(&log, "a"), Replica::new(&log, "b"));
    a.pushed(3).await;
    // Made for the empty database, offered at the head.
    let stale = b.db.segment(&b.db.edited(1, 2), "b", "b-1", 1);
    let e = log.append(&a.head, stale, &Progress::none()).await.unwrap_err();
    assert!(matches!(e, AppendError::NotAtHead { .. }), "{e:?}");
    // A segment without frames would stand at the key that follows it.
    let mut empty = a.db.segment(&a.db.edited(1, 3), "a", "a-0", 1);
    empty.frames = 0;
    let e = log.append(&a.head, empty, &Progress::none()).await.unwrap_err();
    assert!(matches!(e, AppendError::Invalid(_)), "{e:?}");
    assert_eq!(log.history(9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_remote_that_was_moved_away_is_offline_and_stays_untouched() {
    let fixture = Fixture::folder().await;
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    let (here, away) = (fixture.folder_path(), fixture.scratch().join("away"));
    for put_in_its_place in [false, true] {
        std::fs::rename(&here, &away).unwrap();
        if put_in_its_place {
            std::fs::create_dir(&here).unwrap();
        }
        assert!(log.head(&a.head.anchor).await.unwrap_err().is_offline());
        assert!(log.next(&a.head.anchor).await.unwrap_err().is_offline());
        assert!(log.at_key_after(a.at()).await.unwrap_err().is_offline());
        assert!(a.push(4).await.unwrap_err().is_offline());
        assert_eq!(here.exists(), put_in_its_place);
        if put_in_its_place {
            assert_eq!(std::fs::read_dir(&here).unwrap().count(), 0, "nothing was made in it");
            std::fs::remove_dir(&here).unwrap();
        }
        std::fs::rename(&away, &here).unwrap();
    }
    a.pushed(4).await;
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
}

#[tokio::test]
async fn a_file_is_no_remote_and_not_offline() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("some.db");
    std::fs::write(&file, "x").unwrap();
    let options = anabranch_store::StoreOptions::new(directory.path());
    for path in [file.clone(), file.join("below")] {
        let location = anabranch_store::Location::folder(&path);
        for opened in
            [Root::open(&location, &options).await, Root::create(&location, &options).await]
        {
            let e = opened.unwrap_err();
            assert!(matches!(e, StoreError::NotAFolder { .. }) && !e.is_offline(), "{e:?}");
        }
    }
}

#[tokio::test]
async fn a_remote_that_was_put_back_to_an_older_copy_is_noticed() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    let older = a.head.clone();
    a.pushed(4).await;
    let key = fixture.keys("log").await.pop().unwrap();
    fixture.delete(&key).await;
    let e = log.head(&a.head.anchor).await.unwrap_err();
    let StoreError::Rewound { at, found, .. } = &e else { panic!("{e:?}") };
    assert_eq!((*at, *found), (a.at(), older.lsn()));
    assert!(e.to_string().contains("--take-remote"), "{e}");
    // The same when somebody has gone on from there.
    let mut b = cloned(&log, "b").await.unwrap();
    assert_eq!(b.head.lsn(), older.lsn());
    b.pushed(4).await;
    let e = log.head(&a.head.anchor).await.unwrap_err();
    assert!(matches!(e, StoreError::Rewound { .. }), "{e:?}");
}

#[tokio::test]
async fn a_long_log_becomes_deltas_and_is_read_in_bounded_pieces() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    for n in 0..1003u32 {
        a.pushed(20 + n % 7).await;
    }
    let b = cloned(&log, "b").await.unwrap();
    assert_eq!(b.db, a.db, "merged in many groups");
    let mut middle = Replica::new(&log, "m");
    let position = log.position_at(At::Lsn(Lsn::new(a.at().get() - 20))).await.unwrap();
    middle
        .db
        .apply(log.fetch_position(Lsn::ZERO, &position, &Progress::none()).await.unwrap())
        .unwrap();
    // Not every append looks; one without a push id always does.
    let won = Metadata { push: None, ..a.head.newest.clone().unwrap() };
    let hour = Duration::from_secs(3600);
    let report = log.maybe_compact(&won, Micros(0), hour, &Progress::none()).await.unwrap();
    assert_eq!((report.deltas, report.snapshot), (1, Some(a.at())));
    assert_eq!(log.maybe_compact(&won, Micros(0), hour, &Progress::none()).await, None);
    fixture.delete(&fixture.keys("snapshot").await[0]).await;
    let head = log.head(&Anchor::start()).await.unwrap();
    assert_eq!(head.lsn(), a.at());
    let fetched = log.fetch(Lsn::ZERO, &head, &Progress::none()).await.unwrap();
    assert_eq!(fetched.objects, 4, "the delta and three segments");
    assert_eq!(fetched.pushes.len(), 4, "of a range that was compacted the newest of each writer");
    let mut c = Db::empty();
    c.apply(fetched).unwrap();
    assert_eq!(c, a.db);
    // From the middle of the delta's range: by segments.
    let fetched = log.fetch(position.lsn, &head, &Progress::none()).await.unwrap();
    assert_eq!(fetched.from, Some(position.lsn));
    middle.db.apply(fetched).unwrap();
    assert_eq!(middle.db, a.db);
    // Damage in the delta is named.
    let delta = fixture.keys("delta").await[0].clone();
    let mut bad = fixture.read(&delta).await;
    let at = bad.len() / 2;
    bad[at] ^= 1;
    fixture.overwrite(&delta, bad).await;
    let e = cloned(&log, "d").await.err().unwrap();
    assert!(e.is_corrupt() && e.key() == Some(&delta), "{e:?}");
    // Nobody but the table of writers knows of the first push any more.
    let last = log.last_push(&"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(last, (format!("a-{}", a.pushes).parse().unwrap(), a.at()));
}

/// Puts a segment of several transactions there, in SQLite's own order, as a server will.
async fn several_transactions(fixture: &Fixture, a: &mut Replica) -> Metadata {
    let mut random = Random(3);
    let mut wal = Vec::new();
    let header = WalHeader::new(PAGE, 0, Salts(1, 2));
    let mut writer = WalWriter::new(&mut wal, header).unwrap();
    let mut db = a.db.clone();
    // (page, size after commit or 0): pages out of order, one twice, growth and shrinking.
    let frames = [(5, 0), (2, 0), (4, 5), (1, 0), (2, 5), (3, 4), (5, 0), (1, 5)];
    for (pgno, commit) in frames {
        let page = random.page(PAGE.bytes());
        writer.frame(Pgno::new(pgno).unwrap(), commit, &page).unwrap();
        db.pages.resize(db.pages.len().max(pgno as usize), Vec::new());
        db.pages[pgno as usize - 1] = page;
        if commit > 0 {
            db.pages.truncate(commit as usize);
        }
    }
    let newest = a.head.newest.clone().unwrap();
    let first = a.at().next().unwrap();
    let metadata = Metadata {
        lsn: (first, first.checked_add(frames.len() as u64 - 1).unwrap()),
        push: Some("server-1".parse().unwrap()),
        pages: (a.db.size(), db.size()),
        sum: (a.db.sum(), db.sum()),
        transactions: Some(4),
        ..newest
    };
    let mut object = metadata.encode().unwrap();
    object.extend(zstd::stream::encode_all(&wal[..], 3).unwrap());
    let key = format!("db/0123456789abcdef/log/{:011x}/{first}.wal.zst", first.get() >> 20);
    fixture.overwrite(&key, object).await;
    a.head = a.head.after(metadata.clone());
    a.db = db;
    metadata
}

#[tokio::test]
async fn a_segment_of_several_transactions_is_read_in_page_order() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(4).await;
    let mut behind = cloned(&log, "b").await.unwrap();
    let metadata = several_transactions(&fixture, &mut a).await;
    behind.pull().await.unwrap();
    assert_eq!(behind.db, a.db);
    a.pushed(6).await;
    assert_eq!(cloned(&log, "c").await.unwrap().db, a.db);
    // A position inside of it is no place to append at: whoever stands there gets the whole.
    let inside = Lsn::new(metadata.lsn.0.get() + 2);
    let head = log.head(&Anchor::start()).await.unwrap();
    assert_eq!(head.lsn(), a.at());
    let fetched = log.fetch(inside, &head, &Progress::none()).await.unwrap();
    assert_eq!(fetched.from, None);
    let mut db = Db::empty();
    db.apply(fetched).unwrap();
    assert_eq!(db, a.db);
    let position = log.position_at(At::Lsn(inside)).await.unwrap();
    assert_eq!(position.lsn, metadata.from());
}

/// Replaces the newest segment by one with other metadata or another body.
async fn replaced(
    fixture: &Fixture,
    change: impl FnOnce(&mut Metadata),
    body: Option<Vec<u8>>,
) -> StoreError {
    let log = fixture.root.log(&"default".parse().unwrap(), &"0123456789abcdef".parse().unwrap());
    let key = fixture.keys("log").await.pop().unwrap();
    let good = fixture.read(&key).await;
    let mut source = &good[..];
    let mut metadata = Metadata::decode(&mut source).unwrap();
    change(&mut metadata);
    let mut object = metadata.encode().unwrap();
    object.extend(body.unwrap_or_else(|| source.to_vec()));
    fixture.overwrite(&key, object).await;
    let e = cloned(&log, "x").await.err().unwrap();
    assert!(e.is_corrupt() && e.key() == Some(&key), "{e:?}");
    fixture.overwrite(&key, good).await;
    e
}

#[tokio::test]
async fn contradictions_and_bombs_are_refused_and_named() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(4).await;
    a.pushed(6).await;
    let one = Lsn::new(1);
    replaced(&fixture, |m| m.lsn = (one, Lsn::new(m.lsn_count())), None).await;
    replaced(&fixture, |m| m.database = "other".parse().unwrap(), None).await;
    replaced(&fixture, |m| m.pages.0 += 1, None).await;
    replaced(&fixture, |m| m.pages.1 += 1, None).await;
    replaced(&fixture, |m| m.sum.0 = DbChecksum(1), None).await;
    replaced(&fixture, |m| m.sum.1 = DbChecksum(1), None).await;
    replaced(&fixture, |m| m.page_size = anabranch_format::PageSize::DEFAULT, None).await;
    replaced(&fixture, |m| m.transactions = Some(2), None).await;
    // 1 GiB of zeros in 33 KB, whatever the metadata says.
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    for _ in 0..1024 {
        std::io::Write::write_all(&mut bomb, &vec![0; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    replaced(&fixture, |_| (), Some(bomb.clone())).await;
    let many = |m: &mut Metadata| {
        m.pages.1 = 1_000_000;
        m.lsn.1 = m.from().checked_add(1_000_000).unwrap();
    };
    replaced(&fixture, many, Some(bomb)).await;
}

#[tokio::test]
async fn a_page_that_is_not_what_the_log_says_is_found_by_the_sum_of_a_clone() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(4).await;
    // A writer with bad memory: pages and checksums of the object fit, the sum does not.
    let after = a.db.edited(9, 4);
    let mut segment = a.db.segment(&after, "a", "bad", 1);
    segment.sum.1.toggle(PageChecksum(77));
    log.append(&a.head, segment, &Progress::none()).await.unwrap();
    let e = cloned(&log, "b").await.err().unwrap();
    assert!(e.is_corrupt(), "{e:?}");
    // No snapshot is made of it, so that retention can never rest on it.
    let e = log.compact(Micros(0), Duration::ZERO, &Progress::none()).await.unwrap_err();
    assert!(e.is_corrupt(), "{e:?}");
    assert!(fixture.keys("snapshot").await.is_empty());
}

#[tokio::test]
async fn times_never_fall_and_a_clock_far_ahead_does_not_drag_others_along() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_micros()).unwrap();
    let year = 365 * 24 * 3600 * 1_000_000;
    let mut times = Vec::new();
    for clock in [now, now - year, now + 70 * year, now] {
        let after = a.db.edited(times.len() as u64, 3);
        let push = a.next_push();
        let segment = a.db.segment(&after, "a", &push, clock);
        let Appended::Won(m) = log.append(&a.head, segment, &Progress::none()).await.unwrap()
        else {
            panic!("lost")
        };
        assert_eq!(m.clock, (m.time.0 != clock).then_some(Micros(clock)));
        times.push(m.time.0);
        a.db = after;
        a.head = log.head(&a.head.anchor).await.unwrap();
    }
    assert_eq!(times[1], times[0] + 1, "a clock that went back");
    assert_eq!(times[2], now + 70 * year);
    assert!((times[3] - now).abs() < year, "not dragged along: {}", times[3]);
    let flagged: Vec<bool> =
        log.history(9).await.unwrap().iter().rev().map(|e| e.clock_gap.is_some()).collect();
    assert_eq!(flagged, [false, false, true, false]);
    // By the store's clock all of this was just now.
    let position = log.position_at(At::Time(Micros(now - year))).await.unwrap();
    assert_eq!(position.lsn, Lsn::ZERO);
    assert_eq!(log.position_at(At::Time(Micros(now + year))).await.unwrap().lsn, a.at());
}

#[tokio::test]
async fn readers_go_on_while_retention_deletes_under_them() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(30).await;
    let (mut b, mut c) = (cloned(&log, "b").await.unwrap(), cloned(&log, "c").await.unwrap());
    for round in 0..30 {
        a.pushed(30 + round % 5).await;
        let quiet = Progress::none();
        let compact = log.compact(Micros(i64::MAX), Duration::ZERO, &quiet);
        let clone = cloned(&log, "n");
        let (report, clone, pulled) = futures::join!(compact, clone, b.pull());
        report.unwrap();
        pulled.unwrap();
        assert_eq!(clone.unwrap().db, a.db);
        assert_eq!(b.db, a.db);
    }
    c.pull().await.unwrap();
    assert_eq!(c.db, a.db);
    assert!(fixture.keys("log").await.len() < 5);
}

#[tokio::test]
async fn an_interrupted_retention_is_finished_by_the_next() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let compact =
        async || log.compact(Micros(i64::MAX), Duration::ZERO, &Progress::none()).await.unwrap();
    let mut a = Replica::new(&log, "a");
    a.pushed(5).await;
    compact().await;
    let floor = a.at();
    let first = fixture.keys("log").await[0].clone();
    let bytes = fixture.read(&first).await;
    a.pushed(5).await;
    let snapshot = fixture.keys("snapshot").await[0].clone();
    assert!(snapshot.contains(&floor.to_string()));
    assert_eq!(compact().await.floor, floor);
    a.pushed(5).await;
    compact().await;
    // What an interrupted deletion left below the floor: nobody reads it, the next run takes it.
    fixture.overwrite(&first, bytes).await;
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
    assert!(log.history(9).await.unwrap().iter().all(|e| e.metadata.lsn.0 > Lsn::new(1)));
    assert!(compact().await.objects_deleted >= 1);
    assert!(!fixture.keys("log").await.contains(&first));
}

/// Compacts, keeping no more history than it must.
async fn compacted(log: &Log) -> Result<Lsn, StoreError> {
    log.compact(Micros(i64::MAX), Duration::ZERO, &Progress::none()).await.map(|r| r.floor)
}

/// A log of which the next compaction will delete the start: snapshots at the two positions given.
async fn two_snapshots(log: &Log) -> (Replica, Lsn) {
    let mut a = Replica::new(log, "a");
    a.pushed(5).await;
    a.pushed(6).await;
    let floor = a.at();
    compacted(log).await.unwrap();
    a.pushed(7).await;
    // The second snapshot, without its retention.
    let month = Duration::from_secs(30 * 24 * 3600);
    log.compact(Micros(i64::MAX), month, &Progress::none()).await.unwrap();
    (a, floor)
}

#[tokio::test]
async fn a_table_that_names_another_segment_deletes_nothing_that_is_needed() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let (a, floor) = two_snapshots(&log).await;
    let kept = fixture.keys("log").await[1].clone();
    // Well-formed, at its place, with a first position far beyond: everything would lie below it.
    let table = format!("db/0123456789abcdef/writers/{floor}.json.zst");
    for first in [floor.get() + 1000, floor.get(), 1, 0] {
        let (first, last) = (Lsn::new(first).get(), floor.get());
        let json =
            format!(r#"{{"anchor":{{"first":{first},"last":{last},"push":null}},"writers":{{}}}}"#);
        let packed = zstd::bulk::compress(json.as_bytes(), 3).unwrap();
        fixture.overwrite(&table, packed).await;
        assert_eq!(compacted(&log).await.unwrap(), floor);
        let left = fixture.keys("log").await;
        assert!(left.contains(&kept), "the segment before the floor stays: {left:?}");
        assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
        let last = log.last_push(&"a".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(last.0.as_str(), "a-3", "and the table is made anew");
    }
}

#[tokio::test]
async fn i1_nothing_is_deleted_before_the_floor_stands() {
    let f = faulty(false);
    let log = f.fixture.log().await;
    let (mut a, floor) = two_snapshots(&log).await;
    let before = f.fixture.keys("").await;
    *f.conflicting.lock().unwrap() = Some(("/floor/".to_owned(), u32::MAX));
    let e = compacted(&log).await.unwrap_err();
    assert_eq!(e.key(), Some(format!("db/0123456789abcdef/floor/{floor}").as_str()), "{e:?}");
    assert_eq!(f.fixture.keys("").await, before);
    // A conflict that passes is no obstacle.
    *f.conflicting.lock().unwrap() = Some(("/floor/".to_owned(), 3));
    assert_eq!(compacted(&log).await.unwrap(), floor);
    assert_eq!(log.floor().await.unwrap(), floor);
    a.pushed(4).await;
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
}

#[tokio::test]
async fn conflicts_do_not_leave_a_database_without_floor_name_or_table() {
    let f = faulty(false);
    for part in ["/floor/", "names/"] {
        *f.conflicting.lock().unwrap() = Some((part.to_owned(), 2));
        let (name, id) = ("app".parse().unwrap(), "app-id".parse().unwrap());
        f.fixture.root.name(&name, &id).await.unwrap();
        assert_eq!(f.fixture.root.log(&name, &id).floor().await.unwrap(), Lsn::ZERO);
    }
    let log = f.fixture.log().await;
    *f.conflicting.lock().unwrap() = Some(("/writers/".to_owned(), 2));
    Replica::new(&log, "a").pushed(3).await;
    compacted(&log).await.unwrap();
    assert_eq!(f.fixture.keys("writers").await.len(), 1);
}

#[tokio::test]
async fn a_lost_or_damaged_table_of_writers_stops_no_fetch_and_is_made_anew() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(5).await;
    compacted(&log).await.unwrap();
    let table = fixture.keys("writers").await[0].clone();
    let good = fixture.read(&table).await;
    for damaged in [None, Some(good[..9].to_vec()), Some(b"junk".to_vec())] {
        fixture.delete(&table).await;
        if let Some(damaged) = damaged.clone() {
            fixture.overwrite(&table, damaged).await;
            // Whether a push of unknown outcome arrived is not guessed.
            let e = log.last_push(&"a".parse().unwrap()).await.unwrap_err();
            assert!(e.is_corrupt() && e.key() == Some(&table), "{e:?}");
        }
        assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
        compacted(&log).await.unwrap();
        assert_eq!(fixture.read(&table).await, good);
    }
}

#[tokio::test]
async fn a_table_of_writers_is_made_anew_from_what_retention_left() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let (mut a, floor) = two_snapshots(&log).await;
    assert_eq!(compacted(&log).await.unwrap(), floor);
    for table in fixture.keys("writers").await {
        fixture.overwrite(&table, b"junk".to_vec()).await;
    }
    compacted(&log).await.unwrap();
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
    a.pushed(8).await;
    for table in fixture.keys("writers").await {
        fixture.delete(&table).await;
    }
    // What became of older pushes nobody can tell now: that is no "it never arrived".
    let e = log.last_push(&"b".parse().unwrap()).await.unwrap_err();
    assert!(matches!(e, StoreError::Missing { .. }), "{e:?}");
    compacted(&log).await.unwrap();
    let last = log.last_push(&"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(last.1, a.at());
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
}

#[tokio::test]
async fn what_killed_uploads_left_in_a_folder_is_swept_once_it_is_dead() {
    let fixture = Fixture::folder().await;
    let log = fixture.log().await;
    let (mut a, floor) = two_snapshots(&log).await;
    let db = fixture.folder_path().join("db/0123456789abcdef");
    let (head, old, later) = (a.at(), Lsn::new(1), Lsn::new(a.at().get() + 100));
    let dead = [
        format!("tmp/s-{head}-0f.zst"),
        format!("tmp/s-{head}-0f.zst#1"),
        format!("tmp/s-{old}-0f.zst"),
        format!("tmp/s-{old}-0f.zst#2"),
        format!("tmp/d-{}-{floor}-0f.zst#1", Lsn::ZERO),
        format!("tmp/{old}-0f.zst#1"),
        format!("delta/{}-{floor}.wal.zst#1", Lsn::ZERO),
        format!("snapshot/{old}.db.zst#7"),
        format!("snapshot/{head}.db.zst#7"),
        format!("writers/{old}.json.zst#1"),
        format!("writers/{head}.json.zst#1"),
        format!("floor/{}#1", Lsn::ZERO),
        format!("log/00000000000/{old}.wal.zst#3"),
    ];
    let alive = [
        format!("tmp/s-{later}-0f.zst"),
        format!("tmp/s-{later}-1f.zst#1"),
        format!("tmp/{later}-0f.zst#1"),
        format!("delta/{floor}-{later}.wal.zst#1"),
        format!("writers/{later}.json.zst#1"),
        format!("log/00000000000/{later}.wal.zst#1"),
    ];
    for name in dead.iter().chain(&alive) {
        std::fs::create_dir_all(db.join(name).parent().unwrap()).unwrap();
        std::fs::write(db.join(name), "half").unwrap();
    }
    assert_eq!(compacted(&log).await.unwrap(), floor);
    let left: Vec<&String> = dead.iter().filter(|name| db.join(name).exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    let lost: Vec<&String> = alive.iter().filter(|name| !db.join(name).exists()).collect();
    assert!(lost.is_empty(), "{lost:?}");
    a.pushed(4).await;
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
}

#[tokio::test]
async fn roots_of_several_databases_keep_them_apart() {
    let fixture = Fixture::memory();
    let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
    let (id_1, id_2) = ("id-1".parse().unwrap(), "id-2".parse().unwrap());
    let root: &Root = &fixture.root;
    root.name(&one, &id_1).await.unwrap();
    root.name(&two, &id_2).await.unwrap();
    let (mut a, mut b) =
        (Replica::new(&root.log(&one, &id_1), "a"), Replica::new(&root.log(&two, &id_2), "b"));
    a.pushed(3).await;
    b.pushed(5).await;
    assert_eq!(cloned(&root.log(&one, &id_1), "c").await.unwrap().db, a.db);
    assert_eq!(cloned(&root.log(&two, &id_2), "c").await.unwrap().db, b.db);
}

#[tokio::test]
async fn every_operation_can_be_given_to_another_thread() {
    fn is_send<T: Send>(_: T) {}
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let a = Replica::new(&log, "a");
    let (head, quiet) = (a.head.clone(), Progress::none());
    let segment = a.db.segment(&a.db.edited(1, 3), "a", "a-1", 1);
    is_send(log.append(&head, segment, &quiet));
    is_send(log.head(&head.anchor));
    is_send(log.next(&head.anchor));
    is_send(log.at_key_after(Lsn::ZERO));
    let writer = "a".parse().unwrap();
    is_send(log.last_push(&writer));
    is_send(log.fetch(Lsn::ZERO, &head, &quiet));
    is_send(log.compact(Micros(0), Duration::ZERO, &quiet));
    is_send(log.history(1));
    is_send(log.position_at(At::Head));
    let name = "default".parse().unwrap();
    is_send(fixture.root.find(&name));
    is_send(fixture.root.verify_conditional_put());
    let scratch = fixture.options.clone();
    is_send(Root::open(&anabranch_store::Location::folder("x"), &scratch));
}
