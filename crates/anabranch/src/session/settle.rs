//! Settling: what an act led to becomes what the replica remembers, in one transaction of the sidecar;
//! and forgetting acts that did not happen.

use anabranch_format::Micros;
use anabranch_sqlite::{BaseMap, Mark, PageSet};

use super::Session;
use crate::crash::crash_point;
use crate::error::Error;
use crate::sidecar::{REPLACED_PAGES_MAX, Replaced};
use crate::state::{Base, Stage, State};

/// What settles, by the number of its intent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// What was staged for it became the base, and the file is the base.
    Plain(i64),
    /// What was staged for the base became the base, and the file is ahead of it.
    Rebase(i64),
    /// What was staged for it became the base, and the file is something else.
    Stand(i64),
}

/// Stands for the checksum of a page that is not there. A real page has it once in 2^64.
pub(super) const ABSENT: u64 = 0;

impl Session {
    /// Settles the staged entries of `intent`: the base is `base` from now on, every intent is
    /// decided. For a state of the file that this very operation has seen.
    pub(crate) fn settle(
        &mut self,
        intent: i64,
        base: Base,
        mark: Option<Mark>,
        change_counter: u32,
        now: Micros,
    ) -> Result<(), Error> {
        self.settle_unseen(Act::Plain(intent), base, mark, change_counter, now)?;
        if let Some(keep) = &self.keep {
            keep.settled(&self.state);
        }
        Ok(())
    }

    /// As [`Session::settle`], for a rebase: the file is what it leads to at `mark`, and may be ahead
    /// of the new base in the pages that are staged for that.
    pub(crate) fn settle_rebase(
        &mut self,
        intent: i64,
        base: Base,
        mark: Option<Mark>,
        change_counter: u32,
        now: Micros,
    ) -> Result<(), Error> {
        self.settle_unseen(Act::Rebase(intent), base, mark, change_counter, now)?;
        if let Some(keep) = &self.keep {
            match self.ahead()? {
                Some(ahead) => keep.captured(ahead, self.state.mark.as_ref(), &self.state),
                None => keep.distrust(),
            }
        }
        Ok(())
    }

    /// The pages in which the file was ahead of its base at the mark; `None`: it was not.
    pub(crate) fn ahead(&self) -> Result<Option<PageSet>, Error> {
        let Some(staged) = self.state.ahead else { return Ok(None) };
        Ok(Some(self.base_map().staged_pages(staged)?))
    }

    /// As [`Session::settle`], for a state that an earlier operation has left, or that the file is not
    /// compared with yet: what was written since is known to no watcher.
    pub(crate) fn settle_earlier(
        &mut self,
        act: Act,
        base: Base,
        mark: Option<Mark>,
        change_counter: u32,
        now: Micros,
    ) -> Result<(), Error> {
        self.settle_unseen(act, base, mark, change_counter, now)?;
        if let Some(keep) = &self.keep {
            keep.distrust();
        }
        Ok(())
    }

    fn settle_unseen(
        &mut self,
        act: Act,
        base: Base,
        mark: Option<Mark>,
        change_counter: u32,
        now: Micros,
    ) -> Result<(), Error> {
        let mut next = self.state.clone();
        next.base = base;
        next.mark = mark;
        // Without a mark every page is looked at anyway.
        next.ahead = match act {
            Act::Rebase(intent) if mark.is_some() => Some(Stage::Ahead.of(intent)),
            _ => None,
        };
        next.undecided = false;
        next.change_counter = change_counter;
        // The file that was looked at, whatever lies there by now; the boot is the present one.
        next.identity = match &self.seen {
            Some(seen) => seen.clone(),
            None => self.identity()?,
        };
        next.settled_at = Some(now);
        if let Some(tables) = self.tables.get_mut().take() {
            next.known = tables;
        }
        if !self.sidecar.is_within_transaction() {
            self.sidecar.begin_settling()?;
        }
        if let Err(e) = self.settle_within(act, &next) {
            // The first error is the one to report.
            let _ = self.sidecar.rollback();
            return Err(e);
        }
        crash_point!("settle::before-commit");
        self.sidecar.commit_settled()?;
        crash_point!("settle::after-commit");
        self.state = next;
        Ok(())
    }

    fn settle_within(&self, act: Act, next: &State) -> Result<(), Error> {
        let map = self.base_map();
        let staged = match act {
            Act::Plain(intent) | Act::Stand(intent) => intent,
            Act::Rebase(intent) => {
                self.sidecar.confirm_conflicts(intent)?;
                Stage::Base.of(intent)
            }
        };
        let replaced = match act {
            Act::Stand(_) => Vec::new(),
            _ => self.replaced_by(&map, staged)?,
        };
        map.settle(staged, next.base.size)?;
        if let Some(ahead) = self.state.ahead {
            map.drop_staged(ahead)?;
        }
        for (id, _) in self.sidecar.intents()? {
            self.drop_intent(id, next.ahead)?;
        }
        self.sidecar.remember_replaced(next.base.lsn(), &replaced)?;
        self.sidecar.remember(next.base.lsn(), next.base.sum)?;
        self.sidecar.save_state(next)
    }

    /// What the staged pages of `intent` are in the base; nothing for a very large delta.
    fn replaced_by(&self, map: &BaseMap<'_>, intent: i64) -> Result<Vec<Replaced>, Error> {
        let mut replaced = Vec::new();
        for staged in map.staged(intent) {
            let (pgno, _) = staged?;
            if replaced.len() == REPLACED_PAGES_MAX {
                return Ok(Vec::new());
            }
            let keyed = map.get(pgno)?.map_or(ABSENT, |entry| entry.keyed.0);
            replaced.push(Replaced { pgno: pgno.get(), keyed });
        }
        Ok(replaced)
    }

    /// Forgets the intents `ids`: their acts are known not to have happened.
    pub(crate) fn forget(&self, ids: &[i64]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        self.sidecar.begin_settling()?;
        for &id in ids {
            self.drop_intent(id, None)?;
        }
        self.sidecar.commit_settled()
    }

    /// Forgets a pull of which nobody can tell whether it was applied. It counts as not applied: the
    /// other way round, what was written here could be taken back at the remote. Its conflicts stay in
    /// the journal: if it was applied, they are nowhere else.
    pub(crate) fn forget_undecided(&mut self, id: i64) -> Result<(), Error> {
        let next = State { undecided: true, ..self.state.clone() };
        self.sidecar.begin_settling()?;
        self.sidecar.confirm_conflicts(id)?;
        self.drop_intent(id, None)?;
        self.sidecar.save_state(&next)?;
        self.sidecar.commit_settled()?;
        self.state = next;
        Ok(())
    }

    /// Forgets an intent and what belongs to it, but what is staged under `kept`. Conflicts that were
    /// not confirmed go with it.
    pub(crate) fn drop_intent(&self, id: i64, kept: Option<i64>) -> Result<(), Error> {
        let map = self.base_map();
        map.drop_staged(id)?;
        for staged in Stage::ALL.map(|stage| stage.of(id)) {
            if Some(staged) != kept {
                map.drop_staged(staged)?;
            }
        }
        self.sidecar.drop_conflicts(id)?;
        self.sidecar.delete_intent(id)
    }
}
