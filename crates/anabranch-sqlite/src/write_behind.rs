//! Has the disk write a file while it is still being made, so that little is left to wait for at the
//! end.
//!
//! One descriptor serves all syncs of one file, and every error of it is handed on: a failure of the
//! disk is told to a descriptor once, and never to one that is opened later.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// A thread that syncs a file when it is asked to.
#[derive(Debug)]
pub struct WriteBehind {
    ask: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl WriteBehind {
    /// Starts the thread on `file`.
    pub fn start(file: File) -> io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        let thread = std::thread::Builder::new().name("anabranch-sync".to_owned());
        let thread = thread.spawn(move || asked.iter().try_for_each(|()| file.sync_data()))?;
        Ok(WriteBehind { ask, thread })
    }

    /// Asks for what is written so far, without waiting; no matter if the disk is still busy with
    /// what was asked for before.
    pub fn sync_soon(&self) {
        let _ = self.ask.try_send(());
    }

    /// Asks for what is written so far, without waiting for it, but never in vain.
    pub fn sync(&self) {
        // If the thread is gone it has met an error, which `finish` answers.
        let _ = self.ask.send(());
    }

    /// Waits for everything that was asked for. Any sync that failed since the start is an error.
    pub fn finish(self) -> io::Result<()> {
        drop(self.ask);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("syncing was given up")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_any_sync_comes_out_at_the_end() {
        let file = tempfile::tempfile().unwrap();
        let behind = WriteBehind::start(file).unwrap();
        behind.sync_soon();
        behind.sync();
        behind.finish().unwrap();
        // What cannot be synced: a pipe.
        let (reader, _writer) = std::io::pipe().unwrap();
        let behind = WriteBehind::start(File::from(std::os::fd::OwnedFd::from(reader))).unwrap();
        behind.sync();
        behind.sync_soon();
        assert!(behind.finish().is_err());
    }
}
