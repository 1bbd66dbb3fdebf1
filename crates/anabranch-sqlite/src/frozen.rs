//! A database that nobody else has open, read beneath SQLite: the file and its `-wal` apart.
//!
//! For taking over a file whose `-wal` means something in itself: frame k of it is frame k of a log
//! elsewhere. SQLite shows only what both add up to, and the last one to close a database ordinarily
//! copies the `-wal` into it and deletes it. So:
//!
//! - one connection locks the database against everybody (`locking_mode = EXCLUSIVE`), does not
//!   checkpoint when it closes, and is used for nothing else;
//! - file and `-wal` are then read directly. The handle on the file is closed after the connection:
//!   before, it would drop the connection's locks.
//!
//! Nothing is written, but for what SQLite itself rolls back after a crash.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_format::{
    FRAME_HEADER_BYTES, FrameHeader, PageOne, PageSize, Pgno, WAL_HEADER_BYTES, WalError,
    WalReader, frame_bytes,
};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::error::FileError;
use crate::live::{check_is_file, connect, sqlite_error, wal_of};

/// See the module.
#[derive(Debug)]
pub struct Frozen {
    /// Holds the locks; declared first, so that it closes first.
    _conn: Connection,
    file: File,
    wal: Option<File>,
    path: PathBuf,
    page_one: PageOne,
    pages: u32,
}

/// Told of each committed frame of the `-wal`: its number from 1, header and page.
pub type EachFrame<'a> = dyn FnMut(u32, &FrameHeader, &[u8]) + 'a;

impl Frozen {
    /// Locks the database at `path` (resolved) against everybody else; [`FileError::Busy`] if somebody
    /// has it open for longer than `busy`.
    pub fn open(path: &Path, busy: Duration) -> Result<Self, FileError> {
        check_is_file(path)?;
        let conn = connect(path, busy)?;
        let lock = || -> rusqlite::Result<()> {
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            conn.pragma_update(None, "locking_mode", "exclusive")?;
            conn.execute_batch("BEGIN EXCLUSIVE")?;
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        };
        lock().map_err(|e| sqlite_error(path, "opening it alone", busy, e))?;
        let reading = |source| FileError::Io { path: path.into(), what: "reading", source };
        let mut file = File::open(path).map_err(reading)?;
        let mut start = vec![0; anabranch_format::DB_HEADER_BYTES];
        file.read_exact(&mut start).map_err(reading)?;
        let page_one = PageOne::read(&start)
            .map_err(|source| FileError::PageOne { path: path.into(), source })?;
        let length = file.metadata().map_err(reading)?.len();
        let pages = u32::try_from(length / u64::from(page_one.page_size.get()));
        let wal = match wal_of(path).map(File::open) {
            Some(Ok(wal)) => Some(wal),
            Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => return Err(reading(e)),
            _ => None,
        };
        Ok(Frozen {
            _conn: conn,
            file,
            wal,
            path: path.into(),
            page_one,
            pages: pages.unwrap_or(u32::MAX),
        })
    }

    /// The database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Page size.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_one.page_size
    }

    /// The header in the file itself, without the `-wal`.
    #[must_use]
    pub fn page_one(&self) -> &PageOne {
        &self.page_one
    }

    /// Pages in the file itself, without the `-wal`.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    fn reading(&self, source: std::io::Error) -> FileError {
        FileError::Io { path: self.path.clone(), what: "reading", source }
    }

    /// Reads a page of the file itself.
    pub fn page(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<(), FileError> {
        let at = u64::from(pgno.get() - 1) * u64::from(self.page_size().get());
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(page));
        read.map_err(|e| self.reading(e))
    }

    /// Reads the page in frame `frame` of the `-wal`, one of those that were told.
    pub fn frame_page(&mut self, frame: u32, page: &mut [u8]) -> Result<(), FileError> {
        let at = WAL_HEADER_BYTES as u64
            + u64::from(frame.saturating_sub(1)) * frame_bytes(self.page_size())
            + FRAME_HEADER_BYTES as u64;
        let Some(wal) = &mut self.wal else {
            return Err(self.reading(std::io::ErrorKind::NotFound.into()));
        };
        let read = wal.seek(SeekFrom::Start(at)).and_then(|_| wal.read_exact(page));
        read.map_err(|e| self.reading(e))
    }

    /// Tells `each` of every frame that is valid, committed or not; answers how many are committed.
    pub fn frames(&mut self, each: &mut EachFrame<'_>) -> Result<u32, FileError> {
        let page_size = self.page_size();
        let Some(wal) = &mut self.wal else { return Ok(0) };
        let rewound = wal.seek(SeekFrom::Start(0)).map(|_| BufReader::with_capacity(1 << 20, wal));
        let source = match rewound {
            Ok(source) => source,
            Err(e) => return Err(self.reading(e)),
        };
        let failed = |e: WalError| FileError::Io {
            path: self.path.clone(),
            what: "reading the -wal of",
            source: std::io::Error::other(e),
        };
        let mut wal = match WalReader::new(source) {
            Ok(wal) if wal.header().page_size == page_size => wal,
            // SQLite takes such a file for an empty one, too.
            Ok(_) | Err(WalError::NotAWal { .. } | WalError::HeaderChecksum) => return Ok(0),
            Err(e) => return Err(failed(e)),
        };
        let mut page = vec![0; page_size.bytes()];
        let (mut number, mut committed) = (0u32, 0);
        loop {
            let header = match wal.next_frame(&mut page) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(committed),
                Err(e) if e.ends_live_wal() => return Ok(committed),
                Err(e) => return Err(failed(e)),
            };
            number = number
                .checked_add(1)
                .ok_or_else(|| failed(WalError::Truncated { frame: u64::from(u32::MAX) }))?;
            each(number, &header, &page);
            if header.is_commit() {
                committed = number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Duration = Duration::from_millis(20);

    fn written(path: &Path) -> Connection {
        let conn = Connection::open(path).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(v);
             INSERT INTO t VALUES (1)",
        )
        .unwrap();
        conn
    }

    #[test]
    fn file_and_wal_are_read_apart_and_stay_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let conn = written(&path);
        assert!(matches!(Frozen::open(&path, BUSY), Err(FileError::Busy { .. })));
        conn.close().unwrap();
        let wal = wal_of(&path).unwrap();
        let before = (std::fs::read(&path).unwrap(), std::fs::read(&wal).unwrap());
        let mut frozen = Frozen::open(&path, BUSY).unwrap();
        assert_eq!((frozen.pages(), frozen.page_size()), (1, PageSize::DEFAULT));
        let (mut seen, mut page) = (Vec::new(), vec![0; 4096]);
        let frames = frozen
            .frames(&mut |number, header, page| {
                seen.push((number, header.pgno, header.commit_size, page.to_vec()));
            })
            .unwrap();
        assert_eq!(frames, 3);
        assert_eq!(seen.iter().map(|f| f.2).collect::<Vec<_>>(), [0, 2, 2]);
        for (number, _, _, image) in &seen {
            frozen.frame_page(*number, &mut page).unwrap();
            assert_eq!(page, *image);
        }
        frozen.page(Pgno::ONE, &mut page).unwrap();
        assert_eq!(page, before.0);
        let other = Connection::open(&path).unwrap();
        other.busy_timeout(BUSY).unwrap();
        assert!(other.query_row("SELECT v FROM t", [], |_| Ok(())).is_err(), "locked out");
        drop(other);
        drop(frozen);
        assert_eq!((std::fs::read(&path).unwrap(), std::fs::read(&wal).unwrap()), before);
        let conn = Connection::open(&path).unwrap();
        conn.query_row("SELECT v FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    }

    #[test]
    fn without_a_wal_there_are_no_frames() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        written(&path).close().unwrap();
        std::fs::remove_file(wal_of(&path).unwrap()).unwrap();
        let mut frozen = Frozen::open(&path, BUSY).unwrap();
        assert_eq!(frozen.frames(&mut |_, _, _| panic!("a frame")).unwrap(), 0);
    }
}
