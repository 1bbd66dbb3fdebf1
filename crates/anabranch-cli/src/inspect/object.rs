//! Objects of the log: segments, deltas and snapshots, by their metadata.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anabranch_format::{DbChecksum, Kind, Metadata, PageChecksum, PageOrder, SegmentReader};

use super::findings::{Findings, Frame};
use super::{reading, snapshot};
use crate::failure::Failure;
use crate::human;

/// Explains the object at `path`.
pub(super) fn explain(path: &Path, bytes: u64, findings: &mut Findings) -> Result<(), Failure> {
    findings.kind = "object of the log";
    let file = File::open(path).map_err(reading(path))?;
    let mut source = BufReader::with_capacity(1 << 18, file);
    let metadata = match Metadata::decode(&mut source) {
        Ok(metadata) => metadata,
        Err(e) => {
            findings.damage(e.to_string());
            return Ok(());
        }
    };
    findings.kind = match metadata.kind {
        Kind::Segment => "segment",
        Kind::Delta => "delta",
        Kind::Snapshot => "snapshot",
    };
    facts(&metadata, findings);
    check_name(path, &metadata, findings);
    if let Some(body) = &metadata.body {
        return explain_body(path, body, &metadata, findings);
    }
    match metadata.kind {
        Kind::Snapshot => {
            let file = source.into_inner();
            snapshot::explain_seekable(file, bytes, &metadata, findings).map_err(reading(path))?;
        }
        Kind::Segment | Kind::Delta => explain_frames(source, &metadata, findings),
    }
    Ok(())
}

fn facts(metadata: &Metadata, findings: &mut Findings) {
    findings.fact("format", metadata.version);
    findings.fact("database", metadata.database.as_str());
    let (first, last) = metadata.lsn;
    let positions = match metadata.kind {
        Kind::Snapshot => last.to_string(),
        _ => format!("{first} to {last} (from the state at {})", metadata.from()),
    };
    findings.fact_as("lsn", [first, last], positions);
    let (generation, begin) = metadata.generation;
    let shown = format!("{generation}, from {begin}");
    findings.fact_as("generation", (generation, begin), shown);
    if let Some(next) = metadata.next_generation {
        findings.fact("next_generation", next);
    }
    findings.fact("writer", metadata.writer.as_str());
    if let Some(push) = &metadata.push {
        findings.fact("push", push.as_str());
    }
    findings.fact_as("time", metadata.time, human::time(metadata.time));
    if let Some(clock) = metadata.clock {
        findings.fact_as("writers_clock", clock, human::time(clock));
    }
    findings.fact_as("page_size", metadata.page_size.get(), metadata.page_size.to_string());
    let (before, after) = metadata.pages;
    let (sum_before, sum_after) = metadata.sum;
    match metadata.kind {
        Kind::Snapshot => {
            findings.fact("database_pages", after);
            findings.fact("checksum", sum_after);
        }
        _ => {
            findings.fact("database_pages_before", before);
            findings.fact("database_pages_after", after);
            findings.fact("checksum_before", sum_before);
            findings.fact("checksum_after", sum_after);
            findings.fact("frames", metadata.frame_count());
            findings.fact("transactions", metadata.transactions.unwrap_or(1));
        }
    }
}

/// The positions in the name must be those inside: otherwise the object was renamed or swapped.
fn check_name(path: &Path, metadata: &Metadata, findings: &mut Findings) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (expected, suffix) = match metadata.kind {
        Kind::Segment => (metadata.lsn.0.to_string(), ".wal.zst"),
        Kind::Delta => (format!("{}-{}", metadata.from(), metadata.lsn.1), ".wal.zst"),
        Kind::Snapshot => (metadata.lsn.1.to_string(), ".db.zst"),
    };
    let looks_ours = |stem: &str| {
        stem.len() == expected.len() && stem.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
    };
    if let Some(stem) = name.strip_suffix(suffix)
        && looks_ours(stem)
        && stem != expected
    {
        findings.damage(format!("its metadata belongs to an object called {expected}{suffix}"));
    }
}

/// Explains an object whose compressed bytes are another one.
fn explain_body(
    path: &Path,
    body: &str,
    metadata: &Metadata,
    findings: &mut Findings,
) -> Result<(), Failure> {
    findings.fact("body", body);
    let Some(place) = find_body(path, body) else {
        findings.note("its contents are in another object, which is not within reach from here");
        return Ok(());
    };
    let file = File::open(&place).map_err(reading(&place))?;
    let source = BufReader::with_capacity(1 << 18, file);
    match metadata.kind {
        Kind::Snapshot => snapshot::explain_stream(source, metadata, findings),
        Kind::Segment | Kind::Delta => explain_frames(source, metadata, findings),
    }
    Ok(())
}

/// Finds the object `body`, named from the remote's root or from the database's folder.
fn find_body(path: &Path, body: &str) -> Option<PathBuf> {
    let safe = body.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !safe {
        return None;
    }
    let path = std::path::absolute(path).ok()?;
    path.ancestors().skip(1).map(|dir| dir.join(body)).find(|place| place.is_file())
}

/// Walks through the frames of a segment or delta.
fn explain_frames(source: impl BufRead, metadata: &Metadata, findings: &mut Findings) {
    let mut segment = match SegmentReader::new(source, metadata) {
        Ok(segment) => segment,
        Err(e) => return findings.damage(e.to_string()),
    };
    // Only a delta is in page order, and only one from nothing holds every page.
    let mut order = metadata
        .transactions
        .is_none()
        .then(|| PageOrder::new(metadata.page_size, metadata.pages.0, metadata.pages.1));
    let whole = order.is_some() && metadata.pages.0 == 0;
    let mut sum = DbChecksum::EMPTY;
    let mut page = vec![0; metadata.page_size.bytes()];
    let mut frames = 0u64;
    loop {
        match segment.next_frame(&mut page) {
            Ok(None) => break,
            Err(e) => {
                let at = if frames < metadata.frame_count() { frames + 1 } else { frames };
                return findings.damage(format!("frame {at}: {e}"));
            }
            Ok(Some(frame)) => {
                frames += 1;
                if let Some(order) = &mut order
                    && let Err(e) = order.next(frame.pgno)
                {
                    return findings.damage(format!("frame {frames}: {e}"));
                }
                sum.toggle(PageChecksum::of(frame.pgno, &page));
                let (pgno, commit_size) = (frame.pgno.get(), frame.commit_size);
                findings.frame(Frame { pgno, commit_size });
            }
        }
    }
    if let Some(Err(e)) = order.map(|order| order.end()) {
        findings.damage(e.to_string());
    }
    if whole && sum != metadata.sum.1 {
        let stated = metadata.sum.1;
        findings.damage(format!("its pages have checksum {sum}, but its metadata states {stated}"));
    }
}
