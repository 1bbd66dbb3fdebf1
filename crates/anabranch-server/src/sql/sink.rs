//! Results of cursors: all lines are made before the first one is sent.
//!
//! The client's next request may come while it has not read any of them, and may never read them; so
//! the stream must be free by then. They lie in memory while they are few, then in a nameless
//! temporary file.

use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anabranch_hrana::{Col, CursorEntry, Error, StmtResult, Value};
use anabranch_sql::Done;
use anabranch_store::{Spool, SpoolReader};

use crate::server::App;

/// Lines that lie in memory; what is longer lies in a file.
pub(super) const MEMORY_BYTES: u64 = 1 << 20;
/// No line is longer.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// Lines that are written to, or read from, a file at a time.
const BUFFER_BYTES: usize = 32 << 10;

/// Takes what the steps of a batch come to, in their order. An error of `step_begin`, `row` or
/// `step_end` fails the step; one of the others the batch.
pub(crate) trait BatchSink: Send + 'static {
    /// Forgets everything: the batch is run again from its start.
    fn restart(&mut self) -> Result<(), Error>;
    /// A step was prepared, and has these columns.
    fn step_begin(&mut self, step: u32, cols: Vec<Col>) -> Result<(), Error>;
    /// A row of the step that began last.
    fn row(&mut self, row: Vec<Value>) -> Result<(), Error>;
    /// That step succeeded.
    fn step_end(&mut self, done: &Done) -> Result<(), Error>;
    /// A step failed, before or after it began.
    fn step_error(&mut self, step: u32, error: Error) -> Result<(), Error>;
    /// Longest result of a step that it takes, in bytes as JSON.
    fn bytes_max(&self) -> u64;
}

/// No lines of a cursor yet, as the server keeps them.
pub(super) fn lines(app: &App) -> Lines {
    Lines::new(&app.config.scratch, app.config.sql.cursor)
}

/// The lines of a cursor while they are made.
#[derive(Debug)]
pub(super) struct Lines {
    directory: PathBuf,
    spool: BufWriter<Spool>,
    bytes: u64,
    bytes_max: u64,
}

impl Lines {
    /// No lines yet; a file for them would lie in `directory`. Together they are no longer than
    /// `bytes_max`.
    pub(super) fn new(directory: &Path, bytes_max: u64) -> Self {
        Lines { directory: directory.to_path_buf(), spool: spool(directory), bytes: 0, bytes_max }
    }

    /// Where a file would lie.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn write(&mut self, entry: &CursorEntry, bytes_max: u64) -> Result<(), Error> {
        let mut line = serde_json::to_vec(entry)
            .map_err(|e| Error::new("SQLITE_MISMATCH", format!("a value cannot be sent: {e}")))?;
        line.push(b'\n');
        let bytes = self.bytes + line.len() as u64;
        if bytes > bytes_max {
            let message = format!("the result is longer than {bytes_max} bytes");
            return Err(Error::new("RESPONSE_TOO_LARGE", message));
        }
        self.spool.write_all(&line).map_err(|e| failed(&e))?;
        self.bytes = bytes;
        Ok(())
    }

    /// Adds what must be said, whatever the limit.
    pub(super) fn add(&mut self, entry: &CursorEntry) -> Result<(), Error> {
        self.write(entry, u64::MAX)
    }

    /// The lines, to be read.
    pub(super) fn finish(self) -> Result<SpoolReader, Error> {
        Ok(self.spool.into_inner().map_err(|e| failed(e.error()))?.finish())
    }
}

fn spool(directory: &Path) -> BufWriter<Spool> {
    BufWriter::with_capacity(BUFFER_BYTES, Spool::with_memory(directory, MEMORY_BYTES))
}

fn failed(e: &io::Error) -> Error {
    tracing::warn!(error = %e, "the results of a cursor could not be kept");
    let code = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "SQLITE_FULL",
        _ => "SQLITE_IOERR",
    };
    Error::new(code, format!("the server could not keep the result: {e}"))
}

impl BatchSink for Lines {
    fn restart(&mut self) -> Result<(), Error> {
        (self.spool, self.bytes) = (spool(&self.directory), 0);
        Ok(())
    }

    fn step_begin(&mut self, step: u32, cols: Vec<Col>) -> Result<(), Error> {
        self.write(&CursorEntry::StepBegin { step, cols }, self.bytes_max)
    }

    fn row(&mut self, row: Vec<Value>) -> Result<(), Error> {
        self.write(&CursorEntry::Row { row }, self.bytes_max)
    }

    fn step_end(&mut self, done: &Done) -> Result<(), Error> {
        // One client reads 32 bits.
        let affected_row_count = done.affected_row_count.min(u64::from(u32::MAX));
        let last_insert_rowid = done.last_insert_rowid;
        self.add(&CursorEntry::StepEnd { affected_row_count, last_insert_rowid })
    }

    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    fn step_error(&mut self, step: u32, error: Error) -> Result<(), Error> {
        self.add(&CursorEntry::StepError { step, error })
    }
}

/// The results of a batch, in memory.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) results: Vec<Option<StmtResult>>,
    pub(super) errors: Vec<Option<Error>>,
    /// The step under way.
    current: Option<(u32, StmtResult)>,
    since: Instant,
    bytes: u64,
    bytes_max: u64,
}

/// What a value takes at least, in memory and as JSON.
fn value_bytes(value: &Value) -> u64 {
    32 + match value {
        Value::Text(text) => text.len() as u64,
        Value::Blob(blob) => blob.len() as u64,
        _ => 0,
    }
}

impl Results {
    /// No results yet of so many steps; together they are no longer than `bytes_max`.
    pub(super) fn new(steps: usize, bytes_max: u64) -> Self {
        Results {
            results: vec![None; steps],
            errors: vec![None; steps],
            current: None,
            since: Instant::now(),
            bytes: 0,
            bytes_max,
        }
    }
}

impl BatchSink for Results {
    fn restart(&mut self) -> Result<(), Error> {
        *self = Results::new(self.results.len(), self.bytes_max);
        Ok(())
    }

    fn step_begin(&mut self, step: u32, cols: Vec<Col>) -> Result<(), Error> {
        self.current = Some((step, StmtResult { cols, ..StmtResult::default() }));
        Ok(())
    }

    fn row(&mut self, row: Vec<Value>) -> Result<(), Error> {
        self.bytes += row.iter().map(value_bytes).sum::<u64>();
        if self.bytes > self.bytes_max {
            return Err(Error::new(
                "RESPONSE_TOO_LARGE",
                format!("the results of this batch are longer than {} bytes", self.bytes_max),
            ));
        }
        if let Some((_, current)) = &mut self.current {
            current.rows.push(row);
        }
        Ok(())
    }

    fn step_end(&mut self, done: &Done) -> Result<(), Error> {
        let Some((step, mut result)) = self.current.take() else { return Ok(()) };
        result.affected_row_count = done.affected_row_count;
        result.last_insert_rowid = done.last_insert_rowid;
        result.rows_read = done.rows_read;
        result.rows_written = done.rows_written;
        result.query_duration_ms = self.since.elapsed().as_secs_f64() * 1e3;
        self.since = Instant::now();
        if let Some(slot) = self.results.get_mut(step as usize) {
            *slot = Some(result);
        }
        Ok(())
    }

    fn step_error(&mut self, step: u32, error: Error) -> Result<(), Error> {
        self.current = None;
        if let Some(slot) = self.errors.get_mut(step as usize) {
            *slot = Some(error);
        }
        Ok(())
    }

    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

/// Takes the results of a text, which nobody wants.
#[derive(Debug)]
pub(super) struct Dropped;

impl BatchSink for Dropped {
    fn restart(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn step_begin(&mut self, _step: u32, _cols: Vec<Col>) -> Result<(), Error> {
        Ok(())
    }

    fn row(&mut self, _row: Vec<Value>) -> Result<(), Error> {
        Ok(())
    }

    fn step_end(&mut self, _done: &Done) -> Result<(), Error> {
        Ok(())
    }

    fn step_error(&mut self, _step: u32, _error: Error) -> Result<(), Error> {
        Ok(())
    }

    fn bytes_max(&self) -> u64 {
        u64::MAX
    }
}

/// Entries of a cursor that are fetched bit by bit.
#[derive(Debug)]
pub(super) struct Fetching(Option<BufReader<SpoolReader>>);

impl Fetching {
    pub(super) fn new(lines: SpoolReader) -> Self {
        Fetching(Some(BufReader::with_capacity(BUFFER_BYTES, lines)))
    }

    /// The next entries, as the elements of a JSON list; and whether these were the last. `count` and
    /// `bytes` are how many at most, but one always comes.
    pub(super) fn next(&mut self, count: u32, bytes: usize) -> io::Result<(Vec<u8>, bool)> {
        let mut list = Vec::new();
        let Some(lines) = &mut self.0 else { return Ok((list, true)) };
        for _ in 0..count {
            let from = list.len();
            if from > 0 {
                list.push(b',');
            }
            if lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut list)? == 0 {
                list.truncate(from);
                break;
            }
            list.pop();
            if list.len() >= bytes {
                break;
            }
        }
        let done = lines.fill_buf()?.is_empty();
        if done {
            self.0 = None;
        }
        Ok((list, done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rows: usize) -> Lines {
        let mut lines = Lines::new(&std::env::temp_dir(), 1 << 30);
        lines.step_begin(0, Vec::new()).unwrap();
        for row in 0..rows {
            lines.row(vec![Value::Text(format!("{row:01000}"))]).unwrap();
        }
        lines.step_end(&Done { last_insert_rowid: Some(7), ..Done::default() }).unwrap();
        lines
    }

    #[test]
    fn lines_are_read_back_from_memory_and_from_a_file() {
        for rows in [0, 3, 5000] {
            let mut text = String::new();
            lines(rows).finish().unwrap().read_to_string(&mut text).unwrap();
            let entries: Vec<CursorEntry> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(entries.len(), rows + 2);
            let end = CursorEntry::StepEnd { affected_row_count: 0, last_insert_rowid: Some(7) };
            assert_eq!(entries.last(), Some(&end));
        }
    }

    #[test]
    fn a_run_from_the_start_leaves_nothing_of_the_one_before() {
        let mut again = lines(5000);
        again.restart().unwrap();
        again.step_error(0, Error::new("C", "m")).unwrap();
        let mut text = String::new();
        again.finish().unwrap().read_to_string(&mut text).unwrap();
        let error = "{\"message\":\"m\",\"code\":\"C\"}";
        assert_eq!(text, format!("{{\"type\":\"step_error\",\"step\":0,\"error\":{error}}}\n"));
    }

    #[test]
    fn what_is_too_long_fails_the_step_and_can_still_be_said() {
        let mut lines = lines(1);
        lines.bytes = lines.bytes_max;
        assert_eq!(lines.row(vec![]).unwrap_err().code, "RESPONSE_TOO_LARGE");
        lines.step_error(0, Error::new("C", "m")).unwrap();
        let infinite = Value::Float(f64::INFINITY);
        assert_eq!(lines.row(vec![infinite]).unwrap_err().code, "SQLITE_MISMATCH");
    }

    #[test]
    fn entries_are_fetched_in_lists_within_both_limits() {
        let mut fetching = Fetching::new(lines(3).finish().unwrap());
        let mut fetched = Vec::new();
        let mut done = false;
        for (count, bytes) in [(1, 1 << 20), (3, 1), (0, 1), (100, 1 << 20), (100, 1 << 20)] {
            let (list, last) = fetching.next(count, bytes).unwrap();
            let text = format!("[{}]", String::from_utf8(list).unwrap());
            let entries: Vec<CursorEntry> = serde_json::from_str(&text).unwrap();
            fetched.push(entries.len());
            assert!(last || !done);
            done = last;
        }
        assert_eq!((fetched, done), (vec![1, 1, 0, 3, 0], true));
    }
}
