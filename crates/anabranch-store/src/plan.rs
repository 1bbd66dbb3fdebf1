//! Which objects lead from one position to another.
//!
//! Plans come from listings, which cost one request for each thousand objects. They are only
//! plans: whether the objects are there, and fit together, is checked when they are read, and a
//! missing one means a new plan. Nothing is concluded from the order or completeness of a listing.

use anabranch_format::Lsn;

use crate::error::StoreError;
use crate::history::Position;
use crate::keys::{Keys, Target};
use crate::log::Log;
use crate::objects::Listed;

/// The objects to read, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Where the change starts; `None` if it is the whole database.
    pub(crate) from: Option<Lsn>,
    pub(crate) pieces: Vec<(Target, u64)>,
}

impl Plan {
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What a listing of the database showed.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// First positions of segments, ascending, with the bytes of their objects.
    pub(crate) segments: Vec<(Lsn, u64)>,
    /// Deltas by their start, then end.
    pub(crate) deltas: Vec<(Lsn, Lsn, u64)>,
    pub(crate) snapshots: Vec<(Lsn, u64)>,
}

/// Where a chain of objects could not go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// No object begins right after this position.
    At(Lsn),
    /// It would go beyond the position wanted.
    Inside,
}

impl Catalog {
    /// The objects from `from` to `to`, each step as long as it can be.
    pub(crate) fn chain(&self, from: Lsn, to: Lsn) -> Result<Vec<(Target, u64)>, Broken> {
        let mut pieces = Vec::new();
        let mut at = from;
        while at < to {
            let (piece, end) = self.step(at, to)?;
            pieces.push(piece);
            at = end;
        }
        if at == to { Ok(pieces) } else { Err(Broken::Inside) }
    }

    fn step(&self, at: Lsn, to: Lsn) -> Result<((Target, u64), Lsn), Broken> {
        let after = self.deltas.partition_point(|d| (d.0, d.1) <= (at, to));
        if let Some(&(from, end, bytes)) = self.deltas[..after].last()
            && from == at
        {
            return Ok(((Target::Delta(from, end), bytes), end));
        }
        let first = at.next().ok_or(Broken::At(at))?;
        let index = self.segments.partition_point(|s| s.0 < first);
        match self.segments.get(index) {
            Some(&(found, bytes)) if found == first => {
                // The segment ends where the next begins, or else where everything ends.
                let next = self.segments.get(index + 1).map_or(to, |s| Lsn::new(s.0.get() - 1));
                Ok(((Target::Segment(first), bytes), next))
            }
            _ => Err(Broken::At(at)),
        }
    }

    /// The whole database at `to`: the newest snapshot and what follows it.
    fn whole(&self, floor: Lsn, to: Lsn) -> Result<Vec<(Target, u64)>, Broken> {
        let usable = |lsn: Lsn| lsn >= floor && lsn <= to;
        let mut broken = Broken::At(Lsn::ZERO);
        for &(lsn, bytes) in self.snapshots.iter().rev().filter(|s| usable(s.0)) {
            match self.chain(lsn, to) {
                Ok(rest) => {
                    return Ok(std::iter::once((Target::Snapshot(lsn), bytes))
                        .chain(rest)
                        .collect());
                }
                Err(e) => broken = e,
            }
        }
        if floor == Lsn::ZERO { self.chain(Lsn::ZERO, to) } else { Err(broken) }
    }

    /// The cheapest way from `from` to `to`.
    pub(crate) fn plan(&self, from: Lsn, to: Lsn, floor: Lsn) -> Result<Plan, Broken> {
        let whole = self.whole(floor, to).map(|pieces| Plan { from: None, pieces });
        if from < floor || from == Lsn::ZERO {
            return whole;
        }
        let steps = self.chain(from, to).map(|pieces| Plan { from: Some(from), pieces });
        match (steps, whole) {
            // The whole costs the receiver more than its bytes: each page is compared or written.
            (Ok(steps), Ok(whole)) if whole.bytes().saturating_mul(2) < steps.bytes() => Ok(whole),
            (Ok(steps), _) => Ok(steps),
            // A position in the middle of a segment has no steps.
            (Err(_), Ok(whole)) => Ok(whole),
            (Err(broken), Err(_)) => Err(broken),
        }
    }
}

impl Log {
    /// A plan to get from `from` to `to`.
    pub(crate) async fn plan(&self, from: Lsn, to: &Position) -> Result<Plan, StoreError> {
        let floor = self.floor().await?;
        if to.lsn < floor {
            return Err(self.below_floor(to.lsn, floor));
        }
        // The frequent case needs no listing: one segment that was just read.
        if let Some(newest) = &to.metadata
            && newest.from() == from
            && newest.lsn.1 == to.lsn
            && (from >= floor && from > Lsn::ZERO || self.is_first(newest.lsn.0))
        {
            let from = (from > Lsn::ZERO).then_some(from);
            return Ok(Plan { from, pieces: vec![(Target::Segment(newest.lsn.0), 0)] });
        }
        let catalog = self.catalog(from, to.lsn).await?;
        catalog.plan(from, to.lsn, floor).map_err(|broken| self.broken(&broken, to.lsn))
    }

    /// A plan to get the whole state at `to`, which may lie inside the last of its segments.
    pub(crate) async fn plan_whole(&self, to: Lsn) -> Result<Plan, StoreError> {
        let floor = self.floor().await?;
        if to < floor {
            return Err(self.below_floor(to, floor));
        }
        let catalog = self.catalog(Lsn::ZERO, to).await?;
        let usable = |lsn: Lsn| lsn >= floor && lsn <= to;
        let snapshot = catalog.snapshots.iter().rev().find(|s| usable(s.0)).copied();
        let start = match snapshot {
            Some((lsn, _)) => lsn,
            None if floor > Lsn::ZERO => {
                return Err(self.objects.missing(&self.keys.snapshot(floor)));
            }
            None => Lsn::ZERO,
        };
        let mut pieces: Vec<_> =
            snapshot.map(|(lsn, bytes)| (Target::Snapshot(lsn), bytes)).into_iter().collect();
        match catalog.chain(start, to) {
            Ok(rest) => pieces.extend(rest),
            Err(Broken::At(end)) => return Err(self.ends_before(to, end).await?),
            Err(broken) => return Err(self.broken(&broken, to)),
        }
        Ok(Plan { from: None, pieces })
    }

    /// The error that what was found ends at `end`, before `at`.
    pub(crate) async fn ends_before(&self, at: Lsn, end: Lsn) -> Result<StoreError, StoreError> {
        let next = end.next().unwrap_or(Lsn::MAX);
        if self.segment(next).await?.is_some() {
            // A listing left it out, or it came since.
            return Ok(self.objects.missing(&self.keys.segment(next)));
        }
        Ok(StoreError::BeyondHead { location: self.location().to_owned(), at, head: end })
    }

    fn broken(&self, broken: &Broken, to: Lsn) -> StoreError {
        match broken {
            Broken::At(at) => self.objects.missing(&self.keys.segment(at.next().unwrap_or(*at))),
            Broken::Inside => self
                .contradiction(&self.keys.log(), format!("position {to} is no end of a segment")),
        }
    }

    #[expect(clippy::unused_self, reason = "reads better at the call")]
    fn is_first(&self, first: Lsn) -> bool {
        first == Lsn::new(1)
    }

    /// What lies between `from` and `to`, and every snapshot.
    async fn catalog(&self, from: Lsn, to: Lsn) -> Result<Catalog, StoreError> {
        let (deltas_key, snapshots_key) = (self.keys.deltas(), self.keys.snapshots());
        let (deltas, snapshots) =
            tokio::try_join!(self.objects.list(&deltas_key), self.objects.list(&snapshots_key))?;
        let mut catalog = Catalog {
            deltas: deltas
                .iter()
                .filter_map(|o| Keys::parse_delta(&o.key).map(|(from, to)| (from, to, o.bytes)))
                .collect(),
            snapshots: snapshots
                .iter()
                .filter_map(|o| Keys::parse_snapshot(&o.key).map(|lsn| (lsn, o.bytes)))
                .collect(),
            segments: Vec::new(),
        };
        // Sorted by their numbers, whatever the store's idea of order.
        catalog.deltas.sort_unstable();
        catalog.snapshots.sort_unstable();
        // Segments are needed from `from` on, or from the snapshot on.
        let snapshot = catalog.snapshots.iter().map(|s| s.0).filter(|s| *s <= to).max();
        let start = snapshot.map_or(Lsn::ZERO, |s| if from == Lsn::ZERO { s } else { s.min(from) });
        let segments = self.segments_between(start, to).await?;
        catalog.segments = segments.into_iter().map(|(first, o)| (first, o.bytes)).collect();
        Ok(catalog)
    }

    /// The segments that begin after `after` and not after `to`, ascending.
    pub(crate) async fn segments_between(
        &self,
        after: Lsn,
        to: Lsn,
    ) -> Result<Vec<(Lsn, Listed)>, StoreError> {
        let mut segments = Vec::new();
        for shard in self.objects.directories(&self.keys.log()).await? {
            let Some((start, end)) = Keys::parse_shard(&shard) else { continue };
            if end <= after || start > to {
                continue;
            }
            let listed = self.objects.list_after(&shard, &self.keys.segment(after)).await?;
            let firsts = listed.into_iter().filter_map(|o| Some((Keys::parse_segment(&o.key)?, o)));
            segments.extend(firsts.filter(|(first, _)| *first > after && *first <= to));
        }
        segments.sort_unstable_by_key(|(first, _)| *first);
        Ok(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    /// Segments 1..=2, 3..=5, 6..=6, 7..=9 and a delta over the first two.
    fn catalog() -> Catalog {
        Catalog {
            segments: vec![(lsn(1), 10), (lsn(3), 10), (lsn(6), 10), (lsn(7), 10)],
            deltas: vec![(lsn(0), lsn(5), 12)],
            snapshots: vec![],
        }
    }

    fn keys(plan: &Plan) -> Vec<Target> {
        plan.pieces.iter().map(|(target, _)| *target).collect()
    }

    #[test]
    fn the_fewest_objects_are_taken() {
        let plan = catalog().plan(lsn(0), lsn(9), lsn(0)).unwrap();
        let (delta, six, seven) =
            (Target::Delta(lsn(0), lsn(5)), Target::Segment(lsn(6)), Target::Segment(lsn(7)));
        assert_eq!(keys(&plan), [delta, six, seven]);
        let plan = catalog().plan(lsn(2), lsn(6), lsn(0)).unwrap();
        assert_eq!(keys(&plan), [Target::Segment(lsn(3)), six]);
    }

    #[test]
    fn a_position_inside_a_segment_is_served_by_the_whole_database() {
        let plan = catalog().plan(lsn(4), lsn(9), lsn(0)).unwrap();
        assert_eq!(plan.from, None);
        assert_eq!(catalog().plan(lsn(2), lsn(4), lsn(0)), Err(Broken::Inside));
    }

    #[test]
    fn a_snapshot_is_taken_where_it_is_cheaper_or_the_only_way() {
        let mut catalog = catalog();
        catalog.snapshots = vec![(lsn(9), 3)];
        let plan = catalog.plan(lsn(2), lsn(9), lsn(0)).unwrap();
        assert_eq!((plan.from, keys(&plan)[0]), (None, Target::Snapshot(lsn(9))));
        catalog.snapshots = vec![(lsn(5), 1000)];
        assert_eq!(catalog.plan(lsn(2), lsn(9), lsn(0)).unwrap().from, Some(lsn(2)));
        assert_eq!(catalog.plan(lsn(2), lsn(9), lsn(5)).unwrap().from, None, "below the floor");
    }

    #[test]
    fn a_hole_is_named() {
        let mut catalog = catalog();
        catalog.segments.remove(2);
        assert_eq!(catalog.plan(lsn(5), lsn(9), lsn(0)), Err(Broken::At(lsn(5))));
    }
}
