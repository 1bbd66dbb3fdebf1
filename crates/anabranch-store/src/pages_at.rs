//! Single pages of the database as they were at some position.
//!
//! For whoever has a later state and needs, of the pages that changed since, the images from before.
//! The newest snapshot that is not newer is where most of them lie: its seek table tells where, and
//! only those chunks are fetched. Before that the segments and deltas after the snapshot are read, from
//! the newest back, until nothing is missing any more; each as a whole, since they cannot be read
//! otherwise. Without a snapshot (a young database) the log is read back to its start.
//!
//! ```text
//! segments, deltas, newest first -> a temporary file, and which pages are still missing
//! snapshot, if any are           -> its seek table, chunks -> a spool
//! both                           -> merged while they are read
//! ```
//!
//! Bounds: 16 downloads at once of at most 64 KiB in memory each (longer ones go to temporary files);
//! what unpacking one object takes; 8 MiB for the spool before it is a temporary file, too; two bits for
//! each page of the database; what [`chunk_pages`](crate::chunk_pages) states.
//!
//! The rolling checksum covers whole states, so it says nothing here. What is checked: that the objects
//! that are read follow one another, the checksums of each WAL as far as it is read, of each chunk, and
//! that every page is there. Who knows each page by a checksum can leave those of the WALs out: they
//! take as long as unpacking, and stand in the way of doing that on two threads.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use anabranch_format::{DeltaError, Lsn, Merge, Metadata, PageSet, PageSize, PageSource, Pgno};
use futures::{StreamExt, TryStreamExt};

use crate::collect::check_next;
use crate::context::Context;
use crate::error::StoreError;
use crate::fetch::PLANS_MAX;
use crate::first_image::FirstImage;
use crate::keys::Target;
use crate::log::Log;
use crate::objects::is_vanished;
use crate::progress::{Counter, Progress, Step};
use crate::runs::{Chain, Named, OpenPiece, Runs, Source};
use crate::snapshot_pages::SnapshotParts;

/// Objects on their way at the same time.
const DOWNLOADS_AT_ONCE: usize = 16;
/// Objects up to this length are held in memory.
const MEMORY_BYTES_MAX: u64 = 64 * 1024;

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
    /// `chain`: whether the checksums of the WAL inside segments and deltas are checked here. The reader
    /// must know each page by a checksum of its own where it is left to it; then two threads unpack.
    ///
    /// Fails with [`StoreError::BelowFloor`] if the log does not keep that state any more, and with
    /// [`StoreError::BeyondHead`] if it is not there yet.
    pub async fn pages_at(
        &self,
        at: Lsn,
        wanted: PageSet,
        chain: Chain,
        progress: &Progress,
    ) -> Result<PagesAt, StoreError> {
        let wanted = Arc::new(wanted);
        let mut plans = 0;
        loop {
            let found = self.try_pages_at(at, &wanted, chain, progress).await;
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
        chain: Chain,
        progress: &Progress,
    ) -> Result<PagesAt, StoreError> {
        let plan = self.plan_whole(at).await?;
        let counter = progress.step(Step::Downloading, None);
        let mut targets: Vec<Target> = plan.pieces.iter().map(|(target, _)| *target).collect();
        let snapshot = match targets.first() {
            Some(Target::Snapshot(lsn)) => {
                let lsn = *lsn;
                targets.remove(0);
                Some(lsn)
            }
            _ => None,
        };
        let found = self
            .newer(at, targets, Newer::new(self.objects.context(), wanted, chain), &counter)
            .await?;
        let snapshot = match snapshot.filter(|_| !found.is_complete()) {
            Some(lsn) => Some(self.open_snapshot(lsn).await?),
            None => None,
        };
        if !found.is_complete() {
            found.follows(self, snapshot.as_ref().map(SnapshotParts::metadata))?;
        }
        let (at_snapshot, objects) =
            (snapshot.as_ref().map(SnapshotParts::metadata), found.objects);
        let (page_size, size) = match (found.end, at_snapshot) {
            (Some(end), _) => end,
            (None, Some(metadata)) => (metadata.page_size, metadata.pages.1),
            (None, None) => (PageSize::DEFAULT, 0),
        };
        let mut sources: Vec<Source> = Vec::new();
        let may_lack = found.cut;
        let (missing, pages) = found.into_pages();
        let objects = objects + u64::from(snapshot.is_some());
        if let Some(snapshot) = snapshot {
            sources.push(self.fetch_parts(snapshot, Arc::new(missing), size, &counter).await?);
        }
        sources.extend(pages.map(|pages| Box::new(pages) as Source));
        let source = Box::new(Complete {
            source: Merge::new(sources, page_size, size),
            wanted: Arc::clone(wanted),
            next: None,
            after: 0,
            page_size,
            size,
            may_lack,
            context: self.objects.context().clone(),
            at,
            key: self.keys.log(),
        });
        Ok(PagesAt { lsn: at, page_size, size, objects, bytes: counter.done(), source })
    }

    /// Reads `targets`, which lead to `at`, from the newest back, until nothing is missing any more.
    async fn newer(
        &self,
        at: Lsn,
        targets: Vec<Target>,
        mut found: Newer,
        counter: &Counter,
    ) -> Result<Newer, StoreError> {
        let mut pieces = futures::stream::iter(targets.into_iter().rev())
            .map(|target| self.open_piece(target, MEMORY_BYTES_MAX, counter))
            .buffered(DOWNLOADS_AT_ONCE)
            .boxed();
        while !found.is_complete()
            && let Some(piece) = pieces.try_next().await?
        {
            let end = piece.metadata.lsn.1;
            if found.oldest.is_none() && end < at {
                return Err(self.ends_before(at, end).await?);
            }
            found.follows(self, Some(&piece.metadata))?;
            let adding = tokio::task::spawn_blocking(move || found.add(piece, at).map(|()| found));
            found = adding.await.map_err(|_| StoreError::Interrupted)??;
        }
        Ok(found)
    }
}

/// What the objects after the snapshot have, read from the newest back: of each page the first image
/// that is met counts.
///
/// In the file each page stands where it would stand in the database, so that no index is needed.
struct Newer {
    context: Context,
    chain: Chain,
    /// The wanted pages that were not met yet; all of them, before the first object is read.
    missing: PageSet,
    set: PageSet,
    file: Option<File>,
    /// Page size, and size of the database at the position.
    end: Option<(PageSize, u32)>,
    /// The position lies inside the last segment.
    cut: bool,
    objects: u64,
    /// The object that was read last, and its key.
    oldest: Option<(Metadata, String)>,
}

impl Newer {
    fn new(context: &Context, wanted: &PageSet, chain: Chain) -> Self {
        Newer {
            context: context.clone(),
            chain,
            missing: wanted.clone(),
            set: PageSet::new(0),
            file: None,
            end: None,
            cut: false,
            objects: 0,
            oldest: None,
        }
    }

    /// Whether nothing older is needed.
    fn is_complete(&self) -> bool {
        self.end.is_some() && self.missing.is_empty()
    }

    /// Checks that the object that was read last follows `before`, which is the next older one.
    fn follows(&self, log: &Log, before: Option<&Metadata>) -> Result<(), StoreError> {
        match &self.oldest {
            Some((next, key)) => check_next(&self.context, &log.keys, before, key, next),
            None => Ok(()),
        }
    }

    /// Adds the next older object. Blocking.
    fn add(&mut self, piece: OpenPiece, at: Lsn) -> Result<(), StoreError> {
        let (metadata, key) = (piece.metadata.clone(), piece.key.clone());
        let page_size = metadata.page_size;
        let runs = Runs::new(&self.context, page_size, self.chain);
        let mut source = if metadata.lsn.1 > at {
            let frames = at.get() - metadata.from().get();
            let (source, size) = runs.cut(piece, frames)?;
            self.cut = true;
            self.begins(page_size, size);
            source
        } else {
            self.begins(page_size, metadata.pages.1);
            self.open(&runs, piece)?
        };
        let mut page = vec![0; page_size.bytes()];
        while let Some(pgno) = source.next_page(&mut page).map_err(|e| runs.unnamed(e))? {
            if self.missing.remove(pgno) {
                self.keep(page_size, pgno, &page).map_err(|e| self.context.scratch_failed(e))?;
            }
            if self.missing.next_after(pgno.get()).is_none() {
                break;
            }
        }
        self.objects += 1;
        self.oldest = Some((metadata, key));
        Ok(())
    }

    fn open(&self, runs: &Runs, piece: OpenPiece) -> Result<Source, StoreError> {
        let failed = |e| self.context.scratch_failed(e);
        if self.chain == Chain::Checked || !FirstImage::suits(&piece).map_err(failed)? {
            return runs.open(piece, true);
        }
        let key = piece.key.clone();
        let mut wanted = self.missing.clone();
        // It was cut off, and has grown since.
        wanted.remove_above(piece.metadata.pages.1);
        let source = Box::new(FirstImage::start(piece, wanted).map_err(failed)?);
        Ok(Box::new(Named { context: self.context.clone(), key, source }))
    }

    /// The newest object tells the size.
    fn begins(&mut self, page_size: PageSize, size: u32) {
        if self.end.is_none() {
            self.end = Some((page_size, size));
            self.missing.remove_above(size);
            self.missing.remove(page_size.lock_page());
        }
    }

    fn keep(&mut self, page_size: PageSize, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(self.context.scratch())?),
        };
        file.seek(SeekFrom::Start(place(page_size, pgno)))?;
        file.write_all(page)?;
        self.set.grow(pgno.get());
        self.set.insert(pgno);
        Ok(())
    }

    /// The pages that are missing, and those that are not.
    fn into_pages(self) -> (PageSet, Option<Kept>) {
        let kept = self.file.map(|file| Kept { file, set: self.set, after: 0 });
        (self.missing, kept)
    }
}

fn place(page_size: PageSize, pgno: Pgno) -> u64 {
    u64::from(pgno.get() - 1) * u64::from(page_size.get())
}

/// What [`Newer`] has found, ascending.
struct Kept {
    file: File,
    set: PageSet,
    after: u32,
}

impl PageSource for Kept {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let Some(pgno) = self.set.next_after(self.after) else { return Ok(None) };
        self.after = pgno.get();
        self.file.seek(SeekFrom::Start(u64::from(pgno.get() - 1) * page.len() as u64))?;
        self.file.read_exact(page)?;
        Ok(Some(pgno))
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
