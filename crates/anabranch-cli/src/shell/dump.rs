//! `.dump`: the database as SQL text that any `sqlite3` reads back.
//!
//! All is read in one transaction, table by table, in pages of about [`PAGE_BYTES`] that each begin
//! after the key at which the one before ended: so memory stays bounded, also where an answer is one
//! object, and nothing is sorted. If reading fails half-way, no COMMIT is written, and what was written
//! reads back as nothing.
//!
//! Values come exactly as they are stored, whatever carries them: text is asked for as a blob, for it
//! need not be UTF-8; a blob then as hexadecimal text, so that both stay apart; and an infinite number,
//! which JSON does not have, by its sign.

use std::io::Write;

use anabranch_hrana::Value;

use super::backend::{Backend, text_of};
use super::error::ShellError;
use super::literal::{hex, literal, name, quoted, text_bytes_literal, text_literal, unhex};

/// About so many bytes of values are asked for at a time.
const PAGE_BYTES: usize = 1 << 20;
/// Rows of the first page of a table, and of any.
const PAGE_ROWS: (usize, usize) = (100, 10_000);

/// How the database stores text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

/// What the pages of a table go by.
#[derive(Debug)]
enum Key {
    /// The row id, by a name that no column has.
    Rowid(&'static str),
    /// Columns of the primary key: their places among all, and the expressions to compare.
    Primary(Vec<(usize, String)>),
    /// Nothing: rows are counted.
    None,
}

/// Writes all tables, or those whose names are like one of `patterns`.
pub(super) fn dump(
    backend: &mut dyn Backend,
    out: &mut dyn Write,
    patterns: &[String],
) -> Result<(), ShellError> {
    let ours = !backend.in_transaction();
    if ours {
        backend.just_run("BEGIN")?;
    }
    let dumped = Dump::new(backend, out).and_then(|mut dump| dump.all(patterns));
    if ours {
        let ended = backend.undo("ROLLBACK");
        return dumped.and(ended);
    }
    dumped
}

struct Dump<'a> {
    backend: &'a mut dyn Backend,
    out: &'a mut dyn Write,
    encoding: Encoding,
}

/// An entry of the schema.
struct Entry {
    kind: String,
    name: String,
    sql: String,
}

impl<'a> Dump<'a> {
    fn new(backend: &'a mut dyn Backend, out: &'a mut dyn Write) -> Result<Self, ShellError> {
        let encoding = backend.rows("PRAGMA encoding", &[])?;
        let encoding = match text_of(encoding.first().and_then(|row| row.first())) {
            "UTF-16le" => Encoding::Utf16Le,
            "UTF-16be" => Encoding::Utf16Be,
            _ => Encoding::Utf8,
        };
        Ok(Dump { backend, out, encoding })
    }

    fn all(&mut self, patterns: &[String]) -> Result<(), ShellError> {
        self.out.write_all(b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n")?;
        let mut writable = false;
        for table in self.entries("type = 'table'", "name", patterns)? {
            self.table(&table, &mut writable)?;
        }
        for entry in self.entries("type IN ('index', 'trigger', 'view')", "tbl_name", patterns)? {
            writeln!(self.out, "{};", entry.sql)?;
        }
        if writable {
            self.out.write_all(b"PRAGMA writable_schema=OFF;\n")?;
        }
        self.out.write_all(b"COMMIT;\n")?;
        Ok(())
    }

    /// What the schema has of this kind, in the order in which it was made; the counters of row ids come
    /// last, for filling the tables moves them. With a virtual table come those that it keeps its own
    /// things in.
    fn entries(
        &mut self,
        kind: &str,
        column: &str,
        patterns: &[String],
    ) -> Result<Vec<Entry>, ShellError> {
        let likes: Vec<String> = (1..=patterns.len())
            .map(|n| {
                format!(
                    "o.{column} LIKE ?{n} ESCAPE '\\' OR EXISTS (SELECT 1 FROM sqlite_master AS v \
                     WHERE v.name LIKE ?{n} ESCAPE '\\' AND v.sql LIKE 'CREATE VIRTUAL TABLE%' AND \
                     substr(o.name, 1, length(v.name) + 1) = v.name || '_')"
                )
            })
            .collect();
        let wanted = if likes.is_empty() { "1".to_owned() } else { likes.join(" OR ") };
        let sql = format!(
            "SELECT o.type, o.name, o.sql FROM sqlite_master AS o WHERE o.sql IS NOT NULL AND {kind} \
             AND ({wanted}) ORDER BY o.name = 'sqlite_sequence', o.rowid"
        );
        let args: Vec<Value> = patterns.iter().cloned().map(Value::Text).collect();
        let rows = self.backend.rows(&sql, &args)?;
        Ok(rows
            .iter()
            .map(|row| Entry {
                kind: text_of(row.first()).to_owned(),
                name: text_of(row.get(1)).to_owned(),
                sql: text_of(row.get(2)).to_owned(),
            })
            .collect())
    }

    fn table(&mut self, table: &Entry, writable: &mut bool) -> Result<(), ShellError> {
        let Entry { kind, name, sql } = table;
        if name == "sqlite_sequence" {
            self.out.write_all(b"DELETE FROM sqlite_sequence;\n")?;
        } else if name == "sqlite_stat1" {
            self.out.write_all(b"ANALYZE sqlite_schema;\n")?;
        } else if name.starts_with("sqlite_") {
            // Also finer statistics, which not every SQLite has: ANALYZE makes them anew.
            return Ok(());
        } else if starts_with(sql, "CREATE VIRTUAL TABLE") {
            if !std::mem::replace(writable, true) {
                self.out.write_all(b"PRAGMA writable_schema=ON;\n")?;
            }
            let (name, sql) = (quoted(name), text_literal(sql));
            writeln!(
                self.out,
                "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)VALUES({},{name},{name},0,{sql});",
                quoted(kind)
            )?;
            return Ok(());
        } else if starts_with(sql, "CREATE TABLE '") || starts_with(sql, "CREATE TABLE \"") {
            // Perhaps a virtual table's own, which may have made it by then.
            let rest = sql.get("CREATE TABLE ".len()..).unwrap_or_default();
            writeln!(self.out, "CREATE TABLE IF NOT EXISTS {rest};")?;
        } else {
            writeln!(self.out, "{sql};")?;
        }
        self.rows_of(name)
    }

    /// Writes the rows of a table, page by page.
    fn rows_of(&mut self, table: &str) -> Result<(), ShellError> {
        let columns = stored_columns(self.backend, table)?;
        let key = self.key_of(table, &columns)?;
        let query = Query::new(table, &columns, key);
        let insert = format!("INSERT INTO {} VALUES(", name(table));
        let (mut limit, mut after, mut count) = (PAGE_ROWS.0, None, 0);
        loop {
            let (sql, args) = query.page(after.as_deref(), limit, count);
            let rows = match self.backend.rows(&sql, &args) {
                Err(e) if e.has_code("RESPONSE_TOO_LARGE") && limit > 1 => {
                    limit = (limit / 8).max(1);
                    continue;
                }
                rows => rows?,
            };
            let bytes: usize = rows.iter().flatten().map(size).sum();
            for row in &rows {
                let values = row.iter().take(columns.len());
                let values: Vec<String> = values.map(|value| self.literal(value)).collect();
                writeln!(self.out, "{insert}{});", values.join(","))?;
            }
            count += rows.len();
            let Some(last) = rows.last().filter(|_| rows.len() >= limit) else { return Ok(()) };
            after = Some(query.key_in(last, self.encoding)?);
            let fitting = (limit * PAGE_BYTES / bytes.max(1)).min(limit * 4);
            limit = fitting.clamp(1, PAGE_ROWS.1);
        }
    }

    /// What the pages of a table can go by.
    fn key_of(&mut self, table: &str, columns: &[String]) -> Result<Key, ShellError> {
        let is_column = |name: &str| columns.iter().any(|c| c.eq_ignore_ascii_case(name));
        let alias = ["rowid", "_rowid_", "oid"].into_iter().find(|alias| !is_column(alias));
        if let Some(alias) = alias {
            let sql = format!("SELECT {alias} FROM {} LIMIT 0", name(table));
            match self.backend.rows(&sql, &[]) {
                Ok(_) => return Ok(Key::Rowid(alias)),
                // The table has no row ids.
                Err(ShellError::Sql { .. }) if self.backend.in_transaction() => {}
                Err(e) => return Err(e),
            }
        }
        let indexes = self.backend.rows(&format!("PRAGMA index_list({})", name(table)), &[])?;
        let primary = indexes.iter().find(|row| text_of(row.get(3)) == "pk");
        let Some(primary) = primary.map(|row| text_of(row.get(1)).to_owned()) else {
            return Ok(Key::None);
        };
        let parts = self.backend.rows(&format!("PRAGMA index_xinfo({})", name(&primary)), &[])?;
        let parts = parts.iter().filter(|row| row.get(5) == Some(&Value::Integer(1)));
        let parts = parts.map(|row| {
            let (column, collation) = (text_of(row.get(2)), text_of(row.get(4)));
            let at = columns.iter().position(|c| c == column)?;
            Some((at, format!("{} COLLATE {}", name(column), name(collation))))
        });
        Ok(parts.collect::<Option<Vec<_>>>().map_or(Key::None, Key::Primary))
    }

    fn literal(&self, value: &Value) -> String {
        match Stored::of(value, self.encoding) {
            Stored::Same(value) => literal(value),
            Stored::Text(bytes) => text_bytes_literal(&bytes),
            Stored::Blob(bytes) => format!("X'{}'", hex(&bytes)),
            Stored::Infinite(x) => super::literal::float(x),
        }
    }
}

/// The columns of a table that hold values of their own.
pub(super) fn stored_columns(
    backend: &mut dyn Backend,
    table: &str,
) -> Result<Vec<String>, ShellError> {
    let rows = backend.rows(&format!("PRAGMA table_xinfo({})", name(table)), &[])?;
    let stored = rows.iter().filter(|row| row.get(6) == Some(&Value::Integer(0)));
    Ok(stored.map(|row| text_of(row.get(1)).to_owned()).collect())
}

/// A value as it is stored, made from what [`Query`] asks for.
enum Stored<'v> {
    Same(&'v Value),
    Text(Vec<u8>),
    Blob(Vec<u8>),
    Infinite(f64),
}

impl<'v> Stored<'v> {
    fn of(value: &'v Value, encoding: Encoding) -> Self {
        match value {
            Value::Blob(bytes) => Stored::Text(match encoding {
                Encoding::Utf8 => bytes.to_vec(),
                Encoding::Utf16Le => utf16(bytes, u16::from_le_bytes),
                Encoding::Utf16Be => utf16(bytes, u16::from_be_bytes),
            }),
            Value::Text(text) if text == "+" => Stored::Infinite(f64::INFINITY),
            Value::Text(text) if text == "-" => Stored::Infinite(f64::NEG_INFINITY),
            Value::Text(text) => unhex(text).map_or(Stored::Same(value), Stored::Blob),
            value => Stored::Same(value),
        }
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Vec<u8> {
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let chars = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
    chars.collect::<String>().into_bytes()
}

/// Asks for the pages of a table.
struct Query {
    select: String,
    key: Key,
}

impl Query {
    fn new(table: &str, columns: &[String], key: Key) -> Self {
        let mut parts: Vec<String> = columns.iter().map(|column| asked(&name(column))).collect();
        if let Key::Rowid(alias) = key {
            parts.push(alias.to_owned());
        }
        let select = format!("SELECT {} FROM {}", parts.join(","), name(table));
        Query { select, key }
    }

    /// The page of at most `limit` rows behind the key `after`, or behind the first `count` rows.
    fn page(&self, after: Option<&[Value]>, limit: usize, count: usize) -> (String, Vec<Value>) {
        let select = &self.select;
        let args = after.map(<[Value]>::to_vec).unwrap_or_default();
        let row = |parts: Vec<String>| match parts.as_slice() {
            [one] => one.clone(),
            many => format!("({})", many.join(",")),
        };
        let behind = |key: String| match args.len() {
            0 => String::new(),
            n => format!(" WHERE {key} > {}", row((1..=n).map(|n| format!("?{n}")).collect())),
        };
        let sql = match &self.key {
            Key::Rowid(alias) => {
                let behind = behind((*alias).to_owned());
                format!("{select}{behind} ORDER BY {alias} LIMIT {limit}")
            }
            Key::Primary(parts) => {
                let parts: Vec<String> = parts.iter().map(|(_, part)| part.clone()).collect();
                let order = parts.join(",");
                format!("{select}{} ORDER BY {order} LIMIT {limit}", behind(row(parts)))
            }
            Key::None => format!("{select} LIMIT {limit} OFFSET {count}"),
        };
        (sql, args)
    }

    /// The key of a row that came.
    fn key_in(&self, row: &[Value], encoding: Encoding) -> Result<Vec<Value>, ShellError> {
        match &self.key {
            Key::None => Ok(Vec::new()),
            Key::Rowid(_) => Ok(row.last().cloned().into_iter().collect()),
            Key::Primary(parts) => {
                parts.iter().map(|(at, _)| key_value(row.get(*at), encoding)).collect()
            }
        }
    }
}

/// A value of a key, to be bound.
fn key_value(value: Option<&Value>, encoding: Encoding) -> Result<Value, ShellError> {
    Ok(match Stored::of(value.unwrap_or(&Value::Null), encoding) {
        Stored::Same(value) => value.clone(),
        Stored::Blob(bytes) => Value::Blob(bytes.into()),
        Stored::Infinite(x) => Value::Float(x),
        Stored::Text(bytes) => Value::Text(String::from_utf8(bytes).map_err(|_| {
            let what =
                "a primary key holds text that is not UTF-8, by which rows cannot be asked for";
            ShellError::Usage(what.to_owned())
        })?),
    })
}

/// What is asked for instead of the column: see the module.
fn asked(column: &str) -> String {
    format!(
        "CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) WHEN 'blob' THEN hex({column}) \
         WHEN 'real' THEN CASE WHEN {column}=9e999 THEN '+' WHEN {column}=-9e999 THEN '-' ELSE \
         {column} END ELSE {column} END"
    )
}

fn starts_with(sql: &str, what: &str) -> bool {
    sql.get(..what.len()).is_some_and(|start| start.eq_ignore_ascii_case(what))
}

/// About what a value takes on its way.
fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}
