//! Database files as they lie on disk, judged by the stock `sqlite3` program.
//!
//! A replica is never opened where it lies: whoever closes a database last checkpoints it, and that
//! is exactly what breaks an official client's file. It is copied with its `-wal`, and the copy is
//! looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::PAGE_BYTES;

/// Fields of page 1 that each replica has for itself: the journal mode, the change counter, the
/// schema cookie, and who wrote last.
const LOCAL_FIELDS: [std::ops::Range<usize>; 4] = [18..20, 24..28, 40..44, 92..100];

/// The path of a file that stands beside the database.
#[must_use]
pub fn path_beside(db: &Path, suffix: &str) -> PathBuf {
    let mut path = db.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Runs SQL on the file itself with the stock `sqlite3` program; answers what it printed.
///
/// # Panics
///
/// If SQLite reports an error.
pub fn sqlite(db: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3")
        .args(["-batch", "-bail", "-noheader"])
        .arg(db)
        .arg(sql)
        .stdin(Stdio::null())
        .output()
        .expect("the program sqlite3 is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sqlite3 {}: {sql}: {said}", db.display());
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A copy of the database and its `-wal` in a folder of its own.
fn copied(db: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let copy = dir.path().join("copy.db");
    fs::copy(db, &copy).unwrap_or_else(|e| panic!("{}: {e}", db.display()));
    let wal = path_beside(db, "-wal");
    if wal.exists() {
        fs::copy(&wal, path_beside(&copy, "-wal")).expect("the -wal can be copied");
    }
    (dir, copy)
}

/// What a query answers on a copy of the database, one string for each row.
///
/// # Panics
///
/// If SQLite reports an error.
#[must_use]
pub fn rows(db: &Path, sql: &str) -> Vec<String> {
    let (_dir, copy) = copied(db);
    sqlite(&copy, sql).lines().map(str::to_owned).collect()
}

/// All pages of the database, with what its `-wal` holds and without the local fields of page 1.
///
/// # Panics
///
/// If the database does not pass `PRAGMA integrity_check`.
#[must_use]
pub fn checked_image(db: &Path) -> Vec<u8> {
    let (_dir, copy) = copied(db);
    let judged = sqlite(&copy, "PRAGMA integrity_check");
    assert_eq!(judged, "ok", "{}", db.display());
    sqlite(&copy, "PRAGMA wal_checkpoint(TRUNCATE)");
    let mut image = fs::read(&copy).expect("the copy can be read");
    for field in LOCAL_FIELDS {
        if let Some(bytes) = image.get_mut(field) {
            bytes.fill(0);
        }
    }
    image
}

/// Says where two images differ, if they do.
#[must_use]
pub fn first_difference(left: &[u8], right: &[u8]) -> Option<String> {
    if left.len() != right.len() {
        let pages = |image: &[u8]| image.len() / PAGE_BYTES;
        return Some(format!("{} pages against {}", pages(left), pages(right)));
    }
    let pages = left.chunks(PAGE_BYTES).zip(right.chunks(PAGE_BYTES));
    let differing: Vec<usize> =
        pages.enumerate().filter(|(_, (l, r))| l != r).map(|(i, _)| i + 1).collect();
    (!differing.is_empty()).then(|| format!("pages {differing:?} differ"))
}

/// Files in a folder that are none of the expected ones.
///
/// # Panics
///
/// If the folder cannot be read.
#[must_use]
pub fn stray_files(dir: &Path, expected: &[&str]) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the folder can be read");
    entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !expected.contains(&name.as_str()))
        .collect()
}
