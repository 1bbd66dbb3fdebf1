//! How callers learn how far a long step is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Looking through the local file.
    Scanning,
    /// Sending to the remote.
    Uploading,
    /// Fetching from the remote.
    Downloading,
    /// Bringing what was fetched into page order.
    Merging,
    /// Writing to the local file.
    Applying,
    /// Writing a new file.
    Writing,
    /// Building a snapshot.
    Snapshot,
    /// Reading back and comparing.
    Verifying,
    /// Deleting what is not needed any more.
    Deleting,
}

impl Step {
    /// The step in a word, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Scanning => "scanning",
            Step::Uploading => "uploading",
            Step::Downloading => "downloading",
            Step::Merging => "merging",
            Step::Applying => "applying",
            Step::Writing => "writing",
            Step::Snapshot => "snapshot",
            Step::Verifying => "verifying",
            Step::Deleting => "deleting",
        }
    }
}

/// How far a step is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressEvent {
    /// What is being done.
    pub step: Step,
    /// Bytes done so far.
    pub done: u64,
    /// Bytes in all, if known.
    pub total: Option<u64>,
}

/// Told about each bit of progress; cheap to clone, may be called from any thread.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(ProgressEvent) + Send + Sync>);

impl Progress {
    /// Reports to `told`.
    pub fn new(told: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Self {
        Progress(Arc::new(told))
    }

    /// Reports to nobody.
    #[must_use]
    pub fn none() -> Self {
        Progress(Arc::new(|_| ()))
    }

    /// Reports one event.
    pub fn report(&self, event: ProgressEvent) {
        (self.0)(event);
    }

    /// A counter for one step of `total` bytes.
    #[must_use]
    pub fn step(&self, step: Step, total: Option<u64>) -> Counter {
        let counter =
            Counter { progress: self.clone(), step, total, done: Arc::new(AtomicU64::new(0)) };
        counter.add(0);
        counter
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress::none()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Adds up the bytes of one step, from any number of threads.
#[derive(Debug, Clone)]
pub struct Counter {
    progress: Progress,
    step: Step,
    total: Option<u64>,
    done: Arc<AtomicU64>,
}

impl Counter {
    /// `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.report(ProgressEvent { step: self.step, done, total: self.total });
    }

    /// How many bytes are done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}
