//! What a rebase must have done, told from the rows of the four states alone.

use std::collections::BTreeMap;

use super::support::{Case, Done};
use super::*;

/// A table of a random schema: all have the columns k, l (some), a, u, f, n.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) key: KeyKind,
    /// u: 0 plain, 1 unique, 2 unique where a is not NULL.
    pub(super) unique: u8,
    /// f: the table that it refers to, and what becomes of it.
    pub(super) parent: Option<(usize, &'static str)>,
    /// k refers to the rowid of a table.
    pub(super) shared: Option<usize>,
    /// n: 0 plain, 1 NOT NULL, 2 checked on its own, 3 checked together with a.
    pub(super) check: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    Rowid,
    Auto,
    Text,
    NocaseWithout,
    Pair,
    PairWithout,
    Nothing,
}

impl KeyKind {
    pub(super) fn rowid(self) -> bool {
        matches!(self, Self::Rowid | Self::Auto)
    }

    fn columns(self) -> usize {
        match self {
            Self::Pair | Self::PairWithout => 2,
            Self::Nothing => 0,
            _ => 1,
        }
    }
}

/// A value that can be compared and ordered: its type and its bytes.
pub(super) type Plain = (u8, Vec<u8>);
type Line = Vec<Plain>;

fn plain(value: &Value) -> Plain {
    match value {
        Value::Null => (0, vec![]),
        Value::Integer(i) => (1, i.to_be_bytes().to_vec()),
        Value::Real(r) => (2, r.to_bits().to_be_bytes().to_vec()),
        Value::Text(t) => (3, t.clone().into_bytes()),
        Value::Blob(b) => (4, b.clone()),
    }
}

fn integer(value: &Plain) -> Option<i64> {
    (value.0 == 1).then(|| i64::from_be_bytes(value.1.clone().try_into().unwrap()))
}

/// Keys that are the same to SQLite are the same here.
fn canonical(kind: KeyKind, value: &Plain) -> Plain {
    match value.0 {
        2 => {
            let real = f64::from_bits(u64::from_be_bytes(value.1.clone().try_into().unwrap()));
            // Only 1.0 is among the values.
            plain(&Value::Integer(if real == 1.0 { 1 } else { i64::MIN }))
        }
        3 if kind == KeyKind::NocaseWithout => (3, value.1.to_ascii_lowercase()),
        _ => value.clone(),
    }
}

/// The rows of a state: those with a key by it, the others by content, with their number.
#[derive(Default, Debug)]
struct Rows {
    keyed: BTreeMap<Line, Line>,
    content: BTreeMap<Line, i64>,
}

pub(super) struct Oracle<'a> {
    pub(super) specs: &'a [Spec],
    pub(super) case: &'a Case,
    pub(super) done: &'a Done,
}

impl Oracle<'_> {
    pub(super) fn check(&self) {
        for table in 0..self.specs.len() {
            self.check_table(table);
        }
        self.check_references();
    }

    fn read(&self, conn: &Connection, table: usize) -> Rows {
        let mut statement = conn.prepare(&format!("SELECT * FROM t{table}")).unwrap();
        let count = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut found = Rows::default();
        while let Some(row) = rows.next().unwrap() {
            let line: Line = (0..count).map(|at| plain(&row.get(at).unwrap())).collect();
            match self.key(table, &line) {
                Some(key) => assert!(found.keyed.insert(key, line).is_none()),
                None => *found.content.entry(line).or_default() += 1,
            }
        }
        found
    }

    fn key(&self, table: usize, line: &Line) -> Option<Line> {
        let kind = self.specs[table].key;
        let key: Line =
            line.iter().take(kind.columns()).map(|value| canonical(kind, value)).collect();
        (!key.is_empty() && key.iter().all(|value| value.0 != 0)).then_some(key)
    }

    fn moved(&self, table: usize, value: &Plain) -> Plain {
        let name = format!("t{table}");
        let to = integer(value).and_then(|from| {
            self.done.keys.moved.iter().find(|m| m.table == name && m.from == from).map(|m| m.to)
        });
        to.map_or_else(|| value.clone(), |to| plain(&Value::Integer(to)))
    }

    /// What a column's value is in the result, if it is a key that moved.
    fn moved_column(&self, table: usize, column: usize, value: &Plain) -> Plain {
        let spec = &self.specs[table];
        let reference = spec.key.columns() + 2;
        if column == 0 && spec.key.rowid() {
            return self.moved(table, value);
        }
        match (spec.parent, spec.shared) {
            (Some((parent, _)), _) if column == reference && self.specs[parent].key.rowid() => {
                self.moved(parent, value)
            }
            (_, Some(parent)) if column == 0 => self.moved(parent, value),
            _ => value.clone(),
        }
    }

    /// A local row as the result should have it.
    fn translated(&self, table: usize, line: &Line) -> Line {
        line.iter().enumerate().map(|(at, v)| self.moved_column(table, at, v)).collect()
    }

    fn entries(&self, table: usize) -> Vec<&Conflict> {
        let name = format!("t{table}");
        self.done.journal.iter().filter(|c| c.table == name).collect()
    }

    fn check_table(&self, table: usize) {
        let base = self.read(&self.case.base, table);
        let local = self.read(&self.case.local, table);
        let remote = self.read(&self.case.remote, table);
        let result = self.read(&self.done.result, table);
        let entries = self.entries(table);
        let keyed = |row: &Option<Row>, skip: usize| -> Option<Line> {
            row.as_ref().map(|row| row.values.iter().skip(skip).map(plain).collect())
        };
        let skip = usize::from(self.specs[table].key == KeyKind::Nothing);

        // What the local side wrote is there, or told of exactly once.
        for (key, row) in &local.keyed {
            if base.keyed.get(key) == Some(row) {
                continue;
            }
            let row = self.translated(table, row);
            let key = self.key(table, &row).unwrap();
            let told = entries
                .iter()
                .filter(|c| keyed(&c.local, skip).as_ref() == Some(&row))
                .filter(|c| !matches!(c.decision, Decision::Renumbered(_)))
                .count();
            let stands = result.keyed.get(&key) == Some(&row);
            assert!(stands || told == 1, "t{table}: local {row:?} told {told}");
        }
        for key in base.keyed.keys().filter(|key| !local.keyed.contains_key(*key)) {
            let gone = !result.keyed.contains_key(key)
                // Another row may have come there.
                || !remote.keyed.contains_key(key)
                || self.moved_here(table, key);
            let told = entries.iter().filter(|c| self.key_of(table, c).as_ref() == Some(key));
            assert!(gone || told.count() == 1, "t{table}: delete of {key:?}");
        }
        // What the remote wrote is there, or told of exactly once.
        for (key, row) in &remote.keyed {
            if base.keyed.get(key) == Some(row) {
                continue;
            }
            let told = entries
                .iter()
                .filter(|c| keyed(&c.remote, skip).as_ref() == Some(row))
                .filter(|c| !matches!(c.decision, Decision::Renumbered(_)))
                .count();
            let stands = result.keyed.get(key) == Some(row);
            assert!(stands || told == 1, "t{table}: remote {row:?} told {told}");
        }
        for key in base.keyed.keys().filter(|key| !remote.keyed.contains_key(*key)) {
            let told = entries.iter().filter(|c| self.key_of(table, c).as_ref() == Some(key));
            let ours = local.keyed.values().any(|row| {
                self.key(table, &self.translated(table, row)).as_ref() == Some(key)
                    && base.keyed.get(key) != Some(row)
            });
            let gone = !result.keyed.contains_key(key) || ours;
            assert!(gone || told.count() == 1, "t{table}: remote's delete of {key:?}");
        }
        // Nothing stands that nobody wrote.
        for (key, row) in &result.keyed {
            let ours = local.keyed.values().any(|l| self.translated(table, l) == *row);
            let merged = entries.iter().any(|c| {
                c.decision == Decision::Merged && self.key_of(table, c).as_ref() == Some(key)
            });
            assert!(
                ours || merged || remote.keyed.get(key) == Some(row),
                "t{table}: nobody wrote {row:?}"
            );
        }
        for c in &entries {
            self.check_entry(table, c, (&base, &local, &remote));
        }
        self.check_content(table, &base, &local, &remote, &result, &entries);
    }

    fn moved_here(&self, table: usize, key: &Line) -> bool {
        let to = key.first().and_then(integer);
        let name = format!("t{table}");
        self.done.keys.moved.iter().any(|m| m.table == name && Some(m.to) == to)
    }

    fn key_of(&self, table: usize, conflict: &Conflict) -> Option<Line> {
        let kind = self.specs[table].key;
        let columns = conflict.key.columns.iter().zip(&conflict.key.values);
        let mut key: Vec<(&String, Plain)> = columns
            .filter(|(name, _)| *name != "rowid")
            .map(|(name, value)| (name, canonical(kind, &plain(value))))
            .collect();
        key.sort();
        (!key.is_empty()).then(|| key.into_iter().map(|(_, value)| value).collect())
    }

    /// An entry says what happened.
    fn check_entry(&self, table: usize, c: &Conflict, rows: (&Rows, &Rows, &Rows)) {
        let Some(key) = self.key_of(table, c) else { return };
        let (base, local, remote) = rows;
        let both = || {
            let here = local.keyed.get(&key).map(|row| self.translated(table, row));
            let changed_there = remote.keyed.get(&key) != base.keyed.get(&key);
            changed_there
                && (here.as_ref() != base.keyed.get(&key) || !self.done.keys.moved.is_empty())
        };
        match c.kind {
            ConflictKind::UpdateUpdate
            | ConflictKind::UpdateDelete
            | ConflictKind::DeleteUpdate => {
                assert!(both(), "t{table}: {c:?}");
            }
            ConflictKind::InsertInsert => {
                if let Decision::Renumbered(to) = c.decision {
                    assert!(self.specs[table].key.rowid());
                    let name = format!("t{table}");
                    assert!(self.done.keys.moved.iter().any(|m| m.table == name && m.to == to));
                } else {
                    assert!(c.local.is_some() && c.remote.is_some() && c.base.is_none());
                }
            }
            ConflictKind::Unique | ConflictKind::ForeignKey | ConflictKind::Check => {
                assert!(c.local.is_some() || c.remote.is_some() || c.base.is_some());
            }
            ConflictKind::Dropped => panic!("{c:?}"),
        }
    }

    /// Rows without a key, by their number.
    fn check_content(
        &self,
        table: usize,
        base: &Rows,
        local: &Rows,
        remote: &Rows,
        result: &Rows,
        entries: &[&Conflict],
    ) {
        let mut here: BTreeMap<Line, i64> = BTreeMap::new();
        for (row, n) in &local.content {
            *here.entry(self.translated(table, row)).or_default() += n;
        }
        let mut all: Vec<&Line> = base.content.keys().chain(here.keys()).collect();
        all.extend(remote.content.keys().chain(result.content.keys()));
        let count = |rows: &BTreeMap<Line, i64>, row: &Line| rows.get(row).copied().unwrap_or(0);
        let skip = usize::from(self.specs[table].key == KeyKind::Nothing);
        for row in all {
            let b = count(&base.content, row);
            let (ours, theirs) = (count(&here, row) - b, count(&remote.content, row) - b);
            let told = entries
                .iter()
                .flat_map(|c| [&c.local, &c.remote])
                .flatten()
                .filter(|r| r.values.iter().skip(skip).map(plain).eq(row.iter().cloned()))
                .count();
            let least = match (ours > 0, theirs > 0) {
                (true, true) => b + ours.max(theirs),
                _ => b + ours + theirs,
            };
            let now = count(&result.content, row);
            assert!(
                now + i64::try_from(told).unwrap() >= least,
                "t{table}: {row:?} is there {now} times, told {told}, of {least}"
            );
            if entries.is_empty() {
                let most = b + ours.max(0) + theirs.max(0);
                assert!(now <= most, "t{table}: {row:?} is there {now} times, of {most}");
            }
        }
    }

    /// A row that refers to none refers to none on one of the sides as well.
    fn check_references(&self) {
        let dangling = |conn: &Connection, table: usize, translate: bool| -> Vec<Vec<Plain>> {
            let spec = &self.specs[table];
            let at = spec.key.columns() + 2;
            let mut found = Vec::new();
            for (column, parent) in
                spec.parent.map(|(p, _)| ("f", p)).into_iter().chain(spec.shared.map(|p| ("k", p)))
            {
                let sql = format!(
                    "SELECT {column} FROM t{table} AS c WHERE {column} IS NOT NULL
                     AND NOT EXISTS(SELECT 1 FROM t{parent} AS p WHERE p.k = c.{column})"
                );
                let mut statement = conn.prepare(&sql).unwrap();
                let mut rows = statement.query([]).unwrap();
                while let Some(row) = rows.next().unwrap() {
                    let value = plain(&row.get(0).unwrap());
                    let column = if column == "f" { at } else { 0 };
                    found.push(vec![if translate {
                        self.moved_column(table, column, &value)
                    } else {
                        value
                    }]);
                }
            }
            found
        };
        for table in 0..self.specs.len() {
            let mut allowed = dangling(&self.case.local, table, true);
            allowed.extend(dangling(&self.case.remote, table, false));
            for value in dangling(&self.done.result, table, false) {
                assert!(allowed.contains(&value), "t{table} refers to no row: {value:?}");
            }
        }
    }
}
