//! All streams of a server: those that work, and those that wait for their client's next request.
//!
//! ```text
//! place ── Held, at work ──(keep: a baton)── idle ──(take: the baton)── Held ── closed
//!                                             └── expired, or pushed out by a newer one
//! ```
//!
//! Their number is limited, for each database and in all. Where a new one has no place, the stream
//! that has waited longest outside a transaction is closed first: its client will not notice, unless
//! it had stored SQL. Then come those whose clients left a transaction behind. A stream is dropped outside the lock, and leaves its place with that.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anabranch_format::DatabaseId;
use tokio::sync::Notify;

use super::baton::{Key, Ticket};
use super::stream::Stream;
use super::texts::Texts;
use crate::config::{Limits, SqlLimits};
use crate::{entropy, metrics};

/// So long a new stream waits for a place.
const PLACE_WAIT: Duration = Duration::from_secs(1);

/// All streams of a server.
pub(super) struct Streams {
    in_all: usize,
    of_each: usize,
    idle: Duration,
    /// A transaction that is idle for longer was rolled back already.
    lost: Duration,
    entries: Mutex<Entries>,
    /// Told when there may be a place.
    freed: Notify,
}

#[derive(Default)]
struct Entries {
    all: HashMap<u64, Entry>,
    of: HashMap<DatabaseId, usize>,
}

struct Entry {
    database: DatabaseId,
    /// `None`: at work.
    idle: Option<Idle>,
}

struct Idle {
    held: Box<Held>,
    since: Instant,
}

/// A place among the streams; left by dropping it.
pub(super) struct Place {
    streams: Arc<Streams>,
    id: u64,
}

/// A stream at work, with what belongs to it.
pub(super) struct Held {
    pub(super) stream: Stream,
    pub(super) texts: Texts,
    turn: u64,
    place: Place,
}

/// What became of the stream of a baton.
pub(super) enum Taken {
    /// Here it is.
    Here(Box<Held>),
    /// The baton was used already.
    Used,
    /// There is none any more.
    Gone,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Streams({})", self.entries().all.len())
    }
}

impl Streams {
    pub(super) fn new(limits: &Limits, sql: &SqlLimits) -> Arc<Self> {
        Arc::new(Streams {
            in_all: limits.sql_streams,
            of_each: limits.sql_streams_per_database,
            idle: limits.sql_stream_idle,
            lost: sql.transaction_idle,
            entries: Mutex::default(),
            freed: Notify::new(),
        })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new stream of `database`; `None` if there is none, and no idle stream that could
    /// be closed for it.
    pub(super) fn place(self: &Arc<Self>, database: &DatabaseId) -> Option<Place> {
        loop {
            let pushed_out = {
                let mut entries = self.entries();
                let of_database = entries.of.get(database).copied().unwrap_or(0);
                let full = entries.all.len() >= self.in_all;
                if !full && of_database < self.of_each {
                    return Some(self.enter(&mut entries, database));
                }
                let only = (of_database >= self.of_each).then_some(database);
                entries.take_oldest(only, self.lost)?
            };
            tracing::debug!(%database, stream = pushed_out.held.place.id, "closed an idle stream");
            drop(pushed_out);
        }
    }

    /// A place for a new stream of `database`, waited for for a moment: streams that are being closed
    /// leave theirs soon.
    pub(super) async fn place_soon(self: &Arc<Self>, database: &DatabaseId) -> Option<Place> {
        let until = tokio::time::Instant::now() + PLACE_WAIT;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.place(database) {
                return Some(place);
            }
            tokio::time::timeout_at(until, freed).await.ok()?;
        }
    }

    fn enter(self: &Arc<Self>, entries: &mut Entries, database: &DatabaseId) -> Place {
        let mut id = entropy::stream_id();
        while entries.all.contains_key(&id) {
            id = entropy::stream_id();
        }
        entries.all.insert(id, Entry { database: database.clone(), idle: None });
        metrics::sql_streams(entries.all.len());
        *entries.of.entry(database.clone()).or_default() += 1;
        Place { streams: Arc::clone(self), id }
    }

    /// The stream that `ticket` is for.
    pub(super) fn take(&self, ticket: &Ticket) -> Taken {
        let mut entries = self.entries();
        let Some(entry) = entries.all.get_mut(&ticket.stream) else { return Taken::Gone };
        match entry.idle.take() {
            Some(idle) if idle.held.turn == ticket.turn => Taken::Here(idle.held),
            other => {
                entry.idle = other;
                Taken::Used
            }
        }
    }

    /// Closes those that nobody came back to.
    pub(super) fn expire(&self, now: Instant) {
        let expired: Vec<Idle> = {
            let mut entries = self.entries();
            let old = |idle: &mut Idle| now.saturating_duration_since(idle.since) >= self.idle;
            entries.all.values_mut().filter_map(|entry| entry.idle.take_if(old)).collect()
        };
        drop(expired);
    }

    /// Closes all that are idle.
    pub(super) fn close_idle(&self) {
        let idle: Vec<Idle> =
            self.entries().all.values_mut().filter_map(|entry| entry.idle.take()).collect();
        drop(idle);
    }
}

impl Entries {
    /// Takes out the stream that is idle for longest outside a transaction; if there is none, the one
    /// whose transaction was lost first.
    fn take_oldest(&mut self, only: Option<&DatabaseId>, lost: Duration) -> Option<Idle> {
        let age = |entry: &Entry| {
            let idle = entry.idle.as_ref()?;
            let in_transaction = idle.held.stream.in_transaction();
            let free = !in_transaction || idle.since.elapsed() >= lost;
            free.then_some((in_transaction, idle.since))
        };
        let candidates = self.all.values_mut().filter_map(|entry| {
            let mine = only.is_none_or(|database| entry.database == *database);
            mine.then(|| age(entry)).flatten().map(|age| (age, entry))
        });
        candidates.min_by_key(|(age, _)| *age)?.1.idle.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut entries = self.streams.entries();
        let Some(entry) = entries.all.remove(&self.id) else { return };
        metrics::sql_streams(entries.all.len());
        self.streams.freed.notify_waiters();
        if let Some(count) = entries.of.get_mut(&entry.database) {
            *count -= 1;
            if *count == 0 {
                entries.of.remove(&entry.database);
            }
        }
    }
}

impl Held {
    pub(super) fn new(stream: Stream, place: Place) -> Box<Self> {
        Box::new(Held { stream, texts: Texts::default(), turn: 0, place })
    }

    /// Lets the stream wait for its client; answers the baton for the next request.
    pub(super) fn keep(mut self: Box<Self>, key: &Key, database: &DatabaseId) -> String {
        self.turn = self.turn.wrapping_add(1);
        let ticket = Ticket {
            stream: self.place.id,
            turn: self.turn,
            in_transaction: self.stream.in_transaction(),
            has_texts: !self.texts.is_empty(),
        };
        let streams = Arc::clone(&self.place.streams);
        let mut entries = streams.entries();
        if let Some(entry) = entries.all.get_mut(&ticket.stream) {
            entry.idle = Some(Idle { held: self, since: Instant::now() });
        }
        drop(entries);
        streams.freed.notify_waiters();
        key.seal(database, &ticket)
    }

    /// Rolls back and closes the stream.
    pub(super) async fn close(self: Box<Self>) {
        let Held { stream, place, .. } = *self;
        stream.close().await;
        drop(place);
    }
}
