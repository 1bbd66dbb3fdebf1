//! Bytes on their way to a store: in memory while they are few, then in a temporary file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::growing::Growing;

/// Beyond this many bytes a spool moves to a temporary file; also the largest object that is put
/// in one request. Small enough to hold in memory, large enough that most pushes need one request.
pub(crate) const SMALL_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Compressed bytes that will become part of an object. Written once through [`Write`], then read
/// as often as needed. Holds at most 8 MiB in memory, or what it was given; what is longer lies in
/// an anonymous temporary file in the directory given.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    memory_bytes_max: u64,
    len: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    File(File),
    /// Written and read already; nothing is added any more.
    Finished(SpoolReader),
}

impl Spool {
    /// An empty spool that may put a temporary file into `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self::with_memory(directory, SMALL_BYTES_MAX)
    }

    /// As [`Spool::new`], with no more than `memory_bytes_max` in memory.
    #[must_use]
    pub fn with_memory(directory: &Path, memory_bytes_max: u64) -> Self {
        let place = Place::Memory(Vec::new());
        Spool { directory: directory.to_path_buf(), memory_bytes_max, len: 0, place }
    }

    /// A spool of bytes that are in memory already.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u64;
        let memory_bytes_max = SMALL_BYTES_MAX;
        Spool { directory: PathBuf::new(), memory_bytes_max, len, place: Place::Memory(bytes) }
    }

    /// A spool of the whole content of `file`, which nobody may change meanwhile.
    pub fn from_file(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let memory_bytes_max = SMALL_BYTES_MAX;
        Ok(Spool { directory: PathBuf::new(), memory_bytes_max, len, place: Place::File(file) })
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ends the writing; what was written can be read from the result any number of times.
    #[must_use]
    pub fn finish(self) -> SpoolReader {
        let source = match self.place {
            Place::Memory(bytes) => Source::Memory(bytes.into()),
            Place::File(file) => Source::File(Arc::new(Mutex::new(file))),
            Place::Finished(reader) => return reader.rewound(),
        };
        SpoolReader { source, start: 0, at: 0, len: self.len }
    }
}

impl Write for Spool {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Place::Memory(bytes) = &mut self.place
            && self.len + data.len() as u64 > self.memory_bytes_max
        {
            let mut file = tempfile::tempfile_in(&self.directory)?;
            file.write_all(bytes)?;
            self.place = Place::File(file);
        }
        let n = match &mut self.place {
            Place::Memory(bytes) => {
                bytes.extend_from_slice(data);
                data.len()
            }
            Place::File(file) => {
                file.seek(SeekFrom::Start(self.len))?;
                file.write(data)?
            }
            Place::Finished(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads bytes that lie in memory or in a local file, from their start. Clones read on their own.
#[derive(Debug, Clone)]
pub struct SpoolReader {
    source: Source,
    /// Where in the file the bytes begin.
    start: u64,
    at: u64,
    len: u64,
}

#[derive(Debug, Clone)]
enum Source {
    Memory(Bytes),
    /// Clones share the descriptor, hence its position: each read seeks first.
    File(Arc<Mutex<File>>),
    /// More is still coming: a read waits for it.
    Growing(Arc<Growing>),
}

impl SpoolReader {
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        let len = bytes.len() as u64;
        SpoolReader { source: Source::Memory(bytes), start: 0, at: 0, len }
    }

    pub(crate) fn from_file(file: File, len: u64) -> Self {
        SpoolReader { source: Source::File(Arc::new(Mutex::new(file))), start: 0, at: 0, len }
    }

    /// The first `len` bytes of what is arriving.
    pub(crate) fn from_growing(growing: Arc<Growing>, len: u64) -> Self {
        SpoolReader { source: Source::Growing(growing), start: 0, at: 0, len }
    }

    /// The `len` bytes from `start` on, as a source of their own.
    ///
    /// # Panics
    /// If there are no such bytes.
    pub(crate) fn part(&self, start: u64, len: u64) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a part lies within");
        SpoolReader { source: self.source.clone(), start: self.start + start, at: 0, len }
    }

    /// How many bytes there are in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the bytes lie in memory, so that reading them cannot take long.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.source, Source::Memory(_))
    }

    /// The same bytes, read from their start.
    #[must_use]
    pub fn rewound(&self) -> Self {
        SpoolReader { at: 0, ..self.clone() }
    }

    /// The same bytes as something to append.
    #[must_use]
    pub fn into_spool(self) -> Spool {
        let (len, place) = (self.len, Place::Finished(self.rewound()));
        Spool { directory: PathBuf::new(), memory_bytes_max: 0, len, place }
    }

    /// What has not been read yet, as a source of its own.
    pub(crate) fn rest(&self) -> Self {
        SpoolReader {
            source: self.source.clone(),
            start: self.start + self.at,
            at: 0,
            len: self.len - self.at,
        }
    }
}

impl Read for SpoolReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        let take = buf.len().min(left);
        if take == 0 {
            return Ok(0);
        }
        let from = self.start + self.at;
        let n = match &self.source {
            Source::Memory(bytes) => {
                let from = usize::try_from(from).map_err(io::Error::other)?;
                buf[..take].copy_from_slice(&bytes[from..from + take]);
                take
            }
            Source::File(file) => {
                let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                file.seek(SeekFrom::Start(from))?;
                file.read(&mut buf[..take])?
            }
            Source::Growing(growing) => growing.read_at(from, &mut buf[..take])?,
        };
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_reads_back_the_same_from_memory_and_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        for len in [0usize, 10, 9 * 1024 * 1024] {
            let mut spool = Spool::new(directory.path());
            let data: Vec<u8> = (0..=250).cycle().take(len).collect();
            for part in data.chunks(1_000_003) {
                spool.write_all(part).unwrap();
            }
            let mut first = spool.finish();
            let mut second = first.clone();
            let mut head = vec![0; len.min(7)];
            second.read_exact(&mut head).unwrap();
            let (mut whole, mut rest) = (Vec::new(), Vec::new());
            first.read_to_end(&mut whole).unwrap();
            second.rest().read_to_end(&mut rest).unwrap();
            assert_eq!(whole, data);
            assert_eq!([head, rest].concat(), data);
        }
    }
}
