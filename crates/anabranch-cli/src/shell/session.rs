//! One shell at work: what it is given line by line, and what it does about it.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anabranch_hrana::{Stmt, Value};
use unicode_width::UnicodeWidthStr as _;

use super::backend::{Backend, Interrupt, text_of};
use super::dot::{self, Command};
use super::dump::dump;
use super::error::{Refused, ShellError};
use super::import::Order;
use super::output::Output;
use super::remote::only_writes;
use super::render::{Mode, Renderer, Settings};
use super::split::{STATEMENT_BYTES_MAX, Splitter, Statement};
use crate::failure::Failure;
use crate::human::counted;
use crate::output;

/// Files that read files, at most so deep.
const DEPTH_MAX: usize = 16;
/// So many statements that only write go to a server at a time.
const GROUP_MAX: usize = 200;
/// Or so many bytes of them.
const GROUP_BYTES: usize = 256 << 10;
/// What is read of an input at a time.
pub(super) const BUFFER_BYTES: usize = 256 << 10;
/// Names are listed in columns of so many characters together.
const LIST_WIDTH: usize = 80;

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
    depth: usize,
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
        let mut line = Vec::new();
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
    fn calm(&self) {
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
        let is_end = matches!(refused.error, ShellError::Output(_))
            || (matches!(refused.error, ShellError::Interrupted) && !self.is_interactive);
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

    fn command(&mut self, line: &str) -> Result<Next, Told> {
        let command = Command::parse(line)?;
        self.calm();
        match command.name {
            "quit" | "exit" => return Ok(Next::Quit),
            "bail" => self.bail = command.switch()?,
            "changes" => self.changes = command.switch()?,
            "dump" => dump(&mut *self.backend, &mut self.out, &command.args)?,
            "headers" => self.settings.headers = Some(command.switch()?),
            "help" => self.out.write_all(dot::help().as_bytes()).map_err(ShellError::from)?,
            "import" => self.import(&command)?,
            "indexes" => self.names("type = 'index'", "tbl_name", command.at_most_one()?)?,
            "mode" => self.mode(&command)?,
            "nullvalue" => self.settings.null = Some(command.one()?.to_owned()),
            "output" => {
                self.out.flush().map_err(ShellError::from)?;
                self.out = match command.at_most_one()? {
                    Some(path) => Output::file(Path::new(path))?,
                    None => Output::standard(),
                };
            }
            "print" => {
                writeln!(self.out, "{}", command.args.join(" ")).map_err(ShellError::from)?;
            }
            "read" => return self.read_file(Path::new(command.one()?)),
            "schema" => self.schema(command.at_most_one()?)?,
            "separator" => self.settings.separator = command.one()?.to_owned(),
            "show" => self.show()?,
            "tables" => {
                self.names("type IN ('table', 'view')", "name", command.at_most_one()?)?;
            }
            "timer" => self.timer = command.switch()?,
            _ => return Err(command.usage().into()),
        }
        Ok(Next::Go)
    }

    fn mode(&mut self, command: &Command) -> Result<(), ShellError> {
        let (name, table) = match command.args.as_slice() {
            [] => {
                writeln!(self.out, "{}", self.settings.mode.name())?;
                return Ok(());
            }
            [name] => (name, None),
            [name, table] => (name, Some(table)),
            _ => return Err(command.usage()),
        };
        let known = Mode::ALL.iter().find(|(known, _)| known == name);
        let Some((_, mode)) = known else {
            let names = Mode::ALL.iter().map(|(known, _)| *known);
            let all: Vec<&str> = names.clone().collect();
            let near = dot::nearest(name, names).map(|near| format!(", do you mean {near}?"));
            return Err(ShellError::Usage(format!(
                "there is no mode {}{}; there are {}",
                super::clean::one_line(name),
                near.unwrap_or_default(),
                all.join(", ")
            )));
        };
        self.settings.mode = *mode;
        if let Some(table) = table {
            self.settings.insert_into.clone_from(table);
        }
        Ok(())
    }

    fn import(&mut self, command: &Command) -> Result<(), ShellError> {
        let imported = Order::parse(&command.args)?.run(&mut *self.backend)?;
        if !self.is_interactive && imported.short + imported.long == 0 {
            return Ok(());
        }
        let mut said = format!("{} imported", counted(imported.rows, "row"));
        if imported.created {
            said += " into a new table";
        }
        if imported.short > 0 {
            said += &format!("; short of fields, with NULL for them: {}", imported.short);
        }
        if imported.long > 0 {
            said += &format!("; with fields too many, left out: {}", imported.long);
        }
        // Beside the results, for they may be read by a program.
        let _ = writeln!(io::stderr(), "{said}");
        Ok(())
    }

    fn read_file(&mut self, path: &Path) -> Result<Next, Told> {
        if self.depth == DEPTH_MAX {
            let what = format!("files read files, more than {DEPTH_MAX} deep");
            return Err(ShellError::Usage(what).into());
        }
        let file = std::fs::File::open(path).map_err(|source| ShellError::File {
            what: "opening",
            path: path.to_owned(),
            source,
        })?;
        self.depth += 1;
        let done = self.read(&mut BufReader::with_capacity(BUFFER_BYTES, file), Some(path));
        self.depth -= 1;
        done.map_err(|refused| Told::Elsewhere(Box::new(refused)))
    }

    fn show(&mut self) -> Result<(), ShellError> {
        let on = |switch: bool| if switch { "on" } else { "off" };
        let Settings { mode, headers, null, separator, insert_into } = &self.settings;
        let usual = "as is usual for the mode";
        writeln!(self.out, "     bail  {}", on(self.bail))?;
        writeln!(self.out, "  changes  {}", on(self.changes))?;
        writeln!(self.out, "  headers  {}", headers.map_or(usual, on))?;
        writeln!(self.out, "     mode  {} (inserts into {insert_into:?})", mode.name())?;
        match null {
            Some(null) => writeln!(self.out, "nullvalue  {null:?}")?,
            None => writeln!(self.out, "nullvalue  {usual}")?,
        }
        writeln!(self.out, "separator  {separator:?}")?;
        writeln!(self.out, "    timer  {}", on(self.timer))?;
        Ok(())
    }

    fn schema(&mut self, like: Option<&str>) -> Result<(), ShellError> {
        let sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE \
                   'sqlite\\_%' ESCAPE '\\' AND tbl_name LIKE ?1 ESCAPE '\\' ORDER BY rowid";
        let like = Value::Text(like.unwrap_or("%").to_owned());
        for row in self.backend.rows(sql, &[like])? {
            writeln!(self.out, "{};", text_of(row.first()))?;
        }
        Ok(())
    }

    /// Lists names of the schema, in columns.
    fn names(&mut self, kind: &str, column: &str, like: Option<&str>) -> Result<(), ShellError> {
        let sql = format!(
            "SELECT name FROM sqlite_master WHERE {kind} AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
             AND {column} LIKE ?1 ESCAPE '\\' ORDER BY 1"
        );
        let like = Value::Text(like.unwrap_or("%").to_owned());
        let rows = self.backend.rows(&sql, &[like])?;
        let names: Vec<String> =
            rows.iter().map(|row| super::clean::one_line(text_of(row.first()))).collect();
        let width = names.iter().map(|name| name.width()).max().unwrap_or(0) + 2;
        let columns = if self.is_interactive { (LIST_WIDTH / width).max(1) } else { 1 };
        let height = names.len().div_ceil(columns);
        for line in 0..height {
            let shown = names.iter().skip(line).step_by(height.max(1));
            let padded = shown
                .map(|name| format!("{name}{}", " ".repeat(width.saturating_sub(name.width()))));
            writeln!(self.out, "{}", padded.collect::<String>().trim_end())?;
        }
        Ok(())
    }

    /// What completion should know; without it there is less to complete.
    pub(super) fn known_names(&mut self, names_max: usize) -> Result<Vec<String>, ShellError> {
        let tables = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')";
        let with_columns = format!(
            "{tables} UNION SELECT c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c \
             WHERE t.type IN ('table', 'view') LIMIT {names_max}"
        );
        self.calm();
        let rows = match self.backend.rows(&with_columns, &[]) {
            // Not every server lets pragmas be used as tables.
            Err(ShellError::Sql { .. }) => {
                self.backend.rows(&format!("{tables} LIMIT {names_max}"), &[])?
            }
            rows => rows?,
        };
        Ok(rows.iter().map(|row| text_of(row.first()).to_owned()).collect())
    }
}

/// Why a command failed: here, or in a file that it read, where that has been placed already.
enum Told {
    Here(ShellError),
    Elsewhere(Box<Refused>),
}

impl From<ShellError> for Told {
    fn from(error: ShellError) -> Self {
        Told::Here(error)
    }
}
