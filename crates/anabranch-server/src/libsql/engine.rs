//! What the server keeps of a database for libSQL clients. All of it is a cache: it can be made anew
//! from the log at any time, and nothing that was acknowledged rests on it.
//!
//! | kept | where | how much |
//! |---|---|---|
//! | frames of the current generation | a scratch file | at most what a generation may grow to: 65,536 frames, or twice the database's pages, and one push |
//! | frames of [`OLDER_MAX`] older generations that somebody asks for | scratch files | as above, each |
//! | the bases of [`EXPORTS_MAX`](super::export::EXPORTS_MAX) generations | scratch files | the database, each |
//! | frames of unfinished transactions | memory, then scratch files | [`KEPT_BYTES_MAX`](super::session::KEPT_BYTES_MAX) |
//! | frames of [`LINEAGES_MAX`](super::heal::LINEAGES_MAX) clients that were merged | scratch files | what they pushed, each |
//! | the database at the head, once something was merged | a scratch file | the database |
//! | checksums of all pages | memory | 8 bytes per page, within the bound for all databases |
//!
//! Scratch files have no names and go with the database, when it is closed or was idle.
//!
//! One lock orders everything that reads or moves this state. It is held for the length of a request
//! at most, never across requests; frames that are at hand are served without it. Requests work in
//! tasks of their own, so that a client that goes away leaves nothing half done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anabranch_format::{DB_HEADER_BYTES, DbChecksum, Lsn, Metadata, PageOne, content_hash};
use anabranch_store::{Head, Progress, Rollover, StoreError, causes, crash_point};
use futures::TryStreamExt;
use hyper::StatusCode;

use super::export::Exports;
use super::frame::PAGE_SIZE;
use super::generation::{FloorSeen, Generation, Past, Span};
use super::guard::Proofs;
use super::heal::Healing;
use super::load::{Loader, advance, gather};
use super::session::Sessions;
use crate::database::Database;
use crate::error::ApiError;
use crate::page_map::{Change, MapSlot, PageMap};

/// Older generations whose frames are kept at hand.
const OLDER_MAX: usize = 2;
/// Ranges of frames that nobody can have pulled yet; if there are more, the oldest count as pulled.
const UNPULLED_MAX: usize = 1024;

/// A server that serves frames says so this often, so that others know that they may have been
/// pulled.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(300);

/// Of one database.
#[derive(Debug)]
pub(crate) struct Engine {
    core: tokio::sync::Mutex<Core>,
    /// The newest generation, for requests that need no more.
    shown: RwLock<Option<Arc<Generation>>>,
    map: MapSlot,
    exports: Exports,
    /// Frames that this server appended, as ranges of first and last, and nobody can have pulled.
    unpulled: Mutex<Vec<(Lsn, Lsn)>>,
    /// The last frame that was served to anybody.
    served: AtomicU64,
    /// When this server last said that it serves frames of this database.
    announced: tokio::sync::Mutex<Option<Instant>>,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct Core {
    pub(super) current: Option<Arc<Generation>>,
    /// The one used last comes last.
    older: Vec<Arc<Generation>>,
    pub(super) past: Past,
    pub(super) sessions: Sessions,
    pub(super) proofs: Proofs,
    pub(super) healing: Healing,
    pub(super) schema: SchemaSeen,
    /// Size of the database in pages at the newest position that was seen.
    pub(super) size: u32,
    pub(super) floor: FloorSeen,
}

/// Page 1 as last seen in the frames: to tell when the schema changed and the cookie did not rise.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SchemaSeen(Option<(u32, u64)>);

impl SchemaSeen {
    /// The next image of page 1. Whether the tables changed and the cookie did not rise.
    pub(crate) fn page_one(&mut self, page: &[u8]) -> bool {
        let Ok(one) = PageOne::read(page) else { return false };
        let tables = content_hash(page.get(DB_HEADER_BYTES..).unwrap_or(&[]));
        let before = self.0.replace((one.schema_cookie, tables));
        before.is_some_and(|(cookie, old)| old != tables && one.schema_cookie <= cookie)
    }
}

/// A failure that the client should try again after; never an answer that means "end of generation".
pub(crate) fn unavailable(e: &StoreError) -> ApiError {
    let message = causes(e);
    if e.is_corrupt() {
        tracing::error!(error = %message, "the log is damaged");
    } else {
        tracing::warn!(error = %message, "the store failed");
    }
    match e {
        StoreError::Deleted { .. } => {
            ApiError::new(StatusCode::NOT_FOUND, "deleted", "the database was deleted")
        }
        _ => ApiError::busy(message),
    }
}

/// A scratch file could not be used.
pub(crate) fn scratch(e: &std::io::Error) -> ApiError {
    tracing::error!(error = %e, "a scratch file failed");
    ApiError::busy(format!("a temporary file of the server failed: {e}"))
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::busy("the server is stopping, or met a bug"))
}

impl Engine {
    pub(crate) fn new(started: Instant) -> Self {
        let core = Core {
            current: None,
            older: Vec::new(),
            past: Past::default(),
            sessions: Sessions::default(),
            proofs: Proofs::default(),
            healing: Healing::default(),
            schema: SchemaSeen::default(),
            size: 0,
            floor: FloorSeen::new(started),
        };
        Engine {
            core: tokio::sync::Mutex::new(core),
            shown: RwLock::default(),
            map: MapSlot::default(),
            exports: Exports::default(),
            unpulled: Mutex::default(),
            served: AtomicU64::new(0),
            announced: tokio::sync::Mutex::default(),
        }
    }

    pub(super) async fn core(&self) -> tokio::sync::MutexGuard<'_, Core> {
        self.core.lock().await
    }

    pub(super) fn exports(&self) -> &Exports {
        &self.exports
    }

    /// The newest generation that was seen, with the frames that are at hand.
    pub(super) fn shown(&self) -> Option<Arc<Generation>> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For who appends: a rollover is put off while a client is in the middle of a transaction.
    pub(crate) fn rollover_choice(&self, now: Instant, idle: Duration) -> Rollover {
        let Ok(mut core) = self.core.try_lock() else { return Rollover::Never };
        if core.sessions.expire_idle(now, idle) { Rollover::WhenDue } else { Rollover::Never }
    }

    /// Ends idle sessions, which gives up their scratch files.
    pub(crate) async fn expire_sessions(&self, now: Instant, idle: Duration) {
        self.core().await.sessions.expire_idle(now, idle);
    }

    /// This server has appended the segment that `metadata` describes.
    pub(crate) fn appended(&self, metadata: &Metadata) {
        let (first, last) = metadata.lsn;
        let mut unpulled = self.unpulled.lock().unwrap_or_else(PoisonError::into_inner);
        let served = Lsn::new(self.served.load(Ordering::SeqCst));
        unpulled.retain(|(_, last)| *last > served);
        match unpulled.last_mut() {
            Some((_, end)) if end.next() == Some(first) => *end = last,
            _ => unpulled.push((first, last)),
        }
        if unpulled.len() > UNPULLED_MAX {
            unpulled.remove(0);
        }
    }

    /// Frames up to `lsn` are about to be served.
    pub(super) async fn serving(
        &self,
        db: &Database,
        lsn: Lsn,
        now: Instant,
    ) -> Result<(), ApiError> {
        self.served.fetch_max(lsn.get(), Ordering::SeqCst);
        if db.is_sole() {
            return Ok(());
        }
        let mut announced = self.announced.lock().await;
        if announced.is_none_or(|at| now.saturating_duration_since(at) >= ANNOUNCE_EVERY) {
            let said = db.log().announce_serving(&db.libsql().server).await;
            said.map_err(|e| unavailable(&e))?;
            crash_point!("frames::announced");
            *announced = Some(now);
        }
        Ok(())
    }

    /// Whether another server may have served the frame at `lsn`, which this one has appended: each
    /// says from time to time, before it serves, that it does.
    pub(super) async fn others_may_have_served(
        &self,
        db: &Database,
        lsn: Lsn,
    ) -> Result<bool, ApiError> {
        if db.is_sole() {
            return Ok(false);
        }
        let serving = db.log().serving().await.map_err(|e| unavailable(&e))?;
        let mut others = serving.iter().filter(|(server, _)| *server != db.libsql().server);
        let position = db.log().segment_at(lsn).await.map_err(|e| unavailable(&e))?;
        let Some(appended) = position.modified else { return Ok(true) };
        let window = i64::try_from((ANNOUNCE_EVERY * 3).as_micros()).unwrap_or(i64::MAX);
        Ok(others.any(|(_, said)| said.0 >= appended.0.saturating_sub(window)))
    }

    /// Whether somebody may have pulled the frame at `lsn`: it was served, or is not known to be
    /// younger than this server's look at the log.
    pub(super) fn may_be_pulled(&self, lsn: Lsn) -> bool {
        if lsn.get() <= self.served.load(Ordering::SeqCst) {
            return true;
        }
        let unpulled = self.unpulled.lock().unwrap_or_else(PoisonError::into_inner);
        !unpulled.iter().any(|(first, last)| *first <= lsn && lsn <= *last)
    }

    /// Brings the current generation to `head`; its frames up to there are at hand then.
    pub(super) async fn follow(
        &self,
        db: &Database,
        core: &mut Core,
        head: &Head,
        now: Instant,
    ) -> Result<Arc<Generation>, ApiError> {
        check_page_size(head)?;
        core.floor.seen(head.floor, now);
        core.size = head.newest.as_ref().map_or(0, |newest| newest.pages.1);
        let span = Span::current(head);
        let current = match core.current.take() {
            // What is known is newer than the caller's head.
            Some(current) if current.span.number > span.number => current,
            Some(current) if current.span == span => current,
            older => {
                if let Some(older) = older.filter(|older| older.at() == span.base()) {
                    core.keep_older(older);
                }
                core.proofs.clear();
                let from = span.base().max(head.floor.min(head.lsn()));
                let scratch_dir = &db.libsql().scratch;
                Arc::new(Generation::new(span, from, scratch_dir).map_err(|e| scratch(&e))?)
            }
        };
        core.current = Some(Arc::clone(&current));
        if current.span == span && current.at() < head.lsn() {
            self.load(db, core, &current, head.lsn()).await?;
        }
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&current));
        Ok(current)
    }

    /// Loads frames of `generation` up to `to`, and moves the page map along if it stands there.
    async fn load(
        &self,
        db: &Database,
        core: &mut Core,
        generation: &Arc<Generation>,
        to: Lsn,
    ) -> Result<(), ApiError> {
        let maps = &db.libsql().maps;
        let map = maps.take(&self.map);
        let mut loader =
            Loader { generation: Some(Arc::clone(generation)), map, schema: core.schema };
        let mut segments = db.log().segments(generation.at(), to, &Progress::none());
        let mut outcome = Ok(());
        while let Some(segment) = segments.try_next().await.map_err(|e| unavailable(&e))? {
            (loader, outcome) = blocking(move || {
                let added = loader.add(segment);
                (loader, added)
            })
            .await?;
            if outcome.is_err() {
                break;
            }
        }
        core.schema = loader.schema;
        if let Some(map) = loader.map {
            maps.put(&self.map, map);
        }
        outcome
    }

    /// The frames of an older generation, up to its end.
    pub(super) async fn older(
        &self,
        db: &Database,
        core: &mut Core,
        (span, end): (Span, Lsn),
        floor: Lsn,
    ) -> Result<Arc<Generation>, ApiError> {
        if let Some(index) = core.older.iter().position(|older| older.span == span) {
            let older = core.older.remove(index);
            core.keep_older(Arc::clone(&older));
            return Ok(older);
        }
        let from = span.base().max(floor.min(end));
        let older = Generation::new(span, from, &db.libsql().scratch).map_err(|e| scratch(&e))?;
        let older = Arc::new(older);
        let mut loader = Loader {
            generation: Some(Arc::clone(&older)),
            map: None,
            schema: SchemaSeen::default(),
        };
        let mut segments = db.log().segments(from, end, &Progress::none());
        while let Some(segment) = segments.try_next().await.map_err(|e| unavailable(&e))? {
            let outcome;
            (loader, outcome) = blocking(move || {
                let added = loader.add(segment);
                (loader, added)
            })
            .await?;
            outcome?;
        }
        core.keep_older(Arc::clone(&older));
        Ok(older)
    }

    /// Takes out the page map, at the position of `head`.
    pub(super) async fn take_map(&self, db: &Database, head: &Head) -> Result<PageMap, ApiError> {
        let map = db.libsql().maps.take(&self.map);
        let stated = head.newest.as_ref().map(|newest| newest.sum.1).unwrap_or_default();
        if let Some(map) = map {
            let moved =
                if map.lsn() < head.lsn() { advance(db, map, head.lsn()).await } else { Ok(map) };
            match moved {
                Ok(map) if map.lsn() == head.lsn() && map.sum() == stated => return Ok(map),
                Ok(_) => {}
                Err(e) => tracing::debug!(error = %e.message, "gathering page checksums anew"),
            }
        }
        gather(db, head).await
    }

    /// Puts the page map back.
    pub(super) fn put_map(&self, db: &Database, map: PageMap) {
        db.libsql().maps.put(&self.map, map);
    }

    /// Whether the page checksums of the state at `lsn` are at hand.
    pub(crate) fn knows(&self, lsn: Lsn) -> bool {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.as_ref().is_some_and(|map| map.lsn() == lsn)
    }

    /// The database checksum after `change` on the state at `lsn`, if the checksums of its pages are
    /// at hand.
    pub(crate) fn sum_after(&self, lsn: Lsn, change: &Change) -> Option<DbChecksum> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.as_ref().filter(|map| map.lsn() == lsn).map(|map| map.sum_after(change))
    }
}

impl Core {
    fn keep_older(&mut self, generation: Arc<Generation>) {
        self.older.push(generation);
        if self.older.len() > OLDER_MAX {
            self.older.remove(0);
        }
    }

    /// An older generation that is at hand.
    pub(super) fn older_at_hand(&self, number: u32) -> Option<Arc<Generation>> {
        self.older.iter().find(|older| older.span.number == number).cloned()
    }
}

/// These clients know one page size.
pub(crate) fn check_page_size(head: &Head) -> Result<(), ApiError> {
    match head.newest.as_ref().map(|newest| newest.page_size) {
        Some(found) if found != PAGE_SIZE => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "page-size",
            format!(
                "this database has pages of {found} bytes; libSQL clients sync databases with pages \
                 of {PAGE_SIZE} bytes only. Use Anabranch's own replicas for it"
            ),
        )),
        _ => Ok(()),
    }
}
