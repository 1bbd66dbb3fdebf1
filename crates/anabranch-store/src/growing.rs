//! A temporary file that is read while it is still being written.
//!
//! One writes at the end, any number read; a read beyond what is there waits. When the writer fails,
//! whoever waits gets its error. When nobody reads any more the writer can tell.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;

/// The file and how far it is.
#[derive(Debug)]
pub(crate) struct Growing {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Debug)]
struct State {
    file: File,
    len: u64,
    end: End,
}

#[derive(Debug)]
enum End {
    /// More will come.
    Open,
    /// It is complete.
    Complete,
    /// Nothing will come; the first reader gets the reason.
    Failed(Option<StoreError>),
}

impl Growing {
    /// An empty one, in an anonymous file in `directory`.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(directory)?;
        let state = Mutex::new(State { file, len: 0, end: End::Open });
        Ok(Growing { state, more: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes at the end.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let at = state.len;
        state.file.seek(SeekFrom::Start(at))?;
        state.file.write_all(bytes)?;
        state.len += bytes.len() as u64;
        drop(state);
        self.more.notify_all();
        Ok(())
    }

    /// Nothing more will come, and nothing is missing.
    pub(crate) fn complete(&self) {
        self.end(End::Complete);
    }

    /// Nothing more will come.
    pub(crate) fn fail(&self, e: StoreError) {
        self.end(End::Failed(Some(e)));
    }

    fn end(&self, end: End) {
        let mut state = self.state();
        if matches!(state.end, End::Open) {
            state.end = end;
        }
        drop(state);
        self.more.notify_all();
    }

    /// Reads what is at `from`; waits until something is there. Blocking.
    pub(crate) fn read_at(&self, from: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        while state.len <= from {
            match &mut state.end {
                End::Open => {}
                End::Complete => return Ok(0),
                End::Failed(reason) => {
                    let reason = reason.take().unwrap_or(StoreError::Interrupted);
                    return Err(io::Error::other(reason));
                }
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let there = usize::try_from(state.len - from).unwrap_or(usize::MAX);
        let take = buf.len().min(there);
        state.file.seek(SeekFrom::Start(from))?;
        state.file.read(&mut buf[..take])
    }

    /// Whether nobody but the writer holds it any more.
    pub(crate) fn is_unread(this: &Arc<Self>) -> bool {
        Arc::strong_count(this) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::SpoolReader;

    #[test]
    fn a_reader_gets_everything_that_comes_while_it_reads() {
        let directory = tempfile::tempdir().unwrap();
        let growing = Arc::new(Growing::new(directory.path()).unwrap());
        let data: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
        let mut reader = SpoolReader::from_growing(Arc::clone(&growing), data.len() as u64);
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        for part in data.chunks(10_007) {
            growing.write(part).unwrap();
        }
        growing.complete();
        assert_eq!(reading.join().unwrap().unwrap(), data);
        assert!(Growing::is_unread(&growing));
    }

    #[test]
    fn a_reader_that_waits_gets_the_writers_error() {
        let directory = tempfile::tempdir().unwrap();
        let growing = Arc::new(Growing::new(directory.path()).unwrap());
        growing.write(b"abc").unwrap();
        let mut reader = SpoolReader::from_growing(Arc::clone(&growing), 10);
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            let failed = reader.read_to_end(&mut read).unwrap_err();
            (read, failed)
        });
        growing.fail(StoreError::Unsettled { location: "river".into() });
        let (read, failed) = reading.join().unwrap();
        assert_eq!(read, b"abc");
        let failed = StoreError::from_pages(failed.into()).unwrap();
        assert!(matches!(failed, StoreError::Unsettled { .. }), "{failed:?}");
    }
}
