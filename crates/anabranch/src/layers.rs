//! The states that a rebase is about, none of them copied: the file is pinned, and each other state
//! is what differs from the one below.
//!
//! ```text
//! result    what the rebase writes                     R'
//! remote    the pages that others changed since        R
//! base      the pages that were changed here, as they  B
//!           were when both sides last had a common state
//! file      a read transaction of the live file        L
//! ```
//!
//! Only the images of the base come from the remote, and only of pages that were changed here. Each
//! is checked against the base map before anything is made of it.
//!
//! If nobody has the base any more, nothing lies between file and remote, whose state then has all of its
//! pages. In the base's place there is an empty database: what was changed here counts as new
//! ([`Changed::before_gone`]).
//!
//! If the file moves on, a new pin takes the place of the old one and the layers are laid anew: what
//! was fetched stays.

use std::sync::{Arc, Mutex, MutexGuard};

use anabranch_format::{PageOne, PageSource, Pgno};
use anabranch_rebase::Changed;
use anabranch_sqlite::{
    LiveFile, Mark, Overlay, PageSet, PinnedView, SharedOverlay, SharedPages, lock_pages,
};

use crate::error::Error;
use crate::image::{cookie_of, folder_of};
use crate::remote::BasePages;
use crate::session::{LocalChanges, Session};

/// Hands over images of pages of the base: exactly those of a set, ascending.
pub(crate) type FetchBase<'a> = dyn FnMut(&PageSet) -> Result<BasePages, Error> + 'a;

/// The file, held in one state, and how it differs from the base.
pub(crate) struct Local {
    pages: Arc<Mutex<PinnedView>>,
    pub(crate) mark: Option<Mark>,
    pub(crate) page_one: PageOne,
    /// The pages that differ from the base, and are there.
    pub(crate) changed: PageSet,
    pub(crate) changes: LocalChanges,
}

impl Local {
    /// Pins the file as it is, and finds out how it differs from the base; stages that under
    /// `before`, if it is given.
    pub(crate) fn capture(session: &Session, before: Option<i64>) -> Result<Self, Error> {
        let view = PinnedView::begin(session.live()?)?;
        let map = session.base_map();
        let mut staging = before.map(|before| map.stage(before));
        let mut changed = PageSet::new(view.db_size());
        let changes = session.capture(&view, &mut |pgno, _, entry| {
            changed.insert(pgno);
            if let Some(staging) = &mut staging {
                staging.push(pgno, entry)?;
            }
            Ok(())
        })?;
        if let Some(staging) = staging {
            staging.finish()?;
        }
        Ok(Self::new(view, changed, changes))
    }

    /// The file as `live` shows it now, if its end is still at `mark`, where it was found to differ in
    /// `changed`; `None` if somebody wrote meanwhile.
    pub(crate) fn pin(
        live: LiveFile,
        mark: Option<&Mark>,
        changed: PageSet,
        changes: LocalChanges,
    ) -> Result<Option<Self>, Error> {
        let view = PinnedView::begin(live)?;
        if view.mark() != mark {
            return Ok(None);
        }
        Ok(Some(Self::new(view, changed, changes)))
    }

    fn new(view: PinnedView, changed: PageSet, changes: LocalChanges) -> Self {
        let (mark, page_one) = (view.mark().copied(), *view.page_one());
        Local { pages: Arc::new(Mutex::new(view)), mark, page_one, changed, changes }
    }

    /// The file's pages.
    pub(crate) fn shared(&self) -> SharedPages {
        self.pages.clone()
    }
}

/// What stands on top of the file.
pub(crate) struct Layers {
    pub(crate) local: Local,
    pub(crate) base: SharedOverlay,
    /// Nobody has the base any more.
    pub(crate) base_gone: bool,
}

impl Layers {
    /// Lays the base on `local`; `earlier` is a base that was laid before.
    pub(crate) fn lay(
        session: &Session,
        local: Local,
        earlier: Option<&SharedOverlay>,
        fetch: &mut FetchBase<'_>,
    ) -> Result<Self, Error> {
        let base = lay_base(session, &local, earlier, fetch)?;
        Ok(Layers { local, base, base_gone: false })
    }

    /// Lays an empty database on `local`, since the base is gone.
    pub(crate) fn without_base(session: &Session, local: Local) -> Result<Self, Error> {
        let failed = |e| spooling(session, e);
        let mut base = Overlay::new(local.shared(), folder_of(&session.db)).map_err(failed)?;
        base.resize(0).map_err(failed)?;
        Ok(Layers { local, base: base.shared(), base_gone: true })
    }

    /// A layer for the remote's state, with the pages of `content`.
    pub(crate) fn remote(
        &self,
        session: &Session,
        content: Option<&SharedOverlay>,
    ) -> Result<SharedOverlay, Error> {
        let lower: SharedPages =
            if self.base_gone { self.local.shared() } else { self.base.clone() };
        Layers::on(session, lower, content)
    }

    /// What differs between base and file.
    pub(crate) fn changed(&self) -> Changed {
        Changed {
            before: self.base.clone(),
            after: self.local.shared(),
            pages: Arc::new(self.local.changed.clone()),
            before_gone: self.base_gone,
        }
    }

    /// A further layer on top of `lower`, with the pages of `content`, which has the same page size.
    pub(crate) fn on(
        session: &Session,
        lower: SharedPages,
        content: Option<&SharedOverlay>,
    ) -> Result<SharedOverlay, Error> {
        let mut layer =
            Overlay::new(lower, folder_of(&session.db)).map_err(|e| spooling(session, e))?;
        if let Some(content) = content {
            let mut content = locked(session, content)?;
            copy(session, &mut content, &mut layer)?;
        }
        Ok(layer.shared())
    }
}

/// Gives `to` the size and the own pages of `from`.
fn copy(session: &Session, from: &mut Overlay, to: &mut Overlay) -> Result<(), Error> {
    use anabranch_sqlite::PageRead;
    to.resize(from.size()).map_err(|e| spooling(session, e))?;
    to.put_all(&mut from.pages()).map_err(|e| reading(session, e))
}

fn lay_base(
    session: &Session,
    local: &Local,
    earlier: Option<&SharedOverlay>,
    fetch: &mut FetchBase<'_>,
) -> Result<SharedOverlay, Error> {
    let size = session.state.base.size;
    let failed = |e| spooling(session, e);
    let mut layer = Overlay::new(local.shared(), folder_of(&session.db)).map_err(failed)?;
    layer.resize(size).map_err(failed)?;
    let mut missing = wanted(session, local);
    if let Some(earlier) = earlier {
        let mut earlier = locked(session, earlier)?;
        let mut page = vec![0; session.state.page_size.bytes()];
        let mut pages = earlier.pages();
        let mut laid = PageSet::new(size);
        while let Some(pgno) = pages.next_page(&mut page).map_err(|e| reading(session, e))? {
            layer.put(pgno, &page).map_err(failed)?;
            laid.insert(pgno);
        }
        missing = without(&missing, &laid, size);
    }
    if !missing.is_empty() {
        let mut images = fetch(&missing)?;
        put_checked(session, &missing, &mut *images, &mut layer)?;
    }
    Ok(layer.shared())
}

/// The pages of the base that the file does not have as they were.
fn wanted(session: &Session, local: &Local) -> PageSet {
    let size = session.state.base.size;
    let lock_page = session.state.page_size.lock_page();
    let mut wanted = PageSet::new(size);
    for pgno in local.changed.iter().take_while(|pgno| pgno.get() <= size) {
        wanted.insert(pgno);
    }
    for pgno in (local.changes.size.saturating_add(1)..=size).filter_map(Pgno::new) {
        if pgno != lock_page {
            wanted.insert(pgno);
        }
    }
    wanted
}

/// The pages of `all` that are not in `these`.
fn without(all: &PageSet, these: &PageSet, last: u32) -> PageSet {
    let mut rest = PageSet::new(last);
    for pgno in all.iter().filter(|pgno| !these.contains(*pgno)) {
        rest.insert(pgno);
    }
    rest
}

/// Puts the images, which must be exactly those wanted, each as the base map says.
fn put_checked(
    session: &Session,
    wanted: &PageSet,
    images: &mut dyn PageSource,
    layer: &mut Overlay,
) -> Result<(), Error> {
    let map = session.base_map();
    let lsn = session.state.base.lsn();
    let mut page = vec![0; session.state.page_size.bytes()];
    for pgno in wanted.iter() {
        let found = images.next_page(&mut page).map_err(Error::from_pages)?;
        let right = found == Some(pgno) && map.get(pgno)? == Some(map.entry(pgno, &page));
        if !right {
            return Err(Error::BasePage { lsn, page: pgno.get() });
        }
        layer.put(pgno, &page).map_err(|e| spooling(session, e))?;
    }
    Ok(())
}

/// A layer, for who reads or changes it.
pub(crate) fn locked<'l>(
    session: &Session,
    layer: &'l SharedOverlay,
) -> Result<MutexGuard<'l, Overlay>, Error> {
    lock_pages(layer).map_err(|e| spooling(session, e))
}

/// The schema cookie on page 1 of a state.
pub(crate) fn cookie_in(session: &Session, layer: &SharedOverlay) -> Result<u32, Error> {
    Ok(cookie_of(&page_in(session, layer, Pgno::ONE)?))
}

/// A page of a state.
pub(crate) fn page_in(
    session: &Session,
    layer: &SharedOverlay,
    pgno: Pgno,
) -> Result<Vec<u8>, Error> {
    use anabranch_sqlite::PageRead;
    let mut page = vec![0; session.state.page_size.bytes()];
    let mut layer = locked(session, layer)?;
    layer.read(pgno, &mut page).map_err(|e| spooling(session, e))?;
    Ok(page)
}

pub(crate) fn spooling(session: &Session, source: std::io::Error) -> Error {
    Error::Io { what: "using a temporary file beside", path: session.db.clone(), source }
}

/// Why a layer cannot be read.
pub(crate) fn reading(session: &Session, e: anabranch_format::DeltaError) -> Error {
    match e {
        anabranch_format::DeltaError::Io(e) => spooling(session, e),
        e => Error::Pages(e),
    }
}
