//! Snapshots: the whole database at a position, in independently compressed chunks.
//!
//! The zstd *seekable format* (a seek table in a skippable frame at the end, see
//! `contrib/seekable_format` of the zstd project): `zstd -d` gives the database file, and single
//! pages can be read by range request. The first entry of the table is the metadata frame, with no
//! content, so that offsets are those of the object.
//!
//! The lock page is zeros in a snapshot, as in a database file that nobody locks.

use std::io::{self, BufRead, Read, Write};
use std::ops::Range;

use zstd::bulk::Decompressor;

use crate::compress::{Unpacker, is_damage};
use crate::delta::{DeltaError, PageSource};
use crate::metadata::{Metadata, MetadataError};
use crate::page::{PageSize, Pgno};

/// Smallest chunk, uncompressed: small enough to fetch one page, large enough to compress well.
pub const CHUNK_BYTES_MIN: u32 = 256 * 1024;

/// A snapshot has at most this many chunks; larger databases get larger chunks, so that the seek
/// table stays close to 2 MiB.
pub const CHUNKS_MAX: u64 = 1 << 18;

/// Largest chunk, uncompressed: who reads a single page holds this much of what the object claims.
/// With [`CHUNKS_MAX`] it limits snapshots to databases of 16 TiB.
pub const CHUNK_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Magic of the seek table's footer.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Magic of the skippable frame that holds the seek table.
const SEEK_TABLE_MAGIC: u32 = 0x184D_2A5E;
const FOOTER_BYTES: usize = 9;
const ENTRY_BYTES: usize = 8;
const LEVEL: i32 = 3;

/// Chunks up to this length, that of databases up to a terabyte, are unpacked in one go, into memory
/// that is allocated before anything of them was seen.
const AT_ONCE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a snapshot cannot be used or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The source or sink failed, the compression is damaged, or it unpacks to more than stated.
    #[error("reading or writing the snapshot failed")]
    Io(#[from] io::Error),
    /// The metadata is damaged.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The database is larger than a snapshot can hold.
    #[error(
        "a database of {bytes} bytes in chunks of {chunk}: a snapshot has at most {CHUNKS_MAX} \
         chunks of at most {CHUNK_BYTES_MAX} bytes"
    )]
    TooLarge {
        /// Uncompressed length of the database.
        bytes: u64,
        /// Bytes of a chunk.
        chunk: u32,
    },
    /// The seek table contradicts the metadata, or is no seek table.
    #[error("the seek table is damaged: {0}")]
    SeekTable(&'static str),
    /// A chunk unpacks to another length than its place demands.
    #[error("chunk {chunk} unpacks to {found} bytes instead of {expected}")]
    ChunkLength {
        /// Number of the chunk, from 0.
        chunk: u64,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The snapshot ends too early.
    #[error("the snapshot ends before page {0}")]
    Truncated(u32),
}

impl SnapshotError {
    /// Whether the bytes are wrong, so that reading them again cannot help; otherwise the source or
    /// sink failed.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            SnapshotError::Io(e) | SnapshotError::Metadata(MetadataError::Io(e)) => is_damage(e),
            SnapshotError::TooLarge { .. } => false,
            _ => true,
        }
    }
}

/// The chunk size for a database of `db_size` pages: a power of two of at least one page, and more
/// than [`CHUNK_BYTES_MAX`] if the database is too large for a snapshot.
#[must_use]
pub fn chunk_bytes(page_size: PageSize, db_size: u32) -> u32 {
    let bytes = u64::from(page_size.get()) * u64::from(db_size);
    let mut chunk = CHUNK_BYTES_MIN;
    while bytes.div_ceil(u64::from(chunk)) > CHUNKS_MAX {
        chunk *= 2;
    }
    chunk
}

/// Where the chunks of a snapshot lie, from its metadata alone.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    page_size: PageSize,
    chunk_bytes: u32,
    db_size: u32,
    /// As the page size has it; a field so that a test can reach it without a gigabyte.
    lock_page: Pgno,
}

impl Layout {
    /// The layout of the snapshot that `metadata` describes.
    pub fn of(metadata: &Metadata) -> Result<Self, SnapshotError> {
        let chunk_bytes = metadata.chunk.ok_or(SnapshotError::SeekTable("no chunk size"))?;
        let page_size = metadata.page_size;
        if !chunk_bytes.is_power_of_two() || chunk_bytes < page_size.get() {
            return Err(SnapshotError::SeekTable(
                "the chunk size is no power of two of one page up",
            ));
        }
        let layout = Layout {
            page_size,
            chunk_bytes,
            db_size: metadata.pages.1,
            lock_page: page_size.lock_page(),
        };
        if layout.chunks() > CHUNKS_MAX || chunk_bytes > CHUNK_BYTES_MAX {
            let bytes = layout.total_bytes();
            return Err(SnapshotError::TooLarge { bytes, chunk: chunk_bytes });
        }
        Ok(layout)
    }

    /// Uncompressed length of the database.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        u64::from(self.page_size.get()) * u64::from(self.db_size)
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.total_bytes().div_ceil(u64::from(self.chunk_bytes))
    }

    /// Uncompressed length of chunk `chunk` (from 0): shorter only at the end.
    #[must_use]
    pub fn chunk_len(&self, chunk: u64) -> usize {
        let start = chunk.saturating_mul(u64::from(self.chunk_bytes));
        let len = self.total_bytes().saturating_sub(start).min(u64::from(self.chunk_bytes));
        usize::try_from(len).expect("a chunk fits into memory")
    }

    /// The chunk that holds `pgno` and the page's place in it; `None` above the end.
    #[must_use]
    pub fn locate(&self, pgno: Pgno) -> Option<(u64, Range<usize>)> {
        if pgno.get() > self.db_size {
            return None;
        }
        let at = u64::from(pgno.get() - 1) * u64::from(self.page_size.get());
        let within = usize::try_from(at % u64::from(self.chunk_bytes)).ok()?;
        Some((at / u64::from(self.chunk_bytes), within..within + self.page_size.bytes()))
    }

    /// Length of the seek table at the end of the object.
    #[must_use]
    pub fn seek_table_bytes(&self) -> u64 {
        // One entry more than chunks: the metadata frame.
        8 + (self.chunks() + 1) * ENTRY_BYTES as u64 + FOOTER_BYTES as u64
    }
}

/// Where each chunk lies in the object.
#[derive(Debug, Clone)]
pub struct SeekTable {
    /// Offsets of the chunks and, last, of the end of the last one.
    offsets: Vec<u64>,
}

impl SeekTable {
    /// Reads the table from `tail`, the last [`Layout::seek_table_bytes`] bytes of an object of
    /// `object_bytes`.
    pub fn decode(layout: &Layout, tail: &[u8], object_bytes: u64) -> Result<Self, SnapshotError> {
        let bad = SnapshotError::SeekTable;
        let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        if tail.len() as u64 != layout.seek_table_bytes() {
            return Err(bad("its length does not fit the database size"));
        }
        let entries_end = tail.len() - FOOTER_BYTES;
        let footer = &tail[entries_end..];
        if number(tail) != SEEK_TABLE_MAGIC || number(&footer[5..]) != SEEKABLE_MAGIC {
            return Err(bad("no magic"));
        }
        if u64::from(number(&tail[4..])) != tail.len() as u64 - 8 {
            return Err(bad("its own length is wrong"));
        }
        if footer[4] != 0 || u64::from(number(footer)) != layout.chunks() + 1 {
            return Err(bad("another number of chunks than the database size demands"));
        }
        let mut offset = 0u64;
        let mut offsets = Vec::with_capacity(tail.len() / ENTRY_BYTES);
        for (index, entry) in tail[8..entries_end].chunks_exact(ENTRY_BYTES).enumerate() {
            offset += u64::from(number(entry));
            offsets.push(offset);
            let expected = match index {
                0 => 0,
                n => layout.chunk_len(n as u64 - 1),
            };
            if number(&entry[4..]) as usize != expected {
                return Err(bad("a chunk of unexpected length"));
            }
        }
        if offset.checked_add(tail.len() as u64) != Some(object_bytes) {
            return Err(bad("the chunks do not add up to the object"));
        }
        Ok(SeekTable { offsets })
    }

    /// The bytes of chunk `chunk` (from 0) in the object; `None` if there is no such chunk.
    #[must_use]
    pub fn chunk_range(&self, chunk: u64) -> Option<Range<u64>> {
        let index = usize::try_from(chunk).ok()?;
        Some(*self.offsets.get(index)?..*self.offsets.get(index.checked_add(1)?)?)
    }
}

/// Unpacks chunks of one snapshot, one after another, into memory that is written to again.
pub struct ChunkUnpacker {
    layout: Layout,
    decoder: Decompressor<'static>,
}

impl std::fmt::Debug for ChunkUnpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkUnpacker").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl ChunkUnpacker {
    /// Prepares a decoder.
    pub fn new(layout: Layout) -> io::Result<Self> {
        Ok(ChunkUnpacker { layout, decoder: Decompressor::new()? })
    }

    /// Puts the content of the chunk `chunk` into `out`, in place of what was there; its length must be
    /// what the layout demands. After an error `out` means nothing.
    pub fn unpack(
        &mut self,
        chunk: u64,
        packed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SnapshotError> {
        let expected = self.layout.chunk_len(chunk);
        if expected > AT_ONCE_BYTES_MAX {
            *out = decode_chunk(&self.layout, chunk, packed)?;
            return Ok(());
        }
        out.clear();
        out.reserve_exact(expected);
        self.decoder
            .decompress_to_buffer(packed, out)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        // A vector may have room for more than was asked for.
        match out.len() {
            found if found == expected => Ok(()),
            found => Err(SnapshotError::ChunkLength { chunk, found, expected }),
        }
    }
}

/// Unpacks one chunk; its length must be what the layout demands.
pub fn decode_chunk(
    layout: &Layout,
    chunk: u64,
    compressed: &[u8],
) -> Result<Vec<u8>, SnapshotError> {
    let expected = layout.chunk_len(chunk);
    // Grows with what is really there: a short object must not claim a large buffer.
    let mut unpacked = Vec::with_capacity(expected.min(CHUNK_BYTES_MIN as usize));
    Unpacker::new(compressed, expected as u64)?.read_to_end(&mut unpacked)?;
    if unpacked.len() != expected {
        return Err(SnapshotError::ChunkLength { chunk, found: unpacked.len(), expected });
    }
    Ok(unpacked)
}

/// Writes a snapshot page by page in constant memory (one chunk).
pub struct SnapshotWriter<W: Write> {
    sink: W,
    layout: Layout,
    /// Compressed and uncompressed length of each frame so far.
    entries: Vec<(u32, u32)>,
    chunk: Vec<u8>,
    next: u32,
    compressor: zstd::bulk::Compressor<'static>,
}

impl<W: Write> SnapshotWriter<W> {
    /// Starts the snapshot that `metadata` describes, and writes that; its `chunk` must be
    /// [`chunk_bytes`].
    pub fn new(mut sink: W, metadata: &Metadata) -> Result<Self, SnapshotError> {
        let layout = Layout::of(metadata)?;
        let head = metadata.encode()?;
        sink.write_all(&head)?;
        let head_len = u32::try_from(head.len()).expect("metadata is at most 64 KiB");
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        Ok(SnapshotWriter {
            sink,
            layout,
            entries: vec![(head_len, 0)],
            chunk: Vec::with_capacity(layout.chunk_len(0)),
            next: 1,
            compressor,
        })
    }

    /// Adds the next page; pages come in order from 1, the lock page left out.
    ///
    /// # Panics
    /// If they do not, or one is above the size in the metadata, or not one page long.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), SnapshotError> {
        assert_eq!(page.len(), self.layout.page_size.bytes(), "a page is added");
        self.fill_lock_page()?;
        assert_eq!(pgno.get(), self.next, "every page of a snapshot, in order");
        self.push(page)
    }

    fn fill_lock_page(&mut self) -> Result<(), SnapshotError> {
        if self.next == self.layout.lock_page.get() && self.next <= self.layout.db_size {
            let zeros = vec![0; self.layout.page_size.bytes()];
            self.push(&zeros)?;
        }
        Ok(())
    }

    fn push(&mut self, page: &[u8]) -> Result<(), SnapshotError> {
        assert!(self.next <= self.layout.db_size, "no page above the stated size");
        self.chunk.extend_from_slice(page);
        self.next += 1;
        if self.chunk.len() == self.layout.chunk_bytes as usize {
            self.end_chunk()?;
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), SnapshotError> {
        let compressed = self.compressor.compress(&self.chunk)?;
        self.sink.write_all(&compressed)?;
        let len = |n: usize| u32::try_from(n).expect("a chunk is at most 64 MiB");
        self.entries.push((len(compressed.len()), len(self.chunk.len())));
        self.chunk.clear();
        Ok(())
    }

    /// Writes the rest and the seek table, and gives back the sink.
    pub fn finish(mut self) -> Result<W, SnapshotError> {
        self.fill_lock_page()?;
        if self.next <= self.layout.db_size {
            return Err(SnapshotError::Truncated(self.next));
        }
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        let frames = u32::try_from(self.entries.len()).expect("at most 2^18 chunks");
        let body = self.entries.len() * ENTRY_BYTES + FOOTER_BYTES;
        let body_len = u32::try_from(body).expect("at most 2 MiB");
        let mut table = Vec::with_capacity(8 + body);
        table.extend_from_slice(&SEEK_TABLE_MAGIC.to_le_bytes());
        table.extend_from_slice(&body_len.to_le_bytes());
        for (compressed, plain) in &self.entries {
            table.extend_from_slice(&compressed.to_le_bytes());
            table.extend_from_slice(&plain.to_le_bytes());
        }
        table.extend_from_slice(&frames.to_le_bytes());
        table.push(0);
        table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
        self.sink.write_all(&table)?;
        Ok(self.sink)
    }
}

/// Reads a snapshot from its first page to its last, in constant memory.
pub struct SnapshotReader<R: BufRead> {
    pages: Unpacker<R>,
    layout: Layout,
    next: u32,
}

impl<R: BufRead> SnapshotReader<R> {
    /// Reads the body that `metadata` describes; `body` stands at the first byte after it.
    pub fn new(body: R, metadata: &Metadata) -> Result<Self, SnapshotError> {
        let layout = Layout::of(metadata)?;
        let pages = Unpacker::new(body, layout.total_bytes())?;
        Ok(SnapshotReader { pages, layout, next: 1 })
    }

    /// As [`SnapshotReader::new`], of a body that somebody else unpacks.
    pub fn unpacked(database: R, metadata: &Metadata) -> Result<Self, SnapshotError> {
        let layout = Layout::of(metadata)?;
        let pages = Unpacker::plain(database, layout.total_bytes());
        Ok(SnapshotReader { pages, layout, next: 1 })
    }
}

impl<R: BufRead> PageSource for SnapshotReader<R> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        assert_eq!(page.len(), self.layout.page_size.bytes(), "the buffer takes one page");
        loop {
            let Some(pgno) = Pgno::new(self.next).filter(|p| p.get() <= self.layout.db_size) else {
                // Reading on checks the end of the compression, and `Unpacker` refuses whatever
                // unpacks after the last page.
                io::copy(&mut self.pages, &mut io::sink())?;
                return Ok(None);
            };
            self.pages.read_exact(page)?;
            self.next = self.next.checked_add(1).unwrap_or(0);
            if pgno != self.layout.lock_page {
                return Ok(Some(pgno));
            }
        }
    }
}

#[cfg(test)]
mod tests;
