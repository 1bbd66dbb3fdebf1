//! A remote without a replica: its history, restoring from it, compacting it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_format::Lsn;
use anabranch_store::{At, ClockGap, CompactReport, Log};

use crate::entropy;
use crate::error::Error;
use crate::image::{Image, refuse_existing};
use crate::remote::{self, of_store};
use crate::replica::{Options, blocking};
use crate::report::{HistoryEntry, Note, RestoreReport};

/// The log of one database at a remote.
#[derive(Debug, Clone)]
pub struct RemoteLog {
    log: Log,
    location: String,
    options: Options,
}

impl RemoteLog {
    /// Opens the log at `remote`. Temporary files, if any are needed, go into the current folder's
    /// place for them, or beside the file that is written.
    pub async fn open(remote: &OsStr, options: Options) -> Result<Self, Error> {
        Self::open_at(remote, &std::env::temp_dir(), options).await
    }

    async fn open_at(remote: &OsStr, scratch: &Path, options: Options) -> Result<Self, Error> {
        let place = remote::place(remote, scratch, &options, false).await?;
        let location = place.location.to_string();
        let found = place.root.find(&place.name).await.map_err(|e| of_store(&location, e))?;
        let database = found.ok_or_else(|| Error::RemoteEmpty { remote: location.clone() })?;
        Ok(RemoteLog { log: place.root.log(&place.name, &database), location, options })
    }

    /// Where the remote is, credentials left out.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    fn failed(&self) -> impl Fn(anabranch_store::StoreError) -> Error + '_ {
        |e| of_store(&self.location, e)
    }

    /// The newest `count` segments of the log, newest first.
    pub async fn history(&self, count: usize) -> Result<Vec<HistoryEntry>, Error> {
        let entries = self.log.history(count).await.map_err(self.failed())?;
        Ok(entries
            .into_iter()
            .map(|entry| HistoryEntry {
                first: entry.metadata.lsn.0,
                lsn: entry.metadata.lsn.1,
                time: entry.metadata.time,
                pages: entry.metadata.frame_count(),
                bytes: entry.bytes,
                db_pages: entry.metadata.pages.1,
                writer: entry.metadata.writer,
                generation: entry.metadata.generation.0,
            })
            .collect())
    }

    /// Writes the database as it was at `at` into `file`, where nothing may be yet.
    pub async fn restore(&self, file: &Path, at: At) -> Result<RestoreReport, Error> {
        refuse_existing(file)?;
        let position = self.log.position_at(at).await.map_err(self.failed())?;
        let mut notes = Vec::new();
        if let Some(gap) = &position.clock_gap {
            notes.push(Note::Other { text: describe(gap) });
        }
        if position.lsn == Lsn::ZERO {
            return Err(Error::NothingPublished { remote: self.location.clone() });
        }
        let fetched = self
            .log
            .fetch_position(Lsn::ZERO, &position, &self.options.progress)
            .await
            .map_err(self.failed())?;
        let (target, bytes): (PathBuf, u64) = (file.to_owned(), fetched.bytes);
        let pages = blocking(move || {
            let image = Image::write(fetched, &target, &mut |_, _| Ok(()))?;
            let pages = image.pages;
            image.place()?;
            Ok(pages)
        })
        .await?;
        Ok(RestoreReport {
            position: position.lsn,
            time: position.metadata.map(|m| m.time),
            pages: u64::from(pages),
            bytes,
            notes,
        })
    }

    /// Merges old segments into deltas, writes a verified snapshot, and deletes what is older than
    /// `retain` and needed by nothing younger.
    pub async fn compact(&self, retain: Duration) -> Result<CompactReport, Error> {
        let now = entropy::now();
        self.log.compact(now, retain, &self.options.progress).await.map_err(self.failed())
    }
}

fn describe(gap: &ClockGap) -> String {
    format!("{gap:?}")
}
