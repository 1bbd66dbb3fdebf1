//! History (in progress).
use anabranch_format::*;
use crate::{error::StoreError, log::Log, head::Head};
/// Clocks that differ by no more than this (5 minutes) are taken to agree.
pub const CLOCK_TOLERANCE: Micros = Micros(5 * 60 * 1_000_000);
/// One segment of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the segment says of itself.
    pub metadata: Metadata,
    /// When the store received it.
    pub modified: Micros,
    /// Bytes of its object.
    pub bytes: u64,
    /// Set if the time in the segment and the time at which the store received it disagree.
    pub clock_gap: Option<ClockGap>,
}
/// A writer's clock and the store's that disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockGap {
    /// The time in the log.
    pub logged: Micros,
    /// When the store received the object.
    pub received: Micros,
}
/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest state.
    Head,
    /// The newest state at or before this position.
    Lsn(Lsn),
    /// The newest state at or before this time.
    Time(Micros),
}
/// A state of the database in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The position, the end of a segment (0: the empty database).
    pub lsn: Lsn,
    /// The segment that ends there; `None` at 0.
    pub metadata: Option<Metadata>,
    /// When the store received that segment.
    pub modified: Option<Micros>,
    /// Set if the time in the log and the time of the store disagree there.
    pub clock_gap: Option<ClockGap>,
}
impl Head {
    /// The head as a position to fetch.
    #[must_use]
    pub fn position(&self) -> Position { Position { lsn: self.anchor.last, metadata: self.newest.clone(), modified: self.modified, clock_gap: None } }
    /// The head after `won`, which was appended right after this one.
    #[must_use]
    pub fn after(&self, won: Metadata) -> Head { Head { anchor: crate::head::Anchor::of(&won), newest: Some(won), modified: None, floor: self.floor } }
}
impl Log {
    /// The newest `limit` segments, newest first.
    pub async fn history(&self, _limit: usize) -> Result<Vec<Entry>, StoreError> { Err(StoreError::Interrupted) }
    /// The state that `at` means.
    pub async fn position_at(&self, _at: At) -> Result<Position, StoreError> { Err(StoreError::Interrupted) }
}
