//! Virtual tables. Their rows stand in ordinary tables, their *shadows*, whose content fits together
//! only as a whole: shadows are never merged row by row.
//!
//! | the virtual table | changed here only | changed on both sides |
//! |---|---|---|
//! | FTS5, FTS3, FTS4 with rows of its own | shadows as here | its rows are merged, and written through its module |
//! | FTS5, FTS4 over another table | shadows as here | built anew once that table is merged |
//! | R-tree | shadows as here | its rows are merged, and written through its module |
//! | FTS without content, other modules | shadows as here | an error, unless one side is taken |
//!
//! "Shadows as here" needs no module: they are tables like others.

use rusqlite::Connection;

use crate::carry::{broken, opened};
use crate::columns::{Table, columns};
use crate::error::RebaseError;
use crate::fate::{Act, Fate, Trio, text};
use crate::here::Here;
use crate::modules::{Content, content};
use crate::objects::{Object, ObjectKind};
use crate::plan::{Column, How, Key, TablePlan, TableSide};
use crate::rows_of::same_rows;
use crate::rules::{Rules, Side};
use crate::sql::{quoted, same_name};
use crate::state::State;
use crate::values::Raw;

/// What a virtual table needs.
#[derive(Debug, Default)]
pub(crate) struct Virtual {
    pub(crate) tables: Vec<TablePlan>,
    /// To be built anew once rows are merged.
    pub(crate) rebuild: bool,
    /// The local shadows replace the remote's.
    pub(crate) overwrite: bool,
}

/// The shadow tables of a virtual table: what follows its name, and the table.
fn shadows<'s>(state: &'s State<'_>, owner: &str) -> Vec<(&'s str, &'s Table)> {
    state
        .objects
        .of_kind(ObjectKind::Table)
        .filter(|o| o.module.is_none())
        .filter(|o| {
            state
                .objects
                .owner_of_shadow(&o.name)
                .is_some_and(|found| same_name(&found.name, owner))
        })
        .filter_map(|o| Some((o.name.get(owner.len()..)?, state.table(&o.name)?)))
        .collect()
}

/// Whether a virtual table holds the same in two states.
pub(crate) fn same(
    a: &State<'_>,
    name_a: &str,
    b: &State<'_>,
    name_b: &str,
) -> Result<bool, RebaseError> {
    let (ours, theirs) = (shadows(a, name_a), shadows(b, name_b));
    if ours.len() != theirs.len() {
        return Ok(false);
    }
    // Each write to FTS5 changes the structure of its index (10) or the sums over it (1), so these
    // mostly tell; but an index that was built anew has them as one that was just begun.
    let fts5 = a
        .objects
        .table(name_a)
        .and_then(|o| o.module.as_deref())
        .is_some_and(|m| same_name(m, "fts5"));
    for condition in ["id IN (1, 10)", "1"].into_iter().skip(usize::from(!fts5)) {
        for (suffix, table) in &ours {
            let Some((_, other)) = theirs.iter().find(|(s, _)| same_name(s, suffix)) else {
                return Ok(false);
            };
            let looked_at = condition == "1" || same_name(suffix, "_data");
            if looked_at && !same_rows((a.conn, table), (b.conn, other), condition)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether virtual tables changed here. Pages tell it without reading all of them.
fn same_here(
    trio: &Trio<'_>,
    here: &mut Here<'_>,
    base: &str,
    local: &str,
) -> Result<bool, RebaseError> {
    let (before, after) = (shadows(&trio.base, base), shadows(&trio.local, local));
    let mut untouched = before.len() == after.len();
    for (suffix, table) in after {
        let old = before.iter().find(|(s, _)| same_name(s, suffix));
        untouched = untouched && old.is_some_and(|(_, old)| same_form(old, table));
        if let (true, Some((_, old))) = (untouched, old) {
            untouched = here.untouched(trio, old, table)?;
        }
    }
    Ok(untouched || same(&trio.base, base, &trio.local, local)?)
}

fn same_form(old: &Table, table: &Table) -> bool {
    old.without_rowid == table.without_rowid && old.key.len() == table.key.len()
}

/// Drops a virtual table, without its module if that is not there.
pub(crate) fn drop_virtual(state: &State<'_>, object: &Object) -> Result<(), RebaseError> {
    let failed = || RebaseError::work(format!("the virtual table {}", object.name));
    let sql = format!("DROP TABLE main.{}", quoted(&object.name));
    if state.conn.execute(&sql, []).is_ok() {
        return Ok(());
    }
    for (_, table) in shadows(state, &object.name) {
        let sql = format!("DROP TABLE IF EXISTS main.{}", quoted(&table.name));
        state.conn.execute(&sql, []).map_err(failed())?;
    }
    let sql = "DELETE FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 AND rootpage = 0";
    opened(state.conn, || state.conn.execute(sql, [&object.name]).map(drop).map_err(failed()))
}

/// Renames a virtual table whose module is not there.
pub(crate) fn rename_virtual(
    state: &State<'_>,
    from: &str,
    to: &str,
    sql: &str,
) -> Result<(), RebaseError> {
    let rename = || -> rusqlite::Result<()> {
        for (suffix, table) in shadows(state, from) {
            let to = quoted(&format!("{to}{suffix}"));
            let sql = format!("ALTER TABLE main.{} RENAME TO {to}", quoted(&table.name));
            state.conn.execute(&sql, [])?;
        }
        Ok(())
    };
    let failed = || RebaseError::work(format!("the virtual table {to}"));
    rename().map_err(failed())?;
    let update = "UPDATE main.sqlite_schema SET name = ?2, tbl_name = ?2, sql = ?3
                  WHERE type = 'table' AND name = ?1 AND rootpage = 0";
    opened(state.conn, || state.conn.execute(update, (from, to, sql)).map(drop).map_err(failed()))
}

/// Makes the shadow tables of a virtual table of the local side, empty.
pub(crate) fn make_shadows(trio: &Trio<'_>, owner: &Object) -> Result<(), RebaseError> {
    for (_, table) in shadows(&trio.local, &owner.name) {
        let Some(object) = trio.local.objects.table(&table.name) else { continue };
        trio.onto.conn.execute(text(object), []).map_err(broken(
            ObjectKind::Table,
            &table.name,
            Side::Local,
        ))?;
    }
    Ok(())
}

/// Enters a virtual table, whose shadows are there, into the schema.
pub(crate) fn enter(onto: &Connection, owner: &Object) -> Result<(), RebaseError> {
    let sql = "INSERT INTO main.sqlite_schema(type, name, tbl_name, rootpage, sql)
               SELECT 'table', ?1, ?1, 0, ?2 WHERE NOT EXISTS
                   (SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE)";
    let entered = onto
        .execute(sql, (&owner.name, &owner.sql))
        .map_err(RebaseError::work(format!("the virtual table {}", owner.name)))?;
    if entered == 1 {
        return Ok(());
    }
    Err(RebaseError::SchemaBroken {
        kind: "table".into(),
        name: owner.name.clone(),
        of: Side::Local,
        why: "the remote has something else of that name".into(),
    })
}

/// What is to be done with what a virtual table holds. `now` is the scratch copy after tables were
/// carried.
pub(crate) fn plan(
    trio: &Trio<'_>,
    here: &mut Here<'_>,
    now: &State<'_>,
    fate: &Fate,
    rules: &Rules,
) -> Result<Virtual, RebaseError> {
    let (Some(local), Some(result)) = (&fate.local, &fate.result) else {
        return Ok(Virtual::default());
    };
    if matches!(fate.act, Act::Create | Act::Replace) {
        let tables = carried(trio, now, None, local, result)?;
        return Ok(Virtual { tables, ..Virtual::default() });
    }
    if !fate.keyed {
        return Ok(Virtual::default());
    }
    let Some(base) = &fate.base else { return made_twice(trio, now, local, result, rules) };
    if fate.onto.is_none() {
        return Ok(Virtual::default());
    }
    let content = content(now, result);
    let rows = matches!(content, Content::Rows { .. });
    // Rows of its own are compared one by one in any case.
    if !rows && same_here(trio, here, base, local)? {
        return Ok(Virtual::default());
    }
    // Its rows are still as at the remote, be its name as it may.
    if same(&trio.base, base, now, result)? {
        let tables = carried(trio, now, Some(base), local, result)?;
        return Ok(Virtual { tables, ..Virtual::default() });
    }
    both_changed(trio, now, Some(base), local, result, content, rules)
}

/// A virtual table that both sides made, alike.
fn made_twice(
    trio: &Trio<'_>,
    now: &State<'_>,
    local: &str,
    result: &str,
    rules: &Rules,
) -> Result<Virtual, RebaseError> {
    if same(&trio.local, local, now, result)? {
        return Ok(Virtual::default());
    }
    both_changed(trio, now, None, local, result, content(now, result), rules)
}

fn both_changed(
    trio: &Trio<'_>,
    now: &State<'_>,
    base: Option<&str>,
    local: &str,
    result: &str,
    content: Content,
    rules: &Rules,
) -> Result<Virtual, RebaseError> {
    let rebuild = Virtual { rebuild: true, ..Virtual::default() };
    match content {
        Content::Rows { shadow } => merged(trio, now, base, local, result, shadow),
        Content::ByModule => by_module(trio, now, base, local, result),
        Content::Elsewhere => Ok(rebuild),
        Content::Opaque(why) => match rules.take_schema {
            Some(Side::Local) => Ok(Virtual { overwrite: true, ..Virtual::default() }),
            Some(Side::Remote) => Ok(Virtual::default()),
            None => Err(RebaseError::Unmergeable { table: result.to_owned(), why }),
        },
    }
}

/// The shadows as tables whose rows come from here, exactly.
fn carried(
    trio: &Trio<'_>,
    now: &State<'_>,
    base: Option<&str>,
    local: &str,
    result: &str,
) -> Result<Vec<TablePlan>, RebaseError> {
    let before = base.map(|base| shadows(&trio.base, base)).unwrap_or_default();
    let mut plans = Vec::new();
    for (suffix, ours) in shadows(&trio.local, local) {
        let name = format!("{result}{suffix}");
        let Some(target) = now.table(&name) else { continue };
        let old = before.iter().find(|(s, _)| same_name(s, suffix)).map(|(_, table)| *table);
        let sides: Vec<&Table> = old.into_iter().chain([ours]).collect();
        let key = target.key(&sides).ok_or_else(|| RebaseError::Unmergeable {
            table: result.to_owned(),
            why: format!("columns of {name} have taken all names of its rowid"),
        })?;
        let columns = target
            .stored()
            .map(|c| Column {
                result: c.name.clone(),
                base: old.and_then(|t| t.column(&c.name)).map(|c| c.name.clone()),
                local: ours.column(&c.name).map(|c| c.name.clone()),
                remote: old.map(|_| c.name.clone()),
            })
            .collect();
        plans.push(TablePlan {
            base: old.map(|t| TableSide { name: t.name.clone(), root: t.root }),
            local: TableSide { name: ours.name.clone(), root: ours.root },
            remote: remote_name(trio, old.is_some(), base, suffix),
            result: target.name.clone(),
            key,
            columns,
            without_rowid: target.without_rowid,
            how: How::Carry,
            shown_as: result.to_owned(),
        });
    }
    Ok(plans)
}

fn remote_name(trio: &Trio<'_>, there: bool, base: Option<&str>, suffix: &str) -> Option<String> {
    let owner = trio.there.table(base.filter(|_| there)?)?;
    Some(format!("{owner}{suffix}"))
}

/// The rows of a full-text index, read from its content and written through its module.
fn merged(
    trio: &Trio<'_>,
    now: &State<'_>,
    base: Option<&str>,
    local: &str,
    result: &str,
    shadow: &str,
) -> Result<Virtual, RebaseError> {
    let of = |state: &'_ State<'_>, owner: &str| state.table(&format!("{owner}{shadow}")).cloned();
    let (Some(ours), Some(target)) = (of(&trio.local, local), of(now, result)) else {
        return Ok(Virtual::default());
    };
    let old = base.and_then(|base| of(&trio.base, base));
    let names = columns(now.conn, result).map_err(RebaseError::read(format!("table {result}")))?;
    let names: Vec<&str> = names.iter().filter(|c| !c.hidden).map(|c| c.name.as_str()).collect();
    let stored: Vec<&str> = target.stored().map(|c| c.name.as_str()).collect();
    let whole = stored.len() == names.len() + 1;
    // With more in its content than its columns (languages), that content is merged, and the index
    // follows from it.
    let written: Vec<&str> =
        if whole { std::iter::once("rowid").chain(names).collect() } else { stored.clone() };
    let named = |table: Option<&Table>, name: &str| {
        table.and_then(|t| t.column(name)).map(|c| c.name.clone())
    };
    let columns = stored
        .iter()
        .zip(&written)
        .map(|(stored, written)| Column {
            result: (*written).to_owned(),
            base: named(old.as_ref(), stored),
            local: named(Some(&ours), stored),
            remote: Some((*stored).to_owned()),
        })
        .collect();
    let key = written
        .first()
        .map(|&column| Key::RowidColumn { column: column.to_owned(), autoincrement: false });
    let Some(key) = key else { return Ok(Virtual::default()) };
    let remote = base.map_or(Some(result), |base| trio.there.table(base));
    let table = TablePlan {
        base: old.map(|t| TableSide { name: t.name, root: t.root }),
        local: TableSide { name: ours.name.clone(), root: ours.root },
        remote: remote.map(|owner| format!("{owner}{shadow}")),
        result: if whole { result.to_owned() } else { target.name.clone() },
        key,
        columns,
        without_rowid: false,
        how: How::Merge,
        shown_as: result.to_owned(),
    };
    Ok(Virtual { tables: vec![table], rebuild: !whole, overwrite: false })
}

/// A virtual table that is read and written through its module on all sides.
fn by_module(
    trio: &Trio<'_>,
    now: &State<'_>,
    base: Option<&str>,
    local: &str,
    result: &str,
) -> Result<Virtual, RebaseError> {
    let names = columns(now.conn, result).map_err(RebaseError::read(format!("table {result}")))?;
    let names: Vec<String> = names.into_iter().filter(|c| !c.hidden).map(|c| c.name).collect();
    let Some(column) = names.first().cloned() else { return Ok(Virtual::default()) };
    let columns = names
        .into_iter()
        .map(|name| Column {
            base: base.map(|_| name.clone()),
            local: Some(name.clone()),
            remote: Some(name.clone()),
            result: name,
        })
        .collect();
    let remote = base.map_or(Some(result), |base| trio.there.table(base));
    let table = TablePlan {
        base: base.map(|base| TableSide { name: base.to_owned(), root: 0 }),
        local: TableSide { name: local.to_owned(), root: 0 },
        remote: remote.map(str::to_owned),
        result: result.to_owned(),
        key: Key::RowidColumn { column, autoincrement: false },
        columns,
        without_rowid: false,
        how: How::Merge,
        shown_as: result.to_owned(),
    };
    Ok(Virtual { tables: vec![table], ..Virtual::default() })
}

/// Builds the index anew from the rows.
pub(crate) fn rebuild(onto: &Connection, name: &str) -> Result<(), RebaseError> {
    let name = quoted(name);
    onto.execute(&format!("INSERT INTO main.{name}({name}) VALUES ('rebuild')"), [])
        .map(drop)
        .map_err(RebaseError::work(format!("the index of the virtual table {name}")))
}

/// Puts the local shadows in the place of the remote's.
pub(crate) fn overwrite(
    trio: &Trio<'_>,
    now: &State<'_>,
    local: &str,
    result: &str,
) -> Result<(), RebaseError> {
    for (suffix, ours) in shadows(&trio.local, local) {
        let name = format!("{result}{suffix}");
        let Some(target) = now.table(&name) else { continue };
        let columns: Vec<String> = ours
            .key(&[target])
            .and_then(|key| match key {
                Key::Rowid { alias } => Some(alias.to_owned()),
                _ => None,
            })
            .into_iter()
            .chain(ours.stored().map(|c| c.name.clone()))
            .collect();
        copy(trio.local.conn, &ours.name, now.conn, &name, &columns)
            .map_err(RebaseError::work(format!("table {name}")))?;
    }
    Ok(())
}

fn copy(
    from: &Connection,
    source: &str,
    to: &Connection,
    target: &str,
    columns: &[String],
) -> rusqlite::Result<()> {
    let list = columns.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", ");
    to.execute_batch("SAVEPOINT anabranch_overwrite")?;
    to.execute(&format!("DELETE FROM main.{}", quoted(target)), [])?;
    let mut read = from.prepare(&format!("SELECT {list} FROM main.{}", quoted(source)))?;
    let mut write = to.prepare(&format!(
        "INSERT INTO main.{} ({list}) VALUES ({})",
        quoted(target),
        vec!["?"; columns.len()].join(", ")
    ))?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let values: rusqlite::Result<Vec<_>> =
            (0..columns.len()).map(|at| row.get_ref(at).map(Raw)).collect();
        write.execute(rusqlite::params_from_iter(values?))?;
    }
    to.execute_batch("RELEASE anabranch_overwrite")
}
