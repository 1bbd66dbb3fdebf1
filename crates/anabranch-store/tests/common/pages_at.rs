//! Single pages as of any position.

use std::time::Duration;

use anabranch_format::{Lsn, Micros, PageSet, Pgno};
use anabranch_store::{Chain, Log, PagesAt, Progress, StoreError};

use super::{Db, Fixture, Frame, PAGE, Random, Replica};

const NOW: Micros = Micros(i64::MAX / 2);
const CHAINS: [Chain; 2] = [Chain::Checked, Chain::LeftToReader];
const HOUR: Duration = Duration::from_secs(3600);

fn wanted(pages: impl IntoIterator<Item = u32>) -> PageSet {
    let mut set = PageSet::new(0);
    for pgno in pages.into_iter().filter_map(Pgno::new) {
        set.grow(pgno.get());
        set.insert(pgno);
    }
    set
}

async fn pages_at(log: &Log, at: Lsn, set: &PageSet) -> Result<PagesAt, StoreError> {
    log.pages_at(at, set.clone(), Chain::Checked, &Progress::none()).await
}

fn read(found: PagesAt) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
    let (mut page, mut pages) = (vec![0; found.page_size.bytes()], Vec::new());
    let mut source = found.into_pages();
    loop {
        let next = source.next_page(&mut page).map_err(|e| StoreError::from_pages(e).unwrap())?;
        let Some(pgno) = next else { return Ok(pages) };
        pages.push((pgno.get(), page.clone()));
    }
}

/// Some pages, and all of them, as of each of `states`; of those of a service, where each request takes
/// its time, as of every fifth.
async fn check_all(fixture: &Fixture, log: &Log, states: &[(Lsn, Db)], random: &mut Random) {
    let step = if fixture.server.is_some() { 5 } else { 1 };
    for (at, db) in states.iter().rev().step_by(step) {
        let some = 1 + (random.next() % 12) as u32;
        let sets = [wanted([some, 3, 9]), wanted(1..=60), wanted([])];
        for (set, chain) in sets.iter().flat_map(|set| CHAINS.map(|chain| (set, chain))) {
            let found = log.pages_at(*at, set.clone(), chain, &Progress::none()).await.unwrap();
            assert_eq!((found.lsn, found.size), (*at, db.size()));
            let expected: Vec<(u32, Vec<u8>)> = (1u32..)
                .zip(&db.pages)
                .filter(|(n, _)| set.contains(Pgno::new(*n).unwrap()))
                .map(|(n, page)| (n, page.clone()))
                .collect();
            assert_eq!(read(found).unwrap(), expected, "position {at}");
        }
    }
}

/// The states at the ends of the transactions that `frames` are, which begin after `from`.
fn states_of(from: Lsn, mut db: Db, frames: &[Frame]) -> Vec<(Lsn, Db)> {
    let mut states = Vec::new();
    for (at, (pgno, commit, _, page)) in (from.get() + 1..).zip(frames) {
        let index = pgno.get() as usize - 1;
        if db.pages.len() <= index {
            db.pages.resize(index + 1, vec![0; PAGE.bytes()]);
        }
        db.pages[index].clone_from(page);
        if *commit > 0 {
            db.pages.resize(*commit as usize, vec![0; PAGE.bytes()]);
            states.push((Lsn::new(at), db.clone()));
        }
    }
    states
}

pub async fn pages_are_read_as_of_any_position(fixture: &Fixture) {
    let log = fixture.log().await;
    let (mut a, mut random) = (Replica::new(&log, "a"), Random(5));
    let mut states = vec![(Lsn::ZERO, Db::empty())];
    for round in 0..24u32 {
        let before = (a.at(), a.db.clone());
        if round % 3 == 1 {
            let frames = a.pushed_frames(1 + round % 5).await;
            states.extend(states_of(before.0, before.1, &frames));
        } else {
            a.pushed(3 + (random.next() % 9) as u32).await;
            states.push((a.at(), a.db.clone()));
        }
        if round == 10 {
            check_all(fixture, &log, &states, &mut random).await;
            log.compact(NOW, HOUR, &Progress::none()).await.unwrap();
        }
    }
    check_all(fixture, &log, &states, &mut random).await;
    log.compact(NOW, HOUR, &Progress::none()).await.unwrap();
    check_all(fixture, &log, &states, &mut random).await;

    // No end of a transaction, and no position at all.
    let ends: Vec<Lsn> = states.iter().map(|(at, _)| *at).collect();
    let inside = (1..=a.at().get()).map(Lsn::new).find(|at| !ends.contains(at)).unwrap();
    let refused = pages_at(&log, inside, &wanted([1])).await.unwrap_err();
    assert!(refused.is_corrupt(), "{refused:?}");
    let beyond = pages_at(&log, a.at().next().unwrap(), &wanted([1])).await.unwrap_err();
    assert!(matches!(beyond, StoreError::BeyondHead { .. }), "{beyond:?}");

    // What retention took is told, and what it left is there.
    let floor = log.compact(NOW, Duration::ZERO, &Progress::none()).await.unwrap().floor;
    assert!(floor > Lsn::ZERO);
    let (gone, kept): (Vec<_>, Vec<_>) = states.into_iter().partition(|(at, _)| *at < floor);
    for (at, _) in gone {
        let error = pages_at(&log, at, &wanted([1])).await.unwrap_err();
        assert!(matches!(error, StoreError::BelowFloor { .. }), "{error:?}");
    }
    check_all(fixture, &log, &kept, &mut random).await;
}

pub async fn single_pages_of_a_large_snapshot_cost_little(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    // Random pages, so that a chunk of 256 KiB stays as long: 20 of them.
    a.pushed(10_240).await;
    log.compact(NOW, HOUR, &Progress::none()).await.unwrap();
    a.pushed(10_240).await;
    let set = wanted([700, 9_000, 9_001]);
    let found = pages_at(&log, a.at(), &set).await.unwrap();
    assert_eq!(found.objects, 2);
    assert!(found.bytes < 3 * 256 * 1024, "{} bytes", found.bytes);
    let pages = read(found).unwrap();
    assert_eq!(pages.len(), 3);
    for (n, page) in pages {
        assert_eq!(page, a.db.pages[n as usize - 1], "page {n}");
    }
    // All of them, in ranges.
    let found = pages_at(&log, a.at(), &wanted(1..=10_240)).await.unwrap();
    let pages: Vec<Vec<u8>> = read(found).unwrap().into_iter().map(|(_, page)| page).collect();
    assert!(pages == a.db.pages);
}

pub async fn nothing_older_is_read_than_is_needed(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(12_000).await;
    let first = (a.at(), a.db.pages.clone());
    for size in [2_000, 4_000, 6_000] {
        a.pushed(size).await;
    }
    // Each push brings all pages of its growth.
    for (set, objects) in [(wanted([5_000, 5_500]), 1), (wanted([2_500]), 2), (wanted([]), 1)] {
        let found = pages_at(&log, a.at(), &set).await.unwrap();
        assert!(found.objects <= objects, "{} of {objects}", found.objects);
        for (n, page) in read(found).unwrap() {
            assert_eq!(page, a.db.pages[n as usize - 1], "page {n}");
        }
    }
    let (all, none) = (wanted(1..=6_000), Progress::none());
    let found = log.pages_at(a.at(), all, Chain::LeftToReader, &none).await.unwrap();
    let pages: Vec<Vec<u8>> = read(found).unwrap().into_iter().map(|(_, page)| page).collect();
    assert!(pages == a.db.pages);
    // Of the first, which brings the whole database, single pages.
    let old = a.db.pages.len() as u32;
    for set in [wanted([1, 700, 701, 1_999]), wanted((1..=old).step_by(37)), wanted([2_000])] {
        let found = log.pages_at(first.0, set.clone(), Chain::LeftToReader, &none).await.unwrap();
        let expected: Vec<(u32, Vec<u8>)> = (1u32..)
            .zip(&first.1)
            .filter(|(n, _)| set.contains(Pgno::new(*n).unwrap()))
            .map(|(n, page)| (n, page.clone()))
            .collect();
        assert!(read(found).unwrap() == expected);
    }
}

pub async fn a_damaged_chunk_or_seek_table_is_named(fixture: &Fixture) {
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    a.pushed(2_000).await;
    log.compact(NOW, HOUR, &Progress::none()).await.unwrap();
    // On a bucket a long object lies apart.
    let body = fixture.keys("body").await.into_iter().find(|key| key.contains("/s-"));
    let key = body.unwrap_or(fixture.keys("snapshot").await.remove(0));
    let good = fixture.read(&key).await;
    for (at, set) in [(300_000, wanted([600])), (good.len() - 30, wanted([1]))] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fixture.overwrite(&key, bad).await;
        let outcome = pages_at(&log, a.at(), &set).await.and_then(read);
        let error = outcome.unwrap_err();
        assert!(error.is_corrupt() && error.key() == Some(key.as_str()), "{error:?}");
    }
    // Pages of other chunks are untouched by the damage of one.
    let mut bad = good.clone();
    bad[300_000] ^= 1;
    fixture.overwrite(&key, bad).await;
    let pages = read(pages_at(&log, a.at(), &wanted([1, 1_900])).await.unwrap()).unwrap();
    assert_eq!(pages, [(1, a.db.pages[0].clone()), (1_900, a.db.pages[1_899].clone())]);
}
