//! Files that look like ones with local changes, and are none: copies from before, and other
//! databases.

use std::borrow::BorrowMut;
use std::collections::HashSet;

use anabranch_format::{Lsn, Pgno};
use anabranch_sqlite::{LiveFile, ViewOf};

use super::settle::ABSENT;
use super::{LocalChanges, Session, tables_of};
use crate::error::Error;

/// Smaller databases are not told from others by what is gone.
const FOREIGN_PAGES_MIN: u32 = 16;

impl Session {
    /// Another database that was copied over this one looks like one with local changes. VACUUM may
    /// leave no page as it was, and a schema may be made anew from end to end; both at once, out of
    /// sight, is taken for another database. Of a small one an ordinary change may leave nothing.
    pub(super) fn refuse_foreign<L: BorrowMut<LiveFile>>(
        &self,
        view: &ViewOf<L>,
        changes: &LocalChanges,
    ) -> Result<(), Error> {
        let known = &self.state.known.tables;
        if changes.unchanged > 0 || known.is_empty() || self.state.base.size < FOREIGN_PAGES_MIN {
            return Ok(());
        }
        // A schema that is empty or cannot be read proves nothing.
        let now = tables_of(view).unwrap_or_default();
        if now.is_empty() || now.iter().any(|table| known.contains(table)) {
            return Ok(());
        }
        Err(Error::NotTheSameFile {
            path: self.db.clone(),
            what: "it holds another database: not one page is as it was, and none of its tables \
                   is there any more"
                .to_owned(),
        })
    }

    /// A file that went back looks like one with local changes. Where the WAL proves that its
    /// changes came after the base there is no doubt; elsewhere the state is compared with those
    /// this replica had before.
    pub(super) fn refuse_older<L: BorrowMut<LiveFile>>(
        &self,
        view: &ViewOf<L>,
        changes: &LocalChanges,
    ) -> Result<(), Error> {
        // A copy that nobody wrote since cannot have counted further than the file itself had.
        let counted_on = changes.change_counter > self.state.change_counter;
        let lsn = self.sidecar.position_of(changes.sum, self.state.base.lsn())?;
        if lsn.is_some() && !counted_on {
            return Err(self.older(lsn));
        }
        if self.newest_deltas_are_undone(view)? {
            return Err(self.older(None));
        }
        Ok(())
    }

    /// Whether the newest settled deltas, one or several, are missing from the file as if it were a
    /// copy from before them that was written since: none of the pages they left is there as they
    /// left it, and at least half of those that are there are as some earlier position had them. If
    /// the change counter is beyond what it was, the file itself has been written, and one page that
    /// is as before, a row that was added and deleted again, is no sign yet.
    ///
    /// Pages that are not there tell nothing: deleting rows and VACUUM cut them off, too. Nor does
    /// page 1, which many commits rewrite, nor a page that the base has as an earlier position had
    /// it.
    pub(crate) fn newest_deltas_are_undone<L: BorrowMut<LiveFile>>(
        &self,
        view: &ViewOf<L>,
    ) -> Result<bool, Error> {
        let map = self.base_map();
        let deltas = self.sidecar.replaced()?;
        let earlier: HashSet<_> = deltas.iter().flatten().map(|r| (r.pgno, r.keyed)).collect();
        let mut looked_at = HashSet::new();
        let mut page = vec![0; self.state.page_size.bytes()];
        let counted_on = view.page_one().change_counter > self.state.change_counter;
        let least = if counted_on { 2 } else { 1 };
        let (mut present, mut as_before) = (0, 0);
        for delta in &deltas {
            if delta.is_empty() {
                // Too large to be remembered.
                return Ok(false);
            }
            for replaced in delta {
                // Newest first: what an older delta left on the same page is gone anyway.
                let new = looked_at.insert(replaced.pgno);
                let Some(pgno) = Pgno::new(replaced.pgno).filter(|_| new) else { continue };
                if pgno == Pgno::ONE || pgno.get() > view.db_size() {
                    continue;
                }
                view.page(pgno, &mut page)?;
                let now = map.entry(pgno, &page).keyed.0;
                if map.get(pgno)?.map_or(ABSENT, |entry| entry.keyed.0) == now {
                    return Ok(false);
                }
                present += 1;
                as_before += usize::from(earlier.contains(&(pgno.get(), now)));
            }
            if as_before >= least && as_before * 2 >= present {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn older(&self, lsn: Option<Lsn>) -> Error {
        Error::FileIsOlder { path: self.db.clone(), lsn, base: self.state.base.lsn() }
    }
}
