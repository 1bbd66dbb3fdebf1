//! A few pages of a whole database.

use anabranch_format::{DeltaError, PageSource, Pgno};
use anabranch_sqlite::PageSet;

/// The pages of `source` that are in a set; what follows the last of them is not read.
pub(crate) struct Picked<S> {
    source: S,
    pages: PageSet,
    /// How many are still to come.
    left: u64,
}

impl<S: PageSource> Picked<S> {
    pub(crate) fn new(source: S, pages: PageSet) -> Self {
        let left = pages.len();
        Picked { source, pages, left }
    }
}

impl<S: PageSource> PageSource for Picked<S> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        while self.left > 0 {
            match self.source.next_page(page)? {
                Some(pgno) if self.pages.contains(pgno) => {
                    self.left -= 1;
                    return Ok(Some(pgno));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Upward(u32, u32);

    impl PageSource for Upward {
        fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
            if self.0 == self.1 {
                return Ok(None);
            }
            self.0 += 1;
            page.fill(self.0.to_le_bytes()[0]);
            Ok(Pgno::new(self.0))
        }
    }

    #[test]
    fn exactly_the_wanted_pages_come() {
        let mut pages = PageSet::new(90);
        for n in [3, 7, 90] {
            pages.insert(Pgno::new(n).unwrap());
        }
        let mut picked = Picked::new(Upward(0, 100), pages.clone());
        let (mut page, mut found) = ([0; 4], Vec::new());
        while let Some(pgno) = picked.next_page(&mut page).unwrap() {
            assert_eq!(u32::from(page[0]), pgno.get());
            found.push(pgno.get());
        }
        assert_eq!(found, [3, 7, 90]);
        assert_eq!(picked.source.0, 90, "and no more is read");
        let mut short = Picked::new(Upward(0, 10), pages);
        for expected in [Some(3), Some(7), None] {
            assert_eq!(short.next_page(&mut page).unwrap().map(Pgno::get), expected);
        }
    }
}
