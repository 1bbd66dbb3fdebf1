//! Frames as libSQL clients send and number them, and where they are kept.
//!
//! The log keeps frames in segments, in zstd. To serve them by number they are laid out once in a
//! file without a name in the scratch directory, 4120 bytes each; it goes with the last handle.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anabranch_format::{FRAME_HEADER_BYTES, FrameHeader, PageSize, Pgno};
use bytes::Bytes;

/// The only page size of these clients.
pub(crate) const PAGE_SIZE: PageSize = PageSize::DEFAULT;
/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = PAGE_SIZE.bytes();
/// Bytes of a frame.
pub(crate) const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;
/// Frames that are read from a file at a time: half a megabyte.
pub(crate) const READ_FRAMES: u32 = 128;

/// What a frame's checksum covers besides the page: page number and commit size.
const CHAINED_BYTES: usize = 8;

/// One frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    bytes: &'a [u8],
    pub(crate) header: FrameHeader,
}

impl<'a> Frame<'a> {
    /// Reads a frame; `None` if it is of page 0 or has another length.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() != FRAME_BYTES {
            return None;
        }
        Some(Frame { bytes, header: FrameHeader::decode(bytes.first_chunk()?)? })
    }

    pub(crate) fn pgno(&self) -> Pgno {
        self.header.pgno
    }

    pub(crate) fn page(&self) -> &'a [u8] {
        &self.bytes[FRAME_HEADER_BYTES..]
    }

    /// The part of the header that the checksum covers.
    pub(crate) fn chained(&self) -> &'a [u8] {
        &self.bytes[..CHAINED_BYTES]
    }

    /// Whether it says the same: salts and checksums differ between the WALs of two clients.
    pub(crate) fn says(&self, other: &Frame<'_>) -> bool {
        self.chained() == other.chained() && self.page() == other.page()
    }
}

/// Frames in a row, in memory; each of them is one.
#[derive(Debug, Clone)]
pub(crate) struct Frames(Bytes);

impl Frames {
    /// Reads whole frames; the error is the index of one that is of page 0 (`None`: no whole number
    /// of frames).
    pub(crate) fn new(bytes: Bytes) -> Result<Self, Option<usize>> {
        if !bytes.len().is_multiple_of(FRAME_BYTES) {
            return Err(None);
        }
        match bytes.chunks_exact(FRAME_BYTES).position(|frame| Frame::new(frame).is_none()) {
            Some(index) => Err(Some(index)),
            None => Ok(Frames(bytes)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len() / FRAME_BYTES
    }

    pub(crate) fn get(&self, index: usize) -> Frame<'_> {
        let at = index * FRAME_BYTES;
        Frame::new(&self.0[at..at + FRAME_BYTES]).expect("frames were checked when they came")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Frame<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The frames from `from` on, without those from `to` on.
    pub(crate) fn part(&self, from: usize, to: usize) -> Frames {
        Frames(self.0.slice(from * FRAME_BYTES..to * FRAME_BYTES))
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Reads exactly `buf` from `offset`, without moving any position.
pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
    }
    #[cfg(windows)]
    {
        let (mut buf, mut offset) = (buf, offset);
        while !buf.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, buf, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    // One writer at a time; readers do not care for the position.
    let mut file = file;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

/// Frames of one generation in a scratch file, by number. One writer, any number of readers, who see
/// whole transactions appear at once.
#[derive(Debug)]
pub(crate) struct FrameFile {
    file: File,
    /// Frames of the generation that come before the first in the file.
    skipped: u32,
    last: AtomicU32,
}

impl FrameFile {
    /// A file without frames; the first will have the number after `skipped`.
    pub(crate) fn new(scratch: &Path, skipped: u32) -> io::Result<Self> {
        let file = tempfile::tempfile_in(scratch)?;
        Ok(FrameFile { file, skipped, last: AtomicU32::new(skipped) })
    }

    /// Number of the last frame that can be read (the first less one, if there is none).
    pub(crate) fn last(&self) -> u32 {
        self.last.load(Ordering::Acquire)
    }

    /// How many frames come before the first that can be read.
    pub(crate) fn skipped(&self) -> u32 {
        self.skipped
    }

    fn offset(&self, number: u32) -> u64 {
        u64::from(number - self.skipped - 1) * FRAME_BYTES as u64
    }

    /// Lays frames down from `number` on, where no reader looks yet.
    pub(crate) fn write(&self, number: u32, frames: &[u8]) -> io::Result<()> {
        debug_assert!(number > self.last(), "frames that can be read never change");
        write_all_at(&self.file, frames, self.offset(number))
    }

    /// Lets readers see everything up to `last`.
    pub(crate) fn publish(&self, last: u32) {
        self.last.store(last, Ordering::Release);
    }

    /// The frames from `first` to `last`, which must be there.
    pub(crate) fn read(&self, first: u32, last: u32) -> io::Result<Frames> {
        if first <= self.skipped || last > self.last() || last < first {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such frames"));
        }
        let mut bytes = vec![0; (last - first + 1) as usize * FRAME_BYTES];
        read_exact_at(&self.file, &mut bytes, self.offset(first))?;
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, "a scratch file is damaged");
        Frames::new(bytes.into()).map_err(damaged)
    }

    /// The last frame up to number `last` that is `wanted`, with its number.
    pub(crate) fn rfind(
        &self,
        last: u32,
        wanted: impl Fn(&Frame<'_>) -> bool,
    ) -> io::Result<Option<(u32, Frames)>> {
        let mut end = last;
        while end > self.skipped {
            let first = end.saturating_sub(READ_FRAMES - 1).max(self.skipped + 1);
            let read = self.read(first, end)?;
            if let Some(index) = (0..read.len()).rev().find(|index| wanted(&read.get(*index))) {
                let number = u32::try_from(index).map_err(io::Error::other)?;
                return Ok(Some((first + number, read.part(index, index + 1))));
            }
            end = first - 1;
        }
        Ok(None)
    }
}

/// Frames that wait for the rest of their transaction: in memory while they are few.
#[derive(Debug)]
pub(crate) struct Kept {
    memory: Vec<u8>,
    file: Option<File>,
    frames: u32,
}

/// Beyond this many bytes they lie in a scratch file.
const KEPT_MEMORY_BYTES: usize = 1024 * 1024;

impl Kept {
    pub(crate) fn new() -> Self {
        Kept { memory: Vec::new(), file: None, frames: 0 }
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.frames) * FRAME_BYTES as u64
    }

    /// Adds frames. After an error nothing was added.
    pub(crate) fn add(&mut self, frames: &Frames, scratch: &Path) -> io::Result<()> {
        let count = u32::try_from(frames.len()).map_err(io::Error::other)?;
        if self.file.is_none() && self.memory.len() + frames.bytes().len() > KEPT_MEMORY_BYTES {
            let file = tempfile::tempfile_in(scratch)?;
            write_all_at(&file, &self.memory, 0)?;
            self.file = Some(file);
            self.memory = Vec::new();
        }
        match &self.file {
            Some(file) => write_all_at(file, frames.bytes(), self.bytes())?,
            None => self.memory.extend_from_slice(frames.bytes()),
        }
        self.frames += count;
        Ok(())
    }

    /// The frames from index `from` on, without those from `to` on.
    pub(crate) fn read(&self, from: u32, to: u32) -> io::Result<Frames> {
        let (from, to) = (from as usize * FRAME_BYTES, to as usize * FRAME_BYTES);
        let mut bytes = vec![0; to - from];
        match &self.file {
            Some(file) => read_exact_at(file, &mut bytes, from as u64)?,
            None => bytes.copy_from_slice(&self.memory[from..to]),
        }
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, "a scratch file is damaged");
        Frames::new(bytes.into()).map_err(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(numbers: &[u32]) -> Frames {
        let frame = |n: &u32| {
            let mut bytes = vec![n.to_le_bytes()[0]; FRAME_BYTES];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            bytes
        };
        Frames::new(numbers.iter().flat_map(frame).collect::<Vec<u8>>().into()).unwrap()
    }

    fn numbers(frames: &Frames) -> Vec<u32> {
        frames.iter().map(|frame| frame.pgno().get()).collect()
    }

    #[test]
    fn frames_are_read_by_number_once_they_are_published() {
        let scratch = tempfile::tempdir().unwrap();
        let file = FrameFile::new(scratch.path(), 10).unwrap();
        file.write(11, frames(&[1, 2, 3]).bytes()).unwrap();
        assert!(file.read(11, 11).is_err(), "not published");
        file.publish(13);
        file.write(14, frames(&[4]).bytes()).unwrap();
        assert_eq!(numbers(&file.read(12, 13).unwrap()), [2, 3]);
        assert!(file.read(12, 14).is_err() && file.read(10, 11).is_err());
    }

    #[test]
    fn kept_frames_read_back_from_memory_and_from_a_file() {
        let scratch = tempfile::tempdir().unwrap();
        let mut kept = Kept::new();
        for round in 0..300 {
            kept.add(&frames(&[round + 1, round + 1]), scratch.path()).unwrap();
        }
        assert!(kept.file.is_some());
        assert_eq!((kept.frames(), kept.bytes()), (600, 600 * 4120));
        for (from, to) in [(0, 3), (251, 258), (597, 600), (5, 5)] {
            let expected: Vec<u32> = (from..to).map(|i| i / 2 + 1).collect();
            assert_eq!(numbers(&kept.read(from, to).unwrap()), expected);
        }
    }

    #[test]
    fn bytes_that_are_no_frames_are_refused() {
        assert_eq!(Frames::new(vec![1; FRAME_BYTES + 1].into()).unwrap_err(), None);
        let mut zero = frames(&[1, 2]).bytes().to_vec();
        zero[FRAME_BYTES..FRAME_BYTES + 4].fill(0);
        assert_eq!(Frames::new(zero.into()).unwrap_err(), Some(1));
    }
}
