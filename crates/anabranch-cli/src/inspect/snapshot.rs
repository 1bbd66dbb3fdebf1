//! Snapshots: the seek table, each chunk, and the checksum of the whole database.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use anabranch_format::{
    DbChecksum, Layout, Metadata, PageChecksum, PageSource, Pgno, SeekTable, SnapshotReader,
    decode_chunk,
};

use super::findings::{Chunk, Findings};

/// Explains a snapshot that is one object, chunk by chunk by its seek table.
pub(super) fn explain_seekable(
    mut file: File,
    bytes: u64,
    metadata: &Metadata,
    findings: &mut Findings,
) -> io::Result<()> {
    let layout = match Layout::of(metadata) {
        Ok(layout) => layout,
        Err(e) => {
            findings.damage(e.to_string());
            return Ok(());
        }
    };
    findings.fact("chunks", layout.chunks());
    let tail_bytes = layout.seek_table_bytes();
    let Some(tail_start) = bytes.checked_sub(tail_bytes) else {
        findings.damage("it ends before its seek table");
        return Ok(());
    };
    file.seek(SeekFrom::Start(tail_start))?;
    // At most 2 MiB: the layout has a limited number of chunks.
    let mut tail = Vec::new();
    file.by_ref().take(tail_bytes).read_to_end(&mut tail)?;
    match SeekTable::decode(&layout, &tail, bytes) {
        Ok(table) => check_chunks(&mut file, &layout, &table, metadata, findings),
        Err(e) => {
            findings.damage(format!("{e} (a truncated snapshot loses its seek table first)"));
            Ok(())
        }
    }
}

fn check_chunks(
    file: &mut File,
    layout: &Layout,
    table: &SeekTable,
    metadata: &Metadata,
    findings: &mut Findings,
) -> io::Result<()> {
    let mut sum = DbChecksum::EMPTY;
    let mut compressed = Vec::new();
    for chunk in 0..layout.chunks() {
        let Some(range) = table.chunk_range(chunk) else {
            findings.damage(format!("chunk {chunk} is missing in the seek table"));
            return Ok(());
        };
        let (len, unpacked) = (range.end.saturating_sub(range.start), layout.chunk_len(chunk));
        // What does not compress grows by less than this.
        if len > unpacked as u64 + unpacked as u64 / 128 + 1024 {
            findings.damage(format!("chunk {chunk} takes {len} bytes, more than it can"));
            return Ok(());
        }
        file.seek(SeekFrom::Start(range.start))?;
        compressed.clear();
        file.by_ref().take(len).read_to_end(&mut compressed)?;
        match decode_chunk(layout, chunk, &compressed) {
            Ok(pages) => add_pages(&mut sum, metadata, chunk, &pages),
            Err(e) => {
                findings.damage(format!("chunk {chunk} ({}): {e}", pages_of(metadata, chunk)))
            }
        }
        let (offset, unpacked) = (range.start, unpacked as u64);
        findings.chunk(Chunk { chunk, offset, bytes: len, unpacked });
    }
    check_sum(sum, metadata, findings);
    Ok(())
}

/// The page that chunk `chunk` begins with.
fn first_page(metadata: &Metadata, chunk: u64) -> u64 {
    let chunk_bytes = u64::from(metadata.chunk.unwrap_or(0));
    chunk * (chunk_bytes / u64::from(metadata.page_size.get())) + 1
}

fn pages_of(metadata: &Metadata, chunk: u64) -> String {
    let last = (first_page(metadata, chunk + 1) - 1).min(metadata.pages.1.into());
    format!("pages {}-{last}", first_page(metadata, chunk))
}

fn add_pages(sum: &mut DbChecksum, metadata: &Metadata, chunk: u64, pages: &[u8]) {
    let first = first_page(metadata, chunk);
    for (i, page) in pages.chunks_exact(metadata.page_size.bytes()).enumerate() {
        let pgno = u32::try_from(first + i as u64).ok().and_then(Pgno::new);
        if let Some(pgno) = pgno.filter(|pgno| *pgno != metadata.page_size.lock_page()) {
            sum.toggle(PageChecksum::of(pgno, page));
        }
    }
}

fn check_sum(sum: DbChecksum, metadata: &Metadata, findings: &mut Findings) {
    let stated = metadata.sum.1;
    if sum != stated {
        findings.damage(format!("its pages have checksum {sum}, but its metadata states {stated}"));
    }
}

/// Explains a snapshot from its first page to its last, where its seek table is of no use.
pub(super) fn explain_stream(source: impl BufRead, metadata: &Metadata, findings: &mut Findings) {
    let mut reader = match SnapshotReader::new(source, metadata) {
        Ok(reader) => reader,
        Err(e) => return findings.damage(e.to_string()),
    };
    let mut sum = DbChecksum::EMPTY;
    let mut page = vec![0; metadata.page_size.bytes()];
    let mut last = 0;
    loop {
        match reader.next_page(&mut page) {
            Ok(None) => break,
            Ok(Some(pgno)) => {
                last = pgno.get();
                sum.toggle(PageChecksum::of(pgno, &page));
            }
            Err(e) => return findings.damage(format!("behind page {last}: {e}")),
        }
    }
    check_sum(sum, metadata, findings);
}
