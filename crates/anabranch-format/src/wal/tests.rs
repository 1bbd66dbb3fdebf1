#![expect(clippy::cast_possible_truncation, reason = "test data is small")]

use proptest::prelude::*;

use super::*;

fn pgno(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}

/// Frames as a test states them: page number, commit size, the byte its page is filled from.
type Frames = Vec<(u32, u32, u8)>;

fn page_of(size: PageSize, fill: u8) -> Vec<u8> {
    (0..size.bytes()).map(|i| fill.wrapping_mul(31).wrapping_add((i % 251) as u8)).collect()
}

fn write(header: WalHeader, frames: &Frames) -> Vec<u8> {
    let mut wal = WalWriter::new(Vec::new(), header).unwrap();
    for &(page, commit, fill) in frames {
        wal.frame(pgno(page), commit, &page_of(header.page_size, fill)).unwrap();
    }
    wal.into_inner()
}

fn read(bytes: &[u8]) -> Result<Vec<(FrameHeader, Vec<u8>)>, WalError> {
    let mut wal = WalReader::new(bytes)?;
    let mut page = vec![0; wal.header().page_size.bytes()];
    let mut all = Vec::new();
    while let Some(frame) = wal.next_frame(&mut page)? {
        all.push((frame, page.clone()));
    }
    assert_eq!(wal.frames(), all.len() as u64);
    Ok(all)
}

/// A header whose checksums are big-endian, as SQLite writes it on a big-endian machine.
fn big_endian(page_size: PageSize, salts: Salts) -> WalHeader {
    let mut header = WalHeader { order: ChecksumOrder::Big, ..WalHeader::new(page_size, 3, salts) };
    header.checksum = WalChecksum::default().extended(ChecksumOrder::Big, &header.encode()[..24]);
    header
}

fn page_sizes() -> impl Strategy<Value = PageSize> {
    (9u32..=16).prop_map(|shift| PageSize::new(1 << shift).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_reads_back(
        page_size in page_sizes(),
        seq: u32,
        salts: (u32, u32),
        big: bool,
        frames in prop::collection::vec((1u32.., any::<u32>(), any::<u8>()), 0..6),
    ) {
        let salts = Salts(salts.0, salts.1);
        let header =
            if big { big_endian(page_size, salts) } else { WalHeader::new(page_size, seq, salts) };
        let bytes = write(header, &frames);
        prop_assert_eq!(
            bytes.len() as u64,
            WAL_HEADER_BYTES as u64 + frames.len() as u64 * header.frame_bytes()
        );
        let found = *WalReader::new(&bytes[..]).unwrap().header();
        prop_assert_eq!(found, header);
        let back = read(&bytes).unwrap();
        prop_assert_eq!(back.len(), frames.len());
        for ((frame, page), &(number, commit, fill)) in back.iter().zip(&frames) {
            prop_assert_eq!((frame.pgno.get(), frame.commit_size), (number, commit));
            prop_assert_eq!(frame.is_commit(), commit != 0);
            prop_assert_eq!(frame.salts, salts);
            prop_assert_eq!(page, &page_of(page_size, fill));
        }
    }
}

#[test]
fn every_page_size_reads_back_in_both_byte_orders() {
    for shift in 9..=16 {
        let page_size = PageSize::new(1 << shift).unwrap();
        for header in
            [big_endian(page_size, Salts(1, 2)), WalHeader::new(page_size, 0, Salts(1, 2))]
        {
            let bytes = write(header, &vec![(1, 0, 5), (u32::MAX, 7, 6)]);
            assert_eq!(read(&bytes).unwrap().len(), 2, "{header:?}");
        }
    }
}

/// A WAL of one frame put together by hand after SQLite's description of the format, independent of
/// the writer: the checksum is `s1 += x[i] + s2; s2 += x[i+1] + s1` over 32-bit words.
#[test]
fn a_big_endian_wal_made_by_hand_is_read() {
    fn sum(mut s: (u32, u32), bytes: &[u8]) -> (u32, u32) {
        let words: Vec<u32> =
            bytes.chunks(4).map(|w| u32::from_be_bytes(w.try_into().unwrap())).collect();
        for pair in words.chunks(2) {
            s.0 = s.0.wrapping_add(pair[0]).wrapping_add(s.1);
            s.1 = s.1.wrapping_add(pair[1]).wrapping_add(s.0);
        }
        s
    }
    let mut wal = Vec::new();
    for word in [0x377f_0683u32, 3_007_000, 512, 9, 0xaaaa_0001, 0xbbbb_0002] {
        wal.extend(word.to_be_bytes());
    }
    let s = sum((0, 0), &wal);
    wal.extend(s.0.to_be_bytes());
    wal.extend(s.1.to_be_bytes());
    let page: Vec<u8> = (0..512u32).map(|i| (i * 7 % 256) as u8).collect();
    let frame_head = [4u32.to_be_bytes(), 4u32.to_be_bytes()].concat();
    let s = sum(sum(s, &frame_head), &page);
    wal.extend(&frame_head);
    wal.extend([0xaa, 0xaa, 0, 1, 0xbb, 0xbb, 0, 2]);
    wal.extend(s.0.to_be_bytes());
    wal.extend(s.1.to_be_bytes());
    wal.extend(&page);

    let frames = read(&wal).unwrap();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].1, page);
    assert_eq!((frames[0].0.pgno.get(), frames[0].0.commit_size), (4, 4));
    assert_eq!(frames[0].0.checksum, WalChecksum(s.0, s.1));

    // The same bytes under the little-endian magic do not chain.
    wal[3] = 0x82;
    assert!(matches!(read(&wal), Err(WalError::HeaderChecksum)));
}

fn two_frames() -> Vec<u8> {
    write(WalHeader::new(PageSize::MIN, 0, Salts(7, 8)), &vec![(3, 0, 1), (5, 9, 2)])
}

#[test]
fn every_truncation_inside_a_frame_is_an_error() {
    let bytes = two_frames();
    let frame = frame_bytes(PageSize::MIN) as usize;
    for len in 0..bytes.len() {
        let whole_frames = len.checked_sub(WAL_HEADER_BYTES).filter(|n| n % frame == 0);
        match read(&bytes[..len]) {
            Ok(frames) => assert_eq!(Some(frames.len() * frame), whole_frames, "{len}"),
            Err(WalError::NotAWal { found }) => {
                assert!(len < WAL_HEADER_BYTES);
                assert_eq!(found, if len < 4 { 0 } else { MAGIC });
            }
            Err(WalError::Truncated { frame: at }) => {
                assert_eq!(at as usize, (len - WAL_HEADER_BYTES) / frame + 1);
            }
            Err(e) => panic!("{len}: {e}"),
        }
    }
}

#[test]
fn every_single_bit_flip_is_an_error() {
    let bytes = two_frames();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = read(&flipped).map(|frames| frames.len()).unwrap_err();
        assert_eq!(error.ends_live_wal(), bit / 8 >= WAL_HEADER_BYTES, "bit {bit}: {error}");
    }
}

#[test]
fn each_kind_of_damage_has_its_own_error() {
    let frame = frame_bytes(PageSize::MIN) as usize;
    let second = WAL_HEADER_BYTES + frame;
    let damaged = |at: usize, with: &[u8]| {
        let mut bytes = two_frames();
        bytes[at..at + with.len()].copy_from_slice(with);
        read(&bytes).unwrap_err()
    };
    assert!(matches!(damaged(0, b"SQLi"), WalError::NotAWal { found: 0x5351_4c69 }));
    assert!(matches!(damaged(4, &[0; 4]), WalError::FormatVersion(0)));
    assert!(matches!(damaged(8, &[0, 0, 2, 1]), WalError::PageSize(InvalidPageSize(513))));
    assert!(matches!(damaged(24, &[0; 4]), WalError::HeaderChecksum));
    assert!(matches!(damaged(second, &[0; 4]), WalError::PageZero { frame: 2 }));
    assert!(matches!(damaged(second + 8, &[0; 4]), WalError::Salts { frame: 2 }));
    assert!(matches!(damaged(second + 16, &[0; 4]), WalError::FrameChecksum { frame: 2 }));
    assert!(matches!(damaged(second + 100, &[0; 4]), WalError::FrameChecksum { frame: 2 }));
}

#[test]
fn a_frame_does_not_chain_in_another_place() {
    let frame = frame_bytes(PageSize::MIN) as usize;
    let mut swapped = two_frames();
    swapped[WAL_HEADER_BYTES..].rotate_left(frame);
    assert!(matches!(read(&swapped), Err(WalError::FrameChecksum { frame: 1 })));
}

#[test]
fn a_live_wal_ends_where_frames_of_an_earlier_run_begin() {
    let old = two_frames();
    let mut live = write(WalHeader::new(PageSize::MIN, 1, Salts(8, 99)), &vec![(2, 4, 3)]);
    live.extend_from_slice(&old[live.len()..]);
    let mut wal = WalReader::new(&live[..]).unwrap();
    let mut page = [0; 512];
    assert_eq!(wal.next_frame(&mut page).unwrap().unwrap().commit_size, 4);
    let after_first = wal.checksum();
    let end = wal.next_frame(&mut page).unwrap_err();
    assert!(matches!(end, WalError::Salts { frame: 2 }));
    assert!(end.ends_live_wal());
    assert_eq!((wal.frames(), wal.checksum()), (1, after_first), "the end does not count");
}

#[test]
fn a_failing_source_is_not_the_end() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::TimedOut))
        }
    }
    let bytes = two_frames();
    let mut wal = WalReader::new(bytes[..200].chain(Failing)).unwrap();
    let error = wal.next_frame(&mut [0; 512]).unwrap_err();
    assert!(matches!(&error, WalError::Io(e) if e.kind() == io::ErrorKind::TimedOut));
    assert!(!error.ends_live_wal());
}

proptest! {
    #[test]
    fn a_chain_runs_backwards_to_its_header_and_to_no_other(
        pages in prop::collection::vec((1u32..50, any::<u8>(), any::<bool>()), 0..12),
        sequence in 0..SEQUENCE_MAX,
        salts: (u32, u32),
        big: bool,
        flip in any::<prop::sample::Index>(),
    ) {
        let order = if big { ChecksumOrder::Big } else { ChecksumOrder::Little };
        let mut header = WalHeader::new(PageSize::MIN, sequence, Salts(salts.0, salts.1));
        header.order = order;
        header.checksum = WalChecksum::default().extended(order, &header.encode()[..24]);
        let mut writer = WalWriter::new(Vec::new(), header).unwrap();
        for (n, fill, commit) in &pages {
            let page = vec![*fill; 512];
            writer.frame(Pgno::new(*n).unwrap(), u32::from(*commit), &page).unwrap();
        }
        let bytes = writer.into_inner();
        let back = |bytes: &[u8], end: WalChecksum| {
            bytes[WAL_HEADER_BYTES..].rchunks(24 + 512).fold(end, |sum, frame| {
                sum.rewound(order, &frame[24..]).rewound(order, &frame[..8])
            })
        };
        let end = match bytes.len() {
            WAL_HEADER_BYTES => header.checksum,
            len => {
                let last: &[u8; 24] = bytes[len - 536..].first_chunk().unwrap();
                FrameHeader::decode(last).unwrap().checksum
            }
        };
        let start = back(&bytes, end);
        prop_assert_eq!(start, header.checksum);
        let found = WalHeader::from_checksum(order, PageSize::MIN, header.salts, start);
        prop_assert_eq!(found, Some(header));
        // Another content of any frame, or other salts, lead to no header.
        prop_assert_eq!(
            WalHeader::from_checksum(order, PageSize::MIN, Salts(salts.0 ^ 1, salts.1), start),
            None
        );
        if !pages.is_empty() {
            let mut bad = bytes.clone();
            let frame = flip.index(pages.len());
            // A difference in all bits of a word: see what is said of the highest ones.
            let word = WAL_HEADER_BYTES + frame * 536 + 24 + flip.index(128) * 4;
            bad[word..word + 4].iter_mut().for_each(|byte| *byte ^= 0x5b);
            let start = back(&bad, end);
            prop_assert_eq!(
                WalHeader::from_checksum(order, PageSize::MIN, header.salts, start),
                None
            );
        }
    }
}
