use anabranch_format::{Pgno, WAL_HEADER_BYTES, WalWriter};
use proptest::prelude::*;

use super::super::frame::{FRAME_BYTES, PAGE_BYTES};
use super::*;

/// A client's WAL with frames of these pages and fillings.
fn wal(frames: &[(u32, u8)], sequence: u32, salts: Salts, order: ChecksumOrder) -> Frames {
    let mut header = WalHeader::new(PAGE_SIZE, sequence, salts);
    header.order = order;
    header.checksum = WalChecksum::default().extended(order, &header.encode()[..24]);
    let mut writer = WalWriter::new(Vec::new(), header).unwrap();
    for (pgno, fill) in frames {
        writer.frame(Pgno::new(*pgno).unwrap(), 1, &[*fill; PAGE_BYTES]).unwrap();
    }
    Frames::new(writer.into_inner()[WAL_HEADER_BYTES..].to_vec().into()).unwrap()
}

fn ours(frames: &Frames) -> (FrameFile, tempfile::TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    let file = FrameFile::new(scratch.path(), 0).unwrap();
    file.write(1, frames.bytes()).unwrap();
    file.publish(u32::try_from(frames.len()).unwrap());
    (file, scratch)
}

fn order() -> impl Strategy<Value = ChecksumOrder> {
    prop_oneof![Just(ChecksumOrder::Little), Just(ChecksumOrder::Big)]
}

/// What happened to the client's WAL, or to ours, before the push.
#[derive(Debug, Clone, Copy)]
enum Tampering {
    Nothing,
    Flip(usize, usize),
    Missing(usize),
    Swapped(usize, usize),
    /// A stock SQLite checkpointed and deleted the WAL: the client's frames begin a new one.
    Reset,
}

fn tampering() -> impl Strategy<Value = Tampering> {
    prop_oneof![
        Just(Tampering::Nothing),
        (any::<usize>(), any::<usize>()).prop_map(|(f, b)| Tampering::Flip(f, b)),
        any::<usize>().prop_map(Tampering::Missing),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Tampering::Swapped(a, b)),
        Just(Tampering::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_wal_that_continues_ours_is_proven_and_no_other(
        shared in prop::collection::vec((1u32..9, any::<u8>()), 1..300),
        own in prop::collection::vec((1u32..9, any::<u8>()), 1..5),
        sequence in 0u32..1 << 24,
        salts: (u32, u32),
        order in order(),
        tampering in tampering(),
        from in any::<prop::sample::Index>(),
    ) {
        let salts = Salts(salts.0, salts.1);
        let mut pulled = shared.clone();
        let mut honest = false;
        match tampering {
            Tampering::Nothing => honest = true,
            Tampering::Flip(frame, bit) => {
                let frame = frame % pulled.len();
                pulled[frame].1 ^= 1 << (bit % 8);
            }
            Tampering::Missing(frame) => { pulled.remove(frame % shared.len()); }
            Tampering::Swapped(a, b) => {
                pulled.swap(a % shared.len(), b % shared.len());
                honest = pulled == shared;
            }
            Tampering::Reset => pulled.clear(),
        }
        let count = pulled.len();
        let client = wal(&[pulled, own.clone()].concat(), sequence, salts, order);
        let pushed = client.part(count, client.len());
        // Ours stand in another WAL, with other salts.
        let (file, _scratch) = ours(&wal(&shared, 0, Salts(1, 2), ChecksumOrder::Little));
        let number = u32::try_from(shared.len()).unwrap() + 1;
        let row = check_row(&pushed).unwrap();
        prop_assert!(row.is_none_or(|found| found == order));
        let proven = prove(row, &pushed.get(0), number, &file).unwrap();
        prop_assert_eq!(proven, honest.then_some(order));
        if honest {
            // From any place before, proven once, it is enough to run on.
            let at = from.index(shared.len());
            let checksum = client.get(at).header.checksum;
            let proof = Proof { order, frame: u32::try_from(at).unwrap() + 1, checksum };
            prop_assert!(continue_from(proof, &pushed.get(0), number, &file).unwrap());
            let wrong = Proof { checksum: WalChecksum(checksum.0 ^ 1, checksum.1), ..proof };
            prop_assert!(!continue_from(wrong, &pushed.get(0), number, &file).unwrap());
        }
    }

    #[test]
    fn frames_that_do_not_follow_one_another_are_no_row(
        frames in prop::collection::vec((1u32..9, any::<u8>()), 2..20),
        order in order(),
        at in any::<prop::sample::Index>(),
    ) {
        let row = wal(&frames, 7, Salts(3, 4), order);
        prop_assert_eq!(check_row(&row), Ok(Some(order)));
        let mut bytes = row.bytes().to_vec();
        let frame = 1 + at.index(frames.len() - 1);
        bytes[frame * FRAME_BYTES + 24 + at.index(PAGE_BYTES)] ^= 1;
        prop_assert_eq!(
            check_row(&Frames::new(bytes.into()).unwrap()),
            Err(Broken::Checksum(frame))
        );
        let mut bytes = row.bytes().to_vec();
        bytes[frame * FRAME_BYTES + 8] ^= 1;
        prop_assert_eq!(
            check_row(&Frames::new(bytes.into()).unwrap()),
            Err(Broken::Salts(frame))
        );
    }
}

#[test]
fn a_wal_that_begins_with_the_push_is_proven_by_its_header() {
    let client = wal(&[(1, 5), (2, 6)], 0, Salts(9, 9), ChecksumOrder::Little);
    let (file, _scratch) = ours(&client.part(0, 0));
    assert!(prove(None, &client.get(0), 1, &file).unwrap().is_some());
    assert!(prove(None, &client.get(1), 1, &file).unwrap().is_none(), "a frame is missing");
}
