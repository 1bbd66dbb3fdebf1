//! SQL by clients that have no copy of the database: over HTTP and WebSocket.
//!
//! Statements run on a replica of the server's own, by stock SQLite. A write is acknowledged once its
//! frames are in the log, whose place in the log decides between all writers; reads see what is
//! acknowledged, and nothing else.
//!
//! | module | what it is |
//! |---|---|
//! | `serve` | the endpoints; errors and headers as these clients want them |
//! | `http`, `ws` | pipelines and cursors; WebSockets |
//! | `streams`, `baton` | streams between the requests of their clients, and the tickets for them |
//! | `texts`, `sink`, `room` | stored SQL; results of batches and cursors; memory for bodies |
//! | `stream`, `run` | a client's connection and its transaction; the statements of a request |
//! | `place` | who writes, group commit |
//! | `replica` | the file, in step with the log |

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use anabranch_format::Lsn;
use anabranch_hrana::Error;
use anabranch_sql::{Session, cap_process_memory, from_sqlite};
use anabranch_sqlite::{Published, ServedFile};
use anabranch_store::causes;

use crate::database::Database;

mod baton;
mod http;
mod place;
mod replica;
mod room;
mod run;
mod serve;
mod settings;
mod sink;
mod stream;
mod streams;
mod texts;
mod ws;

pub(crate) use serve::{
    Service, allow_origins, error_response, is_socket, needs_no_token, no_access, serve,
};
pub(crate) use settings::SqlSettings;

use place::Place;
use replica::{Fault, Replica, blocking};

/// What is open of a database for SQL.
#[derive(Debug)]
pub(crate) struct Sql {
    settings: Arc<SqlSettings>,
    place: Arc<tokio::sync::Mutex<Place>>,
    /// Those who wait for the place.
    waiting: AtomicUsize,
    append_is_due: AtomicBool,
    /// Where readers begin. Whoever empties the `-wal` holds it for writing.
    published: RwLock<Published>,
    /// The position of that state.
    at: AtomicU64,
    /// Connections from an earlier one are not used any more.
    epoch: AtomicU64,
    broken: AtomicBool,
    /// A transaction that stays open over requests has the place.
    open: tokio::sync::watch::Sender<bool>,
    path: PathBuf,
    /// Connections that no client has, with their epoch.
    idle: Mutex<Vec<(u64, Session)>>,
    /// When the log was looked at for what other servers appended.
    looked: Mutex<Instant>,
}

/// Connections that are kept for the next client. Making one costs as much as a few statements.
const IDLE_MAX: usize = 64;
/// So many of them keep the pages that they have read.
const IDLE_WITH_PAGES_MAX: usize = 8;

/// What SQLite may allocate in this process, all databases together: a statement that needs more fails.
const MEMORY_MAX: u64 = 4 << 30;

/// A read is no older than this, against what other servers have appended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a database keeps what is open of it for SQL.
#[derive(Debug, Default)]
pub(crate) struct SqlSlot {
    open: Mutex<Option<Arc<Sql>>>,
    /// Held while it is made.
    making: tokio::sync::Mutex<()>,
}

impl SqlSlot {
    /// What is open; made from the log if nothing is, or what is cannot be used any more.
    async fn get(&self, db: &Arc<Database>) -> Result<Arc<Sql>, Error> {
        if let Some(sql) = self.usable() {
            return Ok(sql);
        }
        let _making = self.making.lock().await;
        // Somebody else may have made it meanwhile.
        if let Some(sql) = self.usable() {
            return Ok(sql);
        }
        let sql = Sql::open(db).await.map_err(|fault| failed(&fault))?;
        *self.open() = Some(Arc::clone(&sql));
        Ok(sql)
    }

    fn open(&self) -> MutexGuard<'_, Option<Arc<Sql>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is open; what cannot be used any more is given up.
    fn usable(&self) -> Option<Arc<Sql>> {
        let mut open = self.open();
        let broken = open.take_if(|sql| sql.is_broken());
        let usable = open.clone();
        drop(open);
        drop(broken);
        usable
    }

    /// Whether anything is open for SQL.
    pub(crate) fn is_open(&self) -> bool {
        self.usable().is_some()
    }

    /// Returns once no transaction of a client is open, or `wait` is over.
    pub(crate) async fn closed_within(&self, wait: Duration) {
        let sql = self.open().clone();
        if let Some(sql) = sql {
            let mut open = sql.open.subscribe();
            let _ = tokio::time::timeout(wait, open.wait_for(|open| !open)).await;
        }
    }
}

impl Sql {
    async fn open(db: &Arc<Database>) -> Result<Arc<Self>, Fault> {
        let settings = Arc::clone(db.sql_settings());
        let path = settings.folder.new_file()?;
        let head = db.head().await?;
        let replica = Replica::make(db, head, &path).await?;
        let sql = Sql {
            settings,
            waiting: AtomicUsize::new(0),
            append_is_due: AtomicBool::new(false),
            published: RwLock::new(replica.published().clone()),
            at: AtomicU64::new(replica.head().lsn().get()),
            epoch: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            open: tokio::sync::watch::Sender::new(false),
            path,
            idle: Mutex::default(),
            looked: Mutex::new(Instant::now()),
            place: Arc::new(tokio::sync::Mutex::new(Place::new(replica))),
        };
        tracing::debug!(database = %db.name(), "a replica for SQL was made");
        Ok(Arc::new(sql))
    }

    /// The position up to which readers see the log.
    fn at(&self) -> Lsn {
        Lsn::new(self.at.load(Ordering::SeqCst))
    }

    /// Whether the log is known to go on.
    fn is_behind(&self, db: &Database) -> bool {
        db.known_head().is_some_and(|head| head.lsn() > self.at())
    }

    fn publish(&self, replica: &Replica) {
        *self.published_mut() = replica.published().clone();
        self.at.store(replica.head().lsn().get(), Ordering::SeqCst);
    }

    /// Begins a read transaction of `session` on the published state, or moves the one that is open
    /// there. `false` if it cannot be shown any more.
    fn begin(&self, session: &Session) -> rusqlite::Result<bool> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        session.unguarded(|conn| published.begin(conn))
    }

    /// A connection of `epoch`.
    async fn session(self: &Arc<Self>, epoch: u64) -> Result<Session, Error> {
        let kept = {
            let mut idle = self.idle();
            idle.retain(|(of, _)| *of == self.epoch());
            idle.pop()
        };
        if let Some((_, session)) = kept.filter(|(of, _)| *of == epoch) {
            return Ok(session);
        }
        let sql = Arc::clone(self);
        let made = blocking(move || {
            let session = Session::open(&sql.path, ServedFile::flags(), &sql.settings.session)?;
            session.unguarded(ServedFile::set_up).map_err(|e| from_sqlite(&e))?;
            // It applies to the whole process, and may be said again.
            let capped = session.unguarded(|conn| cap_process_memory(conn, MEMORY_MAX));
            capped.map_err(|e| from_sqlite(&e))?;
            Ok(session)
        });
        made.await.map_err(|fault| failed(&fault))?
    }

    /// Keeps a connection for the next client, if nothing of this one stays in it.
    fn recycle(&self, mut session: Session, epoch: u64) {
        if epoch != self.epoch() || self.is_broken() || !session.recycle() {
            return;
        }
        if self.idle().len() >= IDLE_WITH_PAGES_MAX
            && let Err(error) = session.unguarded(|conn| conn.execute_batch("PRAGMA shrink_memory"))
        {
            tracing::debug!(%error, "a connection keeps its memory");
        }
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push((epoch, session));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(u64, Session)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Looks for what other servers have appended, if nobody has for a while.
    async fn look_now_and_then(&self, db: &Database) {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if db.is_sole() || looked.elapsed() < LOOK_EVERY {
                return;
            }
            *looked = Instant::now();
        }
        if let Err(error) = db.head().await {
            tracing::warn!(database = %db.name(), error = causes(&error), "looking for what other servers appended failed");
        }
    }

    fn published_mut(&self) -> RwLockWriteGuard<'_, Published> {
        self.published.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are open now are not used once their transaction is over.
    fn new_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    fn set_broken(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    fn broken(&self) -> Error {
        busy("the server makes its replica of the database anew; try again")
    }
}

impl Drop for Sql {
    fn drop(&mut self) {
        // Connections may still have it open; their handles stay valid.
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(error) = ServedFile::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            // A large file takes its time.
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Somebody else is first; to be tried again.
fn busy(message: &str) -> Error {
    Error::new("SQLITE_BUSY", format!("SQLite error: database is locked: {message}"))
}

fn failed(e: &(dyn std::error::Error + 'static)) -> Error {
    let message = causes(e);
    tracing::warn!(error = message, "a statement could not be run");
    Error::new("SQLITE_IOERR", message)
}

#[cfg(test)]
mod tests;
