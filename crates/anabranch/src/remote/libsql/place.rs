//! A database on a libSQL server, as a place that may be published to.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_format::{DatabaseId, content_hash};
use anabranch_store::{Anchor, Named, Progress, StoreError};
use async_trait::async_trait;

use super::error::LibsqlError;
use super::inbox::split;
use super::remote::LibsqlRemote;
use super::spot::Spot;
use super::wire::{Pulled, Wire};
use super::{DATABASE_PREFIX, PAGE_SIZE};
use crate::adopt::{AdoptError, Adoptable, LastFrame};
use crate::error::Error;
use crate::remote::{Dialect, Opening, Place, Remote, ServerUrl, of_store};
use crate::transaction_hash::TransactionHash;

/// See the module.
pub(crate) struct LibsqlPlace {
    wire: Arc<Wire>,
    location: String,
    database: DatabaseId,
    folder: PathBuf,
    progress: Progress,
}

impl LibsqlPlace {
    /// The database at `url`. Asks nobody yet.
    pub(crate) fn new(url: ServerUrl, how: &Opening<'_>) -> Result<Self, StoreError> {
        let location = url.to_string();
        let wire = Wire::new(url, how.options).map_err(|e| e.at(&location))?;
        let database = database_at(&location);
        Ok(LibsqlPlace {
            wire: Arc::new(wire),
            location,
            database,
            folder: how.scratch.to_owned(),
            progress: how.options.progress.clone(),
        })
    }

    /// Whether the server speaks this dialect: the first request of its official clients, too.
    pub(crate) async fn is_spoken(&self) -> Result<bool, StoreError> {
        match self.wire.info().await {
            Ok(_) => Ok(true),
            Err(
                LibsqlError::Status { .. }
                | LibsqlError::Malformed { .. }
                | LibsqlError::NoDatabase { .. },
            ) => Ok(false),
            Err(e) => Err(e.at(&self.location)),
        }
    }

    /// Whether the database holds nothing at all.
    async fn is_empty(&self) -> Result<bool, LibsqlError> {
        let generation = self.wire.info().await?;
        let first = Spot { generation, frame: 1 };
        match self.wire.pull(first, 1).await? {
            Pulled::End { generation: now, .. } if now == generation => {
                self.wire.base_is_empty(generation).await
            }
            Pulled::End { .. } | Pulled::Frames(_) => Ok(false),
        }
    }
}

/// The id that this replica gives to the database at a URL: such a server has none of its own.
fn database_at(url: &str) -> DatabaseId {
    let hash = content_hash(url.as_bytes());
    format!("{DATABASE_PREFIX}{hash:016x}").parse().expect("letters, digits and a dash are an id")
}

/// Whether what the server has `at` is the frame `last`.
fn is_frame(frame: &[u8], at: Spot, last: LastFrame) -> Result<bool, LibsqlError> {
    let (header, page) = split(frame, at)?;
    let mut hash = TransactionHash::default();
    hash.frame(header.pgno, page);
    Ok(hash.ends(&last.hash.finish(last.size), header.commit_size) == Some(true))
}

#[async_trait]
impl Place for LibsqlPlace {
    fn location(&self) -> &str {
        &self.location
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Libsql)
    }

    fn new_database(&self) -> DatabaseId {
        self.database.clone()
    }

    fn page_size(&self) -> Option<anabranch_format::PageSize> {
        Some(PAGE_SIZE)
    }

    async fn find(&self) -> Result<Option<DatabaseId>, StoreError> {
        let empty = self.is_empty().await.map_err(|e| e.at(&self.location))?;
        Ok(Some(self.database.clone()).filter(|_| !empty))
    }

    async fn libsql_position(
        &self,
        at: Spot,
        last: Option<LastFrame>,
    ) -> Result<Result<Adoptable, AdoptError>, Error> {
        let failed = |e: LibsqlError| of_store(&self.location, e.at(&self.location));
        let push = match last {
            Some(last) => match self.wire.pull(at, 1).await {
                Ok(Pulled::Frames(frame)) => {
                    if !is_frame(&frame, at, last).map_err(failed)? {
                        return Ok(Err(AdoptError::OtherFrame { at }));
                    }
                    Some(last.hash.finish(last.size))
                }
                Ok(Pulled::End { .. }) => return Ok(Err(AdoptError::NoSuchPosition { at })),
                Err(e) => return Err(failed(e)),
            },
            None if self.wire.info().await.map_err(failed)? < at.generation => {
                return Ok(Err(AdoptError::NoSuchPosition { at }));
            }
            None => None,
        };
        Ok(Ok(Adoptable {
            database: self.database.clone(),
            dialect: Some(Dialect::Libsql),
            anchor: Anchor { first: at.lsn(), last: at.lsn(), push },
            stated: None,
        }))
    }

    async fn verify(&self) -> Result<(), StoreError> {
        // The server decides which of two pushes is first; there is nothing to try out.
        Ok(())
    }

    async fn claim(&self, _id: &DatabaseId) -> Result<Named, StoreError> {
        // There are no names. That nobody else published meanwhile is seen by the first push.
        Ok(Named::Created)
    }

    fn log(&self, id: &DatabaseId) -> Box<dyn Remote> {
        let (wire, folder) = (Arc::clone(&self.wire), self.folder.clone());
        Box::new(LibsqlRemote::new(wire, id.clone(), folder, self.progress.clone()))
    }

    async fn log_of(&self, id: &DatabaseId) -> Result<Box<dyn Remote>, Error> {
        // A database may move to another URL, but never from or to a log with positions of its own.
        if id.as_str().starts_with(DATABASE_PREFIX) {
            return Ok(self.log(id));
        }
        Err(Error::OtherDatabase {
            remote: self.location.clone(),
            found: self.database.to_string(),
            expected: id.to_string(),
        })
    }
}
