//! Bytes that are needed again in any order: in memory while they are few, then in an anonymous
//! temporary file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::LibsqlError;

/// Beyond this many bytes a temporary file is used.
const MEMORY_BYTES_MAX: u64 = 8 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
}

impl Scratch {
    /// Nothing yet; a temporary file would lie in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Scratch { folder: folder.to_owned(), memory: Vec::new(), file: None, len: 0 }
    }

    /// Writes at `at`, which lies no further than the end.
    pub(super) fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        if self.file.is_none() && end > MEMORY_BYTES_MAX {
            let mut file = tempfile::tempfile_in(&self.folder)?;
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => {
                file.seek(SeekFrom::Start(at))?;
                file.write_all(bytes)?;
            }
            None => {
                let (at, end) = (index(at)?, index(end)?);
                if self.memory.len() < end {
                    self.memory.resize(end, 0);
                }
                self.memory[at..end].copy_from_slice(bytes);
            }
        }
        self.len = self.len.max(end);
        Ok(())
    }

    /// Reads from `at` until `buf` is full.
    pub(super) fn read_at(&mut self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => {
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(buf)
            }
            None => {
                let at = index(at)?;
                let stored = self.memory.get(at..).and_then(|rest| rest.get(..buf.len()));
                buf.copy_from_slice(stored.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// The typed error for `source`.
    pub(super) fn failed(&self, source: io::Error) -> LibsqlError {
        LibsqlError::Scratch { folder: self.folder.clone(), source }
    }
}

impl Write for Scratch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(self.len, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn index(at: u64) -> io::Result<usize> {
    usize::try_from(at).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::new(folder.path());
        let block = |n: u8| vec![n; 1 << 20];
        for n in 0..12 {
            scratch.write_all(&block(n)).unwrap();
            assert_eq!(scratch.file.is_some(), n >= 8);
        }
        scratch.write_at(3 << 20, &block(99)).unwrap();
        let mut buf = vec![0; 1 << 20];
        for (n, expected) in [(0u64, 0), (3, 99), (11, 11)] {
            scratch.read_at(n << 20, &mut buf).unwrap();
            assert_eq!(buf, block(expected));
        }
        assert!(scratch.read_at((12 << 20) - 1, &mut buf).is_err());
    }
}
