//! A folder as an object store: `object_store`'s own, with five repairs.
//!
//! 1. Directories are made below the root only. Left to itself the store would make the root anew
//!    after it was moved away or its disk unmounted, and a push would land in a new, empty folder.
//! 2. Linking a staged object to its key works below paths that are not UTF-8.
//! 3. [`settle`] makes an object durable that an earlier, killed process may have linked but not
//!    synced, before anybody is told that it is there.
//! 4. Listings pass over what cannot be an object: names that are not UTF-8, links that lead nowhere
//!    or in a circle. They look closely only at files that are wanted: one beyond a key reads names.
//! 5. What an append or a look at the head does runs on the thread it is called on, if that is one
//!    that may block (see [`crate::blocking`]).

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Extensions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use crate::blocking;

mod listing;

use listing::{Entry, Listing};

/// A folder that must stay where it is.
#[derive(Debug)]
pub(crate) struct Folder {
    inner: LocalFileSystem,
    root: PathBuf,
}

impl Folder {
    /// Opens `root`, which must exist.
    pub(crate) fn open(root: &FsPath) -> Result<Self> {
        let inner = LocalFileSystem::new_with_prefix(root)?.with_fsync(true);
        let root = std::fs::canonicalize(root).map_err(|e| generic(root, e))?;
        Ok(Folder { inner, root })
    }

    /// The root, resolved.
    pub(crate) fn root(&self) -> &FsPath {
        &self.root
    }

    fn listed(
        &self,
        prefix: Option<&Path>,
        after: String,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (root, prefix) = (self.root.clone(), prefix.map(ToString::to_string));
        let listing = async move {
            let shown = root.clone();
            let work = move || Listing::new(root, after).all_below(prefix.unwrap_or_default());
            let found = blocking(&shown, work).await?;
            Ok::<_, object_store::Error>(futures::stream::iter(found.into_iter().map(Ok)))
        };
        futures::stream::once(listing).try_flatten().boxed()
    }

    async fn make_parents(&self, location: &Path) -> Result<()> {
        let (root, parents) = (self.root.clone(), directories(location));
        blocking(&self.root, move || make_directories(&root, &parents)).await
    }
}

/// The name leads to nothing, or to nothing that has entries.
fn leads_nowhere(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The directories on the way to an object.
fn directories(location: &Path) -> Vec<String> {
    let mut parts: Vec<String> = location.parts().map(|p| p.as_ref().to_owned()).collect();
    parts.pop();
    parts
}

/// Makes each directory in turn, syncing the one it is entered in; never the root itself.
fn make_directories(root: &FsPath, directories: &[String]) -> io::Result<()> {
    let mut path = root.to_path_buf();
    for directory in directories {
        let parent = path.clone();
        path.push(directory);
        if path.is_dir() {
            continue;
        }
        match std::fs::create_dir(&path) {
            Ok(()) => sync_directory(&parent)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn sync_directory(path: &FsPath) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Makes the object at `key` durable: its content and every directory down from the root.
pub(crate) fn settle(root: &FsPath, key: &str) -> io::Result<()> {
    let mut path = root.to_path_buf();
    let mut directories = vec![path.clone()];
    for part in key.split('/') {
        path.push(part);
        directories.push(path.clone());
    }
    directories.pop();
    // A descriptor that may only read is enough for fsync on Unix; elsewhere it needs to write.
    File::options().read(true).write(cfg!(not(unix))).open(&path)?.sync_all()?;
    directories.iter().rev().try_for_each(|directory| sync_directory(directory))
}

/// Deletes what writers that were killed left beside the keys below `prefix`: the store writes each
/// object under its name with `#` and a number first. One whose key is taken, or for whose key
/// `is_dead` answers yes, can never be linked any more; all others may still be written by somebody.
pub(crate) fn sweep(
    root: &FsPath,
    prefix: &str,
    is_dead: &dyn Fn(&str) -> bool,
) -> io::Result<u64> {
    let mut swept = 0;
    let mut directories = vec![prefix.to_owned()];
    while let Some(directory) = directories.pop() {
        let path = path_of(root, &directory);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if leads_nowhere(&e) => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if entry.file_type()?.is_dir() {
                directories.push(format!("{directory}/{name}"));
            } else if let Some(name) = staged_for(name)
                && (path.join(name).exists() || is_dead(&format!("{directory}/{name}")))
            {
                match std::fs::remove_file(entry.path()) {
                    Ok(()) => swept += 1,
                    // Somebody else sweeps, too.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }
    Ok(swept)
}

/// Where the object or directory `key` lies.
pub(crate) fn path_of(root: &FsPath, key: &str) -> PathBuf {
    key.split('/').fold(root.to_path_buf(), |path, part| path.join(part))
}

/// The file name that a staging file of the store is meant for.
fn staged_for(name: &str) -> Option<&str> {
    let (key, number) = name.rsplit_once('#')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(key)
}

async fn blocking<T: Send + 'static>(
    path: &FsPath,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let stopping = || Err(io::Error::other("the program is stopping"));
    let result = blocking::blocking(work).await.unwrap_or_else(stopping);
    result.map_err(|e| generic(path, e))
}

/// A file of its own beside `path`, under a name that [`staged_for`] knows.
fn stage(path: &FsPath) -> io::Result<(File, PathBuf)> {
    for number in 1u64.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let name = PathBuf::from(name);
        match File::options().write(true).create_new(true).open(&name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (file, name)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Creates the file at `path`, durably, if it is absent. The content is durable before the name is
/// there: no power failure leaves a name with half of it.
fn create(path: &FsPath, payload: &PutPayload) -> io::Result<()> {
    let (mut file, staged) = stage(path)?;
    let linked = payload
        .iter()
        .try_for_each(|part| file.write_all(part))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::hard_link(&staged, path));
    drop(file);
    // What stays is swept some day.
    let _ = std::fs::remove_file(&staged);
    linked?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// The start of an answer to a read: the file, and what is known of it.
fn open(path: PathBuf, location: Path, options: &GetOptions) -> Result<GetResult> {
    let found = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = match found {
        Ok((metadata, _)) if metadata.is_dir() => {
            return Err(generic(&path, io::ErrorKind::NotFound.into()));
        }
        found => found.map_err(|e| generic(&path, e))?,
    };
    let last_modified = metadata.modified().map_err(|e| generic(&path, e))?.into();
    let size = metadata.len();
    let meta = ObjectMeta { location, last_modified, size, e_tag: None, version: None };
    options.check_preconditions(&meta)?;
    let range = match &options.range {
        None => 0..size,
        Some(range) => range
            .as_range(size)
            .map_err(|e| object_store::Error::Generic { store: "folder", source: Box::new(e) })?,
    };
    Ok(GetResult {
        payload: GetResultPayload::File(file, path),
        meta,
        range,
        attributes: object_store::Attributes::default(),
        extensions: Extensions::default(),
    })
}

fn generic(path: &FsPath, source: io::Error) -> object_store::Error {
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::NotFound => object_store::Error::NotFound { path, source: Box::new(source) },
        io::ErrorKind::AlreadyExists => {
            object_store::Error::AlreadyExists { path, source: Box::new(source) }
        }
        io::ErrorKind::PermissionDenied => {
            object_store::Error::PermissionDenied { path, source: Box::new(source) }
        }
        _ => object_store::Error::Generic { store: "folder", source: Box::new(source) },
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if opts.mode != PutMode::Create || !opts.attributes.is_empty() {
            self.make_parents(location).await?;
            return self.inner.put_opts(location, payload, opts).await;
        }
        let path = self.inner.path_to_filesystem(location)?;
        let (root, parents) = (self.root.clone(), directories(location));
        let shown = path.clone();
        blocking(&shown, move || {
            match create(&path, &payload) {
                // Its directory, most likely.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    make_directories(&root, &parents)?;
                    create(&path, &payload)
                }
                created => created,
            }
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.make_parents(location).await?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (path, location) = (self.inner.path_to_filesystem(location)?, location.clone());
        match blocking::blocking(move || open(path, location, &options)).await {
            Some(opened) => opened,
            None => Err(generic(&self.root, io::Error::other("the program is stopping"))),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let root = self.root.clone();
        let delete = move |location: Path| {
            let path = path_of(&root, location.as_ref());
            async move {
                let shown = path.clone();
                blocking(&shown, move || std::fs::remove_file(path)).await.map(|()| location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, String::new())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, offset.to_string())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (root, prefix) = (self.root.clone(), prefix.map(ToString::to_string));
        let directory = prefix.unwrap_or_default();
        let entries =
            blocking(&self.root, move || Listing::new(root, String::new()).entries(&directory));
        let (mut objects, mut common_prefixes) = (Vec::new(), Vec::new());
        for entry in entries.await? {
            match entry {
                Entry::Object(meta) => objects.push(meta),
                Entry::Directory(key) => common_prefixes.push(Path::from(key)),
            }
        }
        Ok(ListResult { common_prefixes, objects, extensions: Extensions::default() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if !matches!(options.mode, CopyMode::Create) {
            return self.inner.copy_opts(from, to, options).await;
        }
        self.make_parents(to).await?;
        let from = self.inner.path_to_filesystem(from)?;
        let to = self.inner.path_to_filesystem(to)?;
        let shown = to.clone();
        blocking(&shown, move || {
            std::fs::hard_link(&from, &to)?;
            to.parent().map_or(Ok(()), sync_directory)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
