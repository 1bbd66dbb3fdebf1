//! Positions as a libSQL server counts them.

use std::fmt;

use anabranch_format::Lsn;
use serde::{Deserialize, Serialize};

/// A place in the frames of a database: after frame `frame` of generation `generation`; frame 0 is
/// the generation's base.
///
/// To the sync engine it is the position `generation << 32 | frame`, so that the order is the same,
/// and 0 (there is no generation 0) stays "nothing yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spot {
    /// The generation, from 1.
    pub generation: u32,
    /// How many of its frames come before.
    pub frame: u32,
}

impl Spot {
    /// The base of a generation.
    pub(crate) fn base(generation: u32) -> Self {
        Spot { generation, frame: 0 }
    }

    /// The spot that is meant by a position; `None` if there is none.
    pub(crate) fn of(lsn: Lsn) -> Option<Self> {
        let generation = u32::try_from(lsn.get() >> 32).ok().filter(|g| *g > 0)?;
        let frame = u32::try_from(lsn.get() & u64::from(u32::MAX)).ok()?;
        Some(Spot { generation, frame })
    }

    /// The position that the engine knows it by.
    pub(crate) fn lsn(self) -> Lsn {
        Lsn::new(u64::from(self.generation) << 32 | u64::from(self.frame))
    }

    /// `frames` further on in the same generation; `None` beyond what the protocol can count.
    pub(crate) fn after(self, frames: u32) -> Option<Self> {
        // One more must be countable, for the end of a request is exclusive.
        let frame = self.frame.checked_add(frames).filter(|f| *f < u32::MAX)?;
        Some(Spot { frame, ..self })
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} of generation {}", self.frame, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn positions_read_back_and_keep_their_order(a: (u32, u32), b: (u32, u32)) {
            let spot = |(g, f): (u32, u32)| Spot { generation: g.max(1), frame: f };
            let (a, b) = (spot(a), spot(b));
            prop_assert_eq!(Spot::of(a.lsn()), Some(a));
            prop_assert_eq!(a.cmp(&b), a.lsn().cmp(&b.lsn()));
        }
    }

    #[test]
    fn there_is_no_generation_zero_and_no_frame_beyond_the_last() {
        assert_eq!(Spot::of(Lsn::ZERO), None);
        assert_eq!(Spot::of(Lsn::new(7)), None);
        assert_eq!(Spot::base(3).lsn().to_string(), "0000000300000000");
        assert_eq!(Spot { generation: 1, frame: u32::MAX - 2 }.after(2), None);
        assert_eq!(Spot::base(1).after(5), Some(Spot { generation: 1, frame: 5 }));
    }
}
