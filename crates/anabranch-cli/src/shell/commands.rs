//! What each command of a shell does.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use anabranch_hrana::Value;
use unicode_width::UnicodeWidthStr as _;

use super::backend::text_of;
use super::clean::one_line;
use super::dot::{self, Command};
use super::dump::dump;
use super::error::{Refused, ShellError};
use super::import::Order;
use super::output::Output;
use super::render::{Mode, Settings};
use super::session::{BUFFER_BYTES, Next, Session};
use crate::human::counted;

/// Files that read files, at most so deep.
const DEPTH_MAX: usize = 16;
/// Names are listed in columns of so many characters together.
const LIST_WIDTH: usize = 80;

/// Why a command failed: here, or in a file that it read, where that has been placed already.
pub(super) enum Told {
    Here(ShellError),
    Elsewhere(Box<Refused>),
}

impl From<ShellError> for Told {
    fn from(error: ShellError) -> Self {
        Told::Here(error)
    }
}

impl Session {
    /// Does what a line says that begins with a dot.
    pub(super) fn command(&mut self, line: &str) -> Result<Next, Told> {
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
                one_line(name),
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
        let file = File::open(path).map_err(|source| ShellError::File {
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
        let names: Vec<String> = rows.iter().map(|row| one_line(text_of(row.first()))).collect();
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
