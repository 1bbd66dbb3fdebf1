//! The database at the head, page by page, for merges to read.
//!
//! It lies in a scratch file without a name, is made from the log when it is first needed, and moves
//! along with it. A hole in the file is a page that was never written; none of those is ever read.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use anabranch_format::{FrameHeader, Lsn, PageSize, Pgno};
use anabranch_sqlite::{PageRead, SharedPages};
use anabranch_store::{Head, Progress, StoreError};
use futures::TryStreamExt;

use crate::database::Database;
use crate::error::ApiError;
use crate::libsql::engine::{blocking, scratch, unavailable};
use crate::libsql::frame::{PAGE_BYTES, PAGE_SIZE, read_exact_at, write_all_at};

/// The database at one position.
#[derive(Debug)]
pub(super) struct Mirror {
    file: Arc<File>,
    size: u32,
    pub(super) lsn: Lsn,
}

/// What layers and connections see of it.
struct Pages {
    file: Arc<File>,
    size: u32,
}

fn offset(pgno: Pgno) -> u64 {
    u64::from(pgno.get() - 1) * PAGE_BYTES as u64
}

impl PageRead for Pages {
    fn page_size(&self) -> PageSize {
        PAGE_SIZE
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn read(&mut self, pgno: Pgno, buf: &mut [u8]) -> io::Result<()> {
        if pgno == PAGE_SIZE.lock_page() {
            buf.fill(0);
            return Ok(());
        }
        read_exact_at(&self.file, buf, offset(pgno))
    }
}

enum Failed {
    Store(StoreError),
    Scratch(io::Error),
}

impl From<StoreError> for Failed {
    fn from(e: StoreError) -> Self {
        Failed::Store(e)
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

impl Mirror {
    /// The pages as they are now. Only while nobody reads them may it be moved.
    pub(super) fn pages(&self) -> SharedPages {
        Arc::new(Mutex::new(Pages { file: Arc::clone(&self.file), size: self.size }))
    }

    /// The mirror of `head`: `known` moved there, or a new one.
    pub(super) async fn at(
        db: &Database,
        known: Option<Mirror>,
        head: &Head,
    ) -> Result<Mirror, ApiError> {
        if let Some(known) = known.filter(|known| known.lsn <= head.lsn()) {
            match known.moved(db, head.lsn()).await {
                Ok(moved) => return Ok(moved),
                Err(e) => tracing::debug!(error = %e.message, "making the mirror anew"),
            }
        }
        let file = tempfile::tempfile_in(&db.libsql().scratch).map_err(|e| scratch(&e))?;
        let fetched = db.log().fetch(Lsn::ZERO, head, &Progress::none()).await;
        let fetched = fetched.map_err(|e| unavailable(&e))?;
        let (size, lsn) = (fetched.pages.1, head.lsn());
        blocking(move || {
            fetched.for_each(|pgno, page| {
                write_all_at(&file, page, offset(pgno)).map_err(Failed::Scratch)
            })?;
            Ok::<_, Failed>(Mirror { file: Arc::new(file), size, lsn })
        })
        .await?
        .map_err(ApiError::from)
    }

    async fn moved(mut self, db: &Database, to: Lsn) -> Result<Self, ApiError> {
        let mut segments = db.log().segments(self.lsn, to, &Progress::none());
        while let Some(segment) = segments.try_next().await.map_err(|e| unavailable(&e))? {
            let (file, last) = (Arc::clone(&self.file), segment.metadata.lsn.1);
            let size = segment.metadata.pages.1;
            blocking(move || {
                segment.for_each(|_, frame: FrameHeader, page| {
                    write_all_at(&file, page, offset(frame.pgno)).map_err(Failed::Scratch)
                })
            })
            .await?
            .map_err(ApiError::from)?;
            (self.size, self.lsn) = (size, last);
        }
        Ok(self)
    }
}
