//! Reads the live `-wal` from outside, for a caller that holds a read transaction.
//!
//! The `-wal` carries no file locks, so opening and closing it is harmless (the database and the
//! `-shm` are never opened here). A read transaction does not always keep the file from being
//! restarted: one that found everything copied into the database holds no frame back. So every
//! frame is checked against the salts of the transaction's own snapshot, both ends against its
//! checksums, and the file's header is read again at the end; any difference breaks the chain.
//! Whether the pages between are intact needs no check here: SQLite reads them for us.

use std::fs::File;
use std::path::Path;

use anabranch_format::{
    FRAME_HEADER_BYTES, FrameHeader, PageSize, WAL_HEADER_BYTES, WalHeader, frame_bytes,
};

use crate::capture::ScanReason;
use crate::mark::{Mark, Snapshot};
use crate::positional::read_exact_at;

/// How much of the file is read at once where whole frames are wanted.
const READ_BYTES: usize = 256 * 1024;

/// An open `-wal`.
pub(crate) struct WalFile {
    file: File,
    header: WalHeader,
}

impl WalFile {
    /// Opens the `-wal` that `at` is a snapshot of.
    pub(crate) fn open(path: &Path, page_size: PageSize, at: &Mark) -> Result<Self, ScanReason> {
        let file = File::open(path).map_err(|_| ScanReason::Unreadable)?;
        let header = read_header(&file)?;
        if header.page_size != page_size || header.salts != at.salts {
            return Err(ScanReason::Restarted);
        }
        Ok(WalFile { file, header })
    }

    /// The header of frame `frame`, which must belong to this run.
    pub(crate) fn frame_header(&self, frame: u32) -> Result<FrameHeader, ScanReason> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        read_exact_at(&self.file, &mut bytes, self.offset(frame))
            .map_err(|_| ScanReason::Unreadable)?;
        match FrameHeader::decode(&bytes) {
            Some(header) if header.salts == self.header.salts => Ok(header),
            _ => Err(ScanReason::Broken { frame }),
        }
    }

    /// The page image in frame `frame`.
    pub(crate) fn page(&self, frame: u32, page: &mut [u8]) -> Result<(), ScanReason> {
        read_exact_at(&self.file, page, self.offset(frame) + FRAME_HEADER_BYTES as u64)
            .map_err(|_| ScanReason::Unreadable)
    }

    /// Calls `each` for every frame from `first` to `last` with its page, in large reads.
    pub(crate) fn frames(
        &self,
        first: u32,
        last: u32,
        each: &mut dyn FnMut(&FrameHeader, &[u8]),
    ) -> Result<(), ScanReason> {
        let frame_bytes = FRAME_HEADER_BYTES + self.header.page_size.bytes();
        let at_once = u32::try_from((READ_BYTES / frame_bytes).max(1)).unwrap_or(1);
        let mut buf = vec![0; frame_bytes * at_once as usize];
        let mut next = first;
        while next <= last {
            let count = at_once.min(last - next + 1);
            let bytes = &mut buf[..frame_bytes * count as usize];
            read_exact_at(&self.file, bytes, self.offset(next))
                .map_err(|_| ScanReason::Unreadable)?;
            for (frame, bytes) in (next..).zip(bytes.chunks_exact(frame_bytes)) {
                let (header, page) = bytes.split_first_chunk().expect("a frame has a header");
                match FrameHeader::decode(header) {
                    Some(header) if header.salts == self.header.salts => each(&header, page),
                    _ => return Err(ScanReason::Broken { frame }),
                }
            }
            next += count;
        }
        Ok(())
    }

    /// Whether the frame at `mark` is still the one that was marked.
    pub(crate) fn check_mark(&self, mark: &Mark) -> Result<(), ScanReason> {
        if mark.frame > 0 && self.frame_header(mark.frame)?.checksum != mark.checksum {
            return Err(ScanReason::Lost { frame: mark.frame });
        }
        Ok(())
    }

    /// Whether the file was not restarted since it was opened: only then is what was read valid.
    pub(crate) fn check_unchanged(&self) -> Result<(), ScanReason> {
        if read_header(&self.file)? == self.header { Ok(()) } else { Err(ScanReason::Restarted) }
    }

    fn offset(&self, frame: u32) -> u64 {
        WAL_HEADER_BYTES as u64
            + u64::from(frame.saturating_sub(1)) * frame_bytes(self.header.page_size)
    }
}

/// Calls `each` for the header of every frame after `since`, up to the end of the snapshot `now`.
/// What it was told counts only if the answer is `Ok`: the number of frames.
pub(crate) fn frames_between(
    path: &Path,
    page_size: PageSize,
    since: &Mark,
    now: &Snapshot,
    each: &mut dyn FnMut(u32, &FrameHeader),
) -> Result<u32, ScanReason> {
    let end = &now.mark;
    if !since.same_run(end) {
        return Err(ScanReason::Restarted);
    }
    if since.frame > end.frame {
        return Err(ScanReason::Lost { frame: since.frame });
    }
    if since == end {
        return Ok(0);
    }
    let wal = WalFile::open(path, page_size, end)?;
    wal.check_mark(since)?;
    for frame in since.frame + 1..=end.frame {
        let header = wal.frame_header(frame)?;
        if frame == end.frame
            && (header.checksum != end.checksum || header.commit_size != now.db_size)
        {
            return Err(ScanReason::Broken { frame });
        }
        each(frame, &header);
    }
    wal.check_mark(since)?;
    wal.check_unchanged()?;
    Ok(end.frame - since.frame)
}

fn read_header(file: &File) -> Result<WalHeader, ScanReason> {
    let mut bytes = [0; WAL_HEADER_BYTES];
    read_exact_at(file, &mut bytes, 0).map_err(|_| ScanReason::Unreadable)?;
    WalHeader::decode(&bytes).map_err(|_| ScanReason::Unreadable)
}
