//! The server's own replica of a database: a file that stock SQLite works on, at a position of the log.
//!
//! It lies in a folder of this run of the server, is made from the log when it is first needed, and
//! thrown away in any doubt: whoever meets a [`Fault`] forgets it. So nothing of it must survive a
//! crash, and what is in the file but not in the log is never taken for truth. The checksum of every
//! page is kept beside it (8 bytes each), so that what is appended states the checksum of the
//! database, and what comes from the log is checked against it.

use std::path::Path;
use std::sync::Arc;

use anabranch_format::{DbChecksum, Lsn, Metadata, PageSize, Pgno, SegmentEncoder, SegmentError};
use anabranch_sqlite::{FileError, NewServedFile, Published, ServedFile, Tip};
use anabranch_store::{Head, Progress, SegmentFrames, Spool, SpoolReader, StoreError};
use futures::TryStreamExt;

use crate::database::Database;
use crate::libsql::SchemaSeen;
use crate::page_map::{Change, PageMap};

/// Frames in the `-wal` after which it is moved into the database.
const WAL_FRAMES: u32 = 4096;

/// Why a replica cannot go on. Another one can be made from the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The log cannot be read.
    #[error("reading the log failed")]
    Store(#[from] StoreError),
    /// The file cannot be read or written.
    #[error("the server's replica of the database cannot be used")]
    File(#[from] FileError),
    /// What was committed cannot be brought into the form of the log.
    #[error("what was committed cannot be appended")]
    Segment(#[from] SegmentError),
    /// The pages of the log and their stated checksum differ.
    #[error("the pages up to {0} have another checksum than the log states")]
    Sum(Lsn),
    /// The log goes on below or beside where the replica is.
    #[error("the replica is at {at}, which is no position of the log any more")]
    Place {
        /// Where the replica is.
        at: Lsn,
    },
    /// The server is stopping, or met a bug.
    #[error("the server is stopping, or met a bug")]
    Interrupted,
}

/// The replica.
#[derive(Debug)]
pub(super) struct Replica {
    file: ServedFile,
    map: PageMap,
    /// The position of the published state.
    head: Arc<Head>,
    schema: SchemaSeen,
    /// The schema changed, and connections cannot see it by its cookie.
    hidden_change: bool,
}

/// What was committed and is not in the log yet, in the log's form.
#[derive(Debug)]
pub(super) struct Packed {
    tip: Tip,
    change: Change,
    schema: SchemaSeen,
    pub(super) body: SpoolReader,
    pub(super) frames: u64,
    pub(super) transactions: u64,
    pub(super) pages: (u32, u32),
    pub(super) sum: (DbChecksum, DbChecksum),
    pub(super) page_size: PageSize,
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Fault::Interrupted)
}

impl Replica {
    /// Makes the file at `path` of the database at `head`.
    pub(super) async fn make(db: &Database, head: Arc<Head>, path: &Path) -> Result<Self, Fault> {
        let path = path.to_owned();
        let Some(newest) = head.newest.clone() else {
            return blocking(move || {
                let file = NewServedFile::create(&path, PageSize::DEFAULT, 0)?.finish()?;
                Ok(Replica::new(file, PageMap::empty(), head, SchemaSeen::default()))
            })
            .await?;
        };
        let fetched = db.log().fetch(Lsn::ZERO, &head, &Progress::none()).await?;
        blocking(move || {
            let (page_size, size) = (newest.page_size, newest.pages.1);
            let new = NewServedFile::create(&path, page_size, size)?;
            let mut map = PageMap::new(head.lsn(), size);
            let mut schema = SchemaSeen::default();
            fetched.for_each(|pgno, page| {
                map.set(pgno, page);
                if pgno == Pgno::ONE {
                    schema.page_one(page);
                }
                new.page(pgno, page).map_err(Fault::from)
            })?;
            if map.sum() != newest.sum.1 {
                return Err(Fault::Sum(head.lsn()));
            }
            Ok(Replica::new(new.finish()?, map, head, schema))
        })
        .await?
    }

    fn new(file: ServedFile, map: PageMap, head: Arc<Head>, schema: SchemaSeen) -> Self {
        Replica { file, map, head, schema, hidden_change: false }
    }

    /// The position of the published state.
    pub(super) fn head(&self) -> &Arc<Head> {
        &self.head
    }

    /// The published state.
    pub(super) fn published(&self) -> &Published {
        self.file.published()
    }

    /// What was committed since the published state, made ready for the log; `None` if nothing was.
    pub(super) async fn pack(mut self, spool: Spool) -> Result<(Self, Option<Packed>), Fault> {
        blocking(move || {
            let packed = self.pack_now(spool)?;
            Ok((self, packed))
        })
        .await?
    }

    fn pack_now(&mut self, spool: Spool) -> Result<Option<Packed>, Fault> {
        let Some(tip) = self.file.tip()? else { return Ok(None) };
        let page_size = self.page_size();
        let size = self.head.newest.as_ref().map_or(0, |newest| newest.pages.1);
        let mut encoder = SegmentEncoder::new(spool, page_size, size, tip.salts())?;
        let mut change = Change::default();
        let mut schema = self.schema;
        self.file.frames(&tip, |pgno, commit_size, page| {
            encoder.frame(pgno, commit_size, page)?;
            change.frame(pgno, commit_size, page);
            if pgno == Pgno::ONE {
                schema.page_one(page);
            }
            Ok::<(), Fault>(())
        })?;
        let encoded = encoder.finish()?;
        Ok(Some(Packed {
            sum: (self.map.sum(), self.map.sum_after(&change)),
            pages: (size, encoded.size_after),
            body: encoded.sink.finish(),
            frames: encoded.frames,
            transactions: encoded.transactions,
            page_size,
            change,
            schema,
            tip,
        }))
    }

    fn page_size(&self) -> PageSize {
        self.head.newest.as_ref().map_or(PageSize::DEFAULT, |newest| newest.page_size)
    }

    /// The log has what was packed.
    pub(super) fn appended(&mut self, packed: Packed, metadata: Metadata) {
        self.map.apply(metadata.lsn.1, &packed.change);
        self.head = Arc::new(self.head.after(metadata));
        self.schema = packed.schema;
        self.file.publish(packed.tip);
    }

    /// The log does not have what was packed: takes it back.
    pub(super) async fn take_back(mut self, packed: Packed) -> Result<Self, Fault> {
        blocking(move || {
            self.file.undo(&packed.tip)?;
            Ok(self)
        })
        .await?
    }

    /// Moves along the log to `to`. Nothing may be committed that is not in the log.
    pub(super) async fn follow(mut self, db: &Database, to: &Arc<Head>) -> Result<Self, Fault> {
        if to.lsn() <= self.head.lsn() {
            return Ok(self);
        }
        let Some(newest) = &to.newest else { return Ok(self) };
        if newest.page_size != self.page_size() || self.head.lsn() < to.floor {
            return Err(Fault::Place { at: self.head.lsn() });
        }
        let mut segments = db.log().segments(self.head.lsn(), to.lsn(), &Progress::none());
        while let Some(segment) = segments.try_next().await? {
            self = blocking(move || self.followed(segment)).await??;
        }
        self.head = Arc::clone(to);
        Ok(self)
    }

    fn followed(mut self, segment: SegmentFrames) -> Result<Self, Fault> {
        let metadata = segment.metadata.clone();
        if metadata.sum.0 != self.map.sum() {
            return Err(Fault::Sum(metadata.from()));
        }
        let mut replacing = self.file.replace(metadata.pages.1)?;
        let mut change = Change::default();
        segment.for_each(|_, frame, page| {
            change.frame(frame.pgno, frame.commit_size, page);
            if frame.pgno == Pgno::ONE {
                self.hidden_change |= self.schema.page_one(page);
            }
            replacing.page(frame.pgno, page).map_err(Fault::from)
        })?;
        if self.map.sum_after(&change) != metadata.sum.1 {
            return Err(Fault::Sum(metadata.lsn.1));
        }
        replacing.commit()?;
        self.file.publish_tip()?;
        self.map.apply(metadata.lsn.1, &change);
        self.head = Arc::new(self.head.after(metadata));
        Ok(self)
    }

    /// Whether, since this was asked last, the schema changed in a way that connections cannot see by
    /// its cookie.
    pub(super) fn take_hidden_change(&mut self) -> bool {
        std::mem::take(&mut self.hidden_change)
    }

    /// Whether it is time for [`Replica::checkpoint`].
    pub(super) fn is_long(&self) -> bool {
        self.file.published().wal_frames() > WAL_FRAMES
    }

    /// Moves the `-wal` into the database. Blocking; nobody may begin on the published state, which is
    /// another one afterwards.
    pub(super) fn checkpoint(&mut self) -> Result<(), Fault> {
        self.file.checkpoint()?;
        Ok(())
    }
}
