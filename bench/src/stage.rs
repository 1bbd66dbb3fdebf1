//! The stage: folders, prepared databases, images of a database, objects of a remote.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anabranch::Options;
use anabranch::blocking::Replica;

use crate::Result;
use crate::app::App;
use crate::words::Words;

/// The default page size of stock SQLite.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Where things lie.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// The work folder.
    pub(crate) dir: PathBuf,
    /// The program under test.
    pub(crate) program: PathBuf,
    /// How often a measurement is repeated.
    pub(crate) rounds: usize,
    /// The Litestream program, if there is one.
    pub(crate) litestream: Option<PathBuf>,
    /// The driver of the official libSQL client, if it was built.
    pub(crate) libsql_client: Option<PathBuf>,
}

impl Stage {
    /// An empty folder for one workload.
    pub(crate) fn scene(&self, name: &str) -> Result<Scene> {
        let dir = self.dir.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(Scene { dir })
    }

    /// A database of about `bytes` bytes with rows of `row` bytes, made once and kept.
    pub(crate) fn prepared(&self, bytes: u64, row: usize) -> Result<(PathBuf, u64)> {
        let cache = self.dir.join("prepared");
        fs::create_dir_all(&cache)?;
        let path = cache.join(format!("{bytes}-{row}.db"));
        // A row takes about 9 bytes more than its text: header, row id, cell pointer. A page has
        // room for whole rows only.
        let per_page = (PAGE_BYTES - 8) / (row + 9);
        let rows = bytes / PAGE_BYTES as u64 * per_page as u64;
        if path.exists() {
            return Ok((path, rows));
        }
        let unfinished = cache.join("unfinished.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(with_suffix(&unfinished, suffix));
        }
        let mut app = App::open(&unfinished)?;
        app.run(SCHEMA)?;
        let mut words = Words::new(bytes ^ row as u64);
        app.feed(|out| {
            writeln!(out, "BEGIN;")?;
            for _ in 0..rows {
                writeln!(out, "INSERT INTO t(body) VALUES('{}');", words.json(row))?;
            }
            writeln!(out, "COMMIT;")
        })?;
        app.close()?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &path)?;
        Ok((path, rows))
    }
}

/// The table of every workload.
pub(crate) const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT);";

/// The folder of one workload.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
}

impl Scene {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A database for the application: a copy of `prepared`, or an empty table.
    pub(crate) fn database(&self, name: &str, prepared: Option<&Path>) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(prepared) = prepared {
            fs::copy(prepared, &path)?;
        } else {
            let mut app = App::open(&path)?;
            app.run(SCHEMA)?;
            app.close()?;
        }
        Ok(path)
    }

    /// Publishes `db` to a new folder.
    pub(crate) fn publish(&self, db: &Path, remote: &str) -> Result<(Replica, PathBuf)> {
        let folder = self.path(remote);
        let (replica, _) = Replica::init(db, folder.as_os_str(), Options::default())?;
        Ok((replica, folder))
    }

    /// Clones `remote` `count` times.
    pub(crate) fn clones(&self, remote: &Path, prefix: &str, count: usize) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for n in 0..count {
            let file = self.path(&format!("{prefix}{n}.db"));
            Replica::clone_from(remote.as_os_str(), &file, Options::default())?;
            all.push(file);
        }
        Ok(all)
    }

    /// The database as one file without a `-wal`: copies both and lets SQLite join the copies.
    /// Nobody may be writing.
    pub(crate) fn image(&self, db: &Path, name: &str) -> Result<PathBuf> {
        let image = self.path(name);
        fs::copy(db, &image)?;
        let wal = with_suffix(db, "-wal");
        if wal.exists() {
            fs::copy(&wal, with_suffix(&image, "-wal"))?;
        }
        let conn = rusqlite::Connection::open(&image)?;
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        conn.close().map_err(|(_, e)| e)?;
        Ok(image)
    }

    /// Removes everything; what was measured has been said.
    pub(crate) fn clear(self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.dir)?)
    }
}

/// `path` with `suffix` at its end.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a replica: the database and what lies beside it.
pub(crate) fn remove_replica(db: &Path) {
    for suffix in ["", "-wal", "-shm", "-anabranch", "-anabranch-wal", "-anabranch-shm"] {
        let _ = fs::remove_file(with_suffix(db, suffix));
    }
}

/// Length of a file; 0 if there is none.
pub(crate) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Writes out everything that waits, so that nobody's fsync pays for what came before.
pub(crate) fn settle_disk() -> Result<()> {
    Command::new("sync").status()?;
    Ok(())
}

/// What tells one version of an object from another.
type Objects = BTreeMap<PathBuf, (u64, SystemTime)>;

/// The objects below `root`.
pub(crate) fn objects(root: &Path) -> Result<Objects> {
    let mut all = Objects::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            // A program that runs meanwhile removes its temporary files.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                all.insert(entry.path(), (metadata.len(), metadata.modified()?));
            }
        }
    }
    Ok(all)
}

/// The objects that `after` has and `before` has not, or not like this, with their lengths.
pub(crate) fn new_objects(before: &Objects, after: &Objects) -> Vec<(PathBuf, u64)> {
    let is_new =
        |(path, version): &(&PathBuf, &(u64, SystemTime))| before.get(*path) != Some(*version);
    after.iter().filter(is_new).map(|(path, version)| (path.clone(), version.0)).collect()
}

/// The pages of `after` that are not as in `before`.
pub(crate) fn changed_pages(before: &Path, after: &Path) -> Result<Vec<Vec<u8>>> {
    let mut old = BufReader::with_capacity(1 << 20, File::open(before)?);
    let mut new = BufReader::with_capacity(1 << 20, File::open(after)?);
    let (mut was, mut is) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
    let mut changed = Vec::new();
    let mut has_old = true;
    while read_page(&mut new, &mut is)? {
        has_old = has_old && read_page(&mut old, &mut was)?;
        if !has_old || was != is {
            changed.push(is.clone());
        }
    }
    Ok(changed)
}

fn read_page(from: &mut impl io::Read, page: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(page) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// The same pages through `zstd -3`, in bytes.
pub(crate) fn zstd_3(pages: &[Vec<u8>]) -> Result<u64> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3)?;
    encoder.include_checksum(true)?;
    for page in pages {
        encoder.write_all(page)?;
    }
    Ok(encoder.finish()?.len() as u64)
}

/// Reads a whole file in large pieces, and answers how many bytes it has.
pub(crate) fn read_through(path: &Path) -> Result<u64> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(total);
        }
        total += read as u64;
    }
}
