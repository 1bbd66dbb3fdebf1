//! Capture: which pages of a view differ from the base.
//!
//! Decides the candidates, and compares each with the base map. Candidates are the pages of the WAL
//! frames that were committed after a mark, if every step back to it can be proven; else all pages.
//! A page counts as changed only by comparison, so candidates may be too many, never too few. A
//! [`Watcher`](crate::Watcher) that has seen every frame may name them instead.
//!
//! Order matters. The view's transaction begins first and its snapshot is taken inside it; then the
//! frame headers from the mark to the end *of that snapshot* are read. Headers that were listed
//! before the transaction began would miss pages of a commit in between, and a state torn between
//! two commits would be sent.
//!
//! What the caller must guarantee: at the mark, the file did not differ from the base but in the pages
//! that are named as ahead of it.

use std::borrow::BorrowMut;

use anabranch_format::{DbChecksum, Pgno};

use crate::base::{BaseMap, PageEntry};
use crate::error::{CaptureError, FileError};
use crate::live::LiveFile;
use crate::mark::Mark;
use crate::view::ViewOf;
use crate::wal;
use anabranch_format::PageSet;

/// What a view is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Compare<'a> {
    /// Where the file was last known to be as the base, but for [`Compare::ahead`]; `None` if that is
    /// not known.
    pub since: Option<&'a Mark>,
    /// The pages that a watcher has seen written since then, if it has seen every frame, up to a
    /// state that is not older than the view.
    pub watched: Option<&'a PageSet>,
    /// Pages in which the file differed from the base at the mark already; `None`: none did.
    pub ahead: Option<&'a PageSet>,
    /// The machine was restarted since: the mark proves nothing but what is missing.
    pub restarted: bool,
    /// Size of the base in pages; entries of the map above it do not count.
    pub base_size: u32,
    /// Report page 1 even if it is as in the base: for a schema that changed without a trace in
    /// what is compared, its cookie being local.
    pub page_one_always: bool,
}

/// How the candidates were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum How {
    /// From the WAL since the mark.
    Chain {
        /// Number of frames since the mark.
        frames: u32,
    },
    /// A watcher has seen every frame since the file was in step.
    Watched,
    /// Every page was read.
    Scan(ScanReason),
}

/// Why every page had to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanReason {
    /// The caller had no mark.
    #[error("no place in the WAL is known at which the file was in step")]
    NoMark,
    /// The WAL is empty or gone, or the database not in WAL mode.
    #[error("the WAL is empty or gone")]
    NoWal,
    /// The WAL was restarted since the mark.
    #[error("the WAL was restarted")]
    Restarted,
    /// The WAL is still the one that was marked, but no longer holds what had been committed to it:
    /// the file went back.
    #[error("frame {frame} of the WAL, which had been committed, is gone")]
    Lost {
        /// The frame.
        frame: u32,
    },
    /// The machine was restarted since the mark, and may have lost what was not synced.
    #[error("the machine was restarted")]
    NewBoot,
    /// A frame at or after the mark is not what it should be.
    #[error("frame {frame} of the WAL does not continue what was known")]
    Broken {
        /// The frame.
        frame: u32,
    },
    /// The WAL could not be read.
    #[error("the WAL cannot be read")]
    Unreadable,
}

/// The outcome of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// Size of the database in pages.
    pub db_size: u32,
    /// How candidates were found.
    pub how: How,
    /// Pages that differ from the base (and page 1 if it was asked for).
    pub pages_changed: u64,
    /// Pages that were read and compared.
    pub pages_read: u64,
    /// Pages of the base above the size of the database: gone.
    pub removed: u32,
    /// XOR of the database checksums of base and view: toggled into the base's, it gives the view's.
    pub checksum_change: DbChecksum,
}

impl Captured {
    /// Whether the view is as the base.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.pages_changed == 0 && self.removed == 0
    }
}

type Changed<'f, E> = &'f mut dyn FnMut(Pgno, &[u8], PageEntry) -> Result<(), E>;

impl<L: BorrowMut<LiveFile>> ViewOf<L> {
    /// Finds the pages that differ from the base, and calls `changed` for each in ascending order
    /// with its content (page 1 as in the file) and its new entry.
    pub fn capture<E>(
        &self,
        with: &Compare<'_>,
        base: &BaseMap<'_>,
        changed: Changed<'_, E>,
    ) -> Result<Captured, CaptureError<E>> {
        let mut comparison = Comparison {
            base,
            with: *with,
            changed,
            out: Captured {
                db_size: self.db_size(),
                how: How::Scan(ScanReason::NoMark),
                pages_changed: 0,
                pages_read: 0,
                removed: with.base_size.saturating_sub(self.db_size()),
                checksum_change: DbChecksum::EMPTY,
            },
        };
        let candidates = match self.candidates(with) {
            Ok(_) if with.restarted => Err(ScanReason::NewBoot),
            candidates => candidates,
        };
        match candidates {
            Ok((how, candidates)) => {
                comparison.out.how = how;
                for pgno in candidates.iter() {
                    self.with_page(pgno, |page| comparison.page(pgno, page))??;
                }
            }
            Err(reason) => {
                comparison.out.how = How::Scan(reason);
                self.every_page(|pgno, page| comparison.page(pgno, page))?;
            }
        }
        comparison.count_removed(self.db_size())?;
        Ok(comparison.out)
    }

    /// The pages that may differ from the base, without the lock page, and where they come from.
    fn candidates(&self, with: &Compare<'_>) -> Result<(How, PageSet), ScanReason> {
        let lock_page = self.live().page_size.lock_page();
        let mut pages = PageSet::new(self.db_size());
        if with.page_one_always {
            pages.insert(Pgno::ONE);
        }
        // What the base does not know is a change in any case.
        for pgno in (with.base_size.saturating_add(1)..=self.db_size()).filter_map(Pgno::new) {
            if pgno != lock_page {
                pages.insert(pgno);
            }
        }
        if let Some(watched) = with.watched {
            for pgno in watched.iter().filter(|pgno| *pgno != lock_page) {
                pages.insert(pgno);
            }
            return Ok((How::Watched, pages));
        }
        for pgno in with.ahead.iter().flat_map(|ahead| ahead.iter()) {
            if pgno.get() <= self.db_size() && pgno != lock_page {
                pages.insert(pgno);
            }
        }
        let since = with.since.ok_or(ScanReason::NoMark)?;
        let now = self.snapshot.as_ref().ok_or(ScanReason::NoWal)?;
        let frames = wal::frames_between(
            self.live().wal_path(),
            self.live().page_size,
            since,
            now,
            &mut |_, frame| {
                if frame.pgno != lock_page {
                    pages.insert(frame.pgno);
                }
            },
        )?;
        Ok((How::Chain { frames }, pages))
    }

    /// Calls `each` for every page but the lock page, ascending.
    fn every_page<X: From<FileError>>(
        &self,
        mut each: impl FnMut(Pgno, &[u8]) -> Result<(), X>,
    ) -> Result<(), X> {
        let fail = |e| X::from(self.live().error("reading", e));
        let lock_page = self.live().page_size.lock_page();
        let mut statement = self
            .live()
            .conn
            .prepare_cached("SELECT data FROM sqlite_dbpage ORDER BY pgno")
            .map_err(fail)?;
        let mut rows = statement.query([]).map_err(fail)?;
        for pgno in (1..=self.db_size()).filter_map(Pgno::new) {
            let missing = || FileError::Page { path: self.live().path.clone(), page: pgno };
            let row = rows.next().map_err(fail)?.ok_or_else(missing)?;
            if pgno == lock_page {
                continue;
            }
            let page = row.get_ref(0).ok().and_then(|data| data.as_blob().ok());
            match page {
                Some(page) if page.len() == self.live().page_size.bytes() => each(pgno, page)?,
                _ => return Err(missing().into()),
            }
        }
        Ok(())
    }
}

/// Compares pages with the base and keeps count.
struct Comparison<'a, 'c, 'f, E> {
    base: &'a BaseMap<'c>,
    with: Compare<'a>,
    changed: Changed<'f, E>,
    out: Captured,
}

impl<E> Comparison<'_, '_, '_, E> {
    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), CaptureError<E>> {
        self.out.pages_read += 1;
        let old = if pgno.get() <= self.with.base_size { self.base.get(pgno)? } else { None };
        let keyed = self.base.keyed(pgno, page);
        let wanted = self.with.page_one_always && pgno == Pgno::ONE;
        if old.is_some_and(|old| old.keyed == keyed) && !wanted {
            return Ok(());
        }
        let entry = self.base.entry(pgno, page);
        if let Some(old) = old {
            self.out.checksum_change.toggle(old.shared);
        }
        self.out.checksum_change.toggle(entry.shared);
        self.out.pages_changed += 1;
        (self.changed)(pgno, page, entry).map_err(CaptureError::Callback)
    }

    fn count_removed(&mut self, db_size: u32) -> Result<(), CaptureError<E>> {
        let gone = db_size.saturating_add(1)..=self.with.base_size;
        for pgno in gone.filter_map(Pgno::new) {
            if let Some(old) = self.base.get(pgno)? {
                self.out.checksum_change.toggle(old.shared);
            }
        }
        Ok(())
    }
}
