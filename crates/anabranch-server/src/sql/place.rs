//! The writers' place: one connection of a database writes at a time, in the order in which they came.
//!
//! ```text
//! wait for the place ── write, commit to the file ──┬─ nobody waits: append, publish, answer
//!                                                   └─ else leave it to those who wait ─┐
//!                          the next one writes … the last one appends what all committed ┘
//! ```
//!
//! What several connections have committed one after the other goes into the log in one append, and
//! none of them is answered before it: a *group*. While there is one, its first member's turn among
//! the pushes to this server is held, so that none comes in between. The append takes all of the
//! group, or, if another writer was first, nothing: then the file goes back to what the log has, and
//! each member hears [`Outcome::Lost`] and may do its part again.
//!
//! A transaction that stays open over requests has the place for itself: what others committed is
//! appended before it begins. It holds no turn: a push waits for it for a moment, then goes first, and
//! the transaction has lost.
//!
//! The place also is where the file is moved along the log, and where its `-wal` is emptied.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anabranch_hrana::Error;
use anabranch_store::{AppendError, Appended, Head, NewSegment, Spool, causes};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::replica::{Fault, Packed, Replica, blocking};
use super::{Sql, busy, failed};
use crate::database::Database;
use crate::entropy;

/// A group that is older is appended before somebody else writes.
const GROUP_AGE: Duration = Duration::from_millis(10);
/// So is one with more members.
const GROUP_MEMBERS: usize = 1024;
/// How long an append whose outcome is unknown is repeated.
const UNKNOWN: Duration = Duration::from_secs(15);
/// Pause between the repeats.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(250);

/// What became of what was committed to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the log.
    Appended,
    /// Another writer was first, and nothing of it is anywhere.
    Lost,
    /// It is nowhere, or that cannot be told, as the error says.
    Failed(Error),
}

/// What only who has the place may touch.
#[derive(Debug)]
pub(super) struct Place {
    /// `None` after a fault.
    replica: Option<Replica>,
    group: Group,
}

/// Those whose commits are in the file but not in the log.
#[derive(Debug, Default)]
struct Group {
    members: Vec<oneshot::Sender<Outcome>>,
    since: Option<Instant>,
    /// The turn among the pushes to this server.
    turn: Option<OwnedMutexGuard<()>>,
}

/// For how long somebody wants the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// To follow the log, not to write.
    Look,
    /// Until the end of this request at the latest.
    Short,
    /// Until the client comes again.
    Open,
}

/// The place, while somebody has it.
#[derive(Debug)]
pub(super) struct Held {
    place: OwnedMutexGuard<Place>,
    sql: Arc<Sql>,
    stay: Stay,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.stay == Stay::Open {
            self.sql.open.send_replace(false);
        }
        if self.place.group.is_empty() {
            self.place.group.turn = None;
        }
    }
}

/// Counts those who wait for the place.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Place {
    pub(super) fn new(replica: Replica) -> Self {
        Place { replica: Some(replica), group: Group::default() }
    }
}

impl Sql {
    /// Waits for the place, and brings the file to the end of the log as far as it is known here.
    pub(super) async fn place(
        self: &Arc<Self>,
        db: &Arc<Database>,
        stay: Stay,
    ) -> Result<Held, Error> {
        let place = {
            let _waiting = Waiting::new(&self.waiting);
            let lock = Arc::clone(&self.place).lock_owned();
            tokio::time::timeout(self.settings.limits.busy, lock).await.map_err(|_| {
                busy("another transaction holds the database for writing; try again")
            })?
        };
        let mut held = Held { place, sql: Arc::clone(self), stay: Stay::Short };
        held.prepare(db, stay).await?;
        Ok(held)
    }

    /// Brings the file to the end of the log as far as it is known here.
    pub(super) async fn catch_up(self: &Arc<Self>, db: &Arc<Database>) -> Result<(), Error> {
        if self.is_behind(db) { self.place(db, Stay::Look).await.map(drop) } else { Ok(()) }
    }

    /// Waits until nothing is committed that is not in the log, and publishes what there is.
    pub(super) async fn settle(self: &Arc<Self>, db: &Arc<Database>) -> Result<(), Error> {
        let mut held = self.place(db, Stay::Look).await?;
        if !held.place.group.is_empty() {
            held.append(db).await;
        }
        match &held.place.replica {
            Some(replica) => self.publish(replica),
            None => return Err(self.broken()),
        }
        Ok(())
    }

    fn spawn_append(self: &Arc<Self>, db: &Arc<Database>) {
        if self.append_is_due.swap(true, Ordering::SeqCst) {
            return;
        }
        let (sql, db) = (Arc::clone(self), Arc::clone(db));
        db.tasks().clone().spawn(async move {
            let place = Arc::clone(&sql.place).lock_owned().await;
            sql.append_is_due.store(false, Ordering::SeqCst);
            Held { place, sql, stay: Stay::Short }.append(&db).await;
        });
    }
}

impl Held {
    async fn prepare(&mut self, db: &Arc<Database>, stay: Stay) -> Result<(), Error> {
        if self.place.group.is_due() || (stay == Stay::Open && !self.place.group.is_empty()) {
            self.append(db).await;
        }
        if self.place.group.is_empty() {
            if stay != Stay::Look {
                db.give_way().await;
            }
            self.place.group.turn = Some(db.turn_of_sql().await);
            if stay == Stay::Open {
                // It cannot be run again: it must not begin behind what another server has appended.
                db.head().await.map_err(|e| failed(&e))?;
            }
            let known = db.known_head();
            if let Some(head) = known.filter(|_| self.sql.is_behind(db)) {
                self.follow(db, &head).await?;
            }
        }
        if self.place.replica.is_none() {
            self.sql.set_broken();
            return Err(self.sql.broken());
        }
        if stay == Stay::Open {
            self.place.group.turn = None;
            self.stay = Stay::Open;
            self.sql.open.send_replace(true);
        }
        Ok(())
    }

    /// What this connection has committed is to be appended; answers where to hear what became of it.
    /// Gives the place up.
    pub(super) async fn join(mut self, db: &Arc<Database>) -> Outcome {
        let group = &mut self.place.group;
        if self.sql.waiting.load(Ordering::SeqCst) == 0 {
            return self.append(db).await;
        }
        let (tell, told) = oneshot::channel();
        group.members.push(tell);
        group.since.get_or_insert_with(Instant::now);
        let sql = Arc::clone(&self.sql);
        // Those who wait may go away before they get the place.
        sql.spawn_append(db);
        drop(self);
        told.await.unwrap_or_else(|_| Outcome::Failed(sql.broken()))
    }

    /// Appends what was committed, and tells the group.
    pub(super) async fn append(&mut self, db: &Arc<Database>) -> Outcome {
        let turn = match self.place.group.turn.take() {
            Some(turn) => turn,
            None => db.turn_of_sql().await,
        };
        let outcome = self.append_now(db).await;
        drop(turn);
        let group = std::mem::take(&mut self.place.group);
        for member in group.members {
            // One that does not listen any more is not answered.
            let _ = member.send(outcome.clone());
        }
        outcome
    }

    async fn append_now(&mut self, db: &Arc<Database>) -> Outcome {
        let Some(replica) = self.place.replica.take() else {
            return Outcome::Failed(self.sql.broken());
        };
        let spool = Spool::new(&db.libsql().scratch);
        let (replica, packed) = match replica.pack(spool).await {
            Ok((replica, Some(packed))) => (replica, packed),
            Ok((replica, None)) => {
                self.place.replica = Some(replica);
                return Outcome::Appended;
            }
            Err(fault) => return Outcome::Failed(self.broke(db, &fault)),
        };
        let head = Arc::clone(replica.head());
        match put(db, &head, &packed).await {
            Ok(Appended::Won(metadata)) => {
                let mut replica = replica;
                replica.appended(packed, metadata);
                self.go_on(db, replica).await;
                Outcome::Appended
            }
            Ok(Appended::Lost(_))
            | Err(AppendError::NotAtHead { .. } | AppendError::BelowFloor { .. }) => {
                self.take_back(db, replica, packed).await;
                if let Ok(head) = db.head().await {
                    // Whoever comes next meets what went wrong.
                    let _ = self.follow(db, &head).await;
                }
                Outcome::Lost
            }
            Err(e @ AppendError::Unknown { .. }) => {
                // The file has it, and the log may have it: it is made anew from the log.
                self.sql.set_broken();
                Outcome::Failed(Error::new(
                    "SQLITE_IOERR",
                    format!(
                        "whether this was written is not known: {}. Look before you write it again",
                        causes(&e)
                    ),
                ))
            }
            Err(e) => {
                self.take_back(db, replica, packed).await;
                Outcome::Failed(failed(&e))
            }
        }
    }

    /// The file goes back to what the log has.
    async fn take_back(&mut self, db: &Arc<Database>, replica: Replica, packed: Packed) {
        self.sql.new_epoch();
        match replica.take_back(packed).await {
            Ok(replica) => self.go_on(db, replica).await,
            Err(fault) => drop(self.broke(db, &fault)),
        }
    }

    /// Moves the file along the log.
    async fn follow(&mut self, db: &Arc<Database>, head: &Arc<Head>) -> Result<(), Error> {
        let Some(replica) = self.place.replica.take() else { return Err(self.sql.broken()) };
        match replica.follow(db, head).await {
            Ok(mut replica) => {
                if replica.take_hidden_change() {
                    self.sql.new_epoch();
                }
                self.go_on(db, replica).await;
                Ok(())
            }
            Err(fault) => Err(self.broke(db, &fault)),
        }
    }

    /// Publishes the state of the file.
    async fn go_on(&mut self, db: &Arc<Database>, replica: Replica) {
        self.sql.publish(&replica);
        if replica.is_long() {
            self.checkpoint(db, replica).await;
        } else {
            self.place.replica = Some(replica);
        }
    }

    async fn checkpoint(&mut self, db: &Arc<Database>, mut replica: Replica) {
        let sql = Arc::clone(&self.sql);
        let done = blocking(move || {
            let mut published = sql.published_mut();
            let done = replica.checkpoint();
            *published = replica.published().clone();
            drop(published);
            done.map(|()| replica)
        });
        match done.await.and_then(|done| done) {
            Ok(replica) => self.place.replica = Some(replica),
            Err(fault) => drop(self.broke(db, &fault)),
        }
    }

    /// The replica cannot be used any more.
    fn broke(&mut self, db: &Database, fault: &Fault) -> Error {
        tracing::warn!(
            database = %db.name(), error = causes(fault),
            "the replica for SQL is made anew from the log"
        );
        self.place.replica = None;
        self.sql.set_broken();
        self.sql.broken()
    }
}

/// Appends `packed` after `head`; until it is known whether that happened, again and again.
async fn put(db: &Arc<Database>, head: &Head, packed: &Packed) -> Result<Appended, AppendError> {
    let push = entropy::push_id();
    let since = Instant::now();
    loop {
        let rollover = db.engine().rollover_choice(db.libsql().now(), db.libsql().session_idle);
        let new = NewSegment {
            push: push.clone(),
            writer: db.libsql().writer.clone(),
            now: entropy::now(),
            page_size: packed.page_size,
            pages: packed.pages,
            sum: packed.sum,
            frames: packed.frames,
            transactions: Some(packed.transactions),
            rollover,
            body: packed.body.rewound().into_spool(),
        };
        match db.append(head, new, "hrana").await {
            Err(e @ AppendError::Unknown { .. }) if since.elapsed() < UNKNOWN => {
                tracing::warn!(database = %db.name(), error = causes(&e), "appending again");
                tokio::time::sleep(UNKNOWN_PAUSE).await;
            }
            done => return done,
        }
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn is_due(&self) -> bool {
        self.members.len() >= GROUP_MEMBERS
            || self.since.is_some_and(|since| since.elapsed() > GROUP_AGE)
    }
}
