//! Codecs of Anabranch: SQLite's WAL, deltas, segments and snapshots.
//!
//! Everything that Anabranch stores or sends can be unpacked with `zstd` and read with stock
//! `sqlite3`. This crate knows the bytes and nothing else: it opens no file, reads no clock, draws
//! no random numbers. Every decoder works on `Read`, in constant memory or within a stated limit,
//! and never panics on input.
//!
//! | item | what it is |
//! |---|---|
//! | [`Lsn`], [`Pgno`], [`PageSize`] | positions, page numbers, page sizes |
//! | [`WalReader`], [`WalWriter`] | SQLite's write-ahead log |
//! | [`Metadata`] | what leads every object of the log |
//! | [`DeltaEncoder`], [`DeltaReader`], [`SegmentEncoder`], [`SegmentReader`], [`Merge`] | changes |
//! | [`SnapshotWriter`], [`SnapshotReader`], [`SeekTable`] | whole databases |
//! | [`PageChecksum`], [`KeyedChecksum`], [`DbChecksum`] | checksums |

mod checksum;
mod compress;
mod delta;
mod frames;
mod lsn;
mod metadata;
mod page;
mod page_set;
mod part;
mod segment;
mod snapshot;
mod wal;

pub use checksum::{DbChecksum, KeyedChecksum, PageChecksum, ParseChecksumError, content_hash};
pub use compress::{ChunkCompressor, ChunkPacker, FRAME_CONTENT_MAX, WINDOW_LOG_MAX};
pub use delta::{
    DeltaEncoder, DeltaError, DeltaReader, EncodedDelta, Merge, PageOrder, PageSource,
    SegmentReader,
};
pub use frames::{FrameInfo, FrameSplitter, FrameUnpacker, PackedFrame, ZSTD_HEADER_BYTES_MAX};
pub use lsn::{Lsn, ParseLsnError};
pub use metadata::{
    DatabaseId, FORMAT_VERSION, Healed, Kind, LineageId, METADATA_BYTES_MAX, Metadata,
    MetadataError, Micros, ParseIdError, PushId, SKIPPABLE_HEADER_BYTES, SKIPPABLE_MAGIC, WriterId,
};
pub use page::{
    DB_HEADER_BYTES, InvalidPageSize, LOCAL_FIELDS, PageOne, PageOneError, PageSize, Pgno,
    SQLITE_MAGIC, canonicalise_page_one,
};
pub use page_set::PageSet;
pub use part::{PART_BYTES_MAX, PartHeader, SectionWriter, read_section, skip_section};
pub use segment::{EncodedSegment, SegmentEncoder, SegmentError, Transaction, TransactionError};
pub use snapshot::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNKS_MAX, ChunkUnpacker, Layout, SeekTable, SnapshotError,
    SnapshotReader, SnapshotWriter, chunk_bytes, decode_chunk,
};
pub use wal::{
    ChecksumOrder, FRAME_HEADER_BYTES, FrameHeader, SEQUENCE_MAX, Salts, WAL_HEADER_BYTES,
    WalChecksum, WalError, WalHeader, WalReader, WalWriter, frame_bytes,
};
