//! Healing: what a client wrote past a conflict is merged for it.
//!
//! An official client that wrote on a state from which the log went on without it knows no way but to
//! be told "conflict" for ever. Here its frames are taken, their rows are merged into the log, as a
//! replica of our own does before it pushes, and the client is led to where everybody goes on.
//!
//! # Words
//! A client's WAL counts its frames from 1; as long as it has the same salts it is the same WAL. Up to
//! the *fork* they are the frames of a generation, which the checksum chain proves. What follows is
//! the WAL's *lineage*, the client's own: never frames of the log. A push that extends it is a
//! *part*. A *passage* is one transaction that leads the client from the end of its own frames to a
//! state of the log.
//!
//! # Numbering
//! ```text
//! everybody   g:1 … g:f … g:m          (m: the merged rows of the first part)
//!             p, p+1: no frame 1       p+2:1, 2 …
//! the owner   g:1 … g:f, own f+1 … n  = p:1 … p:n, passage p:n+1 … p:e = base of p+2
//! ```
//! The first part of a lineage ends generation g: its segment says that the next generation is
//! p + 2, where p = g + 1, and that p is a generation of this lineage alone. The client is told "ok,
//! p, n". Its own frames have the same numbers there as in g. When it asks for frame n + 1 it is given
//! the passage to the base of p + 2, in which its rows are, and walks on. Anybody else who walks
//! along the numbers finds neither frame 1 of p nor of p + 1; the latter is free for a bridge.
//! Whatever the owner pushes later in p (the batches of a long push, repeats, what it wrote before it
//! pulled, or after the passage) extends the same lineage by ordinary appends; no further number is
//! used up. After each a new passage leads from there to the base of p + 2. `/info` never names p,
//! which is not the current generation at any time.
//!
//! # A push
//! 1. Is it of a lineage? Lineages are listed by the salts of the frames, after the request came. What is
//!    there already is compared along the whole WAL: own frames to the last bit of their checksums,
//!    frames of passages by what they say. Equal: a repeat, "ok".
//! 2. Else the frames are compared with those of the generation that the client names. Where they
//!    differ (or equal a frame that nobody can have pulled: two clients made the same change) is the
//!    fork, at the last whole transaction before; the chain must prove that the WAL holds the
//!    log's frames up to there. A client that stopped at frame 0 of a number that was never a
//!    generation stands at the base of the next one.
//! 3. A transaction that goes on in the next request waits in a session; its baton tells how far the
//!    WAL was proven, so that a server that has forgotten the session can send the client back there.
//!    The client's library forgets the baton as easily, so the store is told as well ([`proven`]).
//! 4. Whole transactions are merged ([`merge`]): base = the client's state before them, local =
//!    after, onto = the head. Conflicts are decided by the default rules (the later push wins, row by
//!    row) and go into the journal. What cannot be merged (both sides changed the schema) is a
//!    "conflict" now, before anything was promised.
//! 5. The part is kept, then the merged rows are appended, under the same push id, by
//!    the one put that decides everything. Lost to somebody else: merged anew onto the new head.
//! 6. "ok, p, n" is told once that is durable.
//!
//! # What is durable
//! | object | what it decides |
//! |---|---|
//! | segment of the log with `healed` | that the frames it names are merged: once, since the put is at the head and every segment before it was seen |
//! | `heal/{lineage}/p{position}-{push}` | frames, keys that were renumbered, journal. Counts if the segment at the position is of that push |
//! | `heal/{lineage}/b{frame}` | the passage after this frame, kept before it is first served |
//! | `heal/{lineage}/f{position}-{generation}{frame}` | up to where a WAL was proven whose first transaction takes several requests, kept before the first of them is answered |
//!
//! Everything else is a cache, so any server on the store can go on. Retention takes a lineage when
//! the segments it was merged into go.
//!
//! # Killed between two steps
//! | killed | what is there | what happens |
//! |---|---|---|
//! | in the middle of a transaction | up to where the WAL was proven | the client comes with its next frames, and is sent back there |
//! | before the part is kept | nothing | the client repeats |
//! | before the append | a part that counts for nothing | the client repeats; another part is kept |
//! | after the append | all of it | the client repeats; its frames are equal: "ok" |
//! | before a passage is kept | nothing of it | it is made when the client asks again |
//! | after a passage was kept | the passage, not served | it is found and served |
//! | while a lineage is dropped | not its oldest part, which goes first | nothing of it counts; its client gets the whole database |
//! | while retention takes it | anything | it lies below the floor, which rose before: nothing of it counts |
//!
//! # Why nothing is lost or doubled
//! Frames count as merged by the log alone, and whoever appends a part has seen the log up to the head
//! it appends to. Keys that were renumbered are kept with each part: until it has crossed the passage
//! the client knows its rows under the old ones, and its later changes go through the map. After the
//! passage its state is one of the log, and the map is void.
//!
//! # Bounds
//! A lineage at hand takes a scratch file of its frames, and memory for its renumbered keys; there are
//! [`LINEAGES_MAX`] for each database. The [`mirror`] is the database once, in a scratch file, made
//! when first needed. A merge holds a few pages in memory and the rest in scratch files, as long as
//! it takes, at most [`merge::TIME_MAX`]; its transactions have at most [`FRAMES_MAX`] frames. It is
//! made under the lock of the database's engine and in its turn to append, so that merges queue
//! instead of losing to one another. The databases that are opened come from anybody: see
//! [`anabranch_sqlite::Scratch`].

use std::sync::Arc;

use super::engine::Core;
use super::generation::Span;

mod append;
mod journal;
mod lineage;
mod load;
mod merge;
mod mirror;
mod passage;
mod proven;
mod states;

pub(super) use append::{Outcome, Own, heal};
pub(crate) use journal::{conflicts, drop_lineage, lineages};
pub(super) use lineage::{Fork, Lie, Lineage, Origin};
pub(super) use load::{find, last_merged, of_number};
pub(super) use passage::pull;
pub(super) use proven::{note, noted};

/// Lineages of a database at hand; the one used least recently goes.
const LINEAGES_MAX: usize = 16;
/// Frames of one part at most: 1 GiB.
pub(super) const FRAMES_MAX: u32 = 256 * 1024;
/// How far the generation after the one that ends lies: p, one that is skipped, and the next.
pub(super) const STEP: u32 = 3;

/// What the engine keeps for healing.
#[derive(Debug, Default)]
pub(super) struct Healing {
    /// The one used last comes last.
    lineages: Vec<Arc<Lineage>>,
    mirror: Option<mirror::Mirror>,
}

impl Healing {
    /// A lineage at hand.
    fn get(&self, id: &anabranch_format::LineageId) -> Option<Arc<Lineage>> {
        self.lineages.iter().find(|lineage| lineage.id == *id).cloned()
    }

    /// The lineage at hand whose generation has this number.
    pub(super) fn of_number(&self, number: u32) -> Option<&Lineage> {
        self.lineages.iter().find(|lineage| lineage.number == number).map(Arc::as_ref)
    }

    fn put(&mut self, lineage: Arc<Lineage>) {
        self.lineages.retain(|other| other.id != lineage.id);
        self.lineages.push(lineage);
        if self.lineages.len() > LINEAGES_MAX {
            self.lineages.remove(0);
        }
    }

    fn forget(&mut self, id: &anabranch_format::LineageId) {
        self.lineages.retain(|other| other.id != *id);
    }
}

/// The generations around a number that is none.
#[derive(Debug, Clone)]
pub(super) struct Gap {
    /// The generation that comes next.
    pub(super) next: Span,
    /// Whose generation the number is, if it is that of a lineage.
    pub(super) owner: Option<anabranch_format::Healed>,
}

impl Core {
    /// Where the number lies between generations, if the log still keeps the one before.
    pub(super) async fn gap(
        &mut self,
        log: &anabranch_store::Log,
        current: Span,
        floor: anabranch_format::Lsn,
        number: u32,
    ) -> Result<Option<Gap>, anabranch_store::StoreError> {
        let Some(end) = self.past.end_before(log, current, floor, number).await? else {
            return Ok(None);
        };
        let position = log.segment_at(end).await?;
        let Some(metadata) = position.metadata else { return Ok(None) };
        let (Some(number_after), Some(first)) = (metadata.next_generation, end.next()) else {
            return Ok(None);
        };
        let next = Span { number: number_after, first };
        let owner = metadata.healed.filter(|healed| healed.number == number);
        Ok((metadata.generation.0 < number && number < number_after).then_some(Gap { next, owner }))
    }
}
