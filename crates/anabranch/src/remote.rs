//! What a replica needs of the place it syncs with.
//!
//! The seam for further kinds of remote: whatever can tell its head, hand out a delta and append one
//! under the rules below can stand behind [`Remote`], and whatever knows which database has a name
//! behind [`Place`]. The sync engine knows no more than these traits. Which implementation it gets
//! is decided by the text of the remote alone ([`Address`]): URLs of servers go to `server`, all
//! else to `store`.
//!
//! What an implementation promises:
//! 1. An append that was answered `Won` is in the log for ever, and is found by everyone.
//! 2. Two appends after the same anchor never both win.
//! 3. `AppendError::Unknown` is the answer whenever neither outcome is certain.
//! 4. A remote that cannot be reached says so; it never looks like one that has nothing new.
//! 5. What it answers is of the database that was asked for, or an error.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_format::{DatabaseId, Lsn, Metadata, Micros, PageSize, PageSource, PushId, WriterId};
use anabranch_sqlite::PageSet;
use anabranch_store::{
    Anchor, AppendError, Appended, At, CompactReport, DatabaseName, Entry, Fetched, Head, Location,
    Named, NewSegment, Position, Progress, StoreError,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::adopt::{AdoptError, Adoptable, LastFrame};
use crate::entropy;
use crate::error::Error;
use crate::replica::Options;
use crate::transaction_hash::PushIds;
use crate::waiting::{self, Probing};

mod http;
pub(crate) mod libsql;
mod ours;
mod picked;
mod server;
mod server_error;
mod server_url;
mod store;

pub use http::Connections;
pub use libsql::{FrameFault, LibsqlError, Spot};
pub use server_error::ServerError;
pub use server_url::{ServerUrl, ServerUrlError};

/// How long history is kept unless the user says otherwise: 30 days.
pub const RETAIN_DEFAULT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Pages of an earlier state, ascending.
pub(crate) type BasePages = Box<dyn PageSource + Send>;

/// Which pages of which state are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BaseAt<'a> {
    /// The position.
    pub(crate) lsn: Lsn,
    pub(crate) page_size: PageSize,
    /// Size of the database there, in pages.
    pub(crate) size: u32,
    /// Pages up to that size, the lock page not among them; at least one.
    pub(crate) pages: &'a PageSet,
}

/// Rows on which a server decided when it merged what libSQL clients had written past a conflict.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub struct MergedConflicts {
    /// As docs/protocol.md describes them.
    pub conflicts: Vec<serde_json::Value>,
    /// There are more, older ones.
    pub more: bool,
}

/// The log of one database, wherever it lies.
#[async_trait]
pub(crate) trait Remote: Send + Sync {
    /// How it is spoken to, as far as is known by now.
    fn dialect(&self) -> Option<Dialect>;

    /// Whether an append may be tried without a look at the head before it: where that costs a
    /// request less, because the answer to an append that comes too late says so as well.
    fn appends_blindly(&self) -> bool {
        false
    }

    /// Where the ids of pushes come from that are appended here.
    fn push_ids(&self) -> PushIds {
        PushIds::Drawn
    }

    /// How many frames lie between two positions, if that is known.
    fn frames_between(&self, from: Lsn, to: Lsn) -> Option<u64> {
        to.frames_since(from)
    }

    /// How many bytes an append has sent whose body has `body` bytes and which `won`.
    fn bytes_of(&self, body: u64, won: &Metadata) -> u64 {
        // The object is the body behind its metadata.
        body + won.encode().map_or(0, |head| head.len() as u64)
    }

    /// The end of the log, found from `known` on.
    async fn head(&self, known: &Anchor) -> Result<Head, StoreError>;

    /// Downloads what leads from `from` to `to`, or the whole database at `to`.
    async fn fetch(&self, from: Lsn, to: &Head, progress: &Progress)
    -> Result<Fetched, StoreError>;

    /// Appends a segment after `head`. Where [`Remote::appends_blindly`] is true, `head` need hold
    /// no more than the anchor and the floor.
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

    /// Hands out what pages held at an earlier position, the end of a segment: exactly these, ascending.
    /// Nothing is checked that the caller can check. `None` if no state is kept that ends there.
    async fn base_pages(
        &self,
        wanted: &BaseAt<'_>,
        progress: &Progress,
    ) -> Result<Option<BasePages>, StoreError> {
        pages_of_whole(self, wanted, progress).await
    }

    /// Rows that the remote itself merged, and decided on.
    async fn merged_conflicts(&self) -> Result<MergedConflicts, StoreError> {
        Ok(MergedConflicts::default())
    }

    /// The newest `count` segments, newest first.
    async fn history(&self, count: usize) -> Result<Vec<Entry>, StoreError>;

    /// Merges old segments and deletes what is older than `retain`.
    async fn compact(
        &self,
        now: Micros,
        retain: Duration,
        progress: &Progress,
    ) -> Result<CompactReport, StoreError>;

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
}

/// Pages of an earlier state, picked from the whole database as it was.
pub(crate) async fn pages_of_whole<R: Remote + ?Sized>(
    remote: &R,
    wanted: &BaseAt<'_>,
    progress: &Progress,
) -> Result<Option<BasePages>, StoreError> {
    let position = remote.position_at(At::Lsn(wanted.lsn)).await?;
    if position.lsn != wanted.lsn {
        return Ok(None);
    }
    let whole = remote.fetch_whole(&position, progress).await?;
    let pages = picked::Picked::new(whole.into_unsummed_pages(), wanted.pages.clone());
    Ok(Some(Box::new(pages)))
}

/// Where one database has, or may get, its name.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    /// The place as people know it, credentials left out.
    fn location(&self) -> &str;

    /// How it is spoken to; remembered, so that nobody has to find it out again. `None` where the
    /// text of the remote says it all.
    fn dialect(&self) -> Option<Dialect>;

    /// The id for a database that is published here anew.
    fn new_database(&self) -> DatabaseId {
        entropy::database_id()
    }

    /// Whether that id is the place's choice, not ours.
    fn gives_id(&self) -> bool {
        false
    }

    /// The only page size that can be published here, if there is only one.
    fn page_size(&self) -> Option<PageSize> {
        None
    }

    /// The database that has the name, if one has. One that was deleted has it no more.
    async fn find(&self) -> Result<Option<DatabaseId>, StoreError>;

    /// Makes sure, before anything is written, that two writers will be kept apart here.
    async fn verify(&self) -> Result<(), StoreError>;

    /// The position that an official libSQL client calls `at`, where a transaction ends with the frame
    /// `last`, or a generation begins.
    async fn libsql_position(
        &self,
        _at: Spot,
        _last: Option<LastFrame>,
    ) -> Result<Result<Adoptable, AdoptError>, Error> {
        Ok(Err(AdoptError::NoGenerations(self.location().to_owned())))
    }

    /// Gives the name to the new database `id`, unless another has it. Repeating it is harmless.
    async fn claim(&self, id: &DatabaseId) -> Result<Named, StoreError>;

    /// The log of the database `id`. Asks nobody yet.
    fn log(&self, id: &DatabaseId) -> Box<dyn Remote>;

    /// The log of the database `id`, which must have had the name last. A place whose every answer
    /// is of the database that was asked for need not ask for that.
    async fn log_of(&self, id: &DatabaseId) -> Result<Box<dyn Remote>, Error>;
}

/// What a server was found to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    /// Our own: see docs/protocol.md.
    Anabranch,
    /// The offline sync of the official libSQL clients.
    Libsql,
}

impl Dialect {
    /// The dialect in a word; an object store needs none.
    pub(crate) fn name(dialect: Option<Self>) -> &'static str {
        match dialect {
            None => "store",
            Some(Dialect::Anabranch) => "anabranch",
            Some(Dialect::Libsql) => "libsql",
        }
    }
}

/// What the text of a remote names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A folder or bucket.
    Store(Location),
    /// A database on a server.
    Server(ServerUrl),
}

impl Address {
    /// Reads a remote as people type it.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, Error> {
        match ServerUrl::parse(text) {
            Some(url) => Ok(Address::Server(url?)),
            None => Ok(Address::Store(Location::parse(text)?)),
        }
    }

    /// The folder, if it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Address::Store(location) => location.is_folder(),
            Address::Server(_) => None,
        }
    }

    /// The remote as it is remembered: a folder by its full path, so that it means the same from
    /// everywhere.
    pub(crate) fn absolute(&self, text: &OsStr) -> Result<OsString, Error> {
        self.refuse_unnameable()?;
        match self.folder() {
            None => Ok(text.to_owned()),
            Some(folder) => std::path::absolute(folder)
                .map(Into::into)
                .map_err(|source| Error::Io { what: "resolving", path: folder.to_owned(), source }),
        }
    }

    /// Object names are Unicode, and so is everything above them.
    fn refuse_unnameable(&self) -> Result<(), Error> {
        let Some(folder) = self.folder() else { return Ok(()) };
        let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        if full.to_str().is_some() {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "{} cannot be a remote: its path is not valid UTF-8 (the database's own path need not \
             be)",
            full.display()
        )))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Store(location) => location.fmt(f),
            Address::Server(url) => url.fmt(f),
        }
    }
}

/// The remote in `text`, credentials left out; for texts that may not even name one.
pub(crate) fn shown(text: &OsStr) -> String {
    match Address::parse(text) {
        Ok(address) => address.to_string(),
        Err(_) => text.to_string_lossy().into_owned(),
    }
}

/// How often a remote that cannot tell of news is asked, unless the user says otherwise.
pub(crate) fn probing_of(text: &str) -> Probing {
    match Address::parse(OsStr::new(text)) {
        Ok(address) if address.folder().is_some() => Probing::FOLDER,
        _ => Probing::REMOTE,
    }
}

/// The remote in `text` as it is remembered; see [`Address::absolute`].
pub(crate) fn absolute(text: &OsStr) -> Result<OsString, Error> {
    Address::parse(text)?.absolute(text)
}

/// How a place is opened.
#[derive(Debug, Clone)]
pub(crate) struct Opening<'a> {
    /// Temporary files go here.
    pub(crate) scratch: &'a Path,
    pub(crate) options: &'a Options,
    /// Make a folder that is not there yet.
    pub(crate) create: bool,
    /// What the server spoke when it was last asked.
    pub(crate) dialect: Option<Dialect>,
}

impl<'a> Opening<'a> {
    pub(crate) fn new(scratch: &'a Path, options: &'a Options) -> Self {
        Opening { scratch, options, create: false, dialect: None }
    }

    pub(crate) fn creating(self) -> Self {
        Opening { create: true, ..self }
    }

    pub(crate) fn speaking(self, dialect: Option<Dialect>) -> Self {
        Opening { dialect, ..self }
    }
}

/// Opens the place that `text` names.
pub(crate) async fn place(text: &OsStr, how: &Opening<'_>) -> Result<Box<dyn Place>, Error> {
    let address = Address::parse(text)?;
    address.refuse_unnameable()?;
    match address {
        Address::Server(url) => server::place(url, how).await,
        Address::Store(location) => {
            let name = how.options.name.parse::<DatabaseName>();
            let name = name.map_err(|e| Error::Usage(e.to_string()))?;
            Ok(Box::new(store::StorePlace::open(location, name, how).await?))
        }
    }
}

/// Finds the log of `database` at the place named `text`.
pub(crate) async fn connect(
    text: &OsStr,
    database: &DatabaseId,
    how: &Opening<'_>,
) -> Result<Box<dyn Remote>, Error> {
    place(text, how).await?.log_of(database).await
}

/// Where temporary files go that belong to the remote `text` and to no file here.
pub(crate) fn scratch_of(text: &OsStr) -> Result<PathBuf, Error> {
    let address = Address::parse(text)?;
    Ok(address.folder().map_or_else(std::env::temp_dir, Path::to_owned))
}

/// The client's error for what a server said; the store's error again, if it is none of that.
fn of_server(remote: &str, source: StoreError) -> Result<Error, StoreError> {
    let StoreError::Other { location, offline: false, source } = source else {
        return Err(source);
    };
    let offline = false;
    let source = source.downcast::<ServerError>();
    let source = source.map_err(|source| StoreError::Other { location, offline, source })?;
    let remote = remote.to_owned();
    Ok(match *source {
        ServerError::NoDatabase => Error::RemoteGone { remote },
        ServerError::OtherDatabase { found, expected: Some(expected) } => {
            Error::OtherDatabase { remote, found, expected }
        }
        ServerError::NotOurs { .. } => Error::NoDialect { remote },
        source => Error::Server { remote, source: Box::new(source) },
    })
}

/// The client's error for the store's.
pub(crate) fn of_store(remote: &str, source: StoreError) -> Error {
    let remote = remote.to_owned();
    let source = match of_server(&remote, source) {
        Ok(e) => return e,
        Err(source) => source,
    };
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

/// As [`of_store`], where nobody knows the remote but the error itself.
pub(crate) fn of_store_itself(source: StoreError) -> Error {
    match &source {
        StoreError::Other { location, .. } | StoreError::Unreachable { location, .. } => {
            let location = location.clone();
            of_store(&location, source)
        }
        _ => Error::Store(source),
    }
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

    #[test]
    fn the_text_alone_decides_what_kind_of_remote_it_is() {
        let kind = |text: &str| Address::parse(OsStr::new(text)).unwrap();
        for text in ["http://host", "https://host:8/a", "libsql://db.example", "HTTPS://Host/x"] {
            assert!(matches!(kind(text), Address::Server(_)), "{text}");
        }
        for text in ["/a/b", "s3://bucket/x", "file:///x", "./http:", "http", "httpd/x"] {
            assert!(matches!(kind(text), Address::Store(_)), "{text}");
        }
    }
}
