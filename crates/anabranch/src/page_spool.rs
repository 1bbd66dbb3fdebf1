//! Pages of a delta, kept between checking and writing them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anabranch_format::{DeltaError, PageSize, PageSource, Pgno};
use anabranch_store::{Progress, Step};

use crate::page_count::Pages;

/// Up to this much is kept in memory; beyond, in an anonymous temporary file.
const MEMORY_BYTES_MAX: u64 = 40 << 20;
const BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of a block in memory.
const BLOCK_BYTES: usize = 1 << 20;

/// Pages in ascending order, written once and read any number of times.
pub(crate) struct PageSpool {
    page_size: PageSize,
    folder: PathBuf,
    /// Each page with its number before it, in blocks, so that growing copies nothing.
    memory: Vec<Vec<u8>>,
    file: Option<BufWriter<File>>,
    pages: u64,
}

impl PageSpool {
    /// A spool that overflows into `folder`.
    pub(crate) fn new(page_size: PageSize, folder: &Path) -> Self {
        let folder = folder.to_owned();
        PageSpool { page_size, folder, memory: Vec::new(), file: None, pages: 0 }
    }

    /// Adds a page.
    pub(crate) fn push(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        self.pages += 1;
        let entry_bytes = page.len() + 4;
        if self.file.is_none() && self.pages * entry_bytes as u64 > MEMORY_BYTES_MAX {
            let mut file =
                BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile_in(&self.folder)?);
            for block in std::mem::take(&mut self.memory) {
                file.write_all(&block)?;
            }
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => {
                file.write_all(&pgno.get().to_le_bytes())?;
                file.write_all(page)
            }
            None => {
                let full = |block: &Vec<u8>| block.len() + entry_bytes > block.capacity();
                if self.memory.last().is_none_or(full) {
                    self.memory.push(Vec::with_capacity(BLOCK_BYTES));
                }
                if let Some(block) = self.memory.last_mut() {
                    block.extend_from_slice(&pgno.get().to_le_bytes());
                    block.extend_from_slice(page);
                }
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
            None => Box::new(Blocks { blocks: self.memory.iter(), at: &[] }),
        };
        Ok(SpoolSource { reader, left: self.pages, counted })
    }
}

/// Blocks of memory, read one after the other.
struct Blocks<'a> {
    blocks: std::slice::Iter<'a, Vec<u8>>,
    at: &'a [u8],
}

impl Read for Blocks<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at.is_empty() {
            match self.blocks.next() {
                Some(block) => self.at = block,
                None => return Ok(0),
            }
        }
        self.at.read(buf)
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
