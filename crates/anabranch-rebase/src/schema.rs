//! Which tables there are on the three sides, which of them are the same, and what of the schema
//! the local side changed.

use rusqlite::Connection;

use crate::columns::Table;
use crate::conflict::Conflict;
use crate::error::RebaseError;
use crate::foreign::{foreign_keys, parents_first};
use crate::objects::{Object, ObjectKind, Objects, is_internal};
use crate::plan::{Column, ForeignKey, How, TablePlan, TableSide};
use crate::rules::Rules;
use crate::sql::same_name;

/// The three states, as the schema sees them.
#[derive(Clone, Copy)]
pub(crate) struct Three<'a> {
    pub(crate) base: &'a Connection,
    pub(crate) local: &'a Connection,
    /// The scratch copy of the remote's state, which becomes the result.
    pub(crate) onto: &'a Connection,
}

/// Takes the conflicts that carrying the schema causes.
pub(crate) type Journal<'a> =
    dyn FnMut(Conflict) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

/// What is to be done. `tables` and `foreign_keys` describe the result and are complete once
/// [`SchemaPlan::carry_before_rows`] has run.
#[derive(Debug, Default)]
pub(crate) struct SchemaPlan {
    /// Parents before children where possible.
    pub(crate) tables: Vec<TablePlan>,
    pub(crate) foreign_keys: Vec<ForeignKey>,
    /// Objects of the schema that are carried, for the summary.
    pub(crate) carried: usize,
}

/// Compares the three schemas. Nothing is written.
pub(crate) fn plan(
    base: &Connection,
    local: &Connection,
    onto: &Connection,
    _rules: &Rules,
) -> Result<SchemaPlan, RebaseError> {
    let objects = Objects::read(base)?;
    let here = Objects::read(local)?;
    let there = Objects::read(onto)?;
    let mut plan = SchemaPlan::default();
    let mut results = Vec::new();
    for object in ordinary(&there) {
        let result = Table::read(onto, object)?;
        let (Some(before), Some(ours)) = (objects.table(&object.name), here.table(&object.name))
        else {
            continue;
        };
        let before = Table::read(base, before)?;
        let ours = Table::read(local, ours)?;
        plan.tables.push(table_plan(&before, &ours, &result)?);
        results.push(result);
    }
    plan.foreign_keys = foreign_keys(onto, &results)?;
    plan.tables = ordered(plan.tables, &plan.foreign_keys);
    Ok(plan)
}

/// The tables of `after` and what they were in `before`, to list the rows that differ: `base` is
/// `before`, `local` and the result are `after`.
pub(crate) fn pairs(
    before: &Connection,
    after: &Connection,
) -> Result<Vec<TablePlan>, RebaseError> {
    Ok(plan(before, after, after, &Rules::default())?.tables)
}

impl SchemaPlan {
    /// Does in the scratch copy what the local side did to the schema, as far as rows need it.
    pub(crate) fn carry_before_rows(
        &mut self,
        _sides: Three<'_>,
        _journal: &mut Journal<'_>,
    ) -> Result<(), RebaseError> {
        Ok(())
    }

    /// The rest: indices, views, triggers, what virtual tables keep.
    pub(crate) fn carry_after_rows(
        &mut self,
        _sides: Three<'_>,
        _journal: &mut Journal<'_>,
    ) -> Result<(), RebaseError> {
        Ok(())
    }
}

/// The tables with rows of their own.
fn ordinary(objects: &Objects) -> impl Iterator<Item = &Object> {
    objects
        .of_kind(ObjectKind::Table)
        .filter(|o| o.module.is_none() && objects.owner_of_shadow(&o.name).is_none())
}

fn table_plan(base: &Table, local: &Table, result: &Table) -> Result<TablePlan, RebaseError> {
    let key = result.key(&[base, local]).ok_or_else(|| RebaseError::Unmergeable {
        table: result.name.clone(),
        why: "columns have taken all names of its rowid".into(),
    })?;
    let columns = result
        .stored()
        .map(|column| Column {
            result: column.name.clone(),
            base: base.column(&column.name).map(|c| c.name.clone()),
            local: local.column(&column.name).map(|c| c.name.clone()),
            remote: true,
        })
        .collect();
    Ok(TablePlan {
        base: Some(TableSide { name: base.name.clone(), root: base.root }),
        local: TableSide { name: local.name.clone(), root: local.root },
        result: result.name.clone(),
        key,
        columns,
        without_rowid: result.without_rowid,
        how: how(&result.name),
        shown_as: result.name.clone(),
    })
}

fn how(table: &str) -> How {
    if same_name(table, "sqlite_sequence") {
        How::Sequence
    } else if is_internal(table) {
        How::Statistics
    } else {
        How::Merge
    }
}

fn ordered(tables: Vec<TablePlan>, keys: &[ForeignKey]) -> Vec<TablePlan> {
    let names: Vec<&str> = tables.iter().map(|t| t.result.as_str()).collect();
    let order = parents_first(&names, keys);
    let mut tables: Vec<Option<TablePlan>> = tables.into_iter().map(Some).collect();
    order.into_iter().filter_map(|place| tables[place].take()).collect()
}

#[cfg(test)]
mod tests;
