//! What a rebase needs beside the replica: the rules, and the images of the base.

use std::sync::Arc;

use anabranch_format::{DeltaError, PageSource, Pgno};
use anabranch_rebase::{Resolve, Rules};
use anabranch_sqlite::{PageRead, PageSet, PinnedView};
use anabranch_store::{Progress, StoreError};
use tokio::runtime::Handle;

use crate::crash::crash_point;
use crate::error::Error;
use crate::remote::{BaseAt, BasePages, LibsqlError, Remote, of_store};
use crate::replica::{Options, Take};
use crate::session::Session;

/// What a rebase needs beside the replica.
#[derive(Clone)]
pub(crate) struct With {
    remote: Arc<dyn Remote>,
    runtime: Handle,
    rules: Option<Rules>,
    resolve: Option<Arc<dyn Resolve>>,
    take: Option<Take>,
    /// Nobody has the base any more, and it was said what is to be done then.
    pub(crate) base_gone: bool,
    progress: Progress,
}

impl With {
    /// To be called within the runtime that the remote needs.
    pub(crate) fn new(remote: Arc<dyn Remote>, options: &Options) -> Self {
        With {
            remote,
            runtime: Handle::current(),
            rules: options.rules.clone(),
            resolve: options.resolve.clone(),
            take: options.take,
            base_gone: false,
            progress: options.progress.clone(),
        }
    }

    /// The same, where nobody has the base any more.
    pub(crate) fn without_base(self) -> Self {
        With { base_gone: true, ..self }
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The rules that hold for a replica.
    pub(crate) fn rules(&self, session: &Session) -> Result<Rules, Error> {
        let rules = match &self.rules {
            Some(rules) => rules.clone(),
            None => session.sidecar.rules()?,
        };
        let rules = Rules {
            take_schema: self.take.and_then(Take::side).or(rules.take_schema),
            equal_rows_are_one: rules.equal_rows_are_one || session.state.undecided,
            resolve: self.resolve.clone().or(rules.resolve),
            ..rules
        };
        Ok(if self.base_gone { rules.without_base() } else { rules })
    }

    /// Fetches pages of the base: from the file's own `-wal`, where that reaches back, else from the
    /// remote. Only on a thread that may wait.
    pub(crate) fn fetch_base(
        &self,
        session: &Session,
        pages: &PageSet,
    ) -> Result<BasePages, Error> {
        let base = &session.state.base;
        let wanted =
            BaseAt { lsn: base.lsn(), page_size: session.state.page_size, size: base.size, pages };
        if let Some(here) = from_wal(session, pages)? {
            crash_point!("rebase::after-base-pages");
            return Ok(here);
        }
        let fetched = self.runtime.block_on(self.remote.base_pages(&wanted, &self.progress));
        let gone = || Error::BaseGone { base: base.lsn(), local_pages: pages.len() };
        let fetched = fetched.map_err(|e| match is_gone(&e) {
            true => gone(),
            false => of_store(&session.remote_name(), e),
        })?;
        let fetched = fetched.ok_or_else(gone)?;
        crash_point!("rebase::after-base-pages");
        Ok(fetched)
    }
}

/// The pages as the file had them when it was last as the base, if its `-wal` still shows that.
fn from_wal(session: &Session, pages: &PageSet) -> Result<Option<BasePages>, Error> {
    let state = &session.state;
    let Some(mark) = state.mark.as_ref().filter(|_| state.ahead.is_none()) else { return Ok(None) };
    if !session.same_boot()? {
        return Ok(None);
    }
    let view = PinnedView::begin_at(session.live()?, mark, state.base.size)?;
    Ok(view.map(|view| -> BasePages { Box::new(Shown { view, pages: pages.clone(), after: 0 }) }))
}

/// Some pages of a view.
struct Shown {
    view: PinnedView,
    pages: PageSet,
    after: u32,
}

impl PageSource for Shown {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let Some(pgno) = self.pages.next_after(self.after) else { return Ok(None) };
        self.after = pgno.get();
        self.view.read(pgno, page)?;
        Ok(Some(pgno))
    }
}

/// Whether the remote says that it does not keep a state any more.
fn is_gone(e: &StoreError) -> bool {
    match e {
        StoreError::BelowFloor { .. } | StoreError::BeforeHistory { .. } => true,
        StoreError::Other { source, .. } => {
            matches!(source.downcast_ref(), Some(LibsqlError::GenerationGone { .. }))
        }
        _ => false,
    }
}
