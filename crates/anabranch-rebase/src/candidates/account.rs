//! What each page of a state is, as far as that can be told without reading leaves.

use anabranch_format::{PageSet, Pgno};

use super::btree::{Page, Reader, Visit, number};
use super::{ChangedPages, Odd};

/// The pages that have a place.
pub(super) struct Account {
    /// Those of trees.
    trees: PageSet,
    /// Free ones, and pointer maps.
    others: PageSet,
}

impl Account {
    /// Of the state that `reader` reads, whose trees begin at `roots`.
    pub(super) fn of(reader: &Reader, roots: &[u32]) -> Result<Self, Odd> {
        let empty = || PageSet::new(reader.size);
        let mut account = Account { trees: empty(), others: empty() };
        for root in roots {
            let trees = &mut account.trees;
            reader.walk(*root, &mut |visit| {
                let pgno = match visit {
                    Visit::Interior(page) => page.number,
                    Visit::Leaf(pgno) => pgno,
                };
                once(trees, pgno)
            })?;
        }
        account.add_free(reader)?;
        if reader.has_maps {
            account.add_maps(reader);
        }
        Ok(account)
    }

    fn add_free(&mut self, reader: &Reader) -> Result<(), Odd> {
        let mut trunk = reader.free;
        while trunk != 0 {
            once(&mut self.others, trunk)?;
            let page = reader.bytes(trunk)?;
            let leaves = number(&page, 4) as usize;
            if leaves > reader.usable() / 4 - 2 {
                return Err(Odd::GiveUp);
            }
            for leaf in 0..leaves {
                once(&mut self.others, number(&page, 8 + 4 * leaf))?;
            }
            trunk = number(&page, 0);
        }
        Ok(())
    }

    fn add_maps(&mut self, reader: &Reader) {
        // Each map has an entry of five bytes for each of the pages that follow it.
        let step = reader.usable() / 5 + 1;
        for map in (2..=u64::from(reader.size)).step_by(step) {
            let map = u32::try_from(map).unwrap_or(u32::MAX);
            let map = if map == reader.lock_page.get() { map.saturating_add(1) } else { map };
            Pgno::new(map).map(|map| self.others.insert(map));
        }
    }

    pub(super) fn knows(&self, pgno: Pgno) -> bool {
        self.trees.contains(pgno) || self.others.contains(pgno)
    }

    /// Takes the overflow pages of cells that lie on changed pages of trees out of `suspects`.
    pub(super) fn take_chains(
        &self,
        reader: &Reader,
        changed: &ChangedPages,
        suspects: &mut PageSet,
    ) -> Result<(), Odd> {
        let mut after = 0;
        while !suspects.is_empty()
            && let Some(pgno) = self.trees.next_after(after)
        {
            after = pgno.get();
            if changed.contains(after) {
                take_chains_of(&reader.page(after)?, reader, suspects)?;
            }
        }
        Ok(())
    }
}

fn take_chains_of(page: &Page, reader: &Reader, suspects: &mut PageSet) -> Result<(), Odd> {
    if page.kind.is_interior() && page.kind.is_table() {
        return Ok(());
    }
    for cell in 0..page.cells {
        let at = page.cell(cell)?;
        if let Some(first) = at.overflow {
            reader.chain(first, reader.chain_pages(at.left()), &mut |pgno| {
                Pgno::new(pgno).map(|pgno| suspects.remove(pgno));
                !suspects.is_empty()
            })?;
        }
    }
    Ok(())
}

/// Puts a page in that must not be there yet.
fn once(set: &mut PageSet, pgno: u32) -> Result<(), Odd> {
    match Pgno::new(pgno) {
        Some(pgno) if set.insert(pgno) => Ok(()),
        _ => Err(Odd::GiveUp),
    }
}
