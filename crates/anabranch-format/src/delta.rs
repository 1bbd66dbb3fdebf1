//! Deltas and segments: a WAL in zstd behind its metadata.
//!
//! A *segment* is what one append put into the log: a WAL of whole transactions. A *delta* is a WAL
//! of one transaction with pages ascending: what a push sends, what a pull fetches, and what
//! compaction leaves. Our own pushes are both at once; segments of other origin may hold several
//! transactions in SQLite's order, and say so in their metadata.
//!
//! What [`DeltaReader`] guarantees of what it lets through, and [`DeltaEncoder`] of what it writes
//! once it knows the size before ([`DeltaEncoder::growing_from`]):
//! 1. page numbers ascend, and none is the lock page or above the size after;
//! 2. a delta that grows the database carries every page of the growth, lock page aside, so that
//!    no old content of a database that was once larger can come back;
//! 3. the only commit frame is the last, and it states the size that the metadata states;
//! 4. the stream ends there.

use std::io::{self, BufRead, Write};

use crate::compress::{ChunkPacker, Compressor, Unpacker, is_damage};
use crate::lsn::Lsn;
use crate::metadata::Metadata;
use crate::page::{PageSize, Pgno};
use crate::wal::{
    FrameHeader, Salts, WAL_HEADER_BYTES, WalError, WalHeader, WalReader, WalWriter, frame_bytes,
};

/// Why a delta or segment cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The source failed, its compression is damaged, or it unpacks to more than it states.
    #[error("unpacking failed")]
    Io(#[from] io::Error),
    /// The WAL inside is damaged.
    #[error("the WAL inside is damaged")]
    Wal(#[source] WalError),
    /// Page size other than the metadata's.
    #[error("pages of {found} bytes, but the metadata states {stated}")]
    PageSize {
        /// As in the WAL header.
        found: PageSize,
        /// As in the metadata.
        stated: PageSize,
    },
    /// The number of frames differs from the metadata's.
    #[error("{found} frames, but the metadata states {stated}")]
    FrameCount {
        /// Frames that were there.
        found: u64,
        /// As in the metadata.
        stated: u64,
    },
    /// The number of transactions differs from the metadata's.
    #[error("{found} transactions, but the metadata states {stated}")]
    TransactionCount {
        /// Transactions that were there.
        found: u64,
        /// As in the metadata.
        stated: u64,
    },
    /// The last frame does not end a transaction, or a frame before it does.
    #[error("frame {frame}: a commit where none belongs, or none where one does")]
    Commit {
        /// Number of the frame, from 1.
        frame: u64,
    },
    /// The last commit frame states another size than the metadata.
    #[error("a size of {found} pages after the commit, but the metadata states {stated}")]
    SizeAfter {
        /// As in the commit frame.
        found: u32,
        /// As in the metadata.
        stated: u32,
    },
    /// Page numbers do not ascend.
    #[error("page {page} follows page {previous}")]
    Order {
        /// The page that is out of order.
        page: Pgno,
        /// The page before it.
        previous: Pgno,
    },
    /// A page that no delta may carry: the lock page, or one above the size after.
    #[error("page {page} does not belong in a database of {size} pages")]
    Page {
        /// The page.
        page: Pgno,
        /// Size after, in pages.
        size: u32,
    },
    /// The database grows, but a page of the growth is missing.
    #[error("the database grows, but page {page} of the growth is missing")]
    Growth {
        /// The first missing page.
        page: Pgno,
    },
}

impl DeltaError {
    /// Whether the bytes are wrong, so that reading them again cannot help; otherwise the source
    /// failed.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            DeltaError::Io(e) => is_damage(e),
            _ => true,
        }
    }
}

impl From<WalError> for DeltaError {
    fn from(e: WalError) -> Self {
        match e {
            WalError::Io(e) => DeltaError::Io(e),
            e => DeltaError::Wal(e),
        }
    }
}

/// Pages of one state change, ascending.
pub trait PageSource {
    /// Puts the next page into `page` and answers its number; `None` after the last.
    ///
    /// # Panics
    /// May panic if `page` is not one page long.
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError>;
}

impl<S: PageSource + ?Sized> PageSource for Box<S> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        (**self).next_page(page)
    }
}

/// Checks the order and completeness of the pages of a delta as they pass; see the module's
/// guarantees 1 and 2.
#[derive(Debug, Clone)]
pub struct PageOrder {
    lock_page: Pgno,
    size_after: u32,
    previous: Option<Pgno>,
    /// The next page of the growth that must come; above `size_after` when none is left. Wider than
    /// a page number, so that it can stand above the last one.
    growth_next: u64,
}

impl PageOrder {
    /// For a delta from a database of `size_before` pages to one of `size_after`.
    #[must_use]
    pub fn new(page_size: PageSize, size_before: u32, size_after: u32) -> Self {
        let mut order = PageOrder {
            lock_page: page_size.lock_page(),
            size_after,
            previous: None,
            growth_next: u64::from(size_before) + 1,
        };
        order.skip_lock_page();
        order
    }

    fn skip_lock_page(&mut self) {
        if self.growth_next == u64::from(self.lock_page.get()) {
            self.growth_next += 1;
        }
    }

    /// The next page is `page`.
    pub fn next(&mut self, page: Pgno) -> Result<(), DeltaError> {
        if let Some(previous) = self.previous
            && page <= previous
        {
            return Err(DeltaError::Order { page, previous });
        }
        if page == self.lock_page || page.get() > self.size_after {
            return Err(DeltaError::Page { page, size: self.size_after });
        }
        let number = u64::from(page.get());
        if number > self.growth_next {
            return Err(self.missing());
        }
        if number == self.growth_next {
            self.growth_next += 1;
            self.skip_lock_page();
        }
        self.previous = Some(page);
        Ok(())
    }

    /// No page follows.
    pub fn end(&self) -> Result<(), DeltaError> {
        if self.growth_next <= u64::from(self.size_after) {
            return Err(self.missing());
        }
        Ok(())
    }

    /// The error that `growth_next`, which is at most `size_after` here, did not come.
    fn missing(&self) -> DeltaError {
        let page = u32::try_from(self.growth_next).ok().and_then(Pgno::new);
        DeltaError::Growth { page: page.expect("a page of the growth has a number from 1") }
    }
}

/// Writes the body of a delta: a WAL of one transaction, in zstd. The metadata, which needs the
/// outcome, is written before it by the caller.
pub struct DeltaEncoder<W: Write> {
    wal: WalWriter<Compressor<W>>,
    page_size: PageSize,
    /// The newest page is held back: the last one becomes the commit frame.
    held: Option<Pgno>,
    held_page: Vec<u8>,
    /// Where the run of pages began that leads to the held one without a gap (lock page aside).
    run_from: u32,
    /// The size before, where the caller stated it.
    size_before: Option<u32>,
}

/// A finished body.
#[derive(Debug)]
pub struct EncodedDelta<W> {
    /// Where it was written.
    pub sink: W,
    /// Number of frames: how far the log moves on.
    pub frames: u64,
}

impl<W: Write> DeltaEncoder<W> {
    /// Starts a delta whose first frame will be `first_lsn`.
    pub fn new(sink: W, page_size: PageSize, first_lsn: Lsn) -> io::Result<Self> {
        // Salts tell runs of one WAL file apart; here each file has one run, and constant ones
        // compress better.
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let salts = Salts(first_lsn.get() as u32, 0);
        let header = WalHeader::new(page_size, 0, salts);
        Ok(DeltaEncoder {
            wal: WalWriter::new(Compressor::new(sink), header)?,
            page_size,
            held: None,
            held_page: vec![0; page_size.bytes()],
            run_from: 0,
            size_before: None,
        })
    }

    /// States the size before, so that [`DeltaEncoder::finish`] can see that the growth is complete:
    /// no reader would take a delta in which a page of it is missing, and no reader could pass it.
    #[must_use]
    pub fn growing_from(mut self, size_before: u32) -> Self {
        self.size_before = Some(size_before);
        self
    }

    /// Has `packer` compress a long body while the pages come.
    #[must_use]
    pub fn packed_by(mut self, packer: Box<dyn ChunkPacker + Send>) -> Self {
        self.wal.sink_mut().pack_with(packer);
        self
    }

    /// The number after `pgno` that can be in a delta.
    fn after(&self, pgno: u32) -> u32 {
        let next = pgno.saturating_add(1);
        if next == self.page_size.lock_page().get() { next + 1 } else { next }
    }

    /// Adds a page; page numbers must ascend and never be the lock page.
    ///
    /// # Panics
    /// If they do not, or `page` is not one page long: the caller's bug would corrupt every replica.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        assert!(pgno != self.page_size.lock_page(), "the lock page is never sent");
        if let Some(held) = self.held {
            assert!(held < pgno, "pages of a delta ascend: {pgno} after {held}");
            self.wal.frame(held, 0, &self.held_page)?;
        }
        if self.held.is_none_or(|held| self.after(held.get()) != pgno.get()) {
            self.run_from = pgno.get();
        }
        self.held_page.copy_from_slice(page);
        self.held = Some(pgno);
        Ok(())
    }

    /// Whether no page was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    /// Ends the transaction with the database at `size_after` pages.
    ///
    /// # Panics
    /// If no page was added, or the last lies above `size_after`, or a page is missing of the growth
    /// from the size given to [`DeltaEncoder::growing_from`]: the caller's bug would stop every
    /// replica.
    pub fn finish(mut self, size_after: u32) -> io::Result<EncodedDelta<W>> {
        let last = self.held.expect("a delta has at least one page");
        assert!(last.get() <= size_after, "page {last} lies above the end");
        if let Some(first) = self.size_before.map(|size| self.after(size))
            && first <= size_after
        {
            let complete = self.run_from <= first && self.after(last.get()) > size_after;
            assert!(complete, "a page of the growth from {first} to {size_after} is missing");
        }
        self.wal.frame(last, size_after, &self.held_page)?;
        let frames = self.wal.frames();
        Ok(EncodedDelta { sink: self.wal.into_inner().finish()?, frames })
    }
}

/// Reads the frames of a segment: one or more whole transactions, as many as its metadata states.
pub struct SegmentReader<R: BufRead> {
    wal: WalReader<Unpacker<R>>,
    frames: u64,
    transactions: u64,
    size_after: u32,
    transactions_read: u64,
}

impl<R: BufRead> SegmentReader<R> {
    /// Reads the body of the segment or delta that `metadata` describes; `body` stands at its first
    /// byte. Unpacks no more than the metadata states, in constant memory.
    pub fn new(body: R, metadata: &Metadata) -> Result<Self, DeltaError> {
        let body = Unpacker::new(body, wal_bytes(metadata)?)?;
        Self::with(WalReader::new(body)?, metadata)
    }

    fn with(wal: WalReader<Unpacker<R>>, metadata: &Metadata) -> Result<Self, DeltaError> {
        let found = wal.header().page_size;
        if found != metadata.page_size {
            return Err(DeltaError::PageSize { found, stated: metadata.page_size });
        }
        Ok(SegmentReader {
            wal,
            frames: metadata.frame_count(),
            transactions: metadata.transactions.unwrap_or(1),
            size_after: metadata.pages.1,
            transactions_read: 0,
        })
    }

    /// Reads the next frame; `None` after the last, once everything is as the metadata states.
    pub fn next_frame(&mut self, page: &mut [u8]) -> Result<Option<FrameHeader>, DeltaError> {
        let frame = self.wal.next_frame(page)?;
        let read = self.wal.frames();
        let Some(frame) = frame else {
            if read != self.frames {
                return Err(DeltaError::FrameCount { found: read, stated: self.frames });
            }
            if self.transactions_read != self.transactions {
                return Err(DeltaError::TransactionCount {
                    found: self.transactions_read,
                    stated: self.transactions,
                });
            }
            return Ok(None);
        };
        self.transactions_read += u64::from(frame.is_commit());
        if read == self.frames {
            if !frame.is_commit() {
                return Err(DeltaError::Commit { frame: read });
            }
            if frame.commit_size != self.size_after {
                return Err(DeltaError::SizeAfter {
                    found: frame.commit_size,
                    stated: self.size_after,
                });
            }
        } else if frame.is_commit() && self.transactions == 1 {
            return Err(DeltaError::Commit { frame: read });
        }
        Ok(Some(frame))
    }
}

/// Length of the WAL that `metadata` describes.
fn wal_bytes(metadata: &Metadata) -> Result<u64, DeltaError> {
    let frames = metadata.frame_count();
    frames
        .checked_mul(frame_bytes(metadata.page_size))
        .and_then(|n| n.checked_add(WAL_HEADER_BYTES as u64))
        .ok_or(DeltaError::FrameCount { found: 0, stated: frames })
}

/// Reads a delta: the pages of one transaction, ascending and complete (see the module).
pub struct DeltaReader<R: BufRead> {
    segment: SegmentReader<R>,
    order: PageOrder,
}

impl<R: BufRead> DeltaReader<R> {
    /// Reads the body of the delta, or of the segment of one ordered transaction, that `metadata`
    /// describes.
    pub fn new(body: R, metadata: &Metadata) -> Result<Self, DeltaError> {
        let body = Unpacker::new(body, wal_bytes(metadata)?)?;
        Self::with(WalReader::new(body)?, metadata)
    }

    /// Reads a body without a look at the WAL's own checksums, for a caller that checks the pages
    /// against the database checksum before it believes any of them.
    pub fn unchained(body: R, metadata: &Metadata) -> Result<Self, DeltaError> {
        let body = Unpacker::new(body, wal_bytes(metadata)?)?;
        Self::with(WalReader::new(body)?.unchained(), metadata)
    }

    /// As [`DeltaReader::unchained`], of a body that somebody else unpacks.
    pub fn unpacked(wal: R, metadata: &Metadata) -> Result<Self, DeltaError> {
        let wal = Unpacker::plain(wal, wal_bytes(metadata)?);
        Self::with(WalReader::new(wal)?.unchained(), metadata)
    }

    fn with(wal: WalReader<Unpacker<R>>, metadata: &Metadata) -> Result<Self, DeltaError> {
        if let Some(stated) = metadata.transactions {
            return Err(DeltaError::TransactionCount { found: 1, stated });
        }
        Ok(DeltaReader {
            segment: SegmentReader::with(wal, metadata)?,
            order: PageOrder::new(metadata.page_size, metadata.pages.0, metadata.pages.1),
        })
    }
}

impl<R: BufRead> PageSource for DeltaReader<R> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let Some(frame) = self.segment.next_frame(page)? else {
            self.order.end()?;
            return Ok(None);
        };
        self.order.next(frame.pgno)?;
        Ok(Some(frame.pgno))
    }
}

/// Merges deltas that follow one another into one: of each page the newest image, none above the
/// final size. Holds one page of each source.
pub struct Merge<S> {
    /// Oldest first; each with the page it stands at.
    sources: Vec<MergeSource<S>>,
    size_after: u32,
    primed: bool,
}

struct MergeSource<S> {
    source: S,
    at: Option<Pgno>,
    page: Vec<u8>,
}

impl<S: PageSource> Merge<S> {
    /// Merges `sources`, oldest first, into the change to a database of `size_after` pages.
    #[must_use]
    pub fn new(sources: Vec<S>, page_size: PageSize, size_after: u32) -> Self {
        let sources = sources
            .into_iter()
            .map(|source| MergeSource { source, at: None, page: vec![0; page_size.bytes()] })
            .collect();
        Merge { sources, size_after, primed: false }
    }
}

impl<S: PageSource> PageSource for Merge<S> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        if !self.primed {
            for source in &mut self.sources {
                source.advance()?;
            }
            self.primed = true;
        }
        // A linear look at each source's head: there are a few dozen at most, and each step also
        // copies a whole page.
        loop {
            let Some(next) = self.sources.iter().filter_map(|s| s.at).min() else {
                return Ok(None);
            };
            let wanted = next.get() <= self.size_after;
            let mut newest = true;
            for source in self.sources.iter_mut().rev().filter(|s| s.at == Some(next)) {
                if newest && wanted {
                    page.copy_from_slice(&source.page);
                }
                newest = false;
                source.advance()?;
            }
            if wanted {
                return Ok(Some(next));
            }
        }
    }
}

impl<S: PageSource> MergeSource<S> {
    fn advance(&mut self) -> Result<(), DeltaError> {
        self.at = self.source.next_page(&mut self.page)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
