//! What the files of an official libSQL client hold: its base, and what comes after it.
//!
//! Such a client never checkpoints within a generation, so frame k of its `-wal` is frame k of the
//! generation: the base is the file under the frames up to the durable one, local changes are what
//! comes after. Should another SQLite have copied some of those later frames into the file, the base
//! of these pages is lost; they get no entry in the base map, and count as changed.
//!
//! Memory: 16 bytes for each frame.

use std::collections::{BTreeMap, HashSet};

use anabranch_format::{DbChecksum, FrameHeader, PageChecksum, PageOne, Pgno};
use anabranch_sqlite::{BaseMap, Frozen};

use super::AdoptError;
use crate::error::Error;
use crate::remote::{Spot, libsql};
use crate::transaction_hash::TransactionHash;

/// The frames of a `-wal`, as they stand to the durable one.
pub(super) struct Ledger {
    /// Where the client was in step.
    pub(super) at: Spot,
    /// Size of the base in pages.
    size: u32,
    /// Of each page the newest frame up to the durable one.
    base: BTreeMap<Pgno, u32>,
    /// Images that came later, by page number and checksum.
    later: HashSet<(Pgno, u64)>,
    /// The transaction that ends with the durable frame.
    pub(super) last: Option<LastTransaction>,
}

/// The transaction that ends at the position.
#[derive(Clone)]
pub(super) struct LastTransaction {
    /// The database's size after it.
    pub(super) size: u32,
    /// All of it.
    pub(super) all: TransactionHash,
}

/// The base, as it was put into the base map.
pub(super) struct Base {
    pub(super) size: u32,
    pub(super) sum: DbChecksum,
    pub(super) cookie: u32,
    pub(super) change_counter: u32,
}

impl Ledger {
    /// Reads the frames of `frozen`, whose client was in step at `at`.
    pub(super) fn read(frozen: &mut Frozen, at: Spot) -> Result<Self, Error> {
        if frozen.page_size() != libsql::PAGE_SIZE {
            return Err(AdoptError::PageSize(frozen.page_size()).of(frozen.path()));
        }
        let size = frozen.page_one().db_size.min(frozen.pages());
        let mut ledger = Ledger {
            at,
            size: if size == 0 { frozen.pages() } else { size },
            base: BTreeMap::new(),
            later: HashSet::new(),
            last: None,
        };
        let mut hash = TransactionHash::default();
        let frames = frozen.frames(&mut |number, header, page| {
            if number > at.frame {
                ledger.later.insert((header.pgno, PageChecksum::of(header.pgno, page).0));
                return;
            }
            ledger.base.insert(header.pgno, number);
            hash.frame(header.pgno, page);
            if header.is_commit() {
                ledger.commit(header, std::mem::take(&mut hash), number == at.frame);
            }
        })?;
        if frames < at.frame {
            let (have, need) = (frames, at.frame);
            return Err(AdoptError::ShortWal { have, need }.of(frozen.path()));
        }
        if at.frame > 0 && ledger.last.is_none() {
            return Err(AdoptError::InsideTransaction(at.frame).of(frozen.path()));
        }
        Ok(ledger)
    }

    fn commit(&mut self, header: &FrameHeader, all: TransactionHash, last: bool) {
        self.size = header.commit_size;
        let above = self.size.checked_add(1).and_then(Pgno::new);
        if let Some(above) = above {
            self.base.split_off(&above);
        }
        if last {
            self.last = Some(LastTransaction { size: self.size, all });
        }
    }

    /// Stages the base in `map`, as those of intent `id`.
    pub(super) fn stage(
        &self,
        frozen: &mut Frozen,
        map: &BaseMap<'_>,
        id: i64,
    ) -> Result<Base, Error> {
        let mut base =
            Base { size: self.size, sum: DbChecksum::EMPTY, cookie: 0, change_counter: 0 };
        let mut staging = map.stage(id);
        let mut page = vec![0; libsql::PAGE_SIZE.bytes()];
        for pgno in (1..=self.size).filter_map(Pgno::new) {
            if pgno == libsql::PAGE_SIZE.lock_page() {
                continue;
            }
            let frame = self.base.get(&pgno);
            match frame {
                Some(frame) => frozen.frame_page(*frame, &mut page)?,
                None => frozen.page(pgno, &mut page)?,
            }
            if pgno == Pgno::ONE
                && let Ok(one) = PageOne::read(&page)
            {
                (base.cookie, base.change_counter) = (one.schema_cookie, one.change_counter);
            }
            let entry = map.entry(pgno, &page);
            // Perhaps what the file holds is a later image already.
            if frame.is_none() && self.later.contains(&(pgno, entry.shared.0)) {
                continue;
            }
            base.sum.toggle(entry.shared);
            staging.push(pgno, entry)?;
        }
        staging.finish()?;
        Ok(base)
    }
}
