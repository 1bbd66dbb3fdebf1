//! Single pages of a change that brings a whole database: the first push of a replica, mostly.
//!
//! Such a change has every page from 1 on, in order, so that each page's place in it is known. Where its
//! body is long it is a row of zstd frames that know nothing of one another: those without a wanted page
//! are passed over, and of the others what follows the last one is not unpacked. The checksums of
//! frames and of the WAL are not looked at, therefore: the reader must know each page by its own.
//! Memory: as [`unpack`](crate::unpack).

use std::io::{self, Read};
use std::ops::Range;

use anabranch_format::{
    DeltaError, FRAME_HEADER_BYTES, Metadata, PageSet, PageSource, Pgno, WAL_HEADER_BYTES,
    frame_bytes,
};

use crate::runs::OpenPiece;
use crate::unpack::SideBySide;

/// Some pages of a change that brings a whole database.
pub(crate) struct FirstImage {
    records: SideBySide,
    /// The pages that are still to come.
    wanted: PageSet,
    after: u32,
}

impl FirstImage {
    /// Whether `piece` is such a change, and long.
    pub(crate) fn suits(piece: &OpenPiece) -> io::Result<bool> {
        let Metadata { pages: (before, size), page_size, transactions, .. } = piece.metadata;
        let all = u64::from(size) - u64::from(size >= page_size.lock_page().get());
        let whole = before == 0 && transactions.is_none() && piece.metadata.frame_count() == all;
        Ok(whole && SideBySide::suits(&piece.body)?)
    }

    /// The pages of `wanted`, ascending; none of them is the lock page, or lies above the size.
    pub(crate) fn start(piece: OpenPiece, wanted: PageSet) -> io::Result<Self> {
        let page_size = piece.metadata.page_size;
        let (bytes, lock_page) = (frame_bytes(page_size), page_size.lock_page());
        let place = move |pgno: Pgno| {
            let index = u64::from(pgno.get() - 1) - u64::from(pgno > lock_page);
            let start = WAL_HEADER_BYTES as u64 + index * bytes;
            start..start + bytes
        };
        let (all, mut after) = (wanted.clone(), 0);
        let pick = move |at: u64, len: usize| -> Vec<Range<usize>> {
            let end = at + len as u64;
            let mut parts = Vec::new();
            while let Some(pgno) = all.next_after(after) {
                let place = place(pgno);
                if place.start < end {
                    let part = place.start.max(at) - at..place.end.min(end) - at;
                    // Both lie within what is in memory.
                    let within = |n: u64| usize::try_from(n).unwrap_or(len);
                    parts.push(within(part.start)..within(part.end));
                }
                if place.end > end {
                    // The rest of it, or all, comes later.
                    break;
                }
                after = pgno.get();
            }
            parts
        };
        let records = SideBySide::start_picking(piece.body, Some(Box::new(pick)))?;
        Ok(FirstImage { records, wanted, after: 0 })
    }
}

impl PageSource for FirstImage {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let Some(pgno) = self.wanted.next_after(self.after) else { return Ok(None) };
        self.after = pgno.get();
        let mut header = [0; FRAME_HEADER_BYTES];
        self.records.read_exact(&mut header)?;
        self.records.read_exact(page)?;
        if header[..4] != pgno.get().to_be_bytes() {
            let text = format!("where page {pgno} must be is another");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text).into());
        }
        Ok(Some(pgno))
    }
}
