//! Full-text indices over rows that stand elsewhere (`content=TABLE`).
//!
//! One that came along whole, from here or from the remote, holds the rows of its side. The result
//! may have others: a row that came back because another refers to it, one that made way or got
//! another number, those of the other side if the index is new. Such an index is built anew.
//!
//! ```text
//! find     when rows are planned: the indices of the result, and whose they are
//! differs  when rows are done: were those that changed left as the index's side has them? Only
//!          these are read again, if no others can differ
//! behind   when the schema is done: else all rows are compared
//! ```

use rusqlite::Connection;

use crate::cell::{RowKey, same};
use crate::columns::columns;
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::fate::{Act, Fate, Trio, text};
use crate::modules::over;
use crate::objects::{Object, ObjectKind, read};
use crate::plan::{How, TablePlan};
use crate::rules::Side;
use crate::sql::{quoted, same_name};
use crate::state::State;

/// An index of the result over rows that stand elsewhere.
#[derive(Debug)]
pub(crate) struct Outside {
    /// Its name in the result.
    pub(crate) name: String,
    /// What has the rows: a table, a view.
    content: String,
    /// The column that says a row's number.
    rowid: String,
    columns: Vec<String>,
    /// Whose rows it holds.
    of: Side,
    /// Whether only rows on the list of changes can be others than that side's.
    pub(crate) listed: bool,
}

/// The indices of the result over rows that may have become others. `now` is the scratch copy after
/// tables were carried; `from_here` has the virtual tables that hold what they hold here.
pub(crate) fn find(
    trio: &Trio<'_>,
    now: &State<'_>,
    fates: &[Fate],
    plans: &[TablePlan],
    from_here: &[String],
) -> Vec<Outside> {
    let mut found = Vec::new();
    let is_here = |name: &str| from_here.iter().any(|n| same_name(n, name));
    // What is made by the local statement is entered into the schema in the end.
    let made = fates.iter().filter(|f| matches!(f.act, Act::Create | Act::Replace));
    let made: Vec<&Object> =
        made.filter_map(|f| trio.local.objects.table(f.local.as_deref()?)).collect();
    for object in made.iter().filter(|o| o.module.is_some()) {
        found.extend(outside(trio.local.conn, object, Side::Local));
    }
    for object in now.objects.of_kind(ObjectKind::Table).filter(|o| o.module.is_some()) {
        if made.iter().any(|o| same_name(&o.name, &object.name)) {
            continue;
        }
        let of = if is_here(&object.name) { Side::Local } else { Side::Remote };
        let Some(mut index) = outside(now.conn, object, of) else { continue };
        let fate = fates
            .iter()
            .find(|f| f.result.as_deref().is_some_and(|r| same_name(r, &index.content)));
        let plan = plans.iter().find(|p| same_name(&p.result, &index.content));
        let is_table = now.table(&index.content).is_some();
        let kept = fate.is_none_or(|f| matches!(f.act, Act::Keep | Act::Alter { .. }));
        match plan {
            // Nothing is written into it.
            None if is_table && kept && of == Side::Remote => continue,
            Some(plan) if is_table && kept => index.listed = index.finds_all(plan),
            _ => {}
        }
        found.push(index);
    }
    found
}

fn outside(conn: &Connection, object: &Object, of: Side) -> Option<Outside> {
    let (content, rowid) = over(object.module.as_deref()?, text(object))?;
    // If its tokenizer is the application's, nobody can build it here.
    let columns = columns(conn, &object.name).ok()?;
    let columns = columns.into_iter().filter(|c| !c.hidden).map(|c| c.name).collect();
    Some(Outside { name: object.name.clone(), content, rowid, columns, of, listed: false })
}

impl Outside {
    /// Whether the rows of a plan have all that is in the index, under the same names.
    fn finds_all(&self, plan: &TablePlan) -> bool {
        let alike = |name: &str| {
            let column = plan.columns.iter().find(|c| same_name(&c.result, name));
            column.is_some_and(|c| {
                let own = if self.of == Side::Local { &c.local } else { &c.remote };
                own.as_deref().is_some_and(|own| same_name(own, name))
            })
        };
        let rowid = ["rowid", "_rowid_", "oid"].iter().any(|name| same_name(name, &self.rowid));
        plan.how == How::Merge
            && !plan.without_rowid
            && self.columns.iter().all(|name| alike(name))
            && (rowid || alike(&self.rowid))
    }

    /// Whether a row that changed is another in the result than on the index's side.
    pub(crate) fn differs(&self, engine: &Engine<'_>) -> Result<bool, RebaseError> {
        let table = engine.tables.iter().find(|t| same_name(&t.plan.result, &self.content));
        let Some(table) = table else { return Ok(false) };
        let (conn, side) = match self.of {
            Side::Local => (engine.states.local, Some(&table.local)),
            Side::Remote => (engine.states.remote, table.remote.as_ref()),
        };
        let Some(side) = side else { return Ok(true) };
        let names = self.columns.iter().chain([&self.rowid]);
        let places: Vec<usize> = names.filter_map(|name| table.position(name)).collect();
        let what = || read(format!("the rows of table {}", table.name()));
        let mut last = 0;
        loop {
            let batch = engine.work.batch(table.index, "1", last)?;
            let Some(change) = batch.last() else { return Ok(false) };
            last = change.id;
            for key in batch.iter().flat_map(|c| c.key.iter().chain([&c.dest])) {
                if matches!(key, RowKey::Columns(cells) if cells.is_empty()) {
                    continue;
                }
                let before = side.get(conn, key, &table.defaults).map_err(what())?;
                let now =
                    table.result.get(engine.states.onto, key, &table.defaults).map_err(what())?;
                let equal = match (&before, &now) {
                    (None, None) => true,
                    (Some(before), Some(now)) => {
                        before.rowid == now.rowid
                            && places.iter().all(|&at| before.cells[at] == now.cells[at])
                    }
                    _ => false,
                };
                if !equal {
                    return Ok(true);
                }
            }
        }
    }

    /// Whether there is something that it could be built from.
    pub(crate) fn has_content(&self, onto: &Connection) -> bool {
        onto.prepare(&self.select()).is_ok()
    }

    /// Whether the result has other rows than the index's side, of all that there are.
    pub(crate) fn behind(
        &self,
        local: &Connection,
        remote: &Connection,
        onto: &Connection,
    ) -> Result<bool, RebaseError> {
        let own = if self.of == Side::Local { local } else { remote };
        let sql = format!("{} ORDER BY 1", self.select());
        // What cannot be read there was no content of it.
        let Ok(mut own) = own.prepare(&sql) else { return Ok(false) };
        let mut compare = || -> rusqlite::Result<bool> {
            let mut now = onto.prepare(&sql)?;
            let (mut own, mut now) = (own.query([])?, now.query([])?);
            loop {
                match (own.next()?, now.next()?) {
                    (None, None) => return Ok(false),
                    (Some(own), Some(now)) => {
                        for at in 0..=self.columns.len() {
                            if !same(own.get_ref(at)?, now.get_ref(at)?) {
                                return Ok(true);
                            }
                        }
                    }
                    _ => return Ok(true),
                }
            }
        };
        compare().map_err(RebaseError::read(format!("the content of {}", self.name)))
    }

    /// Reads the number and the columns of all rows.
    fn select(&self) -> String {
        let names: Vec<String> =
            [&self.rowid].into_iter().chain(&self.columns).map(|name| quoted(name)).collect();
        format!("SELECT {} FROM main.{}", names.join(", "), quoted(&self.content))
    }
}
