//! Fetching (in progress).
use anabranch_format::*;
use crate::{error::StoreError, head::Head, history::Position, log::Log, progress::Progress};
/// A push that is part of what was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Who pushed.
    pub writer: WriterId,
    /// The push.
    pub push: PushId,
    /// The position after it.
    pub lsn: Lsn,
}
/// What was fetched.
pub struct Fetched {
    /// Where the change starts; `None`: the whole database, whatever there was before.
    pub from: Option<Lsn>,
    /// Where it leads.
    pub to: Lsn,
    /// Page size.
    pub page_size: PageSize,
    /// Database size in pages before (0 for a whole database) and after.
    pub pages: (u32, u32),
    /// Database checksum before and after.
    pub sum: (DbChecksum, DbChecksum),
    /// The pushes in it, oldest first; of a range that was compacted the newest of each writer.
    pub pushes: Vec<Pushed>,
    /// Bytes of the objects that were read.
    pub bytes: u64,
}
impl Fetched {
    /// The pages.
    pub fn into_pages(self) -> Result<Box<dyn PageSource + Send>, StoreError> { Err(StoreError::Interrupted) }
}
impl Log {
    /// Fetches.
    pub async fn fetch(&self, from: Lsn, to: &Head, progress: &Progress) -> Result<Fetched, StoreError> {
        self.fetch_position(from, &to.position(), progress).await
    }
    /// Fetches.
    pub async fn fetch_position(&self, _from: Lsn, _to: &Position, _progress: &Progress) -> Result<Fetched, StoreError> {
        Err(StoreError::Interrupted)
    }
    /// Last push of a writer.
    pub async fn last_push(&self, _writer: &WriterId) -> Result<Option<(PushId, Lsn)>, StoreError> { Err(StoreError::Interrupted) }
}
