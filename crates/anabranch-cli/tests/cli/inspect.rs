//! `inspect` on good, truncated and bit-flipped files of every kind.

use std::fs;
use std::path::Path;

use anabranch_format::{
    DbChecksum, DeltaEncoder, FORMAT_VERSION, Kind, Lsn, Metadata, Micros, PageChecksum, PageSize,
    Pgno, Salts, SnapshotWriter, WalHeader, WalWriter, chunk_bytes,
};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde_json::Value;

use crate::yard::{Ended, Yard};

const SIZE: PageSize = PageSize::MIN;

fn metadata(kind: Kind, pages: u32, sum: DbChecksum) -> Metadata {
    let first = if kind == Kind::Snapshot { u64::from(pages) } else { 1 };
    Metadata {
        version: FORMAT_VERSION,
        kind,
        database: "0123456789abcdef".parse().unwrap(),
        lsn: (Lsn::new(first), Lsn::new(pages.into())),
        generation: (1, Lsn::new(1)),
        next_generation: None,
        push: Some("feed".parse().unwrap()),
        writer: "beef".parse().unwrap(),
        time: Micros(1_795_473_392_123_456),
        clock: None,
        page_size: SIZE,
        pages: (0, pages),
        sum: (DbChecksum::EMPTY, sum),
        frames: None,
        transactions: None,
        healed: None,
        chunk: (kind == Kind::Snapshot).then(|| chunk_bytes(SIZE, pages)),
        body: None,
    }
}

/// A page of which no two are alike, and which hardly compresses.
fn page(pgno: Pgno) -> Vec<u8> {
    let mut state = u64::from(pgno.get());
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..SIZE.bytes()).map(|_| next()).collect()
}

fn all_pages(pages: u32) -> (Vec<Pgno>, DbChecksum) {
    let numbers: Vec<Pgno> = (1..=pages).map(|n| Pgno::new(n).unwrap()).collect();
    let mut sum = DbChecksum::EMPTY;
    for &pgno in &numbers {
        sum.toggle(PageChecksum::of(pgno, &page(pgno)));
    }
    (numbers, sum)
}

/// The bytes of an object, and where its compressed part begins.
fn object(kind: Kind, pages: u32) -> (Vec<u8>, usize) {
    let (numbers, sum) = all_pages(pages);
    let metadata = metadata(kind, pages, sum);
    let head = metadata.encode().unwrap();
    let start = head.len();
    if kind == Kind::Snapshot {
        let mut writer = SnapshotWriter::new(Vec::new(), &metadata).unwrap();
        for pgno in numbers {
            writer.page(pgno, &page(pgno)).unwrap();
        }
        return (writer.finish().unwrap(), start);
    }
    let mut encoder = DeltaEncoder::new(head, SIZE, Lsn::new(1)).unwrap();
    for pgno in numbers {
        encoder.page(pgno, &page(pgno)).unwrap();
    }
    (encoder.finish(pages).unwrap().sink, start)
}

fn name(kind: Kind, pages: u64) -> String {
    let (one, last) = (Lsn::new(1), Lsn::new(pages));
    match kind {
        Kind::Segment => format!("{one}.wal.zst"),
        Kind::Delta => format!("{}-{last}.wal.zst", Lsn::ZERO),
        Kind::Snapshot => format!("{last}.db.zst"),
    }
}

const KINDS: [(Kind, &str); 3] =
    [(Kind::Segment, "segment"), (Kind::Delta, "delta"), (Kind::Snapshot, "snapshot")];

/// Inspects a file that is damaged: said in text and in JSON, with exit code 1.
fn damage(yard: &Yard, name: impl AsRef<Path>) -> String {
    let name = name.as_ref();
    let args = [Path::new("inspect"), name, Path::new("--json")];
    let ended = yard.run(args);
    assert_eq!(ended.code, 1, "{ended:?}");
    let said = ended.json()["damage"].as_str().unwrap().to_owned();
    assert_eq!(ended.json_error()["code"], "damaged");
    said
}

#[test]
fn good_objects_are_explained_and_found_right() {
    let yard = Yard::new();
    for (kind, called) in KINDS {
        let name = name(kind, 40);
        fs::write(yard.path(&name), object(kind, 40).0).unwrap();
        let said = yard.ok(["inspect", &name]);
        assert!(said.contains(called) && said.contains("every checksum is right"), "{said}");
        let report = yard.json(["inspect", &name]);
        assert_eq!((&report["kind"], &report["damage"]), (&called.into(), &Value::Null));
        assert_eq!(report["database"], "0123456789abcdef");
        assert_eq!(report["writer"], "beef");
        assert_eq!(report["lsn"][1], 40);

        let listed = yard.json(["inspect", &name, "--frames"]);
        let list = if kind == Kind::Snapshot { "chunk_list" } else { "frame_list" };
        assert!(!listed[list].as_array().unwrap().is_empty(), "{listed}");
        if kind != Kind::Snapshot {
            assert_eq!(listed["frame_list"][39]["commit"], 40);
            let said = yard.ok(["inspect", &name, "--frames"]);
            assert!(said.contains("        40         40  40 pages\n"), "{said}");
        }
    }
}

#[test]
fn every_truncation_of_an_object_is_found() {
    let yard = Yard::new();
    for (kind, _) in KINDS {
        let (bytes, start) = object(kind, 6);
        let name = name(kind, 6);
        for len in [1, 7, start / 2, start, start + 1, bytes.len() / 2, bytes.len() - 1] {
            fs::write(yard.path(&name), &bytes[..len]).unwrap();
            damage(&yard, &name);
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_an_object_is_found() {
    let yard = Yard::new();
    for (kind, _) in KINDS {
        let (bytes, start) = object(kind, 6);
        let name = name(kind, 6);
        for at in (start..bytes.len()).step_by(41).chain([start, bytes.len() - 1]) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(yard.path(&name), flipped).unwrap();
            damage(&yard, &name);
        }
    }
}

#[test]
fn the_first_damaged_frame_or_chunk_is_named() {
    let yard = Yard::new();
    // Two chunks: 256 KiB of 512-byte pages are 512 pages.
    let (mut bytes, _) = object(Kind::Snapshot, 600);
    let at = bytes.len() - 2000;
    bytes[at] ^= 4;
    let snapshot = name(Kind::Snapshot, 600);
    fs::write(yard.path(&snapshot), bytes).unwrap();
    let said = damage(&yard, &snapshot);
    assert!(said.starts_with("chunk 1 (pages 513-600): "), "{said}");

    let (bytes, _) = object(Kind::Segment, 2000);
    let segment = name(Kind::Segment, 2000);
    fs::write(yard.path(&segment), &bytes[..bytes.len() / 2]).unwrap();
    let said = damage(&yard, &segment);
    let frame: u64 =
        said.strip_prefix("frame ").unwrap().split(':').next().unwrap().parse().unwrap();
    assert!((500..1500).contains(&frame), "{said}");
}

#[test]
fn an_object_under_a_wrong_name_or_with_a_wrong_sum_is_found() {
    let yard = Yard::new();
    for (kind, _) in KINDS {
        let other = name(kind, 6).replace("000001", "000009").replace("000006", "000008");
        fs::write(yard.path(&other), object(kind, 6).0).unwrap();
        let said = damage(&yard, &other);
        assert!(said.contains(&name(kind, 6)), "{said}");
    }
    let (numbers, _) = all_pages(3);
    let head = metadata(Kind::Delta, 3, DbChecksum(1)).encode().unwrap();
    let mut encoder = DeltaEncoder::new(head, SIZE, Lsn::new(1)).unwrap();
    for pgno in numbers {
        encoder.page(pgno, &page(pgno)).unwrap();
    }
    fs::write(yard.path("x.wal.zst"), encoder.finish(3).unwrap().sink).unwrap();
    assert!(damage(&yard, "x.wal.zst").contains("checksum"));
}

#[test]
fn a_body_that_is_an_object_of_its_own_is_followed() {
    let yard = Yard::new();
    let (bytes, start) = object(Kind::Segment, 6);
    let mut parts = metadata(Kind::Segment, 6, all_pages(6).1);
    parts.body = Some("body/b.zst".to_owned());
    fs::create_dir_all(yard.path("db/x/body")).unwrap();
    fs::create_dir_all(yard.path("db/x/log")).unwrap();
    fs::write(yard.path("db/x/log/s.wal.zst"), parts.encode().unwrap()).unwrap();
    let said = yard.ok(["inspect", "db/x/log/s.wal.zst"]);
    assert!(said.contains("not within reach"), "{said}");
    fs::write(yard.path("db/x/body/b.zst"), &bytes[start..]).unwrap();
    let said = yard.ok(["inspect", "db/x/log/s.wal.zst"]);
    assert!(!said.contains("not within reach"), "{said}");
    let said = yard.ok(["inspect", "db/x/body/b.zst"]);
    assert!(said.contains("body of a segment or delta"), "{said}");
    let mut flipped = bytes[start..].to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(yard.path("db/x/body/b.zst"), flipped).unwrap();
    damage(&yard, "db/x/log/s.wal.zst");
    damage(&yard, "db/x/body/b.zst");
}

/// A `-wal` as SQLite left it, with three transactions.
fn live_wal(yard: &Yard) -> Vec<u8> {
    let conn = Connection::open(yard.path("w.db")).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = wal; CREATE TABLE t(a); INSERT INTO t VALUES (1);
         INSERT INTO t VALUES (2)",
    )
    .unwrap();
    fs::read(yard.path("w.db-wal")).unwrap()
}

#[test]
fn a_live_wal_is_explained_and_its_damage_named() {
    let yard = Yard::new();
    let wal = live_wal(&yard);
    let report = yard.json(["inspect", "w.db-wal", "--frames"]);
    assert_eq!((&report["kind"], &report["transactions"]), (&"WAL".into(), &3.into()));
    let frames = report["frames"].as_u64().unwrap();
    assert_eq!(report["frame_list"].as_array().unwrap().len() as u64, frames);
    assert!(yard.ok(["inspect", "w.db-wal"]).contains("every checksum is right"));

    let frame_bytes = 24 + 4096;
    let mut flipped = wal.clone();
    flipped[32 + frame_bytes + 100] ^= 1;
    fs::write(yard.path("f-wal"), flipped).unwrap();
    assert!(damage(&yard, "f-wal").starts_with("frame 2 is damaged"));
    // A salt that was hit looks like the end, but frames of this run follow.
    let mut flipped = wal.clone();
    flipped[32 + frame_bytes + 9] ^= 1;
    fs::write(yard.path("f-wal"), flipped).unwrap();
    assert!(damage(&yard, "f-wal").starts_with("frame 2 is damaged"));
    fs::write(yard.path("f-wal"), &wal[..wal.len() - 1]).unwrap();
    assert!(damage(&yard, "f-wal").contains(&format!("inside frame {frames}")));
    let mut flipped = wal;
    flipped[20] ^= 1;
    fs::write(yard.path("f-wal"), flipped).unwrap();
    assert!(damage(&yard, "f-wal").contains("header"));
}

#[test]
fn leftovers_of_an_earlier_run_are_no_damage() {
    let yard = Yard::new();
    let mut sink = Vec::new();
    for (salts, frames) in [(Salts(1, 1), 4), (Salts(2, 2), 2)] {
        let mut wal = WalWriter::new(Vec::new(), WalHeader::new(SIZE, 0, salts)).unwrap();
        for n in 1..=frames {
            let pgno = Pgno::new(n).unwrap();
            wal.frame(pgno, n, &page(pgno)).unwrap();
        }
        let bytes = wal.into_inner();
        // The later run overwrites the file from its start.
        sink.resize(sink.len().max(bytes.len()), 0);
        sink[..bytes.len()].copy_from_slice(&bytes);
    }
    fs::write(yard.path("x-wal"), sink).unwrap();
    let report = yard.json(["inspect", "x-wal"]);
    assert_eq!((&report["frames"], &report["transactions"]), (&2.into(), &2.into()));
    assert!(report["notes"][0].as_str().unwrap().starts_with("2 frames of an earlier run"));
}

#[test]
fn a_database_is_checked_without_being_changed() {
    let yard = Yard::new();
    live_wal(&yard);
    let before = (fs::read(yard.path("w.db")).unwrap(), fs::read(yard.path("w.db-wal")).unwrap());
    let report = yard.json(["inspect", "w.db"]);
    assert_eq!((&report["kind"], &report["tables"]), (&"SQLite database".into(), &1.into()));
    assert_eq!(
        (&report["journal_mode"], &report["integrity_check"]),
        (&"wal".into(), &"ok".into())
    );
    let after = (fs::read(yard.path("w.db")).unwrap(), fs::read(yard.path("w.db-wal")).unwrap());
    assert!(before == after, "looking changed the files");

    yard.make_notes("n.db", 500);
    let mut bytes = fs::read(yard.path("n.db")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0xA5);
    fs::write(yard.path("n.db"), bytes).unwrap();
    damage(&yard, "n.db");
}

#[test]
fn looking_at_a_database_at_rest_leaves_nothing_beside_it() {
    let yard = Yard::new();
    fs::create_dir(yard.path("a ?#%b")).unwrap();
    for name in ["w.db", "a ?#%b/w.db"] {
        yard.make_notes(name, 20);
        yard.sql(name, "PRAGMA journal_mode = WAL; DELETE FROM note WHERE id = 1");
        let report = yard.json(["inspect", name]);
        assert_eq!(
            (&report["journal_mode"], &report["integrity_check"]),
            (&"wal".into(), &"ok".into())
        );
        for suffix in ["-wal", "-shm"] {
            assert!(!yard.path(format!("{name}{suffix}")).exists(), "{name}{suffix}");
        }
    }
}

#[test]
fn what_a_remote_and_a_replica_hold_is_explained() {
    let yard = Yard::published();
    let sidecar = yard.json(["inspect", "a.db-anabranch"]);
    assert_eq!(sidecar["kind"], "sidecar of a replica");
    let text = sidecar.to_string();
    assert!(!text.contains("seed"), "the key of its checksums stays its own: {text}");
    assert!(sidecar["remote"].as_str().unwrap().ends_with("river"));

    let segment = yard.only("river", ".wal.zst");
    let args = [Path::new("inspect"), &segment, Path::new("--json")];
    let segment = yard.run(args).json();
    assert_eq!(segment["kind"], "segment");
    // The checksum that the log states is that of the file.
    assert_eq!(yard.json(["inspect", "a.db"])["checksum"], segment["checksum_after"]);
    assert_eq!(yard.json(["inspect", "b.db"])["checksum"], segment["checksum_after"]);
    let name = yard.only("river/names", ".json");
    let args = [Path::new("inspect"), &name, Path::new("--json")];
    let name = yard.run(args).json();
    assert_eq!(name["kind"], "name of a database");
    assert_eq!(name["contents"]["database"], segment["database"]);
}

#[test]
fn other_files_are_refused_and_damaged_ones_known_by_name() {
    let yard = Yard::new();
    fs::write(yard.path("letter.txt"), "dear all").unwrap();
    let said = yard.fails(2, ["inspect", "letter.txt"]);
    assert!(said.contains("none of the files"), "{said}");
    fs::write(yard.path("0000000000000001.wal.zst"), "dear all").unwrap();
    assert!(damage(&yard, "0000000000000001.wal.zst").contains("segment"));
    fs::write(yard.path("0000000000000002.wal.zst"), "").unwrap();
    assert!(damage(&yard, "0000000000000002.wal.zst").contains("empty"));
    let Ended { code, err, .. } = yard.run(["inspect", "nothing"]);
    assert_eq!(code, 1);
    assert!(err.contains("nothing") && err.contains("caused by"), "{err}");
}
