//! What was fetched, ready to be written: its pages, and what they must lead to.
//!
//! A large change is unpacked and checked completely first, its pages kept; a small one whose bytes
//! lie in memory is checked while its pages are read.

use anabranch_format::{DbChecksum, DeltaError, Lsn, PageSize, Pgno};
use anabranch_sqlite::{BaseError, BaseMap, Hashed, NewPage, NewPages, NewPagesError, PageEntry};
use anabranch_store::{Anchor, Fetched, Progress, Step};

use super::Mine;
use crate::error::Error;
use crate::image::folder_of;
use crate::layers::spooling;
use crate::page_count::Pages;
use crate::page_spool::PageSpool;
use crate::read_ahead::ReadAhead;
use crate::session::Session;

/// Told of a page: number, entry, image.
pub(crate) type EachPage<'a> = dyn FnMut(Pgno, PageEntry, &[u8]) -> Result<(), Error> + 'a;

/// Up to this much content is unpacked while it is written.
const STREAMED_BYTES_MAX: u64 = 64 << 20;

/// Content of a large delta that is unpacked ahead.
pub(super) const BYTES_AHEAD: u64 = 2 << 20;

/// What a change must lead to, and from where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expect {
    /// Database checksum before; that of nothing if the whole database came.
    pub(super) sum_before: DbChecksum,
    /// Size of the base: pages above it are in no base map that counts.
    pub(super) base_size: u32,
    /// Database checksum and size after. Where the remote states no checksum it is what was found
    /// when the pages were kept.
    pub(super) after: (DbChecksum, u32),
    /// The checksum after is to be found out.
    pub(super) unstated: bool,
    /// The whole database came, not a change from the base.
    pub(super) replace: bool,
    /// Pages that are as in the base need not be written.
    pub(super) skip_equal: bool,
    pub(super) pages_max: u64,
    pub(super) page_size: PageSize,
}

/// A change that is ready to be written.
pub(crate) struct Change {
    pub(super) anchor: Anchor,
    pub(super) expect: Expect,
    pub(super) pages: Source,
    pub(super) progress: Progress,
}

/// Where the pages come from.
pub(super) enum Source {
    /// Unpacked and checked while they are read, once.
    Ahead(ReadAhead),
    /// Checked, and kept.
    Spool(PageSpool),
}

impl Change {
    pub(crate) fn new(
        session: &Session,
        fetched: Fetched,
        anchor: Anchor,
        mine: Mine<'_>,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let base = &session.state.base;
        let page_size = fetched.page_size;
        if page_size != session.state.page_size {
            return Err(Error::PageSizeChanged {
                path: session.db.clone(),
                found: session.state.page_size,
                expected: page_size,
            });
        }
        let replace = fetched.from.is_none();
        if let Some(before) = fetched.stated_before().filter(|_| !replace)
            && before != (base.size, base.sum)
        {
            return Err(mismatch(base.lsn(), base.sum, before.1));
        }
        refuse_impossible_size(&fetched, if replace { 0 } else { base.size })?;
        let mut expect = Expect {
            sum_before: if replace { DbChecksum::EMPTY } else { base.sum },
            base_size: base.size,
            after: (fetched.stated_sum().unwrap_or(DbChecksum::EMPTY), fetched.pages.1),
            unstated: fetched.stated_sum().is_none(),
            replace,
            skip_equal: matches!(mine, Mine::Rebase(with) if !with.base_gone),
            pages_max: fetched.pages_max,
            page_size,
        };
        let bytes_max = expect.pages_max.saturating_mul(u64::from(page_size.get()));
        // Only who knows the checksum beforehand may write first and check last.
        let stated = !expect.unstated;
        let streamed = bytes_max <= STREAMED_BYTES_MAX && fetched.in_memory && stated;
        let ahead = if streamed { STREAMED_BYTES_MAX } else { BYTES_AHEAD };
        let map = session.base_map();
        let ahead = ReadAhead::hashed(fetched, map.hasher(), ahead)?;
        let pages = if streamed {
            Source::Ahead(ahead)
        } else {
            let (spool, sum) = check_and_keep(session, &expect, ahead, anchor.last)?;
            expect.after.0 = sum;
            Source::Spool(spool)
        };
        Ok(Change { anchor, expect, pages, progress: progress.clone() })
    }

    /// The position that it leads to.
    pub(crate) fn to(&self) -> Lsn {
        self.anchor.last
    }

    /// The segment that ends there.
    pub(crate) fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// Database checksum and size there.
    pub(crate) fn after(&self) -> (DbChecksum, u32) {
        self.expect.after
    }

    /// Tells `each` of every page that is not as in the base (and of page 1 if it came), ascending; all
    /// are checked once it has returned. Pages that are read ahead come once.
    pub(crate) fn each_page(
        &mut self,
        session: &Session,
        map: &BaseMap<'_>,
        each: &mut EachPage<'_>,
    ) -> Result<(), Error> {
        let to = self.to();
        let mut pages =
            self.pages.read(&self.expect, map, None).map_err(|e| spooling(session, e))?;
        while let Some(new) = pages.next_new().map_err(|e| of_pages(to, e))? {
            each(new.pgno, new.entry, new.page)?;
        }
        Ok(())
    }
}

/// More pages than came, on top of those that are here, can be in no database. Told before anything
/// is made room for.
fn refuse_impossible_size(fetched: &Fetched, size_before: u32) -> Result<(), Error> {
    let lock_page = u64::from(fetched.page_size.lock_page().get());
    let most = u64::from(size_before).saturating_add(fetched.pages_max);
    let most = if most >= lock_page { most.saturating_add(1) } else { most };
    if u64::from(fetched.pages.1) <= most {
        return Ok(());
    }
    let first = size_before.checked_add(1).and_then(Pgno::new).unwrap_or(Pgno::ONE);
    Err(Error::Pages(DeltaError::Growth { page: first }))
}

/// Reads all pages, checks them and keeps those that count. Answers the checksum after, too.
fn check_and_keep(
    session: &Session,
    expect: &Expect,
    ahead: ReadAhead,
    to: Lsn,
) -> Result<(PageSpool, DbChecksum), Error> {
    let mut spool = PageSpool::new(session.state.page_size, folder_of(&session.db));
    let (map, mut ahead) = (session.base_map(), ahead);
    let mut pages = Checking::new(&mut ahead, &map, expect, None);
    while let Some(new) = pages.next_new().map_err(|e| of_pages(to, e))? {
        spool.push(new.pgno, new.page).map_err(|e| spooling(session, e))?;
    }
    let sum = pages.sum;
    Ok((spool, sum))
}

impl Source {
    /// The pages, from the first on; those that are read ahead come once.
    pub(super) fn read<'a>(
        &'a mut self,
        expect: &Expect,
        map: &'a BaseMap<'a>,
        progress: Option<&Progress>,
    ) -> std::io::Result<Box<dyn NewPages + 'a>> {
        Ok(match self {
            Source::Ahead(source) => {
                let total = expect.pages_max.saturating_mul(u64::from(expect.page_size.get()));
                let counted =
                    progress.map(|p| Pages::of(p, Step::Applying, total, expect.page_size));
                Box::new(Checking::new(source, map, expect, counted))
            }
            Source::Spool(spool) => {
                Box::new(Hashed::new(spool.source(progress)?, map.hasher(), expect.page_size))
            }
        })
    }
}

/// Checks pages as they pass: they must lead from the base to the state that the log states.
struct Checking<'a> {
    source: &'a mut ReadAhead,
    map: &'a BaseMap<'a>,
    expect: Expect,
    sum: DbChecksum,
    counted: Option<Pages>,
}

impl<'a> Checking<'a> {
    fn new(
        source: &'a mut ReadAhead,
        map: &'a BaseMap<'a>,
        expect: &Expect,
        counted: Option<Pages>,
    ) -> Self {
        Checking { source, map, expect: *expect, sum: expect.sum_before, counted }
    }

    /// What the page is in the base.
    fn in_base(&self, pgno: Pgno) -> Result<Option<PageEntry>, BaseError> {
        if pgno.get() > self.expect.base_size {
            return Ok(None);
        }
        self.map.get(pgno)
    }

    /// Takes a page of the state before out of the sum: of nothing, if the whole database came.
    fn take_out(&mut self, page: Option<PageEntry>) {
        if let Some(page) = page.filter(|_| !self.expect.replace) {
            self.sum.toggle(page.shared);
        }
    }

    fn end(&mut self) -> Result<(), NewPagesError> {
        let (sum, size) = self.expect.after;
        for pgno in (size.saturating_add(1)..=self.expect.base_size).filter_map(Pgno::new) {
            let gone = self.in_base(pgno)?;
            self.take_out(gone);
        }
        if self.sum == sum || self.expect.unstated {
            Ok(())
        } else {
            Err(NewPagesError::Checksum { found: self.sum, expected: sum })
        }
    }
}

impl NewPages for Checking<'_> {
    fn next_new(&mut self) -> Result<Option<NewPage<'_>>, NewPagesError> {
        loop {
            let Some(pgno) = self.source.advance()? else {
                self.end()?;
                return Ok(None);
            };
            if let Some(counted) = &mut self.counted {
                counted.one();
            }
            let entry = self.source.entry();
            let old = self.in_base(pgno)?;
            self.take_out(old);
            self.sum.toggle(entry.shared);
            let needless = self.expect.skip_equal && old == Some(entry) && pgno != Pgno::ONE;
            if !needless {
                return Ok(Some(NewPage { pgno, entry, page: self.source.page() }));
            }
        }
    }
}

pub(super) fn mismatch(lsn: Lsn, found: DbChecksum, expected: DbChecksum) -> Error {
    Error::Mismatch { lsn, found: found.to_string(), expected: expected.to_string() }
}

/// Why the pages of the change to `lsn` do not come.
pub(super) fn of_pages(lsn: Lsn, e: NewPagesError) -> Error {
    match e {
        NewPagesError::Pages(e) => Error::from_pages(e),
        NewPagesError::Base(e) => Error::BaseMap(e),
        NewPagesError::Checksum { found, expected } => mismatch(lsn, found, expected),
        other => Error::Panicked(other.to_string()),
    }
}
