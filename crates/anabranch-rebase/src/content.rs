//! Tables without any key: their rows are told apart by a rowid that nobody sees, and that VACUUM
//! gives anew. So changes that cancel by content are none: a row that went from one rowid to
//! another did not change. And where the remote has another row under a rowid, or none, the row may
//! have gone elsewhere there: it did if the remote has no fewer rows with that content than the base.
//! What stands under its rowid by then is another row, which nobody changed: one that came from
//! elsewhere, as it did if the remote has no more rows with its content than the base.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cell::{Cell, RowKey, Tuple};
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::find::Pair;
use crate::objects::read;
use crate::table::Table;
use crate::work::{Op, Work};

/// Marks on halves of a change that cancel.
const OLD_GOES_ON: u32 = 1 << 16;
const NEW_WAS_THERE: u32 = 1 << 17;

/// Takes changes off the list that only moved rows to other rowids.
pub(crate) fn cancel(pair: &Pair<'_>, work: &Work) -> Result<(), RebaseError> {
    let tab = pair.table.index;
    each(work, tab, "1", |change| {
        let Some(rowid) = change.key.as_ref().and_then(RowKey::rowid) else { return Ok(()) };
        if change.op != Op::Insert
            && let Some(row) = before(pair, rowid)?
        {
            work.add_half(hash(&row), false, change.id)?;
        }
        if change.op != Op::Delete
            && let Some(row) = after(pair, rowid)?
        {
            work.add_half(hash(&row), true, change.id)?;
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

impl Engine<'_> {
    /// Finds rows that only have another rowid at the remote, and those that are gone there and
    /// whose rowid another one got. `next`: see [`next_key`](Self::next_key).
    pub(crate) fn find_elsewhere(
        &mut self,
        table: &Table,
        next: &mut Option<i64>,
    ) -> Result<(), RebaseError> {
        let mut listed = false;
        self.each(table, "op IN (2, 3)", |engine, change| {
            let Some(from) = change.key.as_ref().and_then(RowKey::rowid) else { return Ok(()) };
            let Some(row) = engine.base_row(table, &RowKey::Rowid(from))? else { return Ok(()) };
            let equal = |other: Option<Tuple>| other.is_some_and(|o| o.cells == row.cells);
            if equal(engine.remote_row(table, &change.dest)?) {
                return Ok(());
            }
            if !std::mem::replace(&mut listed, true) {
                engine.list_contents(table)?;
            }
            let hash = hash(&row);
            let [before, now] = [false, true].map(|there| engine.work.count_content(there, hash));
            if now? < before? {
                return Ok(());
            }
            let mut after = i64::MIN;
            while let Some(to) = engine.work.next_content(hash, after)? {
                after = to;
                let to = RowKey::Rowid(to);
                if equal(engine.remote_row(table, &to)?) && !equal(engine.base_row(table, &to)?) {
                    engine.work.take_content(hash, after)?;
                    engine.work.add_move(table.index, from, after, true)?;
                    engine.moving[table.index] = true;
                    return engine.work.set_dest(table.index, change.id, &to);
                }
                if after == i64::MAX {
                    break;
                }
                after += 1;
            }
            Ok(())
        })?;
        if listed { self.give_way(table, next) } else { Ok(()) }
    }

    /// Changes of rows that are gone at the remote must not meet what got their rowid there: it would
    /// be written over, or its own change would be.
    fn give_way(&mut self, table: &Table, next: &mut Option<i64>) -> Result<(), RebaseError> {
        self.each(table, "op IN (2, 3)", |engine, change| {
            let (Some(from), Some(at)) =
                (change.key.as_ref().and_then(RowKey::rowid), change.dest.rowid())
            else {
                return Ok(());
            };
            let Some(there) = engine.remote_row(table, &change.dest)? else { return Ok(()) };
            let base = engine.base_row(table, &RowKey::Rowid(from))?;
            if base.is_none_or(|base| base.cells == there.cells) {
                return Ok(());
            }
            let hash = hash(&there);
            let [before, now] = [false, true].map(|there| engine.work.count_content(there, hash));
            let (before, now) = (before?.unwrap_or(0), now?.unwrap_or(0));
            let taken = engine.work.came_from(table.index, at)?.is_some_and(|other| other != from);
            if !taken && (before == 0 || now > before) {
                return Ok(());
            }
            if change.op == Op::Delete {
                return engine.work.forget(table.index, change.id);
            }
            let Some(to) = engine.next_key(table, next)? else { return Ok(()) };
            engine.work.add_move(table.index, from, to, false)?;
            engine.moving[table.index] = true;
            engine.work.set_dest(table.index, change.id, &RowKey::Rowid(to))
        })
    }

    /// Lists the contents of all rows of the base and the remote.
    fn list_contents(&mut self, table: &Table) -> Result<(), RebaseError> {
        self.work.clear_contents()?;
        let sides = [
            (self.states.base, table.base.as_ref(), false),
            (self.states.remote, table.remote.as_ref(), true),
        ];
        for (conn, side, there) in sides {
            let Some(side) = side else { continue };
            let what = || read(format!("the rows of table {}", table.name()));
            let mut statement = conn.prepare(&side.select).map_err(what())?;
            let mut rows = statement.query([]).map_err(what())?;
            while let Some(row) = rows.next().map_err(what())? {
                let mut row = side.tuple(row, &table.defaults).map_err(what())?;
                let Some(rowid) = row.rowid else { continue };
                if !there {
                    self.rename(table, &mut row, true)?;
                }
                self.work.add_content(there, hash(&row), rowid)?;
            }
        }
        Ok(())
    }
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
