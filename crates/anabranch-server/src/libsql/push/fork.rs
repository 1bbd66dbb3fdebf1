//! Where the frames of a client leave those of the log.

use super::aside::Place;
use super::{
    ApiError, Arc, Core, Frames, Generation, Head, NotStored, Turn, blocking, guard, scratch,
    unavailable,
};
use crate::libsql::frame::{Frame, FrameFile};
use crate::libsql::heal::{self, Fork, Origin};

use anabranch_format::{ChecksumOrder, Lsn};

impl Turn<'_> {
    /// The client's frames leave those of `ours` where the first `why.equal` of the request end.
    pub(super) async fn fork(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        ours: Arc<Generation>,
        why: NotStored,
        head: &Head,
    ) -> Result<Place, ApiError> {
        let push = self.push;
        let (last, skipped) = (ours.frames.last(), ours.frames.skipped());
        if skipped > 0 {
            return Ok(Place::Nowhere(why.conflict));
        }
        if push.start > last.saturating_add(1) {
            let back = self.last_proven(&ours).await?;
            return Ok(Place::Lower(back.unwrap_or(last)));
        }
        let known = core.proofs.get(self.salts()).filter(|_| ours.span == current.span);
        let equal = why.equal;
        let number = push.start + u32::try_from(equal).unwrap_or(u32::MAX);
        let (frames, row, generation) = (push.frames.clone(), self.row, Arc::clone(&ours));
        let proven = blocking(move || {
            let frame = frames.get(equal);
            if let Some(proof) = known.filter(|proof| proof.frame < number)
                && guard::continue_from(proof, &frame, number, &generation.frames)?
            {
                return Ok(Some(proof.order));
            }
            guard::prove(row, &frame, number, &generation.frames)
        });
        let proven = proven.await?.map_err(|e: std::io::Error| scratch(&e))?;
        let Some(order) = proven else {
            let hint = push.proven.filter(|(salts, _)| *salts == self.salts()).map(|(_, n)| n);
            let back = match hint.or(known.map(|proof| proof.frame)) {
                Some(frame) => Some(frame),
                None => self.last_proven(&ours).await?,
            };
            let back = back.filter(|frame| *frame + 1 < push.start);
            return Ok(match back {
                Some(frame) => Place::Lower(frame),
                None => Place::Nowhere(why.conflict),
            });
        };
        let generation = Arc::clone(&ours);
        let is_commit = |frame: &Frame<'_>| frame.header.is_commit();
        let found = blocking(move || generation.frames.rfind(number - 1, is_commit)).await?;
        let (frame, pages) = match found.map_err(|e| scratch(&e))? {
            Some((frame, commit)) => (frame, commit.get(0).header.commit_size),
            None => (0, self.pages_at(ours.span.base(), head).await?),
        };
        let lsn = ours.span.lsn(frame);
        let fork = Fork { generation: push.generation, frame, lsn, pages };
        let from = (frame + 1).saturating_sub(push.start) as usize;
        let shared = if frame + 1 < push.start {
            Some(self.shared(&ours, frame + 1, order).await?)
        } else {
            None
        };
        Ok(Place::New { origin: Origin::Fork(fork), from, order, shared })
    }

    /// Up to where the client's WAL was proven before, as the log or the store knows.
    async fn last_proven(&self, ours: &Arc<Generation>) -> Result<Option<u32>, ApiError> {
        match self.last_pushed(ours).await? {
            Some(frame) => Ok(Some(frame)),
            None => heal::noted(self.db, self.salts(), self.push.generation).await,
        }
    }

    /// The last whole transaction before the request that came from this very WAL: it was proven up to
    /// there when that was appended.
    async fn last_pushed(&self, ours: &Arc<Generation>) -> Result<Option<u32>, ApiError> {
        let (generation, salts) = (Arc::clone(ours), self.salts());
        let last = ours.frames.last().min(self.push.start - 1);
        let found = blocking(move || {
            let of_it = |frame: &Frame<'_>| frame.header.salts == salts && frame.header.is_commit();
            Ok(generation.frames.rfind(last, of_it)?.map(|(number, _)| number))
        });
        found.await?.map_err(|e: std::io::Error| scratch(&e))
    }

    /// Frames of the log from `first` up to the request, as they stand in the client's WAL.
    async fn shared(
        &self,
        ours: &Arc<Generation>,
        first: u32,
        order: ChecksumOrder,
    ) -> Result<Frames, ApiError> {
        let (generation, next) = (Arc::clone(ours), self.push.frames.part(0, 1));
        let last = self.push.start - 1;
        let shared = blocking(move || {
            let read = generation.frames.read(first, last)?;
            Ok(guard::before_frame(order, &read, &next.get(0)))
        });
        shared.await?.map_err(|e: std::io::Error| scratch(&e))
    }

    /// The client counts in a number that is no generation: it stopped there on its way, before it
    /// wrote.
    pub(super) async fn fork_between(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
        why: NotStored,
    ) -> Result<Place, ApiError> {
        let (push, log) = (self.push, self.db.log());
        if push.start > 1
            && let Some(frame) = heal::noted(self.db, self.salts(), push.generation).await?
        {
            return Ok(Place::Lower(frame));
        }
        if push.start > 1 || push.generation > current.span.number {
            return Ok(Place::Nowhere(why.conflict));
        }
        let gap = core.gap(log, current.span, head.floor, push.generation).await;
        let oldest = core.past.oldest_kept(log, current.span, head.floor).await;
        let (gap, oldest) =
            (gap.map_err(|e| unavailable(&e))?, oldest.map_err(|e| unavailable(&e))?);
        // Whoever walks below the oldest generation may come from any state.
        let Some(gap) = gap.filter(|gap| gap.next.number > oldest.number) else {
            return Ok(Place::Nowhere(why.conflict));
        };
        let (frames, row, dir) = (push.frames.clone(), self.row, self.db.libsql().scratch.clone());
        let proven =
            blocking(move || guard::prove(row, &frames.get(0), 1, &FrameFile::new(&dir, 0)?));
        let Some(order) = proven.await?.map_err(|e: std::io::Error| scratch(&e))? else {
            return Ok(Place::Nowhere(why.conflict));
        };
        let lsn = gap.next.base();
        let pages = self.pages_at(lsn, head).await?;
        let origin = Origin::Fork(Fork { generation: push.generation, frame: 0, lsn, pages });
        Ok(Place::New { origin, from: 0, order, shared: None })
    }

    async fn pages_at(&self, lsn: Lsn, head: &Head) -> Result<u32, ApiError> {
        if lsn == Lsn::ZERO {
            return Ok(0);
        }
        if let Some(newest) = head.newest.as_ref().filter(|newest| newest.lsn.1 == lsn) {
            return Ok(newest.pages.1);
        }
        let position = self.db.log().segment_at(lsn).await.map_err(|e| unavailable(&e))?;
        Ok(position.metadata.map_or(0, |metadata| metadata.pages.1))
    }
}
