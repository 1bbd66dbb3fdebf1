use std::collections::BTreeMap;
use std::io::BufReader;

use proptest::prelude::*;

use super::*;
use crate::delta::SegmentReader;
use crate::lsn::Lsn;
use crate::metadata::Metadata;
use crate::metadata::tests::sample;

const SIZE: PageSize = PageSize::MIN;

fn pgno(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}

fn page(seed: u32) -> Vec<u8> {
    (0..SIZE.get()).map(|i| (i.wrapping_mul(seed | 1) >> 3).to_le_bytes()[0]).collect()
}

/// Frames of a transaction that takes a database of `before` pages to `after`.
fn transaction(before: u32, after: u32, touched: &[u32], repeat: bool) -> Vec<(Pgno, u32)> {
    let mut pages: Vec<u32> = touched.iter().map(|n| n % after + 1).collect();
    pages.extend(before + 1..=after);
    pages.reverse();
    let mut seen = std::collections::HashSet::new();
    pages.retain(|n| seen.insert(*n));
    if pages.is_empty() || repeat {
        pages.push(pages.first().copied().unwrap_or(1));
    }
    let last = pages.len() - 1;
    pages.iter().enumerate().map(|(i, n)| (pgno(*n), if i == last { after } else { 0 })).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_read_back_as_they_were_given(
        steps in prop::collection::vec((1u32..20, prop::collection::vec(any::<u32>(), 0..6), any::<bool>()), 1..12),
        salts: (u32, u32),
    ) {
        let mut before = 0;
        let mut frames = Vec::new();
        for (after, touched, repeat) in &steps {
            frames.extend(transaction(before, *after, touched, *repeat));
            before = *after;
        }
        let salts = Salts(salts.0, salts.1);
        let mut encoder = SegmentEncoder::new(Vec::new(), SIZE, 0, salts).unwrap();
        for (i, (pgno, commit)) in frames.iter().enumerate() {
            encoder.frame(*pgno, *commit, &page(u32::try_from(i).unwrap())).unwrap();
        }
        let encoded = encoder.finish().unwrap();
        prop_assert_eq!(encoded.frames, frames.len() as u64);
        prop_assert_eq!(encoded.transactions, steps.len() as u64);
        prop_assert_eq!(encoded.size_after, before);
        let metadata = Metadata {
            lsn: (Lsn::new(1), Lsn::new(encoded.frames)),
            pages: (0, before),
            page_size: SIZE,
            transactions: Some(encoded.transactions),
            ..sample()
        };
        let mut reader = SegmentReader::new(BufReader::new(&encoded.sink[..]), &metadata).unwrap();
        let mut buffer = page(0);
        let mut read = Vec::new();
        while let Some(frame) = reader.next_frame(&mut buffer).unwrap() {
            prop_assert_eq!(frame.salts, salts);
            prop_assert_eq!(&buffer, &page(u32::try_from(read.len()).unwrap()));
            read.push((frame.pgno, frame.commit_size));
        }
        prop_assert_eq!(read, frames);
    }

    /// Whatever passes is a change that leaves every page of the database known.
    #[test]
    fn what_passes_leaves_no_page_unknown(
        frames in prop::collection::vec((1u32..6, prop_oneof![3 => Just(0u32), 2 => 0u32..6]), 1..60),
    ) {
        let mut rules = Transaction::new(SIZE, 0);
        let mut pages: BTreeMap<u32, usize> = BTreeMap::new();
        let mut open: BTreeMap<u32, usize> = BTreeMap::new();
        for (i, (number, commit)) in frames.iter().enumerate() {
            let repeated = open.contains_key(number) && *commit == 0;
            match rules.frame(pgno(*number), *commit) {
                Ok(()) => {
                    prop_assert!(!repeated);
                    open.insert(*number, i);
                    if *commit != 0 {
                        pages.append(&mut open);
                        pages.retain(|n, _| *n <= *commit);
                        prop_assert_eq!(pages.len(), *commit as usize);
                    }
                }
                Err(_) if *commit == 0 => prop_assert!(repeated),
                Err(_) => {
                    let mut after = pages.clone();
                    after.extend(open.iter().map(|(n, i)| (*n, *i)));
                    after.insert(*number, i);
                    after.retain(|n, _| *n <= *commit);
                    // Pages above the size before may be left of a larger database.
                    let known = after.len() == *commit as usize && number <= commit;
                    prop_assert!(!known, "{number} {commit} refused after {open:?}");
                }
            }
        }
    }
}

#[test]
fn each_rule_is_named_by_its_error() {
    let rules = || Transaction::new(SIZE, 2);
    let lock = SIZE.lock_page();
    assert_eq!(rules().frame(lock, 0), Err(TransactionError::LockPage(lock)));
    let mut twice = rules();
    twice.frame(pgno(1), 0).unwrap();
    assert_eq!(twice.frame(pgno(1), 0), Err(TransactionError::Repeated(pgno(1))));
    assert!(!twice.is_whole());
    twice.frame(pgno(1), 2).unwrap();
    assert!(twice.is_whole(), "the commit frame may repeat a page");
    assert_eq!(
        rules().frame(pgno(2), 1),
        Err(TransactionError::AboveSize { page: pgno(2), size: 1 })
    );
    assert_eq!(
        rules().frame(pgno(1), u32::MAX),
        Err(TransactionError::TooLarge { before: 2, size: u32::MAX, frames: 1 })
    );
    let mut gap = rules();
    gap.frame(pgno(1), 0).unwrap();
    assert_eq!(gap.frame(pgno(4), 4), Err(TransactionError::Growth { page: pgno(3), size: 4 }));
    let mut spilled = rules();
    spilled.frame(pgno(9), 0).unwrap();
    spilled.frame(pgno(1), 2).unwrap();
    assert_eq!(spilled.size(), 2, "pages that were spilled and cut off again");
}

#[test]
fn growth_over_the_lock_page_needs_every_page_but_that() {
    let lock = SIZE.lock_page().get();
    let mut rules = Transaction::new(SIZE, lock - 2);
    rules.frame(pgno(lock - 1), 0).unwrap();
    rules.frame(pgno(lock + 1), lock + 1).unwrap();
    assert_eq!(rules.size(), lock + 1);
}
