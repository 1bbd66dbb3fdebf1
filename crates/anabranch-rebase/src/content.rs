//! Tables without any key: their rows are told apart by a rowid that nobody sees, and that VACUUM
//! gives anew. So changes that cancel by content are none: a row that went from one rowid to
//! another did not change.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cell::{Cell, RowKey, Tuple};
use crate::error::RebaseError;
use crate::find::Pair;
use crate::objects::read;
use crate::work::{Op, Work};

/// Marks on halves of a change that cancel.
const OLD_GOES_ON: u32 = 1 << 16;
const NEW_WAS_THERE: u32 = 1 << 17;

/// Takes changes off the list that only moved rows to other rowids.
pub(crate) fn cancel(pair: &Pair<'_>, work: &Work) -> Result<(), RebaseError> {
    let tab = pair.table.index;
    each(work, tab, "1", |change| {
        let Some(rowid) = change.key.as_ref().and_then(RowKey::rowid) else { return Ok(()) };
        if change.op != Op::Insert {
            if let Some(row) = before(pair, rowid)? {
                work.add_half(hash(&row), false, change.id)?;
            }
        }
        if change.op != Op::Delete {
            if let Some(row) = after(pair, rowid)? {
                work.add_half(hash(&row), true, change.id)?;
            }
        }
        Ok(())
    })?;
    work.each_pair(|old, new| {
        let (mut from, to) = (work.get(tab, old)?, work.get(tab, new)?);
        let rowid = |key: &Option<RowKey>| key.as_ref().and_then(RowKey::rowid);
        let (Some(a), Some(b)) = (rowid(&from.key), rowid(&to.key)) else { return Ok(()) };
        match (before(pair, a)?, after(pair, b)?) {
            (Some(a), Some(b)) if a.cells == b.cells => {}
            _ => return Ok(()),
        }
        from.flags |= OLD_GOES_ON;
        work.settle(tab, &from)?;
        let mut to = work.get(tab, new)?;
        to.flags |= NEW_WAS_THERE;
        work.settle(tab, &to)
    })?;
    each(work, tab, &format!("flags & {}", OLD_GOES_ON | NEW_WAS_THERE), |mut change| {
        let old = change.op != Op::Insert && !change.has(OLD_GOES_ON);
        let new = change.op != Op::Delete && !change.has(NEW_WAS_THERE);
        change.flags &= !(OLD_GOES_ON | NEW_WAS_THERE);
        work.settle(tab, &change)?;
        match (old, new) {
            (false, false) => work.forget(tab, change.id),
            (true, false) => work.set_op(tab, change.id, Op::Delete),
            (false, true) => work.set_op(tab, change.id, Op::Insert),
            (true, true) => Ok(()),
        }
    })
}

fn each(
    work: &Work,
    tab: usize,
    filter: &str,
    mut f: impl FnMut(crate::work::Change) -> Result<(), RebaseError>,
) -> Result<(), RebaseError> {
    let mut last = 0;
    loop {
        let batch = work.batch(tab, filter, last)?;
        let Some(change) = batch.last() else { return Ok(()) };
        last = change.id;
        for change in batch {
            f(change)?;
        }
    }
}

fn before(pair: &Pair<'_>, rowid: i64) -> Result<Option<Tuple>, RebaseError> {
    let (conn, Some(side)) = pair.before else { return Ok(None) };
    side.get(conn, &RowKey::Rowid(rowid), &pair.table.defaults)
        .map_err(read(format!("table {}", pair.table.name())))
}

fn after(pair: &Pair<'_>, rowid: i64) -> Result<Option<Tuple>, RebaseError> {
    let (conn, side) = pair.after;
    side.get(conn, &RowKey::Rowid(rowid), &pair.table.defaults)
        .map_err(read(format!("table {}", pair.table.name())))
}

/// A hash of the values of a row, with their types and lengths.
fn hash(row: &Tuple) -> i64 {
    let mut all = 0u64;
    for cell in &row.cells {
        let (kind, bytes): (u8, &[u8]) = match cell {
            Cell::Null => (0, &[]),
            Cell::Integer(i) => (1, &i.to_le_bytes()),
            Cell::Real(r) => (2, &r.to_bits().to_le_bytes()),
            Cell::Text(t) => (3, t),
            Cell::Blob(b) => (4, b),
        };
        all = xxh3_64_with_seed(bytes, all.wrapping_mul(31).wrapping_add(u64::from(kind)));
    }
    all.cast_signed()
}
