//! Compaction: fewer, larger objects that say the same.
//!
//! A *delta* replaces 1,000 segments for readers; a *snapshot* is the whole database. Both end
//! where a segment ends, are made from objects of the log alone (never from anybody's file), in
//! constant memory, and are created only if absent: two programs may compact at once, and the one
//! that comes second drops its work. Nothing depends on compaction for correctness.
//!
//! A snapshot is read back from the store and compared with the log's rolling checksum *before* it
//! is created under its name: whatever has the name of a snapshot was verified.

use std::io::BufReader;
use std::time::Duration;

use anabranch_format::{
    DbChecksum, DeltaEncoder, FORMAT_VERSION, Kind, Lsn, Metadata, Micros, PageOrder, PageSource,
    SnapshotReader, SnapshotWriter, chunk_bytes,
};

use crate::blocking::blocking;
use crate::collect::Collected;
use crate::error::{Damage, StoreError, causes};
use crate::fault::crash_point;
use crate::head::{Anchor, Head};
use crate::history::Position;
use crate::keys::{Keys, Target};
use crate::log::Log;
use crate::plan::Plan;
use crate::progress::{Counter, Progress, Step};
use crate::runs::{Chain, Ordered, Summed};
use crate::spool::{Spool, SpoolReader};
use crate::upload::Prepared;

/// Segments that one delta covers; also about how many segments a reader walks at most.
const SEGMENTS_PER_DELTA: usize = 1_000;

/// One append in this many looks whether there is something to compact: a look costs a listing.
const APPENDS_PER_LOOK: u64 = 64;

/// What a compaction did.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct CompactReport {
    /// Deltas that were made, each over a range of segments.
    pub deltas: u64,
    /// The snapshot that was made, if one was.
    pub snapshot: Option<Lsn>,
    /// The oldest position that is kept now.
    pub floor: Lsn,
    /// Objects that were deleted.
    pub objects_deleted: u64,
    /// Bytes of the objects that were deleted.
    pub bytes_deleted: u64,
}

impl Log {
    /// Makes deltas of what was appended since the last ones, a verified snapshot of the head, and
    /// deletes what nobody needs to restore any moment younger than `retain`. Safe to run at any
    /// time, by any number of programs, and to interrupt.
    pub async fn compact(
        &self,
        now: Micros,
        retain: Duration,
        progress: &Progress,
    ) -> Result<CompactReport, StoreError> {
        let head = self.head(&Anchor::start()).await?;
        let deltas = self.make_deltas(&head, progress).await?;
        let snapshot = self.make_snapshot(&head, progress).await?;
        let report = self.retain(now, retain, progress).await?;
        Ok(CompactReport { deltas, snapshot, ..report })
    }

    /// For whoever has just appended `won`: compacts if there are 1,000 segments without a delta.
    /// Most calls return at once. A failure is logged only: the append is in the log already.
    pub async fn maybe_compact(
        &self,
        won: &Metadata,
        now: Micros,
        retain: Duration,
        progress: &Progress,
    ) -> Option<CompactReport> {
        if !is_look_due(won) {
            return None;
        }
        match self.compact_if_due(now, retain, progress).await {
            Ok(report) => report,
            Err(e) => {
                tracing::warn!(log = %self.location(), error = %e, "compaction failed; the next one starts over");
                None
            }
        }
    }

    async fn compact_if_due(
        &self,
        now: Micros,
        retain: Duration,
        progress: &Progress,
    ) -> Result<Option<CompactReport>, StoreError> {
        let head = self.head(&Anchor::start()).await?;
        let deltas = self.make_deltas(&head, progress).await?;
        if deltas == 0 {
            return Ok(None);
        }
        let snapshot = if self.is_snapshot_due(&head).await? {
            self.make_snapshot(&head, progress).await?
        } else {
            None
        };
        let report = self.retain(now, retain, progress).await?;
        Ok(Some(CompactReport { deltas, snapshot, ..report }))
    }

    /// A snapshot costs reading and writing the whole database; it is worth that once the log since
    /// the last one is as large.
    async fn is_snapshot_due(&self, head: &Head) -> Result<bool, StoreError> {
        let listed = self.objects.list(&self.keys.snapshots()).await?;
        let newest =
            listed.iter().filter_map(|o| Some((Keys::parse_snapshot(&o.key)?, o.bytes))).max();
        let Some((lsn, bytes)) = newest else { return Ok(true) };
        let since = self.segments_between(lsn, head.lsn()).await?;
        Ok(since.iter().map(|(_, listed)| listed.bytes).sum::<u64>() >= bytes)
    }

    async fn make_deltas(&self, head: &Head, progress: &Progress) -> Result<u64, StoreError> {
        let listed = self.objects.list(&self.keys.deltas()).await?;
        let covered = listed.iter().filter_map(|o| Keys::parse_delta(&o.key)).map(|d| d.1).max();
        if let Some(covered) = covered.filter(|covered| *covered >= head.floor)
            && let Err(e) = self.ensure_writers(covered).await
        {
            // The deltas to come have tables of their own.
            tracing::warn!(log = %self.location(), error = %causes(&e), "a delta stays without its table of writers");
        }
        let mut from = covered.unwrap_or(Lsn::ZERO).max(head.floor);
        let segments = self.segments_between(from, head.lsn()).await?;
        let mut made = 0;
        for range in segments.chunks_exact(SEGMENTS_PER_DELTA) {
            let Some((last, _)) = range.last() else { break };
            let missing = || self.objects.missing(&self.keys.segment(*last));
            let last = self.segment(*last).await?.ok_or_else(missing)?.metadata;
            let to = last.lsn.1;
            let pieces = range.iter().map(|(f, o)| (Target::Segment(*f), o.bytes)).collect();
            let plan = Plan { from: Some(from), pieces };
            made += u64::from(self.make_delta(&plan, last, progress).await?);
            from = to;
        }
        Ok(made)
    }

    async fn make_delta(
        &self,
        plan: &Plan,
        last: Metadata,
        progress: &Progress,
    ) -> Result<bool, StoreError> {
        let (from, to) = (plan.from.unwrap_or(Lsn::ZERO), last.lsn.1);
        self.ensure_writers(to).await?;
        let position =
            Position { lsn: to, metadata: Some(last.clone()), modified: None, clock_gap: None };
        let collected = self.collect(plan, &position, Chain::Checked, progress).await?;
        // Nothing but shrinking, without a page: not worth a delta, and none can say so.
        let Some((metadata, body)) = self.merge(collected, from, last).await? else {
            return Ok(false);
        };
        let target = Target::Delta(from, to);
        let counter = progress.step(Step::Uploading, Some(body.len()));
        let prepared = match self.prepare(&target, &metadata, &body, false, &counter).await {
            Ok(prepared) => prepared,
            Err(e) => return self.unless_made(&target, e).await.map(|()| false),
        };
        let created = self.create_prepared(&target, &prepared).await?;
        crash_point!("compact::after-delta");
        Ok(created)
    }

    /// Makes one delta of what was collected, from `from` to the end of the segment `last`: its
    /// metadata and its body. `None` if it has no page.
    pub(crate) async fn merge(
        &self,
        collected: Collected,
        from: Lsn,
        last: Metadata,
    ) -> Result<Option<(Metadata, SpoolReader)>, StoreError> {
        let before =
            collected.first.as_ref().map_or((0, DbChecksum::EMPTY), |m| (m.pages.0, m.sum.0));
        let first = from.next().unwrap_or(Lsn::MAX);
        let spool = Spool::new(self.objects.scratch());
        let (page_size, pages_after) = (last.page_size, last.pages.1);
        let objects = self.objects.clone();
        let encode = move || {
            let source: Box<dyn PageSource + Send> = Box::new(Ordered {
                source: collected.runs.finish()?,
                order: PageOrder::new(page_size, before.0, pages_after),
            });
            encode_delta(source, spool, page_size, first, pages_after)
                .map_err(|e| e.unwrap_or_else(|e| objects.scratch_failed(e)))
        };
        let encoded = blocking(encode).await.ok_or(StoreError::Interrupted)??;
        let Some((spool, frames)) = encoded else { return Ok(None) };
        let mut metadata = Metadata {
            kind: Kind::Delta,
            lsn: (first, last.lsn.1),
            pages: (before.0, pages_after),
            sum: (before.1, last.sum.1),
            frames: None,
            transactions: None,
            healed: None,
            clock: None,
            body: None,
            ..last
        };
        metadata.frames = (frames != metadata.lsn_count()).then_some(frames);
        Ok(Some((metadata, spool.finish())))
    }

    /// Creates what was prepared; `false` if somebody else has made it already.
    async fn create_prepared(
        &self,
        target: &Target,
        prepared: &Prepared,
    ) -> Result<bool, StoreError> {
        let key = self.keys.target_key(target);
        match self.commit(&key, prepared).await {
            Ok(()) => {
                self.discard(prepared, true).await;
                Ok(true)
            }
            Err(e) => {
                // "Exists already", or our stage was cleaned up because it does. It may also have
                // been our own first try: then its body must stay.
                let Some(seen) = self.objects.metadata(&key).await? else {
                    return Err(self.objects.failed(&key, e));
                };
                let named = seen.metadata.body.and_then(|name| self.keys.resolve_body(&name));
                let ours =
                    matches!(prepared, Prepared::Body { body, .. } if Some(body) == named.as_ref());
                self.discard(prepared, ours).await;
                Ok(false)
            }
        }
    }

    /// Work that failed is no loss if somebody else has made the object: whoever did may have swept
    /// our stage.
    async fn unless_made(&self, target: &Target, e: StoreError) -> Result<(), StoreError> {
        match self.objects.size(&self.keys.target_key(target)).await? {
            Some(_) => Ok(()),
            None => Err(e),
        }
    }

    async fn make_snapshot(
        &self,
        head: &Head,
        progress: &Progress,
    ) -> Result<Option<Lsn>, StoreError> {
        let Some(newest) = &head.newest else { return Ok(None) };
        let target = Target::Snapshot(head.lsn());
        let key = self.keys.target_key(&target);
        // Also for a snapshot that is there: its table may be lost or damaged.
        self.ensure_writers(head.lsn()).await?;
        if self.objects.size(&key).await?.is_some() {
            return Ok(None);
        }
        let metadata = snapshot_metadata(newest);
        let fetched = self.fetch(Lsn::ZERO, head, progress).await?;
        let source = fetched.into_pages();
        let body = self.write_snapshot(source, &metadata, progress).await?;
        let counter = progress.step(Step::Uploading, Some(body.len()));
        let prepared = match self.prepare(&target, &metadata, &body, true, &counter).await {
            Ok(prepared) => prepared,
            Err(e) => return self.unless_made(&target, e).await.map(|()| None),
        };
        if let Err(e) = self.verify_snapshot(&prepared, &metadata, progress).await {
            self.discard(&prepared, false).await;
            return self.unless_made(&target, e).await.map(|()| None);
        }
        crash_point!("compact::before-snapshot");
        let created = self.create_prepared(&target, &prepared).await?;
        crash_point!("compact::after-snapshot");
        Ok(created.then_some(head.lsn()))
    }

    async fn write_snapshot(
        &self,
        mut source: Box<dyn PageSource + Send>,
        metadata: &Metadata,
        progress: &Progress,
    ) -> Result<SpoolReader, StoreError> {
        let page_bytes = u64::from(metadata.page_size.get());
        let counter = progress.step(Step::Snapshot, Some(page_bytes * u64::from(metadata.pages.1)));
        let spool = Spool::new(self.objects.scratch());
        let (objects, metadata) = (self.objects.clone(), metadata.clone());
        let key = self.keys.snapshot(metadata.lsn.1);
        let written = tokio::task::spawn_blocking(move || {
            let damaged = |e| objects.corrupt(&key, Damage::Snapshot(e));
            let mut writer = SnapshotWriter::new(spool, &metadata).map_err(damaged)?;
            let mut page = vec![0; metadata.page_size.bytes()];
            while let Some(pgno) = source.next_page(&mut page).map_err(|e| {
                StoreError::from_pages(e).unwrap_or_else(|e| objects.corrupt(&key, e))
            })? {
                writer.page(pgno, &page).map_err(damaged)?;
                counter.add(page_bytes);
            }
            let mut reader = writer.finish().map_err(damaged)?.finish();
            // `prepare` puts the metadata before the body itself.
            Metadata::decode(&mut reader).map_err(|e| objects.corrupt(&key, e))?;
            Ok(reader.rest())
        });
        written.await.map_err(|_| StoreError::Interrupted)?
    }

    /// Reads what was uploaded back from the store, and compares every page.
    async fn verify_snapshot(
        &self,
        prepared: &Prepared,
        metadata: &Metadata,
        progress: &Progress,
    ) -> Result<(), StoreError> {
        let key = match prepared {
            Prepared::Staged(key) | Prepared::Body { body: key, .. } => key.clone(),
            Prepared::Whole(_) => unreachable!("snapshots are staged"),
        };
        let downloaded = Progress::none().step(Step::Verifying, None);
        let (found, body) = self.open_at(&key, 0, &downloaded).await?;
        if found != *metadata {
            return Err(self.contradiction(&key, "it reads back with other metadata".to_owned()));
        }
        let page_bytes = u64::from(metadata.page_size.get());
        let counter =
            progress.step(Step::Verifying, Some(page_bytes * u64::from(metadata.pages.1)));
        let (objects, metadata) = (self.objects.clone(), metadata.clone());
        let verified = tokio::task::spawn_blocking(move || {
            let reader = SnapshotReader::new(BufReader::new(body), &metadata)
                .map_err(|e| objects.corrupt(&key, e))?;
            let order = PageOrder::new(metadata.page_size, 0, metadata.pages.1);
            let summed = Summed {
                source: Box::new(Ordered { source: Box::new(reader), order }),
                sum: DbChecksum::EMPTY,
                expected: metadata.sum.1,
                context: objects.context().clone(),
                key: key.clone(),
            };
            read_through(summed, metadata.page_size.bytes(), &counter)
                .map_err(|e| StoreError::from_pages(e).unwrap_or_else(|e| objects.corrupt(&key, e)))
        });
        verified.await.map_err(|_| StoreError::Interrupted)?
    }
}

/// Whether this append is one of those that look. Spread by the push id, so that writers whose
/// pushes all have the same length take part alike.
fn is_look_due(won: &Metadata) -> bool {
    let Some(push) = &won.push else { return true };
    let hash = push.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) % APPENDS_PER_LOOK == 0
}

fn snapshot_metadata(newest: &Metadata) -> Metadata {
    Metadata {
        version: FORMAT_VERSION,
        kind: Kind::Snapshot,
        lsn: (newest.lsn.1, newest.lsn.1),
        pages: (0, newest.pages.1),
        sum: (DbChecksum::EMPTY, newest.sum.1),
        frames: None,
        transactions: None,
        clock: None,
        healed: None,
        chunk: Some(chunk_bytes(newest.page_size, newest.pages.1)),
        body: None,
        ..newest.clone()
    }
}

fn read_through(
    mut source: impl PageSource,
    page_bytes: usize,
    counter: &Counter,
) -> Result<(), anabranch_format::DeltaError> {
    let mut page = vec![0; page_bytes];
    while source.next_page(&mut page)?.is_some() {
        counter.add(page_bytes as u64);
    }
    Ok(())
}

/// Writes all pages into a delta; `None` if there are none. The error is the store's, or that of
/// the temporary file.
fn encode_delta(
    mut source: Box<dyn PageSource + Send>,
    spool: Spool,
    page_size: anabranch_format::PageSize,
    first: Lsn,
    size_after: u32,
) -> Result<Option<(Spool, u64)>, Failure> {
    let mut encoder = DeltaEncoder::new(spool, page_size, first).map_err(Failure::Scratch)?;
    let mut page = vec![0; page_size.bytes()];
    while let Some(pgno) =
        source.next_page(&mut page).map_err(|e| match StoreError::from_pages(e) {
            Ok(named) => Failure::Store(named),
            Err(e) => Failure::Scratch(std::io::Error::other(e)),
        })?
    {
        encoder.page(pgno, &page).map_err(Failure::Scratch)?;
    }
    if encoder.is_empty() {
        return Ok(None);
    }
    let encoded = encoder.finish(size_after).map_err(Failure::Scratch)?;
    Ok(Some((encoded.sink, encoded.frames)))
}

enum Failure {
    Store(StoreError),
    Scratch(std::io::Error),
}

impl Failure {
    fn unwrap_or_else(self, scratch: impl FnOnce(std::io::Error) -> StoreError) -> StoreError {
        match self {
            Failure::Store(e) => e,
            Failure::Scratch(e) => scratch(e),
        }
    }
}
