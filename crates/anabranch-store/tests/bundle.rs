//! A fetch that travels as a bundle is the fetch itself, however it is cut, and nothing that is wrong
//! with it passes.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use std::time::Duration;

use anabranch_format::{Lsn, Micros};
use anabranch_store::{
    Anchor, Arrival, At, Log, MANIFEST_BYTES_MAX, MANIFEST_MAGIC, Position, Progress, StoreError,
};
use common::{Db, Fixture, Random, Replica};
use futures::TryStreamExt;

async fn sent(log: &Log, from: Lsn, to: &Position, start: u64) -> Vec<u8> {
    let bundle = log.bundle(from, to).await.unwrap();
    let parts: Vec<_> = bundle.stream(start).try_collect().await.unwrap();
    let bytes = parts.concat();
    assert_eq!(bytes.len() as u64, bundle.bytes() - start);
    bytes
}

fn arrival(fixture: &Fixture, log: &Log, from: Lsn, to: &Position) -> Arrival {
    Arrival::new("a server", log.database(), fixture.scratch(), from, to)
}

/// Everything in `bytes`, in portions of `portion`.
async fn received(mut arrival: Arrival, bytes: &[u8], portion: usize) -> Result<Db, StoreError> {
    for part in bytes.chunks(portion) {
        arrival.write(part)?;
    }
    let fetched = arrival.hand_out()?.fetched().await?;
    let mut db = Db::empty();
    // Only whole databases are compared here.
    assert_eq!(fetched.from, None);
    db.apply(fetched)?;
    Ok(db)
}

async fn at(log: &Log, lsn: Lsn) -> Position {
    log.position_at(At::Lsn(lsn)).await.unwrap()
}

/// A log of segments, deltas and a snapshot, whatever the numbers say.
async fn mixed(fixture: &Fixture, seed: u64) -> (Log, Replica, Vec<Lsn>) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    let mut random = Random(seed);
    let mut ends = vec![Lsn::ZERO];
    for _ in 0..3 + random.next() % 20 {
        a.pushed(1 + (random.next() % 40) as u32).await;
        ends.push(a.at());
        if random.next().is_multiple_of(6) {
            log.compact(Micros(0), Duration::from_secs(3600), &Progress::none()).await.unwrap();
        }
    }
    (log, a, ends)
}

#[tokio::test]
async fn a_bundle_holds_what_a_fetch_would_whatever_the_log_is_made_of() {
    for seed in 0..12 {
        let fixture = match seed % 2 {
            0 => Fixture::memory(),
            _ => Fixture::folder().await,
        };
        let (log, a, ends) = mixed(&fixture, seed).await;
        let mut random = Random(seed + 100);
        for _ in 0..6 {
            let to = ends[1 + (random.next() as usize) % (ends.len() - 1)];
            let from = ends[(random.next() as usize) % ends.len()].min(to);
            let (from_state, to) = (at(&log, from).await, at(&log, to).await);
            let mut here = Db::empty();
            if from > Lsn::ZERO {
                let fetched = log.fetch_position(Lsn::ZERO, &from_state, &Progress::none()).await;
                here.apply(fetched.unwrap()).unwrap();
            }
            let mut there = here.clone();
            let portion = 1 + (random.next() as usize) % 5000;
            let bytes = sent(&log, from, &to, 0).await;
            let mut arrival = arrival(&fixture, &log, from, &to);
            for part in bytes.chunks(portion) {
                assert!(!arrival.is_complete());
                arrival.write(part).unwrap();
            }
            assert!(arrival.is_complete() && arrival.is_readable());
            let arrived = arrival.hand_out().unwrap().fetched().await.unwrap();
            let fetched = log.fetch_position(from, &to, &Progress::none()).await.unwrap();
            assert_eq!((arrived.from, arrived.to), (fetched.from, fetched.to));
            assert_eq!((arrived.pages, arrived.sum), (fetched.pages, fetched.sum));
            here.apply(fetched).unwrap();
            there.apply(arrived).unwrap();
            assert_eq!(here, there, "seed {seed}: {from} to {}", to.lsn);
            if to.lsn == a.at() {
                assert_eq!(there, a.db);
            }
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_bundle_is_the_same_whenever_it_is_asked_for() {
    let fixture = Fixture::folder().await;
    let (log, a, _) = mixed(&fixture, 5).await;
    let to = a.head.position();
    let whole = sent(&log, Lsn::ZERO, &to, 0).await;
    let tag = log.bundle(Lsn::ZERO, &to).await.unwrap().tag();
    for start in [1, 7, 100, whole.len() / 2, whole.len() - 1, whole.len()] {
        assert_eq!(sent(&log, Lsn::ZERO, &to, start as u64).await, whole[start..], "{start}");
        assert_eq!(log.bundle(Lsn::ZERO, &to).await.unwrap().tag(), tag);
    }
    assert!(zstd::stream::decode_all(&whole[..]).is_ok(), "zstd -d reads all of it");
}

#[tokio::test]
async fn many_small_changes_of_one_page_travel_once() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    let from = a.at();
    let mut before = a.db.clone();
    for _ in 0..300 {
        a.pushed(3).await;
    }
    let bytes = sent(&log, from, &a.head.position(), 0).await;
    assert!(bytes.len() < 8 * 1024, "{} bytes for three pages", bytes.len());
    let mut arrival = arrival(&fixture, &log, from, &a.head.position());
    arrival.write(&bytes).unwrap();
    let fetched = arrival.hand_out().unwrap().fetched().await.unwrap();
    assert_eq!(fetched.objects, 1);
    before.apply(fetched).unwrap();
    assert_eq!(before, a.db);
}

#[tokio::test]
async fn what_is_long_is_read_while_it_still_comes() {
    let fixture = Fixture::folder().await;
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    // Random pages of 512 bytes: longer than what is held in memory.
    a.pushed(36_000).await;
    log.compact(Micros(0), Duration::from_secs(3600), &Progress::none()).await.unwrap();
    for size in [36_010, 36_000, 36_020] {
        a.pushed(size).await;
    }
    let to = a.head.position();
    let bytes = sent(&log, Lsn::ZERO, &to, 0).await;
    assert!(bytes.len() > 17 << 20);
    let mut arriving = arrival(&fixture, &log, Lsn::ZERO, &to);
    let mut parts = bytes.chunks(50_000);
    while !arriving.is_readable() {
        arriving.write(parts.next().unwrap()).unwrap();
    }
    assert!(!arriving.is_complete(), "the longest comes last");
    let readable = arriving.hand_out().unwrap();
    let reading = tokio::spawn(async move {
        let fetched = readable.fetched().await?;
        let mut db = Db::empty();
        tokio::task::spawn_blocking(move || db.apply(fetched).map(|()| db)).await.unwrap()
    });
    for part in parts {
        assert!(!arriving.is_abandoned());
        arriving.write(part).unwrap();
    }
    assert_eq!(reading.await.unwrap().unwrap(), a.db);
    assert!(arriving.is_abandoned());

    // Cut off for good: whoever reads learns why.
    let mut cut = arrival(&fixture, &log, Lsn::ZERO, &to);
    let mut parts = bytes.chunks(50_000);
    while !cut.is_readable() {
        cut.write(parts.next().unwrap()).unwrap();
    }
    let readable = cut.hand_out().unwrap();
    cut.fail(StoreError::Unsettled { location: "a server".into() });
    let read = match readable.fetched().await {
        Ok(fetched) => {
            tokio::task::spawn_blocking(move || Db::empty().apply(fetched)).await.unwrap()
        }
        Err(e) => Err(e),
    };
    assert!(matches!(read, Err(StoreError::Unsettled { .. })), "{read:?}");
}

#[tokio::test]
async fn no_flipped_bit_and_no_cut_passes() {
    let fixture = Fixture::memory();
    let (log, a, _) = mixed(&fixture, 3).await;
    let to = a.head.position();
    let bytes = sent(&log, Lsn::ZERO, &to, 0).await;
    let new = || arrival(&fixture, &log, Lsn::ZERO, &to);
    assert_eq!(received(new(), &bytes, 1000).await.unwrap(), a.db);
    let mut random = Random(9);
    for _ in 0..400 {
        let mut bad = bytes.clone();
        let at = random.next() as usize % bad.len();
        bad[at] ^= 1 << (random.next() % 8);
        match received(new(), &bad, 1000).await {
            Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => {}
            // A bit that says nothing.
            Ok(db) => assert_eq!(db, a.db),
            Err(e) => panic!("byte {at}: {e:?}"),
        }
    }
    for len in [0, 3, 8, 40, bytes.len() / 2, bytes.len() - 1] {
        let e = received(new(), &bytes[..len], 1000).await.unwrap_err();
        assert!(matches!(e, StoreError::Corrupt { .. }), "{len}: {e:?}");
    }
    let longer = [&bytes[..], b"x"].concat();
    let e = received(new(), &longer, 1 << 20).await.unwrap_err();
    assert!(e.to_string().contains("damaged"), "{e}");
}

#[tokio::test]
async fn a_manifest_that_lies_is_refused_before_anything_is_kept() {
    let fixture = Fixture::memory();
    let (log, a, _) = mixed(&fixture, 4).await;
    let to = a.head.position();
    let refused = |frame: Vec<u8>| {
        let mut arrival = arrival(&fixture, &log, Lsn::ZERO, &to);
        let refused = arrival.write(&frame);
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    };
    let frame = |json: &str| {
        let len = json.len() as u32;
        [&MANIFEST_MAGIC.to_le_bytes()[..], &len.to_le_bytes(), json.as_bytes()].concat()
    };
    let huge = (MANIFEST_BYTES_MAX as u32 + 1).to_le_bytes();
    refused([&MANIFEST_MAGIC.to_le_bytes()[..], &huge].concat());
    refused(b"<html><body>no</body></html>".to_vec());
    let lsn = to.lsn.get();
    let db = log.database();
    for json in [
        "{}".to_owned(),
        "[".repeat(10_000),
        format!("{{\"anabranch\":2,\"db\":\"{db}\",\"to\":{lsn},\"pieces\":[1]}}"),
        format!("{{\"anabranch\":1,\"db\":\"0ther\",\"to\":{lsn},\"pieces\":[1]}}"),
        format!("{{\"anabranch\":1,\"db\":\"{db}\",\"to\":{},\"pieces\":[1]}}", lsn + 1),
        format!("{{\"anabranch\":1,\"db\":\"{db}\",\"from\":7,\"to\":{lsn},\"pieces\":[1]}}"),
        format!("{{\"anabranch\":1,\"db\":\"{db}\",\"to\":{lsn},\"pieces\":[1],\"tail\":1}}"),
        format!("{{\"anabranch\":1,\"db\":\"{db}\",\"to\":{lsn},\"pieces\":[{}]}}", u64::MAX),
        format!(
            "{{\"anabranch\":1,\"db\":\"{db}\",\"to\":{lsn},\"pieces\":[{0},{0}]}}",
            1u64 << 63
        ),
    ] {
        refused(frame(&json));
    }
    // Nothing at all does not lead anywhere.
    let json = format!("{{\"anabranch\":1,\"db\":\"{db}\",\"to\":{lsn},\"pieces\":[]}}");
    let mut empty = arrival(&fixture, &log, Lsn::ZERO, &to);
    empty.write(&frame(&json)).unwrap();
    assert!(empty.hand_out().unwrap().fetched().await.is_err());
}

#[tokio::test]
async fn what_a_client_knows_must_be_in_the_log() {
    let fixture = Fixture::memory();
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    let known = a.head.anchor.clone();
    a.pushed(4).await;
    let head = log.head(&Anchor::start()).await.unwrap();
    for good in [Anchor::start(), known.clone(), head.anchor.clone()] {
        log.confirm(&good, &head).await.unwrap();
    }
    let other = Anchor { push: Some("0ther".parse().unwrap()), ..known };
    let e = log.confirm(&other, &head).await.unwrap_err();
    assert!(matches!(e, StoreError::Rewound { .. }), "{e:?}");
    let all = log.history(10).await.unwrap();
    let before = log.history_before(all[0].metadata.lsn.0, 10).await.unwrap();
    assert_eq!(before, all[1..]);
}
