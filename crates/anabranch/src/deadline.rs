//! Ends work in SQLite that takes too long.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anabranch_rebase::Interrupts;

use crate::error::Error;

/// How often statements are ended, once it is late: one that begins right after is ended, too.
const AGAIN: Duration = Duration::from_millis(5);

/// From a moment on, every statement of some connections fails; until it is dropped.
pub(crate) struct Deadline {
    _done: Sender<()>,
}

impl Deadline {
    /// Watches connections on a thread of its own.
    pub(crate) fn watch(at: Instant, connections: Interrupts) -> Result<Self, Error> {
        let (done, end) = channel();
        let watch = move || {
            let mut wait = at.saturating_duration_since(Instant::now());
            while end.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                connections.interrupt();
                wait = AGAIN;
            }
        };
        let thread = std::thread::Builder::new().name("anabranch-deadline".to_owned());
        thread.spawn(watch).map_err(|source| Error::Io {
            what: "starting a thread to watch",
            path: "the clock".into(),
            source,
        })?;
        Ok(Deadline { _done: done })
    }
}
