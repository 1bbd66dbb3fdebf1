//! The schema of the result, and what it means for rows.
//!
//! ```text
//! plan               reads the three schemas; state: which tables and columns are the same; fate:
//!                    what becomes of each table; others: of indices, views and triggers
//! carry_before_rows  lost: rows that have no place in the result are told; carry: tables are made,
//!                    altered, dropped, what is gone goes; then the result's tables are read, and
//!                    `tables` and `foreign_keys` say how rows come into them
//! (rows)
//! look_at_indices    outside: full-text indices over tables that are not as the index has them
//! carry_after_rows   indices, views and triggers; virtual tables are entered or built anew; what
//!                    compiled before must compile now
//! ```
//! Memory grows with the schema, not with rows. Schemas are what SQLite could load; names and
//! statements in them may be anything.

use rusqlite::Connection;

use crate::candidates::Changed;
use crate::columns::Table;
use crate::compile;
use crate::conflict::Conflict;
use crate::declared::appended;
use crate::engine::Engine;
use crate::error::RebaseError;
use crate::fate::{self, Act, Fate, Trio, text};
use crate::foreign::{dangling, foreign_keys, parents_first};
use crate::here::Here;
use crate::lost::Lost;
use crate::objects::{Object, ObjectKind, Objects, is_internal};
use crate::others::{self, Change};
use crate::outside::{self, Outside};
use crate::plan::{Column, ForeignKey, How, TablePlan, TableSide};
use crate::rows_of::same_rows;
use crate::rules::{Rules, Side};
use crate::sql::{quoted, same_name};
use crate::state::{State, Succession};
use crate::{carry, shadow};

/// Takes the conflicts that carrying the schema causes.
pub(crate) type Journal<'a> =
    dyn FnMut(Conflict) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

/// What is to be done.
pub(crate) struct SchemaPlan<'a> {
    /// How rows come into the result, parents before children where possible. Complete once
    /// [`carry_before_rows`](Self::carry_before_rows) has run, like `foreign_keys`.
    pub(crate) tables: Vec<TablePlan>,
    /// Of all tables of the result, also of those whose rows are not replayed.
    pub(crate) foreign_keys: Vec<ForeignKey>,
    /// Those of the remote, if anything is carried.
    pub(crate) foreign_keys_there: Vec<ForeignKey>,
    /// Objects of the schema that are carried, for the summary.
    pub(crate) carried: usize,
    trio: Trio<'a>,
    pages: Option<&'a Changed>,
    rules: &'a Rules,
    fates: Vec<Fate>,
    lost: Vec<Lost>,
    changes: Vec<Change>,
    /// Indices and triggers of tables that were made anew.
    again: Vec<Change>,
    /// Tables that were made anew, and have refused rows of the remote's.
    pub(crate) refused: Vec<String>,
    /// Virtual tables to build anew, by their names.
    rebuild: Vec<String>,
    /// Full-text indices that may have to be.
    outside: Vec<Outside>,
    /// Views and triggers that compiled at the remote, and here.
    working_there: compile::Names,
    working_here: compile::Names,
}

/// Compares the three schemas. Nothing is written. `changed`: the pages in which base and local state
/// differ, so that large virtual tables need not be read to find that they do not.
pub(crate) fn plan<'a>(
    base: &'a Connection,
    local: &'a Connection,
    onto: &'a Connection,
    changed: Option<&'a Changed>,
    rules: &'a Rules,
) -> Result<SchemaPlan<'a>, RebaseError> {
    let (base, local, onto) = (State::read(base)?, State::read(local)?, State::read(onto)?);
    let here = Succession::find(&base, &local)?;
    let there = Succession::find(&base, &onto)?;
    let trio = Trio { base, local, onto, here, there };
    let (fates, lost) = fate::decide(&trio, rules)?;
    let changes = others::decide(&trio, &fates, rules)?;
    let carried = changes.len() + fates.iter().filter(|f| f.act != Act::Keep).count();
    let mut plan = SchemaPlan {
        tables: Vec::new(),
        foreign_keys: Vec::new(),
        foreign_keys_there: Vec::new(),
        carried,
        trio,
        pages: changed,
        rules,
        fates,
        lost,
        changes,
        again: Vec::new(),
        refused: Vec::new(),
        rebuild: Vec::new(),
        outside: Vec::new(),
        working_there: compile::Names::new(),
        working_here: compile::Names::new(),
    };
    if carried > 0 {
        plan.working_here = compile::working(local_of(&plan).conn, &local_of(&plan).objects)?;
        let onto = &plan.trio.onto;
        let made: Vec<&Table> = onto.made().filter_map(|o| onto.table(&o.name)).collect();
        plan.foreign_keys_there = foreign_keys(onto.conn, &made)?;
        plan.working_there = compile::working(plan.trio.onto.conn, &plan.trio.onto.objects)?;
    }
    Ok(plan)
}

fn local_of<'p, 'a>(plan: &'p SchemaPlan<'a>) -> &'p State<'a> {
    &plan.trio.local
}

/// The tables of `after` and what they were in `before`, to list the rows that differ: `base` is
/// `before`, `local` and the result are `after`.
pub(crate) fn pairs(
    before: &Connection,
    after: &Connection,
    changed: Option<&Changed>,
) -> Result<Vec<TablePlan>, RebaseError> {
    let rules = Rules { take_schema: Some(Side::Remote), ..Rules::default() };
    let mut plan = plan(before, after, after, changed, &rules)?;
    plan.describe()?;
    Ok(plan.tables)
}

impl SchemaPlan<'_> {
    /// Does in the scratch copy what the local side did to the schema, as far as rows need it.
    pub(crate) fn carry_before_rows(
        &mut self,
        journal: &mut Journal<'_>,
    ) -> Result<(), RebaseError> {
        for lost in &self.lost {
            lost.tell(&self.trio, journal)?;
        }
        if self.carried > 0 || self.new_statistics() {
            let left = carry::tables(&self.trio, &self.fates, &self.changes, journal)?;
            (self.again, self.refused) = (left.again, left.refused);
            let onto = self.trio.onto.conn;
            carry::unique_indices(onto, &self.changes)?;
            carry::unique_indices(onto, &self.again)?;
        }
        self.describe()
    }

    /// Finds the full-text indices that merged rows have left behind.
    pub(crate) fn look_at_indices(&mut self, engine: &Engine<'_>) -> Result<(), RebaseError> {
        for index in self.outside.iter().filter(|index| index.listed) {
            if !self.rebuild.contains(&index.name) && index.differs(engine)? {
                self.rebuild.push(index.name.clone());
            }
        }
        Ok(())
    }

    /// The rest: indices, views, triggers, what virtual tables keep. `remote` is as it was.
    pub(crate) fn carry_after_rows(&mut self, remote: &Connection) -> Result<(), RebaseError> {
        if self.carried > 0 {
            self.carry_others()?;
        }
        self.build_indices(remote)?;
        if self.carried > 0 { self.compile() } else { Ok(()) }
    }

    fn build_indices(&self, remote: &Connection) -> Result<(), RebaseError> {
        let (local, onto) = (self.trio.local.conn, self.trio.onto.conn);
        for name in &self.rebuild {
            let outside = self.outside.iter().find(|index| index.name == *name);
            if outside.is_none_or(|index| index.has_content(onto)) {
                shadow::rebuild(onto, name)?;
            }
        }
        for index in self.outside.iter().filter(|index| !index.listed) {
            if !self.rebuild.contains(&index.name)
                && index.has_content(onto)
                && index.behind(local, remote, onto)?
            {
                shadow::rebuild(onto, &index.name)?;
            }
        }
        Ok(())
    }

    fn carry_others(&self) -> Result<(), RebaseError> {
        let onto = self.trio.onto.conn;
        carry::opened(onto, || {
            for fate in self.fates.iter().filter(|f| matches!(f.act, Act::Create | Act::Replace)) {
                let local = fate.local.as_deref().and_then(|n| self.trio.local.objects.table(n));
                if let Some(local) = local.filter(|o| o.module.is_some()) {
                    shadow::enter(onto, local)?;
                }
            }
            carry::bump(onto)
        })?;
        let take = self.rules.take_schema;
        // What was changed here is not made again as it was.
        let changed = |c: &&Change| {
            !self.changes.iter().any(|o| o.kind == c.kind && same_name(&o.name, &c.name))
        };
        let again: Vec<Change> = self.again.iter().filter(changed).cloned().collect();
        carry::others(onto, &self.changes, take)?;
        carry::others(onto, &again, take)
    }

    /// Every view and trigger that compiled on its own side has to compile now.
    fn compile(&self) -> Result<(), RebaseError> {
        let onto = self.trio.onto.conn;
        loop {
            let objects = Objects::read(onto)?;
            let (local, remote) = (&self.trio.local.objects, &self.trio.onto.objects);
            let here = compile::Of { objects: local, working: &self.working_here };
            let there = compile::Of { objects: remote, working: &self.working_there };
            let broken = compile::broken(onto, &objects, &here, &there, &self.changes)?;
            let Some((object, of)) = broken else {
                return Ok(());
            };
            if self.rules.take_schema.is_none_or(|taken| taken == of) {
                return Err(RebaseError::SchemaBroken {
                    kind: object.kind.name().into(),
                    name: object.name.clone(),
                    of,
                    why: compile::complaint(onto, &object),
                });
            }
            // It belongs to the schema that was not taken.
            let kind = object.kind.name();
            onto.execute(&format!("DROP {kind} main.{}", quoted(&object.name)), [])
                .map_err(RebaseError::work(format!("the {kind} {}", object.name)))?;
        }
    }

    /// Reads the result's tables and finds out how rows come into them.
    fn describe(&mut self) -> Result<(), RebaseError> {
        let now = State::read(self.trio.onto.conn)?;
        let mut tables = Vec::new();
        let mut rebuild = Vec::new();
        let mut from_here = Vec::new();
        let mut here = Here::new(self.pages);
        for fate in &self.fates {
            if fate.is_virtual {
                let planned = shadow::plan(&self.trio, &mut here, &now, fate, self.rules)?;
                if let (Some(local), Some(result)) = (&fate.local, &fate.result) {
                    if planned.overwrite {
                        shadow::overwrite(&self.trio, &now, local, result)?;
                    }
                    if planned.tables.iter().any(|t| t.how == How::Carry) {
                        from_here.push(result.clone());
                    }
                    if planned.rebuild {
                        rebuild.push(result.clone());
                    }
                }
                tables.extend(planned.tables);
            } else {
                tables.extend(self.table(&now, &mut here, fate)?);
            }
        }
        tables.extend(self.internal(&now)?);
        self.rebuild = rebuild;
        self.outside = outside::find(&self.trio, &now, &self.fates, &tables, &from_here);
        let made: Vec<&Table> = now.made().filter_map(|o| now.table(&o.name)).collect();
        self.foreign_keys = foreign_keys(now.conn, &made)?;
        self.parents_are_there(&now, &made)?;
        self.tables = ordered(tables, &self.foreign_keys);
        Ok(())
    }

    /// A foreign key whose parent was there on its own side, and is gone now, is broken.
    fn parents_are_there(&self, now: &State<'_>, made: &[&Table]) -> Result<(), RebaseError> {
        if self.carried == 0 {
            return Ok(());
        }
        for (child, parent) in dangling(now.conn, made)? {
            let fate = self.fates.iter().find(|f| f.result.as_deref() == Some(child.as_str()));
            let (of, own) = match fate.map(|f| f.from) {
                Some(Side::Local) => (Side::Local, &self.trio.local),
                _ => (Side::Remote, &self.trio.onto),
            };
            if own.objects.table(&parent).is_some()
                && self.rules.take_schema.is_none_or(|t| t == of)
            {
                return Err(RebaseError::SchemaBroken {
                    kind: "table".into(),
                    name: child,
                    of,
                    why: format!(
                        "it refers to the table {parent}, which the other side dropped or renamed"
                    ),
                });
            }
        }
        Ok(())
    }

    fn new_statistics(&self) -> bool {
        let stat = |state: &State<'_>| {
            state.objects.of_kind(ObjectKind::Table).any(|o| is_statistics(&o.name))
        };
        stat(&self.trio.local) && !stat(&self.trio.onto)
    }

    /// An ordinary table.
    fn table(
        &self,
        now: &State<'_>,
        here: &mut Here<'_>,
        fate: &Fate,
    ) -> Result<Option<TablePlan>, RebaseError> {
        let made_here = matches!(fate.act, Act::Create | Act::Replace);
        let (Some(local), Some(result)) = (&fate.local, &fate.result) else { return Ok(None) };
        if !fate.keyed && !made_here {
            return Ok(None);
        }
        let (Some(ours), Some(target)) = (self.trio.local.table(local), now.table(result)) else {
            return Ok(None);
        };
        let base = fate.base.as_deref().filter(|_| !made_here);
        let old = base.and_then(|base| self.trio.base.table(base));
        let onto = fate.onto.as_deref().filter(|_| !made_here);
        let theirs = onto.and_then(|name| self.trio.onto.table(name));
        let others: Vec<&Table> = [old, Some(ours), theirs].into_iter().flatten().collect();
        let key = target.key(&others).ok_or_else(|| RebaseError::Unmergeable {
            table: result.clone(),
            why: "columns have taken all names of its rowid".into(),
        })?;
        if let Err(error) = target.orders_by_key(now.conn) {
            // Nobody here can say what is one row. It does not matter if there is nothing to merge.
            return match old {
                Some(old) if self.unchanged(here, old, ours)? => Ok(None),
                _ => Err(error),
            };
        }
        let columns =
            target.stored().map(|c| self.column(&c.name, fate.from, base, ours, theirs)).collect();
        let by_pages = self.by_pages(base, local, ours, target);
        let root = |table: &Table| if by_pages { table.root } else { 0 };
        Ok(Some(TablePlan {
            base: old.map(|t| TableSide { name: t.name.clone(), root: root(t) }),
            local: TableSide { name: ours.name.clone(), root: root(ours) },
            remote: onto.map(str::to_owned),
            result: target.name.clone(),
            key,
            columns,
            without_rowid: target.without_rowid,
            how: How::Merge,
            shown_as: target.name.clone(),
        }))
    }

    fn unchanged(
        &self,
        here: &mut Here<'_>,
        old: &Table,
        ours: &Table,
    ) -> Result<bool, RebaseError> {
        let same_form = old.without_rowid == ours.without_rowid && old.key.len() == ours.key.len();
        if same_form && here.untouched(&self.trio, old, ours)? {
            return Ok(true);
        }
        let (base, local) = (self.trio.base.conn, self.trio.local.conn);
        same_rows((base, old), (local, ours), "1")
    }

    /// What the sides call a column of the result.
    fn column(
        &self,
        name: &str,
        from: Side,
        base: Option<&str>,
        ours: &Table,
        theirs: Option<&Table>,
    ) -> Column {
        let (own, other): (&Succession, &Succession) = match from {
            Side::Local => (&self.trio.here, &self.trio.there),
            Side::Remote => (&self.trio.there, &self.trio.here),
        };
        let before = base.and_then(|base| own.column_before(base, name));
        let elsewhere = match (base, before) {
            (Some(base), Some(before)) => other.column(base, before),
            // New on one side; the other may have made one of the same name.
            (Some(base), None) if other.column_before(base, name).is_some() => None,
            _ => Some(name),
        };
        let stored = |table: &Table, name: &str| {
            table.column(name).filter(|c| !c.generated && !c.hidden).map(|c| c.name.clone())
        };
        let (local, remote) = match from {
            Side::Local => (Some(name), elsewhere),
            Side::Remote => (elsewhere, Some(name)),
        };
        let old = base.and_then(|base| self.trio.base.table(base));
        Column {
            result: name.to_owned(),
            base: before.and_then(|before| old.and_then(|old| stored(old, before))),
            local: local.and_then(|n| stored(ours, n)),
            remote: remote.and_then(|n| theirs.and_then(|t| stored(t, n))),
        }
    }

    /// Whether pages of the base and of the local side tell which rows changed: rows are stored in
    /// one form in both, and found by the same key as in the result.
    fn by_pages(&self, base: Option<&str>, local: &str, ours: &Table, target: &Table) -> bool {
        let same_key = ours.without_rowid == target.without_rowid
            && ours.rowid_is_key == target.rowid_is_key
            && ours.key.len() == target.key.len();
        let Some(base) = base else { return same_key };
        let objects = (self.trio.base.objects.table(base), self.trio.local.objects.table(local));
        let (Some(before), Some(after)) = objects else { return false };
        let renames = self.trio.here.renames();
        same_key
            && (before.sql == after.sql || appended(text(before), text(after), renames).is_some())
    }

    /// Tables that SQLite keeps for itself, where the local side and the result have them.
    fn internal(&self, now: &State<'_>) -> Result<Vec<TablePlan>, RebaseError> {
        let mut plans = Vec::new();
        let internal = |o: &&Object| is_internal(&o.name) && o.module.is_none();
        for object in now.objects.of_kind(ObjectKind::Table).filter(internal) {
            let (Some(ours), Some(target)) =
                (self.trio.local.table(&object.name), now.table(&object.name))
            else {
                continue;
            };
            let old = self.trio.base.table(&object.name);
            let theirs = self.trio.onto.table(&object.name);
            let others: Vec<&Table> = [old, Some(ours), theirs].into_iter().flatten().collect();
            let Some(key) = target.key(&others) else { continue };
            let named = |table: Option<&Table>, name: &str| {
                table.and_then(|t| t.column(name)).map(|c| c.name.clone())
            };
            let columns = target
                .stored()
                .map(|c| Column {
                    result: c.name.clone(),
                    base: named(old, &c.name),
                    local: named(Some(ours), &c.name),
                    remote: named(theirs, &c.name),
                })
                .collect();
            plans.push(TablePlan {
                base: old.map(|t| TableSide { name: t.name.clone(), root: t.root }),
                local: TableSide { name: ours.name.clone(), root: ours.root },
                remote: theirs.map(|t| t.name.clone()),
                result: target.name.clone(),
                key,
                columns,
                without_rowid: target.without_rowid,
                how: if is_statistics(&target.name) { How::Statistics } else { How::Sequence },
                shown_as: target.name.clone(),
            });
        }
        Ok(plans)
    }
}

fn is_statistics(table: &str) -> bool {
    is_internal(table) && !same_name(table, "sqlite_sequence")
}

fn ordered(tables: Vec<TablePlan>, keys: &[ForeignKey]) -> Vec<TablePlan> {
    let names: Vec<&str> = tables.iter().map(|t| t.result.as_str()).collect();
    let order = parents_first(&names, keys);
    let mut tables: Vec<Option<TablePlan>> = tables.into_iter().map(Some).collect();
    order.into_iter().filter_map(|place| tables[place].take()).collect()
}

#[cfg(test)]
mod tests;
