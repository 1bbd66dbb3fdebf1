//! The log of one SQLite database on an object store.
//!
//! A *remote* is a folder or a bucket that holds the logs of any number of databases as immutable
//! objects. The only arbiter is the store's own "create this object if it is absent": whoever
//! creates the object at the next position has appended. There is no lock, no manifest and no
//! coordinator, so any number of programs may write to one remote at once.
//!
//! | item | what it is |
//! |---|---|
//! | [`Location`], [`Root`], [`DatabaseName`] | where a remote is, and which databases it holds |
//! | [`Log`] | the log of one database: append, head, fetch, compact, history |
//! | [`Anchor`], [`Head`], [`Position`] | places in the log, and what proves them |
//! | [`Spool`], [`NewSegment`] | what is appended |
//! | [`Fetched`] | what was fetched: pages, ascending, checked |
//! | [`PagesAt`] | single pages as of any position |
//! | [`SegmentFrames`] | the frames of the log as they were appended |
//! | [`Bundle`], [`Arrival`] | the same, on its way from one that has the log to one that has not |
//!
//! Absent on purpose: this crate knows nothing of live database files, reads no clock (callers pass
//! the time in; [`fresh`] has it for them) and keeps no state between calls, so a killed program
//! leaves nothing to repair.

mod append;
mod arrival;
mod aside;
mod blocking;
mod bundle;
mod chunk_pages;
mod collect;
mod compact;
mod context;
mod error;
mod fault;
mod fetch;
mod first_image;
mod folder;
mod frames;
pub mod fresh;
mod growing;
mod head;
mod history;
mod keys;
mod location;
mod log;
mod name;
mod objects;
mod pack;
mod pages_at;
mod plan;
mod progress;
mod retain;
mod root;
mod runs;
mod snapshot_pages;
mod spool;
mod unpack;
mod upload;
mod writers;

pub use append::{AppendError, Appended, GENERATION_MAX, NewSegment, Rollover};
pub use arrival::{Arrival, Readable};
pub use aside::{Aside, AsideName};
pub use bundle::{BUNDLE_BYTES_MAX, Bundle, MANIFEST_BYTES_MAX, MANIFEST_MAGIC, Manifest};
pub use compact::CompactReport;
pub use error::{Damage, StoreError, causes};
pub use fetch::{Fetched, Pushed, Unstated};
pub use frames::SegmentFrames;
pub use head::{Anchor, Head};
pub use history::{At, CLOCK_TOLERANCE, ClockGap, Entry, Position};
pub use location::{Location, LocationError};
pub use log::Log;
pub use name::{DatabaseName, InvalidName};
pub use pack::PackThreads;
pub use pages_at::PagesAt;
pub use progress::{Counter, Progress, ProgressEvent, Step};
pub use root::{Named, Root, SECRET_BYTES, StoreKind, StoreOptions};
pub use runs::Chain;
pub use spool::{Spool, SpoolReader};

// What `crash_point!` stands on.
#[doc(hidden)]
pub use fail;
