//! A SQLite WAL: a live `-wal` file, or one inside an object.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anabranch_format::{
    ChecksumOrder, FRAME_HEADER_BYTES, FrameHeader, WAL_HEADER_BYTES, WalError, WalHeader,
    WalReader, frame_bytes,
};

use super::findings::{Findings, Frame};
use super::{read_up_to, reading};
use crate::failure::Failure;

/// How far the valid part of a WAL goes.
struct Walk {
    frames: u64,
    transactions: u64,
    /// The last commit frame, and the size after it.
    commit: Option<(u64, u32)>,
    /// Why it ends, unless the source ended with the last frame.
    end: Option<WalError>,
}

fn walk<R: Read>(wal: &mut WalReader<R>, findings: &mut Findings) -> Walk {
    let mut page = vec![0; wal.header().page_size.bytes()];
    let mut walk = Walk { frames: 0, transactions: 0, commit: None, end: None };
    loop {
        match wal.next_frame(&mut page) {
            Ok(None) => return walk,
            Err(e) => {
                walk.end = Some(e);
                return walk;
            }
            Ok(Some(frame)) => {
                walk.frames += 1;
                if frame.is_commit() {
                    walk.transactions += 1;
                    walk.commit = Some((walk.frames, frame.commit_size));
                }
                let (pgno, commit_size) = (frame.pgno.get(), frame.commit_size);
                findings.frame(Frame { pgno, commit_size });
            }
        }
    }
}

fn header_facts(header: &WalHeader, findings: &mut Findings) {
    findings.fact_as("page_size", header.page_size.get(), format!("{}", header.page_size));
    let order = match header.order {
        ChecksumOrder::Little => "little-endian",
        ChecksumOrder::Big => "big-endian",
    };
    findings.fact("checksums", order);
    findings.fact("checkpoint_seq", header.checkpoint_seq);
    findings.fact("salts", format!("{:08x} {:08x}", header.salts.0, header.salts.1));
}

fn walk_facts(walk: &Walk, findings: &mut Findings) {
    findings.fact("frames", walk.frames);
    findings.fact("transactions", walk.transactions);
    if let Some((frame, size)) = walk.commit {
        findings.fact("last_commit_frame", frame);
        findings.fact("database_pages", size);
    }
}

/// Explains the WAL of a live database (or a copy of one).
pub(super) fn explain_live(
    path: &Path,
    bytes: u64,
    findings: &mut Findings,
) -> Result<(), Failure> {
    findings.kind = "WAL";
    let file = File::open(path).map_err(reading(path))?;
    let mut wal = match WalReader::new(BufReader::with_capacity(1 << 18, file)) {
        Ok(wal) => wal,
        Err(e) => {
            findings.damage(header_error(&e));
            return Ok(());
        }
    };
    let header = *wal.header();
    header_facts(&header, findings);
    let walk = walk(&mut wal, findings);
    walk_facts(&walk, findings);
    let committed = walk.commit.map_or(0, |(frame, _)| frame);
    if committed < walk.frames {
        findings.note(format!(
            "the last {} frames belong to a transaction that was not committed: SQLite ignores them",
            walk.frames - committed
        ));
    }
    match &walk.end {
        None => Ok(()),
        Some(WalError::Io(e)) => {
            findings.damage(format!("reading frame {} failed: {e}", walk.frames + 1));
            Ok(())
        }
        Some(end) => explain_end(path, bytes, &header, &walk, end, findings),
    }
}

fn header_error(e: &WalError) -> String {
    match e {
        WalError::Io(e) => format!("reading the WAL header failed: {e}"),
        WalError::PageSize(e) => format!("the WAL header: {e}"),
        e => e.to_string(),
    }
}

/// Tells the normal end of a live WAL, behind which frames of an earlier run remain, from damage.
fn explain_end(
    path: &Path,
    bytes: u64,
    header: &WalHeader,
    walk: &Walk,
    end: &WalError,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let bad = walk.frames + 1;
    let start = WAL_HEADER_BYTES as u64 + walk.frames * frame_bytes(header.page_size);
    let rest = bytes.saturating_sub(start);
    if let WalError::Truncated { .. } = end {
        findings.damage(format!("the file ends inside frame {bad}; SQLite ignores that frame"));
        return Ok(());
    }
    // The bad frame itself counts only if it claims to belong to this run of the file.
    let of_this_run = frames_of_this_run(path, header, start).map_err(reading(path))?;
    if of_this_run == 0 {
        let left_over = rest / frame_bytes(header.page_size);
        findings.note(format!(
            "{left_over} frames of an earlier run follow: normal in a WAL that was restarted"
        ));
        return Ok(());
    }
    findings.damage(format!(
        "frame {bad} is damaged or was never written completely ({end}); SQLite ignores it and \
         what follows, {of_this_run} frames of the same run in all"
    ));
    Ok(())
}

/// Counts the frame headers from `start` on that carry the header's salts.
fn frames_of_this_run(path: &Path, header: &WalHeader, start: u64) -> std::io::Result<u64> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(path)?);
    file.seek(SeekFrom::Start(start))?;
    let page = i64::from(header.page_size.get());
    let mut found = 0;
    loop {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        if read_up_to(&mut file, &mut bytes)? < FRAME_HEADER_BYTES {
            return Ok(found);
        }
        let same = FrameHeader::decode(&bytes).is_some_and(|frame| frame.salts == header.salts);
        found += u64::from(same);
        file.seek_relative(page)?;
    }
}

/// Explains a WAL that is complete as it stands: in an object everything must be valid.
pub(super) fn explain_strict(source: impl Read, findings: &mut Findings) {
    let mut wal = match WalReader::new(source) {
        Ok(wal) => wal,
        Err(e) => return findings.damage(header_error(&e)),
    };
    header_facts(&wal.header().clone(), findings);
    let walk = walk(&mut wal, findings);
    walk_facts(&walk, findings);
    match &walk.end {
        Some(WalError::Io(e)) => {
            findings.damage(format!("frame {}: unpacking failed: {e}", walk.frames + 1));
        }
        Some(e) => findings.damage(e.to_string()),
        None if walk.commit.is_none_or(|(frame, _)| frame < walk.frames) => {
            findings.damage("the last transaction is not complete");
        }
        None => {}
    }
}
