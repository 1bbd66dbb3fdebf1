//! What SQLite sees as its database file: the bytes of a state's pages.
//!
//! Page 1 is shown in rollback mode, with counters that make the size in the header count, and with
//! the true size there: its local fields may come from anywhere. SQLite reads whole pages and parts
//! of page 1, and writes whole pages; that somebody changes their size is refused.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_format::{DB_HEADER_BYTES, PageOne, PageSize, Pgno};

use crate::ffi::vfs::{DatabaseFile, Failed};
use crate::overlay::SharedOverlay;
use crate::page_read::{SharedPages, lock};
use crate::scratch::PageFailure;

/// Where the first failure of a file is left for its connection.
pub(crate) type Failure = Arc<Mutex<Option<PageFailure>>>;

/// A state as a file.
pub(crate) struct StateFile {
    pages: SharedPages,
    /// The same, if it may be written.
    writable: Option<SharedOverlay>,
    page_size: PageSize,
    /// For reads of a part of a page.
    page: Vec<u8>,
    failure: Failure,
}

impl StateFile {
    pub(crate) fn new(
        pages: SharedPages,
        writable: Option<SharedOverlay>,
        failure: Failure,
    ) -> io::Result<Self> {
        let page_size = lock(&pages)?.page_size();
        let page = vec![0; page_size.bytes()];
        Ok(StateFile { pages, writable, page_size, page, failure })
    }

    fn read_bytes(&mut self, at: u64, buf: &mut [u8]) -> Result<usize, PageFailure> {
        let bytes = self.page_size.bytes();
        let mut done = 0;
        while done < buf.len() {
            let position = at.saturating_add(done as u64);
            let size = self.size().map_err(|e| PageFailure::reading(Pgno::ONE, e))?;
            let Some(pgno) = self.page_at(position).filter(|pgno| pgno.get() <= size) else {
                break;
            };
            let skip = usize::try_from(position % bytes as u64).unwrap_or_default();
            let part = (bytes - skip).min(buf.len() - done);
            let failed = |e| PageFailure::reading(pgno, e);
            let out = &mut buf[done..done + part];
            if part == bytes {
                self.read_page(pgno, size, out).map_err(failed)?;
            } else {
                let mut page = std::mem::take(&mut self.page);
                let read = self.read_page(pgno, size, &mut page);
                out.copy_from_slice(&page[skip..skip + part]);
                self.page = page;
                read.map_err(failed)?;
            }
            done += part;
        }
        Ok(done)
    }

    fn read_page(&self, pgno: Pgno, size: u32, page: &mut [u8]) -> io::Result<()> {
        lock(&self.pages)?.read(pgno, page)?;
        if pgno == Pgno::ONE {
            show_page_one(page, size);
        }
        Ok(())
    }

    fn write_bytes(&mut self, at: u64, data: &[u8]) -> Result<(), PageFailure> {
        let bytes = self.page_size.bytes();
        let pgno = self.page_at(at).unwrap_or(Pgno::ONE);
        let failed = |e| PageFailure::writing(pgno, e);
        let whole = data.len() == bytes && at.is_multiple_of(bytes as u64);
        // `VACUUM` that changes the page size still writes in pages of the old one.
        let resized = pgno == Pgno::ONE
            && PageOne::read(data).is_ok_and(|one| one.page_size != self.page_size);
        if !whole || resized || self.page_at(at).is_none() {
            let why = "the page size cannot be changed here";
            return Err(failed(io::Error::new(io::ErrorKind::Unsupported, why)));
        }
        let overlay = self.overlay().map_err(failed)?;
        lock(overlay).and_then(|mut overlay| overlay.put(pgno, data)).map_err(failed)
    }

    fn set_length(&mut self, length: u64) -> Result<(), PageFailure> {
        let failed = |e| PageFailure::writing(Pgno::ONE, e);
        let pages = u32::try_from(length.div_ceil(u64::from(self.page_size.get())))
            .map_err(|_| failed(io::Error::from(io::ErrorKind::FileTooLarge)))?;
        let overlay = self.overlay().map_err(failed)?;
        lock(overlay).and_then(|mut overlay| overlay.resize(pages)).map_err(failed)
    }

    fn overlay(&self) -> io::Result<&SharedOverlay> {
        self.writable.as_ref().ok_or_else(|| io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn size(&self) -> io::Result<u32> {
        Ok(lock(&self.pages)?.size())
    }

    /// The page that holds the byte at `position`.
    fn page_at(&self, position: u64) -> Option<Pgno> {
        let index = u32::try_from(position / u64::from(self.page_size.get())).ok()?;
        index.checked_add(1).and_then(Pgno::new)
    }

    /// Leaves the cause where the connection finds it, and answers what SQLite is told.
    fn keep<T>(&self, outcome: Result<T, PageFailure>) -> Result<T, Failed> {
        outcome.map_err(|failure| {
            let full = failure.source.kind() == io::ErrorKind::StorageFull;
            let mut kept = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get_or_insert(failure);
            if full { Failed::Full } else { Failed::Io }
        })
    }
}

impl DatabaseFile for StateFile {
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize, Failed> {
        let outcome = self.read_bytes(at, buf);
        self.keep(outcome)
    }

    fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Failed> {
        let outcome = self.write_bytes(at, data);
        self.keep(outcome)
    }

    fn truncate(&mut self, length: u64) -> Result<(), Failed> {
        let outcome = self.set_length(length);
        self.keep(outcome)
    }

    fn length(&mut self) -> Result<u64, Failed> {
        let size = self.size().map_err(|e| PageFailure::reading(Pgno::ONE, e));
        self.keep(size).map(|size| u64::from(size) * u64::from(self.page_size.get()))
    }

    fn is_writable(&self) -> bool {
        self.writable.is_some()
    }

    fn panicked(&mut self) {
        let failure = PageFailure::reading(Pgno::ONE, io::Error::other("the code of it panicked"));
        let _ = self.keep::<()>(Err(failure));
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        if let Some(overlay) = &self.writable {
            overlay.lock().unwrap_or_else(PoisonError::into_inner).written = false;
        }
    }
}

/// Page 1 as SQLite needs to see it outside WAL mode, in a database of `size` pages.
fn show_page_one(page: &mut [u8], size: u32) {
    if page.len() < DB_HEADER_BYTES {
        return;
    }
    page[18..20].fill(1);
    page.copy_within(92..96, 24);
    page[28..32].copy_from_slice(&size.to_be_bytes());
}
