//! The databases of a server: opened when first asked for, closed when nobody asked for a while.
//!
//! A database that is closed costs nothing, one that is open the end of its log. Names that lead to
//! no database are not remembered, so that asking for many of them costs no memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anabranch_format::DatabaseId;
use anabranch_store::{DatabaseName, Named, Root, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::database::{Database, Shared};

/// All databases of a server.
#[derive(Debug)]
pub(crate) struct Databases {
    root: Root,
    shared: Arc<Shared>,
    slots: Mutex<HashMap<DatabaseName, Arc<Slot>>>,
    requests_each: usize,
    started: Instant,
}

/// Where a database is, or will be.
#[derive(Debug)]
pub(crate) struct Slot {
    name: DatabaseName,
    open: tokio::sync::Mutex<Option<Arc<Database>>>,
    requests: Arc<Semaphore>,
    /// Milliseconds since the server started.
    last_used: AtomicU64,
}

impl Databases {
    pub(crate) fn new(root: Root, shared: Arc<Shared>, requests_each: usize) -> Self {
        let slots = Mutex::default();
        Databases { root, shared, slots, requests_each, started: Instant::now() }
    }

    /// What all databases share for libSQL clients.
    pub(crate) fn libsql(&self) -> &crate::libsql::Settings {
        &self.shared.libsql
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<DatabaseName, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The place of the database `name`, which need not exist.
    pub(crate) fn slot(&self, name: &DatabaseName) -> Arc<Slot> {
        let now = self.now();
        let mut slots = self.slots();
        let slot = slots.entry(name.clone()).or_insert_with(|| {
            Arc::new(Slot {
                name: name.clone(),
                open: tokio::sync::Mutex::new(None),
                requests: Arc::new(Semaphore::new(self.requests_each)),
                last_used: AtomicU64::new(now),
            })
        });
        slot.last_used.store(now, Ordering::Relaxed);
        Arc::clone(slot)
    }

    /// The database of `slot`, if there is one.
    pub(crate) async fn get(&self, slot: &Slot) -> Result<Option<Arc<Database>>, StoreError> {
        let mut open = slot.open.lock().await;
        if let Some(database) = open.as_ref().filter(|database| !database.is_stale()) {
            return Ok(Some(Arc::clone(database)));
        }
        *open = None;
        let Some(id) = self.root.find(&slot.name).await? else { return Ok(None) };
        Ok(Some(self.opened(slot, &mut open, &id)))
    }

    fn opened(
        &self,
        slot: &Slot,
        open: &mut Option<Arc<Database>>,
        id: &DatabaseId,
    ) -> Arc<Database> {
        let log = self.root.log(&slot.name, id);
        let database = Arc::new(Database::new(log, Arc::clone(&self.shared)));
        tracing::debug!(database = %slot.name, %id, "opened");
        Arc::clone(open.insert(database))
    }

    /// Gives the name of `slot` to the new database `id`. Answers the database that has it, and
    /// whether it is that one.
    pub(crate) async fn create(
        &self,
        slot: &Slot,
        id: &DatabaseId,
    ) -> Result<(Arc<Database>, bool), StoreError> {
        let mut open = slot.open.lock().await;
        let (id, created) = match self.root.name(&slot.name, id).await? {
            Named::Created => (id.clone(), true),
            Named::Taken(other) => (other, false),
        };
        if let Some(database) = open.as_ref().filter(|d| !d.is_stale() && *d.id() == id) {
            return Ok((Arc::clone(database), created));
        }
        Ok((self.opened(slot, &mut open, &id), created))
    }

    /// A request to `slot` is done: a place without a database is forgotten.
    pub(crate) fn done(&self, slot: Arc<Slot>) {
        let mut slots = self.slots();
        let empty = slot.open.try_lock().is_ok_and(|open| open.is_none());
        // The map and this one.
        if empty && Arc::strong_count(&slot) == 2 {
            slots.remove(&slot.name);
        }
    }

    /// Closes what nobody asked for since `idle` ago.
    pub(crate) fn close_idle(&self, idle: Duration) {
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let since = self.now().saturating_sub(idle);
        let mut slots = self.slots();
        slots.retain(|name, slot| {
            let busy = slot.last_used.load(Ordering::Relaxed) >= since
                || Arc::strong_count(slot) > 1
                || slot.open.try_lock().is_ok_and(|open| {
                    open.as_ref().is_some_and(|database| Arc::strong_count(database) > 1)
                });
            if !busy {
                tracing::debug!(database = %name, "closed");
            }
            busy
        });
        crate::metrics::open_databases(slots.len());
    }
}

impl Slot {
    pub(crate) fn name(&self) -> &DatabaseName {
        &self.name
    }

    /// A turn among the requests of this database; `None` if none came free within `wait`.
    pub(crate) async fn turn(&self, wait: Duration) -> Option<OwnedSemaphorePermit> {
        let requests = Arc::clone(&self.requests);
        tokio::time::timeout(wait, requests.acquire_owned()).await.ok()?.ok()
    }
}
