//! A remote without a replica: its history, restoring from it, compacting it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_format::{Lsn, Micros};
use anabranch_sqlite::PageHasher;
use anabranch_store::{At, ClockGap, CompactReport};

use crate::entropy;
use crate::error::Error;
use crate::image::{Image, folder_of, refuse_existing};
use crate::remote::{self, MergedConflicts, Opening, Remote, of_store};
use crate::replica::{Options, blocking};
use crate::report::{HistoryEntry, Note, RestoreReport};

/// The log of one database at a remote.
#[derive(Clone)]
pub struct RemoteLog {
    log: Arc<dyn Remote>,
    remote: OsString,
    location: String,
    options: Options,
}

impl fmt::Debug for RemoteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteLog({})", self.location)
    }
}

impl RemoteLog {
    /// Opens the log at `remote`.
    pub async fn open(remote: &OsStr, options: Options) -> Result<Self, Error> {
        // Only compacting and restoring need room for temporary files. A folder has it; what is
        // restored opens the log again, with room beside the new file.
        let scratch = remote::scratch_of(remote)?;
        Self::open_at(remote, &scratch, options).await
    }

    async fn open_at(remote: &OsStr, scratch: &Path, options: Options) -> Result<Self, Error> {
        let place = remote::place(remote, &Opening::new(scratch, &options)).await?;
        let location = place.location().to_owned();
        let found = place.find().await.map_err(|e| of_store(&location, e))?;
        let database = found.ok_or_else(|| Error::RemoteEmpty { remote: location.clone() })?;
        let log = place.log(&database).into();
        Ok(RemoteLog { log, remote: remote.to_owned(), location, options })
    }

    /// Where the remote is, credentials left out.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    fn failed(&self) -> impl Fn(anabranch_store::StoreError) -> Error + '_ {
        |e| of_store(&self.location, e)
    }

    /// What the server at the remote decided when it merged what libSQL clients had written past a
    /// conflict, newest first. Other remotes merge nothing themselves.
    pub async fn merged_conflicts(&self) -> Result<MergedConflicts, Error> {
        self.log.merged_conflicts().await.map_err(self.failed())
    }

    /// The newest `count` segments of the log, newest first.
    pub async fn history(&self, count: usize) -> Result<Vec<HistoryEntry>, Error> {
        let entries = self.history_received(count).await?;
        Ok(entries.into_iter().map(|(entry, _)| entry).collect())
    }

    /// As [`RemoteLog::history`], each entry with the moment at which the remote received it (where
    /// its objects were copied: at which they were). [`At::Time`] goes by that moment, which all
    /// writers share, not by the log's own time.
    pub async fn history_received(
        &self,
        count: usize,
    ) -> Result<Vec<(HistoryEntry, Micros)>, Error> {
        let entries = self.log.history(count).await.map_err(self.failed())?;
        Ok(entries
            .into_iter()
            .map(|entry| {
                let shown = HistoryEntry {
                    first: entry.metadata.lsn.0,
                    lsn: entry.metadata.lsn.1,
                    time: entry.metadata.time,
                    pages: entry.metadata.frame_count(),
                    bytes: entry.bytes,
                    db_pages: entry.metadata.pages.1,
                    writer: entry.metadata.writer,
                    generation: entry.metadata.generation.0,
                };
                (shown, entry.modified)
            })
            .collect())
    }

    /// Writes the database as it was at `at` into `file`, where nothing may be yet.
    pub async fn restore(&self, file: &Path, at: At) -> Result<RestoreReport, Error> {
        refuse_existing(file)?;
        let here = Self::open_at(&self.remote, folder_of(file), self.options.clone()).await?;
        let progress = &self.options.progress;
        let position = here.log.position_at(at).await.map_err(self.failed())?;
        if position.lsn == Lsn::ZERO {
            let remote = self.location.clone();
            return Err(match at {
                At::Head => Error::NothingPublished { remote },
                _ => Error::BeforeHistory { remote },
            });
        }
        let mut notes: Vec<Note> = position.clock_gap.iter().map(clocks_disagree).collect();
        if let At::Time(time) = at {
            notes.extend(here.received_later(position.lsn, time).await);
        }
        let fetched = here.log.fetch_whole(&position, progress).await.map_err(self.failed())?;
        let (target, bytes, written) = (file.to_owned(), fetched.bytes, progress.clone());
        let pages = blocking(move || {
            let image =
                Image::write(fetched, &target, PageHasher::new(0), &written, &mut |_, _| Ok(()))?;
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

    /// A word about the segment after `lsn` if it was written at or before `time`, and received after
    /// that. What is restored does not depend on it, so neither does whether it can be read.
    async fn received_later(&self, lsn: Lsn, time: Micros) -> Option<Note> {
        let next = self.log.at_key_after(lsn).await.ok().flatten()?;
        (next.time <= time).then(|| Note::Other {
            text: format!(
                "position {} was written at {} by its writer's clock, but the remote received it \
                 after the time asked for, which is what counts; `--at {}` restores it",
                next.lsn.1,
                text_of(next.time),
                next.lsn.1,
            ),
        })
    }

    /// Merges old segments into deltas, writes a verified snapshot, and deletes what is older than
    /// `retain` and needed by nothing younger.
    pub async fn compact(&self, retain: Duration) -> Result<CompactReport, Error> {
        let now = entropy::now();
        self.log.compact(now, retain, &self.options.progress).await.map_err(self.failed())
    }
}

fn clocks_disagree(gap: &ClockGap) -> Note {
    Note::Other {
        text: format!(
            "clocks disagree: the writer's says {}, but the remote received it at {}; positions in \
             the history are exact",
            text_of(gap.logged),
            text_of(gap.received)
        ),
    }
}

fn text_of(time: Micros) -> String {
    jiff::Timestamp::from_microsecond(time.0).map_or_else(|_| time.0.to_string(), |t| t.to_string())
}
