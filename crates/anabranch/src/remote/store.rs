//! Folders and buckets: the log lies there itself.

use std::time::Duration;

use anabranch_format::{DatabaseId, Lsn, Metadata, Micros, PushId, WriterId};
use anabranch_store::{
    Anchor, AppendError, Appended, At, Chain, CompactReport, DatabaseName, Entry, Fetched, Head,
    Location, Log, Named, NewSegment, Position, Progress, Root, StoreError, StoreOptions,
};
use async_trait::async_trait;

use super::{BaseAt, BasePages, Dialect, Opening, Place, RETAIN_DEFAULT, Remote, of_store};
use crate::error::Error;
use crate::notice::Notice;
use crate::waiting::{self, Probing};

/// A name in a folder or bucket.
pub(super) struct StorePlace {
    root: Root,
    location: String,
    name: DatabaseName,
}

impl StorePlace {
    pub(super) async fn open(
        location: Location,
        name: DatabaseName,
        how: &Opening<'_>,
    ) -> Result<Self, Error> {
        let settings = StoreOptions {
            endpoint: how.options.endpoint.clone(),
            ..StoreOptions::new(how.scratch)
        };
        let root = match how.create {
            true => Root::create(&location, &settings).await,
            false => Root::open(&location, &settings).await,
        };
        let location = location.to_string();
        match root {
            Ok(root) => Ok(StorePlace { root, location, name }),
            Err(e) => Err(of_store(&location, e)),
        }
    }
}

#[async_trait]
impl Place for StorePlace {
    fn location(&self) -> &str {
        &self.location
    }

    fn dialect(&self) -> Option<Dialect> {
        None
    }

    async fn find(&self) -> Result<Option<DatabaseId>, StoreError> {
        self.root.find(&self.name).await
    }

    async fn verify(&self) -> Result<(), StoreError> {
        self.root.verify_conditional_put().await
    }

    async fn claim(&self, id: &DatabaseId) -> Result<Named, StoreError> {
        self.root.name(&self.name, id).await
    }

    fn log(&self, id: &DatabaseId) -> Box<dyn Remote> {
        Box::new(self.root.log(&self.name, id))
    }

    async fn log_of(&self, id: &DatabaseId) -> Result<Box<dyn Remote>, Error> {
        let remote = self.location.clone();
        let found = self.root.find_even_deleted(&self.name).await;
        match found.map_err(|e| of_store(&remote, e))? {
            Some(found) if found == *id => Ok(self.log(id)),
            Some(found) => {
                let (found, expected) = (found.to_string(), id.to_string());
                Err(Error::OtherDatabase { remote, found, expected })
            }
            None => Err(Error::RemoteGone { remote }),
        }
    }
}

#[async_trait]
impl Remote for Log {
    fn dialect(&self) -> Option<Dialect> {
        None
    }

    async fn head(&self, known: &Anchor) -> Result<Head, StoreError> {
        Log::head(self, known).await
    }

    async fn fetch(
        &self,
        from: Lsn,
        to: &Head,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        Log::fetch(self, from, to, progress).await
    }

    async fn append(
        &self,
        head: &Head,
        new: NewSegment,
        progress: &Progress,
    ) -> Result<Appended, AppendError> {
        Log::append(self, head, new, progress).await
    }

    async fn at_key_after(&self, after: Lsn) -> Result<Option<Metadata>, StoreError> {
        Log::at_key_after(self, after).await
    }

    async fn last_push(&self, writer: &WriterId) -> Result<Option<(PushId, Lsn)>, StoreError> {
        Log::last_push(self, writer).await
    }

    async fn position_at(&self, at: At) -> Result<Position, StoreError> {
        Log::position_at(self, at).await
    }

    async fn fetch_whole(
        &self,
        position: &Position,
        progress: &Progress,
    ) -> Result<Fetched, StoreError> {
        Log::fetch_position(self, Lsn::ZERO, position, progress).await
    }

    async fn base_pages(
        &self,
        wanted: &BaseAt<'_>,
        progress: &Progress,
    ) -> Result<Option<BasePages>, StoreError> {
        let found =
            Log::pages_at(self, wanted.lsn, wanted.pages.clone(), Chain::LeftToReader, progress)
                .await?;
        Ok(Some(found.into_pages()))
    }

    async fn history(&self, count: usize) -> Result<Vec<Entry>, StoreError> {
        Log::history(self, count).await
    }

    async fn compact(
        &self,
        now: Micros,
        retain: Duration,
        progress: &Progress,
    ) -> Result<CompactReport, StoreError> {
        Log::compact(self, now, retain, progress).await
    }

    async fn tidy(&self, won: &Metadata, now: Micros, progress: &Progress) {
        Log::maybe_compact(self, won, now, RETAIN_DEFAULT, progress).await;
    }

    async fn wait_beyond(&self, known: &Anchor, probing: &Probing) -> Result<(), StoreError> {
        let directory = self.directory().filter(|_| !probing.is_never());
        let notice = directory.and_then(|directory| Notice::of_tree(&directory));
        waiting::by_probing(probing, notice.as_ref(), || self.may_have_moved(known)).await
    }
}
