//! The same operations for programs without an async runtime.
//!
//! Each value owns a small runtime; do not use it from within another one.

use std::ffi::OsStr;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_rebase::{RowChange, Side};
use anabranch_store::{At, CompactReport};
use tokio::runtime::{Builder, Runtime};

use crate::conflicts::{Resolution, Setting};
use crate::error::Error;
use crate::journal::{ConflictEntry, ConflictFilter};
use crate::preview::{Differing, Preview};
use crate::replica::{Options, Repair};
use crate::report::{
    AdoptReport, CloneReport, HistoryEntry, InitReport, PullReport, PushReport, RepairReport,
    RestoreReport, Status, SyncReport, VerifyReport,
};

fn runtime() -> Result<Arc<Runtime>, Error> {
    // The caller's thread does what does not block. Another one would have to be woken twice for
    // each request, which takes as long as a server on the same machine.
    let built = Builder::new_current_thread().enable_all().build();
    built.map(Arc::new).map_err(|e| Error::Panicked(format!("no runtime: {e}")))
}

/// [`crate::Replica`] with calls that block.
#[derive(Debug, Clone)]
pub struct Replica {
    inner: crate::Replica,
    runtime: Arc<Runtime>,
}

impl Replica {
    fn with<T>(
        work: impl Future<Output = Result<(crate::Replica, T), Error>>,
    ) -> Result<(Self, T), Error> {
        let runtime = runtime()?;
        let (inner, report) = runtime.block_on(work)?;
        Ok((Replica { inner, runtime }, report))
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.runtime.block_on(work)
    }

    /// See [`crate::Replica::init`].
    pub fn init(
        file: &Path,
        remote: &OsStr,
        options: Options,
    ) -> Result<(Self, InitReport), Error> {
        Self::with(crate::Replica::init(file, remote, options))
    }

    /// See [`crate::Replica::init_new`].
    pub fn init_new(
        file: &Path,
        remote: &OsStr,
        options: Options,
    ) -> Result<(Self, InitReport), Error> {
        Self::with(crate::Replica::init_new(file, remote, options))
    }

    /// See [`crate::Replica::clone_from`].
    pub fn clone_from(
        remote: &OsStr,
        file: &Path,
        options: Options,
    ) -> Result<(Self, CloneReport), Error> {
        Self::with(crate::Replica::clone_from(remote, file, options))
    }

    /// See [`crate::Replica::adopt`].
    pub fn adopt(
        file: &Path,
        remote: &OsStr,
        options: Options,
    ) -> Result<(Self, AdoptReport), Error> {
        Self::with(crate::Replica::adopt(file, remote, options))
    }

    /// See [`crate::Replica::open`].
    pub fn open(file: &Path, options: Options) -> Result<Self, Error> {
        let opened = async { Ok((crate::Replica::open(file, options).await?, ())) };
        Ok(Self::with(opened)?.0)
    }

    /// The replica, for the calls that need no waiting.
    #[must_use]
    pub fn get(&self) -> &crate::Replica {
        &self.inner
    }

    /// See [`crate::Replica::set_remote`].
    pub fn set_remote(&mut self, remote: &OsStr, check: bool) -> Result<(), Error> {
        self.runtime.block_on(self.inner.set_remote(remote, check))
    }

    /// See [`crate::Replica::hold`].
    pub fn hold(&self) -> Result<Held, Error> {
        let inner = self.runtime.block_on(self.inner.hold())?;
        Ok(Held { inner, runtime: Arc::clone(&self.runtime) })
    }

    /// See [`crate::Replica::push`].
    pub fn push(&self) -> Result<PushReport, Error> {
        self.run(self.inner.push())
    }

    /// See [`crate::Replica::pull`].
    pub fn pull(&self) -> Result<PullReport, Error> {
        self.run(self.inner.pull())
    }

    /// See [`crate::Replica::sync`].
    pub fn sync(&self) -> Result<SyncReport, Error> {
        self.run(self.inner.sync())
    }

    /// See [`crate::Replica::status`].
    pub fn status(&self, tables: bool, ask_remote: bool) -> Result<Status, Error> {
        self.run(self.inner.status(tables, ask_remote))
    }

    /// See [`crate::Replica::verify`].
    pub fn verify(&self) -> Result<VerifyReport, Error> {
        self.run(self.inner.verify())
    }

    /// See [`crate::Replica::settings`].
    pub fn settings(&self) -> Result<Vec<Setting>, Error> {
        self.run(self.inner.settings())
    }

    /// See [`crate::Replica::setting`].
    pub fn setting(&self, key: &str) -> Result<Setting, Error> {
        self.run(self.inner.setting(key))
    }

    /// See [`crate::Replica::set`].
    pub fn set(&self, key: &str, value: Option<&str>) -> Result<Setting, Error> {
        self.run(self.inner.set(key, value))
    }

    /// See [`crate::Replica::conflicts`].
    pub fn conflicts(
        &self,
        filter: &ConflictFilter,
        each: impl FnMut(ConflictEntry) -> bool,
    ) -> Result<(), Error> {
        self.run(self.inner.conflicts(filter, each))
    }

    /// See [`crate::Replica::resolve_conflict`].
    pub fn resolve_conflict(&self, id: i64, take: Side) -> Result<Resolution, Error> {
        self.run(self.inner.resolve_conflict(id, take))
    }

    /// See [`crate::Replica::preview`].
    pub fn preview(&self) -> Result<Preview, Error> {
        self.run(self.inner.preview())
    }

    /// See [`crate::Replica::diff`].
    pub fn diff(&self, which: Differing, each: impl FnMut(RowChange) -> bool) -> Result<(), Error> {
        self.run(self.inner.diff(which, each))
    }

    /// See [`crate::Replica::repair`].
    pub fn repair(file: &Path, how: Repair, options: Options) -> Result<RepairReport, Error> {
        runtime()?.block_on(crate::Replica::repair(file, how, options))
    }
}

/// [`crate::RemoteLog`] with calls that block.
#[derive(Debug, Clone)]
pub struct RemoteLog {
    inner: crate::RemoteLog,
    runtime: Arc<Runtime>,
}

impl RemoteLog {
    /// See [`crate::RemoteLog::open`].
    pub fn open(remote: &OsStr, options: Options) -> Result<Self, Error> {
        let runtime = runtime()?;
        let inner = runtime.block_on(crate::RemoteLog::open(remote, options))?;
        Ok(RemoteLog { inner, runtime })
    }

    /// See [`crate::RemoteLog::history`].
    pub fn history(&self, count: usize) -> Result<Vec<HistoryEntry>, Error> {
        self.runtime.block_on(self.inner.history(count))
    }

    /// See [`crate::RemoteLog::restore`].
    pub fn restore(&self, file: &Path, at: At) -> Result<RestoreReport, Error> {
        self.runtime.block_on(self.inner.restore(file, at))
    }

    /// See [`crate::RemoteLog::compact`].
    pub fn compact(&self, retain: Duration) -> Result<CompactReport, Error> {
        self.runtime.block_on(self.inner.compact(retain))
    }
}

/// [`crate::Held`] with calls that block.
#[derive(Debug)]
pub struct Held {
    inner: crate::Held,
    runtime: Arc<Runtime>,
}

impl Held {
    /// See [`crate::Replica::push`].
    pub fn push(&self) -> Result<PushReport, Error> {
        self.runtime.block_on(self.inner.push())
    }

    /// See [`crate::Replica::pull`].
    pub fn pull(&self) -> Result<PullReport, Error> {
        self.runtime.block_on(self.inner.pull())
    }

    /// See [`crate::Replica::sync`].
    pub fn sync(&self) -> Result<SyncReport, Error> {
        self.runtime.block_on(self.inner.sync())
    }
}
