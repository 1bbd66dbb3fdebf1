//! The time limit: a moment that SQLite's progress handler compares with the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::limits::OPS_PER_LOOK;

/// Runs until a moment. Shared with the progress handler of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    zero: Instant,
    /// Nanoseconds since `zero`; `u64::MAX` is never.
    until: AtomicU64,
    reached: AtomicBool,
}

impl Clock {
    /// A clock that does not run, looked at by `conn`.
    pub(crate) fn install(conn: &mut Connection) -> rusqlite::Result<Self> {
        let clock = Clock(Arc::new(Shared {
            zero: Instant::now(),
            until: AtomicU64::new(u64::MAX),
            reached: AtomicBool::new(false),
        }));
        let seen = clock.clone();
        conn.progress_handler(OPS_PER_LOOK, Some(move || seen.is_reached()))?;
        Ok(clock)
    }

    /// Whether the moment has come; noted for [`was_reached`](Self::was_reached).
    pub(crate) fn is_reached(&self) -> bool {
        let until = self.0.until.load(Ordering::Relaxed);
        if until == u64::MAX || nanos(self.0.zero.elapsed()) < until {
            return false;
        }
        self.0.reached.store(true, Ordering::Relaxed);
        true
    }

    /// From now on, until `until`.
    pub(crate) fn start(&self, until: Instant) {
        self.0.reached.store(false, Ordering::Relaxed);
        let until = nanos(until.saturating_duration_since(self.0.zero));
        self.0.until.store(until, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self) {
        self.0.until.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether it stopped something since it was started.
    pub(crate) fn was_reached(&self) -> bool {
        self.0.reached.load(Ordering::Relaxed)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1)
}
