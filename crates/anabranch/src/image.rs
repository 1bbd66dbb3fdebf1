//! Writing a whole database into a new file: what clone and restore have in common.
//!
//! The pages go into a temporary file beside the target, which takes its place, fsynced and
//! verified, in one step that never replaces a file that is there. A crash leaves nothing but the
//! temporary file; it is locked while somebody writes it, and the next attempt removes those that
//! nobody holds. Constant memory.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anabranch_format::{DbChecksum, PageSize, Pgno};
use anabranch_sqlite::{PageEntry, PageHasher, WriteBehind};
use anabranch_store::{Fetched, Progress, Step};
use tempfile::NamedTempFile;

use crate::error::Error;
use crate::page_count::Pages;
use crate::read_ahead::ReadAhead;
use crate::sidecar::beside;

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 1 << 20;

/// So much is written before the disk is told to take it.
const SYNC_BYTES: u64 = 32 << 20;
/// Content that is unpacked ahead.
const BYTES_AHEAD: u64 = 2 << 20;

/// Told of each page, ascending: number and entry.
pub(crate) type EachPage<'a> = dyn FnMut(Pgno, PageEntry) -> Result<(), Error> + 'a;

/// A finished image under its temporary name; removed unless it is put into place.
#[derive(Debug)]
pub(crate) struct Image {
    file: NamedTempFile,
    target: PathBuf,
    /// Page 1's schema cookie and change counter.
    pub(crate) cookie: u32,
    pub(crate) change_counter: u32,
    pub(crate) page_size: PageSize,
    pub(crate) pages: u32,
    pub(crate) sum: DbChecksum,
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// Fails if anything stands at `target`, a broken symbolic link included; or if a database that once
/// was there has left a log beside it, which SQLite would play into the new one.
pub(crate) fn refuse_existing(target: &Path) -> Result<(), Error> {
    if length_of(target)?.is_some() {
        return Err(Error::TargetExists { path: target.to_owned() });
    }
    for suffix in ["-wal", "-journal"] {
        let beside = beside(target, suffix);
        if length_of(&beside)?.is_some_and(|length| length > 0) {
            return Err(Error::LeftBehind { path: target.to_owned(), beside });
        }
    }
    Ok(())
}

/// The length of what stands at `path`, if anything does.
fn length_of(path: &Path) -> Result<Option<u64>, Error> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: "looking at", path: path.to_owned(), source }),
    }
}

/// Beginning of the temporary names for `target`.
fn part_prefix(target: &Path) -> Result<OsString, Error> {
    let name = target
        .file_name()
        .ok_or_else(|| Error::Usage(format!("{} does not name a file", target.display())))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".anabranch-part-");
    Ok(hidden)
}

/// Creates and locks a temporary file for `target`, and removes those that a crash left.
pub(crate) fn create_part(target: &Path) -> Result<NamedTempFile, Error> {
    let (folder, prefix) = (folder_of(target), part_prefix(target)?);
    if let Ok(entries) = std::fs::read_dir(folder) {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let ours = name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
            // Whoever writes one holds its lock: what can be locked is nobody's any more.
            if ours && File::open(entry.path()).is_ok_and(|part| part.try_lock().is_ok()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let part = builder.tempfile_in(folder).map_err(io_error("creating a file in", folder))?;
    part.as_file().lock().map_err(io_error("locking", part.path()))?;
    Ok(part)
}

/// The folder that `target` lies in.
pub(crate) fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

impl Image {
    /// Writes the whole database `fetched` beside `target`, telling `each_page` of every page;
    /// checks it against the checksum that the log states, if it states one.
    pub(crate) fn write(
        fetched: Fetched,
        target: &Path,
        hasher: PageHasher,
        progress: &Progress,
        each_page: &mut EachPage<'_>,
    ) -> Result<Self, Error> {
        refuse_existing(target)?;
        let (lsn, page_size) = (fetched.to, fetched.page_size);
        let (pages, expected) = (fetched.pages.1, fetched.stated_sum());
        let mut image = Image {
            file: create_part(target)?,
            target: target.to_owned(),
            cookie: 0,
            change_counter: 0,
            page_size,
            pages,
            sum: DbChecksum::EMPTY,
        };
        image.fill(fetched, hasher, progress, each_page)?;
        if let Some(expected) = expected.filter(|expected| *expected != image.sum) {
            let (found, expected) = (image.sum.to_string(), expected.to_string());
            return Err(Error::Mismatch { lsn, found, expected });
        }
        image.file.as_file().sync_all().map_err(io_error("writing", image.file.path()))?;
        Ok(image)
    }

    fn fill(
        &mut self,
        fetched: Fetched,
        hasher: PageHasher,
        progress: &Progress,
        each_page: &mut EachPage<'_>,
    ) -> Result<(), Error> {
        let path = self.file.path().to_owned();
        let failed = || io_error("writing", &path);
        let mut source = ReadAhead::hashed(fetched, hasher, BYTES_AHEAD)?;
        let disk = self.file.as_file().try_clone().and_then(WriteBehind::start).map_err(failed())?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, self.file.as_file());
        let mut unsynced = 0;
        let total = u64::from(self.pages) * u64::from(self.page_size.get());
        let mut counted = Pages::of(progress, Step::Writing, total, self.page_size);
        let mut next = 1;
        while let Some(pgno) = source.advance().map_err(Error::from_pages)? {
            let (page, entry) = (source.page(), source.entry());
            if pgno.get() != next {
                // Only the lock page is left out; it stays a hole.
                let at = u64::from(pgno.get() - 1) * u64::from(self.page_size.get());
                out.seek(SeekFrom::Start(at)).map_err(failed())?;
            }
            if pgno == Pgno::ONE {
                self.cookie = cookie_of(page);
                self.change_counter = u32_at(page, 24);
            }
            self.sum.toggle(entry.shared);
            out.write_all(page).map_err(failed())?;
            each_page(pgno, entry)?;
            unsynced += page.len() as u64;
            if unsynced >= SYNC_BYTES {
                disk.sync_soon();
                unsynced = 0;
            }
            counted.one();
            next = pgno.get() + 1;
        }
        out.flush().map_err(failed())?;
        drop(out);
        disk.finish().map_err(failed())?;
        self.file.as_file().set_len(total).map_err(failed())
    }

    /// The file as it stands now, under its temporary name.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Puts the file into its place, durably, without ever replacing another.
    pub(crate) fn place(self) -> Result<(), Error> {
        let Image { file, target, .. } = self;
        refuse_existing(&target)?;
        if let Err(e) = file.persist_noclobber(&target) {
            return Err(match e.error.kind() {
                io::ErrorKind::AlreadyExists => Error::TargetExists { path: target },
                _ => Error::Io { what: "creating", path: target, source: e.error },
            });
        }
        sync_folder(folder_of(&target))
    }
}

/// Makes new names in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        let handle = File::open(folder).map_err(io_error("opening", folder))?;
        handle.sync_all().map_err(io_error("syncing", folder))?;
    }
    Ok(())
}

/// The schema cookie on page 1 (bytes 40..44), 0 if the page is too short.
pub(crate) fn cookie_of(page_one: &[u8]) -> u32 {
    u32_at(page_one, 40)
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    page.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}
