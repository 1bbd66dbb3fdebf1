//! Whether views and triggers still mean something after the schemas were merged.

use std::collections::BTreeSet;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::columns::columns;
use crate::error::RebaseError;
use crate::objects::{Object, ObjectKind, Objects};
use crate::others::Change;
use crate::rules::Side;
use crate::sql::{quoted, same_name, tokens};

/// Views and triggers, by kind and name in lower case.
pub(crate) type Names = BTreeSet<(ObjectKind, String)>;

/// Those that SQLite can compile.
pub(crate) fn working(conn: &Connection, objects: &Objects) -> Result<Names, RebaseError> {
    let failed = || RebaseError::read("views and triggers");
    let mut found = Names::new();
    for view in objects.of_kind(ObjectKind::View) {
        if compiles(conn, &format!("SELECT * FROM main.{}", quoted(&view.name))) {
            found.insert(key(view));
        }
    }
    // Triggers are compiled only where they would fire; the statements here never run.
    let fired = conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER).map_err(failed())?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).map_err(failed())?;
    for trigger in objects.of_kind(ObjectKind::Trigger) {
        if firing(conn, trigger).is_some_and(|sql| compiles(conn, &sql)) {
            found.insert(key(trigger));
        }
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, fired).map_err(failed())?;
    Ok(found)
}

/// What one side has, and which of its views and triggers compiled there.
pub(crate) struct Of<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) working: &'a Names,
}

impl Of<'_> {
    /// Whether this side has the view or trigger, and had broken it already.
    fn broke(&self, object: &Object) -> bool {
        self.objects.find(object.kind, &object.name).is_some()
            && !self.working.contains(&key(object))
    }
}

/// The first view or trigger that compiled on its own side and does not now, unless it did not on the
/// other side either: whoever broke it there was not kept from it.
pub(crate) fn broken(
    now: &Connection,
    objects: &Objects,
    here: &Of<'_>,
    there: &Of<'_>,
    changes: &[Change],
) -> Result<Option<(Object, Side)>, RebaseError> {
    let working = working(now, objects)?;
    for object in &objects.all {
        let is_local = changes.iter().any(|c| {
            c.of == Side::Local && c.kind == object.kind && same_name(&c.name, &object.name)
        });
        let (of, own, other) =
            if is_local { (Side::Local, here, there) } else { (Side::Remote, there, here) };
        let worked = own.working.contains(&key(object)) && !other.broke(object);
        if worked && !working.contains(&key(object)) {
            return Ok(Some((object.clone(), of)));
        }
    }
    Ok(None)
}

fn key(object: &Object) -> (ObjectKind, String) {
    (object.kind, object.name.to_ascii_lowercase())
}

fn compiles(conn: &Connection, sql: &str) -> bool {
    conn.prepare(sql).is_ok()
}

/// A statement that fires the trigger.
fn firing(conn: &Connection, trigger: &Object) -> Option<String> {
    let table = quoted(&trigger.table);
    let all = tokens(trigger.sql.as_deref()?);
    // CREATE TRIGGER name, then the event; a name with a schema is no longer in it.
    let event = all.iter().skip(3).find(|t| t.is("INSERT") || t.is("DELETE") || t.is("UPDATE"))?;
    if event.is("INSERT") {
        return Some(format!("INSERT INTO main.{table} DEFAULT VALUES"));
    }
    if event.is("DELETE") {
        return Some(format!("DELETE FROM main.{table}"));
    }
    let sets: Vec<String> = columns(conn, &trigger.table)
        .ok()?
        .iter()
        .filter(|c| !c.generated && !c.hidden)
        .map(|c| format!("{0} = {0}", quoted(&c.name)))
        .collect();
    Some(format!("UPDATE main.{table} SET {}", sets.join(", ")))
}

/// What SQLite says against a view or trigger.
pub(crate) fn complaint(conn: &Connection, object: &Object) -> String {
    let said = match object.kind {
        ObjectKind::View => {
            conn.prepare(&format!("SELECT * FROM main.{}", quoted(&object.name))).err()
        }
        _ => None,
    };
    said.map_or_else(|| "it refers to what the other side changed".into(), |e| e.to_string())
}
