//! One open database: its log, what is known of the end of it, and the one way to append.
//!
//! What is known is only a start for the next look: another program may append to the same store at
//! any moment, so [`Database::head`] proves the end by a look that began after the call. Callers that
//! come while a look is under way share the one after it.
//!
//! An append runs in a task of its own: a client that goes away does not cut it off, and what was
//! put is known afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anabranch_format::{DatabaseId, Healed, Lsn};
use anabranch_store::{
    Anchor, AppendError, Appended, DatabaseName, Head, Log, NewSegment, Progress, StoreError,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::housekeeping::Housekeeper;
use crate::libsql;
use crate::sql::{SqlSettings, SqlSlot};

/// While somebody watches, the log is looked at this often for what others appended; the pause
/// grows up to the second number while nothing comes.
const LOOK_FOLDER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const LOOK_BUCKET: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// So long pushes wait for a transaction of an SQL client that is open.
const OPEN_TRANSACTION: Duration = Duration::from_secs(1);

/// So long SQL clients wait with new transactions for a replica whose push has lost to them.
const RIGHT_OF_WAY: Duration = Duration::from_secs(1);
/// A replica that does not come in that time gives it to nobody for so long.
const RIGHT_OF_WAY_PAUSE: Duration = Duration::from_secs(5);

/// One open database.
#[derive(Debug)]
pub(crate) struct Database {
    log: Log,
    known: Mutex<Option<Arc<Head>>>,
    looks: Looks,
    newest: watch::Sender<Lsn>,
    watchers: AtomicUsize,
    /// Somebody looks for what others append, as long as there are watchers.
    looking: AtomicBool,
    /// Held while something is prepared for, and appended at, the head: so that pushes to this
    /// server take turns instead of losing to one another.
    appending: Arc<tokio::sync::Mutex<()>>,
    /// It was deleted, or is not what it was: to be opened anew.
    stale: AtomicBool,
    /// What is kept for libSQL clients.
    engine: libsql::Engine,
    /// What is open of it for SQL.
    sql: SqlSlot,
    /// Until when what SQL clients commit waits for a replica whose push has lost: it fetches what it
    /// lost to, and comes again.
    right_of_way: watch::Sender<Option<Instant>>,
    shared: Arc<Shared>,
}

/// What all databases of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Nobody else appends.
    pub(crate) sole: bool,
    pub(crate) on_folder: bool,
    pub(crate) tasks: TaskTracker,
    /// The server was told to stop.
    pub(crate) stop: CancellationToken,
    pub(crate) housekeeper: Housekeeper,
    pub(crate) libsql: libsql::Settings,
    pub(crate) sql: Arc<SqlSettings>,
}

/// Looks at the end of the log, shared among those who wait.
#[derive(Debug, Default)]
struct Looks {
    begun: AtomicU64,
    /// The number of the last look that succeeded, and what it saw.
    done: tokio::sync::Mutex<(u64, Option<Arc<Head>>)>,
}

impl Database {
    pub(crate) fn new(log: Log, shared: Arc<Shared>) -> Self {
        Database {
            log,
            known: Mutex::new(None),
            looks: Looks::default(),
            newest: watch::Sender::new(Lsn::ZERO),
            watchers: AtomicUsize::new(0),
            looking: AtomicBool::new(false),
            appending: Arc::default(),
            stale: AtomicBool::new(false),
            engine: libsql::Engine::new(shared.libsql.started),
            sql: SqlSlot::default(),
            right_of_way: watch::Sender::new(None),
            shared,
        }
    }

    /// The log itself. Appends go through [`Database::append`].
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn name(&self) -> &DatabaseName {
        self.log.name()
    }

    pub(crate) fn id(&self) -> &DatabaseId {
        self.log.database()
    }

    /// The end of the log, as last seen; nobody is asked.
    pub(crate) fn known_head(&self) -> Option<Arc<Head>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The end of the log, by a look that began after this call.
    pub(crate) async fn head(&self) -> Result<Arc<Head>, StoreError> {
        if self.shared.sole
            && let Some(known) = self.known_head()
        {
            return Ok(known);
        }
        let wanted = self.looks.begun.load(Ordering::SeqCst) + 1;
        let mut done = self.looks.done.lock().await;
        if let (number, Some(head)) = &*done
            && *number >= wanted
        {
            return Ok(Arc::clone(head));
        }
        let number = self.looks.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let known = self.known_head().map_or_else(Anchor::start, |head| head.anchor.clone());
        let head = match self.log.head(&known).await {
            Ok(head) => Arc::new(head),
            Err(e) => return Err(self.note_failure(e)),
        };
        let head = self.note(head);
        *done = (number, Some(Arc::clone(&head)));
        Ok(head)
    }

    fn note_failure(&self, e: StoreError) -> StoreError {
        if matches!(
            e,
            StoreError::Deleted { .. } | StoreError::Rewound { .. } | StoreError::Gone { .. }
        ) {
            self.stale.store(true, Ordering::Relaxed);
        }
        e
    }

    /// Whether it must be opened anew.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Remembers `head`, unless more is known; answers the newest.
    fn note(&self, head: Arc<Head>) -> Arc<Head> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = known.as_ref().filter(|known| known.lsn() > head.lsn()).cloned();
        let newest = newer.unwrap_or(head);
        *known = Some(Arc::clone(&newest));
        drop(known);
        self.newest.send_if_modified(|lsn| {
            let moved = newest.lsn() > *lsn;
            *lsn = newest.lsn().max(*lsn);
            moved
        });
        newest
    }

    /// A turn to look at the head and append there, among the pushes to this server. A transaction of
    /// an SQL client that is open, and would lose to the push, is waited for, but not for long.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.sql.closed_within(OPEN_TRANSACTION).await;
        self.appending.lock().await
    }

    /// A replica's push has lost. It will fetch what it lost to, and come again; small transactions
    /// of SQL clients would always be first.
    pub(crate) fn push_has_lost(&self) {
        if self.sql.is_open() {
            self.right_of_way.send_if_modified(|until| {
                let now = Instant::now();
                let free = until.is_none_or(|until| until + RIGHT_OF_WAY_PAUSE < now);
                if free {
                    *until = Some(now + RIGHT_OF_WAY);
                }
                free
            });
        }
    }

    /// A replica's push has won.
    pub(crate) fn push_has_won(&self) {
        self.right_of_way.send_if_modified(|until| until.take().is_some());
    }

    /// Returns once no push has the right of way.
    pub(crate) async fn give_way(&self) {
        let mut right_of_way = self.right_of_way.subscribe();
        let until = *right_of_way.borrow_and_update();
        if let Some(until) = until.filter(|until| *until > Instant::now()) {
            let _ = tokio::time::timeout_at(until.into(), right_of_way.changed()).await;
        }
    }

    /// The same for what SQL clients have committed.
    pub(crate) async fn turn_of_sql(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.appending).lock_owned().await
    }

    /// Appends `new` right after `head`: the only way in which this server appends. Goes on when the
    /// caller goes away.
    pub(crate) async fn append(
        self: &Arc<Self>,
        head: &Head,
        new: NewSegment,
        dialect: &'static str,
    ) -> Result<Appended, AppendError> {
        self.append_as(head, new, None, dialect).await
    }

    /// As [`Database::append`], of what was merged from the frames that `healed` names.
    pub(crate) async fn append_healed(
        self: &Arc<Self>,
        head: &Head,
        new: NewSegment,
        healed: Healed,
        dialect: &'static str,
    ) -> Result<Appended, AppendError> {
        self.append_as(head, new, Some(healed), dialect).await
    }

    async fn append_as(
        self: &Arc<Self>,
        head: &Head,
        new: NewSegment,
        healed: Option<Healed>,
        dialect: &'static str,
    ) -> Result<Appended, AppendError> {
        let (database, head) = (Arc::clone(self), head.clone());
        let after = head.lsn();
        let task = self.shared.tasks.spawn(async move {
            let started = Instant::now();
            let bytes = new.body.len();
            let outcome = database.log.append_healed(&head, new, healed, &Progress::none()).await;
            crate::metrics::append(dialect, &outcome, bytes, started.elapsed());
            if let Ok(Appended::Won(metadata)) = &outcome {
                // First, so that nobody can take it for older than it is.
                database.engine.appended(metadata);
                database.note(Arc::new(head.after(metadata.clone())));
                database.shared.housekeeper.after_append(&database, metadata.clone());
            }
            outcome
        });
        task.await.unwrap_or_else(|_| {
            let source = Box::new(StoreError::Interrupted);
            Err(AppendError::Unknown { after, source })
        })
    }

    /// The newest position that is known, as it moves. While the answer lives the log is looked at
    /// for what other programs append.
    pub(crate) fn watch(self: &Arc<Self>) -> Watching {
        let watching = Watching { newest: self.newest.subscribe(), database: Arc::clone(self) };
        self.watchers.fetch_add(1, Ordering::SeqCst);
        if !self.shared.sole && !self.looking.swap(true, Ordering::SeqCst) {
            let database = Arc::clone(self);
            self.shared.tasks.spawn(async move { database.look_while_watched().await });
        }
        watching
    }

    async fn look_while_watched(self: Arc<Self>) {
        let (least, most) = if self.shared.on_folder { LOOK_FOLDER } else { LOOK_BUCKET };
        let mut pause = least;
        let mut newest = self.newest.subscribe();
        while self.is_watched() {
            let moved = tokio::select! {
                moved = tokio::time::timeout(pause, newest.changed()) => moved.is_ok(),
                () = self.shared.stop.cancelled() => return,
            };
            pause = if moved { least } else { (pause * 2).min(most) };
            if !moved && let Err(e) = self.head().await {
                tracing::debug!(database = %self.name(), error = %e, "looking for what others appended failed");
                pause = most;
            }
        }
    }

    /// Whether to go on looking. Between the last watcher's end and this task's there may be a new
    /// watcher, who relied on it.
    fn is_watched(&self) -> bool {
        if self.watchers.load(Ordering::SeqCst) > 0 {
            return true;
        }
        self.looking.store(false, Ordering::SeqCst);
        self.watchers.load(Ordering::SeqCst) > 0 && !self.looking.swap(true, Ordering::SeqCst)
    }

    /// The newest position that is known, as it moves.
    pub(crate) fn newest(&self) -> watch::Receiver<Lsn> {
        self.newest.subscribe()
    }

    /// What is open of it for SQL.
    pub(crate) fn sql(&self) -> &SqlSlot {
        &self.sql
    }

    /// What all databases share for SQL.
    pub(crate) fn sql_settings(&self) -> &Arc<SqlSettings> {
        &self.shared.sql
    }

    /// Where what must not be cut off runs.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.shared.tasks
    }

    /// Whether no other server is at the store.
    pub(crate) fn is_sole(&self) -> bool {
        self.shared.sole
    }

    /// What is kept for libSQL clients.
    pub(crate) fn engine(&self) -> &libsql::Engine {
        &self.engine
    }

    /// What all databases share for libSQL clients.
    pub(crate) fn libsql(&self) -> &libsql::Settings {
        &self.shared.libsql
    }

    pub(crate) fn housekeeper(&self) -> &Housekeeper {
        &self.shared.housekeeper
    }
}

/// Somebody watches a database.
#[derive(Debug)]
pub(crate) struct Watching {
    newest: watch::Receiver<Lsn>,
    database: Arc<Database>,
}

impl Watching {
    /// Returns once a position beyond `after` is known, with the newest.
    pub(crate) async fn beyond(&mut self, after: Lsn) -> Lsn {
        let newest = self.newest.wait_for(|lsn| *lsn > after).await.map(|lsn| *lsn);
        match newest {
            Ok(lsn) => lsn,
            // The sender lives as long as the database, which this holds.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.database.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}
