//! Unpacking on one core while the other writes.
//!
//! What was fetched lies in local objects, and unpacking it is half of the work of a pull or clone.
//! A thread of its own unpacks, and hashes if it is asked to, a bounded number of batches ahead. It
//! ends when the pages end, when it fails, or when the reader is dropped.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use anabranch_format::{DeltaError, PageSize, PageSource, Pgno};
use anabranch_sqlite::{PageEntry, PageHasher};
use anabranch_store::Fetched;

use crate::error::Error;

/// Bytes of a batch; large enough that handing it over costs nothing, small enough for the cache.
const BATCH_BYTES: usize = 256 * 1024;
/// Content that waits to be read, unless more is asked for.
const BYTES_AHEAD: u64 = 2 * 1024 * 1024;

/// Pages one after another, with their numbers, and their entries if they were hashed.
#[derive(Default)]
struct Batch {
    numbers: Vec<Pgno>,
    entries: Vec<PageEntry>,
    pages: Vec<u8>,
}

/// Pages that are unpacked ahead.
pub(crate) struct ReadAhead {
    page_bytes: usize,
    batches: Receiver<Result<Batch, DeltaError>>,
    /// Batches that were read go back: new memory costs time.
    spare: Sender<Batch>,
    batch: Batch,
    /// The page after the current one.
    next: usize,
}

impl ReadAhead {
    /// Starts to unpack `fetched`.
    pub(crate) fn start(fetched: Fetched) -> Result<Self, Error> {
        Self::with(fetched, None, BYTES_AHEAD)
    }

    /// Starts to unpack `fetched` and to hash its pages, up to `bytes_ahead` of them.
    pub(crate) fn hashed(
        fetched: Fetched,
        hasher: PageHasher,
        bytes_ahead: u64,
    ) -> Result<Self, Error> {
        Self::with(fetched, Some(hasher), bytes_ahead)
    }

    fn with(fetched: Fetched, hasher: Option<PageHasher>, ahead: u64) -> Result<Self, Error> {
        let page_size = fetched.page_size;
        let source = fetched.into_unsummed_pages();
        let ahead = usize::try_from(ahead / BATCH_BYTES as u64).unwrap_or(usize::MAX).max(1);
        let (sender, batches) = sync_channel(ahead);
        let thread = std::thread::Builder::new().name("anabranch-unpack".to_owned());
        let (spare, used) = channel();
        let mut unpacker = Unpacker { source, page_size, hasher, used };
        thread.spawn(move || unpacker.run(&sender)).map_err(|source| Error::Io {
            what: "starting a thread to read",
            path: "what was fetched".into(),
            source,
        })?;
        let page_bytes = page_size.bytes();
        Ok(ReadAhead { page_bytes, batches, spare, batch: Batch::default(), next: 0 })
    }

    /// Goes to the next page; `None` after the last.
    pub(crate) fn advance(&mut self) -> Result<Option<Pgno>, DeltaError> {
        if self.next == self.batch.numbers.len() {
            let batch = match self.batches.recv() {
                Ok(batch) => batch?,
                // The thread is gone without a word only if it panicked.
                Err(_) => return Err(std::io::Error::other("unpacking was given up").into()),
            };
            // At the end nobody takes it any more.
            let _ = self.spare.send(std::mem::replace(&mut self.batch, batch));
            self.next = 0;
        }
        let Some(&pgno) = self.batch.numbers.get(self.next) else { return Ok(None) };
        self.next += 1;
        Ok(Some(pgno))
    }

    /// The content of the page that [`ReadAhead::advance`] went to.
    pub(crate) fn page(&self) -> &[u8] {
        let end = self.next * self.page_bytes;
        &self.batch.pages[end - self.page_bytes..end]
    }

    /// The entry of that page.
    ///
    /// # Panics
    /// If pages are not hashed.
    pub(crate) fn entry(&self) -> PageEntry {
        self.batch.entries[self.next - 1]
    }
}

impl PageSource for ReadAhead {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let next = self.advance()?;
        if next.is_some() {
            page.copy_from_slice(self.page());
        }
        Ok(next)
    }
}

/// The thread's part.
struct Unpacker {
    source: Box<dyn PageSource + Send>,
    page_size: PageSize,
    hasher: Option<PageHasher>,
    used: Receiver<Batch>,
}

impl Unpacker {
    /// Sends batches until the end, an error, or until nobody listens any more.
    fn run(&mut self, to: &SyncSender<Result<Batch, DeltaError>>) {
        loop {
            let next = self.fill();
            let last = !matches!(&next, Ok(batch) if !batch.numbers.is_empty());
            if to.send(next).is_err() || last {
                return;
            }
        }
    }

    /// The next pages, none at the end. Pages before an error are not worth keeping.
    fn fill(&mut self) -> Result<Batch, DeltaError> {
        let page_bytes = self.page_size.bytes();
        let most = (BATCH_BYTES / page_bytes).max(1);
        let mut batch = self.used.try_recv().unwrap_or_default();
        batch.numbers.clear();
        batch.entries.clear();
        batch.pages.resize(most * page_bytes, 0);
        for page in batch.pages.chunks_exact_mut(page_bytes) {
            let Some(pgno) = self.source.next_page(page)? else { break };
            batch.numbers.push(pgno);
            batch.entries.extend(self.hasher.map(|hasher| hasher.entry(pgno, page)));
        }
        Ok(batch)
    }
}
