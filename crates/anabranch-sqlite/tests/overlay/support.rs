//! What the tests share.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_format::{LOCAL_FIELDS, PageSize, PageSource, Pgno};
use anabranch_sqlite::{LiveFile, Overlay, PageRead, PinnedView, SharedOverlay, SharedPages};
use rusqlite::Connection;

pub(crate) fn p(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}

/// A pinned view of the database at `path`.
pub(crate) fn pinned(path: &Path) -> SharedPages {
    let live = LiveFile::open(path, Duration::from_secs(5)).unwrap();
    Arc::new(Mutex::new(PinnedView::begin(live).unwrap()))
}

pub(crate) fn layer_on(lower: SharedPages, folder: &Path) -> SharedOverlay {
    Overlay::with_memory(lower, folder, 64 << 10).unwrap().shared()
}

/// All pages of a state, those of page 1 that are local set to zero.
pub(crate) fn image_of(pages: &SharedPages) -> Vec<Vec<u8>> {
    let mut pages = pages.lock().unwrap();
    let (size, bytes) = (pages.size(), pages.page_size().bytes());
    let mut image = Vec::new();
    for n in 1..=size {
        let mut page = vec![0; bytes];
        pages.read(p(n), &mut page).unwrap();
        image.push(page);
    }
    mask(&mut image);
    image
}

fn mask(image: &mut [Vec<u8>]) {
    if let Some(one) = image.first_mut() {
        for range in LOCAL_FIELDS {
            one[range].fill(0);
        }
    }
}

/// The same of a file that nobody has open.
pub(crate) fn image_of_file(path: &Path, page_size: PageSize) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut image: Vec<_> = bytes.chunks(page_size.bytes()).map(<[u8]>::to_vec).collect();
    mask(&mut image);
    image
}

/// The numbers of all pages that a source gives.
pub(crate) fn numbers(mut source: impl PageSource, page_size: PageSize) -> Vec<u32> {
    let mut page = vec![0; page_size.bytes()];
    let mut numbers = Vec::new();
    while let Some(pgno) = source.next_page(&mut page).unwrap() {
        numbers.push(pgno.get());
    }
    numbers
}

pub(crate) fn integrity(conn: &Connection) -> String {
    conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

pub(crate) fn count(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// What a [`Faulty`] state does when it is asked for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Error,
    Panic,
}

/// A state that fails from the read number `after` on.
pub(crate) struct Faulty {
    pub(crate) pages: SharedPages,
    pub(crate) fault: Fault,
    pub(crate) after: u32,
}

impl PageRead for Faulty {
    fn page_size(&self) -> PageSize {
        self.pages.lock().unwrap().page_size()
    }

    fn size(&self) -> u32 {
        self.pages.lock().unwrap().size()
    }

    fn read(&mut self, pgno: Pgno, buf: &mut [u8]) -> io::Result<()> {
        if self.after == 0 {
            match self.fault {
                Fault::Error => return Err(io::Error::other("the disk is on fire")),
                Fault::Panic => panic!("a fault of the test"),
            }
        }
        self.after = self.after.saturating_sub(1);
        self.pages.lock().unwrap().read(pgno, buf)
    }
}
