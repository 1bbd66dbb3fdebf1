//! Databases made by stock SQLite, and objects made from them by the codecs.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anabranch_format::*;

/// Runs a program to its success and gives its output; the programs must be installed.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("{command:?} must be installed: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// Runs statements in the stock `sqlite3` program.
pub(crate) fn sqlite3(db: &Path, statements: &str) -> String {
    run(Command::new("sqlite3")
        .args(["-batch", "-bail", "-cmd", "PRAGMA synchronous=OFF"])
        .arg(db)
        .arg(statements))
}

/// Everything in the database as text.
pub(crate) fn dump(db: &Path) -> String {
    sqlite3(db, ".dump")
}

/// What `zstd -d` makes of an object.
pub(crate) fn zstd_d(object: &[u8], dir: &Path) -> Vec<u8> {
    let packed = dir.join("object.zst");
    let plain = dir.join("object");
    std::fs::write(&packed, object).unwrap();
    run(Command::new("zstd").args(["-d", "-q", "-f", "-o"]).arg(&plain).arg(&packed));
    std::fs::read(&plain).unwrap()
}

/// The pages of one state of a database, as the log holds them. The lock page is out of reach here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub(crate) page_size: PageSize,
    pub(crate) pages: Vec<Vec<u8>>,
}

impl Image {
    pub(crate) fn empty(page_size: PageSize) -> Self {
        Image { page_size, pages: Vec::new() }
    }

    /// Reads a database file that nobody has open.
    pub(crate) fn read(db: &Path, cookie: u32) -> Self {
        let file = std::fs::read(db).unwrap();
        let one = PageOne::read(&file).unwrap();
        let mut pages: Vec<_> = file.chunks(one.page_size.bytes()).map(<[u8]>::to_vec).collect();
        let size = pages.len() as u32;
        canonicalise_page_one(&mut pages[0], cookie, size);
        Image { page_size: one.page_size, pages }
    }

    pub(crate) fn size(&self) -> u32 {
        self.pages.len() as u32
    }

    pub(crate) fn checksum(&self) -> DbChecksum {
        let mut sum = DbChecksum::EMPTY;
        for (pgno, page) in self.numbered() {
            sum.toggle(PageChecksum::of(pgno, page));
        }
        sum
    }

    pub(crate) fn numbered(&self) -> impl Iterator<Item = (Pgno, &[u8])> {
        self.pages.iter().zip(1..).map(|(page, n)| (Pgno::new(n).unwrap(), &page[..]))
    }

    /// Puts the pages of a delta in.
    pub(crate) fn apply(&mut self, source: &mut dyn PageSource, size: u32) {
        self.pages.resize(size as usize, vec![0; self.page_size.bytes()]);
        let mut page = vec![0; self.page_size.bytes()];
        while let Some(pgno) = source.next_page(&mut page).unwrap() {
            self.pages[pgno.get() as usize - 1].copy_from_slice(&page);
        }
    }

    pub(crate) fn write(&self, db: &Path) {
        std::fs::write(db, self.pages.concat()).unwrap();
    }
}

fn metadata(kind: Kind, before: &Image, after: &Image, lsn: (u64, u64)) -> Metadata {
    Metadata {
        version: FORMAT_VERSION,
        kind,
        database: "0123456789abcdef0123".parse().unwrap(),
        lsn: (Lsn::new(lsn.0), Lsn::new(lsn.1)),
        generation: (1, Lsn::new(1)),
        next_generation: None,
        push: Some("00ff00ff00ff00ff".parse().unwrap()),
        writer: "a1b2c3d4a1b2c3d4".parse().unwrap(),
        time: Micros(1_795_473_392_123_456),
        clock: None,
        page_size: after.page_size,
        pages: (before.size(), after.size()),
        sum: (before.checksum(), after.checksum()),
        frames: None,
        transactions: None,
        healed: None,
        chunk: None,
        body: None,
    }
}

/// The push from one state to the next: metadata and body.
pub(crate) fn segment(before: &Image, after: &Image, at: u64) -> (Metadata, Vec<u8>) {
    let mut encoder = DeltaEncoder::new(Vec::new(), after.page_size, Lsn::new(at + 1))
        .unwrap()
        .growing_from(before.size());
    for (pgno, page) in after.numbered() {
        let old = before.pages.get(pgno.get() as usize - 1);
        if pgno == Pgno::ONE || old.map(Vec::as_slice) != Some(page) {
            encoder.page(pgno, page).unwrap();
        }
    }
    let encoded = encoder.finish(after.size()).unwrap();
    (metadata(Kind::Segment, before, after, (at + 1, at + encoded.frames)), encoded.sink)
}

/// An object as it stands in a store.
pub(crate) fn object(metadata: &Metadata, body: &[u8]) -> Vec<u8> {
    [&metadata.encode().unwrap()[..], body].concat()
}

/// The snapshot of a state.
pub(crate) fn snapshot(image: &Image, at: u64, chunk: u32) -> (Metadata, Vec<u8>) {
    let mut metadata = metadata(Kind::Snapshot, image, image, (at, at));
    metadata.chunk = Some(chunk);
    let mut writer = SnapshotWriter::new(Vec::new(), &metadata).unwrap();
    for (pgno, page) in image.numbered() {
        writer.page(pgno, page).unwrap();
    }
    (metadata, writer.finish().unwrap())
}

/// A database by stock SQLite that goes through some states: it grows, changes, shrinks and grows.
/// After each, its image and its content as text.
pub(crate) fn history(dir: &Path, page_size: u32) -> Vec<(Image, String)> {
    let db: PathBuf = dir.join(format!("history-{page_size}.db"));
    let rows = "INSERT INTO words(word) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 \
                FROM n WHERE i < 2000) SELECT hex(i * 7919 % 104729) || ' and some text' FROM n;";
    let steps = [
        format!("CREATE TABLE words(id INTEGER PRIMARY KEY, word TEXT); {rows}"),
        "UPDATE words SET word = upper(word) || '!' WHERE id % 500 = 3;".to_owned(),
        "CREATE INDEX by_word ON words(word); INSERT INTO words VALUES(100000, zeroblob(90000));"
            .to_owned(),
        "DELETE FROM words WHERE id > 300; VACUUM;".to_owned(),
        format!("ALTER TABLE words ADD COLUMN extra DEFAULT 5; {rows}"),
    ];
    sqlite3(&db, &format!("PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; VACUUM;"));
    let mut states = Vec::new();
    for (cookie, step) in (1..).zip(steps) {
        sqlite3(&db, &step);
        states.push((Image::read(&db, cookie), dump(&db)));
    }
    assert!(states[3].0.size() < states[2].0.size(), "it shrinks");
    states
}
