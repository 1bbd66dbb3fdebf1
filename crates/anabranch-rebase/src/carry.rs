//! Does in the scratch copy what the local side did to the schema.
//!
//! SQLite's own `ALTER TABLE` renames, so that what only the remote has follows; declarations that
//! it leaves otherwise than the local side has them get the local text. Rows are not read, but for
//! tables that are made anew.

use rusqlite::{Connection, ErrorCode};

use crate::columns::columns;
use crate::declared::{Renames, same_statement};
use crate::error::{RebaseError, code, message};
use crate::fate::{Act, Fate, Trio, text};
use crate::objects::{Object, ObjectKind, Objects, is_internal};
use crate::others::Change;
use crate::rebuild::{free_name, rebuild};
use crate::rules::Side;
use crate::schema::Journal;
use crate::shadow;
use crate::sql::{quoted, same_name};
use crate::strings;

/// Lets `change` write texts of the schema.
pub(crate) fn opened<T>(
    onto: &Connection,
    change: impl FnOnce() -> Result<T, RebaseError>,
) -> Result<T, RebaseError> {
    let set = |sql: &str| onto.execute_batch(sql).map_err(RebaseError::work("the schema"));
    set("PRAGMA writable_schema = ON")?;
    let done = change();
    // Also forgets the schema as it was read before texts in it were changed.
    set("PRAGMA writable_schema = RESET")?;
    done
}

/// Runs an `ALTER TABLE`. SQLite refuses one where it does not understand something else in the
/// schema: a view on a table that is gone, a function of the application. It was done here in spite
/// of that, so it is done again, with the texts left alone that are not understood. `indices`: what
/// some say afterwards, by their names.
fn alter(onto: &Connection, sql: &str, indices: &[(String, String)]) -> rusqlite::Result<()> {
    let Err(error) = onto.execute(sql, []) else { return Ok(()) };
    // What is meant is said by the text alone.
    if !error.to_string().starts_with("error in ") {
        return Err(error);
    }
    onto.execute_batch("PRAGMA writable_schema = ON")?;
    let write = "UPDATE main.sqlite_schema SET sql = ?2 WHERE type = 'index' AND name = ?1";
    let done = onto.execute(sql, []).and_then(|_| {
        indices.iter().try_for_each(|index| onto.execute(write, (&index.0, &index.1)).map(drop))
    });
    onto.execute_batch("PRAGMA writable_schema = RESET")?;
    done
}

/// What SQLite says against an object of one side is a matter of the schema; anything else is not.
pub(crate) fn broken(
    kind: ObjectKind,
    name: &str,
    of: Side,
) -> impl FnOnce(rusqlite::Error) -> RebaseError {
    let name = name.to_owned();
    move |error| match code(&error) {
        Some(ErrorCode::Unknown | ErrorCode::ConstraintViolation) => {
            match RebaseError::work(format!("the {} {name}", kind.name()))(error) {
                RebaseError::Work { source, .. } => RebaseError::SchemaBroken {
                    kind: kind.name().into(),
                    name,
                    of,
                    why: message(&source),
                },
                other => other,
            }
        }
        _ => RebaseError::work(format!("the {} {name}", kind.name()))(error),
    }
}

/// What is left to do after tables were made anew.
#[derive(Debug, Default)]
pub(crate) struct Anew {
    /// What went along with them, and has to be made again.
    pub(crate) again: Vec<Change>,
    /// The tables that have refused rows of the remote's.
    pub(crate) refused: Vec<String>,
}

/// Tables; indices, views and triggers that go.
pub(crate) fn tables(
    trio: &Trio<'_>,
    fates: &[Fate],
    changes: &[Change],
    journal: &mut Journal<'_>,
) -> Result<Anew, RebaseError> {
    let onto = trio.onto.conn;
    for change in changes {
        drop_other(onto, change)?;
    }
    for fate in fates.iter().filter(|f| matches!(f.act, Act::Drop | Act::Replace)) {
        drop_table(trio, fate)?;
    }
    rename_tables(trio, fates)?;
    for fate in fates {
        rename_columns(onto, fate)?;
    }
    let mut left = Anew::default();
    for fate in fates {
        make(trio, fate, &mut left, journal)?;
    }
    opened(onto, || {
        texts(trio, fates)?;
        statistics(trio)?;
        bump(onto)
    })?;
    Ok(left)
}

/// Other connections have to see that the schema changed also where only its text did.
pub(crate) fn bump(onto: &Connection) -> Result<(), RebaseError> {
    let bump = || -> rusqlite::Result<()> {
        let version: i32 = onto.query_row("PRAGMA main.schema_version", [], |row| row.get(0))?;
        onto.execute_batch(&format!("PRAGMA main.schema_version = {}", version.wrapping_add(1)))
    };
    bump().map_err(RebaseError::work("the schema"))
}

fn drop_other(onto: &Connection, change: &Change) -> Result<(), RebaseError> {
    let kind = change.kind.name();
    onto.execute(&format!("DROP {kind} IF EXISTS main.{}", quoted(&change.name)), [])
        .map(drop)
        .map_err(RebaseError::work(format!("the {kind} {}", change.name)))
}

fn drop_table(trio: &Trio<'_>, fate: &Fate) -> Result<(), RebaseError> {
    let Some(name) = &fate.onto else { return Ok(()) };
    let onto = trio.onto.conn;
    match trio.onto.objects.table(name) {
        Some(object) if object.module.is_some() => shadow::drop_virtual(&trio.onto, object),
        _ => onto
            .execute(&format!("DROP TABLE main.{}", quoted(name)), [])
            .map(drop)
            .map_err(RebaseError::work(format!("table {name}"))),
    }
}

/// Tables that get the local side's names. Where names go round in a circle, one steps aside.
fn rename_tables(trio: &Trio<'_>, fates: &[Fate]) -> Result<(), RebaseError> {
    let onto = trio.onto.conn;
    let mut left: Vec<(String, String)> = fates
        .iter()
        .filter(|f| matches!(f.act, Act::Alter { .. } | Act::Rebuild))
        .filter_map(|f| Some((f.onto.clone()?, f.result.clone()?)))
        .filter(|(from, to)| from != to)
        .collect();
    while !left.is_empty() {
        let taken = |name: &str| left.iter().any(|(from, _)| same_name(from, name));
        match left.iter().position(|(_, to)| !taken(to)) {
            Some(free) => {
                let (from, to) = left.swap_remove(free);
                rename_table(trio, &from, &to)?;
            }
            None => {
                let aside = free_name(onto).map_err(RebaseError::work("a name for a table"))?;
                rename_table(trio, &left[0].0, &aside)?;
                left[0].0 = aside;
            }
        }
    }
    Ok(())
}

fn rename_table(trio: &Trio<'_>, from: &str, to: &str) -> Result<(), RebaseError> {
    let sql = format!("ALTER TABLE main.{} RENAME TO {}", quoted(from), quoted(to));
    let Err(error) = alter(trio.onto.conn, &sql, &[]) else { return Ok(()) };
    let local = trio.local.objects.table(to).filter(|o| o.module.is_some());
    match (broken(ObjectKind::Table, to, Side::Local)(error), local) {
        (RebaseError::Unknown { kind: "module", .. }, Some(local)) => {
            shadow::rename_virtual(&trio.onto, from, to, text(local))
        }
        (error, _) => Err(error),
    }
}

fn rename_columns(onto: &Connection, fate: &Fate) -> Result<(), RebaseError> {
    let (Act::Alter { .. } | Act::Rebuild, Some(table)) = (&fate.act, &fate.result) else {
        return Ok(());
    };
    if fate.columns.is_empty() {
        return Ok(());
    }
    let rename = |from: &str, to: &str| {
        let sql = format!(
            "ALTER TABLE main.{} RENAME COLUMN {} TO {}",
            quoted(table),
            quoted(from),
            quoted(to)
        );
        let indices = strings::after_rename(onto, table, from, to)?;
        alter(onto, &sql, &indices).map_err(broken(ObjectKind::Table, table, Side::Local))
    };
    let mut left = fate.columns.clone();
    let mut aside = 0_u32;
    // A column that only the remote has may have a name that one of both gets. It goes with the
    // remote's declaration.
    let now = columns(onto, table).map_err(RebaseError::read(format!("table {table}")))?;
    let mut stand_aside = || loop {
        aside += 1;
        let name = format!("anabranch_aside_{aside}");
        if now.iter().all(|c| !same_name(&c.name, &name)) {
            return name;
        }
    };
    for column in &now {
        let is = |name: &str| same_name(name, &column.name);
        if left.iter().any(|(_, to)| is(to)) && !left.iter().any(|(from, _)| is(from)) {
            rename(&column.name, &stand_aside())?;
        }
    }
    while !left.is_empty() {
        let taken = |name: &str| left.iter().any(|(from, _)| same_name(from, name));
        // Another spelling of its own name is no obstacle.
        match left.iter().position(|(from, to)| same_name(from, to) || !taken(to)) {
            Some(free) => {
                let (from, to) = left.swap_remove(free);
                rename(&from, &to)?;
            }
            None => {
                let name = stand_aside();
                rename(&left[0].0, &name)?;
                left[0].0 = name;
            }
        }
    }
    Ok(())
}

/// Tables that are made or altered.
fn make(
    trio: &Trio<'_>,
    fate: &Fate,
    left: &mut Anew,
    journal: &mut Journal<'_>,
) -> Result<(), RebaseError> {
    let onto = trio.onto.conn;
    let local = fate.local.as_deref().and_then(|name| trio.local.objects.table(name));
    let Some(local) = local else { return Ok(()) };
    match &fate.act {
        Act::Keep | Act::Drop => Ok(()),
        Act::Create | Act::Replace if local.module.is_some() => {
            shadow::make_shadows(trio, local)?;
            Ok(())
        }
        Act::Create | Act::Replace => {
            onto.execute(text(local), []).map_err(broken(
                ObjectKind::Table,
                &local.name,
                Side::Local,
            ))?;
            Ok(())
        }
        Act::Alter { appended } => {
            let fits = appended.iter().try_for_each(|column| {
                let sql = format!("ALTER TABLE main.{} ADD COLUMN {column}", quoted(&local.name));
                alter(onto, &sql, &[])
            });
            match fits {
                Ok(()) => Ok(()),
                // What SQLite cannot append (a default that is no constant, a check that rows
                // violate) was made here by other means.
                Err(error) if code(&error) == Some(ErrorCode::Unknown) => {
                    anew(trio, fate, local, left, journal)
                }
                Err(error) if code(&error) == Some(ErrorCode::ConstraintViolation) => {
                    anew(trio, fate, local, left, journal)
                }
                Err(error) => Err(RebaseError::work(format!("table {}", local.name))(error)),
            }
        }
        Act::Rebuild => anew(trio, fate, local, left, journal),
    }
}

/// Makes a table anew. Its indices and triggers go, to be made again.
fn anew(
    trio: &Trio<'_>,
    fate: &Fate,
    local: &Object,
    left: &mut Anew,
    journal: &mut Journal<'_>,
) -> Result<(), RebaseError> {
    let onto = trio.onto.conn;
    let now =
        columns(onto, &local.name).map_err(RebaseError::read(format!("table {}", local.name)))?;
    for object in Objects::read(onto)?.all {
        let belongs = matches!(object.kind, ObjectKind::Index | ObjectKind::Trigger)
            && same_name(&object.table, &local.name)
            && object.sql.is_some();
        if belongs {
            let change = Change {
                kind: object.kind,
                texts: object.kind == ObjectKind::Index && strings::in_index(text(&object), &now),
                name: object.name,
                sql: object.sql,
                of: Side::Remote,
            };
            drop_other(onto, &change)?;
            left.again.push(change);
        }
    }
    if rebuild(trio, fate, local, text(local), journal)? {
        left.refused.push(local.name.clone());
    }
    Ok(())
}

/// Gives declarations the local text where `ALTER TABLE` left another, and the remote had that of the
/// base: it may quote in another way, and follow a name that was left alone here.
fn texts(trio: &Trio<'_>, fates: &[Fate]) -> Result<(), RebaseError> {
    let now = Objects::read(trio.onto.conn)?;
    let taken = |local: &Object| {
        let altered = |f: &&Fate| matches!(f.act, Act::Alter { .. } | Act::Rebuild);
        let fate = fates.iter().filter(altered).find(|f| f.local.as_ref() == Some(&local.name));
        local.kind == ObjectKind::Table && fate.is_some()
    };
    let renames = carried_names(trio, fates);
    let of_base = |local: &Object| {
        let find = |objects: &'_ Objects| objects.find(local.kind, &local.name).cloned();
        let (base, onto) = (find(&trio.base.objects), find(&trio.onto.objects));
        base.zip(onto).is_some_and(|(base, onto)| {
            base.sql == onto.sql && same_statement(text(&base), text(local), &renames)
        })
    };
    for local in trio.local.objects.all.iter().filter(|o| o.sql.is_some()) {
        let Some(there) = now.find(local.kind, &local.name) else { continue };
        let differs = there.sql != local.sql && same_name(&there.table, &local.table);
        if !differs || !(taken(local) || of_base(local)) {
            continue;
        }
        let sql =
            "UPDATE main.sqlite_schema SET sql = ?3 WHERE type = ?1 AND name = ?2 COLLATE NOCASE";
        trio.onto
            .conn
            .execute(sql, (local.kind.name(), &local.name, &local.sql))
            .map_err(RebaseError::work(format!("the {} {}", local.kind.name(), local.name)))?;
    }
    Ok(())
}

/// The names that changed here and that tables of the result have. Where the remote's declaration
/// stands, what refers to the table by the name from here would refer to nothing.
fn carried_names(trio: &Trio<'_>, fates: &[Fate]) -> Renames {
    let mut renames = Renames::default();
    for fate in fates.iter().filter(|f| f.from == Side::Local) {
        let (Some(base), Some(local)) = (&fate.base, &fate.local) else { continue };
        renames.add(base, local);
        renames.pairs.extend(trio.here.renamed_columns(base).pairs);
    }
    renames
}

/// The tables in which `ANALYZE` here put its statistics.
fn statistics(trio: &Trio<'_>) -> Result<(), RebaseError> {
    let now = Objects::read(trio.onto.conn)?;
    for local in trio.local.objects.of_kind(ObjectKind::Table).filter(|o| is_internal(&o.name)) {
        let missing = now.table(&local.name).is_none()
            && trio.base.objects.table(&local.name).is_none()
            && !same_name(&local.name, "sqlite_sequence");
        if missing {
            trio.onto
                .conn
                .execute(text(local), [])
                .map_err(RebaseError::work(format!("table {}", local.name)))?;
        }
    }
    Ok(())
}

/// Makes unique indices as far as the rows allow it now, so that merging rows meets them.
pub(crate) fn unique_indices(onto: &Connection, changes: &[Change]) -> Result<(), RebaseError> {
    for change in changes.iter().filter(|c| c.kind == ObjectKind::Index) {
        let Some(sql) = &change.sql else { continue };
        if !crate::sql::tokens(sql).get(1).is_some_and(|t| t.is("UNIQUE")) {
            continue;
        }
        match strings::make_index(onto, sql, change.texts) {
            Ok(()) => {}
            // After the rows it is made again, and then it counts.
            Err(error)
                if matches!(
                    code(&error),
                    Some(ErrorCode::ConstraintViolation | ErrorCode::Unknown)
                ) => {}
            Err(error) => {
                return Err(RebaseError::work(format!("the index {}", change.name))(error));
            }
        }
    }
    Ok(())
}

/// Makes indices, views and triggers that are not there yet. With the remote's schema taken, a local
/// one that does not fit is left out.
pub(crate) fn others(
    onto: &Connection,
    changes: &[Change],
    take: Option<Side>,
) -> Result<(), RebaseError> {
    for kind in [ObjectKind::Index, ObjectKind::View, ObjectKind::Trigger] {
        for change in changes.iter().filter(|c| c.kind == kind) {
            let Some(sql) = &change.sql else { continue };
            if Objects::read(onto)?.find(kind, &change.name).is_some() {
                continue;
            }
            let made = match kind {
                ObjectKind::Index => strings::make_index(onto, sql, change.texts),
                _ => onto.execute(sql, []).map(drop),
            };
            match made.map_err(broken(kind, &change.name, change.of)) {
                Ok(()) => {}
                Err(RebaseError::SchemaBroken { of, .. }) if take.is_some_and(|t| t != of) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
