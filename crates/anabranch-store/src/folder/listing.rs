//! Listings of a folder.

use std::collections::HashSet;
use std::fs::DirEntry;
use std::io;
use std::path::{Path as FsPath, PathBuf};

use object_store::ObjectMeta;
use object_store::path::Path;

use super::{leads_nowhere, path_of, staged_for};

/// What a directory holds that can be, or hold, an object.
pub(super) enum Entry {
    Object(ObjectMeta),
    /// Its key.
    Directory(String),
}

/// A listing of the objects whose keys are greater than `after`.
pub(super) struct Listing {
    root: PathBuf,
    after: String,
    /// Directories that links led to: each is followed once, so that no circle is.
    followed: HashSet<PathBuf>,
}

impl Listing {
    pub(super) fn new(root: PathBuf, after: String) -> Self {
        Listing { root, after, followed: HashSet::new() }
    }

    pub(super) fn all_below(mut self, prefix: String) -> io::Result<Vec<ObjectMeta>> {
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
    pub(super) fn entries(&mut self, key: &str) -> io::Result<Vec<Entry>> {
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
        let Some(name) = name.to_str() else { return Ok(None) };
        let kind = entry.file_type()?;
        // Most entries of a long log; nothing more is done for them.
        if kind.is_file() && !self.is_after(directory, name) {
            return Ok(None);
        }
        if staged_for(name).is_some() {
            return Ok(None);
        }
        let key = if directory.is_empty() { name.into() } else { format!("{directory}/{name}") };
        let Ok(location) = Path::parse(&key) else { return Ok(None) };
        if kind.is_dir() {
            return Ok(self.reaches(&key).then_some(Entry::Directory(key)));
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

    /// Whether the key of `name` in `directory` is greater than `after`.
    pub(super) fn is_after(&self, directory: &str, name: &str) -> bool {
        let separator = if directory.is_empty() { "" } else { "/" };
        let key = [directory, separator, name].into_iter().flat_map(str::bytes);
        match self.after.strip_prefix(directory).and_then(|rest| rest.strip_prefix(separator)) {
            Some(after) => name > after,
            None => key.gt(self.after.bytes()),
        }
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
