//! Whole databases and changes, in page order, out of a downloaded image and the frames after it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anabranch_format::{DeltaError, PageOne, PageSource, Pgno};

use super::error::LibsqlError;
use super::inbox::Inbox;
use super::{PAGE_BYTES, PAGE_SIZE};

/// More pages than a database can have.
const EXPORT_BYTES_MAX: u64 = u32::MAX as u64 * PAGE_BYTES as u64;
const BUFFER_BYTES: usize = 256 * 1024;

/// The base of a generation, downloaded.
#[derive(Debug)]
pub(super) struct Export {
    file: File,
    /// Size in pages.
    pub(super) pages: u32,
    /// It holds no table or anything else.
    pub(super) is_empty: bool,
}

/// An image on its way into an anonymous file.
#[derive(Debug)]
pub(super) struct ExportWriter {
    generation: u32,
    folder: PathBuf,
    file: File,
    len: u64,
}

impl ExportWriter {
    pub(super) fn new(generation: u32, folder: &Path) -> Result<Self, LibsqlError> {
        let failed = |source| LibsqlError::Scratch { folder: folder.to_owned(), source };
        let file = tempfile::tempfile_in(folder).map_err(failed)?;
        Ok(ExportWriter { generation, folder: folder.to_owned(), file, len: 0 })
    }

    /// Adds what came.
    pub(super) fn write(mut self, bytes: &[u8]) -> Result<Self, LibsqlError> {
        self.len += bytes.len() as u64;
        if self.len > EXPORT_BYTES_MAX {
            return Err(self.no_database("it is longer than any database".to_owned()));
        }
        self.file.write_all(bytes).map_err(|e| self.failed(e))?;
        Ok(self)
    }

    /// Nothing more comes: checks that it is a database.
    pub(super) fn finish(mut self) -> Result<Export, LibsqlError> {
        let page_bytes = PAGE_BYTES as u64;
        if self.len == 0 || !self.len.is_multiple_of(page_bytes) {
            return Err(self.no_database(format!("{} bytes are no whole pages of 4096", self.len)));
        }
        let mut page = vec![0; PAGE_BYTES];
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.read_exact(&mut page))
            .map_err(|e| self.failed(e))?;
        let one = page_one(&page).map_err(|what| self.no_database(what))?;
        let there = u32::try_from(self.len / page_bytes).unwrap_or(u32::MAX);
        // The header counts as SQLite counts it: only if it is not older than the last change.
        let stated = (one.change_counter == one.version_valid_for).then_some(one.db_size);
        let pages = stated.filter(|pages| *pages > 0).unwrap_or(there);
        if pages > there {
            let what = format!("it states {pages} pages, but {there} came");
            return Err(self.no_database(what));
        }
        let is_empty = pages == 1 && is_schema_empty(&page);
        Ok(Export { file: self.file, pages, is_empty })
    }

    fn no_database(&self, what: String) -> LibsqlError {
        LibsqlError::Export { generation: self.generation, what }
    }

    fn failed(&self, source: io::Error) -> LibsqlError {
        LibsqlError::Scratch { folder: self.folder.clone(), source }
    }
}

impl Export {
    /// Whether an image that consists of the one page `page` is a database without content.
    pub(super) fn is_empty_page(generation: u32, page: &[u8]) -> Result<bool, LibsqlError> {
        let checked = match page.len() {
            PAGE_BYTES => page_one(page),
            other => Err(format!("{other} bytes are no whole pages of 4096")),
        };
        match checked {
            Ok(_) => Ok(is_schema_empty(page)),
            Err(what) => Err(LibsqlError::Export { generation, what }),
        }
    }
}

fn page_one(page: &[u8]) -> Result<PageOne, String> {
    let one = PageOne::read(page).map_err(|e| e.to_string())?;
    if one.page_size != PAGE_SIZE {
        return Err(format!("its pages have {} bytes, not 4096", one.page_size));
    }
    Ok(one)
}

/// Whether the schema's b-tree, which begins behind the header of page 1, is one leaf without cells.
fn is_schema_empty(page: &[u8]) -> bool {
    const LEAF: u8 = 13;
    page.get(100..105).is_some_and(|tree| tree[0] == LEAF && tree[3..5] == [0, 0])
}

/// The pages of a change, or of a whole database, ascending.
pub(super) struct Pages {
    base: Option<BaseReader>,
    inbox: Inbox,
    size: u32,
    /// Numbers below it have been handed out.
    next: u32,
}

struct BaseReader {
    file: BufReader<File>,
    pages: u32,
    /// Where the file stands.
    at: u64,
}

impl BaseReader {
    fn page(&mut self, pgno: u32, page: &mut [u8]) -> io::Result<()> {
        let wanted = u64::from(pgno - 1) * PAGE_BYTES as u64;
        let skip = i64::try_from(wanted - self.at).map_err(io::Error::other)?;
        self.file.seek_relative(skip)?;
        self.file.read_exact(page)?;
        self.at = wanted + PAGE_BYTES as u64;
        Ok(())
    }
}

impl Pages {
    /// What `inbox` holds; or the whole database, where the image is given that it follows.
    pub(super) fn new(base: Option<Export>, inbox: Inbox, size: u32) -> io::Result<Self> {
        let base = match base {
            None => None,
            Some(mut export) => {
                export.file.seek(SeekFrom::Start(0))?;
                let file = BufReader::with_capacity(BUFFER_BYTES, export.file);
                Some(BaseReader { file, pages: export.pages, at: 0 })
            }
        };
        Ok(Pages { base, inbox, size, next: 1 })
    }

    fn next_number(&self) -> Option<u32> {
        let lock_page = PAGE_SIZE.lock_page().get();
        let next = match &self.base {
            None => self.inbox.next_from(self.next)?,
            Some(_) if self.next == lock_page => lock_page + 1,
            Some(_) => self.next,
        };
        (next <= self.size).then_some(next)
    }
}

impl PageSource for Pages {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let Some(number) = self.next_number() else { return Ok(None) };
        let missing = || io::Error::other(format!("page {number} did not come"));
        let pgno = Pgno::new(number).ok_or_else(missing)?;
        if self.inbox.page(number, page)?.is_none() {
            match &mut self.base {
                Some(base) if number <= base.pages => base.page(number, page)?,
                _ => return Err(missing().into()),
            }
        }
        if pgno == Pgno::ONE {
            let one = PageOne::read(page).map_err(io::Error::other)?;
            if one.change_counter == one.version_valid_for && one.db_size != self.size {
                let what = format!("page 1 states {} pages, not {}", one.db_size, self.size);
                return Err(io::Error::other(what).into());
            }
        }
        // Beyond the last number there is none to ask for.
        self.next = number.saturating_add(1);
        Ok(Some(pgno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(pages: u32) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_BYTES * pages as usize];
        bytes[..16].copy_from_slice(anabranch_format::SQLITE_MAGIC);
        bytes[16..18].copy_from_slice(&[16, 0]);
        anabranch_format::canonicalise_page_one(&mut bytes, 1, pages);
        bytes[100] = 13;
        bytes
    }

    fn finish(bytes: &[u8]) -> Result<Export, LibsqlError> {
        let folder = tempfile::tempdir().unwrap();
        ExportWriter::new(1, folder.path()).unwrap().write(bytes)?.finish()
    }

    #[test]
    fn an_image_is_whole_pages_of_a_database() {
        let export = finish(&image(3)).unwrap();
        assert_eq!((export.pages, export.is_empty), (3, false));
        assert!(finish(&image(1)).unwrap().is_empty);
        let mut larger = image(3);
        anabranch_format::canonicalise_page_one(&mut larger, 1, 4);
        let mut other_size = image(1);
        other_size[16..18].copy_from_slice(&[32, 0]);
        for bad in [&[][..], &image(3)[..9000], b"<html>", &[0; 4096], &larger, &other_size] {
            assert!(matches!(finish(bad), Err(LibsqlError::Export { .. })), "{}", bad.len());
        }
    }

    #[test]
    fn a_whole_database_is_the_image_under_what_came_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = image(3);
        bytes[2 * PAGE_BYTES..].fill(3);
        let export = finish(&bytes).unwrap();
        let mut pages = Pages::new(Some(export), Inbox::new(folder.path(), Some(3)), 3).unwrap();
        let mut page = vec![0; PAGE_BYTES];
        let mut seen = Vec::new();
        while let Some(pgno) = pages.next_page(&mut page).unwrap() {
            seen.push((pgno.get(), page[4000]));
        }
        assert_eq!(seen, [(1, 0), (2, 0), (3, 3)]);
    }
}
