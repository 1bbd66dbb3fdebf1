//! Compaction (in progress).
use anabranch_format::*;
use std::time::Duration;
use crate::{error::StoreError, log::Log, progress::Progress, };
/// What a compaction did.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct CompactReport {
    /// Deltas that were made, each over a range of segments.
    pub deltas: u64,
    /// The snapshot that was made, if one was.
    pub snapshot: Option<Lsn>,
    /// The oldest position that is kept now.
    pub floor: Lsn,
    /// Objects that were deleted.
    pub objects_deleted: u64,
    /// Bytes of the objects that were deleted.
    pub bytes_deleted: u64,
}
impl Log {
    /// Compacts.
    pub async fn compact(&self, _now: Micros, _retain: Duration, _progress: &Progress) -> Result<CompactReport, StoreError> { Err(StoreError::Interrupted) }
    /// Compacts if it is time; for whoever has just appended `won`. Failures are only logged.
    pub async fn maybe_compact(&self, _won: &Metadata, _now: Micros, _retain: Duration, _progress: &Progress) -> Option<CompactReport> { None }
}
