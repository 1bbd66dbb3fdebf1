//! Pages of a fixed state of a database, wherever they come from.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use anabranch_format::{PageSize, Pgno};

/// Pages of one state of a database, which does not change while it is read.
pub trait PageRead: Send {
    /// Bytes of a page.
    fn page_size(&self) -> PageSize;

    /// Size of the database in pages, the lock page included.
    fn size(&self) -> u32;

    /// Reads a page, which is at most [`PageRead::size`], into `buf`, which is one page long. The lock
    /// page reads as zeros; page 1 as it stands, with the local fields of wherever it comes from.
    fn read(&mut self, pgno: Pgno, buf: &mut [u8]) -> io::Result<()>;
}

/// A state that several layers and connections read.
pub type SharedPages = Arc<Mutex<dyn PageRead>>;

/// Locks what is shared; fails if somebody panicked while holding it, which may have left it half
/// changed.
pub fn lock<T: ?Sized>(shared: &Mutex<T>) -> io::Result<MutexGuard<'_, T>> {
    shared.lock().map_err(|_| io::Error::other("a thread that used these pages panicked"))
}
