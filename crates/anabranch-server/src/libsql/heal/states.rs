//! States of the log and of a client, as layers on the mirror of the head.
//!
//! An older state differs from the head in the pages that were changed since. Their images there are
//! read from the log; all others show through.

use std::io;

use anabranch_format::{Lsn, PageSet, Pgno};
use anabranch_sqlite::{Overlay, PageRead, SharedPages};
use anabranch_store::{Chain, Head, Progress, StoreError};
use futures::TryStreamExt;

use crate::database::Database;
use crate::error::ApiError;
use crate::libsql::engine::{blocking, scratch, unavailable};
use crate::libsql::frame::FrameFile;

/// Frames that are read at a time.
const READ_FRAMES: u32 = 128;

/// A state of the log: its position, and the size of the database there, in pages.
pub(crate) type Place = (Lsn, u32);

/// Adds to `pages` those that have a frame after `from`, up to `to`.
pub(super) async fn changed(
    db: &Database,
    from: Lsn,
    to: Lsn,
    mut pages: PageSet,
) -> Result<PageSet, ApiError> {
    let mut segments = db.log().segments(from, to, &Progress::none());
    while let Some(segment) = segments.try_next().await.map_err(|e| unavailable(&e))? {
        let more = blocking(move || {
            segment.for_each(|_, frame, _| {
                pages.insert(frame.pgno);
                Ok::<(), StoreError>(())
            })?;
            Ok(pages)
        });
        pages = more.await?.map_err(|e: StoreError| unavailable(&e))?;
    }
    Ok(pages)
}

/// A layer on `below`, which shows the log's head, that shows its state at `at`.
pub(super) async fn state_at(
    db: &Database,
    below: SharedPages,
    head: &Head,
    (at, size): Place,
) -> Result<Overlay, ApiError> {
    let mut layer = Overlay::new(below, &db.libsql().scratch).map_err(|e| scratch(&e))?;
    let mut wanted = changed(db, at, head.lsn(), PageSet::new(size)).await?;
    // Pages that the head has not at all any more.
    (layer.size() + 1..=size).filter_map(Pgno::new).for_each(|pgno| {
        wanted.insert(pgno);
    });
    layer.resize(size).map_err(|e| scratch(&e))?;
    if wanted.is_empty() {
        return Ok(layer);
    }
    let found = db.log().pages_at(at, wanted, Chain::Checked, &Progress::none()).await;
    let found = found.map_err(|e| unavailable(&e))?;
    blocking(move || layer.put_all(&mut *found.into_pages()).map(|()| layer)).await?.map_err(|e| {
        match StoreError::from_pages(e) {
            Ok(e) => unavailable(&e),
            Err(e) => ApiError::busy(anabranch_store::causes(&e)),
        }
    })
}

/// Lays the frames `first` to `last`, whole transactions, into `layer`. Blocking.
pub(super) fn lay(
    layer: &mut Overlay,
    frames: &FrameFile,
    first: u32,
    last: u32,
) -> io::Result<()> {
    let mut commits = Vec::new();
    each(frames, first, last, |number, frame| {
        if frame.header.is_commit() {
            commits.push((number, frame.header.commit_size));
        }
        Ok(())
    })?;
    let mut commits = commits.into_iter().peekable();
    each(frames, first, last, |number, frame| {
        let Some((commit, size)) = commits.peek().copied() else { return Ok(()) };
        // What a transaction spilled and gave up again is not there after it.
        if frame.pgno().get() <= size {
            layer.put(frame.pgno(), frame.page())?;
        }
        if number == commit {
            commits.next();
            layer.resize(size)?;
        }
        Ok(())
    })
}

/// Adds the pages of the frames `first` to `last` to `pages`. Blocking.
pub(super) fn pages_of(
    frames: &FrameFile,
    first: u32,
    last: u32,
    mut pages: PageSet,
) -> io::Result<PageSet> {
    each(frames, first, last, |_, frame| {
        pages.insert(frame.pgno());
        Ok(())
    })?;
    Ok(pages)
}

fn each(
    frames: &FrameFile,
    first: u32,
    last: u32,
    mut each: impl FnMut(u32, crate::libsql::frame::Frame<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut number = first;
    while number <= last {
        let to = last.min(number + READ_FRAMES - 1);
        for (number, frame) in (number..).zip(frames.read(number, to)?.iter()) {
            each(number, frame)?;
        }
        number = to + 1;
    }
    Ok(())
}
