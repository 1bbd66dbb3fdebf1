//! Candidates of a table WITHOUT ROWID: its rows lie in all pages of its tree, in an order that its
//! collations make. So the cells are not merged but compared as a set: those of the pages before are
//! held, and those of the pages after taken out of it.

use std::collections::HashSet;

use anabranch_format::{PageSet, Pgno};

use super::btree::{At, Page, Reader, Visit};
use super::record;
use super::{Finder, KEY_BYTES_MAX, LEAVES_MAX, LEAVES_MIN, Odd, PART, Trees};
use crate::cell::Cell;

/// The keys found so far.
struct Keys {
    columns: usize,
    found: Vec<Vec<Cell>>,
    bytes: usize,
}

impl Keys {
    fn push(&mut self, reader: &Reader, cell: &[u8], at: &At) -> Result<(), Odd> {
        let key = record::key(reader, cell, at, self.columns)?;
        self.bytes += key.iter().map(record::bytes).sum::<usize>();
        if self.bytes > KEY_BYTES_MAX {
            return Err(Odd::GiveUp);
        }
        self.found.push(key);
        Ok(())
    }
}

impl Finder {
    pub(super) fn keys(&mut self, trees: Trees, columns: usize) -> Result<Vec<Vec<Cell>>, Odd> {
        if self.suspects.is_none() || !self.before.utf8 {
            return Err(Odd::GiveUp);
        }
        let before = pages(&self.before, trees.before)?;
        let after = pages(&self.after, trees.after)?;
        let old = self.unlike(&before, &after)?;
        let new = self.unlike(&after, &before)?;
        let (read, all) = ((old.len() + new.len()) as u64, before.len() + after.len());
        if read > LEAVES_MIN && read * PART > all {
            return Err(Odd::GiveUp);
        }
        let mut keys = Keys { columns, found: Vec::new(), bytes: 0 };
        self.compare_sets(&old, &new, &mut keys)?;
        self.look_through_keys(&before, &after, &mut keys)?;
        Ok(keys.found)
    }

    /// The keys of the rows of one state that lie on pages that differ.
    pub(super) fn keys_on(&mut self, root: u32, columns: usize) -> Result<Vec<Vec<Cell>>, Odd> {
        if self.suspects.is_none() || !self.after.utf8 {
            return Err(Odd::GiveUp);
        }
        let all = pages(&self.after, root)?;
        let mut keys = Keys { columns, found: Vec::new(), bytes: 0 };
        for pgno in self.unlike(&all, &all)? {
            let page = index_page(&self.after, pgno)?;
            for cell in 0..page.cells {
                keys.push(&self.after, &page.bytes, &page.cell(cell)?)?;
            }
        }
        self.look_through_keys(&all, &all, &mut keys)?;
        Ok(keys.found)
    }

    /// Looks for changed overflow pages of cells on the pages that both sides share.
    fn look_through_keys(
        &mut self,
        before: &PageSet,
        after: &PageSet,
        keys: &mut Keys,
    ) -> Result<(), Odd> {
        for pgno in before.iter() {
            if !self.has_suspects() {
                break;
            }
            if !self.is_same(pgno.get(), after) {
                continue;
            }
            let page = index_page(&self.before, pgno.get())?;
            for cell in 0..page.cells {
                let at = page.cell(cell)?;
                self.note_if_chain_changed(&page, &at, keys)?;
            }
        }
        Ok(())
    }

    /// The pages of one side that the other has not, or not alike.
    fn unlike(&self, pages: &PageSet, other: &PageSet) -> Result<Vec<u32>, Odd> {
        let unlike = pages.iter().map(Pgno::get).filter(|pgno| !self.is_same(*pgno, other));
        let unlike: Vec<u32> = unlike.take(LEAVES_MAX + 1).collect();
        if unlike.len() > LEAVES_MAX { Err(Odd::GiveUp) } else { Ok(unlike) }
    }

    fn compare_sets(&mut self, old: &[u32], new: &[u32], keys: &mut Keys) -> Result<(), Odd> {
        let mut held: HashSet<Box<[u8]>> = HashSet::new();
        let mut bytes = 0;
        for pgno in old {
            let page = index_page(&self.before, *pgno)?;
            for cell in 0..page.cells {
                let at = page.cell(cell)?;
                bytes += at.whole.len();
                if bytes > KEY_BYTES_MAX {
                    return Err(Odd::GiveUp);
                }
                held.insert(page.bytes[at.whole].into());
            }
        }
        for pgno in new {
            let page = index_page(&self.after, *pgno)?;
            for cell in 0..page.cells {
                let at = page.cell(cell)?;
                if held.remove(&page.bytes[at.whole.clone()]) {
                    self.note_if_chain_changed(&page, &at, keys)?;
                } else {
                    keys.push(&self.after, &page.bytes, &at)?;
                }
            }
        }
        for cell in held {
            let at = record::at(&cell, &self.before)?;
            keys.push(&self.before, &cell, &at)?;
        }
        Ok(())
    }

    /// Notes the key of a cell that is the same on both sides but for its overflow pages: as it was
    /// and as it is, as it may reach into them.
    fn note_if_chain_changed(&mut self, page: &Page, at: &At, keys: &mut Keys) -> Result<(), Odd> {
        if let Some(first) = at.overflow
            && self.chain_changed(first, self.before.chain_pages(at.left()))?
        {
            keys.push(&self.before, &page.bytes, at)?;
            keys.push(&self.after, &page.bytes, at)?;
        }
        Ok(())
    }
}

fn index_page(reader: &Reader, pgno: u32) -> Result<Page, Odd> {
    let page = reader.page(pgno)?;
    if page.kind.is_table() { Err(Odd::GiveUp) } else { Ok(page) }
}

/// All pages of a tree.
fn pages(reader: &Reader, root: u32) -> Result<PageSet, Odd> {
    let mut pages = PageSet::new(reader.size);
    reader.walk(root, &mut |visit| {
        let pgno = match visit {
            Visit::Interior(page) => page.number,
            Visit::Leaf(pgno) => pgno,
        };
        Pgno::new(pgno).map(|pgno| pages.insert(pgno));
        Ok(())
    })?;
    Ok(pages)
}
