//! `.import`: rows of a CSV file into a table, all or none.
//!
//! Memory: [`BATCH_ROWS`] records, or [`BATCH_BYTES`] of them and one more, which has at most
//! [`RECORD_BYTES_MAX`].

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anabranch_hrana::{Stmt, Value};
use csv::{ByteRecord, ReaderBuilder};

use super::backend::Backend;
use super::dump::stored_columns;
use super::error::ShellError;
use super::literal::name;
use super::render::distinct;

/// So many rows are sent at a time.
const BATCH_ROWS: usize = 500;
/// Or so many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// A longer record is a mistake, such as a quote that is not closed.
const RECORD_BYTES_MAX: usize = 64 << 20;
/// What is read of the file at a time.
const BUFFER_BYTES: usize = 64 << 10;

const USAGE: &str = "usage: .import [--csv|--tabs] [--skip N] FILE TABLE";

/// What is to be imported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    file: PathBuf,
    table: String,
    delimiter: u8,
    skip: u64,
}

/// What was imported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Imported {
    pub(super) rows: u64,
    /// Records with fewer fields than the table has columns: the rest is NULL.
    pub(super) short: u64,
    /// Records with more: the rest is left out.
    pub(super) long: u64,
    /// The table was made.
    pub(super) created: bool,
}

impl Order {
    /// Understands the words after `.import`.
    pub(super) fn parse(args: &[String]) -> Result<Self, ShellError> {
        let usage = |why: &str| ShellError::Usage(format!("{why}; {USAGE}"));
        let (mut delimiter, mut skip, mut places) = (b',', 0, Vec::new());
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--csv" | "-csv" => delimiter = b',',
                "--tabs" | "-tabs" => delimiter = b'\t',
                "--skip" | "-skip" => {
                    let n = args.next().and_then(|n| n.parse().ok());
                    skip = n.ok_or_else(|| usage("--skip wants a number"))?;
                }
                option if option.starts_with("--") => {
                    return Err(usage(&format!("there is no {option}")));
                }
                place => places.push(place.to_owned()),
            }
        }
        let [file, table] =
            <[String; 2]>::try_from(places).map_err(|_| usage("a file and a table are wanted"))?;
        Ok(Order { file: file.into(), table, delimiter, skip })
    }

    /// Reads the file into the table.
    pub(super) fn run(&self, backend: &mut dyn Backend) -> Result<Imported, ShellError> {
        let records = Records::open(&self.file, self.delimiter)?;
        // In a transaction of the user's only what is done here is taken back.
        let [begin, commit, undo] = if backend.in_transaction() {
            [
                "SAVEPOINT anabranch_import",
                "RELEASE anabranch_import",
                "ROLLBACK TO anabranch_import; RELEASE anabranch_import",
            ]
        } else {
            ["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"]
        };
        backend.just_run(begin)?;
        let imported = self.fill(backend, records).and_then(|imported| {
            backend.just_run(commit)?;
            Ok(imported)
        });
        if imported.is_err() && backend.in_transaction() {
            for sql in undo.split("; ") {
                // The error that led here says more.
                let _ = backend.undo(sql);
            }
        }
        imported
    }

    fn fill(
        &self,
        backend: &mut dyn Backend,
        mut records: Records,
    ) -> Result<Imported, ShellError> {
        for _ in 0..self.skip {
            records.next()?;
        }
        let mut columns = stored_columns(backend, &self.table)?;
        let created = columns.is_empty();
        if created {
            columns = self.create(backend, &mut records)?;
        }
        let marks = vec!["?"; columns.len()].join(",");
        let insert = format!("INSERT INTO {} VALUES({marks})", name(&self.table));
        let mut imported = Imported { rows: 0, short: 0, long: 0, created };
        loop {
            let first = records.read + 1;
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES {
                let Some(fields) = records.next()? else { break };
                bytes += fields.iter().map(String::len).sum::<usize>();
                imported.short += u64::from(fields.len() < columns.len());
                imported.long += u64::from(fields.len() > columns.len());
                let mut args: Vec<Value> = fields.into_iter().map(Value::Text).collect();
                args.resize(columns.len(), Value::Null);
                rows.push(Stmt { args, ..Stmt::new(insert.as_str()) });
            }
            if rows.is_empty() {
                return Ok(imported);
            }
            imported.rows += rows.len() as u64;
            backend.run_all(rows).map_err(|(at, e)| self.at(first + at as u64, e))?;
        }
    }

    /// Makes the table, with the first record's fields as its columns.
    fn create(
        &self,
        backend: &mut dyn Backend,
        records: &mut Records,
    ) -> Result<Vec<String>, ShellError> {
        let header = records.next()?.ok_or_else(|| {
            let file = self.file.display();
            ShellError::Usage(format!("{file} is empty, and there is no table {}", self.table))
        })?;
        let unnamed = header.into_iter().enumerate().map(|(i, field)| match field.as_str() {
            "" => format!("column{}", i + 1),
            _ => field,
        });
        let columns = distinct(&unnamed.collect::<Vec<_>>());
        let defined: Vec<String> = columns.iter().map(|c| format!("{} TEXT", name(c))).collect();
        let sql = format!("CREATE TABLE {}({})", name(&self.table), defined.join(","));
        backend.just_run(&sql)?;
        Ok(columns)
    }

    fn at(&self, record: u64, error: ShellError) -> ShellError {
        match error {
            e @ ShellError::Sql { .. } => {
                ShellError::Import { path: self.file.clone(), record, source: Box::new(e) }
            }
            e => e,
        }
    }
}

/// The records of a file.
struct Records {
    path: PathBuf,
    reader: csv::Reader<Limited<File>>,
    record: ByteRecord,
    left: Rc<Cell<usize>>,
    read: u64,
}

impl Records {
    fn open(path: &Path, delimiter: u8) -> Result<Self, ShellError> {
        let file = File::open(path).map_err(|source| ShellError::File {
            what: "opening",
            path: path.to_owned(),
            source,
        })?;
        let left = Rc::new(Cell::new(0));
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(Limited { file, left: Rc::clone(&left) });
        Ok(Records { path: path.to_owned(), reader, record: ByteRecord::new(), left, read: 0 })
    }

    fn next(&mut self) -> Result<Option<Vec<String>>, ShellError> {
        self.left.set(RECORD_BYTES_MAX);
        let failed = |source| ShellError::File { what: "reading", path: self.path.clone(), source };
        let read = self.reader.read_byte_record(&mut self.record);
        if !read.map_err(|e| failed(io::Error::from(e)))? {
            return Ok(None);
        }
        self.read += 1;
        let first = self.read == 1;
        let fields = self.record.iter().enumerate().map(|(i, field)| {
            let marked = field.strip_prefix(b"\xef\xbb\xbf").filter(|_| first && i == 0);
            String::from_utf8(marked.unwrap_or(field).to_vec())
        });
        fields.collect::<Result<_, _>>().map(Some).map_err(|_| {
            let what = format!("record {} is not UTF-8", self.read);
            failed(io::Error::new(io::ErrorKind::InvalidData, what))
        })
    }
}

/// A file of which only so much is read, until more is allowed.
struct Limited<R> {
    file: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            let what =
                format!("a record has more than {RECORD_BYTES_MAX} bytes: is a quote not closed?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let read = self.file.read(buffer)?;
        self.left.set(self.left.get().saturating_sub(read));
        Ok(read)
    }
}
