//! Progress by pages, told a few times a second rather than for each page.

use anabranch_format::PageSize;
use anabranch_store::{Counter, Progress, Step};

/// Pages that are counted before they are told.
const BATCH: u64 = 256;

/// Counts the pages of one step.
pub(crate) struct Pages {
    counter: Counter,
    page_bytes: u64,
    waiting: u64,
}

impl Pages {
    /// A count of `total` bytes in all.
    pub(crate) fn of(progress: &Progress, step: Step, total: u64, page_size: PageSize) -> Self {
        let page_bytes = u64::from(page_size.get());
        Pages { counter: progress.step(step, Some(total)), page_bytes, waiting: 0 }
    }

    /// One more page is done.
    pub(crate) fn one(&mut self) {
        self.waiting += 1;
        if self.waiting == BATCH {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.counter.add(self.waiting * self.page_bytes);
        self.waiting = 0;
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.tell();
    }
}
