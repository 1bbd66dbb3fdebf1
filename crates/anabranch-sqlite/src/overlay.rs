//! States of a database that differ from one another in some pages only.
//!
//! A layer is a state below it, which must not change any more, and pages of its own. The lowest
//! state is usually a [`PinnedView`](crate::PinnedView) of the live file. No database is copied: what
//! a layer holds *is* the difference. A layer keeps at most [`LAYER_MEMORY_BYTES_MAX`] of pages in memory,
//! then they move into an anonymous temporary file; beyond that it takes a bit per page.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//! use anabranch_format::{PageSource, Pgno};
//! use anabranch_sqlite::{Difference, LiveFile, Overlay, PageRead, PinnedView, Scratch};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("app.db");
//! # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE t(v); INSERT INTO t VALUES (1)")?;
//! let live = LiveFile::open(&path, Duration::from_secs(5))?;
//! let local = Arc::new(Mutex::new(PinnedView::begin(live)?));
//! let changed = Overlay::new(local.clone(), folder.path())?.shared();
//! Scratch::writable(&changed)?.execute_batch("UPDATE t SET v = 2")?;
//!
//! // The live file is as it was; the overlay has what differs, ready to be applied to it.
//! let before = Scratch::read_only(local.clone())?;
//! assert_eq!(before.query_row("SELECT v FROM t", [], |row| row.get::<_, i64>(0))?, 1);
//! let mut page = vec![0; 4096];
//! let mut difference = Difference::new(local, vec![changed]);
//! assert_eq!(difference.next_page(&mut page)?, Pgno::new(2));
//! assert_eq!(difference.next_page(&mut page)?, None);
//! # Ok(())
//! # }
//! ```

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anabranch_format::{DeltaError, PageSet, PageSize, PageSource, Pgno};

use crate::own_pages::OwnPages;
use crate::page_read::{PageRead, SharedPages, lock};

/// A layer keeps so much of its pages in memory.
pub const LAYER_MEMORY_BYTES_MAX: usize = 16 << 20;

/// A layer that others lie on, or that a connection writes.
pub type SharedOverlay = Arc<Mutex<Overlay>>;

/// One layer: see the module.
pub struct Overlay {
    lower: SharedPages,
    page_size: PageSize,
    own: OwnPages,
    /// Pages of the lower state up to here show through; those above were cut off once.
    visible: u32,
    size: u32,
    /// A connection writes to it.
    pub(crate) written: bool,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay")
            .field("page_size", &self.page_size)
            .field("size", &self.size)
            .field("own", &self.own.len())
            .finish_non_exhaustive()
    }
}

impl Overlay {
    /// A state like `lower`; what does not fit into memory goes into `folder`.
    pub fn new(lower: SharedPages, folder: &Path) -> io::Result<Self> {
        Self::with_memory(lower, folder, LAYER_MEMORY_BYTES_MAX)
    }

    /// As [`Overlay::new`], with at most `memory_bytes_max` of pages in memory.
    pub fn with_memory(
        lower: SharedPages,
        folder: &Path,
        memory_bytes_max: usize,
    ) -> io::Result<Self> {
        let (page_size, size) = {
            let lower = lock(&lower)?;
            (lower.page_size(), lower.size())
        };
        let own = OwnPages::new(page_size, folder, memory_bytes_max);
        Ok(Overlay { lower, page_size, own, visible: size, size, written: false })
    }

    /// This layer, ready for others to lie on it and for connections.
    #[must_use]
    pub fn shared(self) -> SharedOverlay {
        Arc::new(Mutex::new(self))
    }

    /// Gives the database this size in pages. Pages above it are gone, also if it grows again later;
    /// new pages are zeros.
    pub fn resize(&mut self, size: u32) -> io::Result<()> {
        if size < self.size {
            self.own.truncate(size)?;
            self.visible = self.visible.min(size);
        }
        self.size = size;
        Ok(())
    }

    /// Gives a page this content. A page above the size makes the database grow. The lock page has no
    /// content.
    pub fn put(&mut self, pgno: Pgno, image: &[u8]) -> io::Result<()> {
        if image.len() != self.page_size.bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an image of another size"));
        }
        if pgno != self.page_size.lock_page() {
            self.own.put(pgno, image)?;
        }
        self.size = self.size.max(pgno.get());
        Ok(())
    }

    /// Puts all pages of `pages`, as from a delta whose size was given to [`Overlay::resize`].
    pub fn put_all(&mut self, pages: &mut dyn PageSource) -> Result<(), DeltaError> {
        let mut page = vec![0; self.page_size.bytes()];
        while let Some(pgno) = pages.next_page(&mut page)? {
            self.put(pgno, &page)?;
        }
        Ok(())
    }

    /// Whether this layer decides what the page holds: it was put, or lies where the state below has
    /// no page that shows.
    #[must_use]
    pub fn contains(&self, pgno: Pgno) -> bool {
        self.own.contains(pgno) || self.is_growth(pgno.get())
    }

    /// The first page after the one numbered `after` that this layer [contains](Overlay::contains).
    #[must_use]
    pub fn next_after(&self, after: u32) -> Option<Pgno> {
        let mut growth = after.max(self.visible).checked_add(1)?;
        if growth == self.page_size.lock_page().get() {
            growth = growth.checked_add(1)?;
        }
        let growth = if self.is_growth(growth) { Pgno::new(growth) } else { None };
        match (self.own.next_after(after), growth) {
            (Some(own), Some(growth)) => Some(own.min(growth)),
            (own, growth) => own.or(growth),
        }
    }

    fn is_growth(&self, pgno: u32) -> bool {
        pgno > self.visible && pgno <= self.size && pgno != self.page_size.lock_page().get()
    }

    /// All pages that this layer [contains](Overlay::contains).
    #[must_use]
    pub fn page_set(&self) -> PageSet {
        let mut set = PageSet::new(self.size);
        let mut after = 0;
        while let Some(pgno) = self.next_after(after) {
            set.insert(pgno);
            after = pgno.get();
        }
        set
    }

    /// How many pages were put and are still there.
    #[must_use]
    pub fn own_pages(&self) -> u64 {
        self.own.len()
    }

    /// The pages that this layer [contains](Overlay::contains), ascending.
    pub fn pages(&mut self) -> impl PageSource + '_ {
        LayerPages { layer: self, after: 0 }
    }
}

impl PageRead for Overlay {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn read(&mut self, pgno: Pgno, buf: &mut [u8]) -> io::Result<()> {
        if buf.len() != self.page_size.bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a buffer of another size"));
        }
        if pgno.get() > self.size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("page {pgno} of a database of {} pages", self.size),
            ));
        }
        if self.own.get(pgno, buf)? {
            return Ok(());
        }
        if pgno.get() <= self.visible {
            return lock(&self.lower)?.read(pgno, buf);
        }
        buf.fill(0);
        Ok(())
    }
}

struct LayerPages<'a> {
    layer: &'a mut Overlay,
    after: u32,
}

impl PageSource for LayerPages<'_> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let Some(pgno) = self.layer.next_after(self.after) else { return Ok(None) };
        self.layer.read(pgno, page)?;
        self.after = pgno.get();
        Ok(Some(pgno))
    }
}

/// The pages in which the state on top of some layers differs from the one beneath them, ascending,
/// with the images on top: a delta. All pages of a growth are among them.
///
/// Of page 1 the journal mode and the counters do not count as differences; the schema cookie does.
#[derive(Debug)]
pub struct Difference {
    bottom: SharedPagesOpaque,
    layers: Vec<SharedOverlay>,
    after: u32,
    old: Vec<u8>,
}

/// A state without its pages in debug output.
struct SharedPagesOpaque(SharedPages);

impl std::fmt::Debug for SharedPagesOpaque {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageRead")
    }
}

impl Difference {
    /// Between `bottom` and the last of `layers`, which are all that lie on it, lowest first.
    #[must_use]
    pub fn new(bottom: SharedPages, layers: Vec<SharedOverlay>) -> Self {
        Difference { bottom: SharedPagesOpaque(bottom), layers, after: 0, old: Vec::new() }
    }

    /// The next page that may differ.
    fn next_candidate(&self, size: u32) -> io::Result<Option<Pgno>> {
        let mut next: Option<Pgno> = None;
        for layer in &self.layers {
            let found = lock(layer)?.next_after(self.after);
            next = next.into_iter().chain(found).min();
        }
        Ok(next.filter(|pgno| pgno.get() <= size))
    }

    fn differs(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<bool> {
        let mut bottom = lock(&self.bottom.0)?;
        if pgno.get() > bottom.size() {
            return Ok(true);
        }
        self.old.resize(page.len(), 0);
        bottom.read(pgno, &mut self.old)?;
        if pgno != Pgno::ONE {
            return Ok(self.old != page);
        }
        let own = [18..20, 24..28, 92..100];
        let differs = |(at, (old, new)): (usize, (&u8, &u8))| {
            old != new && !own.iter().any(|range| range.contains(&at))
        };
        Ok(self.old.iter().zip(page).enumerate().any(differs))
    }
}

impl PageSource for Difference {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let Some(top) = self.layers.last().cloned() else { return Ok(None) };
        let size = lock(&top)?.size();
        while let Some(pgno) = self.next_candidate(size)? {
            self.after = pgno.get();
            lock(&top)?.read(pgno, page)?;
            if self.differs(pgno, page)? {
                return Ok(Some(pgno));
            }
        }
        Ok(None)
    }
}
