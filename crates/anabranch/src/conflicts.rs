//! What is done about conflicts, and what was: settings, the journal, and taking the other side of
//! a conflict after all.

use std::time::Duration;

use anabranch_rebase::{Conflict, Decision, Row, Side, Value};
use rusqlite::config::DbConfig;
use rusqlite::types::ToSql;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params_from_iter};

use crate::entropy;
use crate::error::Error;
use crate::journal::{ConflictEntry, ConflictFilter};
use crate::pull;
use crate::replica::{Replica, blocking};
use crate::rows::quoted;
use crate::session::Session;
use crate::settings::{self, Key};

/// A setting of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key, as it is kept.
    pub key: String,
    /// Its value; what holds in its place, if it was not made.
    pub value: String,
    /// Somebody made it.
    pub made: bool,
}

/// What became of a conflict that somebody resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolution {
    /// The conflict.
    pub id: i64,
    /// Its table.
    pub table: String,
    /// What was taken.
    pub take: Side,
    /// The row that stood there until then, if there was one.
    pub replaced: Option<Row>,
    /// What stands there now.
    pub now: Option<Row>,
}

impl Replica {
    /// The settings that were made.
    pub async fn settings(&self) -> Result<Vec<Setting>, Error> {
        let (file, options) = (self.file().to_owned(), self.options().clone());
        blocking(move || {
            let all = Session::glance(&file, &options)?.sidecar.settings()?;
            let made = |(key, value)| Setting { key, value, made: true };
            Ok(all.into_iter().map(made).collect())
        })
        .await
    }

    /// One setting: `conflict`, `conflict.TABLE` or `conflict.TABLE.insert`.
    pub async fn setting(&self, key: &str) -> Result<Setting, Error> {
        let key: Key = key.parse()?;
        let (file, options) = (self.file().to_owned(), self.options().clone());
        blocking(move || {
            let made = Session::glance(&file, &options)?.sidecar.setting(&key)?;
            Ok(Setting {
                key: key.to_string(),
                made: made.is_some(),
                value: made.unwrap_or_else(|| settings::default_of(&key)),
            })
        })
        .await
    }

    /// Makes a setting, or takes it back. It holds for this replica, from its next sync on.
    pub async fn set(&self, key: &str, value: Option<&str>) -> Result<Setting, Error> {
        let key: Key = key.parse()?;
        if let Some(value) = value {
            key.check(value)?;
        }
        let (file, options) = (self.file().to_owned(), self.options().clone());
        let value = value.map(str::to_owned);
        blocking(move || {
            let session = Session::open_unchecked(&file, &options)?;
            session.sidecar.begin()?;
            session.sidecar.set(&key, value.as_deref())?;
            session.sidecar.commit_durably()?;
            Ok(Setting {
                key: key.to_string(),
                made: value.is_some(),
                value: value.unwrap_or_else(|| settings::default_of(&key)),
            })
        })
        .await
    }

    /// Tells `each` of the conflicts in the journal, oldest first, until it answers `false`.
    pub async fn conflicts(
        &self,
        filter: &ConflictFilter,
        each: impl FnMut(ConflictEntry) -> bool,
    ) -> Result<(), Error> {
        let (file, options) = (self.file().to_owned(), self.options().clone());
        let filter = filter.clone();
        told(
            move |each| {
                let session = decided(Session::glance(&file, &options)?, || {
                    Session::open(&file, &options, None, None)
                })?;
                for id in session.sidecar.conflict_ids(&filter)? {
                    if let Some(entry) = session.sidecar.conflict(id)?
                        && !each(entry)
                    {
                        break;
                    }
                }
                Ok(())
            },
            each,
        )
        .await
    }

    /// Takes one side of a conflict after all: its version of the row is written to the file, as any
    /// program might write it, and the next sync sends it. What stands there by then is replaced,
    /// whoever wrote it. Foreign keys are enforced and triggers fire: a full-text index that is kept
    /// by them would be wrong otherwise.
    pub async fn resolve_conflict(&self, id: i64, take: Side) -> Result<Resolution, Error> {
        let (file, options) = (self.file().to_owned(), self.options().clone());
        blocking(move || {
            let mut session = Session::open(&file, &options, None, None)?;
            pull::recover(&mut session)?;
            let entry = session.sidecar.conflict(id)?;
            let entry = entry.ok_or_else(|| Error::NoConflict { path: session.db.clone(), id })?;
            let mut conflict = entry.conflict;
            if let Decision::Renumbered(to) = conflict.decision {
                let now = session.sidecar.renumbered_since(id, &conflict, to)?;
                move_on(&mut conflict, now);
            }
            let written = write_back(&session, &conflict, take, options.busy_timeout);
            let (replaced, now) = written.map_err(|source| Error::Resolving {
                id,
                table: conflict.table.clone(),
                source,
            })?;
            // A kill before this leaves a conflict that can be resolved again, to the same end.
            session.sidecar.begin()?;
            session.sidecar.resolve_conflict(id, take, entropy::now())?;
            session.sidecar.commit_durably()?;
            Ok(Resolution { id, table: conflict.table, take, replaced, now })
        })
        .await
    }
}

/// Runs `produce` on a thread of its own, and tells `each` of what it has to tell; either may end it. One
/// thing at a time: a row may be large.
pub(crate) async fn told<T: Send + 'static>(
    produce: impl FnOnce(&mut dyn FnMut(T) -> bool) -> Result<(), Error> + Send + 'static,
    mut each: impl FnMut(T) -> bool,
) -> Result<(), Error> {
    let (send, mut receive) = tokio::sync::mpsc::channel(1);
    let producing = blocking(move || produce(&mut |thing| send.blocking_send(thing).is_ok()));
    let hearing = async {
        while let Some(thing) = receive.recv().await {
            if !each(thing) {
                break;
            }
        }
        // Whoever still has something to tell learns that nobody listens.
        drop(receive);
    };
    tokio::join!(producing, hearing).0
}

/// A session whose journal is complete: what an interrupted pull left is decided first.
fn decided(
    session: Session,
    lock: impl FnOnce() -> Result<Session, Error>,
) -> Result<Session, Error> {
    if !session.sidecar.conflicts_wait()? {
        return Ok(session);
    }
    drop(session);
    let mut session = lock()?;
    pull::recover(&mut session)?;
    Ok(session)
}

/// Writes the version that `take` names, in one transaction. Answers what stood there, and what stands
/// there now.
fn write_back(
    session: &Session,
    conflict: &Conflict,
    take: Side,
    busy: Duration,
) -> rusqlite::Result<(Option<Row>, Option<Row>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(&session.db, flags)?;
    conn.busy_timeout(busy)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.pragma_update(None, "foreign_keys", true)?;
    let change = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let table = Table { conn: &change, name: &conflict.table };
    let wanted = match take {
        Side::Local => conflict.local.as_ref(),
        Side::Remote => conflict.remote.as_ref(),
    };
    let replaced = table.get(&conflict.key)?;
    if let Decision::Renumbered(to) = conflict.decision {
        // Both stand; taking one means that the other goes.
        table.delete(&moved(&conflict.key, to))?;
    }
    match (wanted, &replaced) {
        (None, _) => table.delete(&conflict.key)?,
        (Some(row), Some(_)) => table.update(&conflict.key, row)?,
        (Some(row), None) => table.insert(row)?,
    }
    let now = table.get(&conflict.key)?;
    change.commit()?;
    Ok((replaced, now))
}

/// Lets a local row that got another rowid have the one that it has by now.
fn move_on(conflict: &mut Conflict, now: i64) {
    conflict.decision = Decision::Renumbered(now);
    let (Some(local), Some(key)) = (&mut conflict.local, conflict.key.columns.first()) else {
        return;
    };
    if let Some(at) = local.columns.iter().position(|column| column == key) {
        local.values[at] = Value::Integer(now);
    }
}

/// The same key with another rowid.
fn moved(key: &Row, to: i64) -> Row {
    Row { columns: key.columns.clone(), values: vec![Value::Integer(to)] }
}

/// A table of the live file.
struct Table<'c> {
    conn: &'c Connection,
    name: &'c str,
}

impl Table<'_> {
    fn name(&self) -> String {
        quoted(self.name)
    }

    /// `WHERE` for a key, whose values come as the parameters after the first `skip`.
    fn by_key(key: &Row, skip: usize) -> String {
        let terms: Vec<String> = (skip + 1..)
            .zip(key.columns.iter())
            .map(|(n, column)| format!("{} IS ?{n}", quoted(column)))
            .collect();
        format!("WHERE {}", terms.join(" AND "))
    }

    /// The row of a key, if there is one. A rowid that is no column is left out.
    fn get(&self, key: &Row) -> rusqlite::Result<Option<Row>> {
        let sql = format!("SELECT * FROM {} {}", self.name(), Self::by_key(key, 0));
        let mut statement = self.conn.prepare(&sql)?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let count = columns.len();
        statement
            .query_row(params_from_iter(&key.values), |row| {
                let values = (0..count).map(|n| row.get(n)).collect::<rusqlite::Result<_>>()?;
                Ok(Row { columns: columns.into(), values })
            })
            .optional()
    }

    fn delete(&self, key: &Row) -> rusqlite::Result<()> {
        let sql = format!("DELETE FROM {} {}", self.name(), Self::by_key(key, 0));
        self.conn.execute(&sql, params_from_iter(&key.values))?;
        Ok(())
    }

    fn update(&self, key: &Row, row: &Row) -> rusqlite::Result<()> {
        let set: Vec<String> = (1..)
            .zip(row.columns.iter())
            .map(|(n, column)| format!("{} = ?{n}", quoted(column)))
            .collect();
        let sql = format!(
            "UPDATE OR ABORT {} SET {} {}",
            self.name(),
            set.join(", "),
            Self::by_key(key, row.columns.len())
        );
        self.conn.execute(&sql, params_from_iter(row.values.iter().chain(&key.values)))?;
        Ok(())
    }

    fn insert(&self, row: &Row) -> rusqlite::Result<()> {
        let columns: Vec<String> = row.columns.iter().map(|column| quoted(column)).collect();
        let places: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
        let sql = format!(
            "INSERT OR ABORT INTO {} ({}) VALUES ({})",
            self.name(),
            columns.join(", "),
            places.join(", ")
        );
        self.conn.execute(&sql, params_from_iter(row.values.iter().map(|v| v as &dyn ToSql)))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[&str], values: Vec<Value>) -> Row {
        Row { columns: columns.iter().map(|c| (*c).to_owned()).collect(), values }
    }

    #[test]
    fn a_row_is_found_written_and_deleted_by_any_kind_of_key() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE a(id INTEGER PRIMARY KEY, \"odd \"\" name\");
             CREATE TABLE b(x, y, v, PRIMARY KEY(x, y)) WITHOUT ROWID;
             CREATE TABLE c(v); INSERT INTO c(rowid, v) VALUES (7, 'seven');",
        )
        .unwrap();
        let text = |s: &str| Value::Text(s.to_owned());
        let a = Table { conn: &conn, name: "a" };
        let key = row(&["id"], vec![Value::Integer(3)]);
        let full = row(&["id", "odd \" name"], vec![Value::Integer(3), text("x")]);
        assert!(a.get(&key).unwrap().is_none());
        a.insert(&full).unwrap();
        assert_eq!(a.get(&key).unwrap().as_ref(), Some(&full));
        a.delete(&key).unwrap();
        assert!(a.get(&key).unwrap().is_none());

        let b = Table { conn: &conn, name: "b" };
        let key = row(&["x", "y"], vec![text("k"), Value::Null]);
        assert!(b.insert(&row(&["x", "y", "v"], vec![text("k"), Value::Null, text("v")])).is_err());
        assert!(b.get(&key).unwrap().is_none(), "no NULL in such a key");

        let c = Table { conn: &conn, name: "c" };
        let key = row(&["rowid"], vec![Value::Integer(7)]);
        c.update(&key, &row(&["rowid", "v"], vec![Value::Integer(7), text("8")])).unwrap();
        assert_eq!(c.get(&key).unwrap().unwrap().values, [text("8")]);
        c.delete(&moved(&key, 7)).unwrap();
        assert!(c.get(&key).unwrap().is_none());
    }
}
