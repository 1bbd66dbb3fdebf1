//! A table made anew by the local statement, with the rows that the remote has.
//!
//! Rows are copied by the names of columns. A column that the remote dropped, and that is there after
//! all since the local declaration was taken, has the values that it had in the base. A row that the new
//! declaration refuses (a NULL where none may be any more, a check) is left out, and settled when rows are
//! merged (`refused`). Where they are not, since nothing tells one from another, it is replaced here by
//! the local version of it, and told if the remote had changed it.

use std::sync::Arc;

use rusqlite::{Connection, ErrorCode};

use crate::cell::same;
use crate::columns::Table;
use crate::conflict::{Conflict, ConflictKind, Decision, Row};
use crate::error::RebaseError;
use crate::fate::{Fate, Trio};
use crate::objects::Object;
use crate::plan::Key;
use crate::schema::Journal;
use crate::sequence;
use crate::sql::{quoted, same_name};
use crate::values::{Raw, shown};

/// Rows that are written before what was written is let go.
const BATCH: usize = 10_000;

/// Makes the table `object` of the local side, whose name a table of the scratch copy has already
/// under another declaration, and copies the rows. Returns whether rows were left out that have to be
/// settled.
pub(crate) fn rebuild(
    trio: &Trio<'_>,
    fate: &Fate,
    object: &Object,
    sql: &str,
    journal: &mut Journal<'_>,
) -> Result<bool, RebaseError> {
    let onto = trio.onto.conn;
    let what = || format!("table {} in its new form", object.name);
    let aside = free_name(onto).map_err(RebaseError::work(what()))?;
    let last = sequence::last(onto, &object.name).map_err(RebaseError::work(what()))?;
    // As it was before SQLite changed what refers to a renamed table: nothing else is to change.
    onto.execute_batch(&format!(
        "PRAGMA legacy_alter_table = ON;
         ALTER TABLE main.{} RENAME TO {aside};
         PRAGMA legacy_alter_table = OFF;",
        quoted(&object.name)
    ))
    .and_then(|()| onto.execute(sql, []).map(drop))
    .map_err(RebaseError::work(what()))?;
    let old = table(onto, &aside)?;
    let new = table(onto, &object.name)?;
    let left_out = Copying::new(trio, fate, &old, &new)?.run(onto, journal)?;
    onto.execute(&format!("DROP TABLE main.{aside}"), []).map_err(RebaseError::work(what()))?;
    if let Some(last) = last.filter(|_| new.autoincrement) {
        sequence::raise(onto, &object.name, last).map_err(RebaseError::work(what()))?;
    }
    Ok(left_out)
}

fn table(conn: &Connection, name: &str) -> Result<Table, RebaseError> {
    let objects = crate::objects::Objects::read(conn)?;
    let object = objects.table(name).ok_or_else(|| RebaseError::Work {
        what: format!("table {name}"),
        source: rusqlite::Error::QueryReturnedNoRows,
    })?;
    Table::read(conn, object)
}

/// A name that nothing has.
pub(crate) fn free_name(conn: &Connection) -> rusqlite::Result<String> {
    let mut taken = conn.prepare(
        "SELECT EXISTS(SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE)",
    )?;
    let mut number = 0_u64;
    loop {
        let name = format!("anabranch_aside_{number}");
        if !taken.query_row([&name], |row| row.get::<_, bool>(0))? {
            return Ok(name);
        }
        number += 1;
    }
}

/// The statements between the old table, the new one, and the other sides.
struct Copying<'a, 'b> {
    trio: &'a Trio<'b>,
    table: &'a str,
    /// Whether its rows are merged.
    keyed: bool,
    /// Reads the key, as the local side names it, then what is copied.
    read: String,
    keys: Vec<String>,
    columns: Vec<String>,
    write: String,
    /// The local row by the key: the same columns as are written, `None` if it has no such table.
    local: String,
    write_local: String,
    local_columns: Vec<String>,
    /// The row of the base by the key, the columns that are copied; `None`: not all are there.
    base: Option<String>,
    /// The row of the base by the key, the columns that only the remote has no more, and what
    /// writes them as well; `None`: there are none.
    fill: Option<(String, String)>,
}

impl<'a, 'b> Copying<'a, 'b> {
    fn new(
        trio: &'a Trio<'b>,
        fate: &Fate,
        old: &Table,
        new: &'a Table,
    ) -> Result<Self, RebaseError> {
        let rowid = match new.key(&[old]) {
            Some(Key::Rowid { alias }) => Some(alias),
            // A rowid beside another key is nothing that anybody sees, but the order of rows.
            Some(Key::Columns { alias: Some(alias), .. })
                if !old.without_rowid && !new.without_rowid =>
            {
                Some(alias)
            }
            _ => None,
        };
        let common: Vec<String> = new
            .stored()
            .filter(|c| old.column(&c.name).is_some_and(|o| !o.generated))
            .map(|c| c.name.clone())
            .collect();
        let keys: Vec<String> = if new.key.is_empty() {
            rowid.iter().map(|&alias| alias.to_owned()).collect()
        } else {
            new.key.clone()
        };
        let columns: Vec<String> =
            rowid.iter().map(|&alias| alias.to_owned()).chain(common).collect();
        let local_columns: Vec<String> = rowid
            .iter()
            .map(|&alias| alias.to_owned())
            .chain(new.stored().map(|c| c.name.clone()))
            .collect();
        let list =
            |names: &[String]| names.iter().map(|n| quoted(n)).collect::<Vec<_>>().join(", ");
        let both = [keys.clone(), columns.clone()].concat();
        let insert = |columns: &[String]| {
            format!(
                "INSERT OR ABORT INTO main.{} ({}) VALUES ({})",
                quoted(&new.name),
                list(columns),
                vec!["?"; columns.len()].join(", ")
            )
        };
        let by_key = |keys: &[String]| {
            keys.iter().map(|k| format!("{} IS ?", quoted(k))).collect::<Vec<_>>().join(" AND ")
        };
        // The base by its own names, which the local side's lead back to.
        let before = |name: &String| {
            if rowid.is_some_and(|alias| same_name(alias, name)) {
                return Some(name.clone());
            }
            trio.here.column_before(fate.base.as_deref()?, name).map(str::to_owned)
        };
        let of_base = |columns: &[String]| {
            let keys = keys.iter().map(before).collect::<Option<Vec<_>>>()?;
            let columns = columns.iter().map(before).collect::<Option<Vec<_>>>()?;
            let from = quoted(fate.base.as_deref()?);
            Some(format!("SELECT {} FROM main.{from} WHERE {}", list(&columns), by_key(&keys)))
        };
        let base = of_base(&columns);
        let dropped: Vec<String> = new
            .stored()
            .filter(|c| old.column(&c.name).is_none() && before(&c.name).is_some())
            .map(|c| c.name.clone())
            .collect();
        let fill = of_base(&dropped)
            .filter(|_| !dropped.is_empty())
            .map(|select| (select, insert(&[columns.clone(), dropped].concat())));
        Ok(Self {
            trio,
            table: &new.name,
            keyed: fate.keyed,
            read: format!("SELECT {} FROM main.{}", list(&both), quoted(&old.name)),
            write: insert(&columns),
            local: format!(
                "SELECT {} FROM main.{} WHERE {}",
                list(&local_columns),
                quoted(&new.name),
                by_key(&keys)
            ),
            write_local: insert(&local_columns),
            base,
            fill,
            keys,
            columns,
            local_columns,
        })
    }

    fn run(&self, onto: &Connection, journal: &mut Journal<'_>) -> Result<bool, RebaseError> {
        let failed =
            |source| RebaseError::work(format!("the rows of table {}", self.table))(source);
        let mut read = onto.prepare(&self.read).map_err(failed)?;
        let mut write = onto.prepare(&self.write).map_err(failed)?;
        let mut fill = match &self.fill {
            Some((select, write)) => Some((
                self.trio.base.conn.prepare(select).map_err(failed)?,
                onto.prepare(write).map_err(failed)?,
            )),
            None => None,
        };
        let mut rows = read.query([]).map_err(failed)?;
        let mut batch = 0;
        let mut left_out = false;
        onto.execute_batch("SAVEPOINT anabranch_copy").map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let keys = self.keys.len();
            let values = raw(row, keys..keys + self.columns.len()).map_err(failed)?;
            let mut put = || {
                if let Some((select, filled)) = &mut fill {
                    let mut before =
                        select.query(rusqlite::params_from_iter(raw(row, 0..keys)?))?;
                    if let Some(before) = before.next()? {
                        let dropped = raw(before, 0..before.as_ref().column_count())?;
                        return filled
                            .execute(rusqlite::params_from_iter(values.iter().chain(&dropped)));
                    }
                }
                write.execute(rusqlite::params_from_iter(&values))
            };
            match put() {
                Ok(_) => {}
                Err(error) if refuses(&error) && self.keyed => left_out = true,
                Err(error) if refuses(&error) => {
                    self.refused(onto, row, &error.to_string(), journal)?;
                }
                Err(error) => return Err(failed(error)),
            }
            batch += 1;
            if batch == BATCH {
                batch = 0;
                onto.execute_batch("RELEASE anabranch_copy; SAVEPOINT anabranch_copy")
                    .map_err(failed)?;
            }
        }
        onto.execute_batch("RELEASE anabranch_copy").map_err(failed)?;
        Ok(left_out)
    }

    /// A row that the new declaration refuses.
    fn refused(
        &self,
        onto: &Connection,
        row: &rusqlite::Row<'_>,
        why: &str,
        journal: &mut Journal<'_>,
    ) -> Result<(), RebaseError> {
        let failed =
            |source| RebaseError::work(format!("the rows of table {}", self.table))(source);
        let look = || -> rusqlite::Result<(bool, Option<Row>, Row, Row)> {
            let values = |from: usize, names: &[String]| -> rusqlite::Result<Row> {
                let values: rusqlite::Result<Vec<_>> =
                    (from..from + names.len()).map(|at| row.get_ref(at).map(shown)).collect();
                Ok(Row { columns: Arc::from(names.to_vec()), values: values? })
            };
            let key: rusqlite::Result<Vec<_>> =
                (0..self.keys.len()).map(|at| row.get_ref(at).map(Raw)).collect();
            let key = key?;
            let changed = self.changed(row, &key)?;
            let mut local = self.trio.local.conn.prepare_cached(&self.local)?;
            let mut found = local.query(rusqlite::params_from_iter(&key))?;
            let local = match found.next()? {
                None => None,
                Some(local) => {
                    let all = 0..self.local_columns.len();
                    let cells: rusqlite::Result<Vec<_>> =
                        all.clone().map(|at| local.get_ref(at).map(Raw)).collect();
                    let put = onto
                        .prepare_cached(&self.write_local)?
                        .execute(rusqlite::params_from_iter(cells?));
                    // In the way of another row of the remote's.
                    if let Err(error) = put
                        && !refuses(&error)
                    {
                        return Err(error);
                    }
                    let values: rusqlite::Result<Vec<_>> =
                        all.map(|at| local.get_ref(at).map(shown)).collect();
                    Some(Row { columns: Arc::from(self.local_columns.clone()), values: values? })
                }
            };
            Ok((changed, local, values(0, &self.keys)?, values(self.keys.len(), &self.columns)?))
        };
        let (changed, local, key, remote) = look().map_err(failed)?;
        if changed {
            journal(Conflict {
                table: self.table.to_owned(),
                key,
                kind: ConflictKind::Check,
                base: None,
                local,
                remote: Some(remote),
                decision: Decision::Local,
                detail: Some(why.to_owned()),
            })?;
        }
        Ok(())
    }

    /// Whether the remote wrote a row: it is not as the base has it.
    fn changed(&self, row: &rusqlite::Row<'_>, key: &[Raw<'_>]) -> rusqlite::Result<bool> {
        let Some(base) = &self.base else { return Ok(true) };
        let mut base = self.trio.base.conn.prepare_cached(base)?;
        let mut found = base.query(rusqlite::params_from_iter(key))?;
        let Some(before) = found.next()? else { return Ok(true) };
        for at in 0..self.columns.len() {
            if !same(before.get_ref(at)?, row.get_ref(self.keys.len() + at)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Some values of a row.
fn raw<'r>(
    row: &'r rusqlite::Row<'_>,
    places: std::ops::Range<usize>,
) -> rusqlite::Result<Vec<Raw<'r>>> {
    places.map(|at| row.get_ref(at).map(Raw)).collect()
}

/// Whether a row violates a constraint; a text as INTEGER PRIMARY KEY is a mismatch.
fn refuses(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch))
}
