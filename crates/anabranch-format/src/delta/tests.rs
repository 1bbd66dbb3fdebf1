use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::checksum::DbChecksum;
use crate::metadata::{FORMAT_VERSION, Kind, Micros};

const SIZE: PageSize = PageSize::MIN;

fn pgno(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}

/// Metadata of a delta of `frames` frames between sizes in pages.
fn metadata(page_size: PageSize, pages: (u32, u32), frames: u64) -> Metadata {
    Metadata {
        version: FORMAT_VERSION,
        kind: Kind::Delta,
        database: "0123456789abcdef".parse().unwrap(),
        lsn: (Lsn::new(1), Lsn::new(1_000_000)),
        generation: (1, Lsn::new(1)),
        next_generation: None,
        push: None,
        writer: "a1b2c3d4".parse().unwrap(),
        time: Micros(1),
        clock: None,
        page_size,
        pages,
        sum: (DbChecksum::EMPTY, DbChecksum(1)),
        frames: Some(frames),
        transactions: None,
        healed: None,
        chunk: None,
        body: None,
    }
}

/// Frames as they stand in the body: page number, commit size, fill.
type Frames<'a> = &'a [(u32, u32, u8)];

/// A body with any frames at all, right or wrong.
fn body(page_size: PageSize, frames: Frames<'_>) -> Vec<u8> {
    let header = WalHeader::new(page_size, 0, Salts(1, 0));
    let mut wal = WalWriter::new(Compressor::new(Vec::new()), header).unwrap();
    for &(page, commit, fill) in frames {
        wal.frame(pgno(page), commit, &vec![fill; page_size.bytes()]).unwrap();
    }
    wal.into_inner().finish().unwrap()
}

fn drain(source: &mut impl PageSource, page_size: PageSize) -> Result<Pages, DeltaError> {
    let mut page = vec![0; page_size.bytes()];
    let mut all = BTreeMap::new();
    while let Some(number) = source.next_page(&mut page)? {
        let after_last = all.last_key_value().is_none_or(|(last, _)| *last < number.get());
        assert!(after_last, "pages ascend");
        all.insert(number.get(), page[0]);
    }
    Ok(all)
}

/// Pages by number; of each its fill.
type Pages = BTreeMap<u32, u8>;

fn read(body: &[u8], metadata: &Metadata) -> Result<Pages, DeltaError> {
    drain(&mut DeltaReader::new(body, metadata)?, metadata.page_size)
}

fn read_frames(pages: (u32, u32), frames: Frames<'_>) -> Result<Pages, DeltaError> {
    read(&body(SIZE, frames), &metadata(SIZE, pages, frames.len() as u64))
}

fn encode(page_size: PageSize, before: u32, after: u32, pages: &Pages) -> (Vec<u8>, Metadata) {
    let mut encoder =
        DeltaEncoder::new(Vec::new(), page_size, Lsn::new(9)).unwrap().growing_from(before);
    assert!(encoder.is_empty());
    for (&number, &fill) in pages {
        encoder.page(pgno(number), &vec![fill; page_size.bytes()]).unwrap();
    }
    let encoded = encoder.finish(after).unwrap();
    assert_eq!(encoded.frames, pages.len() as u64);
    (encoded.sink, metadata(page_size, (before, after), encoded.frames))
}

/// A change: sizes before and after, and its pages, complete as a delta must be.
fn change(before: u32) -> impl Strategy<Value = (u32, Pages)> {
    (1u32..24, prop::collection::btree_map(1u32..24, any::<u8>(), 1..10), any::<u8>()).prop_map(
        move |(after, mut pages, fill)| {
            pages.retain(|&page, _| page <= after);
            for page in before + 1..=after {
                pages.entry(page).or_insert(fill);
            }
            pages.entry(1).or_insert(fill);
            (after, pages)
        },
    )
}

/// Changes that follow one another from the empty database.
fn changes() -> impl Strategy<Value = Vec<(u32, u32, Pages)>> {
    let grow = |list: BoxedStrategy<Vec<(u32, u32, Pages)>>| {
        list.prop_flat_map(|list| {
            let before = list.last().map_or(0, |last| last.1);
            change(before).prop_map(move |(after, pages)| {
                let mut list = list.clone();
                list.push((before, after, pages));
                list
            })
        })
        .boxed()
    };
    (1usize..6)
        .prop_flat_map(move |count| (0..count).fold(Just(Vec::new()).boxed(), |l, _| grow(l)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_delta_reads_back_in_every_page_size(
        shift in 9u32..=16,
        (before, change) in (0u32..24).prop_flat_map(|b| (Just(b), change(b))),
    ) {
        let page_size = PageSize::new(1 << shift).unwrap();
        let (after, pages) = change;
        let (body, metadata) = encode(page_size, before, after, &pages);
        metadata.encode().unwrap();
        prop_assert_eq!(read(&body, &metadata).unwrap(), pages);
    }

    /// The model is a map of pages: each delta is put into it, and what lies above the size goes.
    #[test]
    fn a_merge_does_what_its_deltas_do_one_after_the_other(
        start in prop::collection::vec(any::<u8>(), 0..24),
        skip in 0usize..3,
        changes in changes(),
    ) {
        let skip = skip.min(changes.len() - 1);
        let before = changes[skip].0;
        // What the receiver has: `before` pages, and below them anything.
        let mut model: Pages =
            (1..=before).map(|n| (n, *start.get(n as usize).unwrap_or(&0))).collect();
        let mut receiver = model.clone();
        let changes = &changes[skip..];
        let after = changes.last().unwrap().1;
        for (_, size, pages) in changes {
            model.extend(pages);
            model.retain(|page, _| page <= size);
        }

        let encoded: Vec<_> =
            changes.iter().map(|(b, a, pages)| encode(SIZE, *b, *a, pages)).collect();
        let sources = encoded.iter().map(|(b, m)| DeltaReader::new(&b[..], m).unwrap()).collect();
        let merged = drain(&mut Merge::new(sources, SIZE, after), SIZE).unwrap();
        let mut order = PageOrder::new(SIZE, before, after);
        for &page in merged.keys() {
            order.next(pgno(page)).unwrap();
        }
        order.end().unwrap();
        receiver.extend(&merged);
        receiver.retain(|&page, _| page <= after);
        prop_assert_eq!(receiver, model);
        // And the merge is itself a delta that can be written and read.
        let (body, metadata) = encode(SIZE, before, after, &merged);
        prop_assert_eq!(read(&body, &metadata).unwrap(), merged);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        pages: (u32, u32),
        frames: u64,
    ) {
        prop_assert!(read(&bytes, &metadata(SIZE, pages, frames)).is_err());
    }
}

#[test]
fn content_of_a_database_that_was_once_larger_does_not_come_back() {
    let deltas = [
        (0, 4, Pages::from([(1, 10), (2, 11), (3, 12), (4, 13)])),
        (4, 2, Pages::from([(1, 20)])),
        (2, 4, Pages::from([(1, 30), (3, 0), (4, 0)])),
    ];
    let encoded = deltas.each_ref().map(|(b, a, pages)| encode(SIZE, *b, *a, pages));
    let merge = |to: usize| {
        let sources =
            encoded[..to].iter().map(|(b, m)| DeltaReader::new(&b[..], m).unwrap()).collect();
        drain(&mut Merge::new(sources, SIZE, deltas[to - 1].1), SIZE).unwrap()
    };
    assert_eq!(merge(2), Pages::from([(1, 20), (2, 11)]), "nothing above the final size");
    assert_eq!(merge(3), Pages::from([(1, 30), (2, 11), (3, 0), (4, 0)]));
}

#[test]
fn an_error_in_any_source_of_a_merge_is_its_error() {
    let good = encode(SIZE, 0, 3, &Pages::from([(1, 1), (2, 1), (3, 1)]));
    let bad = (body(SIZE, &[(2, 0, 2), (1, 3, 2)]), metadata(SIZE, (3, 3), 2));
    for pair in [[&good, &bad], [&bad, &good]] {
        let sources = pair.iter().map(|(b, m)| DeltaReader::new(&b[..], m).unwrap()).collect();
        let error = drain(&mut Merge::new(sources, SIZE, 3), SIZE).unwrap_err();
        assert!(matches!(error, DeltaError::Order { .. }), "{error}");
    }
}

#[test]
fn pages_ascend_and_lie_within_the_database() {
    assert_eq!(
        read_frames((9, 9), &[(2, 0, 1), (7, 9, 2)]).unwrap(),
        Pages::from([(2, 1), (7, 2)])
    );
    for wrong in [[(7, 0, 1), (2, 9, 2)], [(2, 0, 1), (2, 9, 2)]] {
        assert!(matches!(read_frames((9, 9), &wrong), Err(DeltaError::Order { .. })));
    }
    let above = read_frames((9, 9), &[(2, 0, 1), (10, 9, 2)]);
    assert!(matches!(above, Err(DeltaError::Page { page, size: 9 }) if page.get() == 10));
    let lock = SIZE.lock_page().get();
    let locked = read_frames((lock, lock), &[(1, 0, 1), (lock, lock, 2)]);
    assert!(matches!(locked, Err(DeltaError::Page { page, .. }) if page == SIZE.lock_page()));
}

#[test]
fn every_page_of_the_growth_is_there() {
    read_frames((2, 4), &[(1, 0, 0), (3, 0, 0), (4, 4, 0)]).unwrap();
    for (frames, missing) in [
        (&[(1, 0, 0), (3, 4, 0)][..], 4),
        (&[(1, 0, 0), (4, 4, 0)], 3),
        (&[(1, 0, 0), (2, 4, 0)], 3),
    ] {
        let found = read_frames((2, 4), frames);
        assert!(
            matches!(found, Err(DeltaError::Growth { page }) if page.get() == missing),
            "{found:?}"
        );
    }
}

#[test]
fn growth_over_the_lock_page_leaves_it_out() {
    let lock = SIZE.lock_page().get();
    for (before, after) in [
        (lock - 2, lock + 1),
        (lock - 1, lock + 1),
        (lock, lock + 1),
        (lock - 2, lock),
        (lock - 1, lock),
    ] {
        let mut pages = Pages::from([(1, 1)]);
        pages.extend((before + 1..=after).filter(|&n| n != lock).map(|n| (n, 2)));
        let (body, metadata) = encode(SIZE, before, after, &pages);
        metadata.encode().unwrap();
        assert_eq!(read(&body, &metadata).unwrap(), pages, "{before} to {after}");
    }
}

#[test]
fn the_only_commit_is_the_last_frame_and_states_the_size() {
    let early = read_frames((3, 3), &[(1, 3, 0), (2, 3, 0)]);
    assert!(matches!(early, Err(DeltaError::Commit { frame: 1 })));
    let none = read_frames((3, 3), &[(1, 0, 0), (2, 0, 0)]);
    assert!(matches!(none, Err(DeltaError::Commit { frame: 2 })));
    let size = read_frames((3, 3), &[(1, 0, 0), (2, 4, 0)]);
    assert!(matches!(size, Err(DeltaError::SizeAfter { found: 4, stated: 3 })));
}

#[test]
fn the_stream_ends_with_the_stated_frames() {
    let packed = body(SIZE, &[(1, 0, 0), (2, 3, 0)]);
    let uncommitted = body(SIZE, &[(1, 0, 0), (2, 0, 0)]);
    let more = read(&uncommitted, &metadata(SIZE, (3, 3), 3));
    assert!(matches!(more, Err(DeltaError::FrameCount { found: 2, stated: 3 })), "{more:?}");
    assert!(read(&packed, &metadata(SIZE, (3, 3), 1)).is_err());
    // A second zstd frame that unpacks to anything is too much; one without content is not.
    let extra = |content: &[u8]| {
        let more = zstd::bulk::compress(content, 1).unwrap();
        read(&[&packed[..], &more].concat(), &metadata(SIZE, (3, 3), 2))
    };
    assert!(extra(b"x").is_err());
    assert_eq!(extra(b"").unwrap().len(), 2);
    let garbage = [&packed[..], b"garbage"].concat();
    assert!(read(&garbage, &metadata(SIZE, (3, 3), 2)).is_err());
}

#[test]
fn another_page_size_than_stated_is_refused() {
    let packed = body(SIZE, &[(1, 1, 0)]);
    let found = read(&packed, &metadata(PageSize::DEFAULT, (1, 1), 1));
    assert!(matches!(found, Err(DeltaError::PageSize { .. })));
}

/// Pages that differ in every byte, so that every part of a body counts.
fn body_of_noise() -> (Vec<u8>, Metadata) {
    let mut encoder = DeltaEncoder::new(Vec::new(), SIZE, Lsn::new(1)).unwrap();
    let mut state = 1u32;
    for number in 1..=3 {
        let page: Vec<u8> = (0..512)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8 & 0x3f
            })
            .collect();
        encoder.page(pgno(number), &page).unwrap();
    }
    (encoder.finish(3).unwrap().sink, metadata(SIZE, (0, 3), 3))
}

fn images(body: &[u8], metadata: &Metadata) -> Result<Vec<(Pgno, Vec<u8>)>, DeltaError> {
    let mut reader = DeltaReader::new(body, metadata)?;
    let mut page = vec![0; SIZE.bytes()];
    let mut all = Vec::new();
    while let Some(number) = reader.next_page(&mut page)? {
        all.push((number, page.clone()));
    }
    Ok(all)
}

#[test]
fn every_truncation_is_an_error() {
    let (body, metadata) = body_of_noise();
    images(&body, &metadata).unwrap();
    for len in 0..body.len() {
        let error = images(&body[..len], &metadata).unwrap_err();
        assert!(error.is_damage(), "{len}: {error}");
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    let (body, metadata) = body_of_noise();
    let whole = images(&body, &metadata).unwrap();
    let mut harmless = 0;
    for bit in 0..body.len() * 8 {
        let mut flipped = body.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(pages) = images(&flipped, &metadata) {
            assert!(pages == whole, "bit {bit} changes the content");
            harmless += 1;
        }
    }
    // Bits of the frame header that no decoder looks at, or a window larger than needed.
    assert!(harmless <= 3 * 8, "{harmless} flips were not seen");
}

#[test]
fn a_failing_source_is_not_damage() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("connection lost"))
        }
    }
    let (body, metadata) = body_of_noise();
    let source = io::BufReader::new(body[..60].chain(Failing));
    let mut page = vec![0; SIZE.bytes()];
    let error = DeltaReader::new(source, &metadata)
        .and_then(|mut reader| reader.next_page(&mut page))
        .unwrap_err();
    assert!(!error.is_damage(), "{error}");
}

fn segment(transactions: u64, size_after: u32, frames: Frames<'_>) -> Result<Vec<u32>, DeltaError> {
    let mut metadata = metadata(SIZE, (0, size_after), frames.len() as u64);
    metadata.transactions = Some(transactions);
    let packed = body(SIZE, frames);
    let mut reader = SegmentReader::new(&packed[..], &metadata)?;
    let mut page = vec![0; SIZE.bytes()];
    let mut sizes = Vec::new();
    while let Some(frame) = reader.next_frame(&mut page)? {
        sizes.push(frame.commit_size);
    }
    Ok(sizes)
}

#[test]
fn a_segment_of_several_transactions_is_read_frame_by_frame() {
    // The commit frame of the second repeats a page of its transaction, as SQLite does when its
    // cache has spilled.
    let frames = [(1, 0, 1), (2, 2, 2), (3, 0, 3), (1, 0, 4), (3, 3, 5), (1, 1, 6)];
    assert_eq!(segment(3, 1, &frames).unwrap(), [0, 2, 0, 0, 3, 1]);
    let count = segment(2, 1, &frames);
    assert!(matches!(count, Err(DeltaError::TransactionCount { found: 3, stated: 2 })));
    assert!(matches!(segment(3, 2, &frames), Err(DeltaError::SizeAfter { found: 1, stated: 2 })));
    assert!(matches!(segment(2, 3, &frames[..4]), Err(DeltaError::Commit { frame: 4 })));
}

#[test]
fn a_segment_of_one_transaction_may_repeat_a_page_at_the_commit_and_is_no_delta() {
    let frames = [(2, 0, 1), (1, 0, 2), (2, 2, 3)];
    assert_eq!(segment(1, 2, &frames).unwrap(), [0, 0, 2]);
    let mut metadata = metadata(SIZE, (2, 2), 3);
    metadata.transactions = Some(1);
    metadata.encode().unwrap();
    assert!(read(&body(SIZE, &frames), &metadata).is_err());
}

#[test]
fn a_stated_number_of_frames_is_not_allocated() {
    let packed = body(SIZE, &[(1, 1, 0)]);
    for frames in [u64::MAX, u64::MAX / 536, 1 << 40] {
        assert!(read(&packed, &metadata(SIZE, (1, 1), frames)).is_err());
    }
}

#[test]
#[should_panic(expected = "pages of a delta ascend")]
fn the_encoder_refuses_pages_out_of_order() {
    encode_numbers(9, 9, &[3, 2]);
}

#[test]
#[should_panic(expected = "the lock page is never sent")]
fn the_encoder_refuses_the_lock_page() {
    let lock = SIZE.lock_page().get();
    encode_numbers(lock + 1, lock + 1, &[lock]);
}

#[test]
#[should_panic(expected = "lies above the end")]
fn the_encoder_refuses_a_page_above_the_end() {
    encode_numbers(3, 3, &[4]);
}

#[test]
fn the_encoder_refuses_a_growth_with_a_gap() {
    for (before, after, pages) in
        [(2, 4, &[1, 3][..]), (2, 4, &[1, 4]), (2, 4, &[1, 2]), (0, 3, &[2, 3]), (0, 3, &[1, 3])]
    {
        let refused = std::panic::catch_unwind(|| encode_numbers(before, after, pages));
        assert!(refused.is_err(), "{before} to {after} with {pages:?}");
    }
    encode_numbers(2, 4, &[3, 4]);
    encode_numbers(4, 2, &[1]);
    encode_numbers(4, 4, &[2, 4]);
}

fn encode_numbers(before: u32, after: u32, pages: &[u32]) {
    let mut encoder =
        DeltaEncoder::new(Vec::new(), SIZE, Lsn::new(1)).unwrap().growing_from(before);
    for &page in pages {
        encoder.page(pgno(page), &[0; 512]).unwrap();
    }
    encoder.finish(after).unwrap();
}
