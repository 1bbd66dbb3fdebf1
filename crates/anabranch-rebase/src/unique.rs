//! Unique indices. A change whose write fails on one waits: perhaps the row in its way is about to
//! change as well. What still waits in the end is taken out and put back, so that rows that
//! exchange their values come through. What fails even then is in conflict with a row that only
//! the remote has.

use rusqlite::params_from_iter;

use crate::cell::{Cell, RowKey, Tuple};
use crate::conflict::ConflictKind;
use crate::decide::{Verdict, judge, local_over};
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::objects::read;
use crate::put::{Put, wherever};
use crate::rows::added;
use crate::sql::{Kind, quoted, tokens};
use crate::table::Table;
use crate::work::{Change, Op, Take, failed, flag};

/// A unique index of the result, as SQL over the columns of its table.
struct Index {
    terms: Vec<String>,
    /// Of a partial index: which rows are in it.
    filter: Option<String>,
}

impl Engine<'_> {
    /// Brings in what waits, or settles its conflicts.
    pub(crate) fn settle_waiting(&mut self, table: &Table) -> Result<(), RebaseError> {
        const WAITING: &str = "flags & 1";
        self.each(table, WAITING, |engine, change| engine.retry(table, change).map(|_| ()))?;
        self.each(table, WAITING, |engine, change| {
            let now = engine.row_now(table, &change.dest)?;
            engine.writer.put(table, now.as_ref(), None, false).map(|_| ())
        })?;
        self.each(table, WAITING, |engine, change| engine.retry(table, change).map(|_| ()))?;
        self.each(table, WAITING, |engine, change| {
            // Settling another one may have undone this one.
            let change = engine.work.get(table.index, change.id)?;
            if change.has(flag::WAITS) { engine.collide(table, change) } else { Ok(()) }
        })
    }

    /// Tries to write a waiting change once more.
    fn retry(&mut self, table: &Table, mut change: Change) -> Result<bool, RebaseError> {
        let rows = self.versions(table, &change)?;
        let now = self.row_now(table, &change.dest)?;
        let target = self.target(table, &change, &rows)?;
        match self.writer.put(table, now.as_ref(), target.as_ref(), added(&rows))? {
            Put::Done => {
                self.placed(table, &mut change, &rows)?;
                change.flags &= !flag::WAITS;
                change.detail = None;
                self.work.settle(table.index, &change)?;
                Ok(true)
            }
            Put::Unique(_) => Ok(false),
            Put::Check(text) => {
                self.refuse(table, change, &rows, text)?;
                Ok(true)
            }
        }
    }

    /// A change that a row of the remote's is in the way of.
    fn collide(&mut self, table: &Table, mut change: Change) -> Result<(), RebaseError> {
        if self.retry(table, change.clone())? {
            return Ok(());
        }
        let rows = self.versions(table, &change)?;
        if change.take == Take::Kept {
            return Err(RebaseError::Resolved {
                table: table.name().to_owned(),
                why: change.detail.unwrap_or_default(),
            });
        }
        let verdict = judge(table, ConflictKind::Unique, &rows, self.rules, |decision| {
            self.describe(table, &change, &rows, ConflictKind::Unique, decision)
        })?;
        if let Verdict::Kept(row) = verdict {
            change.kind = Some(ConflictKind::Unique);
            return self.write_kept(table, change, row.as_ref());
        }
        let target = self.target(table, &change, &rows)?;
        let (Verdict::Take(Take::Local), Some(target)) = (verdict, &target) else {
            return self.undo(table, change, ConflictKind::Unique);
        };
        let mut displaced = Vec::new();
        for key in self.in_the_way(table, target)? {
            if key == change.dest {
                continue;
            }
            let other = self.entry(table, &key)?;
            let ours = other.op != Op::Nothing && other.take != Take::Remote;
            if ours || other.has(flag::RESTORED) {
                // Two rows of this side: what forbids them came from the remote.
                return self.undo(table, change, ConflictKind::Unique);
            }
            displaced.push(other);
        }
        for other in &mut displaced {
            let now = self.row_now(table, &other.dest)?;
            self.writer.put(table, now.as_ref(), None, false)?;
            other.take = Take::Local;
            other.kind = Some(ConflictKind::Unique);
            other.detail.clone_from(&change.detail);
            self.work.settle(table.index, other)?;
            self.work.push(table.index, other.id)?;
        }
        let done = self.retry(table, change.clone())?;
        for other in displaced {
            self.put_back(table, other)?;
        }
        if done { Ok(()) } else { self.undo(table, change, ConflictKind::Unique) }
    }

    /// A row that had to go although the local side has it as well, only without what is in the
    /// way: that version stands, if it can.
    fn put_back(&mut self, table: &Table, other: Change) -> Result<(), RebaseError> {
        let rows = self.versions(table, &other)?;
        if let Some(row) = local_over(table, &rows) {
            if self.writer.put(table, None, Some(&row), added(&rows))? == Put::Done {
                let mut other = other;
                self.placed(table, &mut other, &rows)?;
                return self.work.settle(table.index, &other);
            }
            self.work.keep_row(table.index, other.id, None)?;
            let gone = Change { take: Take::Kept, ..other };
            return self.work.settle(table.index, &gone);
        }
        Ok(())
    }

    /// Lets the remote's version stand for a row, and for all that is in its way: nothing of the
    /// remote's can be.
    pub(crate) fn undo(
        &mut self,
        table: &Table,
        change: Change,
        kind: ConflictKind,
    ) -> Result<(), RebaseError> {
        let mut next = vec![(change, kind)];
        while let Some((mut change, kind)) = next.pop() {
            change.take = Take::Remote;
            change.flags = (change.flags | flag::UNDONE) & !(flag::WAITS | flag::TWIN);
            let rows = self.versions(table, &change)?;
            // What nothing was done to here is as the remote has it: there is nothing to tell.
            change.kind = (change.op != Op::Nothing).then_some(kind);
            self.work.settle(table.index, &change)?;
            self.work.push(table.index, change.id)?;
            let now = self.row_now(table, &change.dest)?;
            let Some(row) = &rows.remote else {
                self.writer.put(table, now.as_ref(), None, false)?;
                continue;
            };
            match self.writer.put(table, now.as_ref(), Some(row), false)? {
                Put::Done => continue,
                Put::Unique(text) => {
                    for key in self.in_the_way(table, row)? {
                        if key == change.dest {
                            continue;
                        }
                        let mut other = self.entry(table, &key)?;
                        if other.has(flag::UNDONE) {
                            return Err(stuck(table, text));
                        }
                        let there = self.row_now(table, &other.dest)?;
                        self.writer.put(table, there.as_ref(), None, false)?;
                        if other.detail.is_none() {
                            other.detail = Some(text.clone());
                        }
                        next.push((other, ConflictKind::Unique));
                    }
                    let now = self.row_now(table, &change.dest)?;
                    if self.writer.put(table, now.as_ref(), Some(row), false)? == Put::Done {
                        continue;
                    }
                    return Err(stuck(table, text));
                }
                Put::Check(text) => return Err(stuck(table, text)),
            }
        }
        Ok(())
    }

    /// What is known of the row that stands under a key in the result.
    pub(crate) fn entry(&self, table: &Table, dest: &RowKey) -> Result<Change, RebaseError> {
        if let Some(change) = self.work.at(table.index, dest)? {
            return Ok(change);
        }
        let key = self.key_here(table, dest)?;
        self.work.add_other(table.index, key.as_ref(), dest)
    }

    /// The key on the local side of a row that did not change here; `None`: the row under that key is
    /// another one.
    fn key_here(&self, table: &Table, dest: &RowKey) -> Result<Option<RowKey>, RebaseError> {
        match dest {
            RowKey::Rowid(to) if table.by_rowid() => {
                Ok(self.rowid_here(table.index, *to)?.map(RowKey::Rowid))
            }
            // Both sides may have given the number to rows of theirs: only the base's is in both.
            RowKey::Rowid(_) => Ok(self.base_row(table, dest)?.map(|_| dest.clone())),
            RowKey::Columns(cells) => {
                let mut cells = cells.clone();
                for (cell, &at) in cells.iter_mut().zip(&table.key_at) {
                    let Cell::Integer(to) = *cell else { continue };
                    for &root in &self.roots[table.index][at] {
                        match self.rowid_here(root, to)? {
                            Some(from) => *cell = Cell::Integer(from),
                            None => return Ok(None),
                        }
                    }
                }
                Ok(Some(RowKey::Columns(cells)))
            }
        }
    }

    /// Which rowid of the local side is this one of the result; `None`: none, as its own row with
    /// that rowid went elsewhere.
    pub(crate) fn rowid_here(&self, tab: usize, to: i64) -> Result<Option<i64>, RebaseError> {
        if !self.moving[tab] {
            return Ok(Some(to));
        }
        match self.work.came_from(tab, to)? {
            Some(from) => Ok(Some(from)),
            None if self.work.moved(tab, to, false)?.is_some() => Ok(None),
            None => Ok(Some(to)),
        }
    }

    /// The keys of the rows that a row would collide with.
    fn in_the_way(&self, table: &Table, row: &Tuple) -> Result<Vec<RowKey>, RebaseError> {
        let indices = self.unique_indices(table)?;
        let conn = self.writer.conn();
        let what = || failed(format!("what is in the way of a row of table {}", table.name()));
        // SQLite computes what the row would have in each index: it is written for that, and
        // taken back.
        let wanted = self.writer.trial(|| {
            if self.writer.force(table, row).is_err() {
                return Ok(Vec::new());
            }
            let mut placed = row.clone();
            if !table.by_rowid() && row.rowid.is_some() {
                placed.rowid = Some(conn.last_insert_rowid());
            }
            let (clause, key) = wherever(table, &placed, 1);
            let mut wanted = Vec::new();
            for index in &indices {
                let filter = index.filter.as_deref().unwrap_or("1");
                let sql = format!(
                    "SELECT {} FROM main.{} WHERE {clause} AND ({filter}\n)",
                    index.terms.join(", "),
                    table.result.from
                );
                let mut values = Vec::new();
                // Where a text in double quotes counts as a string, its index cannot be asked.
                let Ok(mut statement) = conn.prepare(&sql) else {
                    wanted.push(values);
                    continue;
                };
                let mut rows = statement.query(params_from_iter(&key)).map_err(what())?;
                if let Some(row) = rows.next().map_err(what())? {
                    for at in 0..index.terms.len() {
                        values.push(Cell::from(row.get_ref(at).map_err(what())?));
                    }
                }
                wanted.push(values);
            }
            Ok(wanted)
        })?;
        let mut found = Vec::new();
        for (index, values) in indices.iter().zip(wanted) {
            // Rows with a NULL in an index collide with none.
            if values.is_empty() || values.iter().any(Cell::is_null) {
                continue;
            }
            let terms: Vec<String> = index
                .terms
                .iter()
                .enumerate()
                .map(|(at, term)| format!("{term} = ?{}", at + 1))
                .chain(index.filter.iter().map(|filter| format!("({filter}\n)")))
                .collect();
            let sql = format!("{} WHERE {}", table.result.select, terms.join(" AND "));
            let mut statement = conn.prepare(&sql).map_err(what())?;
            let mut rows = statement.query(params_from_iter(&values)).map_err(what())?;
            while let Some(row) = rows.next().map_err(what())? {
                let tuple = table.result.tuple(row, &table.defaults).map_err(what())?;
                let key = table.key_of(&tuple);
                if !found.contains(&key) {
                    found.push(key);
                }
            }
        }
        Ok(found)
    }

    fn unique_indices(&self, table: &Table) -> Result<Vec<Index>, RebaseError> {
        let conn = self.states.onto;
        let list = || -> rusqlite::Result<Vec<Index>> {
            let mut indices = conn.prepare(
                "SELECT i.name, s.sql FROM pragma_index_list(?1, 'main') AS i
                 LEFT JOIN main.sqlite_schema AS s ON s.type = 'index' AND s.name = i.name
                 WHERE i.\"unique\"",
            )?;
            let mut columns = conn.prepare(
                "SELECT cid, name, coll FROM pragma_index_xinfo(?1, 'main')
                 WHERE key ORDER BY seqno",
            )?;
            let mut found = Vec::new();
            let mut rows = indices.query([&table.plan.result])?;
            while let Some(row) = rows.next()? {
                let name: String = row.get(0)?;
                let sql: Option<String> = row.get(1)?;
                let (expressions, filter) = sql.as_deref().map(parts).unwrap_or_default();
                let mut terms = Vec::new();
                let mut rows = columns.query([name])?;
                while let Some(row) = rows.next()? {
                    let (cid, name): (i64, Option<String>) = (row.get(0)?, row.get(1)?);
                    let by = quoted(&row.get::<_, String>(2)?);
                    let term = match name {
                        Some(name) if cid >= 0 => quoted(&name),
                        _ if cid == -1 => table.result.rowid.clone().unwrap_or_default(),
                        _ => match expressions.get(terms.len()) {
                            Some(text) => format!("({text}\n)"),
                            None => "NULL".to_owned(),
                        },
                    };
                    terms.push(format!("{term} COLLATE {by}"));
                }
                found.push(Index { terms, filter });
            }
            if let Some(rowid) = table.result.rowid.as_ref().filter(|_| table.by_rowid()) {
                found.push(Index { terms: vec![rowid.clone()], filter: None });
            }
            Ok(found)
        };
        list().map_err(read(format!("the indices of table {}", table.name())))
    }
}

fn stuck(table: &Table, text: String) -> RebaseError {
    RebaseError::Unmergeable {
        table: table.name().to_owned(),
        why: format!("a row of the remote cannot stand any more ({text})"),
    }
}

/// The expressions of an index, without their order, and the condition of a partial one, from its
/// statement.
fn parts(sql: &str) -> (Vec<String>, Option<String>) {
    let all = tokens(sql);
    let Some(open) = all.iter().position(|t| t.sign(b'(')) else { return (Vec::new(), None) };
    let mut expressions = Vec::new();
    let mut depth = 0_usize;
    let mut start = open + 1;
    for (at, token) in all.iter().enumerate().skip(open) {
        if token.sign(b'(') {
            depth += 1;
        } else if token.sign(b')') {
            depth = depth.saturating_sub(1);
        }
        let ends = depth == 0 || (depth == 1 && token.sign(b','));
        if !ends {
            continue;
        }
        let mut end = at;
        if end > start && (all[end - 1].is("ASC") || all[end - 1].is("DESC")) {
            end -= 1;
        }
        if let (Some(first), Some(last)) = (all.get(start), all.get(end)) {
            expressions.push(sql[first.at..last.at].trim().to_owned());
        }
        start = at + 1;
        if depth == 0 {
            let filter = all.get(at + 1).filter(|t| t.is("WHERE") && t.kind == Kind::Word);
            let from = filter.and_then(|_| all.get(at + 2)).map(|t| t.at);
            return (expressions, from.map(|from| sql[from..].trim().to_owned()));
        }
    }
    (expressions, None)
}
