//! A store that fails as real ones do.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens to the next create of a log object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is done, but the answer is lost.
    LostAnswer,
    /// It is not done, and nobody says so.
    LostRequest,
    /// "Conflict": it is not done, and nothing is there.
    ConflictWithNothing,
    /// It is done twice; the client sees the second answer.
    Repeated,
    /// It is done.
    None,
}

/// Keys and contents.
pub type Objects = Vec<(String, Vec<u8>)>;

/// Wraps a store.
#[derive(Debug)]
pub struct Faulty {
    pub inner: Arc<dyn ObjectStore>,
    pub faults: Arc<Mutex<VecDeque<Fault>>>,
    /// Whether the condition of a conditional write is ignored.
    pub unconditional: bool,
    /// Keys that contain this cannot be read, as if the store did not answer.
    pub unreadable: Arc<Mutex<Option<String>>>,
    /// When a key that contains the first is next put or read, the object at the second is created
    /// before that: retention is quicker.
    pub overtaken: Arc<Mutex<Option<(String, String)>>>,
    /// Puts of keys that contain this are answered so many times by "conflict", and not done.
    pub conflicting: Arc<Mutex<Option<(String, u32)>>>,
    /// Created, one after the other, when the log is next listed: others append.
    pub appears: Arc<Mutex<Objects>>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Faulty {
            inner,
            faults: Arc::default(),
            unconditional: false,
            unreadable: Arc::default(),
            overtaken: Arc::default(),
            appears: Arc::default(),
            conflicting: Arc::default(),
        }
    }

    fn is_conflict(&self, location: &Path) -> bool {
        match &mut *self.conflicting.lock().unwrap() {
            Some((part, left)) if *left > 0 && location.as_ref().contains(part.as_str()) => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    async fn overtake(&self, location: &Path) -> Result<()> {
        let is_due = |(at, _): &mut (String, String)| location.as_ref().contains(at.as_str());
        let due = self.overtaken.lock().unwrap().take_if(is_due);
        if let Some((_, floor)) = due {
            self.inner.put_opts(&Path::from(floor), "x".into(), PutOptions::default()).await?;
        }
        Ok(())
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a faulty store")
    }
}

fn no_answer() -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer");
    Error::Generic { store: "faulty", source: Box::new(source) }
}

fn conflict(location: &Path) -> Error {
    let source = "conflicting conditional request".into();
    Error::AlreadyExists { path: location.to_string(), source }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        if self.unconditional {
            opts.mode = PutMode::Overwrite;
        }
        self.overtake(location).await?;
        if self.is_conflict(location) {
            return Err(conflict(location));
        }
        let is_log = location.as_ref().contains("/log/");
        let fault = if is_log { self.faults.lock().unwrap().pop_front() } else { None };
        let put = || self.inner.put_opts(location, payload.clone(), opts.clone());
        match fault.unwrap_or(Fault::None) {
            Fault::None => put().await,
            Fault::LostAnswer => put().await.and(Err(no_answer())),
            Fault::LostRequest => Err(no_answer()),
            Fault::ConflictWithNothing => Err(conflict(location)),
            Fault::Repeated => {
                put().await?;
                put().await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.overtake(location).await?;
        let unreadable = self.unreadable.lock().unwrap().clone();
        if unreadable.is_some_and(|part| location.as_ref().contains(&part)) {
            return Err(no_answer());
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let is_log = prefix.is_some_and(|p| p.as_ref().contains("/log"));
        let due = if is_log { std::mem::take(&mut *self.appears.lock().unwrap()) } else { vec![] };
        let (inner, prefix) = (self.inner.clone(), prefix.cloned());
        let listed = async move {
            for (key, bytes) in due {
                inner.put_opts(&Path::from(key), bytes.into(), PutOptions::default()).await?;
            }
            Ok::<_, Error>(inner.list(prefix.as_ref()))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
