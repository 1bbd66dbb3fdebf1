//! What a replica needs of the place it syncs with.
//!
//! The seam for further kinds of remote: whatever can tell its head, hand out a delta and append one
//! under the rules below can stand behind [`Remote`]. The sync engine knows no more than this trait;
//! a new remote is chosen in [`connect`], by the URL alone.
//!
//! What an implementation promises:
//! 1. An append that was answered `Won` is in the log for ever, and is found by everyone.
//! 2. Two appends after the same anchor never both win.
//! 3. `AppendError::Unknown` is the answer whenever neither outcome is certain.
//! 4. A remote that cannot be reached says so; it never looks like one that has nothing new.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use anabranch_format::{DatabaseId, Lsn, Metadata, Micros, PushId, WriterId};
use anabranch_store::{
    Anchor, AppendError, Appended, At, DatabaseName, Entry, Fetched, Head, Location, Log,
    NewSegment, Position, Progress, Root, StoreError, StoreOptions,
};
use async_trait::async_trait;

use crate::error::Error;
use crate::notice::Notice;
use crate::replica::Options;
use crate::waiting::{self, Probing};

/// How long history is kept unless the user says otherwise: 30 days.
pub const RETAIN_DEFAULT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The log of one database, wherever it lies.
#[async_trait]
pub(crate) trait Remote: Send + Sync {
    /// The end of the log, found from `known` on.
    async fn head(&self, known: &Anchor) -> Result<Head, StoreError>;

    /// Downloads what leads from `from` to `to`, or the whole database at `to`.
    async fn fetch(&self, from: Lsn, to: &Head, progress: &Progress)
    -> Result<Fetched, StoreError>;

    /// Appends a segment after `head`.
    async fn append(
        &self,
        head: &Head,
        new: NewSegment,
        progress: &Progress,
    ) -> Result<Appended, AppendError>;

    /// Who stands at the place after `after`; `None` if nobody does yet, which decides nothing.
    async fn at_key_after(&self, after: Lsn) -> Result<Option<Metadata>, StoreError>;

    /// The last push of `writer` that is in the log.
    async fn last_push(&self, writer: &WriterId) -> Result<Option<(PushId, Lsn)>, StoreError>;

    /// The state that `at` means.
    async fn position_at(&self, at: At) -> Result<Position, StoreError>;

    /// Downloads the whole database as it was at `position`.
    async fn fetch_whole(
        &self,
        position: &Position,
        progress: &Progress,
    ) -> Result<Fetched, StoreError>;

    /// The newest `count` segments, newest first.
    async fn history(&self, count: usize) -> Result<Vec<Entry>, StoreError>;

    /// Housekeeping for whoever appended `won`; failures are nobody's problem.
    async fn tidy(&self, won: &Metadata, now: Micros, progress: &Progress);

    /// Returns once the log may have moved beyond `known`, for who waits for it; whoever is told so
    /// looks at the head. May return for nothing, but not again and again; must return in the end if
    /// the log did move. An error ends the wait: the caller decides when to wait again.
    ///
    /// Dropping the future is safe at any time. One that is told of news needs no probing; else
    /// the head is asked for as `probing` says.
    async fn wait_beyond(&self, known: &Anchor, probing: &Probing) -> Result<(), StoreError> {
        waiting::by_probing(probing, None, || async {
            Ok(self.head(known).await?.anchor.last > known.last)
        })
        .await
    }

    /// How often it is asked for news unless the user says otherwise.
    fn probing(&self) -> Probing {
        Probing::REMOTE
    }
}

#[async_trait]
impl Remote for Log {
    async fn head(&self, known: &Anchor) -> Result<Head, StoreError> {
        Log::head(self, known).await
    }

    async fn fetch(
        &self,
        from: Lsn,
        to: &Head,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        Log::fetch(self, from, to, progress).await
    }

    async fn append(
        &self,
        head: &Head,
        new: NewSegment,
        progress: &Progress,
    ) -> Result<Appended, AppendError> {
        Log::append(self, head, new, progress).await
    }

    async fn at_key_after(&self, after: Lsn) -> Result<Option<Metadata>, StoreError> {
        Log::at_key_after(self, after).await
    }

    async fn last_push(&self, writer: &WriterId) -> Result<Option<(PushId, Lsn)>, StoreError> {
        Log::last_push(self, writer).await
    }

    async fn position_at(&self, at: At) -> Result<Position, StoreError> {
        Log::position_at(self, at).await
    }

    async fn fetch_whole(
        &self,
        position: &Position,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        Log::fetch_position(self, Lsn::ZERO, position, progress).await
    }

    async fn history(&self, count: usize) -> Result<Vec<Entry>, StoreError> {
        Log::history(self, count).await
    }

    async fn tidy(&self, won: &Metadata, now: Micros, progress: &Progress) {
        Log::maybe_compact(self, won, now, RETAIN_DEFAULT, progress).await;
    }

    async fn wait_beyond(&self, known: &Anchor, probing: &Probing) -> Result<(), StoreError> {
        let directory = self.directory().filter(|_| !probing.is_never());
        let notice = directory.and_then(|directory| Notice::of_tree(&directory));
        waiting::by_probing(probing, notice.as_ref(), || self.may_have_moved(known)).await
    }

    fn probing(&self) -> Probing {
        if self.directory().is_some() { Probing::FOLDER } else { Probing::REMOTE }
    }
}

/// A remote's place, opened: from it logs are reached.
pub(crate) struct Place {
    pub(crate) root: Root,
    pub(crate) location: Location,
    pub(crate) name: DatabaseName,
}

/// Opens the place that `text` names. Temporary files go into `scratch`.
pub(crate) async fn place(
    text: &OsStr,
    scratch: &Path,
    options: &Options,
    create: bool,
) -> Result<Place, Error> {
    let location = Location::parse(text)?;
    refuse_unnameable(&location)?;
    let name = options.name.parse::<DatabaseName>().map_err(|e| Error::Usage(e.to_string()))?;
    let settings =
        StoreOptions { endpoint: options.endpoint.clone(), ..StoreOptions::new(scratch) };
    let root = if create {
        Root::create(&location, &settings).await
    } else {
        Root::open(&location, &settings).await
    };
    match root {
        Ok(root) => Ok(Place { root, location, name }),
        Err(e) => Err(of_store(&location.to_string(), e)),
    }
}

/// The remote as it is remembered: a folder by its full path, so that it means the same from
/// everywhere.
pub(crate) fn absolute(location: &Location, text: &OsStr) -> Result<OsString, Error> {
    refuse_unnameable(location)?;
    match location.is_folder() {
        None => Ok(text.to_owned()),
        Some(folder) => std::path::absolute(folder).map(Into::into).map_err(|source| Error::Io {
            what: "resolving",
            path: folder.to_owned(),
            source,
        }),
    }
}

/// Object names are Unicode, and so is everything above them.
fn refuse_unnameable(location: &Location) -> Result<(), Error> {
    let Some(folder) = location.is_folder() else { return Ok(()) };
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    if full.to_str().is_some() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{} cannot be a remote: its path is not valid UTF-8 (the database's own path need not be)",
        full.display()
    )))
}

/// The client's error for the store's.
pub(crate) fn of_store(remote: &str, source: StoreError) -> Error {
    let remote = remote.to_owned();
    match source {
        // Where others went on from the older copy the log may end anywhere: that stays the store's
        // to tell.
        StoreError::Rewound { at, found, .. } if found < at => {
            Error::RemoteWentBack { remote, base: at, found }
        }
        StoreError::Deleted { database, .. } => {
            Error::Deleted { remote, database: database.to_string() }
        }
        e @ StoreError::Endpoint { .. } => Error::Usage(e.to_string()),
        e if e.is_offline() => Error::Offline { remote, source: Box::new(e) },
        e => Error::Store(e),
    }
}

/// Finds the log of `database` at the place named `text`.
pub(crate) async fn connect(
    text: &OsStr,
    database: &DatabaseId,
    scratch: &Path,
    options: &Options,
) -> Result<Box<dyn Remote>, Error> {
    let place = place(text, scratch, options, false).await?;
    let remote = place.location.to_string();
    let found = place.root.find_even_deleted(&place.name).await;
    match found.map_err(|e| of_store(&remote, e))? {
        Some(found) if found == *database => {}
        Some(found) => {
            return Err(Error::OtherDatabase {
                remote,
                found: found.to_string(),
                expected: database.to_string(),
            });
        }
        None => return Err(Error::RemoteGone { remote }),
    }
    Ok(Box::new(place.root.log(&place.name, database)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_ends_before_what_was_seen_of_it_went_back() {
        let rewound = |found| StoreError::Rewound {
            location: "river".into(),
            key: "db/x/log/0".into(),
            at: Lsn::new(7),
            found: Lsn::new(found),
        };
        let went_back =
            |e: &Error| matches!(e, Error::RemoteWentBack { base, found, .. } if *base > *found);
        assert!(went_back(&of_store("river", rewound(6))));
        let forked = of_store("river", rewound(9));
        assert!(matches!(&forked, Error::Store(StoreError::Rewound { .. })), "{forked:?}");
    }
}
