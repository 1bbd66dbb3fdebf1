//! A lineage at hand: the client's own frames, by number, and where they lead.

use std::io;
use std::sync::Arc;

use anabranch_format::{ChecksumOrder, LineageId, Lsn, Metadata, Salts, WalChecksum};
use anabranch_rebase::KeyMap;
use anabranch_store::AsideName;

use super::states::Place;
use crate::libsql::frame::{Frame, FrameFile, Frames};
use crate::libsql::guard;

/// Frames that are compared at a time.
const READ_FRAMES: u32 = 128;

/// The last frame that a WAL shares with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fork {
    /// The generation, or the number that is none, in which the client counts.
    pub(crate) generation: u32,
    pub(crate) frame: u32,
    /// The position of that frame, or of the base for 0.
    pub(crate) lsn: Lsn,
    /// Size of the database there, in pages.
    pub(crate) pages: u32,
}

/// What frames of a client that are not in the log come after.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A frame of the log: they begin a lineage.
    Fork(Fork),
    /// The frame with this number of a lineage.
    Lineage(Arc<Lineage>, u32),
}

impl Origin {
    /// Number of the frame that comes next.
    pub(crate) fn next(&self) -> u32 {
        match self {
            Origin::Fork(fork) => fork.frame + 1,
            Origin::Lineage(_, last) => last + 1,
        }
    }

    /// Size of the client's database there, in pages.
    pub(crate) fn pages(&self) -> u32 {
        match self {
            Origin::Fork(fork) => fork.pages,
            Origin::Lineage(lineage, last) => match &lineage.passage {
                Some(_) if *last > lineage.end => lineage.reserved.1,
                _ => lineage.pages,
            },
        }
    }
}

/// The frames that follow the last part.
#[derive(Debug, Clone)]
pub(crate) struct Passage {
    /// Numbered on from the lineage's end.
    pub(crate) frames: Arc<FrameFile>,
    pub(crate) end: u32,
    /// The client's checksum after it.
    pub(crate) checksum: WalChecksum,
}

/// A lineage. Never changes: a further part makes a new one, which shares the frames.
#[derive(Debug, Clone)]
pub(crate) struct Lineage {
    pub(crate) id: LineageId,
    pub(crate) order: ChecksumOrder,
    /// The number that is the owner's generation.
    pub(crate) number: u32,
    pub(crate) fork: Fork,
    /// The state that passages lead to.
    pub(crate) reserved: Place,
    /// All frames from the fork on, up to the end of the last part.
    pub(crate) frames: Arc<FrameFile>,
    /// First and last frames of the passages among them.
    pub(crate) crossed: Vec<(u32, u32)>,
    /// The parts, oldest first, and the segments that they were merged into.
    pub(crate) parts: Vec<(AsideName, Metadata)>,
    /// The state of the log that the client's newest own frames started from, and the first of them.
    pub(crate) base: (Place, u32),
    /// The last own frame.
    pub(crate) end: u32,
    pub(crate) checksum: WalChecksum,
    /// Size of the client's database there, in pages.
    pub(crate) pages: u32,
    /// The client's schema cookie, if it changed the schema since the base.
    pub(crate) cookie: Option<u32>,
    /// Keys that were renumbered since the base.
    pub(crate) keys: KeyMap,
    pub(crate) passage: Option<Passage>,
}

/// How the frames of a push lie to those of a lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// They are of another WAL, or one that went its own way.
    Apart,
    /// All of them are there.
    Within,
    /// New ones, from this index on, follow this frame.
    From(usize, u32),
    /// They begin beyond the last frame, this one.
    Beyond(u32),
}

impl Lineage {
    /// Names the WAL by its salts and the checksum of its first own frame, which covers all before.
    pub(crate) fn name(salts: Salts, first: WalChecksum) -> LineageId {
        let text = format!("{:08x}{:08x}-{:08x}{:08x}", salts.0, salts.1, first.0, first.1);
        text.parse().expect("hex digits and a dash are an id")
    }

    /// What the ids of all lineages with these salts begin with.
    pub(crate) fn prefix(salts: Salts) -> String {
        format!("{:08x}{:08x}", salts.0, salts.1)
    }

    /// What is known of the segment that a part was merged into.
    pub(crate) fn counted(&self, name: &AsideName) -> Option<Metadata> {
        self.parts.iter().find(|(known, _)| known == name).map(|(_, metadata)| metadata.clone())
    }

    /// How `frames`, the first of which has the number `start`, lie to the lineage. Blocking.
    pub(crate) fn lie(&self, start: u32, frames: &Frames) -> io::Result<Lie> {
        let last = u64::from(start) + frames.len() as u64 - 1;
        if last <= u64::from(self.fork.frame) {
            return Ok(Lie::Apart);
        }
        let skip = (self.fork.frame + 1).saturating_sub(start) as usize;
        let first = start.max(self.fork.frame + 1);
        let frames = frames.part(skip, frames.len());
        let own = self.equal(&self.frames, first, &frames, self.end)?;
        let at = first + own;
        let within = own as usize == frames.len();
        if within {
            return Ok(Lie::Within);
        }
        if at <= self.end {
            return Ok(Lie::Apart);
        }
        if let Some(passage) = &self.passage {
            let from = at.max(self.end + 1);
            let rest = frames.part(own as usize, frames.len());
            let held = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let held = held.min((passage.end + 1).saturating_sub(from));
            if held > 0 && self.equal(&passage.frames, from, &rest, passage.end)? == held {
                if held as usize == rest.len() {
                    return Ok(Lie::Within);
                }
                return Ok(Lie::From(skip + (own + held) as usize, passage.end));
            }
            if from == passage.end + 1 {
                let follows = guard::continues(self.order, passage.checksum, &rest.get(0));
                return Ok(if follows { Lie::From(skip, passage.end) } else { Lie::Apart });
            }
            if from > passage.end + 1 {
                return Ok(Lie::Beyond(passage.end));
            }
        }
        if at > self.end + 1 {
            return Ok(Lie::Beyond(self.end));
        }
        let follows = guard::continues(self.order, self.checksum, &frames.get(own as usize));
        Ok(if follows { Lie::From(skip + own as usize, self.end) } else { Lie::Apart })
    }

    /// How many of `frames`, from number `first` on and up to `last`, equal those in `ours`.
    fn equal(&self, ours: &FrameFile, first: u32, frames: &Frames, last: u32) -> io::Result<u32> {
        let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
        let end = last.min(first.saturating_add(count) - 1);
        let mut number = first;
        while number <= end {
            let to = end.min(number + READ_FRAMES - 1);
            let read = ours.read(number, to)?;
            for (index, our) in read.iter().enumerate() {
                let at = number + u32::try_from(index).unwrap_or(u32::MAX);
                if !self.same(at, &our, &frames.get((at - first) as usize)) {
                    return Ok(at - first);
                }
            }
            number = to + 1;
        }
        Ok(number - first)
    }

    /// Own frames are the same with their checksum, which covers all before; the frames of a passage
    /// have another in each WAL.
    fn same(&self, number: u32, ours: &Frame<'_>, theirs: &Frame<'_>) -> bool {
        let crossed = self.crossed.iter().any(|(first, last)| (*first..=*last).contains(&number));
        let passage = crossed || number > self.end;
        ours.says(theirs) && (passage || ours.header.checksum == theirs.header.checksum)
    }
}

/// The checksum of a WAL after `frames`, where it stood at `before`.
pub(super) fn run_on(order: ChecksumOrder, before: WalChecksum, frames: &Frames) -> WalChecksum {
    frames.iter().fold(before, |sum, frame| guard::after(order, sum, &frame))
}
