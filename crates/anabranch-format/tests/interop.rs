//! What we write is read by stock `zstd`, `sqlite3` and Python; what stock SQLite writes is read by
//! us.
#![expect(clippy::cast_possible_truncation, reason = "test data is small")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anabranch_format::*;
use common::*;

/// A database and its `-wal` as they stand on disk while stock SQLite still has them open, and the
/// file that SQLite makes of both when it closes them.
struct Live {
    base: Vec<u8>,
    wal: Vec<u8>,
    closed: Vec<u8>,
}

fn live(dir: &Path, page_size: u32, statements: &str) -> Live {
    let db = dir.join("live.db");
    let (base, wal) = (dir.join("copy.db"), dir.join("copy.db-wal"));
    let script = format!(
        "PRAGMA synchronous=OFF; PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;\n\
         {statements}\n.shell cp '{}' '{}' && cp '{}-wal' '{}'\n",
        db.display(),
        base.display(),
        db.display(),
        wal.display()
    );
    let script_file = dir.join("script.sql");
    std::fs::write(&script_file, script).unwrap();
    run(Command::new("sqlite3")
        .args(["-batch", "-bail"])
        .arg(&db)
        .stdin(std::fs::File::open(script_file).unwrap()));
    assert!(!dir.join("live.db-wal").exists(), "the last connection deletes the WAL");
    Live {
        base: std::fs::read(base).unwrap(),
        wal: std::fs::read(wal).unwrap(),
        closed: std::fs::read(db).unwrap(),
    }
}

const WRITES: &str = "CREATE TABLE t(a INTEGER PRIMARY KEY, b);
    INSERT INTO t(b) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
        SELECT hex(i) || ' text' FROM n;
    UPDATE t SET b = 'changed' WHERE a % 100 = 0;
    DELETE FROM t WHERE a > 800;";

#[test]
fn a_wal_by_stock_sqlite_is_read_in_every_page_size() {
    for shift in 9..=16 {
        let dir = tempfile::tempdir().unwrap();
        let Live { mut base, wal, closed } = live(dir.path(), 1 << shift, WRITES);
        let mut reader = WalReader::new(&wal[..]).unwrap();
        let page_size = reader.header().page_size;
        assert_eq!(page_size.get(), 1 << shift);
        let mut page = vec![0; page_size.bytes()];
        let mut commits = 0;
        while let Some(frame) = reader.next_frame(&mut page).unwrap() {
            let at = (frame.pgno.get() as usize - 1) * page.len();
            base.resize(base.len().max(at + page.len()), 0);
            base[at..at + page.len()].copy_from_slice(&page);
            if frame.is_commit() {
                commits += 1;
                base.resize(frame.commit_size as usize * page.len(), 0);
            }
        }
        assert_eq!(commits, 4);
        assert_eq!(
            WAL_HEADER_BYTES as u64 + reader.frames() * frame_bytes(page_size),
            wal.len() as u64
        );
        assert!(base == closed, "page size {page_size}: our reading differs from SQLite's");
    }
}

#[test]
fn stock_transactions_that_repeat_a_page_are_read_as_a_segment() {
    // A cache of ten pages spills. Pages that are changed again are then written over in the WAL,
    // but for the last one of the transaction, which is written a second time with the commit.
    let dir = tempfile::tempdir().unwrap();
    let spilling = "BEGIN; UPDATE t SET b = b || ' and more text'; UPDATE t SET b = upper(b); \
                    UPDATE t SET b = lower(b) WHERE a IN (1, 800); COMMIT;";
    let statements = format!("{WRITES} PRAGMA cache_size=10; {spilling}");
    let Live { wal, .. } = live(dir.path(), 1024, &statements);
    let frames = (wal.len() - WAL_HEADER_BYTES) as u64 / frame_bytes(PageSize::new(1024).unwrap());
    let last = wal.len() - 1024 - FRAME_HEADER_BYTES;
    let size = FrameHeader::decode(wal[last..].first_chunk().unwrap()).unwrap().commit_size;

    let (image, _) = history(dir.path(), 1024).swap_remove(0);
    let (mut metadata, _) = segment(&Image::empty(image.page_size), &image, 0);
    metadata.lsn = (Lsn::new(1), Lsn::new(frames));
    metadata.pages = (0, size);
    metadata.transactions = Some(5);
    let object = object(&metadata, &zstd::bulk::compress(&wal, 3).unwrap());
    assert_eq!(zstd_d(&object, dir.path()), wal, "zstd gives the WAL back, byte by byte");

    let mut body = &object[..];
    let metadata = Metadata::decode(&mut body).unwrap();
    let mut reader = SegmentReader::new(body, &metadata).unwrap();
    let mut page = vec![0; 1024];
    let (mut seen, mut repeated, mut count) = (BTreeSet::new(), 0, 0);
    while let Some(frame) = reader.next_frame(&mut page).unwrap() {
        count += 1;
        repeated += u32::from(!seen.insert(frame.pgno));
        if frame.is_commit() {
            seen.clear();
        }
    }
    assert_eq!(count, frames);
    assert!(repeated > 0, "SQLite repeats a page when its cache has spilled");
}

/// Opens the database in Python, which brings its own way of opening, and gives the content.
fn python_dump(db: &Path) -> String {
    let script = "import sqlite3, sys\n\
        c = sqlite3.connect(sys.argv[1])\n\
        assert c.execute('PRAGMA integrity_check').fetchall() == [('ok',)]\n\
        print(c.execute('SELECT count(*), sum(length(word)), max(id) FROM words').fetchone())";
    run(Command::new("python3").args(["-c", script]).arg(db))
}

#[test]
fn a_segment_beside_a_base_image_is_a_wal_for_stock_sqlite() {
    for page_size in [512, 4096, 65536] {
        let dir = tempfile::tempdir().unwrap();
        let states = history(dir.path(), page_size);
        for (pair, at) in states.windows(2).zip(1..) {
            let [(before, _), (after, expected)] = pair else { unreachable!() };
            let (metadata, body) = segment(before, after, at);
            let object = object(&metadata, &body);
            let wal = zstd_d(&object, dir.path());
            // Starting Python takes its time: once for each page size is enough.
            for python in [false, true].into_iter().filter(|python| !python || at == 4) {
                let db = dir.path().join(format!("{page_size}-{at}-{python}.db"));
                before.write(&db);
                std::fs::write(db.with_extension("db-wal"), &wal).unwrap();
                if python {
                    let through_python = python_dump(&db);
                    let plain = dir.path().join("plain.db");
                    after.write(&plain);
                    assert_eq!(through_python, python_dump(&plain));
                } else {
                    assert_eq!(sqlite3(&db, "PRAGMA integrity_check"), "ok\n");
                    assert_eq!(&dump(&db), expected, "{page_size}, step {at}");
                }
                assert_eq!(std::fs::read(&db).unwrap(), after.pages.concat(), "page by page");
            }
            let mut ours = before.clone();
            let mut body = &object[..];
            let metadata = Metadata::decode(&mut body).unwrap();
            ours.apply(&mut DeltaReader::new(body, &metadata).unwrap(), metadata.pages.1);
            assert_eq!(&ours, after);
            assert_eq!(ours.checksum(), metadata.sum.1);
        }
    }
}

#[test]
fn a_merge_of_segments_is_a_wal_for_stock_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let states = history(dir.path(), 4096);
    let segments: Vec<_> =
        states.windows(2).zip(1..).map(|(pair, at)| segment(&pair[0].0, &pair[1].0, at)).collect();
    let (first, (last, expected)) = (&states[0].0, states.last().unwrap());
    let sources = segments.iter().map(|(m, b)| DeltaReader::new(&b[..], m).unwrap()).collect();
    let mut merge = Merge::new(sources, last.page_size, last.size());
    let mut encoder = DeltaEncoder::new(Vec::new(), last.page_size, Lsn::new(2))
        .unwrap()
        .growing_from(first.size());
    let mut page = vec![0; last.page_size.bytes()];
    while let Some(pgno) = merge.next_page(&mut page).unwrap() {
        encoder.page(pgno, &page).unwrap();
    }
    let db = dir.path().join("merged.db");
    first.write(&db);
    let body = encoder.finish(last.size()).unwrap().sink;
    std::fs::write(dir.path().join("merged.db-wal"), zstd_d(&body, dir.path())).unwrap();
    assert_eq!(sqlite3(&db, "PRAGMA integrity_check"), "ok\n");
    assert_eq!(&dump(&db), expected);
}

#[test]
fn a_snapshot_unpacks_to_the_database_file() {
    for page_size in [512, 4096, 65536] {
        let dir = tempfile::tempdir().unwrap();
        for (image, expected) in history(dir.path(), page_size) {
            let (metadata, object) = snapshot(&image, 9, page_size * 2);
            let db = dir.path().join("snapshot.db");
            std::fs::write(&db, zstd_d(&object, dir.path())).unwrap();
            assert_eq!(std::fs::read(&db).unwrap(), image.pages.concat());
            assert_eq!(sqlite3(&db, "PRAGMA integrity_check"), "ok\n");
            assert_eq!(dump(&db), expected);

            let layout = Layout::of(&metadata).unwrap();
            let tail = object.len() - layout.seek_table_bytes() as usize;
            let table = SeekTable::decode(&layout, &object[tail..], object.len() as u64).unwrap();
            let (chunk, within) = layout.locate(Pgno::new(image.size()).unwrap()).unwrap();
            let range = table.chunk_range(chunk).unwrap();
            let packed = &object[range.start as usize..range.end as usize];
            let unpacked = decode_chunk(&layout, chunk, packed).unwrap();
            assert_eq!(&unpacked[within], image.pages.last().unwrap());
        }
        python_dump(&dir.path().join("snapshot.db"));
    }
}

/// Pages of rows of JSON-like text of random words, from a table by stock SQLite.
fn pages_of_words(dir: &Path) -> Vec<Vec<u8>> {
    let mut state = 42u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let words: Vec<String> = (0..3000)
        .map(|_| (0..3 + random(7)).map(|_| char::from(b'a' + random(26) as u8)).collect())
        .collect();
    let mut script = String::from("PRAGMA synchronous=OFF; CREATE TABLE t(v); BEGIN;\n");
    for _ in 0..18_000 {
        let mut row = String::new();
        while row.len() < 130 {
            let [key, a, b] = [(); 3].map(|()| &words[random(3000) as usize]);
            row.push_str(&format!("\"{key}\":\"{a} {b}\","));
        }
        script.push_str(&format!("INSERT INTO t VALUES('{{{row}}}');\n"));
    }
    script.push_str("COMMIT;\n");
    let (db, script_file) = (dir.join("words.db"), dir.join("words.sql"));
    std::fs::write(&script_file, script).unwrap();
    let script = std::fs::File::open(script_file).unwrap();
    run(Command::new("sqlite3").args(["-batch", "-bail"]).arg(&db).stdin(script));
    Image::read(&db, 1).pages
}

#[test]
fn a_push_is_hardly_longer_than_its_pages_through_zstd() {
    let dir = tempfile::tempdir().unwrap();
    let all = pages_of_words(dir.path());
    // A multiple of nothing walks over the pages in no order that would compress well.
    let scattered = |n: usize| (1..=n).map(|i| 2 + i * 389 % (all.len() - 4));
    let plain = Image { page_size: PageSize::DEFAULT, pages: all.clone() };
    for count in [1, 2, 4, 50, 600] {
        let numbers: BTreeSet<usize> = scattered(count).collect();
        let pages: Vec<u8> = numbers.iter().flat_map(|&n| all[n].clone()).collect();
        let file = dir.path().join("pages");
        std::fs::write(&file, pages).unwrap();
        run(Command::new("zstd").args(["-3", "-q", "-f"]).arg(&file));
        let floor = std::fs::metadata(file.with_extension("zst")).unwrap().len();

        let at = 123_456;
        let mut encoder = DeltaEncoder::new(Vec::new(), plain.page_size, Lsn::new(at + 1)).unwrap();
        for &n in &numbers {
            encoder.page(Pgno::new(n as u32 + 1).unwrap(), &all[n]).unwrap();
        }
        let encoded = encoder.finish(plain.size()).unwrap();
        let (mut metadata, _) = segment(&plain, &plain, at);
        metadata.lsn.1 = Lsn::new(at + encoded.frames);
        let bytes = object(&metadata, &encoded.sink).len() as u64;
        assert!(bytes * 10 <= floor * 11, "{count} pages: {bytes} bytes for a floor of {floor}");
    }
}
