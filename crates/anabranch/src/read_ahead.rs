//! Unpacking on one core while the other hashes and writes.
//!
//! What was fetched lies in local objects, and unpacking it is half of the work of a pull or clone.
//! A thread of its own unpacks, a bounded number of batches ahead. It ends when the pages end, when
//! it fails, or when the reader is dropped.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anabranch_format::{DeltaError, PageSize, PageSource, Pgno};
use anabranch_store::Fetched;

use crate::error::Error;

/// Bytes of a batch; large enough that handing it over costs nothing, small enough for the cache.
const BATCH_BYTES: usize = 256 * 1024;
/// Batches that wait to be read.
const BATCHES_AHEAD: usize = 8;

/// Pages one after another, with their numbers.
#[derive(Default)]
struct Batch {
    numbers: Vec<Pgno>,
    pages: Vec<u8>,
}

/// Pages that are unpacked ahead.
pub(crate) struct ReadAhead {
    batches: Receiver<Result<Batch, DeltaError>>,
    batch: Batch,
    at: usize,
}

impl ReadAhead {
    /// Starts to unpack `fetched`.
    pub(crate) fn start(fetched: Fetched) -> Result<Self, Error> {
        let page_size = fetched.page_size;
        let source = fetched.into_unsummed_pages();
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let thread = std::thread::Builder::new().name("anabranch-unpack".to_owned());
        thread.spawn(move || unpack(source, page_size, &sender)).map_err(|source| Error::Io {
            what: "starting a thread to read",
            path: "what was fetched".into(),
            source,
        })?;
        Ok(ReadAhead { batches, batch: Batch::default(), at: 0 })
    }
}

/// Sends batches until the end, an error, or until nobody listens any more.
fn unpack(
    mut source: Box<dyn PageSource + Send>,
    page_size: PageSize,
    to: &SyncSender<Result<Batch, DeltaError>>,
) {
    loop {
        let next = fill(&mut *source, page_size);
        let last = !matches!(&next, Ok(batch) if !batch.numbers.is_empty());
        if to.send(next).is_err() || last {
            return;
        }
    }
}

/// The next pages, none at the end. Pages before an error are not worth keeping.
fn fill(source: &mut dyn PageSource, page_size: PageSize) -> Result<Batch, DeltaError> {
    let most = (BATCH_BYTES / page_size.bytes()).max(1);
    let mut batch =
        Batch { numbers: Vec::with_capacity(most), pages: vec![0; most * page_size.bytes()] };
    for page in batch.pages.chunks_exact_mut(page_size.bytes()) {
        match source.next_page(page)? {
            Some(pgno) => batch.numbers.push(pgno),
            None => break,
        }
    }
    Ok(batch)
}

impl PageSource for ReadAhead {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        if self.at == self.batch.numbers.len() {
            self.batch = match self.batches.recv() {
                Ok(batch) => batch?,
                // The thread is gone without a word only if it panicked.
                Err(_) => return Err(std::io::Error::other("unpacking was given up").into()),
            };
            self.at = 0;
        }
        let Some(&pgno) = self.batch.numbers.get(self.at) else { return Ok(None) };
        let start = self.at * page.len();
        page.copy_from_slice(&self.batch.pages[start..start + page.len()]);
        self.at += 1;
        Ok(Some(pgno))
    }
}
