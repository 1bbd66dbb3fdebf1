//! A WAL: the bytes as they are, and with the checksums put right.
#![no_main]

use anabranch_format::{
    ChecksumOrder, FRAME_HEADER_BYTES, WAL_HEADER_BYTES, WalChecksum, WalHeader, WalReader,
};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) -> u64 {
    let Ok(mut wal) = WalReader::new(bytes) else { return 0 };
    let mut page = vec![0; wal.header().page_size.bytes()];
    while let Ok(Some(frame)) = wal.next_frame(&mut page) {
        assert_eq!(frame.salts, wal.header().salts);
        assert_eq!(frame.checksum, wal.checksum());
    }
    let used = WAL_HEADER_BYTES as u64 + wal.frames() * wal.header().frame_bytes();
    assert!(used <= bytes.len() as u64, "no frame is made up");
    wal.frames()
}

/// Puts right what a checksum covers, and the salts.
fn repair(bytes: &mut [u8]) -> Option<()> {
    let order = if bytes.get(3)? & 1 == 1 { ChecksumOrder::Big } else { ChecksumOrder::Little };
    let put = |at: usize, sum: WalChecksum, bytes: &mut [u8]| {
        bytes[at..at + 4].copy_from_slice(&sum.0.to_be_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&sum.1.to_be_bytes());
    };
    let mut sum = WalChecksum::default().extended(order, bytes.get(..24)?);
    bytes.get(..WAL_HEADER_BYTES)?;
    put(24, sum, bytes);
    let header = WalHeader::decode(bytes.first_chunk()?).ok()?;
    let step = FRAME_HEADER_BYTES + header.page_size.bytes();
    let salts: [u8; 8] = bytes[16..24].try_into().ok()?;
    for frame in bytes[WAL_HEADER_BYTES..].chunks_exact_mut(step) {
        frame[8..16].copy_from_slice(&salts);
        sum = sum.extended(order, &frame[..8]).extended(order, &frame[FRAME_HEADER_BYTES..]);
        put(16, sum, frame);
    }
    Some(())
}

fuzz_target!(|data: &[u8]| {
    read(data);
    let mut repaired = data.to_vec();
    if repair(&mut repaired).is_some() {
        read(&repaired);
    }
});
