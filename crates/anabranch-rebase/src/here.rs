//! Whether a table changed here, from the pages that differ: for tables that are not merged row by row.

use crate::candidates::{Candidates, Changed, Finder, Trees};
use crate::columns::Table;
use crate::error::RebaseError;
use crate::fate::Trio;

/// The pages in which base and local state differ, if they are known.
pub(crate) struct Here<'a> {
    changed: Option<&'a Changed>,
    /// Made when it is asked for the first time: most schemas need it never.
    finder: Option<Finder>,
}

impl<'a> Here<'a> {
    pub(crate) fn new(changed: Option<&'a Changed>) -> Self {
        Self { changed, finder: None }
    }

    /// Whether no row of a table lies on a page that differs. `false` says nothing.
    pub(crate) fn untouched(
        &mut self,
        trio: &Trio<'_>,
        before: &Table,
        after: &Table,
    ) -> Result<bool, RebaseError> {
        let Some(changed) = self.changed else { return Ok(false) };
        if self.finder.is_none() {
            self.finder = Some(Finder::new(changed, trio.base.conn, trio.local.conn)?);
        }
        let Some(finder) = &mut self.finder else { return Ok(false) };
        let trees = Trees {
            before: before.root,
            after: after.root,
            key_columns: after.without_rowid.then_some(after.key.len()),
        };
        Ok(match finder.candidates(trees)? {
            Candidates::All => false,
            Candidates::Rowids(rowids) => rowids.is_empty(),
            Candidates::Keys(keys) => keys.is_empty(),
        })
    }
}
