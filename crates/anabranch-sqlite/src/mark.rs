//! A mark: the place in the `-wal` up to which a read transaction sees.
//!
//! It is the WAL-index header of the transaction itself, never "the end of the file": what follows
//! the last commit in the file may be the rest of a transaction that was rolled back, or of an
//! earlier run of the file, and is overwritten in place by the next writer without a trace. A frame
//! that a read transaction has seen committed is never overwritten before the file is restarted, and
//! a restart changes the salts.

use anabranch_format::{PageSize, Salts, WalChecksum};
use serde::{Deserialize, Serialize};

use crate::ffi::SNAPSHOT_BYTES;

/// Version number that SQLite writes into the WAL-index header since 2010.
const WAL_INDEX_VERSION: u32 = 3_007_000;

/// A place in a `-wal`: the salts of its run, the number of frames, the checksum of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The salts of the run.
    #[serde(with = "pair")]
    pub(crate) salts: Salts,
    /// Number of the last frame; 0 at the very start of a run.
    pub(crate) frame: u32,
    /// Checksum in the header of that frame; of no meaning at the start.
    #[serde(with = "pair")]
    pub(crate) checksum: WalChecksum,
}

impl Mark {
    /// Number of the last frame up to the mark.
    #[must_use]
    pub fn frame(&self) -> u32 {
        self.frame
    }

    /// Whether both lie in the same run of the `-wal`.
    #[must_use]
    pub fn same_run(&self, other: &Mark) -> bool {
        self.salts == other.salts
    }

    /// The place before the first frame of the same run.
    pub(crate) fn start_of_run(&self) -> Mark {
        Mark { salts: self.salts, frame: 0, checksum: WalChecksum::default() }
    }
}

/// Two words as an array.
mod pair {
    use anabranch_format::{Salts, WalChecksum};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) trait Pair: Copy {
        fn words(self) -> [u32; 2];
        fn from_words(words: [u32; 2]) -> Self;
    }

    impl Pair for Salts {
        fn words(self) -> [u32; 2] {
            [self.0, self.1]
        }
        fn from_words([a, b]: [u32; 2]) -> Self {
            Salts(a, b)
        }
    }

    impl Pair for WalChecksum {
        fn words(self) -> [u32; 2] {
            [self.0, self.1]
        }
        fn from_words([a, b]: [u32; 2]) -> Self {
            WalChecksum(a, b)
        }
    }

    pub(super) fn serialize<P: Pair, S: Serializer>(pair: &P, s: S) -> Result<S::Ok, S::Error> {
        pair.words().serialize(s)
    }

    pub(super) fn deserialize<'de, P: Pair, D: Deserializer<'de>>(d: D) -> Result<P, D::Error> {
        <[u32; 2]>::deserialize(d).map(P::from_words)
    }
}

/// What a read transaction's WAL-index header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) mark: Mark,
    /// Size of the database in pages according to the last commit frame.
    pub(crate) db_size: u32,
}

impl Snapshot {
    /// Reads the 48 bytes that SQLite calls opaque; `None` if they are not laid out as known.
    ///
    /// The layout (`WalIndexHdr` in SQLite's wal.c) has been the same since 2010 but is no promise:
    /// so version, page size and the header's own checksum are verified each time, and whoever uses
    /// the mark also verifies it against the `-wal` itself. Any doubt costs a full scan, no more.
    pub(crate) fn decode(bytes: &[u8; SNAPSHOT_BYTES], page_size: PageSize) -> Option<Self> {
        let raw = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let native = |at: usize| u32::from_ne_bytes(raw(at));
        let size = u32::from(u16::from_ne_bytes([bytes[14], bytes[15]]));
        // As in the file header, the stored 1 means 65536.
        let size = (size & 0xfe00) | ((size & 1) << 16);
        let own = WalChecksum::default().extended(native_order(), &bytes[..40]);
        let valid = native(0) == WAL_INDEX_VERSION
            && bytes[12] != 0
            && size == page_size.get()
            && own == WalChecksum(native(40), native(44));
        valid.then(|| Snapshot {
            mark: Mark {
                // The salts are kept as they stand in the file, the rest as native numbers.
                salts: Salts(u32::from_be_bytes(raw(32)), u32::from_be_bytes(raw(36))),
                frame: native(16),
                checksum: WalChecksum(native(24), native(28)),
            },
            db_size: native(20),
        })
    }
}

/// The header of an earlier state of the same run, made of `now`, that of a later one: it ends at
/// `mark`, with a database of `db_size` pages. `None` if that cannot be.
pub(crate) fn earlier_header(
    now: &[u8; SNAPSHOT_BYTES],
    page_size: PageSize,
    mark: &Mark,
    db_size: u32,
) -> Option<[u8; SNAPSHOT_BYTES]> {
    let decoded = Snapshot::decode(now, page_size)?;
    if !mark.same_run(&decoded.mark) || mark.frame == 0 || mark.frame > decoded.mark.frame {
        return None;
    }
    let mut header = *now;
    let mut put = |at: usize, value: u32| header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(16, mark.frame);
    put(20, db_size);
    put(24, mark.checksum.0);
    put(28, mark.checksum.1);
    let own = WalChecksum::default().extended(native_order(), &header[..40]);
    header[40..44].copy_from_slice(&own.0.to_ne_bytes());
    header[44..48].copy_from_slice(&own.1.to_ne_bytes());
    Some(header)
}

/// The order in which the header's own checksum takes its words.
fn native_order() -> anabranch_format::ChecksumOrder {
    if cfg!(target_endian = "big") {
        anabranch_format::ChecksumOrder::Big
    } else {
        anabranch_format::ChecksumOrder::Little
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use anabranch_format::WalReader;
    use rusqlite::Connection;

    use super::*;

    /// A database with three commits in its WAL, and the snapshot of a transaction that sees them.
    fn known(page_size: u32) -> (tempfile::TempDir, Connection, [u8; SNAPSHOT_BYTES]) {
        let dir = tempfile::tempdir().unwrap();
        let conn = Connection::open(dir.path().join("k.db")).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; CREATE TABLE t(a);
             INSERT INTO t VALUES (1); INSERT INTO t VALUES (zeroblob(9000)); BEGIN;"
        ))
        .unwrap();
        conn.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        let bytes = crate::ffi::snapshot(&conn).unwrap().unwrap();
        (dir, conn, bytes)
    }

    #[test]
    fn a_snapshot_says_what_the_wal_file_says() {
        for bytes in [512, 4096, 65536] {
            let (dir, _conn, snapshot) = known(bytes);
            let page_size = PageSize::new(bytes).unwrap();
            let found = Snapshot::decode(&snapshot, page_size).unwrap();
            let mut wal = WalReader::new(File::open(dir.path().join("k.db-wal")).unwrap()).unwrap();
            let mut page = vec![0; page_size.bytes()];
            let mut last = None;
            while let Some(frame) = wal.next_frame(&mut page).unwrap() {
                last = Some(frame);
            }
            let last = last.unwrap();
            assert_eq!(found.mark.salts, wal.header().salts);
            assert_eq!(u64::from(found.mark.frame), wal.frames());
            assert_eq!(found.mark.checksum, last.checksum);
            assert_eq!(found.db_size, last.commit_size);
        }
    }

    #[test]
    fn bytes_laid_out_otherwise_are_no_snapshot() {
        let (_dir, _conn, bytes) = known(4096);
        assert!(Snapshot::decode(&bytes, PageSize::DEFAULT).is_some());
        assert!(Snapshot::decode(&bytes, PageSize::MIN).is_none());
        for bit in 0..SNAPSHOT_BYTES * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(Snapshot::decode(&other, PageSize::DEFAULT).is_none(), "bit {bit}");
        }
    }
}
