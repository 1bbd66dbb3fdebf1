//! Watching: keeps a replica in step for as long as it runs.
//!
//! Data flow: the operating system tells of writes beside the file; a task then *looks*
//! ([`Watcher`]), which notes the pages that were written; if the file is not as its base any more,
//! the replica is synced. The remote tells of news, or is asked ([`Probing`]); then the replica is
//! synced, too. It is the same sync as on the command line, under the same lock, which is free in
//! between; only the way to the remote and what the watcher saw are kept from one to the next.
//!
//! A notice comes with a write to the `-wal`, but a commit counts only once the writer has told so in
//! shared memory, which no notification tells of. So a notice is followed by a few looks, ever
//! further apart, for some seconds. Without any notice there is a look each [`LOOK_ANYWAY`], for file
//! systems that send none.
//!
//! A remote that is away is tried again and again; local changes wait in the file, and the `-wal` is
//! not held by them. Where both sides changed and somebody must decide, it is tried again once
//! something is written here. It ends by itself only where no repetition can help.
//!
//! Killed at any point, the next operation recovers as from any sync: nothing else is written.
//! Memory: two bits for each page, and what a sync takes.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_format::{Lsn, content_hash};
use anabranch_sqlite::Watcher;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind};
use crate::keep::{Keep, Seen};
use crate::notice::Notice;
use crate::remote;
use crate::replica::{Replica, blocking};
use crate::report::{Note, Pulled, Pushed, Rebased, SyncReport};
use crate::waiting::{Pauses, Probing};

/// How soon after a notice the file is looked at; doubled with each further look.
const LOOK_FIRST: Duration = Duration::from_millis(1);
/// The last of the looks that follow a notice comes so long after the one before.
const LOOK_LAST: Duration = Duration::from_secs(2);
/// How often the file is looked at without any notice.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

/// How soon a sync that could not be is tried again; the longest pause is that of the remote.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Settings of [`Replica::watch`].
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// At most how far apart a remote that cannot tell of news is asked for it; zero: never, then
    /// news is found when something is pushed. `None`: a folder each 2 s, anything else each 30 s.
    pub interval: Option<Duration>,
    /// How long to wait for more after a local change.
    pub debounce: Duration,
    /// How long the last sync, after it was told to stop, may take.
    pub finish_within: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        WatchOptions {
            interval: None,
            debounce: Duration::ZERO,
            finish_within: Duration::from_secs(10),
        }
    }
}

/// Something that happened while a replica was watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
#[non_exhaustive]
pub enum WatchEvent {
    /// File and remote are in step for the first time; from now on they are kept so.
    Watching {
        /// Where.
        position: Lsn,
    },
    /// Something was fetched or sent.
    Synced {
        /// What was fetched.
        pulled: Option<Pulled>,
        /// What became of local changes, if both sides had changed.
        rebased: Option<Rebased>,
        /// What was sent.
        pushed: Option<Pushed>,
        /// Position now.
        position: Lsn,
        /// How long it took, in milliseconds.
        ms: u64,
        /// What else happened.
        notes: Vec<Note>,
    },
    /// The remote cannot be reached; it is tried again until it can.
    Offline {
        /// Why.
        reason: String,
        /// Local changes that wait to be pushed, in pages.
        pages_to_push: u64,
    },
    /// The remote can be reached again, and everything is in step.
    Online {
        /// Where.
        position: Lsn,
    },
    /// Both sides changed, and somebody must decide. Tried again after each local change.
    Diverged {
        /// What is to be decided, and how.
        reason: String,
    },
    /// Another program holds the file or the replica; it is tried again until it is free.
    Busy {
        /// What is held.
        reason: String,
    },
}

/// How things stood when a watch was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WatchState {
    /// Everything that was committed before is at the remote.
    InStep,
    /// Local changes wait: there was no time to push them.
    Behind,
    /// The remote could not be reached.
    Offline,
    /// Both sides had changed, and somebody must decide.
    Diverged,
    /// Another program held the file or the replica.
    Busy,
}

/// How a watch ended that was told to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WatchReport {
    /// How things stood.
    pub state: WatchState,
    /// How often what was written to the file could not be told by watching it.
    pub breaks: u64,
}

impl Replica {
    /// Keeps the file and its remote in step until `stop` resolves, or until an error that no
    /// repetition can mend. `on_event` is told what happens. Then ends once the operation under way
    /// has, after a last sync of what is committed.
    ///
    /// Other operations on the replica, in this program or another, may go on at the same time.
    pub async fn watch(
        &self,
        options: &WatchOptions,
        stop: impl Future<Output = ()>,
        on_event: impl FnMut(WatchEvent),
    ) -> Result<WatchReport, Error> {
        let (file, busy) = (self.file().to_owned(), self.options().busy_timeout);
        let watcher = blocking(move || Ok(Watcher::open(&file, busy)?)).await?;
        let looks = Looks::start(watcher);
        let keep = Arc::clone(&looks.keep);
        let mut watching = Watching {
            replica: self.keeping(Arc::clone(&keep)),
            looks,
            options: options.clone(),
            on_event,
            begun: false,
            trouble: Trouble::None,
            probing: remote::probing_of(self.remote()),
            pauses: Probing::REMOTE.pauses(),
            idle: None,
        };
        let ended = watching.run(stop).await;
        drop(watching);
        // The last to close the file may have much to copy.
        let _ = tokio::task::spawn_blocking(move || drop(keep)).await;
        ended
    }
}

/// A replica that stays open between operations: the file is watched, as by [`Replica::watch`], and the
/// way to the remote is kept. A sync with nothing to do is then one request and a look. Nothing is
/// synced by itself. All operations of [`Replica`] are there; other programs may run theirs, too.
#[derive(Debug)]
pub struct Held {
    replica: Replica,
    _looks: Looks,
}

impl Replica {
    /// Keeps the replica open, until the answer is dropped.
    pub async fn hold(&self) -> Result<Held, Error> {
        let (file, busy) = (self.file().to_owned(), self.options().busy_timeout);
        let watcher = blocking(move || Ok(Watcher::open(&file, busy)?)).await?;
        let looks = Looks::start(watcher);
        Ok(Held { replica: self.keeping(Arc::clone(&looks.keep)), _looks: looks })
    }
}

impl std::ops::Deref for Held {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

/// The task that looks, and what it tells.
#[derive(Debug)]
struct Looks {
    keep: Arc<Keep>,
    told: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Looks {
    fn start(watcher: Watcher) -> Self {
        let (path, wal) = (watcher.path().to_owned(), watcher.wal_path().to_owned());
        let directory = path.parent().map(ToOwned::to_owned);
        // Writes to the database come with checkpoints, after which the pin should move on.
        let notice = directory.and_then(|d| Notice::of_files(&d, vec![path, wal]));
        let keep = Arc::new(Keep::new(watcher));
        let (tell, told) = watch::channel(());
        let task = tokio::spawn(look_again_and_again(Arc::clone(&keep), notice, tell));
        Looks { keep, told, task }
    }

    /// Returns once what was seen is as `wanted`.
    async fn until(&mut self, wanted: impl Fn(Seen) -> bool) {
        loop {
            self.told.mark_unchanged();
            if wanted(self.keep.seen()) {
                return;
            }
            if self.told.changed().await.is_err() {
                // The task is gone: it panicked. The next sync finds out whether the file is usable.
                tokio::time::sleep(LOOK_ANYWAY).await;
                return;
            }
        }
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look_again_and_again(keep: Arc<Keep>, notice: Option<Notice>, tell: watch::Sender<()>) {
    let mut pause = LOOK_FIRST;
    loop {
        let looking = Arc::clone(&keep);
        match blocking(move || Ok(looking.look()?)).await {
            Ok(_) => tell.send_replace(()),
            // Somebody holds the file just now; the pin is where it was.
            Err(error) => tracing::debug!(%error, "looking at the file failed"),
        }
        let wait = if pause <= LOOK_LAST { pause } else { LOOK_ANYWAY };
        tokio::select! {
            () = tokio::time::sleep(wait) => pause = (pause * 2).min(LOOK_LAST * 2),
            () = noticed(notice.as_ref()) => {
                pause = LOOK_FIRST;
                // What is being written needs a moment to become a commit.
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn noticed(notice: Option<&Notice>) {
    match notice {
        Some(notice) => notice.noticed().await,
        None => std::future::pending().await,
    }
}

/// Why the last sync was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Offline,
    Busy,
    /// The hash of the reason.
    Diverged(u64),
}

/// What to wait for before the next sync.
enum Next {
    /// For anything new.
    News,
    /// Some time.
    Retry,
    /// For something written here after this was seen, and some time.
    Change(Seen),
}

struct Watching<F> {
    replica: Replica,
    looks: Looks,
    options: WatchOptions,
    on_event: F,
    /// File and remote have been in step.
    begun: bool,
    trouble: Trouble,
    /// How often the remote is asked unless the user says otherwise.
    probing: Probing,
    /// The pauses before what failed is tried again.
    pauses: Pauses,
    /// The pauses after a local change, if the last sync found nothing to do: it was none, or the
    /// file keeps looking changed for a reason that looking will not find.
    idle: Option<Pauses>,
}

impl<F: FnMut(WatchEvent)> Watching<F> {
    async fn run(&mut self, stop: impl Future<Output = ()>) -> Result<WatchReport, Error> {
        tokio::pin!(stop);
        loop {
            let (outcome, stopped) = self.sync_unless_cut_off(&mut stop).await;
            let Some((outcome, took)) = outcome else { return Ok(self.report()) };
            let next = self.judge(outcome, took)?;
            if stopped {
                return Ok(self.report());
            }
            tokio::select! {
                biased;
                () = &mut stop => return self.finish().await,
                () = self.wait(next) => {}
            }
        }
    }

    /// Syncs. One that is under way when it is told to stop may come to its end; `None` if that
    /// took too long. Answers also whether it was told to stop.
    async fn sync_unless_cut_off(
        &self,
        stop: &mut (impl Future<Output = ()> + Unpin),
    ) -> (Option<(Result<SyncReport, Error>, Duration)>, bool) {
        let replica = self.replica.clone();
        let mut sync = Box::pin(async move {
            let began = Instant::now();
            (replica.sync().await, began.elapsed())
        });
        tokio::select! {
            biased;
            ended = &mut sync => (Some(ended), false),
            () = stop => {
                (tokio::time::timeout(self.options.finish_within, sync).await.ok(), true)
            }
        }
    }

    /// What was committed before it was told to stop goes out, if that is possible soon.
    async fn finish(&mut self) -> Result<WatchReport, Error> {
        let keep = Arc::clone(&self.looks.keep);
        let seen = blocking(move || Ok(keep.look()?)).await?;
        if !seen.in_step {
            let (outcome, _) = self.sync_unless_cut_off(&mut std::future::ready(())).await;
            if let Some((outcome, took)) = outcome {
                self.judge(outcome, took)?;
            }
        }
        Ok(self.report())
    }

    fn report(&self) -> WatchReport {
        let keep = &self.looks.keep;
        let state = match self.trouble {
            Trouble::Offline => WatchState::Offline,
            Trouble::Diverged(_) => WatchState::Diverged,
            Trouble::Busy => WatchState::Busy,
            Trouble::None if keep.seen().in_step => WatchState::InStep,
            Trouble::None => WatchState::Behind,
        };
        WatchReport { state, breaks: keep.counts().breaks }
    }

    /// Tells of what a sync led to, and decides what to wait for; fails if nothing can help.
    fn judge(&mut self, outcome: Result<SyncReport, Error>, took: Duration) -> Result<Next, Error> {
        let error = match outcome {
            Ok(report) => match &report.offline {
                None => {
                    self.synced(report, took);
                    return Ok(Next::News);
                }
                Some(offline) => {
                    let (reason, pages_to_push) = (offline.reason.clone(), offline.pages_to_push);
                    let event = WatchEvent::Offline { reason, pages_to_push };
                    return Ok(self.troubled(Trouble::Offline, event, Next::Retry));
                }
            },
            Err(error) => error,
        };
        let seen = self.looks.keep.seen();
        match error {
            e if e.kind() == ErrorKind::Diverged => {
                let reason = anabranch_store::causes(&e);
                let trouble = Trouble::Diverged(content_hash(reason.as_bytes()));
                let event = WatchEvent::Diverged { reason };
                Ok(self.troubled(trouble, event, Next::Change(seen)))
            }
            e if e.is_offline() => {
                let event =
                    WatchEvent::Offline { reason: anabranch_store::causes(&e), pages_to_push: 0 };
                Ok(self.troubled(Trouble::Offline, event, Next::Retry))
            }
            e if is_busy(&e) => {
                let event = WatchEvent::Busy { reason: anabranch_store::causes(&e) };
                Ok(self.troubled(Trouble::Busy, event, Next::Retry))
            }
            e => Err(e),
        }
    }

    /// Each trouble is told once.
    fn troubled(&mut self, trouble: Trouble, event: WatchEvent, next: Next) -> Next {
        self.looks.keep.keep_remote(None);
        if self.trouble != trouble {
            self.trouble = trouble;
            self.pauses = Probing { first: RETRY_FIRST, ..self.probing }.pauses();
            (self.on_event)(event);
        }
        next
    }

    fn synced(&mut self, report: SyncReport, took: Duration) {
        let SyncReport { pulled, rebased, pushed, position, notes, .. } = report;
        let was = std::mem::replace(&mut self.trouble, Trouble::None);
        if pulled.is_some() || pushed.is_some() {
            self.idle = None;
        } else {
            let idle = Probing { first: LOOK_FIRST, max: self.probing.max };
            self.idle.get_or_insert_with(|| idle.pauses());
        }
        if pulled.is_some() || pushed.is_some() || !notes.is_empty() {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let event = WatchEvent::Synced { pulled, rebased, pushed, position, ms, notes };
            (self.on_event)(event);
        }
        if !std::mem::replace(&mut self.begun, true) {
            (self.on_event)(WatchEvent::Watching { position });
        } else if was == Trouble::Offline {
            (self.on_event)(WatchEvent::Online { position });
        }
    }

    async fn wait(&mut self, next: Next) {
        match next {
            Next::News => self.wait_for_news().await,
            Next::Retry => tokio::time::sleep(self.pauses.next()).await,
            Next::Change(then) => {
                self.looks.until(|seen| seen.version != then.version).await;
                tokio::time::sleep(self.pauses.next()).await;
            }
        }
    }

    async fn wait_for_news(&mut self) {
        let Watching { looks, options, pauses, idle, .. } = self;
        let keep = Arc::clone(&looks.keep);
        let usual = self.probing;
        let probing = options.interval.map_or(usual, |interval| usual.at_most(interval));
        let remote_moved = async {
            let Some((remote, known)) = keep.known() else { return };
            match remote.wait_beyond(&known, &probing).await {
                Ok(()) => *pauses = usual.pauses(),
                Err(error) => {
                    // The sync that follows tells of it, if it is still so.
                    tracing::debug!(%error, "waiting for the remote failed");
                    tokio::time::sleep(pauses.next()).await;
                }
            }
        };
        tokio::select! {
            () = looks.until(|seen| !seen.in_step) => {
                let idle = idle.as_mut().map_or(Duration::ZERO, Pauses::next);
                tokio::time::sleep(options.debounce.max(idle)).await;
            }
            () = remote_moved => {}
        }
    }
}

/// Whether something is held by another program, so that trying again can help.
fn is_busy(error: &Error) -> bool {
    match error {
        Error::File(e) => e.is_busy(),
        e => e.kind() == ErrorKind::Busy,
    }
}
