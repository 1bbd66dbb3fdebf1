//! Fetching what leads from one position to another.
//!
//! Objects are downloaded side by side and taken in order. Before a page of them is handed out
//! everything that can be known is checked: each object is of this database and what its name says,
//! each begins with the state in which the one before it ends, and the last ends at the position
//! wanted. The pages themselves are checked while they are read (zstd's checksums, order,
//! completeness; a whole database against the rolling checksum); damage names the object's key.
//! Whoever applies a change checks the rolling checksum, which covers every byte, so that the
//! checksums of the WAL inside, slower than all else together, are left out here.
//!
//! An object that is missing means that retention, or another plan, overtook this one: plan anew, a
//! bounded number of times.

use std::sync::Arc;

use anabranch_format::{
    DbChecksum, DeltaError, Kind, Lsn, Metadata, MetadataError, PageSize, PageSource, PushId,
    WriterId,
};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::blocking::{at_once, blocking};
use crate::collect::Collected;
use crate::context::Context;
use crate::error::{Damage, StoreError, causes};
use crate::head::Head;
use crate::history::Position;
use crate::keys::Target;
use crate::log::Log;
use crate::objects::is_vanished;
use crate::plan::Plan;
use crate::progress::{Counter, Progress, Step};
use crate::runs::{Chain, OpenPiece, Summed};

/// Objects on their way at the same time.
const DOWNLOADS_AT_ONCE: usize = 16;
/// Objects up to this length are held in memory; longer ones lie in a temporary file, or are read
/// in place.
const MEMORY_BYTES_MAX: u64 = 64 * 1024;
/// If there are few objects each may take a share of this.
const MEMORY_BYTES_ALL: u64 = 16 * 1024 * 1024;
/// A plan that was overtaken is made anew this often.
pub(crate) const PLANS_MAX: u32 = 6;

/// A push that is part of what was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// Who pushed.
    #[serde(rename = "by")]
    pub writer: WriterId,
    /// The push.
    pub push: PushId,
    /// The position after it.
    pub lsn: Lsn,
}

/// What was fetched: all bytes are at hand, locally.
pub struct Fetched {
    /// Where the change starts; `None`: it is the whole database, whatever there was before.
    pub from: Option<Lsn>,
    /// Where it leads.
    pub to: Lsn,
    /// Page size.
    pub page_size: PageSize,
    /// Database size in pages before (0 for a whole database) and after.
    pub pages: (u32, u32),
    /// Database checksum before and after.
    pub sum: (DbChecksum, DbChecksum),
    /// The pushes in it, oldest first; of a range that was compacted the newest of each writer (none
    /// if the table of these is damaged).
    pub pushes: Vec<Pushed>,
    /// Objects that were read.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// All bytes lie in memory: reading the pages takes no longer than unpacking them.
    pub in_memory: bool,
    /// No more pages than this will come.
    pub pages_max: u64,
    /// The remote states what it knows of both ends: else [`Fetched::sum`] and the size before mean
    /// nothing.
    pub(crate) stated: bool,
    /// To check a whole database with.
    pub(crate) whole: Option<(Context, String)>,
    pub(crate) pages_source: Box<dyn PageSource + Send>,
}

/// What came from a remote that knows no checksums; see [`Fetched::unstated`].
pub struct Unstated {
    /// As in [`Fetched`].
    pub from: Option<Lsn>,
    /// As in [`Fetched`].
    pub to: Lsn,
    /// Page size.
    pub page_size: PageSize,
    /// Database size after, in pages.
    pub size: u32,
    /// No more pages than this will come.
    pub pages_max: u64,
    /// Requests that were made.
    pub objects: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// The pages, ascending; of a whole database all of them.
    pub source: Box<dyn PageSource + Send>,
}

impl std::fmt::Debug for Unstated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unstated")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("pages", &self.pages)
            .field("objects", &self.objects)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Fetched {
    /// Takes what came from a remote that states neither the size and checksum before nor the
    /// checksum after: whoever applies it adds them up from the state that it knows.
    #[must_use]
    pub fn unstated(came: Unstated) -> Self {
        Fetched {
            from: came.from,
            to: came.to,
            page_size: came.page_size,
            pages: (0, came.size),
            sum: (DbChecksum::EMPTY, DbChecksum::EMPTY),
            pushes: Vec::new(),
            objects: came.objects,
            bytes: came.bytes,
            in_memory: false,
            pages_max: came.pages_max,
            stated: false,
            whole: None,
            pages_source: came.source,
        }
    }

    /// Size and checksum before, if the remote states them.
    #[must_use]
    pub fn stated_before(&self) -> Option<(u32, DbChecksum)> {
        self.stated.then_some((self.pages.0, self.sum.0))
    }

    /// The checksum after, if the remote states it.
    #[must_use]
    pub fn stated_sum(&self) -> Option<DbChecksum> {
        self.stated.then_some(self.sum.1)
    }

    /// The pages, ascending: of each page that changed the newest image, and every page of a
    /// growth. A whole database is checked against [`Fetched::sum`] at its end; *a change from
    /// another position is not*: whoever knows that state must, before a page is believed. Blocking
    /// reads, in constant memory. [`StoreError::from_pages`] tells which object is damaged if a read
    /// fails; whatever was read before a failure must not be used.
    #[must_use]
    pub fn into_pages(mut self) -> Box<dyn PageSource + Send> {
        match self.whole.take() {
            Some((context, key)) => {
                let (sum, expected) = (DbChecksum::EMPTY, self.sum.1);
                Box::new(Summed { source: self.pages_source, sum, expected, context, key })
            }
            None => self.pages_source,
        }
    }

    /// As [`Fetched::into_pages`], for a reader that adds up the checksum of a whole database too.
    #[must_use]
    pub fn into_unsummed_pages(self) -> Box<dyn PageSource + Send> {
        self.pages_source
    }

    /// Reads [`Fetched::into_pages`] to its end, telling `page` of each page, and speaks in errors
    /// of the store.
    pub fn for_each<E: From<StoreError>>(
        self,
        mut page: impl FnMut(anabranch_format::Pgno, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; self.page_size.bytes()];
        let mut source = self.into_pages();
        loop {
            let next = source.next_page(&mut buffer).map_err(named)?;
            let Some(pgno) = next else { return Ok(()) };
            page(pgno, &buffer)?;
        }
    }
}

fn named(e: DeltaError) -> StoreError {
    StoreError::from_pages(e).unwrap_or_else(|e| StoreError::Scratch {
        directory: std::path::PathBuf::new(),
        source: std::io::Error::other(e),
    })
}

impl Log {
    /// Fetches what leads from `from` to `to` with the fewest objects. The answer is the whole
    /// database if `from` is 0, lies below the floor or inside a segment, or if that is cheaper.
    pub async fn fetch(
        &self,
        from: Lsn,
        to: &Head,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        self.fetch_position(from, &to.position(), progress).await
    }

    /// Like [`Log::fetch`], to any position that [`Log::position_at`] found.
    pub async fn fetch_position(
        &self,
        from: Lsn,
        to: &Position,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        if from > to.lsn {
            let (location, at, head) = (self.location().to_owned(), from, to.lsn);
            return Err(StoreError::BeyondHead { location, at, head });
        }
        let (log, to, progress) = (self.clone(), to.clone(), progress.clone());
        let work = move || async move { log.fetch_newly_planned(from, &to, &progress).await };
        at_once(self.objects.kind(), work).await?
    }

    async fn fetch_newly_planned(
        &self,
        from: Lsn,
        to: &Position,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        let mut plans = 0;
        loop {
            let plan = self.plan(from, to).await;
            let fetched = match plan {
                Ok(plan) => self
                    .collect(&plan, to, Chain::LeftToReader, progress)
                    .await
                    .map(|collected| (plan, collected)),
                Err(e) => Err(e),
            };
            plans += 1;
            match fetched {
                Ok((plan, collected)) => {
                    let to = to.clone();
                    let fetched = blocking(move || collected.fetched(plan.from, &to)).await;
                    return fetched.ok_or(StoreError::Interrupted)?;
                }
                Err(e) if is_vanished(&e) && plans < PLANS_MAX => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads the metadata and bytes of all objects of `plan`, and checks how they follow.
    pub(crate) async fn collect(
        &self,
        plan: &Plan,
        to: &Position,
        chain: Chain,
        progress: &Progress,
    ) -> Result<Collected, StoreError> {
        let mut collected = Collected::new(self.objects.context(), &self.keys, to, chain);
        let share = MEMORY_BYTES_ALL / (plan.pieces.len() as u64).max(1);
        let memory = share.max(MEMORY_BYTES_MAX);
        let total = Some(plan.bytes()).filter(|bytes| *bytes > 0);
        let counter = progress.step(Step::Downloading, total);
        // Owned, so that the future does not borrow from the plan across threads.
        let targets: Vec<Target> = plan.pieces.iter().map(|(target, _)| *target).collect();
        let mut pieces = futures::stream::iter(targets)
            .map(|target| self.open_piece(target, memory, &counter))
            .buffered(DOWNLOADS_AT_ONCE)
            .boxed();
        while let Some(piece) = pieces.try_next().await? {
            self.note_pushes(&mut collected, &piece.metadata).await?;
            collected = collected.add(piece).await?;
        }
        collected.bytes = counter.done();
        collected.check_end(plan.from, to)?;
        Ok(collected)
    }

    async fn note_pushes(
        &self,
        collected: &mut Collected,
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        collected.pushes.extend(self.hidden_pushes(metadata).await?);
        Ok(())
    }

    /// The pushes that a compacted object hides: of each writer the newest.
    pub(crate) async fn hidden_pushes(
        &self,
        metadata: &Metadata,
    ) -> Result<Vec<Pushed>, StoreError> {
        if metadata.kind == Kind::Segment {
            return Ok(Vec::new());
        }
        let table = match self.writers_at(metadata.lsn.1).await {
            Ok(table) => table,
            // All pages are there; only who pushed them last is not known.
            Err(e) if e.is_corrupt() => {
                tracing::warn!(log = %self.location(), error = %causes(&e), "going on without a table of writers; the next compaction makes it anew");
                return Ok(Vec::new());
            }
            Err(e) => return Err(e),
        };
        let snapshot = metadata.kind == Kind::Snapshot;
        let from = if snapshot { Lsn::ZERO } else { metadata.from() };
        Ok(table.pushes().filter(|p| p.lsn > from).collect())
    }

    /// Opens an object of the log, following it to its body if that lies elsewhere.
    pub(crate) async fn open_piece(
        &self,
        target: Target,
        memory_bytes_max: u64,
        counter: &Counter,
    ) -> Result<OpenPiece, StoreError> {
        let key: Arc<str> = self.keys.target_key(&target).into();
        let (metadata, body) = self.open_at(&key, memory_bytes_max, counter).await?;
        let Some(name) = metadata.body.clone() else {
            return self.checked_piece(&key, target, metadata, body);
        };
        let (body_key, metadata) = self.named_body(&key, &name, metadata)?;
        let (inner, body) = self.open_at(&body_key, memory_bytes_max, counter).await?;
        self.check_body(&key, &body_key, &metadata, &inner)?;
        let mut piece = self.checked_piece(&key, target, metadata, body)?;
        piece.key = body_key;
        Ok(piece)
    }

    /// The key of the body `name` that the object at `key` names, and the metadata that it must have.
    pub(crate) fn named_body(
        &self,
        key: &str,
        name: &str,
        metadata: Metadata,
    ) -> Result<(String, Metadata), StoreError> {
        let body_key = self.keys.resolve_body(name).ok_or_else(|| {
            self.contradiction(key, format!("it names a body where none can be: {name:?}"))
        })?;
        Ok((body_key, Metadata { body: None, ..metadata }))
    }

    pub(crate) fn check_body(
        &self,
        key: &str,
        body_key: &str,
        metadata: &Metadata,
        found: &Metadata,
    ) -> Result<(), StoreError> {
        if found == metadata {
            return Ok(());
        }
        let text = format!("its metadata differs from that of {key}, which names it");
        Err(self.contradiction(body_key, text))
    }

    fn checked_piece(
        &self,
        key: &str,
        target: Target,
        metadata: Metadata,
        body: crate::spool::SpoolReader,
    ) -> Result<OpenPiece, StoreError> {
        self.check_target(key, target, &metadata)?;
        Ok(OpenPiece { key: key.to_owned(), metadata, body })
    }

    /// An object must be what its name says.
    pub(crate) fn check_target(
        &self,
        key: &str,
        target: Target,
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        let (kind, fits) = match target {
            Target::Segment(first) => (Kind::Segment, metadata.lsn.0 == first),
            Target::Delta(from, to) => {
                (Kind::Delta, metadata.from() == from && metadata.lsn.1 == to)
            }
            Target::Snapshot(lsn) => (Kind::Snapshot, metadata.lsn == (lsn, lsn)),
        };
        self.check_identity(key, metadata, kind)?;
        if !fits {
            let (first, last) = metadata.lsn;
            let text = format!("it holds {first} to {last}, not what its name says");
            return Err(self.contradiction(key, text));
        }
        Ok(())
    }

    /// Opens the object at `key`: its metadata, and what follows.
    pub(crate) async fn open_at(
        &self,
        key: &str,
        memory_bytes_max: u64,
        counter: &Counter,
    ) -> Result<(Metadata, crate::spool::SpoolReader), StoreError> {
        let opened = self.objects.open(key, memory_bytes_max, counter).await?;
        let (mut reader, _) = opened.ok_or_else(|| self.objects.missing(key))?;
        let decode =
            move || Metadata::decode(&mut reader).map(|metadata| (metadata, reader.rest()));
        let decoded = blocking(decode).await.ok_or(StoreError::Interrupted)?;
        decoded.map_err(|e| match e {
            MetadataError::Io(e) => self.objects.scratch_failed(e),
            e => self.objects.corrupt(key, Damage::Metadata(e)),
        })
    }
}
