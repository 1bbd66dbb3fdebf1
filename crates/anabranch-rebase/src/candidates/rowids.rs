//! Candidates of a table with rowids: both trees have their rows in leaves, in the order of the
//! rowid, so that the leaves that must be read are merged like sorted lists.

use anabranch_format::{PageSet, Pgno};

use super::btree::{At, Kind, Page, Reader, Visit};
use super::{Finder, LEAVES_MAX, LEAVES_MIN, Odd, PART, ROWIDS_MAX, Trees};

impl Finder {
    pub(super) fn rowids(&mut self, trees: Trees) -> Result<Vec<i64>, Odd> {
        if self.suspects.is_none() {
            return Err(Odd::GiveUp);
        }
        let before = leaves(&self.before, trees.before)?;
        let after = leaves(&self.after, trees.after)?;
        let (old, new) = {
            let old = self.wanted(&self.before, trees.before, &after)?;
            (old, self.wanted(&self.after, trees.after, &before)?)
        };
        let (read, all) = ((old.len() + new.len()) as u64, before.len() + after.len());
        if read > LEAVES_MIN && read * PART > all {
            return Err(Odd::GiveUp);
        }
        let mut rowids = self.compare(old, new)?;
        if self.has_suspects() {
            self.look_through(trees.before, &after, &mut rowids)?;
        }
        Ok(rowids)
    }

    /// The rows of one state that lie on pages that differ.
    pub(super) fn rowids_on(&mut self, root: u32) -> Result<Vec<i64>, Odd> {
        if self.suspects.is_none() {
            return Err(Odd::GiveUp);
        }
        let leaves = leaves(&self.after, root)?;
        let mut cells = Cells::new(self.wanted(&self.after, root, &leaves)?);
        let mut rowids = Vec::new();
        while let Some(rowid) = cells.peek(&self.after)? {
            push(&mut rowids, rowid)?;
            cells.step();
        }
        if self.has_suspects() {
            self.look_through(root, &leaves, &mut rowids)?;
        }
        Ok(rowids)
    }

    /// The leaves of a tree that must be read, where the other side has the leaves `other`.
    fn wanted(&self, reader: &Reader, root: u32, other: &PageSet) -> Result<Vec<u32>, Odd> {
        let mut wanted = Vec::new();
        reader.walk(root, &mut |visit| {
            if let Visit::Leaf(pgno) = visit
                && !self.is_same(pgno, other)
            {
                if wanted.len() == LEAVES_MAX {
                    return Err(Odd::GiveUp);
                }
                wanted.push(pgno);
            }
            Ok(())
        })?;
        Ok(wanted)
    }

    fn compare(&mut self, old: Vec<u32>, new: Vec<u32>) -> Result<Vec<i64>, Odd> {
        let (mut old, mut new) = (Cells::new(old), Cells::new(new));
        let mut rowids = Vec::new();
        loop {
            let (a, b) = (old.peek(&self.before)?, new.peek(&self.after)?);
            let rowid = match (a, b) {
                (None, None) => return Ok(rowids),
                (Some(a), Some(b)) => a.min(b),
                (Some(only), None) | (None, Some(only)) => only,
            };
            let mut same = a == b;
            if same && let (Some((left, at)), Some((right, other))) = (old.cell(), new.cell()) {
                same = left[at.whole.clone()] == right[other.whole.clone()];
                if same && let Some(first) = at.overflow {
                    let pages = self.before.chain_pages(at.left());
                    same = !self.chain_changed(first, pages)?;
                }
            }
            if !same {
                push(&mut rowids, rowid)?;
            }
            if a == Some(rowid) {
                old.step();
            }
            if b == Some(rowid) {
                new.step();
            }
        }
    }

    /// Looks for changed overflow pages of cells on the leaves that both sides share.
    fn look_through(
        &mut self,
        root: u32,
        other: &PageSet,
        rowids: &mut Vec<i64>,
    ) -> Result<(), Odd> {
        let mut shared = leaves(&self.before, root)?;
        for pgno in shared.clone().iter() {
            if !self.is_same(pgno.get(), other) {
                shared.remove(pgno);
            }
        }
        let mut after = 0;
        while self.has_suspects()
            && let Some(pgno) = shared.next_after(after)
        {
            after = pgno.get();
            let page = self.before.page(after)?;
            if page.kind != Kind::TableLeaf {
                return Err(Odd::GiveUp);
            }
            for cell in 0..page.cells {
                let at = page.cell(cell)?;
                if let Some(first) = at.overflow
                    && self.chain_changed(first, self.before.chain_pages(at.left()))?
                {
                    push(rowids, at.rowid)?;
                }
            }
        }
        rowids.sort_unstable();
        rowids.dedup();
        Ok(())
    }
}

fn push(rowids: &mut Vec<i64>, rowid: i64) -> Result<(), Odd> {
    if rowids.len() == ROWIDS_MAX {
        return Err(Odd::GiveUp);
    }
    rowids.push(rowid);
    Ok(())
}

/// The leaves of a table's tree.
fn leaves(reader: &Reader, root: u32) -> Result<PageSet, Odd> {
    let mut leaves = PageSet::new(reader.size);
    reader.walk(root, &mut |visit| match visit {
        Visit::Interior(page) if page.kind != Kind::TableInterior => Err(Odd::GiveUp),
        Visit::Interior(_) => Ok(()),
        Visit::Leaf(pgno) => {
            Pgno::new(pgno).map(|pgno| leaves.insert(pgno));
            Ok(())
        }
    })?;
    Ok(leaves)
}

/// The cells of some leaves, in the order of their rowids.
struct Cells {
    leaves: std::vec::IntoIter<u32>,
    page: Option<Page>,
    next: usize,
    at: Option<At>,
    last: Option<i64>,
}

impl Cells {
    fn new(leaves: Vec<u32>) -> Self {
        Cells { leaves: leaves.into_iter(), page: None, next: 0, at: None, last: None }
    }

    /// The rowid of the cell at hand; `None` after the last.
    fn peek(&mut self, reader: &Reader) -> Result<Option<i64>, Odd> {
        while self.at.is_none() {
            match &self.page {
                Some(page) if self.next < page.cells => {
                    let at = page.cell(self.next)?;
                    if self.last.is_some_and(|last| last >= at.rowid) {
                        return Err(Odd::GiveUp);
                    }
                    self.last = Some(at.rowid);
                    self.next += 1;
                    self.at = Some(at);
                }
                _ => {
                    let Some(leaf) = self.leaves.next() else { return Ok(None) };
                    let page = reader.page(leaf)?;
                    if page.kind != Kind::TableLeaf {
                        return Err(Odd::GiveUp);
                    }
                    self.page = Some(page);
                    self.next = 0;
                }
            }
        }
        Ok(self.at.as_ref().map(|at| at.rowid))
    }

    /// The page of the cell at hand, and where it lies there.
    fn cell(&self) -> Option<(&[u8], &At)> {
        Some((&self.page.as_ref()?.bytes, self.at.as_ref()?))
    }

    fn step(&mut self) {
        self.at = None;
    }
}
