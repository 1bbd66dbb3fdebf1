//! Pages of a delta, kept between checking and writing them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anabranch_format::{DeltaError, PageSize, PageSource, Pgno};
use anabranch_store::{Progress, Step};

use crate::page_count::Pages;

/// Up to this much is kept in memory; beyond, in an anonymous temporary file.
const MEMORY_BYTES_MAX: usize = 40 << 20;
const BUFFER_BYTES: usize = 256 * 1024;

/// Pages in ascending order, written once and read any number of times.
pub(crate) struct PageSpool {
    page_size: PageSize,
    folder: PathBuf,
    /// Each page with its number before it.
    memory: Vec<u8>,
    file: Option<BufWriter<File>>,
    pages: u64,
}

impl PageSpool {
    /// A spool that overflows into `folder`.
    pub(crate) fn new(page_size: PageSize, folder: &Path) -> Self {
        let folder = folder.to_owned();
        PageSpool { page_size, folder, memory: Vec::new(), file: None, pages: 0 }
    }

    /// How many pages it holds.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Adds a page.
    pub(crate) fn push(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        self.pages += 1;
        if self.file.is_none() && self.memory.len() + page.len() + 4 > MEMORY_BYTES_MAX {
            let mut file =
                BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile_in(&self.folder)?);
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => {
                file.write_all(&pgno.get().to_le_bytes())?;
                file.write_all(page)
            }
            None => {
                self.memory.extend_from_slice(&pgno.get().to_le_bytes());
                self.memory.extend_from_slice(page);
                Ok(())
            }
        }
    }

    /// Reads the pages from the first on, telling `progress` of each that is applied.
    pub(crate) fn source(
        &mut self,
        progress: Option<&Progress>,
    ) -> io::Result<impl PageSource + '_> {
        let total = self.pages * u64::from(self.page_size.get());
        let counted = progress.map(|p| Pages::of(p, Step::Applying, total, self.page_size));
        let reader: Box<dyn Read> = match &mut self.file {
            Some(file) => {
                file.flush()?;
                let file = file.get_mut();
                file.seek(SeekFrom::Start(0))?;
                Box::new(BufReader::with_capacity(BUFFER_BYTES, file))
            }
            None => Box::new(&self.memory[..]),
        };
        Ok(SpoolSource { reader, left: self.pages, counted })
    }
}

struct SpoolSource<'a> {
    reader: Box<dyn Read + 'a>,
    left: u64,
    counted: Option<Pages>,
}

impl PageSource for SpoolSource<'_> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut number = [0; 4];
        self.reader.read_exact(&mut number)?;
        self.reader.read_exact(page)?;
        self.left -= 1;
        if let Some(counted) = &mut self.counted {
            counted.one();
        }
        let pgno = Pgno::new(u32::from_le_bytes(number));
        pgno.map(Some).ok_or_else(|| io::Error::other("a page number of 0 in the spool").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_in_order_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for count in [3u32, 800] {
            let mut spool = PageSpool::new(PageSize::MAX, folder.path());
            let page_of = |n: u32| vec![n.to_le_bytes()[0]; 65536];
            for n in 1..=count {
                spool.push(Pgno::new(n * 2).unwrap(), &page_of(n)).unwrap();
            }
            assert_eq!(spool.file.is_some(), count == 800);
            for _twice in 0..2 {
                let mut source = spool.source(None).unwrap();
                let mut page = vec![0; 65536];
                for n in 1..=count {
                    assert_eq!(source.next_page(&mut page).unwrap().unwrap().get(), n * 2);
                    assert_eq!(page, page_of(n));
                }
                assert!(source.next_page(&mut page).unwrap().is_none());
            }
        }
    }
}
