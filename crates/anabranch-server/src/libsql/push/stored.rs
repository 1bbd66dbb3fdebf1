//! Frames at numbers that the log holds already.

use super::{
    Answer, ApiError, Arc, Conflict, Core, Generation, Head, NotStored, Step, Turn, blocking,
    scratch, unavailable,
};

impl Turn<'_> {
    /// Compares the first `held` frames with those in the log: how many are equal, and what the one
    /// after them is, if not all are.
    pub(super) async fn compare(
        &self,
        stored: &Arc<Generation>,
        held: usize,
    ) -> Result<Option<(usize, Conflict)>, ApiError> {
        let compared = self.compared(stored, held, false).await?;
        let equal = |(_, conflict): &(usize, Conflict)| conflict.reason == "equal";
        if let Some((index, _)) = compared.as_ref().filter(|found| equal(found)) {
            let number = self.push.start + u32::try_from(*index).unwrap_or(u32::MAX);
            let lsn = stored.span.lsn(number);
            if self.db.engine().others_may_have_served(self.db, lsn).await? {
                return self.compared(stored, held, true).await;
            }
        }
        Ok(compared)
    }

    /// `pulled`: all frames may have been pulled, by way of another server.
    async fn compared(
        &self,
        stored: &Arc<Generation>,
        held: usize,
        pulled: bool,
    ) -> Result<Option<(usize, Conflict)>, ApiError> {
        if held == 0 {
            return Ok(None);
        }
        let (start, frames) = (self.push.start, self.push.frames.part(0, held));
        if start <= stored.frames.skipped() {
            let what = "frames of it are older than what the log keeps".to_owned();
            return Ok(Some((0, Conflict { reason: "expired", what })));
        }
        let (generation, db) = (Arc::clone(stored), Arc::clone(self.db));
        let compared = blocking(move || {
            let last = start + u32::try_from(held).unwrap_or(u32::MAX) - 1;
            let ours = generation.frames.read(start, last)?;
            for (index, (ours, theirs)) in ours.iter().zip(frames.iter()).enumerate() {
                let number = start + u32::try_from(index).unwrap_or(u32::MAX);
                if !ours.says(&theirs) {
                    let what = format!(
                        "frame {number} differs from the one in the log: somebody else pushed first, \
                         from the same state"
                    );
                    return Ok(Some((index, Conflict { reason: "diverged", what })));
                }
                let foreign = ours.header.salts != theirs.header.salts;
                if foreign && !pulled && !db.engine().may_be_pulled(generation.span.lsn(number)) {
                    let what = format!(
                        "frame {number} equals the one in the log, but comes from another WAL and was \
                         not pulled by anybody: two clients made the same change on their own, and \
                         one of them would be lost"
                    );
                    return Ok(Some((index, Conflict { reason: "equal", what })));
                }
            }
            Ok(None)
        });
        compared.await?.map_err(|e: std::io::Error| scratch(&e))
    }

    /// The frames of an older generation, if the log keeps any.
    pub(super) async fn older(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
        number: u32,
    ) -> Result<Option<Arc<Generation>>, ApiError> {
        match core.older_at_hand(number) {
            Some(older) => return Ok(Some(older)),
            None if number > current.span.number => return Ok(None),
            None => {}
        }
        let found = core.past.find(self.db.log(), current.span, head.floor, number).await;
        match found.map_err(|e| unavailable(&e))? {
            Some(found) => self.db.engine().older(self.db, core, found, head.floor).await.map(Some),
            None => Ok(None),
        }
    }

    /// The generation is not the current one: fine if all is there already.
    pub(super) async fn other_generation(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
    ) -> Result<Step, ApiError> {
        let push = self.push;
        let missing = |stored, equal, what: String| {
            let conflict = Conflict { reason: "generation", what };
            NotStored { stored, equal, conflict }
        };
        let Some(older) = self.older(core, current, head, push.generation).await? else {
            let what = format!(
                "the log keeps no generation {}, and {} is the current one",
                push.generation, current.span.number
            );
            return self.aside(core, current, head, missing(None, 0, what)).await;
        };
        let held = self.held(older.frames.last());
        let compared = self.compare(&older, held).await?;
        let why = match compared {
            Some((equal, conflict)) => NotStored { stored: Some(older), equal, conflict },
            None if held == push.frames.len() => {
                return Ok(Step::Done(Answer::ok(push.generation, push.last())));
            }
            None => {
                let last = older.frames.last();
                let what = format!(
                    "generation {} ended with frame {last} before these were pushed",
                    push.generation
                );
                missing(Some(older), held, what)
            }
        };
        self.aside(core, current, head, why).await
    }
}
