//! Recovery: whether an apply that was cut short by a crash is in the file.
//!
//! Decides between "applied" and "not applied" from what the file shows now; an apply is one
//! transaction, so there is nothing in between. Other programs may have written since. Evidence, in
//! this order:
//!
//! 1. the WAL, if it reaches back to the mark before the apply: the first transaction after the mark
//!    is the apply or it is not (we held the write lock from the mark to COMMIT);
//! 2. the schema cookie, where the apply gave the file a new, random one: programs only count it up;
//! 3. the pages: some as the apply would have left them, and none as it was before: applied. The
//!    reverse: not applied. If too many were written by others since, that may be chance. If the schema cookie is
//!    neither the one before nor the one after, no page says anything: `VACUUM` counts it up, and
//!    may put by chance on one page what had been there before. Nor does one if the apply replaced a
//!    state that was not the base's.
//!
//! What all this leaves open is [`Verdict::Undecided`]; it is never assumed.

use anabranch_format::Pgno;

use crate::apply::ApplyIntent;
use crate::base::{BaseMap, PageEntry};
use crate::capture::ScanReason;
use crate::error::{BaseError, CaptureError};
use crate::view::View;
use crate::wal::{self, WalFile};
use anabranch_format::PageSet;

/// By how much programs may have counted up a schema cookie since: one per schema change.
const COOKIE_STEPS_MAX: u32 = 1 << 20;

/// Pages that tell the same must be more than so many times those that were written since. A few may
/// be by chance as the apply would have left them: the same row was written by a program, or another
/// one with the same number and the same key in an index.
const TELLING_MIN: u64 = 4;

/// Pages of an apply, by what they are now.
#[derive(Debug, Default)]
struct Votes {
    /// As the apply would leave them.
    at_target: u64,
    /// As before it.
    at_old: u64,
    /// Something else: written by others since.
    neither: u64,
}

/// Whether an apply is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was committed (and others may have written since).
    Applied,
    /// It was not.
    NotApplied,
    /// Everything it touched was rewritten since, or says both.
    Undecided,
}

/// The next transaction after a mark, as the WAL shows it.
enum Next {
    None,
    Ours,
    Theirs,
}

impl View<'_> {
    /// Decides whether the apply of `intent` is in the file. Its pages must still be staged in
    /// `base`, and `base` must still be as it was before the apply.
    pub fn was_applied(
        &self,
        intent: &ApplyIntent,
        base: &BaseMap<'_>,
    ) -> Result<Verdict, CaptureError<std::convert::Infallible>> {
        match self.next_transaction(intent, base)? {
            Some(Next::Ours) => return Ok(Verdict::Applied),
            Some(Next::None | Next::Theirs) => return Ok(Verdict::NotApplied),
            None => {}
        }
        let verdict = self.by_cookie(intent);
        let now = self.page_one().schema_cookie;
        let same_schema = now == intent.cookie_before || Some(now) == intent.cookie_after;
        if verdict != Verdict::Undecided || intent.replaces || !same_schema {
            return Ok(verdict);
        }
        let votes = self.vote(intent, base)?;
        let enough = |pages: u64| pages > TELLING_MIN * votes.neither;
        Ok(match (votes.at_target, votes.at_old) {
            (at_target @ 1.., 0) if enough(at_target) => Verdict::Applied,
            (0, at_old @ 1..) if enough(at_old) => Verdict::NotApplied,
            _ => Verdict::Undecided,
        })
    }

    /// What was committed next after the mark before the apply; `None` if the WAL does not tell.
    fn next_transaction(
        &self,
        intent: &ApplyIntent,
        base: &BaseMap<'_>,
    ) -> Result<Option<Next>, BaseError> {
        let (Some(before), Some(now)) = (&intent.mark_before, &self.snapshot) else {
            return Ok(None);
        };
        let mut end = None;
        let read = wal::frames_between(
            self.live.wal_path(),
            self.live.page_size,
            before,
            now,
            &mut |frame, header| {
                if header.is_commit() && end.is_none() {
                    end = Some((frame, header.commit_size));
                }
            },
        );
        match (read, end) {
            (Err(_), _) => Ok(None),
            (Ok(_), None) => Ok(Some(Next::None)),
            (Ok(_), Some((_, size))) if size != intent.size_after => Ok(Some(Next::Theirs)),
            (Ok(_), Some((last, _))) => {
                let frames = before.frame + 1..=last;
                match self.is_ours(intent, base, frames) {
                    Ok(true) => Ok(Some(Next::Ours)),
                    Ok(false) => Ok(Some(Next::Theirs)),
                    Err(Doubt::Wal) => Ok(None),
                    Err(Doubt::Base(error)) => Err(error),
                }
            }
        }
    }

    /// Whether the transaction in `frames` is the apply: its pages, all of them, and no others (but
    /// page 1, which SQLite may add to a commit).
    fn is_ours(
        &self,
        intent: &ApplyIntent,
        base: &BaseMap<'_>,
        frames: std::ops::RangeInclusive<u32>,
    ) -> Result<bool, Doubt> {
        let now = self.snapshot.as_ref().ok_or(Doubt::Wal)?;
        let wal = WalFile::open(self.live.wal_path(), self.live.page_size, &now.mark)?;
        let mut page = vec![0; self.live.page_size.bytes()];
        let mut seen = PageSet::new(intent.size_after);
        let mut pages = 0;
        for frame in frames {
            let pgno = wal.frame_header(frame)?.pgno;
            let Some(staged) = base.staged_page(intent.id, pgno).map_err(Doubt::Base)? else {
                if pgno == Pgno::ONE {
                    continue;
                }
                return Ok(false);
            };
            wal.page(frame, &mut page)?;
            if base.keyed(pgno, &page) != staged.keyed {
                return Ok(false);
            }
            pages += u64::from(seen.insert(pgno));
        }
        wal.check_unchanged()?;
        Ok(pages == intent.pages)
    }

    /// What the pages say, one by one.
    fn vote(
        &self,
        intent: &ApplyIntent,
        base: &BaseMap<'_>,
    ) -> Result<Votes, CaptureError<std::convert::Infallible>> {
        let mut votes = Votes::default();
        for staged in base.staged(intent.id) {
            let (pgno, target) = staged?;
            if pgno.get() > self.db_size() {
                // Before the apply, or cut off by somebody after it: says nothing.
                continue;
            }
            let old = self.page_before(pgno, intent, base)?;
            let now = self.with_page(pgno, |page| base.keyed(pgno, page))?;
            let was = old.map(|old| old.keyed);
            if was == Some(target.keyed) {
                continue;
            }
            match now {
                now if now == target.keyed => votes.at_target += 1,
                now if Some(now) == was => votes.at_old += 1,
                _ => votes.neither += 1,
            }
        }
        Ok(votes)
    }

    /// What the page was before the apply.
    fn page_before(
        &self,
        pgno: Pgno,
        intent: &ApplyIntent,
        base: &BaseMap<'_>,
    ) -> Result<Option<PageEntry>, BaseError> {
        if pgno.get() > intent.size_before {
            return Ok(None);
        }
        if let Some(before) = intent.before
            && let Some(changed) = base.staged_page(before, pgno)?
        {
            return Ok(Some(changed));
        }
        base.get(pgno)
    }

    fn by_cookie(&self, intent: &ApplyIntent) -> Verdict {
        let Some(after) = intent.cookie_after else { return Verdict::Undecided };
        let counted_from =
            |cookie: u32| self.page_one().schema_cookie.wrapping_sub(cookie) < COOKIE_STEPS_MAX;
        match (counted_from(after), counted_from(intent.cookie_before)) {
            (true, false) => Verdict::Applied,
            (false, true) => Verdict::NotApplied,
            _ => Verdict::Undecided,
        }
    }
}

/// Why frames could not be judged.
enum Doubt {
    Wal,
    Base(BaseError),
}

impl From<ScanReason> for Doubt {
    fn from(_: ScanReason) -> Self {
        Doubt::Wal
    }
}
