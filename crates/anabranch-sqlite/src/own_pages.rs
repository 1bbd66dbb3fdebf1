//! The pages of one layer: in memory up to a bound, then in an anonymous temporary file.
//!
//! In the file each page stands where it would stand in the database, so that no index is needed but
//! a bit for each page of the database. File systems keep no space for the gaps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anabranch_format::{PageSize, Pgno};

use anabranch_format::PageSet;

use crate::positional::{read_exact_at, write_all_at};

/// Images of pages by number.
pub(crate) struct OwnPages {
    page_size: PageSize,
    memory_bytes_max: usize,
    folder: PathBuf,
    memory: BTreeMap<Pgno, Box<[u8]>>,
    spilled: Option<Spilled>,
}

/// What did not fit into memory, together with what did.
struct Spilled {
    file: File,
    set: PageSet,
}

impl OwnPages {
    /// No pages, that will overflow into `folder`.
    pub(crate) fn new(page_size: PageSize, folder: &Path, memory_bytes_max: usize) -> Self {
        let folder = folder.to_owned();
        let memory = BTreeMap::new();
        OwnPages { page_size, memory_bytes_max, folder, memory, spilled: None }
    }

    /// Keeps a page, in place of an earlier image of it.
    pub(crate) fn put(&mut self, pgno: Pgno, image: &[u8]) -> io::Result<()> {
        if let Some(spilled) = &mut self.spilled {
            return spilled.put(self.page_size, pgno, image);
        }
        if let Some(page) = self.memory.get_mut(&pgno) {
            page.copy_from_slice(image);
            return Ok(());
        }
        if (self.memory.len() + 1) * self.page_size.bytes() > self.memory_bytes_max {
            let mut spilled =
                Spilled { file: tempfile::tempfile_in(&self.folder)?, set: PageSet::new(0) };
            for (pgno, image) in &self.memory {
                spilled.put(self.page_size, *pgno, image)?;
            }
            spilled.put(self.page_size, pgno, image)?;
            self.memory.clear();
            self.spilled = Some(spilled);
            return Ok(());
        }
        self.memory.insert(pgno, image.into());
        Ok(())
    }

    /// Reads a page; `false` if it is not here.
    pub(crate) fn get(&self, pgno: Pgno, image: &mut [u8]) -> io::Result<bool> {
        match &self.spilled {
            Some(spilled) if spilled.set.contains(pgno) => {
                read_exact_at(&spilled.file, image, offset(self.page_size, pgno))?;
                Ok(true)
            }
            Some(_) => Ok(false),
            None => Ok(self.memory.get(&pgno).map(|page| image.copy_from_slice(page)).is_some()),
        }
    }

    pub(crate) fn contains(&self, pgno: Pgno) -> bool {
        match &self.spilled {
            Some(spilled) => spilled.set.contains(pgno),
            None => self.memory.contains_key(&pgno),
        }
    }

    /// The first page after the one numbered `after`.
    pub(crate) fn next_after(&self, after: u32) -> Option<Pgno> {
        match &self.spilled {
            Some(spilled) => spilled.set.next_after(after),
            None => {
                let first = Pgno::new(after.checked_add(1)?)?;
                self.memory.range(first..).next().map(|(pgno, _)| *pgno)
            }
        }
    }

    /// Forgets all pages above `size`.
    pub(crate) fn truncate(&mut self, size: u32) -> io::Result<()> {
        if let Some(first) = size.checked_add(1).and_then(Pgno::new) {
            self.memory.split_off(&first);
        }
        if let Some(spilled) = &mut self.spilled {
            let end = u64::from(size) * u64::from(self.page_size.get());
            if spilled.file.metadata()?.len() > end {
                spilled.file.set_len(end)?;
            }
            spilled.set.remove_above(size);
        }
        Ok(())
    }

    /// How many pages there are.
    pub(crate) fn len(&self) -> u64 {
        match &self.spilled {
            Some(spilled) => spilled.set.len(),
            None => self.memory.len() as u64,
        }
    }
}

impl Spilled {
    fn put(&mut self, page_size: PageSize, pgno: Pgno, image: &[u8]) -> io::Result<()> {
        write_all_at(&self.file, image, offset(page_size, pgno))?;
        self.set.grow(pgno.get());
        self.set.insert(pgno);
        Ok(())
    }
}

fn offset(page_size: PageSize, pgno: Pgno) -> u64 {
    u64::from(pgno.get() - 1) * u64::from(page_size.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_the_same_in_memory_and_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let p = |n| Pgno::new(n).unwrap();
        for memory in [0, 2 * 512, 1 << 20] {
            let mut own = OwnPages::new(PageSize::MIN, folder.path(), memory);
            for (n, byte) in [(9, 1), (4, 2), (4_000_000, 3), (9, 4), (5, 5)] {
                own.put(p(n), &[byte; 512]).unwrap();
            }
            assert_eq!(own.spilled.is_some(), memory < 4 * 512);
            let mut image = [0; 512];
            for (n, byte) in [(9, 4), (4, 2), (4_000_000, 3), (5, 5)] {
                assert!(own.get(p(n), &mut image).unwrap() && own.contains(p(n)));
                assert_eq!(image, [byte; 512]);
            }
            assert!(!own.get(p(6), &mut image).unwrap() && !own.contains(p(6)));
            assert_eq!((own.len(), own.next_after(5)), (4, Some(p(9))));
            own.truncate(5).unwrap();
            assert_eq!((own.len(), own.next_after(5)), (2, None));
            own.put(p(9), &[6; 512]).unwrap();
            assert!(own.get(p(9), &mut image).unwrap());
            assert_eq!((image, own.next_after(4)), ([6; 512], Some(p(5))));
            assert!(!own.contains(p(4_000_000)));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no name");
        }
    }
}
