//! A set of pages of one database: a bit per page, so it stays far below the base map's size.

use crate::page::Pgno;

/// A set of pages up to a fixed number.
#[derive(Debug, Clone)]
pub struct PageSet {
    words: Vec<u64>,
    last: u32,
}

impl PageSet {
    /// An empty set for pages up to `last`.
    #[must_use]
    pub fn new(last: u32) -> Self {
        PageSet { words: vec![0; last as usize / 64 + 1], last }
    }

    /// Puts a page in; pages above the last are none of the set's and ignored. Answers whether the
    /// set changed.
    pub fn insert(&mut self, pgno: Pgno) -> bool {
        if pgno.get() > self.last {
            return false;
        }
        let (word, bit) = (pgno.get() as usize / 64, 1 << (pgno.get() % 64));
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    /// Whether a page is in.
    #[must_use]
    pub fn contains(&self, pgno: Pgno) -> bool {
        pgno.get() <= self.last
            && self.words[pgno.get() as usize / 64] & (1 << (pgno.get() % 64)) != 0
    }

    /// Whether there is no page in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The last page that there is room for.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.last
    }

    /// Makes room for pages up to `last`.
    pub fn grow(&mut self, last: u32) {
        if last > self.last {
            self.words.resize(last as usize / 64 + 1, 0);
            self.last = last;
        }
    }

    /// Puts all pages of `other` in as well.
    pub fn add(&mut self, other: &PageSet) {
        self.grow(other.last);
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Takes a page out. Answers whether it was in.
    pub fn remove(&mut self, pgno: Pgno) -> bool {
        let was = self.contains(pgno);
        if was {
            self.words[pgno.get() as usize / 64] &= !(1 << (pgno.get() % 64));
        }
        was
    }

    /// Takes out all pages above `last`.
    pub fn remove_above(&mut self, last: u32) {
        if last >= self.last {
            return;
        }
        let (word, bit) = (last as usize / 64, last % 64);
        self.words.truncate(word + 1);
        self.words[word] &= u64::MAX >> (63 - bit);
        self.last = last;
    }

    /// The first page after the one numbered `after`.
    #[must_use]
    pub fn next_after(&self, after: u32) -> Option<Pgno> {
        let first = after.checked_add(1)?;
        let (start, bit) = (first / 64, first % 64);
        let words = self.words.get(start as usize..)?;
        let mut mask = u64::MAX << bit;
        for (word, index) in words.iter().zip(start..) {
            let found = word & mask;
            if found != 0 {
                return Pgno::new(index * 64 + found.trailing_zeros());
            }
            mask = u64::MAX;
        }
        None
    }

    /// How many pages are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The pages, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Pgno> {
        self.words.iter().zip(0u32..).filter(|(word, _)| **word != 0).flat_map(|(word, index)| {
            let word = *word;
            (0..64)
                .filter(move |bit| word & (1 << bit) != 0)
                .filter_map(move |bit| Pgno::new(index * 64 + bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_ascending_and_once() {
        let mut set = PageSet::new(200);
        let p = |n| Pgno::new(n).unwrap();
        for n in [200, 1, 64, 63, 128, 64, 201] {
            set.insert(p(n));
        }
        assert_eq!(set.iter().map(Pgno::get).collect::<Vec<_>>(), [1, 63, 64, 128, 200]);
        assert!(set.contains(p(128)) && !set.contains(p(127)) && !set.contains(p(201)));
        assert!(!set.insert(p(64)) && set.insert(p(65)));
    }

    #[test]
    fn a_set_grows_and_takes_in_another() {
        let p = |n| Pgno::new(n).unwrap();
        let (mut set, mut other) = (PageSet::new(0), PageSet::new(300));
        assert!(set.is_empty() && other.is_empty());
        other.insert(p(300));
        set.grow(3);
        set.insert(p(3));
        set.add(&other);
        other.add(&set);
        for set in [&set, &other] {
            assert_eq!(set.iter().map(Pgno::get).collect::<Vec<_>>(), [3, 300]);
        }
        set.grow(1);
        assert!(set.contains(p(300)), "it never shrinks");
    }

    #[test]
    fn the_next_page_is_found_and_those_above_a_size_go() {
        let p = |n| Pgno::new(n).unwrap();
        let mut set = PageSet::new(300);
        for n in [1, 63, 64, 127, 128, 300] {
            set.insert(p(n));
        }
        let walk = |set: &PageSet| {
            let mut found = vec![0];
            while let Some(next) = set.next_after(found[found.len() - 1]) {
                found.push(next.get());
            }
            found
        };
        assert_eq!(walk(&set), [0, 1, 63, 64, 127, 128, 300]);
        assert_eq!(set.next_after(u32::MAX), None);
        set.remove_above(127);
        set.grow(400);
        assert_eq!((walk(&set), set.len()), (vec![0, 1, 63, 64, 127], 4));
        assert!(set.remove(p(64)) && !set.remove(p(64)) && !set.remove(p(1000)));
        assert_eq!(walk(&set), [0, 1, 63, 127]);
        set.remove_above(0);
        assert!(set.is_empty());
    }
}
