//! How an object gets into the store, whatever its length.
//!
//! Up to 8 MiB an object is one request, "create if absent". A larger one is never held in memory:
//! on a folder (and in memory) it is staged under `tmp/` and then linked to its key, which fails if
//! the key is taken; on a bucket, where an upload in parts knows no such condition, its bytes go to
//! a body object of their own first, and what is created at the key is a small object that names
//! the body. Either way the one decisive step is a create of the key.
//!
//! A body or stage that nobody names is an orphan. It may be deleted only once its owner can not
//! commit it any more: when the key it was meant for is taken, or lies below the floor.

use std::io::Read;

use anabranch_format::Metadata;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{CopyMode, CopyOptions, ObjectStore, ObjectStoreExt, WriteMultipart};

use crate::blocking::blocking;
use crate::error::{Damage, StoreError};
use crate::keys::{Keys, Target};
use crate::log::Log;
use crate::progress::Counter;
use crate::root::StoreKind;
use crate::spool::{SMALL_BYTES_MAX, SpoolReader};

/// Bytes of one part of an upload in parts.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts on their way at the same time; with the one being filled this bounds the memory.
const PARTS_AT_ONCE: usize = 2;

/// An object that is ready to be created by one decisive request.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// The whole object.
    Whole(Bytes),
    /// The object lies at this key and will be linked.
    Staged(String),
    /// The bytes lie in `body`; the object to create is `naming`.
    Body { body: String, naming: Bytes },
}

impl Log {
    /// Brings the object `metadata` + `body` to the store, but for the last step. With `stage`
    /// even a small one lies in the store before it is created, so that it can be read back first.
    pub(crate) async fn prepare(
        &self,
        target: &Target,
        metadata: &Metadata,
        body: &SpoolReader,
        stage: bool,
        counter: &Counter,
    ) -> Result<Prepared, StoreError> {
        let key = self.keys.target_key(target);
        let head =
            metadata.encode().map_err(|e| self.objects.corrupt(&key, Damage::Metadata(e)))?;
        if !stage && head.len() as u64 + body.len() <= SMALL_BYTES_MAX {
            let whole = self.whole(head, body).await?;
            counter.add(body.len());
            return Ok(Prepared::Whole(whole));
        }
        let attempt = uuid::Uuid::new_v4().simple().to_string();
        if *self.objects.kind() == StoreKind::Bucket {
            let name = Keys::body(target, &attempt);
            let body_key = self.keys.resolve_body(&name).expect("our own names are well-formed");
            self.upload(&body_key, head, body, counter).await?;
            let naming = Metadata { body: Some(name), ..metadata.clone() };
            let naming =
                naming.encode().map_err(|e| self.objects.corrupt(&key, Damage::Metadata(e)))?;
            return Ok(Prepared::Body { body: body_key, naming: naming.into() });
        }
        let staged = self.keys.stage(target, &attempt);
        self.upload(&staged, head, body, counter).await?;
        Ok(Prepared::Staged(staged))
    }

    /// The decisive step: creates the object at `key` if nothing is there.
    pub(crate) async fn commit(
        &self,
        key: &str,
        prepared: &Prepared,
    ) -> Result<(), object_store::Error> {
        match prepared {
            Prepared::Whole(bytes) => self.objects.create_raw(key, bytes.clone()).await,
            Prepared::Body { naming, .. } => self.objects.create_raw(key, naming.clone()).await,
            Prepared::Staged(stage) => {
                let options = CopyOptions { mode: CopyMode::Create, ..CopyOptions::default() };
                let (from, to) = (Path::from(stage.as_str()), Path::from(key));
                self.objects.store().copy_opts(&from, &to, options).await
            }
        }
    }

    /// Cleans up once it is decided that nobody will commit `prepared` any more; `committed` if
    /// the object at the key may be the one that was prepared. Best effort.
    pub(crate) async fn discard(&self, prepared: &Prepared, committed: bool) {
        let left = match prepared {
            Prepared::Staged(stage) => stage,
            Prepared::Body { body, .. } if !committed => body,
            _ => return,
        };
        if let Err(e) = self.objects.delete(left).await {
            tracing::debug!(key = %left, error = %e, "leaving an orphan for retention");
        }
    }

    pub(crate) async fn whole(
        &self,
        head: Vec<u8>,
        body: &SpoolReader,
    ) -> Result<Bytes, StoreError> {
        let mut body = body.rewound();
        let read = move || {
            let mut whole = head;
            body.read_to_end(&mut whole).map(|_| whole)
        };
        let whole = blocking(read).await.ok_or(StoreError::Interrupted)?;
        whole.map(Bytes::from).map_err(|e| self.objects.scratch_failed(e))
    }

    async fn upload(
        &self,
        key: &str,
        head: Vec<u8>,
        body: &SpoolReader,
        counter: &Counter,
    ) -> Result<(), StoreError> {
        let failed = |e| self.objects.failed(key, e);
        let parts = self.objects.store().put_multipart(&Path::from(key)).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(parts, PART_BYTES);
        match self.send(&mut upload, head, body, counter).await {
            Ok(()) => upload.finish().await.map(|_| ()).map_err(failed),
            Err(e) => {
                // What stays of a broken upload is the store's to expire.
                let _ = upload.abort().await;
                Err(e.unwrap_or_else(failed))
            }
        }
    }

    async fn send(
        &self,
        upload: &mut WriteMultipart,
        head: Vec<u8>,
        body: &SpoolReader,
        counter: &Counter,
    ) -> Result<(), Failure> {
        upload.put(head.into());
        let mut body = body.rewound();
        loop {
            upload.wait_for_capacity(PARTS_AT_ONCE).await.map_err(Failure::Store)?;
            let read = tokio::task::spawn_blocking(move || {
                let mut part = Vec::with_capacity(1 << 20);
                (&mut body).take(1 << 20).read_to_end(&mut part).map(|_| (body, part))
            });
            let read = read.await.map_err(|_| Failure::Other(StoreError::Interrupted))?;
            let (rest, part) = read.map_err(|e| Failure::Other(self.objects.scratch_failed(e)))?;
            if part.is_empty() {
                return Ok(());
            }
            counter.add(part.len() as u64);
            upload.put(part.into());
            body = rest;
        }
    }
}

/// Why sending stopped: the store, or something else.
enum Failure {
    Store(object_store::Error),
    Other(StoreError),
}

impl Failure {
    fn unwrap_or_else(self, store: impl FnOnce(object_store::Error) -> StoreError) -> StoreError {
        match self {
            Failure::Store(e) => store(e),
            Failure::Other(e) => e,
        }
    }
}
