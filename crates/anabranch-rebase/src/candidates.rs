//! Which rows may differ between two states, from the pages that differ.
//!
//! Two states of a database share most pages. A row that lies on a page that both have, in a tree
//! that both have it in, is the same in both. So of each tree only the interior pages are read, which
//! list the leaves; of the leaves only those that differ, or that are in the tree on one side only.
//! Of their cells those that stand on both sides, byte by byte, are dropped. What is left names the
//! rows. Candidates may be too many, never too few; the caller compares the rows themselves.
//!
//! A value that does not fit its page goes on in a chain of overflow pages, which SQLite may write in
//! place while the leaf stays as it is. Therefore each page that differs is accounted for: it is part
//! of a tree, free, a pointer map, or in the chain of a cell on a page that differs, in one of the two
//! states. If one is left over, it is in the chain of a cell whose leaf stayed the same, and all leaves
//! are looked through for it (rare, and it costs as much as the tables are large).
//!
//! If so much differs that it is not worth it, if there are too many candidates, or if the pages are
//! not those of a sound database, the answer is [`Candidates::All`]: the caller walks the tables.
//!
//! Pages may come from anybody: each number and length is checked before it is used, depth and the
//! number of visited pages are bounded.
//!
//! Memory: four bits for each page of the database, [`LEAVES_MAX`] numbers of leaves,
//! [`ROWIDS_MAX`] rowids or [`KEY_BYTES_MAX`] of keys, and a page for each level of a tree.

mod account;
mod btree;
mod keyed;
mod record;
mod rowids;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex};

use anabranch_format::{PageOne, PageSet, Pgno};
use anabranch_sqlite::{PageRead, SharedPages, lock_pages};
use rusqlite::Connection;

use crate::cell::Cell;
use crate::error::RebaseError;
use crate::objects::read;
use account::Account;
use btree::Reader;

/// Leaves that are read for one table.
const LEAVES_MAX: usize = 1 << 21;
/// Rowids of one table.
const ROWIDS_MAX: usize = 1 << 21;
/// Bytes of cells of a table without rowids that are held to be compared, and of its keys.
const KEY_BYTES_MAX: usize = 16 << 20;
/// If more than this part of the leaves would have to be read the table is walked instead.
const PART: u64 = 4;
/// So many leaves are read in any case.
const LEAVES_MIN: u64 = 64;

/// The pages in which two states of a database differ, and both states.
#[derive(Clone)]
pub struct Changed {
    /// The state before.
    pub before: SharedPages,
    /// The state after.
    pub after: SharedPages,
    /// All pages that differ, as far as both states have them; more do no harm. If the state before is
    /// gone, those as well that only the state after has.
    pub pages: Arc<PageSet>,
    /// Nobody has the state before any more, and `before` is an empty database in its place. Rows of the
    /// state after that lie on `pages` count as inserted, all others as left alone, and none as deleted:
    /// of each row that was changed this takes its new version for a new row.
    pub before_gone: bool,
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changed").field("pages", &self.pages.len()).finish_non_exhaustive()
    }
}

/// Where a table lies, and what tells its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trees {
    /// Root page before.
    pub(crate) before: u32,
    /// Root page after.
    pub(crate) after: u32,
    /// The number of columns of the primary key of a table WITHOUT ROWID; `None` for other tables.
    pub(crate) key_columns: Option<usize>,
}

/// What may differ in a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Candidates {
    /// Anything.
    All,
    /// Rows with these rowids, ascending.
    Rowids(Vec<i64>),
    /// Rows with these keys, in no order, some perhaps twice: the columns of the primary key in its
    /// order, as they are stored (a REAL column may hold an integer).
    Keys(Vec<Vec<Cell>>),
}

/// Why pages tell nothing.
#[derive(Debug)]
enum Odd {
    /// They cannot be read.
    Io(io::Error),
    /// They are not those of a sound database, or it is not worth while.
    GiveUp,
}

impl From<io::Error> for Odd {
    fn from(e: io::Error) -> Self {
        Odd::Io(e)
    }
}

/// Finds candidates in any number of tables.
pub(crate) struct Finder {
    before: Reader,
    after: Reader,
    changed: ChangedPages,
    /// Pages that differ and are not accounted for. `None`: the states are not sound.
    suspects: Option<PageSet>,
}

/// Membership in the pages that differ.
struct ChangedPages {
    pages: Arc<PageSet>,
    /// Pages that both states have.
    common: u32,
}

impl ChangedPages {
    fn contains(&self, pgno: u32) -> bool {
        pgno > self.common || Pgno::new(pgno).is_none_or(|pgno| self.pages.contains(pgno))
    }
}

impl Finder {
    /// Of one state, of which it is known which pages another had not like that.
    pub(crate) fn of_one(changed: &Changed, conn: &Connection) -> Result<Self, RebaseError> {
        let itself = Changed { before: Arc::clone(&changed.after), ..changed.clone() };
        Finder::new(&itself, conn, conn)
    }

    /// `before` and `after` are connections on the same states as those of `changed`.
    pub(crate) fn new(
        changed: &Changed,
        before: &Connection,
        after: &Connection,
    ) -> Result<Self, RebaseError> {
        let roots = (roots(before)?, roots(after)?);
        let readers = (reader(&changed.before)?, reader(&changed.after)?);
        let common = readers.0.size.min(readers.1.size);
        let mut finder = Finder {
            before: readers.0,
            after: readers.1,
            changed: ChangedPages { pages: Arc::clone(&changed.pages), common },
            suspects: None,
        };
        finder.suspects = match finder.account(&roots.0, &roots.1) {
            Ok(suspects) => Some(suspects),
            Err(Odd::GiveUp) => None,
            Err(Odd::Io(source)) => return Err(pages_failed(source)),
        };
        Ok(finder)
    }

    /// What may differ in the table in `trees`. To be asked once for each table: pages that are
    /// accounted for by one are not looked for in the next.
    pub(crate) fn candidates(&mut self, trees: Trees) -> Result<Candidates, RebaseError> {
        let found = match trees.key_columns {
            None => self.rowids(trees).map(Candidates::Rowids),
            Some(columns) => self.keys(trees, columns).map(Candidates::Keys),
        };
        or_all(found)
    }

    /// The rows of a table that lie, in part or whole, on pages that differ. Only where both states
    /// are one ([`Finder::of_one`]).
    pub(crate) fn on_changed_pages(&mut self, trees: Trees) -> Result<Candidates, RebaseError> {
        or_all(match trees.key_columns {
            None => self.rowids_on(trees.after).map(Candidates::Rowids),
            Some(columns) => self.keys_on(trees.after, columns).map(Candidates::Keys),
        })
    }

    /// The pages that differ and are neither part of a tree, free, a map, nor in the chain of a cell
    /// on a page that differs.
    fn account(&self, before: &[u32], after: &[u32]) -> Result<PageSet, Odd> {
        if self.before.differs_in_kind(&self.after) {
            return Err(Odd::GiveUp);
        }
        let sides = [
            (&self.before, Account::of(&self.before, before)?),
            (&self.after, Account::of(&self.after, after)?),
        ];
        let mut suspects = PageSet::new(self.changed.common);
        for pgno in self.changed.pages.iter() {
            let known = sides.iter().any(|(_, account)| account.knows(pgno));
            if pgno.get() <= self.changed.common && pgno != self.before.lock_page && !known {
                suspects.insert(pgno);
            }
        }
        for (reader, account) in &sides {
            account.take_chains(reader, &self.changed, &mut suspects)?;
        }
        Ok(suspects)
    }

    /// Whether a leaf of one side need not be read: the other side has it in the same tree, with the
    /// same content.
    fn is_same(&self, pgno: u32, other: &PageSet) -> bool {
        !self.changed.contains(pgno) && Pgno::new(pgno).is_some_and(|pgno| other.contains(pgno))
    }

    /// Whether a page of a chain that begins on a page that did not change did. If so, its pages are
    /// accounted for.
    fn chain_changed(&mut self, first: u32, pages: u64) -> Result<bool, Odd> {
        let mut changed = false;
        self.before.chain(first, pages, &mut |pgno| {
            changed |= self.changed.contains(pgno);
            !changed
        })?;
        if changed && let Some(suspects) = &mut self.suspects {
            for reader in [&self.before, &self.after] {
                reader.chain(first, pages, &mut |pgno| {
                    Pgno::new(pgno).map(|pgno| suspects.remove(pgno));
                    true
                })?;
            }
        }
        Ok(changed)
    }

    fn has_suspects(&self) -> bool {
        self.suspects.as_ref().is_some_and(|suspects| !suspects.is_empty())
    }
}

fn or_all(found: Result<Candidates, Odd>) -> Result<Candidates, RebaseError> {
    match found {
        Ok(found) => Ok(found),
        Err(Odd::GiveUp) => Ok(Candidates::All),
        Err(Odd::Io(source)) => Err(pages_failed(source)),
    }
}

fn reader(pages: &SharedPages) -> Result<Reader, RebaseError> {
    Reader::new(Arc::clone(pages)).map_err(pages_failed)
}

fn pages_failed(source: io::Error) -> RebaseError {
    RebaseError::Pages { source }
}

/// The root pages of all trees. That of the schema is not in it.
fn roots(conn: &Connection) -> Result<Vec<u32>, RebaseError> {
    let list = || -> rusqlite::Result<Vec<u32>> {
        let sql = "SELECT rootpage FROM main.sqlite_schema WHERE rootpage > 0";
        let mut roots = conn.prepare(sql)?;
        let mut roots = roots
            .query_map([], |row| Ok(row.get::<_, u32>(0).unwrap_or(u32::MAX)))?
            .collect::<rusqlite::Result<Vec<u32>>>()?;
        roots.push(1);
        Ok(roots)
    };
    list().map_err(read("the root pages of the tables"))
}

/// Reads the header of a state.
fn header(pages: &Mutex<dyn PageRead>) -> io::Result<Option<(PageOne, Vec<u8>)>> {
    let mut pages = lock_pages(pages)?;
    if pages.size() == 0 {
        return Ok(None);
    }
    let mut page = vec![0; pages.page_size().bytes()];
    pages.read(Pgno::ONE, &mut page)?;
    Ok(PageOne::read(&page).ok().map(|one| (one, page)))
}
