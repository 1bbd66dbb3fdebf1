//! The base of a generation as a database file, streamed while it is being made.
//!
//! It is made from the log once and lies in a scratch file then, for whoever else asks. Whoever waits
//! for it reads along; the last bytes are not let out before the whole file was found to have the
//! checksum that the log states, so a damaged one is never complete.
//!
//! A *bridge* is the same, as the frames of one transaction with every page. It leads a client from
//! any state that the log does not keep any more to the base of the oldest generation that it does.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anabranch_format::{
    FrameHeader, Lsn, PageOne, Pgno, Salts, WalChecksum, canonicalise_page_one,
};
use anabranch_store::{At, Fetched, Log, Position, Progress, StoreError};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;

use super::engine::{blocking, scratch, unavailable};
use super::frame::{FRAME_BYTES, PAGE_BYTES, PAGE_SIZE, read_exact_at, write_all_at};
use super::generation::Span;
use crate::error::ApiError;

/// Bases that are kept at hand for each database.
pub(crate) const EXPORTS_MAX: usize = 2;
/// Bytes that are written, and read, at a time.
const PART_BYTES: usize = 256 * 1024;

/// The base of the first generation: a database without tables, in WAL mode.
pub(crate) fn empty_database() -> Bytes {
    let mut page = vec![0; PAGE_BYTES];
    page[..16].copy_from_slice(anabranch_format::SQLITE_MAGIC);
    // Page size; fractions that are fixed; one page; a leaf of a table without cells at byte 100,
    // whose content would begin at the end of the page.
    page[16..18].copy_from_slice(&[0x10, 0]);
    page[21..24].copy_from_slice(&[64, 32, 32]);
    canonicalise_page_one(&mut page, 0, 1);
    page[100] = 0x0d;
    page[105..107].copy_from_slice(&[0x10, 0]);
    page.into()
}

/// The bases of one database that are at hand or being made.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    /// The one used last comes last.
    kept: tokio::sync::Mutex<Vec<(Span, Arc<Export>)>>,
}

/// A database file on its way.
#[derive(Debug)]
pub(crate) struct Export {
    file: Arc<File>,
    pages: u32,
    ready: watch::Receiver<Ready>,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    bytes: u64,
    failed: bool,
}

impl Exports {
    /// The base of the generation at `span`.
    pub(crate) async fn get(
        &self,
        log: &Log,
        span: Span,
        dir: &Path,
    ) -> Result<Arc<Export>, ApiError> {
        let mut kept = self.kept.lock().await;
        if let Some(index) = kept.iter().position(|(found, _)| *found == span) {
            let found = kept.remove(index);
            if !found.1.ready.borrow().failed {
                let export = Arc::clone(&found.1);
                kept.push(found);
                return Ok(export);
            }
        }
        let export = Arc::new(Export::start(log, span, dir).await?);
        kept.push((span, Arc::clone(&export)));
        if kept.len() > EXPORTS_MAX {
            kept.remove(0);
        }
        Ok(export)
    }

    /// The base of the generation with this number, if it is at hand.
    pub(crate) async fn at_hand(&self, number: u32) -> Option<(Span, Arc<Export>)> {
        let kept = self.kept.lock().await;
        let found = kept.iter().find(|(span, e)| span.number == number && !e.ready.borrow().failed);
        found.map(|(span, export)| (*span, Arc::clone(export)))
    }
}

async fn position(log: &Log, lsn: Lsn) -> Result<Position, StoreError> {
    let found = log.segment_at(lsn).await?;
    // The base of a generation is the end of a segment.
    if found.lsn == lsn { Ok(found) } else { log.position_at(At::Lsn(lsn)).await }
}

impl Export {
    async fn start(log: &Log, span: Span, dir: &Path) -> Result<Self, ApiError> {
        let position = position(log, span.base()).await.map_err(|e| unavailable(&e))?;
        let fetched = log.fetch_position(Lsn::ZERO, &position, &Progress::none()).await;
        let fetched = fetched.map_err(|e| unavailable(&e))?;
        let file = Arc::new(tempfile::tempfile_in(dir).map_err(|e| scratch(&e))?);
        let pages = fetched.pages.1;
        let (progress, ready) = watch::channel(Ready::default());
        let export = Export { file: Arc::clone(&file), pages, ready };
        let bytes = export.bytes();
        tokio::spawn(async move {
            let told = progress.clone();
            let made = blocking(move || write(fetched, &file, &told)).await;
            let failed = match made {
                Ok(Ok(())) => false,
                Ok(Err(e)) => {
                    tracing::error!(error = %e, "the base of a generation cannot be read");
                    true
                }
                Err(_) => true,
            };
            progress.send_modify(|ready| {
                *ready = if failed { Ready { failed, ..*ready } } else { Ready { bytes, failed } };
            });
        });
        Ok(export)
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE_BYTES as u64
    }

    /// Reads `len` bytes at `offset`, once they are there.
    async fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = offset + len as u64;
        let mut ready = self.ready.clone();
        let there = ready.wait_for(|ready| ready.failed || ready.bytes >= end).await;
        let there = there.is_ok_and(|ready| ready.bytes >= end);
        if !there {
            return Err(io::Error::other("the database could not be read to its end"));
        }
        let file = Arc::clone(&self.file);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; len];
            read_exact_at(&file, &mut bytes, offset).map(|()| bytes)
        });
        read.await.map_err(io::Error::other)?
    }

    /// The whole file, as it comes.
    pub(crate) fn stream(self: Arc<Self>) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures::stream::try_unfold((self, 0u64), |(export, offset)| async move {
            let left = export.bytes() - offset;
            if left == 0 {
                return Ok(None);
            }
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(PART_BYTES);
            let part = export.read(offset, len).await?;
            Ok(Some((Bytes::from(part), (export, offset + len as u64))))
        })
    }

    /// How many frames the bridge has: one for each page, lock page aside.
    pub(crate) fn bridge_frames(&self) -> u32 {
        PAGE_SIZE.content_pages(self.pages)
    }

    /// Frames `first` to `last` of the bridge, which must be there.
    pub(crate) async fn bridge(&self, first: u32, last: u32) -> io::Result<Bytes> {
        let lock_page = PAGE_SIZE.lock_page().get();
        let page_of = |frame: u32| if frame < lock_page { frame } else { frame + 1 };
        let (from, to) = (page_of(first), page_of(last));
        let offset = u64::from(from - 1) * PAGE_BYTES as u64;
        let pages = self.read(offset, (to - from + 1) as usize * PAGE_BYTES).await?;
        let mut frames = Vec::with_capacity((last - first + 1) as usize * FRAME_BYTES);
        for (number, page) in (from..).zip(pages.chunks_exact(PAGE_BYTES)) {
            let Some(pgno) = Pgno::new(number).filter(|_| number != lock_page) else { continue };
            let commit_size = if page_of(self.bridge_frames()) == number { self.pages } else { 0 };
            let (salts, checksum) = (Salts::default(), WalChecksum::default());
            let header = FrameHeader { pgno, commit_size, salts, checksum };
            frames.extend_from_slice(&header.encode());
            frames.extend_from_slice(page);
        }
        Ok(frames.into())
    }
}

/// Writes the database to `file`. Blocking.
fn write(fetched: Fetched, file: &File, told: &watch::Sender<Ready>) -> Result<(), StoreError> {
    let failed = |source| StoreError::Scratch { directory: std::env::temp_dir(), source };
    let size = fetched.pages.1;
    file.set_len(u64::from(size) * PAGE_BYTES as u64).map_err(failed)?;
    let mut part: Vec<u8> = Vec::with_capacity(PART_BYTES);
    let mut offset = 0u64;
    let flush = |part: &mut Vec<u8>, offset: u64| {
        write_all_at(file, part, offset).map_err(failed)?;
        let end = offset + part.len() as u64;
        part.clear();
        // The last page waits for the checksum of all.
        told.send_modify(|ready| ready.bytes = end.saturating_sub(PAGE_BYTES as u64));
        Ok::<u64, StoreError>(end)
    };
    fetched.for_each(|pgno, page| {
        let at = u64::from(pgno.get() - 1) * PAGE_BYTES as u64;
        // Behind the lock page, or when enough is gathered.
        if at != offset + part.len() as u64 || part.len() >= PART_BYTES {
            flush(&mut part, offset)?;
            offset = at;
        }
        part.extend_from_slice(page);
        if pgno == Pgno::ONE {
            let cookie = PageOne::read(page).map_or(0, |one| one.schema_cookie);
            canonicalise_page_one(&mut part, cookie, size);
        }
        Ok::<(), StoreError>(())
    })?;
    flush(&mut part, offset)?;
    Ok(())
}
