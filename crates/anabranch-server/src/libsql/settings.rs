//! What all databases of a server share for libSQL clients.

use std::path::PathBuf;
#[cfg(test)]
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anabranch_format::WriterId;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::Config;
use crate::entropy;
use crate::page_map::PageMaps;

/// Memory for the page checksums of all databases: those of 128 GiB of pages.
const PAGE_MAPS_BYTES_MAX: usize = 256 << 20;
/// Memory for the bodies of pushes that are under way at the same time: 256 MiB.
const BODIES_UNITS: usize = 4096;
const BODY_UNIT: u64 = 64 * 1024;

/// What all databases of a server share in this dialect.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Names this run of the server in batons.
    pub(crate) server: String,
    /// Under which URL others reach it.
    pub(crate) advertise: Option<String>,
    pub(crate) scratch: PathBuf,
    /// How long a push session may be idle.
    pub(crate) session_idle: Duration,
    pub(crate) started: Instant,
    /// Whether what has no place in the log is merged into it.
    pub(crate) heal: bool,
    /// Who appends what libSQL clients push.
    pub(crate) writer: WriterId,
    pub(crate) maps: PageMaps,
    /// Memory for bodies of pushes, in units of [`BODY_UNIT`].
    bodies: Semaphore,
    /// How far tests have moved the clock.
    #[cfg(test)]
    pub(crate) skipped: Mutex<Duration>,
}

impl Settings {
    /// The time at which a request came.
    pub(crate) fn now(&self) -> Instant {
        #[cfg(test)]
        {
            Instant::now() + *self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
        }
        #[cfg(not(test))]
        Instant::now()
    }

    /// As `config` has them; what it does not is drawn now.
    pub(crate) fn new(config: &Config) -> Self {
        Settings {
            server: entropy::session_id(),
            advertise: config.advertise.clone(),
            scratch: config.scratch.clone(),
            session_idle: config.limits.push_session,
            heal: config.heal,
            started: Instant::now(),
            writer: entropy::writer_id(),
            maps: PageMaps::new(PAGE_MAPS_BYTES_MAX),
            bodies: Semaphore::new(BODIES_UNITS),
            #[cfg(test)]
            skipped: Mutex::default(),
        }
    }

    /// Room in memory for a body of `bytes`; `None` if none came free within `wait`.
    pub(super) async fn room(&self, bytes: u64, wait: Duration) -> Option<SemaphorePermit<'_>> {
        // A single body that is larger than all may be has everything to itself.
        let units = bytes.div_ceil(BODY_UNIT).min(BODIES_UNITS as u64);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        tokio::time::timeout(wait, self.bodies.acquire_many(units)).await.ok()?.ok()
    }
}
