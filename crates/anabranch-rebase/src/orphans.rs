//! Rows of the remote's that only the schema of this side leaves without a parent: it went with a table
//! that this side made anew, which has only what this side put into it, and nothing brings it back; or
//! this side declared a foreign key that was none before.

use rusqlite::params_from_iter;

use crate::cell::{Cell, Tuple};
use crate::engine::{Engine, Foreign};
use crate::error::RebaseError;
use crate::objects::read;
use crate::plan::ForeignKey;
use crate::rules::Side;
use crate::sql::{quoted, same_name, unquoted};
use crate::table::{Table, equal};
use crate::violations::{orphans, values};

/// Told of a row, and of what it refers to.
type Each<'a> = dyn FnMut(&Tuple, &[&Cell]) -> Result<(), RebaseError> + 'a;

impl Engine<'_> {
    /// Refuses references that only the schema of this side breaks. `there`: the foreign keys of the
    /// remote. A row that had no parent there either, or none here, is left as it is.
    pub(crate) fn refuse_orphans(&self, there: &[ForeignKey]) -> Result<(), RebaseError> {
        for key in &self.foreign {
            let (table, parents) = (&self.tables[key.child], &self.tables[key.parent]);
            if table.remote.is_none() {
                continue;
            }
            let before = as_it_was(key, table, there);
            match &parents.remote {
                None if !before.is_empty() => {
                    self.refuse_orphans_of(key, table, parents, &before)?;
                }
                Some(side)
                    if before.iter().any(|old| same_name(&old.parent, &unquoted(&side.from))) => {}
                _ => self.refuse_strangers(key, table, parents)?,
            }
        }
        Ok(())
    }

    /// Refuses a foreign key that this side declared and that a row of the remote's does not keep. A row
    /// that breaks it here as well is left as it is.
    fn refuse_strangers(
        &self,
        key: &Foreign,
        table: &Table,
        parents: &Table,
    ) -> Result<(), RebaseError> {
        self.each_orphan(key, table, parents, &mut |row, refers| {
            let here = self.local_row(table, &table.key_of(row))?;
            if here.is_some_and(|here| values(&here, &key.columns) == refers) {
                return Ok(());
            }
            Err(broken(
                table,
                format!(
                    "a row of it at the remote refers to one that table {} does not have (insert it \
                     here, and both fit)",
                    parents.name()
                ),
            ))
        })
    }

    fn refuse_orphans_of(
        &self,
        key: &Foreign,
        table: &Table,
        parents: &Table,
        before: &[&ForeignKey],
    ) -> Result<(), RebaseError> {
        self.each_orphan(key, table, parents, &mut |_, refers| {
            for old in before {
                if self.had_parent(old, refers).map_err(reading(table))? {
                    return Err(broken(
                        parents,
                        format!(
                            "a row of table {} of the remote refers to one of table {} there that \
                             this one does not have (insert it here, and it stands)",
                            table.name(),
                            old.parent
                        ),
                    ));
                }
            }
            Ok(())
        })
    }

    /// Calls back with each row of the result whose reference is as the remote has it, and whose parent
    /// is not there; and with what it refers to.
    fn each_orphan(
        &self,
        key: &Foreign,
        table: &Table,
        parents: &Table,
        each: &mut Each<'_>,
    ) -> Result<(), RebaseError> {
        let sql = orphans(key, table, parents);
        let mut statement = self.states.onto.prepare(&sql).map_err(reading(table))?;
        let mut rows = statement.query([]).map_err(reading(table))?;
        while let Some(row) = rows.next().map_err(reading(table))? {
            let row = table.result.tuple(row, &table.defaults).map_err(reading(table))?;
            let refers = values(&row, &key.columns);
            let there = self.remote_row(table, &table.key_of(&row))?;
            if there.is_some_and(|there| values(&there, &key.columns) == refers) {
                each(&row, &refers)?;
            }
        }
        Ok(())
    }

    fn had_parent(&self, key: &ForeignKey, refers: &[&Cell]) -> rusqlite::Result<bool> {
        let columns: Vec<String> = key.parent_columns.iter().map(|c| quoted(c)).collect();
        let sql = format!("SELECT 1 FROM main.{} WHERE {}", quoted(&key.parent), equal(&columns));
        self.states.remote.prepare_cached(&sql)?.exists(params_from_iter(refers))
    }
}

fn reading(table: &Table) -> impl FnOnce(rusqlite::Error) -> RebaseError {
    read(format!("references of table {}", table.name()))
}

fn broken(table: &Table, why: String) -> RebaseError {
    let name = table.name().to_owned();
    RebaseError::SchemaBroken { kind: "table".to_owned(), name, of: Side::Local, why }
}

/// The remote's foreign keys over the columns of one of the result.
fn as_it_was<'k>(key: &Foreign, table: &Table, there: &'k [ForeignKey]) -> Vec<&'k ForeignKey> {
    let Some(side) = &table.remote else { return Vec::new() };
    let columns: Vec<String> =
        key.columns.iter().filter_map(|&at| side.columns[at].as_deref().map(unquoted)).collect();
    let name = unquoted(&side.from);
    let same = |k: &&ForeignKey| {
        same_name(&k.child, &name)
            && k.columns.len() == columns.len()
            && k.columns.iter().zip(&columns).all(|(a, b)| same_name(a, b))
    };
    there.iter().filter(same).collect()
}
