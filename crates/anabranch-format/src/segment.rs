//! Segments of several transactions: a WAL whose frames stand as their writer made them.
//!
//! Clients that count frames need them back exactly as they sent them, so nothing is reordered or
//! left out. What may stand in such a WAL is decided here, frame by frame ([`Transaction`]), because
//! whatever passes will be replayed by every reader for ever:
//! 1. no frame is of the lock page, and the commit frame's page lies inside the database;
//! 2. within a transaction a page comes once; only the commit frame may repeat one, which SQLite
//!    does after a cache spill. Any other repeat would be written in place by who inserts the
//!    frames into a WAL, and all later numbers would shift;
//! 3. a transaction that grows the database carries every page of the growth, lock page aside. So
//!    a commit size cannot lie further above the one before than the transaction has frames.
//!
//! Frames before the commit may be of pages above its size: a transaction that spilled them and
//! shrank afterwards leaves them in the WAL, and every reader drops them.

use std::collections::HashSet;
use std::io::{self, Write};

use crate::compress::Compressor;
use crate::page::{PageSize, Pgno};
use crate::wal::{Salts, WalHeader, WalWriter};

/// Why frames are no transaction that may be appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The lock page, which is never content.
    #[error("page {0} is the lock page")]
    LockPage(Pgno),
    /// A page comes twice, and the second frame does not end the transaction.
    #[error("page {0} comes twice in a transaction, not by its commit frame")]
    Repeated(Pgno),
    /// The commit frame's page lies above the size that it states.
    #[error("the commit frame is of page {page}, but states a size of {size} pages")]
    AboveSize {
        /// The commit frame's page.
        page: Pgno,
        /// The size that it states.
        size: u32,
    },
    /// The database would grow by more than the transaction has frames.
    #[error("a size of {size} pages after {frames} frames on {before} pages")]
    TooLarge {
        /// Size before, in pages.
        before: u32,
        /// The size that the commit frame states.
        size: u32,
        /// Frames of the transaction.
        frames: u64,
    },
    /// A page of the growth is missing.
    #[error("the database grows to {size} pages, but page {page} of the growth is missing")]
    Growth {
        /// The first missing page.
        page: Pgno,
        /// The size that the commit frame states.
        size: u32,
    },
}

/// Checks the frames of transactions that follow one another; see the module. Keeps the page numbers
/// of the one that is open.
#[derive(Debug, Clone)]
pub struct Transaction {
    lock_page: Pgno,
    size: u32,
    frames: u64,
    pages: HashSet<u32>,
}

impl Transaction {
    /// Before the first transaction on a database of `size` pages.
    #[must_use]
    pub fn new(page_size: PageSize, size: u32) -> Self {
        Transaction { lock_page: page_size.lock_page(), size, frames: 0, pages: HashSet::new() }
    }

    /// Size of the database in pages after the last whole transaction.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Whether no transaction is open.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.frames == 0
    }

    /// The next frame is of `page`, and ends the transaction if `commit_size` is not 0. An error
    /// leaves everything as it was.
    pub fn frame(&mut self, page: Pgno, commit_size: u32) -> Result<(), TransactionError> {
        if page == self.lock_page {
            return Err(TransactionError::LockPage(page));
        }
        if commit_size != 0 {
            self.check_commit(page, commit_size)?;
            self.size = commit_size;
            self.frames = 0;
            self.pages.clear();
            return Ok(());
        }
        if !self.pages.insert(page.get()) {
            return Err(TransactionError::Repeated(page));
        }
        self.frames += 1;
        Ok(())
    }

    fn check_commit(&self, page: Pgno, size: u32) -> Result<(), TransactionError> {
        let (before, frames) = (self.size, self.frames + 1);
        if page.get() > size {
            return Err(TransactionError::AboveSize { page, size });
        }
        let lock_page = self.lock_page.get();
        let grown = u64::from(size.saturating_sub(before));
        let with_lock_page = u64::from(before < lock_page && lock_page <= size);
        if grown > frames + with_lock_page {
            return Err(TransactionError::TooLarge { before, size, frames });
        }
        let has = |n: u32| n == page.get() || n == lock_page || self.pages.contains(&n);
        let missing = (before..size).map(|n| n + 1).find(|n| !has(*n)).and_then(Pgno::new);
        match missing {
            Some(page) => Err(TransactionError::Growth { page, size }),
            None => Ok(()),
        }
    }
}

/// Why a segment cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The frames may not be appended.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// The sink failed.
    #[error("writing the segment failed")]
    Io(#[from] io::Error),
}

/// Writes the body of a segment of whole transactions, frames as they come, in zstd that costs as
/// little time as possible: a client waits for it, and compaction packs it anew. The metadata is
/// written before it by the caller.
pub struct SegmentEncoder<W: Write> {
    wal: WalWriter<Compressor<W>>,
    transaction: Transaction,
    transactions: u64,
}

/// A finished body.
#[derive(Debug)]
pub struct EncodedSegment<W> {
    /// Where it was written.
    pub sink: W,
    /// Number of frames: how far the log moves on.
    pub frames: u64,
    /// Number of transactions.
    pub transactions: u64,
    /// Size of the database in pages after the last.
    pub size_after: u32,
}

impl<W: Write> SegmentEncoder<W> {
    /// Starts a segment on a database of `size_before` pages. Its frames carry `salts`; those of the
    /// WAL that they come from tell later who wrote them.
    pub fn new(
        sink: W,
        page_size: PageSize,
        size_before: u32,
        salts: Salts,
    ) -> Result<Self, SegmentError> {
        let header = WalHeader::new(page_size, 0, salts);
        Ok(SegmentEncoder {
            wal: WalWriter::new(Compressor::fast(sink), header)?,
            transaction: Transaction::new(page_size, size_before),
            transactions: 0,
        })
    }

    /// Adds the next frame; `commit_size` is the database size in pages if it ends a transaction,
    /// else 0. A frame that is refused is not added.
    ///
    /// # Panics
    /// If `page` is not one page long.
    pub fn frame(&mut self, pgno: Pgno, commit_size: u32, page: &[u8]) -> Result<(), SegmentError> {
        self.transaction.frame(pgno, commit_size)?;
        self.wal.frame(pgno, commit_size, page)?;
        self.transactions += u64::from(commit_size != 0);
        Ok(())
    }

    /// Ends the segment.
    ///
    /// # Panics
    /// If no frame was added, or the last does not end a transaction: no reader would take it.
    pub fn finish(self) -> Result<EncodedSegment<W>, SegmentError> {
        assert!(self.transactions > 0, "a segment has at least one transaction");
        assert!(self.transaction.is_whole(), "a segment ends with a transaction");
        Ok(EncodedSegment {
            frames: self.wal.frames(),
            transactions: self.transactions,
            size_after: self.transaction.size(),
            sink: self.wal.into_inner().finish()?,
        })
    }
}

#[cfg(test)]
mod tests;
