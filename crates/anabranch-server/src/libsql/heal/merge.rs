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

use anabranch_format::PART_BYTES_MAX;
use anabranch_rebase::{
    Changed, Conflict, Decision, Interrupts, KeyMap, Layered, LayeredError, RebaseError, Rules,
};
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
/// Bytes of the journal of one merge.
const JOURNAL_BYTES_MAX: u64 = PART_BYTES_MAX[1];

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
        let mut room = Room { keys: KEYS_MAX.saturating_sub(keys.moved.len()), exceeded: None };
        let mut write = |conflict| {
            journal.write(&conflict)?;
            room.take(&conflict, journal.bytes()).map_err(Into::into)
        };
        let merged = states.rebase(&Rules::default(), &mut keys, &mut write);
        if let Some(what) = room.exceeded {
            return Err(NotMerged::Refused("heal-size", what));
        }
        merged.map_err(|e| refused(&e))?;
    }
    if keys.moved.len() > KEYS_MAX {
        return Err(NotMerged::Refused("heal-size", too_many_keys()));
    }
    let (journal, conflicts) = journal.finish().map_err(failed)?;
    Ok(Merged { layer, keys, journal, conflicts })
}

/// What a merge may still write down. Looked at along the way: what comes of a merge may be many times
/// what was pushed.
struct Room {
    /// So many more rows may get another key.
    keys: usize,
    /// What there was no room for.
    exceeded: Option<String>,
}

impl Room {
    /// A row that is in the journal now, which has so many bytes.
    fn take(&mut self, conflict: &Conflict, journal: u64) -> io::Result<()> {
        if matches!(conflict.decision, Decision::Renumbered(_)) {
            match self.keys.checked_sub(1) {
                Some(left) => self.keys = left,
                None => self.exceeded = Some(too_many_keys()),
            }
        }
        if journal > JOURNAL_BYTES_MAX {
            let what = format!("the journal of it would have more than {JOURNAL_BYTES_MAX} bytes");
            self.exceeded = Some(what);
        }
        match &self.exceeded {
            Some(what) => Err(io::Error::other(what.clone())),
            None => Ok(()),
        }
    }
}

fn too_many_keys() -> String {
    format!("more than {KEYS_MAX} rows would get other keys")
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

#[cfg(test)]
mod tests {
    use anabranch_rebase::{ConflictKind, Row};

    use super::*;

    fn conflict(decision: Decision) -> Conflict {
        Conflict {
            table: "t".to_owned(),
            key: Row { columns: Arc::from([]), values: Vec::new() },
            kind: ConflictKind::InsertInsert,
            decision,
            base: None,
            local: None,
            remote: None,
            detail: None,
        }
    }

    #[test]
    fn a_merge_that_writes_down_too_much_ends_where_it_does() {
        let mut room = Room { keys: 2, exceeded: None };
        room.take(&conflict(Decision::Renumbered(1)), 1).unwrap();
        room.take(&conflict(Decision::Local), 1).unwrap();
        room.take(&conflict(Decision::Renumbered(2)), 1).unwrap();
        assert!(room.take(&conflict(Decision::Renumbered(3)), 1).is_err());
        assert!(room.exceeded.unwrap().contains("other keys"));
        let mut room = Room { keys: 2, exceeded: None };
        room.take(&conflict(Decision::Local), JOURNAL_BYTES_MAX).unwrap();
        assert!(room.take(&conflict(Decision::Local), JOURNAL_BYTES_MAX + 1).is_err());
        assert!(room.exceeded.unwrap().contains("journal"));
    }
}
