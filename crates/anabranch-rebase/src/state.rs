//! One of the three states with its schema, and which tables of two states are the same.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::cell::same;
use crate::columns::{ColumnInfo, Table, columns};
use crate::declared::Renames;
use crate::error::RebaseError;
use crate::objects::{Object, ObjectKind, Objects, is_internal};
use crate::plan::Key;
use crate::sql::{quoted, same_name};
use crate::values::Raw;

/// Rows that are looked at to find out whether two tables or columns hold the same.
const SAMPLE: usize = 32;

/// A state and what is in it.
pub(crate) struct State<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) objects: Objects,
    /// The ordinary tables, shadow tables among them, by their names in lower case.
    tables: BTreeMap<String, Table>,
    /// Places of the tables that people made.
    made: Vec<usize>,
}

impl<'a> State<'a> {
    pub(crate) fn read(conn: &'a Connection) -> Result<Self, RebaseError> {
        let objects = Objects::read(conn)?;
        let mut tables = BTreeMap::new();
        for object in objects.of_kind(ObjectKind::Table).filter(|o| o.module.is_none()) {
            tables.insert(object.name.to_ascii_lowercase(), Table::read(conn, object)?);
        }
        let made = |o: &Object| {
            o.kind == ObjectKind::Table
                && !is_internal(&o.name)
                && objects.owner_of_shadow(&o.name).is_none()
        };
        let made = (0..objects.all.len()).filter(|&at| made(&objects.all[at])).collect();
        Ok(Self { conn, objects, tables, made })
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(&name.to_ascii_lowercase())
    }

    /// A table, or a virtual table as far as its module shows rows.
    pub(crate) fn shown(&self, name: &str) -> Option<Table> {
        if let Some(table) = self.table(name) {
            return Some(table.clone());
        }
        let object = self.objects.table(name)?;
        let columns = columns(self.conn, &object.name).ok()?;
        Some(Table {
            name: object.name.clone(),
            root: 0,
            columns,
            without_rowid: false,
            strict: false,
            key: Vec::new(),
            rowid_is_key: false,
            autoincrement: false,
        })
    }

    /// Tables and virtual tables that people made: no shadows, none of SQLite's own.
    pub(crate) fn made(&self) -> impl Iterator<Item = &Object> {
        self.made.iter().map(|&at| &self.objects.all[at])
    }
}

/// What became of the tables and columns of one state in a later one.
#[derive(Debug, Default)]
pub(crate) struct Succession {
    /// By the earlier name in lower case: the later name.
    tables: BTreeMap<String, String>,
    /// By the earlier name of the table in lower case: pairs of columns, earlier and later.
    columns: BTreeMap<String, Vec<(String, String)>>,
    renames: Renames,
}

impl Succession {
    pub(crate) fn find(before: &State<'_>, after: &State<'_>) -> Result<Self, RebaseError> {
        let mut found = Self::default();
        for object in before.made() {
            let same = after.made().find(|o| {
                same_name(&o.name, &object.name) && o.module.is_some() == object.module.is_some()
            });
            if let Some(same) = same {
                found.tables.insert(object.name.to_ascii_lowercase(), same.name.clone());
            }
        }
        let mut new: Vec<&Object> = after.made().filter(|o| !found.leads_to(&o.name)).collect();
        for object in before.made() {
            let key = object.name.to_ascii_lowercase();
            if found.tables.contains_key(&key) {
                continue;
            }
            if let Some(place) = renamed(before, object, after, &new)? {
                found.tables.insert(key, new.swap_remove(place).name.clone());
            }
        }
        for (key, name) in &found.tables {
            if let (Some(old), Some(now)) = (before.table(key), after.table(name)) {
                found.columns.insert(key.clone(), column_pairs(before, old, after, now)?);
            }
        }
        found.renames = found.all_renames(before);
        Ok(found)
    }

    /// The later name of a table.
    pub(crate) fn table(&self, name: &str) -> Option<&str> {
        self.tables.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    /// Whether a later table was there before.
    pub(crate) fn leads_to(&self, name: &str) -> bool {
        self.tables.values().any(|later| same_name(later, name))
    }

    /// Pairs of columns of a table, by its earlier name.
    pub(crate) fn columns(&self, table: &str) -> &[(String, String)] {
        self.columns.get(&table.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// The later name of a column.
    pub(crate) fn column(&self, table: &str, column: &str) -> Option<&str> {
        let pair = self.columns(table).iter().find(|(old, _)| same_name(old, column));
        pair.map(|(_, new)| new.as_str())
    }

    /// The earlier name of a column.
    pub(crate) fn column_before(&self, table: &str, column: &str) -> Option<&str> {
        let pair = self.columns(table).iter().find(|(_, new)| same_name(new, column));
        pair.map(|(old, _)| old.as_str())
    }

    /// Columns of one table that have another name now.
    pub(crate) fn renamed_columns(&self, table: &str) -> Renames {
        let mut renames = Renames::default();
        for (old, new) in self.columns(table) {
            renames.add(old, new);
        }
        renames
    }

    /// All names that changed.
    pub(crate) fn renames(&self) -> &Renames {
        &self.renames
    }

    fn all_renames(&self, before: &State<'_>) -> Renames {
        let mut renames = Renames::default();
        for object in before.made() {
            if let Some(new) = self.table(&object.name) {
                renames.add(&object.name, new);
            }
            renames.pairs.extend(self.renamed_columns(&object.name).pairs);
        }
        renames
    }
}

/// Which of `candidates` is the table `object` under a new name: the one on its root page that is made
/// alike, else the only one made alike, else the one on its root page with its key and most of its
/// columns. It must hold at least one row of it.
fn renamed(
    before: &State<'_>,
    object: &Object,
    after: &State<'_>,
    candidates: &[&Object],
) -> Result<Option<usize>, RebaseError> {
    if object.module.is_some() {
        return Ok(renamed_virtual(before, object, after, candidates));
    }
    let Some(old) = before.table(&object.name) else { return Ok(None) };
    let candidates = candidates.iter().enumerate();
    let candidates: Vec<(usize, &Table)> =
        candidates.filter_map(|(place, o)| Some((place, after.table(&o.name)?))).collect();
    let alike = || candidates.iter().filter(|(_, new)| made_alike(old, new));
    let (place, new, pairs) = if let Some((place, new)) = alike()
        .find(|(_, new)| new.root == old.root)
        .or_else(|| alike().next().filter(|_| alike().count() == 1))
    {
        let pairs = old.stored().zip(new.stored()).map(|(o, n)| (o.name.clone(), n.name.clone()));
        (*place, *new, pairs.collect())
    } else {
        // Changed in other ways as well.
        let Some((place, new)) = candidates.iter().find(|(_, new)| new.root == old.root) else {
            return Ok(None);
        };
        let pairs: Vec<(String, String)> = old
            .stored()
            .filter_map(|o| Some((o.name.clone(), new.column(&o.name)?.name.clone())))
            .collect();
        // Without the key of the old one no row can tell that it is the same table.
        let keyed = key_pairs(old, new, &pairs).is_some();
        let without = new.without_rowid != old.without_rowid;
        if without || !keyed || 2 * pairs.len() < old.stored().count() {
            return Ok(None);
        }
        (*place, *new, pairs)
    };
    let sample = Sample::take(before, old, after, new, &pairs, &pairs)?;
    let same = if sample.looked == 0 { new.root == old.root } else { sample.whole > 0 };
    Ok(same.then_some(place))
}

/// A virtual table has no rows that could be looked at; its first shadow table stands for it.
fn renamed_virtual(
    before: &State<'_>,
    object: &Object,
    after: &State<'_>,
    candidates: &[&Object],
) -> Option<usize> {
    let root = |state: &State<'_>, owner: &Object| {
        let shadow = state.objects.of_kind(ObjectKind::Table).find(|o| {
            state.objects.owner_of_shadow(&o.name).is_some_and(|found| found.name == owner.name)
        })?;
        Some(shadow.root)
    };
    let old = root(before, object)?;
    candidates.iter().position(|o| o.module == object.module && root(after, o) == Some(old))
}

/// Whether columns were declared alike, names aside.
fn made_alike(old: &Table, new: &Table) -> bool {
    old.without_rowid == new.without_rowid
        && old.columns.len() == new.columns.len()
        && old.columns.iter().zip(&new.columns).all(|(o, n)| declared_alike(o, n))
}

fn declared_alike(old: &ColumnInfo, new: &ColumnInfo) -> bool {
    old.declared.eq_ignore_ascii_case(&new.declared)
        && old.not_null == new.not_null
        && old.default == new.default
        && old.in_key == new.in_key
        && old.generated == new.generated
}

/// Columns by name; a column that is gone is one that is new, if it stood in its place, was
/// declared alike, and rows do not prove the opposite.
fn column_pairs(
    before: &State<'_>,
    old: &Table,
    after: &State<'_>,
    new: &Table,
) -> Result<Vec<(String, String)>, RebaseError> {
    let mut pairs: Vec<(String, String)> = old
        .columns
        .iter()
        .filter_map(|o| Some((o.name.clone(), new.column(&o.name)?.name.clone())))
        .collect();
    let moved: Vec<(String, String)> = old
        .columns
        .iter()
        .zip(&new.columns)
        .filter(|(o, n)| old.column(&n.name).is_none() && new.column(&o.name).is_none())
        .filter(|(o, n)| declared_alike(o, n))
        .map(|(o, n)| (o.name.clone(), n.name.clone()))
        .collect();
    if moved.is_empty() {
        return Ok(pairs);
    }
    // A key that got another name is needed to find the rows at all.
    let (keys, values): (Vec<_>, Vec<_>) =
        moved.into_iter().partition(|(o, _)| old.column(o).is_some_and(|c| c.in_key > 0));
    pairs.extend(keys);
    let sample = Sample::take(before, old, after, new, &pairs, &values)?;
    for (pair, equal) in values.into_iter().zip(&sample.equal) {
        if sample.found == 0 || *equal > 0 {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

/// Some rows of a table, compared with those of a later one under the same keys.
#[derive(Debug, Default)]
struct Sample {
    /// Rows of the earlier table that were looked at.
    looked: usize,
    /// Those whose key the later one has.
    found: usize,
    /// Those with equal values in all columns.
    whole: usize,
    /// For each column, those with equal values in it.
    equal: Vec<usize>,
}

impl Sample {
    /// `pairs` lead from keys to keys, `compared` are the columns to compare.
    fn take(
        before: &State<'_>,
        old: &Table,
        after: &State<'_>,
        new: &Table,
        pairs: &[(String, String)],
        compared: &[(String, String)],
    ) -> Result<Self, RebaseError> {
        let mut sample = Self { equal: vec![0; compared.len()], ..Self::default() };
        // Generated columns need what they are generated by, which may be the application's.
        let stored = |table: &Table, name: &str| table.column(name).is_some_and(|c| !c.generated);
        let Some(keys) = key_pairs(old, new, pairs) else { return Ok(sample) };
        if !compared.iter().all(|(o, n)| stored(old, o) && stored(new, n)) {
            return Ok(sample);
        }
        let list = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
        };
        let ends = ["", " DESC"].map(|order| {
            let order = keys.iter().map(|(o, _)| quoted(o) + order).collect::<Vec<_>>().join(", ");
            format!(
                "SELECT {} FROM main.{} ORDER BY {order} LIMIT {SAMPLE}",
                list(&mut keys.iter().map(|(o, _)| o).chain(compared.iter().map(|(o, _)| o))),
                quoted(&old.name)
            )
        });
        let condition: Vec<String> =
            keys.iter().map(|(_, n)| format!("{} IS ?", quoted(n))).collect();
        let there = format!(
            "SELECT {} FROM main.{} WHERE {}",
            if compared.is_empty() {
                "1".into()
            } else {
                list(&mut compared.iter().map(|(_, n)| n))
            },
            quoted(&new.name),
            condition.join(" AND ")
        );
        let mut look = || -> rusqlite::Result<()> {
            let mut there = after.conn.prepare(&there)?;
            for sql in &ends {
                let mut here = before.conn.prepare(sql)?;
                let mut rows = here.query([])?;
                while let Some(row) = rows.next()? {
                    let value = |place: usize| row.get_ref(place).map(Raw);
                    let key = (0..keys.len()).map(value).collect::<rusqlite::Result<Vec<_>>>()?;
                    sample.looked += 1;
                    let mut matches = there.query(rusqlite::params_from_iter(key))?;
                    let Some(there) = matches.next()? else { continue };
                    sample.found += 1;
                    let mut whole = true;
                    for place in 0..compared.len() {
                        let equal = same(row.get_ref(keys.len() + place)?, there.get_ref(place)?);
                        sample.equal[place] += usize::from(equal);
                        whole &= equal;
                    }
                    sample.whole += usize::from(whole);
                }
            }
            Ok(())
        };
        match look().map_err(RebaseError::read(format!("table {}", old.name))) {
            // Its key is in an order that only the application knows: nothing can be looked up.
            Err(RebaseError::Unknown { .. }) => {
                Ok(Self { equal: vec![0; compared.len()], ..Self::default() })
            }
            looked => looked.map(|()| sample),
        }
    }
}

/// By which columns rows of the earlier table are found in the later one.
pub(crate) fn key_pairs(
    old: &Table,
    new: &Table,
    pairs: &[(String, String)],
) -> Option<Vec<(String, String)>> {
    match old.key(&[new])? {
        Key::Rowid { alias } => {
            let said = !new.without_rowid && new.key.is_empty();
            said.then(|| vec![(alias.to_owned(), alias.to_owned())])
        }
        Key::RowidColumn { .. } | Key::Columns { .. } => {
            let pair = |key: &String| pairs.iter().find(|(o, _)| same_name(o, key)).cloned();
            old.key.iter().map(pair).collect()
        }
    }
}
