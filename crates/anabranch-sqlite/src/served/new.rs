//! Makes a served file of the pages of a database.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anabranch_format::{PageOne, PageSize, Pgno};
use rusqlite::Connection;

use super::{BUSY, ServedFile};
use crate::error::FileError;
use crate::live::sqlite_error;
use crate::positional::write_all_at;

/// A served file in the making: nobody has it open as a database yet.
#[derive(Debug)]
pub struct NewServedFile {
    path: PathBuf,
    file: File,
    page_size: PageSize,
    size: u32,
}

impl NewServedFile {
    /// Starts a file for a database of `size` pages. What stands at `path` goes, its `-wal` and `-shm`
    /// too.
    pub fn create(path: &Path, page_size: PageSize, size: u32) -> Result<Self, FileError> {
        let fail = |source| FileError::Io { path: path.into(), what: "creating", source };
        ServedFile::remove(path).map_err(fail)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        Ok(NewServedFile { path: path.into(), file: file.map_err(fail)?, page_size, size })
    }

    /// Writes a page, in any order.
    pub fn page(&self, pgno: Pgno, page: &[u8]) -> Result<(), FileError> {
        let written = if pgno == Pgno::ONE {
            let mut page = page.to_vec();
            let one = PageOne::read(&page)
                .map_err(|source| FileError::PageOne { path: self.path.clone(), source })?;
            (page[18], page[19]) = (2, 2);
            // SQLite takes the size in the header for true if these two are equal.
            let valid = one.change_counter.wrapping_sub(u32::from(one.db_size != self.size));
            page[92..96].copy_from_slice(&valid.to_be_bytes());
            self.write(pgno, &page)
        } else {
            self.write(pgno, page)
        };
        written.map_err(|source| self.failed(source))
    }

    fn write(&self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        let offset = u64::from(pgno.get() - 1) * u64::from(self.page_size.get());
        write_all_at(&self.file, page, offset)
    }

    /// Opens it as a database.
    pub fn finish(self) -> Result<ServedFile, FileError> {
        let bytes = u64::from(self.size) * u64::from(self.page_size.get());
        self.file.set_len(bytes).map_err(|source| self.failed(source))?;
        if self.size == 0 {
            self.make_empty().map_err(|e| sqlite_error(&self.path, "creating", BUSY, e))?;
        }
        let NewServedFile { path, file, .. } = self;
        drop(file);
        ServedFile::open(&path)
    }

    /// A database without content has no page in the log; here it has one.
    fn make_empty(&self) -> rusqlite::Result<()> {
        let conn = Connection::open(&self.path)?;
        conn.pragma_update(None, "page_size", self.page_size.get())?;
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
    }

    fn failed(&self, source: io::Error) -> FileError {
        FileError::Io { path: self.path.clone(), what: "writing", source }
    }
}
