//! What must hold on every kind of store.

use std::time::Duration;

use anabranch_format::{Lsn, Micros};
use anabranch_store::{Anchor, AppendError, Appended, At, Named, Progress, Rollover, StoreError};
use futures::TryStreamExt;

#[allow(unused_imports, reason = "not every test of a store runs the suite")]
pub use super::pages_at::{
    a_damaged_chunk_or_seek_table_is_named, nothing_older_is_read_than_is_needed,
    pages_are_read_as_of_any_position, single_pages_of_a_large_snapshot_cost_little,
};
use super::{Db, Fixture, Random, Replica, cloned};

const NOW: Micros = Micros(i64::MAX / 2);

/// Instantiates the suite for the store that `$fixture` makes.
#[macro_export]
macro_rules! suite {
    ($name:ident, $fixture:expr, [$($test:ident),* $(,)?]) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fixture = $fixture.await;
                    $crate::common::suite::$test(&fixture).await;
                }
            )*
        }
    };
    ($name:ident, $fixture:expr) => {
        $crate::suite!($name, $fixture, [
            i1_what_is_pushed_is_pulled_by_everyone_once,
            i1_of_sixteen_writers_racing_for_one_key_one_wins,
            a_repeated_push_is_recognised_and_a_strangers_is_not,
            a_segment_of_many_megabytes_is_pushed_and_pulled,
            a_large_segment_that_loses_leaves_nothing,
            names_are_given_once,
            conditional_writes_are_honoured,
            a_snapshot_replaces_the_log_for_newcomers,
            retention_keeps_what_replicas_need_and_tells_those_it_left_behind,
            two_compactors_do_not_disturb_each_other,
            a_damaged_segment_is_named,
            a_damaged_snapshot_is_named,
            i1_a_hole_in_the_log_is_no_head_and_nothing_is_put_into_it,
            history_and_positions_are_found,
            frames_are_read_as_they_were_appended,
            pages_are_read_as_of_any_position,
            single_pages_of_a_large_snapshot_cost_little,
            nothing_older_is_read_than_is_needed,
            a_damaged_chunk_or_seek_table_is_named,
            a_rollover_is_written_into_the_last_segment_of_a_generation,
        ]);
    };
}

pub async fn i1_what_is_pushed_is_pulled_by_everyone_once(fixture: &Fixture) {
    let log = fixture.log().await;
    let (mut a, mut b) = (Replica::new(&log, "a"), Replica::new(&log, "b"));
    for size in [3, 7, 2, 9, 9] {
        a.pushed(size).await;
        b.pull().await.unwrap();
        assert_eq!(a.db, b.db);
        b.pushed(size + 1).await;
        a.pull().await.unwrap();
        assert_eq!(a.db, b.db);
    }
    let mut late = cloned(&log, "c").await.unwrap();
    assert_eq!(late.db, a.db);
    late.pull().await.unwrap();
    let head = log.head(&Anchor::start()).await.unwrap();
    assert_eq!(log.next(&head.anchor).await.unwrap(), None);
    assert!(!log.may_have_moved(&head.anchor).await.unwrap());
    assert!(log.may_have_moved(&Anchor::start()).await.unwrap());
    let fetched = log.fetch(Lsn::ZERO, &head, &Progress::none()).await.unwrap();
    let pushes: Vec<String> = fetched.pushes.iter().map(|p| p.push.to_string()).collect();
    let expected: Vec<String> =
        (1..=5).flat_map(|n| [format!("a-{n}"), format!("b-{n}")]).collect();
    assert_eq!(pushes, expected);
}

pub async fn i1_of_sixteen_writers_racing_for_one_key_one_wins(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut writers: Vec<Replica> = (0..16).map(|n| Replica::new(&log, &format!("w{n}"))).collect();
    let mut accepted = Vec::new();
    for _round in 0..4 {
        let racing = writers.iter_mut().map(|writer| async move {
            let appended = writer.push(4).await.unwrap();
            matches!(appended, Appended::Won(_))
                .then(|| format!("{}-{}", writer.writer, writer.pushes))
        });
        let won: Vec<String> =
            futures::future::join_all(racing).await.into_iter().flatten().collect();
        assert_eq!(won.len(), 1, "{won:?}");
        accepted.extend(won);
        for writer in &mut writers {
            writer.pull().await.unwrap();
        }
        assert!(writers.windows(2).all(|pair| pair[0].db == pair[1].db));
    }
    let history = log.history(100).await.unwrap();
    let logged: Vec<String> =
        history.iter().rev().map(|e| e.metadata.push.clone().unwrap().to_string()).collect();
    assert_eq!(logged, accepted);
}

pub async fn a_repeated_push_is_recognised_and_a_strangers_is_not(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    let after = a.db.edited(5, 4);
    let append = async |push: &str| {
        let segment = a.db.segment(&after, "a", push, 2);
        log.append(&a.head, segment, &Progress::none()).await.unwrap()
    };
    let Appended::Won(first) = append("x").await else { panic!("lost") };
    assert_eq!(append("x").await, Appended::Won(first.clone()));
    assert_eq!(append("y").await, Appended::Lost(first.clone()));
    assert_eq!(log.at_key_after(a.at()).await.unwrap(), Some(first.clone()));
    assert_eq!(log.at_key_after(first.lsn.1).await.unwrap(), None);
    let last = log.last_push(&"a".parse().unwrap()).await.unwrap();
    assert_eq!(last, Some((first.push.clone().unwrap(), first.lsn.1)));
    assert_eq!(log.last_push(&"z".parse().unwrap()).await.unwrap(), None);
}

/// Random pages, so that 10 MB stay 10 MB when packed.
fn large() -> Db {
    let mut random = Random(99);
    let pages = (0..20_000).map(|_| random.page(512)).collect();
    Db { pages, ..Db::empty() }
}

pub async fn a_segment_of_many_megabytes_is_pushed_and_pulled(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    let db = large();
    let segment = a.db.segment(&db, "a", "large", 1);
    let Appended::Won(metadata) = log.append(&a.head, segment, &Progress::none()).await.unwrap()
    else {
        panic!("lost")
    };
    let again = a.db.segment(&db, "a", "large", 1);
    let again = log.append(&a.head, again, &Progress::none()).await.unwrap();
    assert!(matches!(again, Appended::Won(_)), "{again:?}");
    (a.head, a.db) = (a.head.after(metadata), db);
    a.pushed(20_001).await;
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
    assert!(fixture.keys("tmp").await.is_empty());
    assert!(log.history(9).await.unwrap()[1].bytes > 9_000_000);
    // The body of the repeat is an orphan; compaction finds it and leaves the other.
    log.compact(NOW, Duration::from_secs(3600), &Progress::none()).await.unwrap();
    assert!(fixture.keys("body").await.len() <= 2, "one of the segment, one of the snapshot");
    assert_eq!(cloned(&log, "c").await.unwrap().db, a.db);
}

pub async fn a_large_segment_that_loses_leaves_nothing(fixture: &Fixture) {
    let log = fixture.log().await;
    let (mut a, b) = (Replica::new(&log, "a"), Replica::new(&log, "b"));
    a.pushed(3).await;
    let segment = b.db.segment(&large(), "b", "large", 1);
    let appended = log.append(&b.head, segment, &Progress::none()).await.unwrap();
    assert!(matches!(appended, Appended::Lost(_)), "{appended:?}");
    assert!(fixture.keys("tmp").await.is_empty());
    assert!(fixture.keys("body").await.is_empty());
}

pub async fn names_are_given_once(fixture: &Fixture) {
    let name = "app".parse().unwrap();
    let (one, two) = ("id-1".parse().unwrap(), "id-2".parse().unwrap());
    assert_eq!(fixture.root.find(&name).await.unwrap(), None);
    let absent = fixture.root.log(&name, &one).head(&Anchor::start()).await.unwrap_err();
    assert!(absent.is_offline(), "a database that is not there is no empty log: {absent}");
    assert_eq!(fixture.root.name(&name, &one).await.unwrap(), Named::Created);
    assert_eq!(fixture.root.name(&name, &one).await.unwrap(), Named::Created);
    assert_eq!(fixture.root.name(&name, &two).await.unwrap(), Named::Taken(one.clone()));
    assert_eq!(fixture.root.find(&name).await.unwrap(), Some(one.clone()));
    // A deleted database gives its name free, and nothing can be appended to it.
    let mut replica = Replica::new(&fixture.root.log(&name, &one), "a");
    replica.pushed(3).await;
    fixture.overwrite(&format!("db/id-1/floor/{}", Lsn::MAX), b"x".to_vec()).await;
    let refused = replica.push(3).await.unwrap_err();
    assert!(refused.to_string().contains("deleted"), "{refused}");
    assert_eq!(fixture.root.find(&name).await.unwrap(), None);
    assert_eq!(fixture.root.find_even_deleted(&name).await.unwrap(), Some(one));
    assert_eq!(fixture.root.name(&name, &two).await.unwrap(), Named::Created);
    assert_eq!(fixture.root.find(&name).await.unwrap(), Some(two));
}

pub async fn conditional_writes_are_honoured(fixture: &Fixture) {
    fixture.root.verify_conditional_put().await.unwrap();
}

pub async fn a_snapshot_replaces_the_log_for_newcomers(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    for size in [40, 50, 45] {
        a.pushed(size).await;
    }
    let hour = Duration::from_secs(3600);
    let report = log.compact(NOW, hour, &Progress::none()).await.unwrap();
    assert_eq!(
        (report.snapshot, report.floor, report.objects_deleted),
        (Some(a.at()), Lsn::ZERO, 0)
    );
    assert_eq!(log.compact(NOW, hour, &Progress::none()).await.unwrap().snapshot, None);
    let fetch = async || {
        let head = log.head(&Anchor::start()).await.unwrap();
        log.fetch(Lsn::ZERO, &head, &Progress::none()).await.unwrap()
    };
    assert_eq!(fetch().await.objects, 1);
    a.pushed(60).await;
    assert_eq!(fetch().await.objects, 2);
    let b = cloned(&log, "b").await.unwrap();
    assert_eq!(b.db, a.db);
    // The second is built from the first.
    log.compact(NOW, hour, &Progress::none()).await.unwrap();
    assert_eq!(fixture.keys("snapshot").await.len(), 2);
    assert_eq!(cloned(&log, "c").await.unwrap().db, a.db);
    assert!(fixture.keys("tmp").await.is_empty());
}

pub async fn retention_keeps_what_replicas_need_and_tells_those_it_left_behind(fixture: &Fixture) {
    let log = fixture.log().await;
    let compact = async || log.compact(NOW, Duration::ZERO, &Progress::none()).await.unwrap();
    let (mut a, mut old) = (Replica::new(&log, "a"), Replica::new(&log, "old"));
    old.pushed(5).await;
    a.pull().await.unwrap();
    a.pushed(9).await;
    assert_eq!(compact().await.floor, Lsn::ZERO, "one snapshot is not enough");
    let floor = a.at();
    let mut exactly_there = cloned(&log, "e").await.unwrap();
    a.pushed(8).await;
    let report = compact().await;
    assert_eq!((report.floor, report.objects_deleted > 0), (floor, true));
    a.pushed(10).await;
    exactly_there.pull().await.unwrap();
    assert_eq!(exactly_there.db, a.db);
    // A replica from before the floor is told, whatever it asks, and starts over.
    let next = log.next(&old.head.anchor).await.unwrap_err();
    assert!(matches!(next, StoreError::BelowFloor { .. }), "{next}");
    assert!(matches!(log.at_key_after(old.at()).await, Err(StoreError::BelowFloor { .. })));
    let mut late =
        Replica { head: old.head.clone(), db: old.db.clone(), ..Replica::new(&log, "old") };
    let refused = late.push(6).await.unwrap_err();
    assert!(matches!(refused, anabranch_store::AppendError::BelowFloor { .. }), "{refused}");
    let head = log.head(&old.head.anchor).await.unwrap();
    assert!(head.floor > old.at());
    old.pull().await.unwrap();
    assert_eq!(old.db, a.db);
    // What became of a push from before the floor is still known.
    let last = log.last_push(&"old".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(last.0.as_str(), "old-1");
    // Nothing is deleted twice, and nothing that is needed.
    assert_eq!(cloned(&log, "n").await.unwrap().db, a.db);
}

pub async fn two_compactors_do_not_disturb_each_other(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    for size in [10, 12, 11, 14] {
        a.pushed(size).await;
        let compact = || async { log.compact(NOW, Duration::ZERO, &Progress::none()).await };
        let (one, two, clone) = futures::join!(compact(), compact(), cloned(&log, "r"));
        // One may find that what it wanted to read was deleted by the other: that is said.
        for report in [one, two] {
            if let Err(e) = report {
                assert!(
                    matches!(e, StoreError::Missing { .. } | StoreError::Unsettled { .. }),
                    "{e}"
                );
            }
        }
        assert_eq!(clone.unwrap().db, a.db);
    }
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
}

/// Every way of damaging an object is noticed by whoever reads it, and named.
async fn damage_is_named(fixture: &Fixture, log: &anabranch_store::Log, damaged: &str) {
    let good = fixture.read(damaged).await;
    let mut bad: Vec<Vec<u8>> = [0, 1, 20, good.len() / 2, good.len() - 1]
        .into_iter()
        .map(|len| good[..len].to_vec())
        .collect();
    let mut random = Random(7);
    for _ in 0..40 {
        let bit = random.next() % (good.len() as u64 * 8);
        let mut flipped = good.clone();
        flipped[(bit / 8) as usize] ^= 1 << (bit % 8);
        bad.push(flipped);
    }
    let whole = cloned(log, "good").await.unwrap().db;
    let mut noticed = 0;
    for bytes in bad {
        fixture.overwrite(damaged, bytes.clone()).await;
        match cloned(log, "x").await {
            Err(e) => {
                assert!(e.is_corrupt(), "{e:?}");
                assert_eq!(e.key(), Some(damaged), "{e:?}");
                noticed += 1;
            }
            // Bits that say nothing: zstd has more than one code for the same bytes.
            Ok(replica) => {
                assert_eq!(replica.db, whole);
                assert_eq!(bytes.len(), good.len());
            }
        }
    }
    assert!(noticed > 40, "{noticed}");
    fixture.overwrite(damaged, good).await;
    assert_eq!(cloned(log, "y").await.unwrap().db, whole);
}

pub async fn a_damaged_segment_is_named(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    for size in [4, 5] {
        a.pushed(size).await;
    }
    let key = fixture.keys("log").await[0].clone();
    damage_is_named(fixture, &log, &key).await;
    fixture.delete(&key).await;
    let e = cloned(&log, "x").await.err().unwrap();
    assert!(e.is_corrupt() && e.key() == Some(&key), "{e:?}");
}

pub async fn i1_a_hole_in_the_log_is_no_head_and_nothing_is_put_into_it(fixture: &Fixture) {
    let log = fixture.log().await;
    let (mut a, mut b) = (Replica::new(&log, "a"), Replica::new(&log, "b"));
    a.pushed(3).await;
    a.pushed(4).await;
    b.pull().await.unwrap();
    a.pushed(5).await;
    a.pushed(6).await;
    let keys = fixture.keys("log").await;
    let lost = fixture.read(&keys[2]).await;
    fixture.delete(&keys[2]).await;
    let names_it = |e: &StoreError| {
        let StoreError::Incomplete { key, proof, .. } = e else { return false };
        *key == keys[2] && *proof == keys[3]
    };
    let e = b.pull().await.unwrap_err();
    assert!(names_it(&e), "{e:?}");
    let e = log.next(&b.head.anchor).await.unwrap_err();
    assert!(names_it(&e), "{e:?}");
    let e = b.push(7).await.unwrap_err();
    assert!(matches!(&e, AppendError::Store(e) if names_it(e)), "{e:?}");
    assert_eq!(fixture.keys("log").await.len(), 3, "nothing was put into the hole");
    // Once the object is there everything goes on.
    fixture.overwrite(&keys[2], lost).await;
    b.pull().await.unwrap();
    assert_eq!(b.db, a.db);
    b.pushed(7).await;
}

pub async fn a_damaged_snapshot_is_named(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(40).await;
    a.pushed(40).await;
    log.compact(NOW, Duration::from_secs(60), &Progress::none()).await.unwrap();
    let bodies = fixture.keys("body").await;
    let snapshot = fixture.keys("snapshot").await[0].clone();
    damage_is_named(fixture, &log, bodies.first().unwrap_or(&snapshot)).await;
}

pub async fn history_and_positions_are_found(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    let mut states = vec![(Lsn::ZERO, Db::empty())];
    for size in [3, 6, 5, 8] {
        a.pushed(size).await;
        states.push((a.at(), a.db.clone()));
    }
    let history = log.history(3).await.unwrap();
    let ends: Vec<Lsn> = history.iter().map(|e| e.metadata.lsn.1).collect();
    assert_eq!(ends, [states[4].0, states[3].0, states[2].0]);
    assert!(history.iter().all(|e| e.clock_gap.is_some()), "the writer's clock stands at 1970");
    for (lsn, db) in &states {
        for inside in 0..3 {
            let wanted = Lsn::new(lsn.get() + inside);
            if wanted > a.at() {
                let e = log.position_at(At::Lsn(wanted)).await.unwrap_err();
                assert!(matches!(e, StoreError::BeyondHead { .. }));
                continue;
            }
            let position = log.position_at(At::Lsn(wanted)).await.unwrap();
            let expected = states.iter().rev().find(|s| s.0 <= wanted).unwrap();
            assert_eq!(position.lsn, expected.0);
            let mut restored = Db::empty();
            let fetched =
                log.fetch_position(Lsn::ZERO, &position, &Progress::none()).await.unwrap();
            restored.apply(fetched).unwrap();
            assert_eq!(&restored.pages, if inside == 0 { &db.pages } else { &expected.1.pages });
        }
    }
    assert_eq!(log.position_at(At::Time(Micros(0))).await.unwrap().lsn, Lsn::ZERO);
    let newest = log.position_at(At::Time(NOW)).await.unwrap();
    assert_eq!(newest.lsn, a.at());
    assert!(newest.clock_gap.is_some());
}

pub async fn frames_are_read_as_they_were_appended(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    let mut appended = Vec::new();
    for round in 0..40u32 {
        if round % 3 == 0 {
            a.pushed(5).await;
            let newest = a.head.newest.clone().unwrap();
            appended.extend(std::iter::repeat_n(None, newest.lsn_count() as usize));
        } else {
            appended.extend(a.pushed_frames(1 + round % 4).await.into_iter().map(Some));
        }
    }
    let head = a.at();
    assert_eq!(head.get(), appended.len() as u64);
    for (from, to) in [(0, head.get()), (1, 2), (17, 18), (7, head.get()), (19, 31), (5, 5)] {
        let (from, to) = (Lsn::new(from), Lsn::new(to));
        let mut segments = log.segments(from, to, &Progress::none());
        let mut read = Vec::new();
        while let Some(segment) = segments.try_next().await.unwrap() {
            segment
                .for_each(|lsn, frame, page| {
                    read.push((lsn, frame.pgno, frame.commit_size, frame.salts, page.to_vec()));
                    Ok::<(), StoreError>(())
                })
                .unwrap();
        }
        assert_eq!(read.len() as u64, to.get() - from.get());
        for (index, (lsn, pgno, commit, salts, page)) in read.into_iter().enumerate() {
            assert_eq!(lsn.get(), from.get() + index as u64 + 1);
            if let Some(frame) = &appended[lsn.get() as usize - 1] {
                assert_eq!((pgno, commit, salts, page), *frame);
            }
        }
    }
    for lsn in 1..=head.get() {
        let found = log.segment_at(Lsn::new(lsn)).await.unwrap().metadata.unwrap();
        assert!(found.lsn.0.get() <= lsn && lsn <= found.lsn.1.get());
    }
    let beyond = log.segment_at(head.next().unwrap()).await.unwrap_err();
    assert!(matches!(beyond, StoreError::BeyondHead { .. }), "{beyond:?}");
    // Everybody else sees the states at the ends of segments.
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
    log.compact(NOW, Duration::ZERO, &Progress::none()).await.unwrap();
    assert_eq!(cloned(&log, "c").await.unwrap().db, a.db);
    a.pushed_frames(3).await;
    log.compact(NOW, Duration::ZERO, &Progress::none()).await.unwrap();
    let gone = log.segments(Lsn::new(1), a.at(), &Progress::none()).try_next().await.unwrap_err();
    assert!(matches!(gone, StoreError::BelowFloor { .. }), "{gone:?}");
    let gone = log.segment_at(Lsn::new(1)).await.unwrap_err();
    assert!(matches!(gone, StoreError::BelowFloor { .. }), "{gone:?}");
}

pub async fn a_rollover_is_written_into_the_last_segment_of_a_generation(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(300).await;
    let first = a.head.newest.clone().unwrap();
    assert_eq!((first.generation, first.next_generation), ((1, Lsn::new(1)), Some(3)));
    a.pushed(300).await;
    let second = a.head.newest.clone().unwrap();
    assert_eq!((second.generation, second.next_generation), ((3, Lsn::new(301)), None));
    a.rollover = Rollover::Now;
    a.pushed(300).await;
    a.rollover = Rollover::Never;
    a.pushed(300).await;
    let newest = a.head.newest.clone().unwrap();
    assert_eq!((newest.generation.0, newest.next_generation), (5, None));
    let before = log.segment_at(Lsn::new(newest.generation.1.get() - 1)).await.unwrap();
    let before = before.metadata.unwrap();
    assert_eq!((before.generation.0, before.next_generation), (3, Some(5)));
}
