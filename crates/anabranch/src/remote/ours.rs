//! A server that speaks our own dialect: see docs/protocol.md.
//!
//! Every request names the database that is meant, so that a server at which another one has the
//! name by now says so, and no request is needed to find out. A push is tried without a look at the
//! end of the log, unless it is long; an answer that was lost is asked for again with the same push
//! id, and only if that remains unanswered is the outcome unknown.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anabranch_format::{DatabaseId, Lsn, Metadata, Micros, PushId, WriterId};
use anabranch_store::{
    Anchor, AppendError, Appended, At, CompactReport, Entry, Fetched, Head, Named, NewSegment,
    Position, Progress, Step, StoreError,
};
use async_trait::async_trait;
use reqwest::Method;
use serde::de::DeserializeOwned;

use super::http::{Ask, Connection, Upload, pauses};
use super::server_error::ServerError;
use super::{
    BaseAt, BasePages, Dialect, MergedConflicts, Opening, Place, Probing, Remote, ServerUrl, Spot,
    of_store, pages_of_whole,
};
use crate::adopt::{AdoptError, Adoptable, LastFrame};
use crate::entropy;
use crate::error::Error;

mod answer;
mod download;
mod pages;
mod push;
mod watch;

use answer::{EntriesAnswer, HeadAnswer, LastPushAnswer, MetadataAnswer, NoAnswer, PositionAnswer};

/// A longer push is not sent before it is known that it does not come too late.
const BLIND_BYTES_MAX: u64 = 1 << 20;
/// The pause before a stream of events is asked for again and again that the server ended.
const WATCH_PAUSE: Duration = Duration::from_secs(2);
/// Entries of the history in one answer; the server may send fewer.
const ENTRIES_MAX: usize = 1_000;

/// A name on a server that speaks our dialect.
pub(super) struct OursPlace {
    connection: Connection,
    scratch: PathBuf,
    /// What the first request found, until it is used.
    probed: Mutex<Option<Option<Found>>>,
}

/// The database that has the name.
#[derive(Debug, Clone)]
struct Found {
    database: DatabaseId,
    head: Head,
    /// It was made beforehand, for whoever publishes first.
    waiting: bool,
}

impl OursPlace {
    pub(super) fn new(url: ServerUrl, how: &Opening<'_>) -> Self {
        let connection = Connection::new(url, how.options);
        OursPlace { connection, scratch: how.scratch.to_owned(), probed: Mutex::new(None) }
    }

    /// Finds out whether our dialect is spoken; `false` if something else is.
    pub(super) async fn probe(&self) -> Result<Spoken, StoreError> {
        match self.look().await {
            Ok(found) => {
                *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                Ok(Spoken::Ours)
            }
            Err(e) => match ServerError::of(&e) {
                Some(ServerError::NotOurs { status }) => Ok(Spoken::Other { status: *status }),
                _ => Err(e),
            },
        }
    }

    /// The database that has the name, and where its log ends.
    async fn look(&self) -> Result<Option<Found>, StoreError> {
        let failed = |e: ServerError| e.at(&self.connection.location);
        let asked = self.connection.ask(&Ask::get("log/head")).await;
        let asked = asked.map_err(|fault| failed(fault.error))?;
        match answer::read::<HeadAnswer>(asked).await {
            Ok(found) => {
                let (database, waiting) = (found.database.clone(), found.waiting);
                Ok(Some(Found { database, head: found.head().map_err(failed)?, waiting }))
            }
            Err(NoAnswer::Refused(refusal)) if refusal.code == "no-database" => Ok(None),
            Err(e) => Err(e.store_error(&self.connection)),
        }
    }

    fn remote(&self, id: &DatabaseId, seen: Option<Head>) -> Box<dyn Remote> {
        Box::new(Ours {
            connection: self.connection.of(id),
            database: id.clone(),
            scratch: self.scratch.clone(),
            seen: Mutex::new(seen),
        })
    }

    fn probed(&self) -> Option<Option<Found>> {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a server turned out to speak.
pub(super) enum Spoken {
    /// Our own dialect.
    Ours,
    /// Something else; the status with which it answered.
    Other { status: u16 },
}

#[async_trait]
impl Place for OursPlace {
    fn location(&self) -> &str {
        &self.connection.location
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Anabranch)
    }

    fn new_database(&self) -> DatabaseId {
        match self.probed().flatten().filter(|found| found.waiting) {
            Some(found) => found.database,
            None => entropy::database_id(),
        }
    }

    fn gives_id(&self) -> bool {
        self.probed().flatten().is_some_and(|found| found.waiting)
    }

    async fn find(&self) -> Result<Option<DatabaseId>, StoreError> {
        let found = match self.probed() {
            Some(found) => found,
            None => self.look().await?,
        };
        let id = found.as_ref().filter(|f| !f.waiting).map(|f| f.database.clone());
        *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(id)
    }

    async fn libsql_position(
        &self,
        at: Spot,
        _last: Option<LastFrame>,
    ) -> Result<Result<Adoptable, AdoptError>, Error> {
        let failed = |e| of_store(&self.connection.location, e);
        let unknown = Ok(Err(AdoptError::NoSuchPosition { at }));
        let Some(database) = self.find().await.map_err(failed)? else { return unknown };
        let ask = Ask::get("log/position").with("database", &database);
        let ask = ask.with("generation", at.generation).with("frame", at.frame);
        let asked = self.connection.ask(&ask).await;
        let asked = asked.map_err(|fault| failed(fault.error.at(&self.connection.location)))?;
        let answer: PositionAnswer = match answer::read(asked).await {
            Ok(answer) => answer,
            Err(e) => match e.store_error(&self.connection) {
                StoreError::BeforeHistory { .. }
                | StoreError::BeyondHead { .. }
                | StoreError::BelowFloor { .. } => return unknown,
                e => return Err(failed(e)),
            },
        };
        let there = answer.at;
        let position = answer.position(&database);
        let position = position.map_err(|e| failed(e.at(&self.connection.location)))?;
        let Some(metadata) = position.metadata else { return unknown };
        if there != Some(position.lsn) {
            return Ok(Err(AdoptError::InsideSegment { at }));
        }
        Ok(Ok(Adoptable {
            database,
            dialect: Some(Dialect::Anabranch),
            anchor: Anchor::of(&metadata),
            stated: Some((metadata.pages.1, metadata.sum.1)),
        }))
    }

    async fn verify(&self) -> Result<(), StoreError> {
        // The server has done that with its store.
        Ok(())
    }

    async fn claim(&self, id: &DatabaseId) -> Result<Named, StoreError> {
        let ask = Ask::new(Method::PUT, "log").with("database", id);
        let asked = self.connection.ask(&ask).await;
        let asked = asked.map_err(|fault| fault.error.at(&self.connection.location))?;
        match answer::accepted(asked).await {
            Ok(_) => Ok(Named::Created),
            Err(e) => {
                let e = e.store_error(&self.connection);
                match ServerError::of(&e) {
                    Some(ServerError::OtherDatabase { found, .. }) => match found.parse() {
                        Ok(found) => Ok(Named::Taken(found)),
                        Err(_) => Err(e),
                    },
                    _ => Err(e),
                }
            }
        }
    }

    fn log(&self, id: &DatabaseId) -> Box<dyn Remote> {
        // What was just found need not be asked for again.
        let seen = self.probed().flatten().filter(|found| found.database == *id);
        self.remote(id, seen.map(|found| found.head))
    }

    async fn log_of(&self, id: &DatabaseId) -> Result<Box<dyn Remote>, Error> {
        Ok(self.remote(id, None))
    }
}

/// The log of one database on a server that speaks our dialect.
struct Ours {
    connection: Connection,
    database: DatabaseId,
    scratch: PathBuf,
    /// The end of the log, found right before.
    seen: Mutex<Option<Head>>,
}

impl Ours {
    fn get(&self, path: &str) -> Ask {
        Ask::get(path).with("database", &self.database)
    }

    fn failed(&self, e: ServerError) -> StoreError {
        e.at(&self.connection.location)
    }

    async fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, StoreError> {
        let asked = self.connection.ask(ask).await.map_err(|fault| self.failed(fault.error))?;
        answer::read(asked).await.map_err(|e| e.store_error(&self.connection))
    }

    fn checked(&self, metadata: Option<Metadata>) -> Result<Option<Metadata>, StoreError> {
        let checked = metadata.map(|m| answer::checked(m, &self.database)).transpose();
        checked.map_err(|e| self.failed(e))
    }
}

#[async_trait]
impl Remote for Ours {
    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Anabranch)
    }

    fn appends_blindly(&self) -> bool {
        true
    }

    async fn head(&self, known: &Anchor) -> Result<Head, StoreError> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(seen) = seen.filter(|_| known.last == Lsn::ZERO) {
            return Ok(seen);
        }
        let mut ask = self.get("log/head");
        if known.last > Lsn::ZERO {
            ask = ask.with("first", known.first).with("after", known.last);
            if let Some(push) = &known.push {
                ask = ask.with("push", push);
            }
        }
        let found: HeadAnswer = self.ask(&ask).await?;
        if found.database != self.database {
            let expected = Some(self.database.to_string());
            let found = found.database.to_string();
            return Err(self.failed(ServerError::OtherDatabase { found, expected }));
        }
        let head = found.head().map_err(|e| self.failed(e))?;
        let same_place = head.lsn() == known.last && head.anchor != *known;
        if head.lsn() < known.last || (same_place && known.last > Lsn::ZERO) {
            return Err(StoreError::Rewound {
                location: self.connection.location.clone(),
                key: format!("the segment from {}", known.first),
                at: known.last,
                found: head.lsn(),
            });
        }
        Ok(head)
    }

    async fn fetch(
        &self,
        from: Lsn,
        to: &Head,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        self.download(from, &to.position(), progress).await
    }

    async fn append(
        &self,
        head: &Head,
        new: NewSegment,
        progress: &Progress,
    ) -> Result<Appended, AppendError> {
        let after = head.anchor.last;
        let metadata = self.proposal(after, &new)?;
        let frame = metadata.encode().map_err(|e| AppendError::Invalid(e.to_string()))?;
        let (push, body) = (new.push, new.body.finish());
        if head.newest.is_none()
            && body.len() > BLIND_BYTES_MAX
            && let Some(outcome) = self.overtaken(head, &push).await.map_err(AppendError::Store)?
        {
            return Ok(outcome);
        }
        let counter = progress.step(Step::Uploading, Some(body.len()));
        let mut ask = Ask::new(Method::POST, "log")
            .with("database", &self.database)
            .with("after", after)
            .with("push", &push);
        ask.upload = Some(Upload { head: frame.into(), body, counter });
        self.send(&ask, after, &push).await
    }

    async fn at_key_after(&self, after: Lsn) -> Result<Option<Metadata>, StoreError> {
        let found: MetadataAnswer = self.ask(&self.get("log/next").with("after", after)).await?;
        let found = self.checked(found.metadata)?;
        if found.as_ref().is_some_and(|metadata| metadata.from() != after) {
            let what = "it names a segment at another place".to_owned();
            return Err(self.failed(ServerError::Protocol { what }));
        }
        Ok(found)
    }

    async fn last_push(&self, writer: &WriterId) -> Result<Option<(PushId, Lsn)>, StoreError> {
        let found: LastPushAnswer = self.ask(&self.get(&format!("log/writers/{writer}"))).await?;
        Ok(found.push.zip(found.lsn))
    }

    async fn position_at(&self, at: At) -> Result<Position, StoreError> {
        let ask = self.get("log/position");
        let ask = match at {
            At::Head => ask,
            At::Lsn(lsn) => ask.with("lsn", lsn),
            At::Time(time) => ask.with("time", time.0),
        };
        let found: PositionAnswer = self.ask(&ask).await?;
        found.position(&self.database).map_err(|e| self.failed(e))
    }

    async fn fetch_whole(
        &self,
        position: &Position,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        self.download(Lsn::ZERO, position, progress).await
    }

    async fn base_pages(
        &self,
        wanted: &BaseAt<'_>,
        progress: &Progress,
    ) -> Result<Option<BasePages>, StoreError> {
        if let Some(pages) = pages::pages(self, wanted, progress).await? {
            return Ok(Some(pages));
        }
        // A server that does not know the request.
        pages_of_whole(self, wanted, progress).await
    }

    async fn merged_conflicts(&self) -> Result<MergedConflicts, StoreError> {
        self.ask(&self.get("log/conflicts")).await
    }

    async fn history(&self, count: usize) -> Result<Vec<Entry>, StoreError> {
        let mut all: Vec<Entry> = Vec::new();
        while all.len() < count {
            let wanted = (count - all.len()).min(ENTRIES_MAX);
            let mut ask = self.get("log/entries").with("count", wanted);
            let last = all.last().map(|entry| entry.metadata.lsn.0);
            if let Some(last) = last {
                ask = ask.with("before", last);
            }
            let found: EntriesAnswer = self.ask(&ask).await?;
            if found.entries.is_empty() {
                break;
            }
            for entry in found.entries.into_iter().take(wanted) {
                let entry = entry.entry(&self.database).map_err(|e| self.failed(e))?;
                let before = all.last().map_or(Lsn::MAX, |entry| entry.metadata.lsn.0);
                if entry.metadata.lsn.1 >= before {
                    let what = "its history does not go back in order".to_owned();
                    return Err(self.failed(ServerError::Protocol { what }));
                }
                all.push(entry);
            }
        }
        Ok(all)
    }

    async fn compact(
        &self,
        _: Micros,
        retain: Duration,
        _: &Progress,
    ) -> Result<CompactReport, StoreError> {
        let mut ask = self.get("log/compact").with("retain-seconds", retain.as_secs());
        ask.method = Method::POST;
        self.ask(&ask).await
    }

    async fn tidy(&self, _: &Metadata, _: Micros, _: &Progress) {
        // The server does that itself.
    }

    async fn wait_beyond(&self, known: &Anchor, _: &Probing) -> Result<(), StoreError> {
        let mut pauses = pauses();
        loop {
            if self.watch(known.last).await? {
                return Ok(());
            }
            // The server stops, or opens the database anew.
            tokio::time::sleep(pauses.next().unwrap_or(WATCH_PAUSE)).await;
            if self.head(known).await?.lsn() > known.last {
                return Ok(());
            }
        }
    }
}

impl Ours {
    async fn download(
        &self,
        from: Lsn,
        to: &Position,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        let wanted = download::Wanted {
            connection: &self.connection,
            database: &self.database,
            scratch: &self.scratch,
            from,
            to,
        };
        download::download(&wanted, progress).await
    }
}
