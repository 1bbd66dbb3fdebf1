//! The merge itself: three states as connections of SQLite, and what comes of them.
//!
//! What a client wrote may be anything that looks like a database. So the connections are those of
//! [`anabranch_sqlite::Scratch`], which only read and write rows, and a merge that takes too long is
//! interrupted.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anabranch_rebase::{Changed, Interrupts, KeyMap, Layered, LayeredError, RebaseError, Rules};
use anabranch_sqlite::{Overlay, Scratch, ScratchError, SharedOverlay, SharedPages};
use anabranch_store::{Spool, causes};

use super::journal;
use crate::error::ApiError;
use crate::libsql::engine::blocking;

/// How long a merge may take.
pub(super) const TIME_MAX: Duration = Duration::from_secs(60);
/// Once its time is over it is interrupted this often, until it ends.
const INTERRUPTS: Duration = Duration::from_millis(20);
/// Renumbered keys that a lineage may have: what memory they take is bounded by it.
const KEYS_MAX: usize = 1_000_000;

/// The states.
pub(super) struct Merging {
    /// The client's, before and after its new frames.
    pub(super) changed: Changed,
    /// That of the head.
    pub(super) onto: SharedPages,
    /// Keys that were renumbered before.
    pub(super) keys: KeyMap,
    pub(super) scratch: PathBuf,
    /// Nothing has proven that the client's state is a database.
    pub(super) check: bool,
}

/// What came of it.
pub(super) struct Merged {
    /// The result, on the state of the head.
    pub(super) layer: SharedOverlay,
    pub(super) keys: KeyMap,
    /// Lines of the journal, and how many there are.
    pub(super) journal: Spool,
    pub(super) conflicts: u64,
}

/// Why there is no result.
#[derive(Debug)]
pub(super) enum NotMerged {
    /// It never can be: a word for the metric, and what is in the way.
    Refused(&'static str, String),
    /// Something failed that has nothing to do with what is merged.
    Failed(String),
}

/// Merges. Ends after [`TIME_MAX`].
pub(super) async fn merge(merging: Merging) -> Result<Result<Merged, NotMerged>, ApiError> {
    let watch = Arc::new(Watch::default());
    let watching = Arc::clone(&watch);
    let dog = tokio::spawn(async move {
        tokio::time::sleep(TIME_MAX).await;
        loop {
            watching.interrupt();
            tokio::time::sleep(INTERRUPTS).await;
        }
    });
    let watched = Arc::clone(&watch);
    let merged = blocking(move || run(merging, &watched)).await;
    dog.abort();
    Ok(merged?.map_err(|e| match e {
        _ if watch.over.load(Ordering::Relaxed) => {
            NotMerged::Refused("heal-time", format!("merging it takes longer than {TIME_MAX:?}"))
        }
        e => e,
    }))
}

/// Interrupts connections whose time is over.
#[derive(Default)]
struct Watch {
    connections: OnceLock<Interrupts>,
    over: AtomicBool,
}

impl Watch {
    fn interrupt(&self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(connections) = self.connections.get() {
            connections.interrupt();
        }
    }
}

fn run(merging: Merging, watch: &Watch) -> Result<Merged, NotMerged> {
    let Merging { changed, onto, mut keys, scratch, check } = merging;
    let layer = Overlay::new(Arc::clone(&onto), &scratch).map_err(failed)?.shared();
    let mut journal = journal::Writer::new(Spool::new(&scratch));
    {
        let states = Layered::open(changed, onto, &layer).map_err(unreadable)?;
        // There is one merge for each watch.
        let _ = watch.connections.set(states.interrupts());
        if check {
            sound(states.local())?;
        }
        let mut write = |conflict| journal.write(&conflict).map_err(Into::into);
        states.rebase(&Rules::default(), &mut keys, &mut write).map_err(|e| refused(&e))?;
    }
    if keys.moved.len() > KEYS_MAX {
        let what = format!("more than {KEYS_MAX} rows would get other keys");
        return Err(NotMerged::Refused("heal-size", what));
    }
    let (journal, conflicts) = journal.finish().map_err(failed)?;
    Ok(Merged { layer, keys, journal, conflicts })
}

/// A WAL that begins with the client's own frames says nothing of the file it belongs to.
fn sound(local: &Scratch) -> Result<(), NotMerged> {
    let found: String = local
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| unreadable(local.explain(e)))?;
    if found == "ok" {
        return Ok(());
    }
    Err(NotMerged::Refused(
        "chain",
        format!("the client's file is not what the log knows: {found}"),
    ))
}

fn failed(e: io::Error) -> NotMerged {
    NotMerged::Failed(format!("a temporary file of the server failed: {e}"))
}

fn unreadable(e: ScratchError) -> NotMerged {
    match e {
        ScratchError::Pages(_) => NotMerged::Failed(causes(&e)),
        e => NotMerged::Refused("heal-unreadable", causes(&e)),
    }
}

fn refused(e: &LayeredError) -> NotMerged {
    let reason = match e {
        LayeredError::Rebase(RebaseError::SchemaConflict { .. }) => "heal-schema",
        LayeredError::Pages(_) | LayeredError::Rebase(RebaseError::Journal(_)) => {
            return NotMerged::Failed(causes(e));
        }
        _ => "heal-unmergeable",
    };
    NotMerged::Refused(reason, causes(e))
}

/// Where a section of a part is gathered.
pub(super) fn section(
    scratch: &Path,
    write: impl FnOnce(&mut anabranch_format::SectionWriter<Spool>) -> io::Result<()>,
) -> io::Result<(Spool, (u64, u64))> {
    let mut section = anabranch_format::SectionWriter::new(Spool::new(scratch));
    write(&mut section)?;
    section.flush()?;
    section.finish()
}
