//! The checksum of every page of a database at one position.
//!
//! Frames of a libSQL client say nothing of the database checksum that the log keeps rolling; so the
//! server must know the checksum of each page that they replace: 8 bytes per page. They are gathered
//! by reading the database once, when they are first needed, and moved along with the log.
//!
//! All maps of a server together are bounded ([`PageMaps`]): the one that was used least recently
//! goes, and is gathered anew when it is needed. One that is in use stays, so a database whose map
//! is larger than the bound has it while it is being pushed to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anabranch_format::{DbChecksum, Lsn, PageChecksum, Pgno};

/// Checksums of the pages of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageMap {
    /// The position.
    lsn: Lsn,
    /// By page number from 1; 0 for the lock page, which does not count.
    pages: Vec<u64>,
    sum: DbChecksum,
}

/// What frames change: of each page the last image, whatever size was stated in between.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pages: HashMap<u32, u64>,
    size_after: u32,
}

impl Change {
    /// The next frame.
    pub(crate) fn frame(&mut self, pgno: Pgno, commit_size: u32, page: &[u8]) {
        self.pages.insert(pgno.get(), PageChecksum::of(pgno, page).0);
        if commit_size != 0 {
            self.size_after = commit_size;
        }
    }

    fn remaining(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let within = self.pages.iter().filter(|(pgno, _)| **pgno <= self.size_after);
        within.map(|(pgno, sum)| (*pgno as usize - 1, *sum))
    }
}

impl PageMap {
    /// The map of the empty database.
    pub(crate) fn empty() -> Self {
        PageMap { lsn: Lsn::ZERO, pages: Vec::new(), sum: DbChecksum::EMPTY }
    }

    /// A map of `size` pages at `lsn`, to be filled with [`PageMap::set`].
    pub(crate) fn new(lsn: Lsn, size: u32) -> Self {
        PageMap { lsn, pages: vec![0; size as usize], sum: DbChecksum::EMPTY }
    }

    /// Notes a page that was not noted before.
    pub(crate) fn set(&mut self, pgno: Pgno, page: &[u8]) {
        if let Some(slot) = self.pages.get_mut(pgno.get() as usize - 1) {
            *slot = PageChecksum::of(pgno, page).0;
            self.sum.toggle(PageChecksum(*slot));
        }
    }

    pub(crate) fn lsn(&self) -> Lsn {
        self.lsn
    }

    pub(crate) fn sum(&self) -> DbChecksum {
        self.sum
    }

    /// Memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.capacity() * size_of::<u64>() + size_of::<Self>()
    }

    /// The database checksum after `change`.
    pub(crate) fn sum_after(&self, change: &Change) -> DbChecksum {
        let mut sum = self.sum;
        for (index, new) in change.remaining() {
            sum.toggle(PageChecksum(self.pages.get(index).copied().unwrap_or(0)));
            sum.toggle(PageChecksum(new));
        }
        for gone in self.pages.iter().skip(change.size_after as usize) {
            sum.toggle(PageChecksum(*gone));
        }
        sum
    }

    /// Moves on to `lsn` by `change`.
    pub(crate) fn apply(&mut self, lsn: Lsn, change: &Change) {
        self.sum = self.sum_after(change);
        self.lsn = lsn;
        self.pages.resize(change.size_after as usize, 0);
        for (index, new) in change.remaining() {
            self.pages[index] = new;
        }
    }
}

/// Where one database keeps its map. Empty while somebody works with it, and after it was dropped.
pub(crate) type MapSlot = Arc<Mutex<Option<PageMap>>>;

/// A slot with a map in it, and the memory that it takes.
type Place = (Weak<Mutex<Option<PageMap>>>, usize);

/// All maps of a server.
#[derive(Debug)]
pub(crate) struct PageMaps {
    bytes_max: usize,
    /// Least recently used first.
    kept: Mutex<Vec<Place>>,
}

impl PageMaps {
    /// At most `bytes_max` in all.
    pub(crate) fn new(bytes_max: usize) -> Self {
        PageMaps { bytes_max, kept: Mutex::default() }
    }

    /// Takes the map out of `slot`.
    pub(crate) fn take(&self, slot: &MapSlot) -> Option<PageMap> {
        let map = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.lock().retain(|(kept, _)| !is(kept, slot));
        map
    }

    /// Puts `map` into `slot`, and drops others until all fit.
    pub(crate) fn put(&self, slot: &MapSlot, map: PageMap) {
        let bytes = map.bytes();
        if bytes > self.bytes_max {
            return;
        }
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(map);
        let mut kept = self.lock();
        kept.retain(|(other, _)| other.strong_count() > 0 && !is(other, slot));
        kept.push((Arc::downgrade(slot), bytes));
        while kept.iter().map(|(_, bytes)| bytes).sum::<usize>() > self.bytes_max {
            let (least, _) = kept.remove(0);
            if let Some(least) = least.upgrade() {
                *least.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Place>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is(kept: &Weak<Mutex<Option<PageMap>>>, slot: &MapSlot) -> bool {
    std::ptr::eq(kept.as_ptr(), Arc::as_ptr(slot))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pgno(n: u32) -> Pgno {
        Pgno::new(n).unwrap()
    }

    fn map_of(lsn: u64, pages: &[u8]) -> PageMap {
        let mut map = PageMap::new(Lsn::new(lsn), u32::try_from(pages.len()).unwrap());
        for (n, fill) in (1..).zip(pages) {
            map.set(pgno(n), &[*fill; 512]);
        }
        map
    }

    proptest! {
        #[test]
        fn a_change_leads_to_the_map_of_the_database_after_it(
            before in prop::collection::vec(any::<u8>(), 0..10),
            transactions in prop::collection::vec(
                (1usize..10, prop::collection::vec((any::<usize>(), any::<u8>()), 0..5)), 1..5),
        ) {
            let mut pages = before.clone();
            let mut change = Change::default();
            for (size, touched) in &transactions {
                let old = pages.len();
                pages.resize(*size, 0);
                let grown = (old..*size).map(|n| (n, 7));
                let touched = touched.iter().map(|(n, fill)| (n % size, *fill));
                for (n, fill) in touched.chain(grown) {
                    pages[n] = fill;
                    change.frame(pgno(u32::try_from(n).unwrap() + 1), 0, &[fill; 512]);
                }
                let first = pages[0];
                change.frame(pgno(1), u32::try_from(*size).unwrap(), &[first; 512]);
            }
            let mut map = map_of(1, &before);
            let sum = map.sum_after(&change);
            map.apply(Lsn::new(2), &change);
            prop_assert_eq!(map.sum(), sum);
            let expected = map_of(2, &pages);
            prop_assert_eq!((map.sum(), &map.pages), (expected.sum(), &expected.pages));
        }
    }

    #[test]
    fn the_map_that_was_used_least_recently_goes() {
        let one = map_of(1, &[1; 100]).bytes();
        let maps = PageMaps::new(2 * one + one / 2);
        let slots: Vec<MapSlot> = (0..3).map(|_| MapSlot::default()).collect();
        let there = |slot: &MapSlot| slot.lock().unwrap().is_some();
        maps.put(&slots[0], map_of(1, &[1; 100]));
        maps.put(&slots[1], map_of(1, &[1; 100]));
        let used = maps.take(&slots[0]).unwrap();
        maps.put(&slots[0], used);
        maps.put(&slots[2], map_of(1, &[1; 100]));
        assert!(there(&slots[0]) && !there(&slots[1]) && there(&slots[2]));
        maps.put(&slots[1], map_of(1, &[1; 1000]));
        assert!(!there(&slots[1]), "larger than all may be");
    }
}
