//! A push on its way to the server: the delta as the frames of one transaction.
//!
//! The frames carry a proper chain of checksums under one pair of salts, as if they stood at the start
//! of a WAL of their own, for a server that looks at them. The salts are made of the content and of who
//! pushes, so that a repeat is the same byte for byte, and nobody else's.

use std::io::BufReader;
use std::path::Path;

use anabranch_format::{
    DeltaError, DeltaReader, Metadata, PageSource, Pgno, Salts, WAL_HEADER_BYTES, WalHeader,
    WalWriter, content_hash,
};
use anabranch_store::Spool;
use bytes::Bytes;

use super::error::LibsqlError;
use super::scratch::Scratch;
use super::{FRAME_BYTES, PAGE_BYTES, PAGE_SIZE};

/// The frames of one push.
#[derive(Debug)]
pub(super) struct Outbox {
    wal: Scratch,
    frames: u32,
}

impl Outbox {
    /// Turns the body of the segment that `metadata` describes into frames; blocking.
    pub(super) fn new(
        body: Spool,
        metadata: &Metadata,
        folder: &Path,
    ) -> Result<Self, LibsqlError> {
        let scratch = Scratch::new(folder);
        let failed = |e: DeltaError| Scratch::new(folder).failed(std::io::Error::other(e));
        let body = BufReader::new(body.finish());
        let mut source = DeltaReader::new(body, metadata).map_err(failed)?;
        let header = WalHeader::new(PAGE_SIZE, 0, salts(metadata));
        let mut wal = WalWriter::new(scratch, header).map_err(|e| failed(e.into()))?;
        let mut page = vec![0; PAGE_BYTES];
        let mut write = |pgno: Pgno, page: &[u8]| {
            // The last frame ends the transaction.
            let last = wal.frames() + 1 == metadata.frame_count();
            let commit_size = if last { metadata.pages.1 } else { 0 };
            wal.frame(pgno, commit_size, page)
        };
        while let Some(pgno) = source.next_page(&mut page).map_err(failed)? {
            write(pgno, &page).map_err(|e| failed(e.into()))?;
        }
        let frames =
            u32::try_from(wal.frames()).map_err(|e| failed(std::io::Error::other(e).into()))?;
        Ok(Outbox { wal: wal.into_inner(), frames })
    }

    /// How many there are.
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// `count` frames from the one with index `first` on, as they go on the wire; fewer at the end.
    pub(super) fn part(&mut self, first: u32, count: u32) -> Result<Bytes, LibsqlError> {
        let count = count.min(self.frames.saturating_sub(first));
        let at = WAL_HEADER_BYTES as u64 + u64::from(first) * FRAME_BYTES as u64;
        let mut bytes = vec![0; count as usize * FRAME_BYTES];
        self.wal.read_at(at, &mut bytes).map_err(|e| self.wal.failed(e))?;
        Ok(bytes.into())
    }
}

fn salts(metadata: &Metadata) -> Salts {
    let push = metadata.push.as_ref().map_or("", |push| push.as_str());
    let seed = content_hash(format!("{push} by {}", metadata.writer).as_bytes()).to_be_bytes();
    let word = |at: usize| u32::from_be_bytes([seed[at], seed[at + 1], seed[at + 2], seed[at + 3]]);
    Salts(word(0), word(4))
}
