//! Rows that one side wrote into a table, or a column, that the other side dropped. They are told
//! one by one, since nothing of them is in the result.

use crate::conflict::{Conflict, ConflictKind, Decision};
use crate::error::RebaseError;
use crate::fate::Trio;
use crate::rows_of::{Differs, Part, differing};
use crate::rules::Side;
use crate::schema::Journal;
use crate::state::{State, Succession, key_pairs};

/// A table, or columns of one, whose values of one side have no place in the result.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    /// Who wrote them.
    side: Side,
    /// The table in the base; empty if it was not there.
    base: String,
    /// The table on that side.
    table: String,
    /// The columns, with their names in the base; `None`: the whole table.
    columns: Option<Vec<(String, Option<String>)>>,
}

impl Lost {
    /// All rows of a table.
    pub(crate) fn rows(side: Side, base: &str, table: &str) -> Self {
        Self { side, base: base.to_owned(), table: table.to_owned(), columns: None }
    }

    /// The columns that the other side does not have; `None`: there are none.
    pub(crate) fn columns(trio: &Trio<'_>, side: Side, base: &str, table: &str) -> Option<Self> {
        let (state, own) = of(trio, side);
        let (other_state, other) = of(trio, opposite(side));
        let other_table = other_state.table(other.table(base).unwrap_or(table))?;
        let columns: Vec<(String, Option<String>)> = state
            .table(table)?
            .stored()
            .filter_map(|column| {
                let before = own.column_before(base, &column.name);
                let there = match before {
                    Some(before) => other.column(base, before).is_some(),
                    None => {
                        other_table.column(&column.name).is_some()
                            && other.column_before(base, &column.name).is_none()
                    }
                };
                (!there).then(|| (column.name.clone(), before.map(str::to_owned)))
            })
            .collect();
        let lost =
            Self { side, base: base.to_owned(), table: table.to_owned(), columns: Some(columns) };
        lost.columns.as_ref().is_some_and(|c| !c.is_empty()).then_some(lost)
    }

    /// Whether any row was written.
    pub(crate) fn any(&self, trio: &Trio<'_>) -> Result<bool, RebaseError> {
        let mut any = false;
        self.each(trio, &mut |_| {
            any = true;
            Ok(false)
        })?;
        Ok(any)
    }

    /// Tells of each row.
    pub(crate) fn tell(
        &self,
        trio: &Trio<'_>,
        journal: &mut Journal<'_>,
    ) -> Result<(), RebaseError> {
        let detail = self.columns.as_ref().map(|columns| {
            let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
            format!("dropped with {}", names.join(", "))
        });
        self.each(trio, &mut |differs| {
            let (local, remote, decision) = match self.side {
                Side::Local => (Some(differs.after), None, Decision::Remote),
                Side::Remote => (None, Some(differs.after), Decision::Local),
            };
            journal(Conflict {
                table: self.table.clone(),
                key: differs.key,
                kind: ConflictKind::Dropped,
                base: differs.before,
                local,
                remote,
                decision,
                detail: detail.clone(),
            })?;
            Ok(true)
        })
    }

    fn each(
        &self,
        trio: &Trio<'_>,
        each: &mut dyn FnMut(Differs) -> Result<bool, RebaseError>,
    ) -> Result<(), RebaseError> {
        let (state, own) = of(trio, self.side);
        let Some(table) = &state.shown(&self.table) else { return Ok(()) };
        let names = |table: &crate::columns::Table| -> Vec<String> {
            table.stored().map(|c| c.name.clone()).collect()
        };
        let all = || {
            let pairs = table.stored().map(|c| {
                let before = own.column_before(&self.base, &c.name);
                (c.name.clone(), before.map(str::to_owned))
            });
            pairs.collect()
        };
        let columns = self.columns.clone().unwrap_or_else(all);
        let (compared, compared_before): (Vec<_>, Vec<_>) =
            columns.into_iter().map(|(name, before)| (Some(name), before)).unzip();
        let old = &trio.base.shown(&self.base);
        let old = old.as_ref();
        let keys = old.and_then(|old| key_pairs(old, table, own.columns(&self.base)));
        let mut after = Part {
            conn: state.conn,
            table: &table.name,
            key: key_of(table),
            compared,
            shown: names(table),
        };
        // Without a key that both have, each row counts as new; so it does where there is no base.
        let mut before = Part {
            conn: trio.base.conn,
            table: old.map_or(&table.name, |old| &old.name),
            key: Vec::new(),
            compared: compared_before,
            shown: old.map(names).unwrap_or_default(),
        };
        match (old, keys) {
            (Some(_), Some(keys)) => {
                (before.key, after.key) = keys.into_iter().unzip();
                differing(Some(&before), &after, each)
            }
            _ => differing(None, &after, each),
        }
    }
}

fn key_of(table: &crate::columns::Table) -> Vec<String> {
    match table.key(&[]) {
        Some(crate::plan::Key::Rowid { alias }) => vec![alias.to_owned()],
        _ => table.key.clone(),
    }
}

fn of<'a, 'b>(trio: &'a Trio<'b>, side: Side) -> (&'a State<'b>, &'a Succession) {
    match side {
        Side::Local => (&trio.local, &trio.here),
        Side::Remote => (&trio.onto, &trio.there),
    }
}

fn opposite(side: Side) -> Side {
    match side {
        Side::Local => Side::Remote,
        Side::Remote => Side::Local,
    }
}
