//! The few operations on objects that everything here is made of, with errors that name the key.
//!
//! Owns how an object is read (in place from a folder, small ones in memory, larger ones through
//! an anonymous temporary file) and what an answer of a store means. Does not own what the objects
//! mean. Every length that is read is bounded.

use std::fmt;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use anabranch_format::{
    METADATA_BYTES_MAX, Metadata, MetadataError, Micros, SKIPPABLE_HEADER_BYTES,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions,
};

use crate::blocking::{blocking, pause};
use crate::context::Context;
use crate::error::{Damage, StoreError};
use crate::folder;
use crate::progress::Counter;
use crate::root::{StoreKind, StoreOptions};
use crate::spool::SpoolReader;

/// How much of an object is fetched to see its metadata: nearly always enough.
const METADATA_GUESS_BYTES: u64 = 2048;

/// Objects deleted at the same time.
const DELETES_AT_ONCE: usize = 16;

/// How often the same bytes are put where "exists already" was answered and nothing exists.
const PUTS_MAX: u32 = 7;
const PUT_BACKOFF_MS: u64 = 20;
const PUT_BACKOFF_MS_MAX: u64 = 1_000;

/// A bounded number of tries, ever further apart.
pub(crate) struct Backoff {
    tries_left: u32,
    wait_ms: u64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff { tries_left: PUTS_MAX - 1, wait_ms: PUT_BACKOFF_MS }
    }

    /// Waits before the next try; `false` if there is none.
    pub(crate) async fn again(&mut self) -> bool {
        if self.tries_left == 0 {
            return false;
        }
        self.tries_left -= 1;
        pause(Duration::from_millis(self.wait_ms)).await;
        self.wait_ms = (self.wait_ms * 2).min(PUT_BACKOFF_MS_MAX);
        true
    }
}

/// A store, and how to speak of it.
#[derive(Clone)]
pub(crate) struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    kind: StoreKind,
    context: Context,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.location())
    }
}

/// An object in a listing.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) modified: Micros,
    pub(crate) bytes: u64,
}

/// An object whose metadata was read.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) metadata: Metadata,
    pub(crate) modified: Micros,
    pub(crate) bytes: u64,
}

impl Objects {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        kind: StoreKind,
        location: String,
        options: &StoreOptions,
    ) -> Self {
        let context = Context::new(location, &options.scratch);
        Objects { inner: Arc::new(Inner { store, kind, context }) }
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.store
    }

    pub(crate) fn kind(&self) -> &StoreKind {
        &self.inner.kind
    }

    pub(crate) fn location(&self) -> &str {
        self.inner.context.location()
    }

    pub(crate) fn context(&self) -> &Context {
        &self.inner.context
    }

    pub(crate) fn scratch(&self) -> &FsPath {
        self.inner.context.scratch()
    }

    /// A folder must still be there; a bucket answers for itself.
    pub(crate) async fn check_root(&self) -> Result<(), StoreError> {
        let StoreKind::Folder(root) = self.kind() else { return Ok(()) };
        let root = root.clone();
        match blocking(move || std::fs::metadata(root)).await {
            Some(Ok(found)) if found.is_dir() => Ok(()),
            Some(Ok(_)) => Err(self.gone("it is not a folder any more")),
            Some(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(self.gone("no such folder"))
            }
            Some(Err(e)) => Err(self.gone(&e.to_string())),
            None => Err(StoreError::Interrupted),
        }
    }

    /// Creates the object if it is absent; whether it was.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, StoreError> {
        match self.create_raw(key, bytes).await {
            Ok(()) => Ok(true),
            Err(e) if is_already_exists(&e) => Ok(false),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    /// Creates the object unless one is there; once this returns one is, durably. "Exists already"
    /// is not believed: it may be the answer to two conditional writes of which none was done.
    pub(crate) async fn ensure(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let mut backoff = Backoff::new();
        loop {
            let Err(e) = self.create_raw(key, bytes.clone()).await else { return Ok(()) };
            let again = is_already_exists(&e);
            // Whatever the error was: the object decides. (A stage is swept once its key is taken,
            // so that "exists already" is not the only answer then; and it may be deleted between
            // these two looks.)
            let failed = self.failed(key, e);
            let found = if failed.is_offline() { None } else { self.size(key).await? };
            if found.is_some() && self.is_settled(key).await? {
                return Ok(());
            }
            if !again || !backoff.again().await {
                return Err(failed);
            }
        }
    }

    /// Puts the object in the place of a damaged one.
    pub(crate) async fn replace(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let put = self.store().put(&Path::from(key), bytes.into()).await;
        put.map(|_| ()).map_err(|e| self.failed(key, e))
    }

    /// On a folder: makes the object durable. Whoever linked it may have been killed before it
    /// could.
    pub(crate) async fn settle(&self, key: &str) -> Result<(), StoreError> {
        if self.is_settled(key).await? {
            return Ok(());
        }
        self.check_root().await?;
        Err(self.missing(key))
    }

    /// As [`Objects::settle`]; `false` if the object is not there.
    async fn is_settled(&self, key: &str) -> Result<bool, StoreError> {
        let StoreKind::Folder(root) = self.kind() else { return Ok(true) };
        let (root, at) = (root.clone(), key.to_owned());
        let settled = blocking(move || folder::settle(&root, &at)).await;
        let settled = settled.ok_or(StoreError::Interrupted)?;
        match settled {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => {
                let source = Box::new(e);
                Err(self.failed(key, object_store::Error::Generic { store: "folder", source }))
            }
        }
    }

    pub(crate) async fn create_raw(&self, key: &str, bytes: Bytes) -> object_store::Result<()> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store().put_opts(&Path::from(key), bytes.into(), options).await.map(|_| ())
    }

    /// Deletes the object; that it is not there is no error.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.store().delete(&Path::from(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    /// Deletes many objects, a few at a time, in the order given.
    pub(crate) async fn delete_all(&self, keys: &[String]) -> Result<(), StoreError> {
        // Owned, so that the future may move between threads.
        futures::stream::iter(keys.to_vec())
            .map(|key| async move { self.delete(&key).await })
            .buffered(DELETES_AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    /// All objects below `prefix`, sorted by key: stores list in any order they like.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let listed: Vec<ObjectMeta> =
            match self.store().list(Some(&Path::from(prefix))).try_collect().await {
                Ok(listed) => listed,
                Err(e) => return Err(self.failed(prefix, e)),
            };
        let mut listed: Vec<Listed> = listed.into_iter().map(Listed::from).collect();
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    /// All objects below `prefix` whose key is greater than `after`, sorted.
    pub(crate) async fn list_after(
        &self,
        prefix: &str,
        after: &str,
    ) -> Result<Vec<Listed>, StoreError> {
        let (prefix_path, after) = (Path::from(prefix), Path::from(after));
        let listed = self.store().list_with_offset(Some(&prefix_path), &after);
        let listed: Vec<ObjectMeta> =
            listed.try_collect().await.map_err(|e| self.failed(prefix, e))?;
        let mut listed: Vec<Listed> = listed.into_iter().map(Listed::from).collect();
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    /// Keys below `prefix` that are greater than `after`, up to one of which the caller wants to see
    /// no more (only a bucket lists in order), in no order.
    pub(crate) async fn list_until(
        &self,
        prefix: &str,
        after: &str,
        beyond: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, StoreError> {
        let (prefix_path, after) = (Path::from(prefix), Path::from(after));
        let mut listed = self.store().list_with_offset(Some(&prefix_path), &after);
        let mut keys = Vec::new();
        while let Some(found) = listed.try_next().await.map_err(|e| self.failed(prefix, e))? {
            let key: String = found.location.into();
            if *self.kind() == StoreKind::Bucket && beyond(&key) {
                break;
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// A key below `prefix` that is greater than `after` and `wanted`, if there is one. Lists no
    /// further than it must.
    pub(crate) async fn any_after(
        &self,
        prefix: &str,
        after: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, StoreError> {
        let (prefix_path, after) = (Path::from(prefix), Path::from(after));
        let mut listed = self.store().list_with_offset(Some(&prefix_path), &after);
        while let Some(found) = listed.try_next().await.map_err(|e| self.failed(prefix, e))? {
            if wanted(found.location.as_ref()) {
                return Ok(Some(found.location.into()));
            }
        }
        Ok(None)
    }

    /// The directories right below `prefix`, sorted.
    pub(crate) async fn directories(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.store().list_with_delimiter(Some(&Path::from(prefix))).await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(e) => return Err(self.failed(prefix, e)),
        };
        let mut found: Vec<String> =
            listed.common_prefixes.iter().map(ToString::to_string).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Bytes of the object; `None` if it is absent.
    pub(crate) async fn size(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.store().head(&Path::from(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    /// The whole of a small object; `None` if it is absent.
    pub(crate) async fn read_small(
        &self,
        key: &str,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(found) = self.get(key, GetOptions::default()).await? else { return Ok(None) };
        if found.meta.size > bytes_max {
            let text = format!("{} bytes, more than the {bytes_max} allowed", found.meta.size);
            return Err(self.corrupt(key, Damage::Contradiction(text)));
        }
        match contents(found).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    /// The metadata of an object; `None` if it is absent.
    pub(crate) async fn metadata(&self, key: &str) -> Result<Option<Seen>, StoreError> {
        let mut wanted = METADATA_GUESS_BYTES;
        loop {
            let Some((bytes, meta)) = self.read_start(key, wanted).await? else { return Ok(None) };
            match Metadata::decode(&mut &bytes[..]) {
                Ok(metadata) => {
                    let modified = micros(&meta);
                    return Ok(Some(Seen { metadata, modified, bytes: meta.size }));
                }
                // More of it is there: the guess was too small.
                Err(MetadataError::Truncated)
                    if wanted == METADATA_GUESS_BYTES && meta.size > wanted =>
                {
                    wanted = (SKIPPABLE_HEADER_BYTES + METADATA_BYTES_MAX) as u64;
                }
                Err(e) => return Err(self.corrupt(key, Damage::Metadata(e))),
            }
        }
    }

    async fn read_start(
        &self,
        key: &str,
        bytes: u64,
    ) -> Result<Option<(Bytes, ObjectMeta)>, StoreError> {
        let range = Some(GetRange::Bounded(0..bytes));
        let options = GetOptions { range, ..GetOptions::default() };
        match self.get(key, options).await {
            Ok(None) => Ok(None),
            Ok(Some(found)) => {
                let meta = found.meta.clone();
                match contents(found).await {
                    Ok(bytes) => Ok(Some((bytes, meta))),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(e) => Err(self.failed(key, e)),
                }
            }
            // A range of an object without any bytes is an error on every store.
            Err(e) => match self.store().head(&Path::from(key)).await {
                Ok(meta) if meta.size == 0 => {
                    Err(self.corrupt(key, Damage::Metadata(MetadataError::Truncated)))
                }
                _ => Err(e),
            },
        }
    }

    /// Some bytes of an object that is known to be longer; `None` if it is absent.
    pub(crate) async fn read_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StoreError> {
        let wanted = range.end.saturating_sub(range.start);
        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
        let Some(found) = self.get(key, options).await? else { return Ok(None) };
        match found.bytes().await {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(Some(bytes)),
            Ok(bytes) => {
                let text = format!("{} bytes came where {wanted} were asked for", bytes.len());
                Err(self.corrupt(key, Damage::Contradiction(text)))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Option<GetResult>, StoreError> {
        match self.store().get_opts(&Path::from(key), options).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed(key, e)),
        }
    }

    /// Opens the whole object for blocking reads; `None` if it is absent. Lies in memory if it is
    /// no longer than `memory_bytes_max`, else in a temporary file; a folder's is then read in
    /// place.
    pub(crate) async fn open(
        &self,
        key: &str,
        memory_bytes_max: u64,
        counter: &Counter,
    ) -> Result<Option<(SpoolReader, Micros)>, StoreError> {
        let Some(found) = self.get(key, GetOptions::default()).await? else { return Ok(None) };
        let (size, modified) = (found.meta.size, micros(&found.meta));
        let reader = if size <= memory_bytes_max {
            match contents(found).await {
                Ok(bytes) => {
                    counter.add(size);
                    SpoolReader::from_bytes(bytes)
                }
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(e) => return Err(self.failed(key, e)),
            }
        } else if let GetResultPayload::File(file, _) = found.payload {
            counter.add(size);
            SpoolReader::from_file(file, size)
        } else {
            self.download(key, found, counter).await?
        };
        Ok(Some((reader, modified)))
    }

    async fn download(
        &self,
        key: &str,
        found: GetResult,
        counter: &Counter,
    ) -> Result<SpoolReader, StoreError> {
        let size = found.meta.size;
        let mut file = tempfile::tempfile_in(self.scratch()).map_err(|e| self.scratch_failed(e))?;
        let mut stream = found.into_stream();
        while let Some(part) = stream.next().await {
            let part = part.map_err(|e| self.failed(key, e))?;
            counter.add(part.len() as u64);
            file = tokio::task::spawn_blocking(move || file.write_all(&part).map(|()| file))
                .await
                .map_err(|_| StoreError::Interrupted)?
                .map_err(|e| self.scratch_failed(e))?;
        }
        Ok(SpoolReader::from_file(file, size))
    }

    pub(crate) fn corrupt(&self, key: &str, damage: impl Into<Damage>) -> StoreError {
        self.context().corrupt(key, damage)
    }

    pub(crate) fn missing(&self, key: &str) -> StoreError {
        self.context().missing(key)
    }

    pub(crate) fn incomplete(&self, key: String, proof: String) -> StoreError {
        StoreError::Incomplete { location: self.location().to_owned(), key, proof }
    }

    pub(crate) fn gone(&self, what: &str) -> StoreError {
        StoreError::Gone { location: self.location().to_owned(), what: what.to_owned() }
    }

    pub(crate) fn unsettled(&self) -> StoreError {
        StoreError::Unsettled { location: self.location().to_owned() }
    }

    pub(crate) fn scratch_failed(&self, source: std::io::Error) -> StoreError {
        self.context().scratch_failed(source)
    }

    /// What an error of the store means to us.
    pub(crate) fn failed(&self, key: &str, e: object_store::Error) -> StoreError {
        let (location, key) = (self.location().to_owned(), key.to_owned());
        if let StoreKind::Folder(root) = self.kind()
            && let Some(kind) = io_kind(&e)
        {
            // As files people can look at.
            let path = || folder::path_of(root, &key).display().to_string();
            if is_refusal(kind) {
                return StoreError::Refused { location, key: path(), source: Box::new(e) };
            }
            if let Some(why) = lack_of_space(kind) {
                return StoreError::NoSpace { location, key: path(), why, source: Box::new(e) };
            }
        }
        match &e {
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => {
                StoreError::Refused { location, key, source: Box::new(e) }
            }
            // Objects that may be absent are handled before; this is the root or the bucket.
            object_store::Error::NotFound { path, .. } => {
                let what = format!("{path} is not there");
                StoreError::Gone { location, what }
            }
            _ if is_unreachable(&e) => {
                StoreError::Unreachable { location, key, source: Box::new(e) }
            }
            _ => {
                let source = Box::new(e);
                StoreError::Failed { location, key, source }
            }
        }
    }
}

impl From<ObjectMeta> for Listed {
    fn from(meta: ObjectMeta) -> Self {
        Listed { modified: micros(&meta), bytes: meta.size, key: meta.location.into() }
    }
}

/// The bytes of an answer: a folder's are read where that may be done.
async fn contents(found: GetResult) -> object_store::Result<Bytes> {
    let range = found.range.clone();
    let GetResultPayload::File(mut file, _) = found.payload else { return found.bytes().await };
    let read = blocking(move || {
        let length = usize::try_from(range.end - range.start).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; length];
        file.seek(SeekFrom::Start(range.start))?;
        file.read_exact(&mut bytes).map(|()| Bytes::from(bytes))
    });
    let stopping = || Err(std::io::Error::other("the program is stopping"));
    let read = read.await.unwrap_or_else(stopping);
    read.map_err(|e| object_store::Error::Generic { store: "folder", source: Box::new(e) })
}

fn micros(meta: &ObjectMeta) -> Micros {
    Micros(meta.last_modified.timestamp_micros())
}

/// The object is there, or another conditional write to it is going on right now.
pub(crate) fn is_already_exists(e: &object_store::Error) -> bool {
    matches!(
        e,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
    )
}

/// No answer at all, or one that says "not now".
fn is_unreachable(e: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = cause {
        if error.is::<HttpError>() {
            return true;
        }
        // The client's own error type is private; this is how it tells of a status.
        let text = error.to_string();
        let status = text.strip_prefix("Server returned non-2xx status code: ");
        if status.is_some_and(|s| s.starts_with('5') || s.starts_with("429")) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The file system may be read at most.
pub(crate) fn is_refusal(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind as Io;
    matches!(kind, Io::PermissionDenied | Io::ReadOnlyFilesystem)
}

/// What is used up, if that is why a write failed.
pub(crate) fn lack_of_space(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind as Io;
    match kind {
        Io::StorageFull => Some("the disk is full"),
        Io::QuotaExceeded => Some("the quota is used up"),
        Io::FileTooLarge => Some("it is larger than files may be here"),
        _ => None,
    }
}

/// The kind of the operating system's error behind `e`, if there is one.
pub(crate) fn io_kind(e: &object_store::Error) -> Option<std::io::ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

/// An object was missing that a plan counted on.
pub(crate) fn is_vanished(e: &StoreError) -> bool {
    matches!(e, StoreError::Missing { .. })
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind as Io};

    use super::*;

    #[test]
    fn what_a_folder_refuses_or_has_no_room_for_is_named_by_its_path() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let options = StoreOptions::new("/tmp");
        let failed = |kind: StoreKind, io: Io| {
            let objects = Objects::new(store.clone(), kind, "river".into(), &options);
            let source = Box::new(IoError::from(io));
            objects.failed("db/x/log/0", object_store::Error::Generic { store: "folder", source })
        };
        let folder = || StoreKind::Folder("/mnt/river".into());
        for io in [Io::PermissionDenied, Io::ReadOnlyFilesystem] {
            let e = failed(folder(), io);
            assert!(matches!(e, StoreError::Refused { .. }), "{e:?}");
            assert!(e.to_string().contains("/mnt/river/db/x/log/0"), "{e}");
        }
        for (io, said) in [
            (Io::StorageFull, "disk is full"),
            (Io::QuotaExceeded, "quota"),
            (Io::FileTooLarge, "larger than"),
        ] {
            let e = failed(folder(), io);
            assert!(matches!(e, StoreError::NoSpace { .. }) && !e.is_offline(), "{e:?}");
            assert!(e.to_string().contains("no room for /mnt/river/db/x/log/0"), "{e}");
            assert!(e.to_string().contains(said), "{e}");
        }
        let e = failed(StoreKind::Bucket, Io::StorageFull);
        assert!(matches!(e, StoreError::Failed { .. }), "not the store's: {e:?}");
    }
}
