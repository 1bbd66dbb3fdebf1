//! States of the log and of a client, as layers on the mirror of the head.
//!
//! An older state differs from the head in the pages that were changed since. Their images there are
//! read from the log; all others show through.

use std::collections::BTreeSet;
use std::io;

use anabranch_format::{Lsn, Pgno};
use anabranch_sqlite::{Overlay, PageRead, SharedPages};
use anabranch_store::{At, Head, Position, Progress, StoreError};
use futures::TryStreamExt;

use crate::database::Database;
use crate::error::ApiError;
use crate::libsql::engine::{blocking, scratch, unavailable};
use crate::libsql::frame::{FrameFile, PAGE_SIZE};

/// Frames that are laid into a layer at a time.
const READ_FRAMES: u32 = 128;

/// Numbers of pages; about 40 bytes for each.
pub(super) type PageSet = BTreeSet<u32>;

pub(super) enum Failed {
    Store(StoreError),
    Scratch(io::Error),
}

impl From<StoreError> for Failed {
    fn from(e: StoreError) -> Self {
        Failed::Store(e)
    }
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        Failed::Scratch(e)
    }
}

impl From<Failed> for ApiError {
    fn from(e: Failed) -> Self {
        match e {
            Failed::Store(e) => unavailable(&e),
            Failed::Scratch(e) => scratch(&e),
        }
    }
}

/// Pages that have a frame after `from`, up to `to`.
pub(super) async fn changed(db: &Database, from: Lsn, to: Lsn) -> Result<PageSet, ApiError> {
    let mut pages = PageSet::new();
    let mut segments = db.log().segments(from, to, &Progress::none());
    while let Some(segment) = segments.try_next().await.map_err(|e| unavailable(&e))? {
        let more = blocking(move || {
            let mut more = PageSet::new();
            segment.for_each(|_, frame, _| {
                more.insert(frame.pgno.get());
                Ok::<(), StoreError>(())
            })?;
            Ok(more)
        });
        pages.append(&mut more.await?.map_err(|e: StoreError| unavailable(&e))?);
    }
    Ok(pages)
}

/// The last end of a segment at or before `at`.
async fn whole_before(db: &Database, at: Lsn) -> Result<Position, StoreError> {
    if at > Lsn::ZERO {
        let position = db.log().segment_at(at).await?;
        if position.lsn == at {
            return Ok(position);
        }
        let before = position.metadata.as_ref().map_or(Lsn::ZERO, anabranch_format::Metadata::from);
        if before > Lsn::ZERO {
            return db.log().segment_at(before).await;
        }
    }
    Ok(Position::with(None, None))
}

/// A layer on `below`, which shows the log's head, that shows its state at `at`.
pub(super) async fn state_at(
    db: &Database,
    below: SharedPages,
    head: &Head,
    at: Lsn,
) -> Result<Overlay, ApiError> {
    let mut wanted = changed(db, at, head.lsn()).await?;
    let whole = whole_before(db, at).await.map_err(|e| unavailable(&e))?;
    let dir = db.libsql().scratch.clone();
    let mut layer = Overlay::new(below, &dir).map_err(|e| scratch(&e))?;
    let (size, head_size) = (whole.metadata.as_ref().map_or(0, |m| m.pages.1), layer.size());
    // Pages that the head has not at all any more.
    wanted.extend(head_size + 1..=size);
    layer.resize(size).map_err(|e| scratch(&e))?;
    if size > 0 && !wanted.is_empty() {
        let fetched = db.log().fetch_position(Lsn::ZERO, &whole, &Progress::none()).await;
        let fetched = fetched.map_err(|e| unavailable(&e))?;
        layer = blocking(move || {
            fetched.for_each(|pgno, page| {
                if wanted.contains(&pgno.get()) {
                    layer.put(pgno, page)?;
                }
                Ok::<(), Failed>(())
            })?;
            Ok::<_, Failed>(layer)
        })
        .await?
        .map_err(ApiError::from)?;
    }
    let mut segments = db.log().segments(whole.lsn, at, &Progress::none());
    while let Some(segment) = segments.try_next().await.map_err(|e| unavailable(&e))? {
        layer = blocking(move || {
            segment.for_each(|_, frame, page| {
                put(&mut layer, frame.pgno, frame.commit_size, page)?;
                Ok::<(), Failed>(())
            })?;
            Ok::<_, Failed>(layer)
        })
        .await?
        .map_err(ApiError::from)?;
    }
    Ok(layer)
}

fn put(layer: &mut Overlay, pgno: Pgno, commit_size: u32, page: &[u8]) -> io::Result<()> {
    layer.put(pgno, page)?;
    if commit_size > 0 { layer.resize(commit_size) } else { Ok(()) }
}

/// Lays the frames `first` to `last` into `layer`, and answers their pages. Blocking.
pub(super) fn lay(
    layer: &mut Overlay,
    frames: &FrameFile,
    first: u32,
    last: u32,
) -> io::Result<PageSet> {
    let mut pages = PageSet::new();
    let mut number = first;
    while number <= last {
        let to = last.min(number + READ_FRAMES - 1);
        for frame in frames.read(number, to)?.iter() {
            if frame.pgno() != PAGE_SIZE.lock_page() {
                pages.insert(frame.pgno().get());
            }
            put(layer, frame.pgno(), frame.header.commit_size, frame.page())?;
        }
        number = to + 1;
    }
    Ok(pages)
}

/// The position that a search by position finds; for those that lie within the log.
pub(super) async fn size_at(db: &Database, at: Lsn) -> Result<u32, ApiError> {
    if at == Lsn::ZERO {
        return Ok(0);
    }
    let position = db.log().position_at(At::Lsn(at)).await.map_err(|e| unavailable(&e))?;
    Ok(position.metadata.map_or(0, |metadata| metadata.pages.1))
}

/// The pages of the frames `first` to `last`. Blocking.
pub(super) fn pages_of(frames: &FrameFile, first: u32, last: u32) -> io::Result<PageSet> {
    let mut pages = PageSet::new();
    let mut number = first;
    while number <= last {
        let to = last.min(number + READ_FRAMES - 1);
        pages.extend(frames.read(number, to)?.iter().map(|frame| frame.pgno().get()));
        number = to + 1;
    }
    Ok(pages)
}
