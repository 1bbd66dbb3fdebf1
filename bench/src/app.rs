//! The application: stock SQLite in a process of its own, with its defaults.
//!
//! The `sqlite3` program keeps its connection open between calls, as an application does. It is
//! told apart from the SQLite that the library brings along: another version, other options,
//! another process.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// Printed by the program when it is through with what it was given.
const DONE: &str = "through-with-it";

/// A running `sqlite3` that has a database open.
pub(crate) struct App {
    child: Child,
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
}

impl App {
    /// Opens `db`, which is created if need be, in WAL mode.
    pub(crate) fn open(db: &Path) -> Result<Self> {
        let mut child = Command::new("sqlite3")
            .args(["-batch", "-bail"])
            .arg(db)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start the program sqlite3: {e}"))?;
        let input = child.stdin.take().map(BufWriter::new);
        let output = BufReader::new(child.stdout.take().ok_or("sqlite3 has no output")?);
        let mut app = App { child, input, output };
        // A reader's lock must not end a workload.
        app.run(".timeout 60000\nPRAGMA journal_mode=WAL;\nSELECT count(*) FROM sqlite_schema;")?;
        Ok(app)
    }

    /// Carries out `sql` and answers how long it took.
    pub(crate) fn run(&mut self, sql: &str) -> Result<Duration> {
        self.feed(|input| writeln!(input, "{sql}"))
    }

    /// Carries out the script in a file.
    pub(crate) fn script(&mut self, path: &Path) -> Result<Duration> {
        self.run(&format!(".read '{}'", path.display()))
    }

    /// Carries out what `write` writes.
    pub(crate) fn feed(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<Duration> {
        let input = self.input.as_mut().ok_or("sqlite3 was closed")?;
        let start = Instant::now();
        write(input)?;
        writeln!(input, "SELECT '{DONE}';")?;
        input.flush()?;
        let mut line = String::new();
        while line.trim_end() != DONE {
            line.clear();
            if self.output.read_line(&mut line)? == 0 {
                return Err("sqlite3 stopped on an error".into());
            }
        }
        Ok(start.elapsed())
    }

    /// Closes the database: the last connection copies the `-wal` into the file and removes it.
    pub(crate) fn close(mut self) -> Result<()> {
        self.input = None;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("sqlite3 ended with {status}").into()) }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if self.input.take().is_some() {
            // Only after an error elsewhere; that one is reported.
            let _ = self.child.wait();
        }
    }
}

/// Writes a script to a file, so that what is measured is SQLite and not our feeding it.
pub(crate) fn write_script(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write(&mut out)?;
    out.flush()?;
    Ok(())
}
