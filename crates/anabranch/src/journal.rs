//! The conflict journal: every row that did not end as it was written, in the sidecar.
//!
//! | table | row |
//! |---|---|
//! | `conflict` | one conflict: when, between which positions, what happened, what was decided |
//! | `conflict_value` | one value of its key or of one of its three versions, as SQLite stores it |
//!
//! A rebase writes its rows before it commits to the file, under the number of its intent, in the
//! transaction that makes the intent durable. They count once the intent is settled as applied, in
//! the same transaction, and go if it turns out that it was not: so a kill at any point leaves each
//! conflict there exactly once, or, with the change itself, not at all.
//!
//! Each conflict carries a checksum over all it holds; one that does not fit is an error that names
//! it, and hinders no other. Memory: one conflict.

use anabranch_format::{Lsn, Micros, content_hash};
use anabranch_rebase::{Conflict, Decision, Row, Side, Value};
use rusqlite::{Connection, OptionalExtension, Row as Found, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::sidecar::Sidecar;

/// The tables; also made where a sidecar of an earlier version has none.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS conflict(
        id INTEGER PRIMARY KEY AUTOINCREMENT, intent INTEGER, at INTEGER NOT NULL,
        base INTEGER NOT NULL, onto INTEGER NOT NULL, tbl TEXT NOT NULL, kind TEXT NOT NULL,
        decision TEXT NOT NULL, detail TEXT, parts INTEGER NOT NULL, hash INTEGER NOT NULL,
        taken TEXT, taken_at INTEGER);
    CREATE INDEX IF NOT EXISTS conflict_intent ON conflict(intent) WHERE intent IS NOT NULL;
    CREATE TABLE IF NOT EXISTS conflict_value(
        conflict INTEGER NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL, name TEXT NOT NULL,
        value, PRIMARY KEY(conflict, part, pos));";

/// No key or version of a row has more values: SQLite's own limit of columns, and a rowid.
const VALUES_MAX: usize = 32_768;

/// A conflict in the journal.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConflictEntry {
    /// Its number, by which it is resolved.
    pub id: i64,
    /// When it was decided.
    pub time: Micros,
    /// The position that both sides started from.
    pub base: Lsn,
    /// The remote's position at which they met.
    pub remote_lsn: Lsn,
    /// What happened, with the versions of the row.
    pub conflict: Conflict,
    /// What somebody took afterwards, and when.
    pub resolved: Option<(Side, Micros)>,
}

/// Which conflicts are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConflictFilter {
    /// Only those of this table.
    pub table: Option<String>,
    /// Only those that were decided at or after this moment.
    pub since: Option<Micros>,
    /// Those that somebody resolved, too.
    pub resolved: bool,
}

/// Where and when the conflicts of one rebase come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) intent: i64,
    pub(crate) at: Micros,
    pub(crate) base: Lsn,
    pub(crate) onto: Lsn,
}

/// The key and the three versions, in the order in which they are kept.
fn parts(conflict: &Conflict) -> [Option<&Row>; 4] {
    [Some(&conflict.key), conflict.base.as_ref(), conflict.local.as_ref(), conflict.remote.as_ref()]
}

/// Adds up a checksum over one thing after another.
struct Sum(u64);

impl Sum {
    fn add(&mut self, tag: u8, bytes: &[u8]) {
        let mut link = [0; 25];
        link[..8].copy_from_slice(&self.0.to_le_bytes());
        link[8] = tag;
        link[9..17].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        link[17..].copy_from_slice(&content_hash(bytes).to_le_bytes());
        self.0 = content_hash(&link);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.add(0, &[]),
            Value::Integer(n) => self.add(1, &n.to_le_bytes()),
            Value::Real(x) => self.add(2, &x.to_bits().to_le_bytes()),
            Value::Text(text) => self.add(3, text.as_bytes()),
            Value::Blob(bytes) => self.add(4, bytes),
        }
    }
}

fn sum_of(entry: &ConflictEntry) -> i64 {
    let mut sum = Sum(0);
    let conflict = &entry.conflict;
    for number in [entry.time.0.cast_unsigned(), entry.base.get(), entry.remote_lsn.get()] {
        sum.add(10, &number.to_le_bytes());
    }
    let texts = [&conflict.table, &text_of(&conflict.kind), &text_of(&conflict.decision)];
    for text in texts {
        sum.add(11, text.as_bytes());
    }
    if let Some(detail) = &conflict.detail {
        sum.add(12, detail.as_bytes());
    }
    for part in parts(conflict) {
        sum.add(13, &[u8::from(part.is_some())]);
        for (name, value) in part.iter().flat_map(|row| row.columns.iter().zip(&row.values)) {
            sum.add(14, name.as_bytes());
            sum.value(value);
        }
    }
    sum.0.cast_signed()
}

/// What a plain enum is called in JSON, all of it where it holds something.
fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data is always JSON")
}

/// Which of the parts are there, as bits.
fn bits(conflict: &Conflict) -> i64 {
    parts(conflict).iter().rev().fold(0, |bits, part| bits << 1 | i64::from(part.is_some()))
}

impl Sidecar {
    /// Writes a conflict that counts once the intent it belongs to is settled.
    pub(crate) fn put_conflict(&self, origin: &Origin, conflict: Conflict) -> Result<(), Error> {
        let entry = ConflictEntry {
            id: 0,
            time: origin.at,
            base: origin.base,
            remote_lsn: origin.onto,
            conflict,
            resolved: None,
        };
        let hash = sum_of(&entry);
        self.run(|conn| write(conn, origin.intent, &entry, hash))
    }

    /// The conflicts of `intent` count from now on.
    pub(crate) fn confirm_conflicts(&self, intent: i64) -> Result<(), Error> {
        self.run(|conn| {
            conn.execute("UPDATE conflict SET intent = NULL WHERE intent = ?1", [intent])
        })?;
        Ok(())
    }

    /// Forgets the conflicts of `intent`, which was not carried out.
    pub(crate) fn drop_conflicts(&self, intent: i64) -> Result<(), Error> {
        self.run(|conn| {
            conn.execute(
                "DELETE FROM conflict_value
                 WHERE conflict IN (SELECT id FROM conflict WHERE intent = ?1)",
                [intent],
            )?;
            conn.execute("DELETE FROM conflict WHERE intent = ?1", [intent])
        })?;
        Ok(())
    }

    /// Whether conflicts wait for their intent to be decided.
    pub(crate) fn conflicts_wait(&self) -> Result<bool, Error> {
        self.run(|conn| {
            conn.query_row(
                "SELECT EXISTS (SELECT 1 FROM conflict WHERE intent IS NOT NULL)",
                [],
                |row| row.get(0),
            )
        })
    }

    /// The numbers of the conflicts that are wanted, oldest first.
    pub(crate) fn conflict_ids(&self, filter: &ConflictFilter) -> Result<Vec<i64>, Error> {
        let since = filter.since.map_or(i64::MIN, |since| since.0);
        self.run(|conn| {
            let mut statement = conn.prepare(
                "SELECT id FROM conflict WHERE intent IS NULL AND at >= ?1
                   AND (?2 IS NULL OR tbl = ?2 COLLATE NOCASE) AND (?3 OR taken IS NULL)
                 ORDER BY id",
            )?;
            let ids = statement
                .query_map(params![since, filter.table, filter.resolved], |row| row.get(0))?;
            ids.collect()
        })
    }

    /// Reads a conflict that counts; `None` if there is none of that number.
    pub(crate) fn conflict(&self, id: i64) -> Result<Option<ConflictEntry>, Error> {
        let Some((raw, hash)) = self.run(|conn| read(conn, id))? else { return Ok(None) };
        let decoded = raw.decode(id).filter(|entry| sum_of(entry) == hash);
        let damaged = || self.damaged(&format!("conflict {id} in it does not have its checksum"));
        decoded.map(Some).ok_or_else(damaged)
    }

    /// Which rowid the local row has by now to which the conflict `id` gave the rowid `to`: as long as it
    /// was not sent, later ones may have moved it on. Another row may stand under `to` by then.
    pub(crate) fn renumbered_since(
        &self,
        id: i64,
        conflict: &Conflict,
        mut to: i64,
    ) -> Result<i64, Error> {
        let table = Some(conflict.table.clone());
        let all = ConflictFilter { table, since: None, resolved: true };
        for later in self.conflict_ids(&all)?.into_iter().filter(|later| *later > id) {
            let entry = match self.conflict(later) {
                Ok(Some(entry)) => entry,
                // A damaged one hinders no other.
                Ok(None) | Err(Error::SidecarDamaged { .. }) => continue,
                Err(e) => return Err(e),
            };
            if let Decision::Renumbered(next) = entry.conflict.decision
                && entry.conflict.key.values == [Value::Integer(to)]
            {
                to = next;
            }
        }
        Ok(to)
    }

    /// Notes that somebody took `side` of a conflict.
    pub(crate) fn resolve_conflict(&self, id: i64, side: Side, at: Micros) -> Result<(), Error> {
        let taken = text_of(&side);
        self.run(|conn| {
            conn.execute(
                "UPDATE conflict SET taken = ?2, taken_at = ?3 WHERE id = ?1",
                params![id, taken, at.0],
            )
        })?;
        Ok(())
    }
}

fn write(conn: &Connection, intent: i64, entry: &ConflictEntry, hash: i64) -> rusqlite::Result<()> {
    let conflict = &entry.conflict;
    conn.prepare_cached(
        "INSERT INTO conflict(intent, at, base, onto, tbl, kind, decision, detail, parts, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        intent,
        entry.time.0,
        entry.base.get().cast_signed(),
        entry.remote_lsn.get().cast_signed(),
        conflict.table,
        text_of(&conflict.kind),
        text_of(&conflict.decision),
        conflict.detail,
        bits(conflict),
        hash,
    ])?;
    let id = conn.last_insert_rowid();
    let mut insert = conn.prepare_cached(
        "INSERT INTO conflict_value(conflict, part, pos, name, value) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (part, row) in (0..).zip(parts(conflict)) {
        let Some(row) = row else { continue };
        for (pos, (name, value)) in (0..).zip(row.columns.iter().zip(&row.values)) {
            insert.execute(params![id, part, pos, name, value])?;
        }
    }
    Ok(())
}

/// A conflict as it stands in its tables.
struct Raw {
    at: i64,
    base: i64,
    onto: i64,
    table: String,
    kind: String,
    decision: String,
    detail: Option<String>,
    bits: i64,
    taken: Option<String>,
    taken_at: Option<i64>,
    /// Names and values of each part.
    values: [(Vec<String>, Vec<Value>); 4],
}

fn read(conn: &Connection, id: i64) -> rusqlite::Result<Option<(Raw, i64)>> {
    let found = conn
        .query_row(
            "SELECT at, base, onto, tbl, kind, decision, detail, parts, taken, taken_at, hash
             FROM conflict WHERE id = ?1 AND intent IS NULL",
            [id],
            |row: &Found<'_>| {
                let raw = Raw {
                    at: row.get(0)?,
                    base: row.get(1)?,
                    onto: row.get(2)?,
                    table: row.get(3)?,
                    kind: row.get(4)?,
                    decision: row.get(5)?,
                    detail: row.get(6)?,
                    bits: row.get(7)?,
                    taken: row.get(8)?,
                    taken_at: row.get(9)?,
                    values: Default::default(),
                };
                Ok((raw, row.get(10)?))
            },
        )
        .optional()?;
    let Some((mut raw, hash)) = found else { return Ok(None) };
    let mut statement = conn.prepare_cached(
        "SELECT part, name, value FROM conflict_value WHERE conflict = ?1 ORDER BY part, pos",
    )?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        let part = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX);
        // What is too much, or belongs nowhere, makes the checksum wrong.
        if let Some((names, values)) = raw.values.get_mut(part)
            && names.len() < VALUES_MAX
        {
            names.push(row.get(1)?);
            values.push(row.get(2)?);
        }
    }
    Ok(Some((raw, hash)))
}

impl Raw {
    /// `None` if it is none that was ever written.
    fn decode(self, id: i64) -> Option<ConflictEntry> {
        fn plain<T: DeserializeOwned>(text: &str) -> Option<T> {
            serde_json::from_str(text).ok()
        }
        let mut bits = self.bits;
        let mut rows = self.values.map(|(names, values)| {
            let there = bits & 1 == 1;
            bits >>= 1;
            there.then(|| Row { columns: names.into(), values })
        });
        let resolved = match (self.taken, self.taken_at) {
            (Some(side), Some(at)) => Some((plain(&side)?, Micros(at))),
            _ => None,
        };
        let conflict = Conflict {
            table: self.table,
            key: rows[0].take()?,
            kind: plain(&self.kind)?,
            base: rows[1].take(),
            local: rows[2].take(),
            remote: rows[3].take(),
            decision: plain::<Decision>(&self.decision)?,
            detail: self.detail,
        };
        Some(ConflictEntry {
            id,
            time: Micros(self.at),
            base: Lsn::new(self.base.cast_unsigned()),
            remote_lsn: Lsn::new(self.onto.cast_unsigned()),
            conflict,
            resolved,
        })
    }
}

#[cfg(test)]
mod tests;
