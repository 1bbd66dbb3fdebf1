//! `inspect`: explains one file, and checks every checksum in it.
//!
//! Owns the recognition of kinds by content, not by name. Reads only; in constant memory, but for
//! eight bytes a frame if they are to be listed. Damage is a finding, not an error: whatever could
//! be read is shown, the first damaged frame, page or chunk is named, and the exit code is 1.

mod database;
mod findings;
mod object;
mod plain;
mod snapshot;
mod wal;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anabranch_format::{SKIPPABLE_MAGIC, SQLITE_MAGIC};

pub(crate) use self::database::database_checksum;
use self::findings::{Explained, Findings};
use crate::args::Inspect;
use crate::failure::Failure;
use crate::output::Outcome;

/// As many bytes as tell the kinds apart.
const MAGIC_BYTES: usize = 16;

const ZSTD_MAGIC: u32 = 0xFD2F_B528;
const WAL_MAGIC: u32 = 0x377f_0682;

pub(crate) async fn inspect(args: Inspect) -> Result<Outcome, Failure> {
    let work = move || explain(&args.path, args.frames);
    let explained =
        tokio::task::spawn_blocking(work).await.map_err(|e| Failure::Panicked(e.to_string()))??;
    let name = explained.path.clone();
    Ok(match explained.damage() {
        Some(damage) => {
            let summary = format!("{name} is damaged: {damage}");
            Outcome::damaged(explained, summary)
        }
        None => Outcome::done(explained),
    })
}

/// The error for what the system says about `path`.
fn reading(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |source| Failure::File { what: "reading", path: path.to_owned(), source }
}

/// Reads until `buf` is full or the source ends; answers how much was read.
fn read_up_to(source: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match source.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

enum Kind {
    Wal,
    Object,
    Zstd,
    Database,
    Json,
    Empty,
}

/// Recognises a file by its first bytes.
fn kind_of(start: &[u8]) -> Option<Kind> {
    if start.is_empty() {
        return Some(Kind::Empty);
    }
    if start == SQLITE_MAGIC {
        return Some(Kind::Database);
    }
    let word: [u8; 4] = *start.first_chunk()?;
    if u32::from_be_bytes(word) & !1 == WAL_MAGIC {
        return Some(Kind::Wal);
    }
    match u32::from_le_bytes(word) {
        SKIPPABLE_MAGIC => Some(Kind::Object),
        ZSTD_MAGIC => Some(Kind::Zstd),
        _ if start.trim_ascii_start().first() == Some(&b'{') => Some(Kind::Json),
        _ => None,
    }
}

fn explain(path: &Path, list: bool) -> Result<Explained, Failure> {
    if path.is_dir() {
        let path = path.display();
        return Err(Failure::Usage(format!("{path} is a folder: name one of the files in it")));
    }
    let mut file = File::open(path).map_err(reading(path))?;
    let bytes = file.metadata().map_err(reading(path))?.len();
    let mut start = [0; MAGIC_BYTES];
    let read = read_up_to(&mut file, &mut start).map_err(reading(path))?;
    // Closed before SQLite opens it: closing a file drops the locks that this process has on it.
    drop(file);
    let mut findings = Findings::new(list);
    match kind_of(&start[..read]) {
        Some(Kind::Wal) => wal::explain_live(path, bytes, &mut findings)?,
        Some(Kind::Object) => object::explain(path, bytes, &mut findings)?,
        Some(Kind::Zstd) => plain::explain_zstd(path, &mut findings)?,
        Some(Kind::Database) => database::explain(path, &mut findings)?,
        Some(Kind::Json) => plain::explain_json(path, &mut findings)?,
        Some(Kind::Empty) => plain::explain_empty(path, &mut findings),
        None => unknown(path, &mut findings)?,
    }
    Ok(Explained::new(path, bytes, findings))
}

/// A file that begins like nothing known: damage if its name says what it should be.
fn unknown(path: &Path, findings: &mut Findings) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let expected = [
        (".wal.zst", "segment or delta"),
        (".db.zst", "snapshot"),
        (".zst", "zstd stream"),
        (".json", "JSON document"),
        ("-wal", "WAL"),
        ("-anabranch", "sidecar"),
        (".db", "SQLite database"),
    ];
    let Some((_, kind)) = expected.iter().find(|(suffix, _)| name.ends_with(suffix)) else {
        return Err(Failure::Usage(format!(
            "{} is none of the files that Anabranch knows: WAL, segment, delta, snapshot, SQLite \
             database, sidecar",
            path.display()
        )));
    };
    findings.kind = kind;
    findings.damage(format!("its first bytes are not those of a {kind}"));
    Ok(())
}
