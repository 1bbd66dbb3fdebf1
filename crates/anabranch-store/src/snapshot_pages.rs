//! Single pages of a snapshot, by range requests.
//!
//! The seek table at the end of the object tells where each chunk lies. Chunks that are wanted and lie
//! side by side are fetched together, [`RANGES_AT_ONCE`] ranges at a time of at most
//! [`RANGE_BYTES_MAX`] (or one chunk). What comes goes packed into a spool, and is unpacked while it is
//! read, [`chunk_pages`](crate::chunk_pages) ahead.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use anabranch_format::{Layout, Lsn, Metadata, PageSet, SeekTable, SnapshotError};
use futures::{StreamExt, TryStreamExt};

use crate::chunk_pages::{ChunkPages, Packed, Unpacking};
use crate::error::{Damage, StoreError};
use crate::keys::Target;
use crate::log::Log;
use crate::objects::Seen;
use crate::progress::Counter;
use crate::runs::Source;
use crate::spool::Spool;

/// Ranges on their way at the same time.
const RANGES_AT_ONCE: usize = 8;
/// Chunks are fetched together up to this length.
const RANGE_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// A snapshot of which nothing but the metadata was read.
pub(crate) struct SnapshotParts {
    key: String,
    metadata: Metadata,
    object_bytes: u64,
}

impl SnapshotParts {
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Log {
    /// Reads the metadata of the snapshot at `lsn`.
    pub(crate) async fn open_snapshot(&self, lsn: Lsn) -> Result<SnapshotParts, StoreError> {
        let target = Target::Snapshot(lsn);
        let key = self.keys.target_key(&target);
        let missing = || self.objects.missing(&key);
        let Seen { metadata, bytes, .. } =
            self.objects.metadata(&key).await?.ok_or_else(missing)?;
        self.check_target(&key, target, &metadata)?;
        let Some(name) = metadata.body.clone() else {
            return Ok(SnapshotParts { key, metadata, object_bytes: bytes });
        };
        let (body_key, metadata) = self.named_body(&key, &name, metadata)?;
        let missing = || self.objects.missing(&body_key);
        let body = self.objects.metadata(&body_key).await?.ok_or_else(missing)?;
        self.check_body(&key, &body_key, &metadata, &body.metadata)?;
        Ok(SnapshotParts { key: body_key, metadata, object_bytes: body.bytes })
    }

    /// Fetches the chunks that hold the pages of `wanted` up to `size`.
    pub(crate) async fn fetch_parts(
        &self,
        snapshot: SnapshotParts,
        wanted: Arc<PageSet>,
        size: u32,
        counter: &Counter,
    ) -> Result<Source, StoreError> {
        let SnapshotParts { key, metadata, object_bytes } = snapshot;
        let damaged = |e: SnapshotError| self.objects.corrupt(&key, Damage::Snapshot(e));
        let layout = Layout::of(&metadata).map_err(damaged)?;
        let size = size.min(metadata.pages.1);
        let lock_page = metadata.page_size.lock_page();
        let mut chunks: Vec<u64> = Vec::new();
        let mut after = 0;
        while let Some(pgno) = wanted.next_after(after).filter(|pgno| pgno.get() <= size) {
            after = pgno.get();
            if let Some((chunk, _)) = layout.locate(pgno)
                && pgno != lock_page
                && chunks.last() != Some(&chunk)
            {
                chunks.push(chunk);
            }
        }
        let mut spool = Spool::new(self.objects.scratch());
        let mut index = Vec::with_capacity(chunks.len());
        if !chunks.is_empty() {
            let table = self.seek_table(&key, &layout, object_bytes, counter).await?;
            let ranges = ranges(&table, &chunks).map_err(damaged)?;
            for range in &ranges {
                let mut at = index.last().map_or(0, |last: &Packed| last.at + last.len);
                for (chunk, place) in &range.chunks {
                    let len = place.end - place.start;
                    index.push(Packed { chunk: *chunk, at, len });
                    at += len;
                }
            }
            let bounds: Vec<Range<u64>> = ranges.into_iter().map(|r| r.bytes).collect();
            let mut parts = futures::stream::iter(bounds)
                .map(|bytes| self.range(&key, bytes, counter))
                .buffered(RANGES_AT_ONCE)
                .boxed();
            while let Some(part) = parts.try_next().await? {
                spool = tokio::task::spawn_blocking(move || spool.write_all(&part).map(|()| spool))
                    .await
                    .map_err(|_| StoreError::Interrupted)?
                    .map_err(|e| self.objects.scratch_failed(e))?;
            }
        }
        Ok(Box::new(ChunkPages {
            context: self.objects.context().clone(),
            key,
            layout,
            chunks: Unpacking::new(layout, spool.finish(), index),
            wanted,
            after: 0,
            size,
            lock_page,
        }))
    }

    async fn seek_table(
        &self,
        key: &str,
        layout: &Layout,
        object_bytes: u64,
        counter: &Counter,
    ) -> Result<SeekTable, StoreError> {
        let damaged = |e| self.objects.corrupt(key, Damage::Snapshot(e));
        let start = object_bytes
            .checked_sub(layout.seek_table_bytes())
            .ok_or_else(|| damaged(SnapshotError::SeekTable("the object is shorter than it")))?;
        let tail = self.range(key, start..object_bytes, counter).await?;
        SeekTable::decode(layout, &tail, object_bytes).map_err(damaged)
    }

    async fn range(
        &self,
        key: &str,
        bytes: Range<u64>,
        counter: &Counter,
    ) -> Result<bytes::Bytes, StoreError> {
        let found = self.objects.read_range(key, bytes).await?;
        let found = found.ok_or_else(|| self.objects.missing(key))?;
        counter.add(found.len() as u64);
        Ok(found)
    }
}

/// Chunks that are fetched together.
struct Together {
    bytes: Range<u64>,
    chunks: Vec<(u64, Range<u64>)>,
}

fn ranges(table: &SeekTable, chunks: &[u64]) -> Result<Vec<Together>, SnapshotError> {
    let mut ranges: Vec<Together> = Vec::new();
    for &chunk in chunks {
        let place = table
            .chunk_range(chunk)
            .filter(|place| place.start < place.end)
            .ok_or(SnapshotError::SeekTable("a chunk has no place"))?;
        match ranges.last_mut() {
            Some(last)
                if last.bytes.end == place.start
                    && place.end - last.bytes.start <= RANGE_BYTES_MAX =>
            {
                last.bytes.end = place.end;
                last.chunks.push((chunk, place));
            }
            _ => ranges.push(Together { bytes: place.clone(), chunks: vec![(chunk, place)] }),
        }
    }
    Ok(ranges)
}
