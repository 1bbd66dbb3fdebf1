//! The log of one database: what its parts share.
//!
//! The *floor* is the oldest position that the log still keeps. It is recorded by create-only
//! objects of which the highest counts, and written before anything below it is deleted. Whoever
//! finds a key absent, or creates one, knows nothing until it has read the floor *afterwards*: below
//! it keys are absent because they were deleted, and a key created there joins no log. The same
//! listing proves that the database is still where it was.

use std::path::PathBuf;

use anabranch_format::{DatabaseId, Kind, Lsn, Metadata};

use crate::collect::{check_follows, check_identity};
use crate::error::{Damage, StoreError};
use crate::folder;
use crate::keys::Keys;
use crate::name::DatabaseName;
use crate::objects::{Objects, Seen};
use crate::root::StoreKind;

/// A listing that finds nothing is repeated this often before the database counts as gone: a
/// floor may be replaced by a newer one while the listing is being made.
const FLOOR_LISTINGS: u32 = 3;

/// The log of one database. Cheap to clone; keeps no state between calls.
#[derive(Debug, Clone)]
pub struct Log {
    pub(crate) objects: Objects,
    pub(crate) keys: Keys,
    name: DatabaseName,
    database: DatabaseId,
}

impl Log {
    pub(crate) fn new(objects: Objects, name: DatabaseName, database: DatabaseId) -> Self {
        Log { keys: Keys::new(&database), objects, name, database }
    }

    /// The database whose log this is.
    #[must_use]
    pub fn database(&self) -> &DatabaseId {
        &self.database
    }

    /// The name under which it was found.
    #[must_use]
    pub fn name(&self) -> &DatabaseName {
        &self.name
    }

    /// Where the log lies, as people know it; credentials left out.
    #[must_use]
    pub fn location(&self) -> &str {
        self.objects.location()
    }

    /// On a folder: the directory below which everything of this database lies, so that it can be
    /// watched.
    #[must_use]
    pub fn directory(&self) -> Option<PathBuf> {
        match self.objects.kind() {
            StoreKind::Folder(root) => Some(folder::path_of(root, self.keys.all())),
            _ => None,
        }
    }

    /// The oldest position that is kept. Fails with [`StoreError::Gone`] if the database is not
    /// here, and with [`StoreError::Deleted`] if it never will be again.
    pub async fn floor(&self) -> Result<Lsn, StoreError> {
        for _ in 0..FLOOR_LISTINGS {
            let listed = self.objects.list(&self.keys.floors()).await?;
            match listed.iter().filter_map(|o| Keys::parse_floor(&o.key)).max() {
                Some(Lsn::MAX) => {
                    let location = self.location().to_owned();
                    return Err(StoreError::Deleted { location, database: self.database.clone() });
                }
                Some(floor) => return Ok(floor),
                None => self.objects.check_root().await?,
            }
        }
        Err(self.objects.gone(&format!("the database {} is not in it", self.database)))
    }

    /// Where temporary files of this log go.
    #[must_use]
    pub fn scratch(&self) -> &std::path::Path {
        self.objects.scratch()
    }

    pub(crate) fn below_floor(&self, at: Lsn, floor: Lsn) -> StoreError {
        StoreError::BelowFloor { location: self.location().to_owned(), at, floor }
    }

    pub(crate) fn contradiction(&self, key: &str, text: String) -> StoreError {
        self.objects.corrupt(key, Damage::Contradiction(text))
    }

    /// The metadata of the segment that begins at `first`; `None` if there is none.
    pub(crate) async fn segment(&self, first: Lsn) -> Result<Option<Seen>, StoreError> {
        let key = self.keys.segment(first);
        let Some(seen) = self.objects.metadata(&key).await? else { return Ok(None) };
        self.check_identity(&key, &seen.metadata, Kind::Segment)?;
        if seen.metadata.lsn.0 != first {
            let text = format!("it begins at {}, not where its name says", seen.metadata.lsn.0);
            return Err(self.contradiction(&key, text));
        }
        Ok(Some(seen))
    }

    /// An object must be what its place says, of this database.
    pub(crate) fn check_identity(
        &self,
        key: &str,
        metadata: &Metadata,
        kind: Kind,
    ) -> Result<(), StoreError> {
        check_identity(self.objects.context(), &self.database, key, metadata, kind)
    }

    /// What `next` says of the state before it must be what `before` says of the state after it.
    pub(crate) fn check_follows(
        &self,
        key: &str,
        before: Option<&Metadata>,
        next: &Metadata,
    ) -> Result<(), StoreError> {
        check_follows(self.objects.context(), key, before, next)
    }
}
