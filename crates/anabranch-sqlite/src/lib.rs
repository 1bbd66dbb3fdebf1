//! A SQLite file that other programs use at the same time: what changed in it, and changing it.
//!
//! Stock SQLite, linked into this program, is the only code that reads pages of the file or writes
//! them; other programs may use any SQLite of their own meanwhile. The crate decides which pages
//! differ from a *base* (a checksum per page, kept by the caller), and whether a change from
//! elsewhere can be put in without overwriting what somebody wrote in between. It knows nothing of
//! logs, remotes or the network.
//!
//! | item | what it is |
//! |---|---|
//! | [`LiveFile`] | the file, over one connection that is used for nothing else |
//! | [`View`] | one consistent state of it: pages, capture, compare-and-apply |
//! | [`PinnedView`] | the same, owning the file |
//! | [`Overlay`] | a state that differs from another in some pages |
//! | [`Scratch`] | a connection of SQLite on such a state, to read it or to make a further one |
//! | [`Watcher`] | sees every page that is written, also over restarts of the `-wal` |
//! | [`Mark`] | a place in the `-wal`: what was committed up to a view |
//! | [`BaseMap`] | the base, and the pages that intents will change, in the caller's sidecar |
//! | [`FileIdentity`] | what tells the file from a copy of it |
//! | [`ServedFile`] | a file of this process's own that is kept at a position of a log and written by SQL |
//! | [`Frozen`] | a file that nobody else has open, apart from its `-wal` |
//!
//! Rules that hold everywhere here:
//! 1. The database and its `-shm` are opened and closed by SQLite alone: any other close would drop
//!    this process's locks on them, and other programs would delete the `-wal` under us. `stat` is
//!    harmless; so is opening the `-wal`, which carries no locks. [`Frozen`] has the database to itself.
//! 2. What a view shows is one committed state, and an apply replaces exactly that state or nothing.
//! 3. No `-wal` is left behind by the last one to close: SQLite's own rule, not switched off.
//!
//! Effects on other programs: after an apply, a deferred transaction that had begun before and now
//! wants to write gets `SQLITE_BUSY_SNAPSHOT` at once, as after a commit of any other program.

#[cfg(not(any(unix, windows)))]
compile_error!("reading the -wal at an offset is implemented for Unix and Windows");

/// A named place at which tests kill the process: nothing unless the feature `failpoints` is on.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}

mod apply;
mod base;
mod capture;
mod error;
mod ffi;
mod frozen;
mod identity;
mod live;
mod mark;
mod mount;
mod overlay;
mod own_pages;
mod page_read;
mod positional;
mod raw_pages;
mod recover;
mod scratch;
mod served;
mod state_file;
mod temp_files;
mod verify;
mod view;
mod wal;
mod watcher;
mod write_behind;
mod write_lock;

pub use anabranch_format::PageSet;
pub use apply::{
    Applied, ApplyDelta, ApplyIntent, CookieRule, Hashed, NewPage, NewPages, UnderLock,
};
pub use base::{BaseMap, PageEntry, PageHasher, Staged, Staging};
pub use capture::{Captured, Compare, How, ScanReason};
pub use error::{ApplyError, BaseError, CaptureError, FileError, Mismatch, NewPagesError};
pub use frozen::{EachFrame, Frozen};
pub use identity::FileIdentity;
pub use live::{LiveFile, Prepared};
pub use mark::Mark;
pub use overlay::{Difference, LAYER_MEMORY_BYTES_MAX, Overlay, SharedOverlay};
pub use page_read::{PageRead, SharedPages, lock as lock_pages};
pub use recover::Verdict;
pub use scratch::{PageFailure, Scratch, ScratchError, VALUE_BYTES_MAX};
pub use served::{NewServedFile, Published, Replacing, ServedFile, Tip};
pub use temp_files::TempFiles;
pub use view::{PinnedView, View, ViewOf};
pub use watcher::{FRAMES_MAX, Watcher, WatcherCounts};
pub use write_behind::WriteBehind;
