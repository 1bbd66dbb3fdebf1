//! A folder as an object store: `object_store`'s own, with four repairs.
//!
//! 1. Directories are made below the root only. Left to itself the store would make the root anew
//!    after it was moved away or its disk unmounted, and a push would land in a new, empty folder.
//! 2. Linking a staged object to its key works below paths that are not UTF-8.
//! 3. [`settle`] makes an object durable that an earlier, killed process may have linked but not
//!    synced, before anybody is told that it is there.
//! 4. Listings pass over what cannot be an object: names that are not UTF-8, links that lead nowhere
//!    or in a circle. They look closely only at files that are wanted: one beyond a key reads names.

use std::collections::HashSet;
use std::fmt;
use std::fs::{DirEntry, File};
use std::io;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Extensions, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

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
        let root = self.root.clone();
        let parents: Vec<String> = location.parts().map(|p| p.as_ref().to_owned()).collect();
        blocking(&self.root, move || {
            let directories = parents.split_last().map_or(&[][..], |(_, directories)| directories);
            make_directories(&root, directories)
        })
        .await
    }
}

/// What a directory holds that can be, or hold, an object.
enum Entry {
    Object(ObjectMeta),
    /// Its key.
    Directory(String),
}

/// A listing of the objects whose keys are greater than `after`.
struct Listing {
    root: PathBuf,
    after: String,
    /// Directories that links led to: each is followed once, so that no circle is.
    followed: HashSet<PathBuf>,
}

impl Listing {
    fn new(root: PathBuf, after: String) -> Self {
        Listing { root, after, followed: HashSet::new() }
    }

    fn all_below(mut self, prefix: String) -> io::Result<Vec<ObjectMeta>> {
        let mut objects = Vec::new();
        let mut directories = vec![prefix];
        while let Some(directory) = directories.pop() {
            for entry in self.entries(&directory)? {
                match entry {
                    Entry::Object(meta) => objects.push(meta),
                    Entry::Directory(key) => directories.push(key),
                }
            }
        }
        Ok(objects)
    }

    /// What lies in the directory `key`; nothing if that is none.
    fn entries(&mut self, key: &str) -> io::Result<Vec<Entry>> {
        let found = match std::fs::read_dir(path_of(&self.root, key)) {
            Ok(found) => found,
            Err(e) if leads_nowhere(&e) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut entries = Vec::new();
        for entry in found {
            let entry = entry?;
            match self.entry(key, &entry) {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => {}
                // Deleted since.
                Err(e) if leads_nowhere(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(entries)
    }

    fn entry(&mut self, directory: &str, entry: &DirEntry) -> io::Result<Option<Entry>> {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| staged_for(name).is_none()) else {
            return Ok(None);
        };
        let key = if directory.is_empty() { name.into() } else { format!("{directory}/{name}") };
        let Ok(location) = Path::parse(&key) else { return Ok(None) };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            return Ok(self.reaches(&key).then_some(Entry::Directory(key)));
        }
        if kind.is_file() && key <= self.after {
            return Ok(None);
        }
        let metadata = match std::fs::metadata(entry.path()) {
            // To nothing, or in a circle.
            Err(_) if kind.is_symlink() => return Ok(None),
            metadata => metadata?,
        };
        if metadata.is_dir() {
            let follow = self.reaches(&key) && self.is_new(&entry.path());
            return Ok(follow.then_some(Entry::Directory(key)));
        }
        if !metadata.is_file() || key <= self.after {
            return Ok(None);
        }
        let last_modified = metadata.modified()?.into();
        let size = metadata.len();
        let meta = ObjectMeta { location, last_modified, size, e_tag: None, version: None };
        Ok(Some(Entry::Object(meta)))
    }

    /// Whether keys below the directory `key` can be greater than `after`.
    fn reaches(&self, key: &str) -> bool {
        let below = format!("{key}/");
        below > self.after || self.after.starts_with(&below)
    }

    /// Whether a link leads to a directory where this listing has not been.
    fn is_new(&mut self, link: &FsPath) -> bool {
        let Ok(target) = link.canonicalize() else { return false };
        !link.starts_with(&target) && self.followed.insert(target)
    }
}

/// The name leads to nothing, or to nothing that has entries.
fn leads_nowhere(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
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
    let result = tokio::task::spawn_blocking(work).await?;
    result.map_err(|e| generic(path, e))
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
        self.make_parents(location).await?;
        self.inner.put_opts(location, payload, opts).await
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
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    #[tokio::test]
    async fn a_folder_that_was_moved_away_is_not_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("remote");
        std::fs::create_dir(&root).unwrap();
        let folder = Folder::open(&root).unwrap();
        folder.put(&Path::from("a/b/c"), "x".into()).await.unwrap();
        settle(folder.root(), "a/b/c").unwrap();
        std::fs::rename(&root, parent.path().join("elsewhere")).unwrap();
        for key in ["a/b/d", "n/e/w"] {
            let error = folder.put(&Path::from(key), "x".into()).await.unwrap_err();
            assert!(matches!(error, object_store::Error::NotFound { .. }), "{error}");
        }
        assert!(!root.exists());
    }

    #[test]
    fn what_killed_writers_left_is_swept_and_what_may_be_in_use_is_not() {
        let root = tempfile::tempdir().unwrap();
        let shard = root.path().join("db/x/log/0");
        std::fs::create_dir_all(&shard).unwrap();
        for name in ["a", "a#1", "a#2", "b#1", "c#1", "d#x", "#", "e"] {
            std::fs::write(shard.join(name), "x").unwrap();
        }
        assert_eq!(sweep(root.path(), "db/x/log", &|key| key == "db/x/log/0/c").unwrap(), 3);
        let left = std::fs::read_dir(&shard).unwrap().map(|e| e.unwrap().file_name());
        let mut left: Vec<String> = left.map(|n| n.into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["#", "a", "b#1", "d#x", "e"]);
        assert_eq!(sweep(root.path(), "db/none", &|_| true).unwrap(), 0);
    }

    async fn listed(folder: &Folder, prefix: &str, after: &str) -> Vec<String> {
        let (prefix, after) = (Path::from(prefix), Path::from(after));
        let listed = folder.list_with_offset(Some(&prefix), &after);
        let listed: Vec<ObjectMeta> = listed.try_collect().await.unwrap();
        let mut keys: Vec<String> = listed.into_iter().map(|o| o.location.into()).collect();
        keys.sort();
        keys
    }

    #[tokio::test]
    async fn a_listing_has_what_is_beyond_a_key_and_no_staging_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        for key in ["log/0/a", "log/0/b", "log/1/a", "log/10/a", "log/x", "other/a"] {
            folder.put(&Path::from(key), "x".into()).await.unwrap();
        }
        std::fs::write(root.path().join("log/1/b#1"), "x").unwrap();
        let all = ["log/0/a", "log/0/b", "log/1/a", "log/10/a", "log/x"];
        assert_eq!(listed(&folder, "log", "").await, all);
        for (n, after) in all.iter().enumerate() {
            assert_eq!(listed(&folder, "log", after).await, all[n + 1..], "{after}");
        }
        assert_eq!(listed(&folder, "log", "log/1").await, all[2..]);
        assert_eq!(listed(&folder, "log/0/a", "").await, [""; 0]);
        assert_eq!(listed(&folder, "none", "").await, [""; 0]);
        let level = folder.list_with_delimiter(Some(&Path::from("log"))).await.unwrap();
        assert_eq!(level.common_prefixes.len(), 3);
        assert_eq!(level.objects[0].location.as_ref(), "log/x");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_cannot_be_an_object_does_not_stop_a_listing() {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::symlink;
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("remote");
        std::fs::create_dir(&root).unwrap();
        let folder = Folder::open(&root).unwrap();
        folder.put(&Path::from("log/0/a"), "x".into()).await.unwrap();
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"log/caf\xe9")), "x").unwrap();
        std::fs::create_dir(root.join(std::ffi::OsStr::from_bytes(b"log/\xff"))).unwrap();
        symlink("self", root.join("log/self")).unwrap();
        symlink("..", root.join("log/up")).unwrap();
        symlink("nowhere", root.join("log/0/nothing")).unwrap();
        // A circle of two; each is followed once, and leads to objects that are there.
        let elsewhere = parent.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("b"), "x").unwrap();
        symlink(&elsewhere, root.join("log/1")).unwrap();
        symlink(root.join("log"), elsewhere.join("back")).unwrap();
        assert_eq!(listed(&folder, "log", "").await, ["log/0/a", "log/1/b"]);
        let level = folder.list_with_delimiter(Some(&Path::from("log"))).await.unwrap();
        let mut directories: Vec<&str> = level.common_prefixes.iter().map(AsRef::as_ref).collect();
        directories.sort_unstable();
        assert_eq!(directories, ["log/0", "log/1"]);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn linking_in_place_works_below_a_path_that_is_not_utf8() {
        use std::os::unix::ffi::OsStrExt;
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9 #1"));
        std::fs::create_dir(&root).unwrap();
        let folder = Folder::open(&root).unwrap();
        let (stage, key) = (Path::from("tmp/x"), Path::from("log/0/y"));
        folder.put(&stage, "x".into()).await.unwrap();
        folder.copy_if_not_exists(&stage, &key).await.unwrap();
        let again = folder.copy_if_not_exists(&stage, &key).await.unwrap_err();
        assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");
    }
}
