//! Memory for bodies and messages with SQL.
//!
//! Small ones are free: what is longer takes its length from what all together may have, until it is
//! done. So many clients that send much at once wait for one another instead of filling the memory. A
//! value that was read takes a small multiple of its text.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies up to this length are free.
pub(super) const FREE_BYTES: u64 = 256 << 10;
/// Memory for all others together: 256 MiB, in units.
const UNITS: u32 = 4096;
const UNIT_BYTES: u64 = 64 << 10;

/// Memory for bodies and messages.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// A part of it, while somebody has it.
pub(super) type Part = Option<OwnedSemaphorePermit>;

impl Room {
    pub(super) fn new() -> Self {
        Room(Arc::new(Semaphore::new(UNITS as usize)))
    }

    /// Room for `bytes`; `None` if none came free within `wait`.
    pub(super) async fn take(&self, bytes: u64, wait: Duration) -> Option<Part> {
        if bytes <= FREE_BYTES {
            return Some(None);
        }
        // A single body that is larger than all may be has everything to itself.
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(UNITS).min(UNITS);
        let taken = Arc::clone(&self.0).acquire_many_owned(units);
        tokio::time::timeout(wait, taken).await.ok()?.ok().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_bodies_are_free_and_large_ones_wait() {
        let room = Room::new();
        let all = room.take(u64::MAX, Duration::ZERO).await.unwrap();
        assert!(all.is_some());
        assert!(room.take(FREE_BYTES, Duration::ZERO).await.unwrap().is_none());
        assert!(room.take(FREE_BYTES + 1, Duration::ZERO).await.is_none());
        drop(all);
        assert!(room.take(FREE_BYTES + 1, Duration::ZERO).await.unwrap().is_some());
    }
}
