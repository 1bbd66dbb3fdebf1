//! Writes the corpus that the targets start from: `seeds CORPUS_DIR`.

use std::fs;
use std::path::Path;

use anabranch_format::{
    DeltaEncoder, Kind, Lsn, Metadata, PageSize, Pgno, SQLITE_MAGIC, SnapshotWriter,
};
use anabranch_fuzz::{Recipe, wal};

fn main() -> std::io::Result<()> {
    let corpus = std::env::args_os().nth(1).expect("usage: seeds CORPUS_DIR");
    let corpus = Path::new(&corpus);
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), bytes)
    };
    for page_size in [PageSize::MIN, PageSize::DEFAULT] {
        let name = format!("sound-{page_size}");
        let (delta, metadata) = delta(page_size);
        let json = serde_json::to_vec(&metadata).expect("metadata is JSON");
        put("metadata", &name, &metadata.encode().expect("it is sound"))?;
        put("metadata", &format!("json-{page_size}"), &json)?;
        put("delta", &name, &delta)?;
        put("frames", &name, &delta)?;
        put("segment", &name, &delta)?;
        put("wal", &name, &wal(page_size, &[(1, 0, 1), (2, 0, 2), (3, 3, 3), (1, 3, 4)]))?;
        let snapshot = snapshot(page_size);
        put("snapshot", &name, &snapshot)?;
        put("frames", &format!("chunks-{page_size}"), &snapshot)?;
        put("seek_table", &name, &snapshot[snapshot.len() - 41..])?;
    }
    for target in ["delta", "segment", "merge", "snapshot", "seek_table", "frames"] {
        put(target, "numbers", &(0..=255).collect::<Vec<u8>>())?;
        put(target, "few", &[1, 3, 1, 0, 7, 2, 0, 8, 3, 200, 3, 9, 0, 0, 3])?;
    }
    for target in ["arrival", "libsql", "info_file"] {
        put(target, "numbers", &(0..=255).collect::<Vec<u8>>())?;
    }
    put("arrival", "one", &[9, 0, 0, 99, 3, 1, 0, 7, 2, 0, 8, 3, 200, 3, 9])?;
    put("libsql", "path", b"1/2/baton\n0")?;
    put("libsql", "two", &[4, 1, 0, 1, 2, 200, 2, 5, 3, 0, 9, 4, 200, 4, 1, 1, 0, 4, 0])?;
    put(
        "info_file",
        "json",
        br#"{"hash":2375342450,"version":0,"durable_frame_num":213,"generation":1}"#,
    )?;
    let mut page = vec![0; 512];
    page[..16].copy_from_slice(SQLITE_MAGIC);
    page[16..18].copy_from_slice(&512u16.to_be_bytes());
    put("text", "page-one", &page)?;
    put("text", "lsn", b"00000000000000ff")?;
    put("text", "decimal", b"1234")
}

fn delta(page_size: PageSize) -> (Vec<u8>, Metadata) {
    let mut metadata = Recipe(&[]).metadata(Kind::Delta, page_size, 3);
    metadata.pages = (0, 3);
    let mut encoder =
        DeltaEncoder::new(Vec::new(), page_size, Lsn::new(1)).expect("memory takes it");
    for number in 1..=3u8 {
        let pgno = Pgno::new(number.into()).expect("from 1");
        encoder.page(pgno, &vec![number; page_size.bytes()]).expect("memory takes it");
    }
    let body = encoder.finish(3).expect("memory takes it").sink;
    ([metadata.encode().expect("it is sound"), body].concat(), metadata)
}

fn snapshot(page_size: PageSize) -> Vec<u8> {
    let mut metadata = Recipe(&[]).metadata(Kind::Snapshot, page_size, 1);
    metadata.pages = (5, 5);
    metadata.chunk = Some(page_size.get() * 2);
    let mut writer = SnapshotWriter::new(Vec::new(), &metadata).expect("it is sound");
    for number in 1..=5u8 {
        let pgno = Pgno::new(number.into()).expect("from 1");
        writer.page(pgno, &vec![number; page_size.bytes()]).expect("memory takes it");
    }
    writer.finish().expect("every page was written")
}
