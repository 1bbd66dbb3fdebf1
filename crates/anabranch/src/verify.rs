//! Verify: the file against the remote, page by page; and the rows that changed since the base.

use anabranch_format::{DbChecksum, PageChecksum, PageSource};
use anabranch_sqlite::{How, PageHasher};
use anabranch_store::{At, Fetched, Progress, Step};

use crate::error::Error;
use crate::image::Image;
use crate::page_count::Pages;
use crate::read_ahead::ReadAhead;
use crate::remote::{Remote, of_store};
use crate::replica::{Options, blocking};
use crate::report::VerifyReport;
use crate::rows::{self, Counted};
use crate::session::Session;
use crate::sidecar::beside;

/// Fetches the whole database as it was at the session's base; `None` for the empty base.
async fn fetch_base(
    session: &Session,
    remote: &dyn Remote,
    options: &Options,
) -> Result<Option<Fetched>, Error> {
    let base = &session.state.base;
    if base.size == 0 {
        return Ok(None);
    }
    let location = session.remote_name();
    let failed = |e| of_store(&location, e);
    let position = remote.position_at(At::Lsn(base.lsn())).await.map_err(failed)?;
    remote.fetch_whole(&position, &options.progress).await.map_err(failed).map(Some)
}

/// Compares the file with the remote at the base; see [`VerifyReport`].
pub(crate) async fn verify(
    session: Session,
    remote: &dyn Remote,
    options: &Options,
) -> Result<VerifyReport, Error> {
    let fetched = fetch_base(&session, remote, options).await?;
    let progress = options.progress.clone();
    blocking(move || compare(&session, fetched, &progress)).await
}

fn compare(
    session: &Session,
    fetched: Option<Fetched>,
    progress: &Progress,
) -> Result<VerifyReport, Error> {
    let base = &session.state.base;
    let mut live = session.live()?;
    let view = live.begin()?;
    let mut changed = Vec::new();
    let changes = session.capture(&view, &mut |pgno, _, _| {
        changed.push(pgno.get());
        Ok(())
    })?;
    // Along the WAL it is known which pages were written; in a scan every difference is a change.
    let known = matches!(changes.how, How::Chain { .. });
    let mut report = VerifyReport {
        position: base.lsn(),
        pages: 0,
        damaged: Vec::new(),
        local: Vec::new(),
        remote_consistent: true,
    };
    let (mut here, mut there) = (page_buffer(session), page_buffer(session));
    let mut sum = DbChecksum::EMPTY;
    let mut expected = None;
    if let Some(fetched) = fetched {
        expected = fetched.stated_sum();
        let mut source = ReadAhead::start(fetched)?;
        let map = session.base_map();
        let page_size = session.state.page_size;
        let total = u64::from(base.size) * u64::from(page_size.get());
        let mut counted = Pages::of(progress, Step::Verifying, total, page_size);
        while let Some(pgno) = source.next_page(&mut there).map_err(Error::from_pages)? {
            report.pages += 1;
            counted.one();
            let remote = PageChecksum::of(pgno, &there);
            sum.toggle(remote);
            if map.get(pgno)?.is_none_or(|entry| entry.shared != remote) {
                // The base map is what both sides once agreed on.
                report.damaged.push(pgno.get());
                continue;
            }
            if pgno.get() > changes.size {
                report.local.push(pgno.get());
                continue;
            }
            view.page(pgno, &mut here)?;
            if PageChecksum::of(pgno, &here) != remote {
                let local = !known || changed.binary_search(&pgno.get()).is_ok();
                let list = if local { &mut report.local } else { &mut report.damaged };
                list.push(pgno.get());
            }
        }
    }
    let lock_page = session.state.page_size.lock_page().get();
    report.local.extend((base.size + 1..=changes.size).filter(|n| *n != lock_page));
    let as_stated = expected.is_none_or(|expected| expected == sum);
    report.remote_consistent = as_stated && sum == base.sum;
    Ok(report)
}

fn page_buffer(session: &Session) -> Vec<u8> {
    vec![0; session.state.page_size.bytes()]
}

/// Counts changed rows of each table against an image of the base, which is fetched for that.
pub(crate) async fn table_changes(
    session: &Session,
    remote: &dyn Remote,
    options: &Options,
) -> Result<Counted, Error> {
    let Some(fetched) = fetch_base(session, remote, options).await? else {
        return Ok((Vec::new(), Vec::new()));
    };
    let (db, busy) = (session.db.clone(), options.busy_timeout);
    let progress = options.progress.clone();
    blocking(move || {
        let target = beside(&db, "-anabranch-base");
        let hasher = PageHasher::new(0);
        let image = Image::write(fetched, &target, hasher, &progress, &mut |_, _| Ok(()))?;
        rows::count(&db, image.path(), busy)
            .map_err(|source| Error::Comparing { path: db.clone(), source })
    })
    .await
}
