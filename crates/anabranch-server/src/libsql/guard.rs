//! The proof that a client's WAL continues ours.
//!
//! Such a client counts frames by their place in its local WAL. If anything else wrote or emptied
//! that WAL, the frames it pushes belong behind other frames than ours, and in our log they would
//! damage the database for everyone, without a sign.
//!
//! A WAL's checksum covers all frames before, and each of its steps can be undone. So from the
//! checksum in a pushed frame we run back through that frame's page and then through *our own* frames,
//! down to the first of the generation. If the client's WAL holds exactly our frames before its
//! own, we arrive at the checksum of a WAL header with the client's salts, of which one number, the
//! checkpoint sequence, is not known; 32 bits are left over to be right or wrong. What was proven
//! for a WAL once is run on forwards from there.
//!
//! This finds accidents. Who wants to can make frames that pass.

use std::collections::HashMap;
use std::io;

use anabranch_format::{
    ChecksumOrder, FRAME_HEADER_BYTES, FrameHeader, Salts, WalChecksum, WalHeader,
};

use super::frame::{FRAME_BYTES, Frame, FrameFile, Frames, PAGE_SIZE, READ_FRAMES};

/// WALs of one generation whose proofs are remembered; one costs about 50 bytes.
const PROOFS_MAX: usize = 4096;

/// A place in a client's WAL up to which it is known to hold our frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) order: ChecksumOrder,
    /// Number of the frame.
    pub(crate) frame: u32,
    /// The checksum after it.
    pub(crate) checksum: WalChecksum,
}

/// What was proven in one generation, by the salts of the WAL.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    proven: HashMap<Salts, Proof>,
}

impl Proofs {
    pub(crate) fn get(&self, salts: Salts) -> Option<Proof> {
        self.proven.get(&salts).copied()
    }

    pub(crate) fn insert(&mut self, salts: Salts, proof: Proof) {
        if self.proven.len() >= PROOFS_MAX && !self.proven.contains_key(&salts) {
            // Whoever is forgotten is proven from the start again.
            self.proven.clear();
        }
        self.proven.insert(salts, proof);
    }

    pub(crate) fn clear(&mut self) {
        self.proven.clear();
    }
}

/// Why frames of one request are not frames of one WAL in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The frame at this index has other salts than the one before.
    Salts(usize),
    /// The frame at this index does not continue the checksum of the one before.
    Checksum(usize),
}

pub(crate) fn after(order: ChecksumOrder, checksum: WalChecksum, frame: &Frame<'_>) -> WalChecksum {
    checksum.extended(order, frame.chained()).extended(order, frame.page())
}

fn before(order: ChecksumOrder, checksum: WalChecksum, frame: &Frame<'_>) -> WalChecksum {
    checksum.rewound(order, frame.page()).rewound(order, frame.chained())
}

/// `frames` as they stand in the WAL in which `next` comes right after them.
pub(crate) fn before_frame(order: ChecksumOrder, frames: &Frames, next: &Frame<'_>) -> Frames {
    let mut checksum = before(order, next.header.checksum, next);
    let mut bytes = frames.bytes().to_vec();
    for index in (0..frames.len()).rev() {
        let frame = frames.get(index);
        let header = FrameHeader { salts: next.header.salts, checksum, ..frame.header };
        bytes[index * FRAME_BYTES..][..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        checksum = before(order, checksum, &frame);
    }
    Frames::new(bytes.into()).expect("they were frames, and their pages are the same")
}

/// Whether `frame` stands right after a frame with `checksum` in one WAL.
pub(crate) fn continues(order: ChecksumOrder, checksum: WalChecksum, frame: &Frame<'_>) -> bool {
    after(order, checksum, frame) == frame.header.checksum
}

/// Checks that `frames` stand in a row in one WAL, and finds its byte order; one frame alone does
/// not tell it.
pub(crate) fn check_row(frames: &Frames) -> Result<Option<ChecksumOrder>, Broken> {
    let mut order = None;
    for index in 1..frames.len() {
        let (previous, frame) = (frames.get(index - 1).header, frames.get(index));
        if previous.salts != frame.header.salts {
            return Err(Broken::Salts(index));
        }
        let fits = |order: &ChecksumOrder| continues(*order, previous.checksum, &frame);
        let candidates: &[ChecksumOrder] = match &order {
            Some(order) => std::slice::from_ref(order),
            None => &[ChecksumOrder::Little, ChecksumOrder::Big],
        };
        order = Some(*candidates.iter().find(|o| fits(o)).ok_or(Broken::Checksum(index))?);
    }
    Ok(order)
}

/// Runs back from `frame`, which would be number `number`, through the frames of the generation
/// before it: the WAL's byte order if it begins with a header that fits. Blocking; reads all frames
/// of the generation before `number`.
pub(crate) fn prove(
    order: Option<ChecksumOrder>,
    frame: &Frame<'_>,
    number: u32,
    ours: &FrameFile,
) -> io::Result<Option<ChecksumOrder>> {
    let orders = match order {
        Some(order) => vec![order],
        None => vec![ChecksumOrder::Little, ChecksumOrder::Big],
    };
    let mut starts: Vec<WalChecksum> =
        orders.iter().map(|order| before(*order, frame.header.checksum, frame)).collect();
    let mut end = number - 1;
    while end > 0 {
        let first = end.saturating_sub(READ_FRAMES - 1).max(1);
        let read = ours.read(first, end)?;
        for (order, start) in orders.iter().zip(&mut starts) {
            for index in (0..read.len()).rev() {
                *start = before(*order, *start, &read.get(index));
            }
        }
        end = first - 1;
    }
    let salts = frame.header.salts;
    let fits = |(order, start): &(ChecksumOrder, WalChecksum)| {
        WalHeader::from_checksum(*order, PAGE_SIZE, salts, *start).is_some()
    };
    Ok(orders.into_iter().zip(starts).find(fits).map(|(order, _)| order))
}

/// Runs on from what was proven, through our frames before `number`: whether `frame` stands at that
/// number in the same WAL. Blocking; reads the frames since the proof.
pub(crate) fn continue_from(
    proof: Proof,
    frame: &Frame<'_>,
    number: u32,
    ours: &FrameFile,
) -> io::Result<bool> {
    let mut checksum = proof.checksum;
    let mut first = proof.frame + 1;
    while first < number {
        let last = first.saturating_add(READ_FRAMES - 1).min(number - 1);
        for frame in ours.read(first, last)?.iter() {
            checksum = after(proof.order, checksum, &frame);
        }
        first = last + 1;
    }
    Ok(continues(proof.order, checksum, frame))
}

#[cfg(test)]
mod tests;
