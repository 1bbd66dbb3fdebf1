//! From the log to what is kept at hand: frames into a file, page checksums into a map.

use std::sync::Arc;

use anabranch_format::{FrameHeader, Lsn, Pgno};
use anabranch_store::{Head, Progress, SegmentFrames, StoreError};
use futures::TryStreamExt;

use super::engine::{SchemaSeen, blocking, scratch, unavailable};
use super::frame::{FRAME_BYTES, PAGE_SIZE};
use super::generation::Generation;
use crate::database::Database;
use crate::error::ApiError;
use crate::page_map::{Change, PageMap};

/// Frames that are gathered before they are written to a scratch file.
const WRITE_FRAMES: usize = 256;

/// Lays down the frames of segments, and moves the page map along. Blocking.
pub(super) struct Loader {
    pub(super) generation: Option<Arc<Generation>>,
    pub(super) map: Option<PageMap>,
    pub(super) schema: SchemaSeen,
}

impl Loader {
    pub(super) fn add(&mut self, segment: SegmentFrames) -> Result<(), ApiError> {
        let metadata = segment.metadata.clone();
        if metadata.page_size != PAGE_SIZE {
            return Err(ApiError::busy("the log changes its page size"));
        }
        let mut writer = self.generation.as_deref().map(Writer::new);
        let mut change = self.map.as_ref().is_some_and(|map| map.lsn() == metadata.from());
        let mut changed = Change::default();
        let mut schema = self.schema;
        let added = segment.for_each(|lsn, frame, page| {
            if let Some(writer) = &mut writer {
                writer.frame(lsn, frame, page).map_err(LoadError::Scratch)?;
            }
            if change {
                changed.frame(frame.pgno, frame.commit_size, page);
            }
            if frame.pgno == Pgno::ONE {
                schema.page_one(page);
            }
            Ok::<(), LoadError>(())
        });
        added.map_err(|e| match e {
            LoadError::Store(e) => unavailable(&e),
            LoadError::Scratch(e) => scratch(&e),
        })?;
        if let Some(writer) = writer {
            writer.finish(metadata.lsn.1).map_err(|e| scratch(&e))?;
        }
        self.schema = schema;
        if let Some(map) = self.map.as_mut().filter(|_| change) {
            change = map.sum_after(&changed) == metadata.sum.1;
            if change {
                map.apply(metadata.lsn.1, &changed);
            } else {
                tracing::error!(lsn = %metadata.lsn.1, "the pages of a segment have another checksum than it states");
                self.map = None;
            }
        }
        Ok(())
    }
}

enum LoadError {
    Store(StoreError),
    Scratch(std::io::Error),
}

impl From<StoreError> for LoadError {
    fn from(e: StoreError) -> Self {
        LoadError::Store(e)
    }
}

/// Gathers frames and writes them to the file of a generation.
struct Writer<'a> {
    generation: &'a Generation,
    /// Number of the first frame gathered.
    number: u32,
    bytes: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(generation: &'a Generation) -> Self {
        let number = generation.frames.last().saturating_add(1);
        Writer { generation, number, bytes: Vec::new() }
    }

    fn frame(&mut self, lsn: Lsn, frame: FrameHeader, page: &[u8]) -> std::io::Result<()> {
        if lsn <= self.generation.at() {
            return Ok(());
        }
        self.bytes.extend_from_slice(&frame.encode());
        self.bytes.extend_from_slice(page);
        if self.bytes.len() >= WRITE_FRAMES * FRAME_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.generation.frames.write(self.number, &self.bytes)?;
        let frames =
            u32::try_from(self.bytes.len() / FRAME_BYTES).map_err(std::io::Error::other)?;
        self.number += frames;
        self.bytes.clear();
        Ok(())
    }

    fn finish(mut self, last: Lsn) -> std::io::Result<()> {
        if !self.bytes.is_empty() {
            self.flush()?;
        }
        self.generation.frames.publish(self.generation.span.frame(last));
        Ok(())
    }
}

/// Moves `map` along the log to `to`.
pub(super) async fn advance(db: &Database, map: PageMap, to: Lsn) -> Result<PageMap, ApiError> {
    let mut segments = db.log().segments(map.lsn(), to, &Progress::none());
    let mut loader = Loader { generation: None, map: Some(map), schema: SchemaSeen::default() };
    while let Some(segment) = segments.try_next().await.map_err(|e| unavailable(&e))? {
        let outcome;
        (loader, outcome) = blocking(move || {
            let added = loader.add(segment);
            (loader, added)
        })
        .await?;
        outcome?;
    }
    loader.map.ok_or_else(|| ApiError::busy("the log's checksums do not fit its pages"))
}

/// Reads the whole database at `head`.
pub(super) async fn gather(db: &Database, head: &Head) -> Result<PageMap, ApiError> {
    let Some(newest) = &head.newest else { return Ok(PageMap::empty()) };
    let fetched = db.log().fetch(Lsn::ZERO, head, &Progress::none()).await;
    let fetched = fetched.map_err(|e| unavailable(&e))?;
    let mut map = PageMap::new(head.lsn(), newest.pages.1);
    blocking(move || {
        fetched.for_each(|pgno, page| {
            map.set(pgno, page);
            Ok::<(), StoreError>(())
        })?;
        Ok(map)
    })
    .await?
    .map_err(|e: StoreError| unavailable(&e))
}
