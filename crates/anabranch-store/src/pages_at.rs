//! Single pages of the database as they were at some position.
//!
//! For whoever has a later state and needs, of the pages that changed since, the images from before.
//! The newest snapshot that is not newer is where most of them lie: its seek table tells where, and
//! only those chunks are fetched. Before that the segments and deltas after the snapshot are read, as
//! a whole, since they cannot be read otherwise: what is found there need not be fetched from the
//! snapshot. Without a snapshot (a young database) the log is read from its start.
//!
//! ```text
//! segments, deltas -> Runs (only what is wanted) -> a spool, and which pages are still missing
//! snapshot         -> its seek table, chunks     -> a spool
//! both             -> merged while they are read
//! ```
//!
//! Bounds: 16 downloads at once of at most 64 KiB in memory each (longer ones go to temporary files);
//! what `Runs` takes; 8 MiB for each spool before it is a temporary file; a bit for each page of the
//! database; a chunk of the snapshot (256 KiB up to databases of 64 GiB).
//!
//! The rolling checksum covers whole states, so it says nothing here. What is checked: that objects
//! follow one another, the checksums of each WAL, of each chunk, and that every page is there. Who
//! keeps a checksum of each page should compare.

use std::io::{BufReader, Read, Write};
use std::sync::Arc;

use anabranch_format::{DeltaError, Lsn, Merge, Metadata, PageSet, PageSize, PageSource, Pgno};
use futures::{StreamExt, TryStreamExt};

use crate::collect::check_next;
use crate::context::Context;
use crate::error::StoreError;
use crate::fetch::PLANS_MAX;
use crate::keys::Target;
use crate::log::Log;
use crate::objects::is_vanished;
use crate::progress::{Counter, Progress, Step};
use crate::runs::{Chain, Runs, Source};
use crate::spool::{Spool, SpoolReader};

/// Objects on their way at the same time.
const DOWNLOADS_AT_ONCE: usize = 16;
/// Objects up to this length are held in memory.
const MEMORY_BYTES_MAX: u64 = 64 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

/// Pages as of a position: all bytes are at hand, locally.
pub struct PagesAt {
    /// The position.
    pub lsn: Lsn,
    /// Page size.
    pub page_size: PageSize,
    /// Size of the database there, in pages.
    pub size: u32,
    /// Objects that were read, whole or in part.
    pub objects: u64,
    /// Bytes that were fetched of them.
    pub bytes: u64,
    source: Source,
}

impl std::fmt::Debug for PagesAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PagesAt")
            .field("lsn", &self.lsn)
            .field("size", &self.size)
            .field("objects", &self.objects)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl PagesAt {
    /// The pages, ascending: each that was asked for and lies within the size, but for the lock
    /// page. Page 1 has the form that the log holds. Blocking reads, in constant memory;
    /// [`StoreError::from_pages`] tells which object is damaged if one fails.
    #[must_use]
    pub fn into_pages(self) -> Box<dyn PageSource + Send> {
        self.source
    }
}

impl Log {
    /// The pages of `wanted` as they were at the position `at`, which must end a transaction.
    ///
    /// Fails with [`StoreError::BelowFloor`] if the log does not keep that state any more, and with
    /// [`StoreError::BeyondHead`] if it is not there yet.
    pub async fn pages_at(
        &self,
        at: Lsn,
        wanted: PageSet,
        progress: &Progress,
    ) -> Result<PagesAt, StoreError> {
        let wanted = Arc::new(wanted);
        let mut plans = 0;
        loop {
            let found = self.try_pages_at(at, &wanted, progress).await;
            plans += 1;
            match found {
                Err(e) if is_vanished(&e) && plans < PLANS_MAX => {}
                found => return found,
            }
        }
    }

    async fn try_pages_at(
        &self,
        at: Lsn,
        wanted: &Arc<PageSet>,
        progress: &Progress,
    ) -> Result<PagesAt, StoreError> {
        let plan = self.plan_whole(at).await?;
        let counter = progress.step(Step::Downloading, None);
        let mut targets: Vec<Target> = plan.pieces.iter().map(|(target, _)| *target).collect();
        let objects = targets.len() as u64;
        let snapshot = match targets.first() {
            Some(Target::Snapshot(lsn)) => {
                let lsn = *lsn;
                targets.remove(0);
                Some(self.open_snapshot(lsn).await?)
            }
            _ => None,
        };
        let start = snapshot.as_ref().map(|s| s.metadata().clone());
        let newer = self.newer(at, start, targets, wanted, &counter).await?;
        let Newer { page_size, size, pages, missing, cut } = newer;
        let mut sources: Vec<Source> = Vec::new();
        if let Some(snapshot) = snapshot {
            let parts = Arc::new(missing);
            sources.push(self.fetch_parts(snapshot, parts, size, &counter).await?);
        }
        sources.push(Box::new(Spooled { pages: BufReader::with_capacity(BUFFER_BYTES, pages) }));
        let source = Box::new(Complete {
            source: Merge::new(sources, page_size, size),
            wanted: Arc::clone(wanted),
            next: None,
            after: 0,
            page_size,
            size,
            may_lack: cut,
            context: self.objects.context().clone(),
            at,
            key: self.keys.log(),
        });
        Ok(PagesAt { lsn: at, page_size, size, objects, bytes: counter.done(), source })
    }

    /// Reads what was written after the snapshot that `start` describes, up to `at`.
    async fn newer(
        &self,
        at: Lsn,
        start: Option<Metadata>,
        targets: Vec<Target>,
        wanted: &Arc<PageSet>,
        counter: &Counter,
    ) -> Result<Newer, StoreError> {
        let mut last = start;
        let mut runs: Option<Runs> = None;
        let mut cut = None;
        let mut pieces = futures::stream::iter(targets)
            .map(|target| self.open_piece(target, MEMORY_BYTES_MAX, counter))
            .buffered(DOWNLOADS_AT_ONCE)
            .boxed();
        while let Some(piece) = pieces.try_next().await? {
            let context = self.objects.context();
            check_next(context, &self.keys, last.as_ref(), &piece)?;
            let page_size = piece.metadata.page_size;
            let mut gathered = runs.take().unwrap_or_else(|| {
                Runs::new(context, page_size, Chain::Checked).only(Arc::clone(wanted))
            });
            last = Some(piece.metadata.clone());
            if piece.metadata.lsn.1 > at {
                cut = Some(piece);
                runs = Some(gathered);
                break;
            }
            let added = tokio::task::spawn_blocking(move || gathered.add(piece).map(|()| gathered));
            runs = Some(added.await.map_err(|_| StoreError::Interrupted)??);
        }
        drop(pieces);
        let end = last.as_ref().map_or(Lsn::ZERO, |last| last.lsn.1);
        if end < at {
            return Err(self.ends_before(at, end).await?);
        }
        let page_size = last.as_ref().map_or(PageSize::DEFAULT, |last| last.page_size);
        let runs = runs.unwrap_or_else(|| {
            Runs::new(self.objects.context(), page_size, Chain::Checked).only(Arc::clone(wanted))
        });
        let size = last.map_or(0, |last| last.pages.1);
        let (missing, context) = ((**wanted).clone(), self.objects.context().clone());
        let spooled = tokio::task::spawn_blocking(move || {
            let cut_off = match cut {
                Some(piece) => {
                    let frames = at.get() - piece.metadata.from().get();
                    Some(runs.cut(piece, frames)?)
                }
                None => None,
            };
            let size = cut_off.as_ref().map_or(size, |(_, size)| *size);
            let is_cut = cut_off.is_some();
            let mut sources = vec![runs.finish()?];
            sources.extend(cut_off.map(|(source, _)| source));
            let merged = Merge::new(sources, page_size, size);
            let (pages, missing) = spool(merged, page_size, missing, &context)?;
            Ok(Newer { page_size, size, pages, missing, cut: is_cut })
        });
        spooled.await.map_err(|_| StoreError::Interrupted)?
    }
}

/// What the objects after the snapshot have.
struct Newer {
    page_size: PageSize,
    /// Size of the database at the position.
    size: u32,
    /// The wanted pages among them, ascending.
    pages: SpoolReader,
    /// The wanted pages that are not.
    missing: PageSet,
    /// The position lies inside the last segment.
    cut: bool,
}

/// Writes pages into a spool, each behind its number, and takes them out of `missing`.
fn spool(
    mut source: impl PageSource,
    page_size: PageSize,
    mut missing: PageSet,
    context: &Context,
) -> Result<(SpoolReader, PageSet), StoreError> {
    let mut spool = Spool::new(context.scratch());
    let mut page = vec![0; page_size.bytes()];
    let unnamed = |e| match StoreError::from_pages(e) {
        Ok(named) => named,
        Err(e) => context.scratch_failed(std::io::Error::other(e)),
    };
    while let Some(pgno) = source.next_page(&mut page).map_err(unnamed)? {
        missing.remove(pgno);
        spool
            .write_all(&pgno.get().to_le_bytes())
            .and_then(|()| spool.write_all(&page))
            .map_err(|e| context.scratch_failed(e))?;
    }
    Ok((spool.finish(), missing))
}

/// What [`spool`] has written.
struct Spooled {
    pages: BufReader<SpoolReader>,
}

impl PageSource for Spooled {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let mut number = [0; 4];
        match self.pages.read_exact(&mut number) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        self.pages.read_exact(page)?;
        Ok(Pgno::new(u32::from_le_bytes(number)))
    }
}

/// Checks that every page comes that must.
struct Complete<S> {
    source: S,
    wanted: Arc<PageSet>,
    /// The page that the source stands at.
    next: Option<Standing>,
    after: u32,
    page_size: PageSize,
    size: u32,
    /// Inside a segment a transaction may have made the database larger and left out a page that
    /// nothing uses: it is zeros, as it is in SQLite's file.
    may_lack: bool,
    context: Context,
    at: Lsn,
    key: String,
}

enum Standing {
    At(Pgno, Vec<u8>),
    End,
}

impl<S: PageSource> PageSource for Complete<S> {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let lock_page = self.page_size.lock_page();
        let mut wanted = self.wanted.next_after(self.after);
        if wanted == Some(lock_page) {
            wanted = self.wanted.next_after(lock_page.get());
        }
        let Some(wanted) = wanted.filter(|wanted| wanted.get() <= self.size) else {
            return Ok(None);
        };
        self.after = wanted.get();
        let standing = match self.next.take() {
            Some(standing) => standing,
            None => match self.source.next_page(page)? {
                Some(pgno) if pgno == wanted => return Ok(Some(pgno)),
                Some(pgno) => Standing::At(pgno, page.to_vec()),
                None => Standing::End,
            },
        };
        if let Standing::At(pgno, image) = &standing
            && *pgno == wanted
        {
            page.copy_from_slice(image);
            return Ok(Some(wanted));
        }
        self.next = Some(standing);
        if !self.may_lack {
            let text = format!("page {wanted} of position {} is in no object", self.at);
            return Err(self.context.contradiction(&self.key, text).into_pages_error());
        }
        page.fill(0);
        Ok(Some(wanted))
    }
}
