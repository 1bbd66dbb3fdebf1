//! One shell at work: what it is given line by line, and what it does about it.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anabranch_hrana::Stmt;

use super::backend::{Backend, Interrupt};
use super::commands::Told;
use super::error::{Refused, ShellError};
use super::output::Output;
use super::remote::only_writes;
use super::render::{Renderer, Settings};
use super::split::{STATEMENT_BYTES_MAX, Splitter, Statement};
use crate::failure::Failure;
use crate::human::counted;
use crate::output;

/// So many statements that only write go to a server at a time.
const GROUP_MAX: usize = 200;
/// Or so many bytes of them.
const GROUP_BYTES: usize = 256 << 10;
/// What is read of an input at a time.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// Whether the shell goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    Quit,
}

/// A shell.
pub(super) struct Session {
    pub(super) backend: Box<dyn Backend>,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) settings: Settings,
    pub(super) out: Output,
    /// The first error ends it.
    pub(super) bail: bool,
    /// Errors are told as JSON.
    pub(super) json: bool,
    pub(super) is_interactive: bool,
    /// Errors name the line of an input that has no name.
    pub(super) tells_lines: bool,
    pub(super) timer: bool,
    pub(super) changes: bool,
    /// Something failed and was told.
    pub(super) failed: bool,
    /// How many files read one another.
    pub(super) depth: usize,
    /// Statements that wait to be sent together, and their length.
    group: Vec<Statement>,
    group_bytes: usize,
}

impl Session {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        interrupt: Arc<Interrupt>,
        settings: Settings,
        out: Output,
    ) -> Self {
        Session {
            backend,
            interrupt,
            settings,
            out,
            bail: true,
            json: false,
            is_interactive: false,
            tells_lines: false,
            timer: false,
            changes: false,
            failed: false,
            depth: 0,
            group: Vec::new(),
            group_bytes: 0,
        }
    }

    /// Does what all lines of `input` say.
    pub(super) fn read<R: Read>(
        &mut self,
        input: &mut BufReader<R>,
        name: Option<&Path>,
    ) -> Result<Next, Refused> {
        let mut splitter = Splitter::default();
        let (mut line, mut is_first) = (Vec::new(), true);
        let failed = |source| {
            let path = name.unwrap_or_else(|| Path::new("standard input")).to_owned();
            let error = ShellError::File { what: "reading", path, source };
            Refused::new(error, String::new(), "")
        };
        loop {
            line.clear();
            let read = input.take(STATEMENT_BYTES_MAX as u64).read_until(b'\n', &mut line);
            if read.map_err(failed)? == 0 {
                break;
            }
            let text = std::str::from_utf8(&line).map_err(|_| {
                failed(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
            })?;
            // Editors of some systems mark UTF-8 so.
            let text = if is_first { text.trim_start_matches('\u{feff}') } else { text };
            is_first = false;
            if self.line(&mut splitter, text, name)? == Next::Quit {
                return Ok(Next::Quit);
            }
            if input.buffer().is_empty() {
                // Whoever writes the next line may wait for what comes of this one.
                self.send_group(name)?;
            }
        }
        if let Some(statement) = splitter.rest() {
            self.statement(statement, name)?;
        }
        self.send_group(name)?;
        Ok(Next::Go)
    }

    /// Does what a text says that was given as a whole.
    pub(super) fn text(&mut self, text: &str) -> Result<Next, Refused> {
        self.read(&mut BufReader::new(text.as_bytes()), None)
    }

    /// Takes one line.
    fn line(
        &mut self,
        splitter: &mut Splitter,
        text: &str,
        name: Option<&Path>,
    ) -> Result<Next, Refused> {
        if splitter.is_between() && text.starts_with('.') {
            splitter.skip_line();
            self.send_group(name)?;
            let done = self.command(text);
            let place = self.place(splitter.line() - 1, name);
            return self.settle(done.map_err(|e| match e {
                Told::Here(error) => Refused::new(error, place, ""),
                Told::Elsewhere(refused) => *refused,
            }));
        }
        let pushed = splitter.push(text);
        if pushed.is_err() {
            let error = ShellError::Usage(format!(
                "a statement is longer than {STATEMENT_BYTES_MAX} bytes: is a quote not closed?"
            ));
            return Err(Refused::new(error, self.place(splitter.line(), name), ""));
        }
        while let Some(statement) = splitter.next() {
            self.statement(statement, name)?;
        }
        Ok(Next::Go)
    }

    /// Runs a statement, or lets it wait for others. An error is told here, unless it ends everything.
    fn statement(&mut self, statement: Statement, name: Option<&Path>) -> Result<(), Refused> {
        let may_wait = self.bail && !self.changes && !self.timer && self.backend.is_far();
        if may_wait && only_writes(&statement.sql) {
            self.group_bytes += statement.sql.len();
            self.group.push(statement);
            if self.group.len() >= GROUP_MAX || self.group_bytes >= GROUP_BYTES {
                self.send_group(name)?;
            }
            return Ok(());
        }
        self.send_group(name)?;
        self.run_one(&statement, name)
    }

    /// Runs the statements that wait; the first that fails ends it, as it would one by one.
    fn send_group(&mut self, name: Option<&Path>) -> Result<(), Refused> {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        if let [only] = group.as_slice() {
            return self.run_one(only, name);
        }
        if group.is_empty() {
            return Ok(());
        }
        self.calm();
        let was_open = self.backend.in_transaction();
        let statements = group.iter().map(|statement| Stmt::new(statement.sql.as_str()));
        self.backend.run_all(statements.collect()).map_err(|(at, error)| {
            let (sql, line) = group.get(at).map_or(("", 0), |s| (s.sql.as_str(), s.line));
            let is_rolled_back = was_open && !self.backend.in_transaction();
            Refused { is_rolled_back, ..Refused::new(error, self.place(line, name), sql) }
        })
    }

    fn run_one(&mut self, statement: &Statement, name: Option<&Path>) -> Result<(), Refused> {
        let was_open = self.backend.in_transaction();
        let ran = self.run(&statement.sql).map(|()| Next::Go);
        let is_gone = was_open && !self.backend.in_transaction();
        let ran = ran.map_err(|error| {
            let place = self.place(statement.line, name);
            Refused { is_rolled_back: is_gone, ..Refused::new(error, place, &statement.sql) }
        });
        self.settle(ran).map(|_| ())
    }

    /// After Ctrl-C a person goes on; a script ends, whatever it is about to do.
    pub(super) fn calm(&self) {
        if self.is_interactive {
            self.interrupt.clear();
        }
    }

    /// Where in the input something stands, if it needs to be told.
    fn place(&self, line: u64, name: Option<&Path>) -> String {
        match name {
            Some(name) => format!("{}, line {line}", name.display()),
            None if self.tells_lines => format!("line {line}"),
            None => String::new(),
        }
    }

    /// Tells an error and goes on, or ends.
    fn settle(&mut self, done: Result<Next, Refused>) -> Result<Next, Refused> {
        let flushed = self.out.flush();
        let refused = match (done, flushed) {
            (Ok(next), Ok(())) => return Ok(next),
            (Err(refused), _) => refused,
            (Ok(_), Err(e)) => Refused::new(ShellError::Output(e), String::new(), ""),
        };
        let is_end = matches!(*refused.error, ShellError::Output(_))
            // A person goes on, but not with the rest of a file.
            || (matches!(*refused.error, ShellError::Interrupted)
                && (!self.is_interactive || self.depth > 0));
        if self.bail || is_end {
            return Err(refused);
        }
        self.failed = true;
        output::tell(&Failure::Shell(Box::new(refused)), self.json);
        Ok(Next::Go)
    }

    fn run(&mut self, sql: &str) -> Result<(), ShellError> {
        self.calm();
        let started = Instant::now();
        let mut renderer = Renderer::new(&mut self.out, &self.settings);
        let done = self.backend.run(sql, &[], &mut renderer)?;
        renderer.finish()?;
        if self.changes {
            let rowid = done.last_rowid.map(|id| format!(", last row id {id}"));
            let rows = counted(done.changes, "row");
            writeln!(self.out, "{rows} written{}", rowid.unwrap_or_default())?;
        }
        if self.timer {
            let took = started.elapsed().as_secs_f64();
            let server = done.server_ms.map(|ms| format!(", {:.3} s at the server", ms / 1000.0));
            writeln!(self.out, "took {took:.3} s{}", server.unwrap_or_default())?;
        }
        Ok(())
    }
}
