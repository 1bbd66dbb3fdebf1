//! Runs the steps of the demo, shows them, and checks what came of them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anabranch_format::PageSize;
use clap::Parser as _;
use rusqlite::{Batch, Connection, fallible_iterator::FallibleIterator as _};
use serde::Serialize;
use serde_json::Value;

use crate::args::Cli;
use crate::commands;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::inspect::database_checksum;
use crate::output::{self, Report};

/// A step that was taken.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    /// As it would be typed.
    command: String,
    /// Its exit code.
    exit: u8,
    /// What it answered: a report, or text.
    answer: Value,
}

/// Where the demo is played.
pub(super) struct Stage<'a> {
    ctx: &'a Context,
    steps: Vec<Step>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(ctx: &'a Context) -> Self {
        Stage { ctx, steps: Vec::new() }
    }

    /// All steps taken.
    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// Shows text, if anything is to be shown before the end.
    fn show(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        if self.ctx.style.json || self.ctx.style.quiet {
            return Ok(());
        }
        self.ctx.bars.clear();
        let mut out = io::stdout().lock();
        output::finish(write(&mut out).and_then(|()| out.flush()))
    }

    /// Tells what comes next.
    pub(super) fn say(&self, text: &str) -> Result<(), Failure> {
        let line = self.ctx.style.paint.faint(&format!("# {text}"));
        self.show(|out| writeln!(out, "\n{line}"))
    }

    fn prompt(&self, command: &str) -> Result<(), Failure> {
        let line = self.ctx.style.paint.strong(&format!("$ {command}"));
        self.show(|out| writeln!(out, "{line}"))
    }

    fn done(&mut self, command: String, exit: Exit, answer: Value) -> Answer {
        self.steps.push(Step {
            command: command.clone(),
            exit: exit.code(),
            answer: answer.clone(),
        });
        Answer { step: command, value: answer }
    }

    /// Runs `anabranch` with these words; it must end with exit code 0.
    pub(super) async fn anabranch(&mut self, words: &[&str]) -> Result<Answer, Failure> {
        self.anabranch_ending(words, Exit::Done).await
    }

    /// Runs `anabranch` with these words; it must end as `expected`.
    pub(super) async fn anabranch_ending(
        &mut self,
        words: &[&str],
        expected: Exit,
    ) -> Result<Answer, Failure> {
        let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let command = format!("anabranch {}", quoted.join(" "));
        self.prompt(&command)?;
        let wrong = |what: String| Failure::Demo { step: command.clone(), what };
        let line = ["anabranch"].into_iter().chain(words.iter().copied());
        let cli = Cli::try_parse_from(line).map_err(|e| wrong(e.to_string()))?;
        let asked = cli.command.ok_or_else(|| wrong("it is no command".to_owned()))?;
        let outcome = commands::run(asked, self.ctx).await.map_err(|e| wrong(one_line(&e)))?;
        let answer = self.show_report(outcome.report.as_deref(), outcome.exit)?;
        if outcome.exit != expected {
            let (found, expected) = (outcome.exit.code(), expected.code());
            return Err(wrong(format!("exit code {found} instead of {expected}")));
        }
        Ok(self.done(command, outcome.exit, answer))
    }

    fn show_report(&self, report: Option<&dyn Report>, exit: Exit) -> Result<Value, Failure> {
        let Some(report) = report else { return Ok(Value::Null) };
        let paint = self.ctx.style.paint;
        self.show(|out| report.human(out, paint))?;
        if exit != Exit::Done {
            let line = paint.faint(&format!("(exit code {})", exit.code()));
            self.show(|out| writeln!(out, "{line}"))?;
        }
        let mut json = Vec::new();
        report.json(&mut json).map_err(Failure::Output)?;
        serde_json::from_slice(&json).map_err(|e| Failure::Output(e.into()))
    }

    /// Runs SQL on a file with the SQLite that is built in, as `sqlite3` would.
    pub(super) fn sqlite(&mut self, file: &str, sql: &str) -> Result<Answer, Failure> {
        let command = format!("sqlite3 {} \"{sql}\"", quoted(file));
        self.prompt(&command)?;
        self.run_sql(command, file, sql)
    }

    /// Writes a script to a file and runs it.
    pub(super) fn sqlite_script(
        &mut self,
        file: &str,
        script: &str,
        sql: &str,
    ) -> Result<Answer, Failure> {
        let path = PathBuf::from(script);
        fs::write(&path, sql).map_err(|source| Failure::File { what: "writing", path, source })?;
        let command = format!("sqlite3 {} < {}", quoted(file), quoted(script));
        self.prompt(&command)?;
        self.run_sql(command, file, sql)
    }

    fn run_sql(&mut self, command: String, file: &str, sql: &str) -> Result<Answer, Failure> {
        let lines = run_sql(Path::new(file), sql).map_err(|source| Failure::Sqlite {
            what: "running SQL on",
            path: PathBuf::from(file),
            source,
        })?;
        let text = lines.join("\n");
        if !text.is_empty() {
            self.show(|out| writeln!(out, "{text}"))?;
        }
        Ok(self.done(command, Exit::Done, Value::String(text)))
    }

    /// Gives a folder another name.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), Failure> {
        let command = format!("mv {} {}", quoted(from), quoted(to));
        self.prompt(&command)?;
        let path = PathBuf::from(from);
        fs::rename(from, to).map_err(|source| Failure::File { what: "renaming", path, source })?;
        self.done(command, Exit::Done, Value::Null);
        Ok(())
    }

    /// The database checksum of a file: equal for files that are equal page by page.
    pub(super) fn checksum(&self, file: &str) -> Result<String, Failure> {
        let sum = || {
            let conn = Connection::open(file)?;
            let size: u32 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
            database_checksum(&conn, PageSize::new(size).unwrap_or(PageSize::DEFAULT))
        };
        let sum = sum().map_err(|source| Failure::Sqlite {
            what: "reading",
            path: PathBuf::from(file),
            source,
        })?;
        Ok(sum.0.to_string())
    }

    /// Two checksums must be the same.
    pub(super) fn same(&self, file: &str, found: &str, expected: &str) -> Result<(), Failure> {
        let step = format!("comparing {file}");
        Answer { step, value: Value::String(found.to_owned()) }.is(expected)
    }
}

/// What a step answered.
#[derive(Debug)]
pub(super) struct Answer {
    step: String,
    value: Value,
}

impl Answer {
    fn wrong(&self, what: String) -> Failure {
        Failure::Demo { step: self.step.clone(), what }
    }

    /// The text must be this.
    pub(super) fn is(&self, expected: &str) -> Result<(), Failure> {
        if self.value.as_str() == Some(expected) {
            return Ok(());
        }
        Err(self.wrong(format!("the answer was {} instead of '{expected}'", self.value)))
    }

    /// The report must have something under this name.
    pub(super) fn has(&self, name: &str) -> Result<(), Failure> {
        match self.value.get(name) {
            None | Some(Value::Null) => Err(self.wrong(format!("the report has no '{name}'"))),
            Some(_) => Ok(()),
        }
    }

    /// What is at this place in the report must be equal to `expected`.
    pub(super) fn equals(&self, pointer: &str, expected: impl Into<Value>) -> Result<(), Failure> {
        let (found, expected) = (self.value.pointer(pointer), expected.into());
        if found == Some(&expected) {
            return Ok(());
        }
        let found = found.unwrap_or(&Value::Null);
        Err(self.wrong(format!("{pointer} is {found} instead of {expected}")))
    }

    /// The list under this name must have so many elements.
    pub(super) fn counts(&self, name: &str, expected: usize) -> Result<(), Failure> {
        let found = self.value.get(name).and_then(Value::as_array).map(Vec::len);
        if found == Some(expected) {
            return Ok(());
        }
        let found = found.map_or("no list".to_owned(), |n| n.to_string());
        Err(self.wrong(format!("'{name}' has {found} elements instead of {expected}")))
    }

    /// The element of the list `list` whose `key` is `wanted`.
    pub(super) fn find(&self, list: &str, key: &str, wanted: &str) -> Result<Answer, Failure> {
        let elements = self.value.get(list).and_then(Value::as_array);
        let found = elements.and_then(|list| list.iter().find(|element| element[key] == wanted));
        match found {
            Some(value) => Ok(Answer { step: self.step.clone(), value: value.clone() }),
            None => Err(self.wrong(format!("'{list}' has no '{wanted}'"))),
        }
    }
}

/// The failure with its causes, in one line.
fn one_line(failure: &Failure) -> String {
    let text = failure.text(crate::human::Paint::default());
    text.trim().trim_start_matches("error: ").replace('\n', "; ")
}

/// Runs SQL as `sqlite3` does: every row a line, columns between bars.
fn run_sql(file: &Path, sql: &str) -> rusqlite::Result<Vec<String>> {
    let conn = Connection::open(file)?;
    // As stock SQLite has it; the one built in has them on.
    conn.pragma_update(None, "foreign_keys", false)?;
    let mut lines = Vec::new();
    let mut batch = Batch::new(&conn, sql);
    while let Some(mut statement) = batch.next()? {
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let cells = (0..columns).map(|i| Ok(cell(&row.get(i)?)));
            lines.push(cells.collect::<rusqlite::Result<Vec<_>>>()?.join("|"));
        }
    }
    Ok(lines)
}

fn cell(value: &rusqlite::types::Value) -> String {
    use rusqlite::types::Value;
    match value {
        Value::Null => String::new(),
        Value::Integer(n) => n.to_string(),
        Value::Real(x) => x.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=@+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(value: Value) -> Answer {
        Answer { step: "anabranch sync x.db".to_owned(), value }
    }

    #[test]
    fn an_outcome_other_than_expected_is_an_error_that_names_the_step() {
        let report = answer(json!({"pushed": null, "list": [{"k": "a", "n": 1}], "n": 3}));
        let wrong = [
            report.has("pushed"),
            report.has("nothing"),
            report.equals("/n", 4),
            report.equals("/missing", 4),
            report.counts("list", 2),
            report.counts("n", 1),
            report.find("list", "k", "b").map(|_| ()),
            report.is("x"),
        ];
        for result in wrong {
            let text = result.unwrap_err().to_string();
            assert!(text.contains("anabranch sync x.db"), "{text}");
        }
        report.has("n").unwrap();
        report.equals("/list/0/n", 1).unwrap();
        report.counts("list", 1).unwrap();
        report.find("list", "k", "a").unwrap().equals("/n", 1).unwrap();
        answer(json!("ok")).is("ok").unwrap();
    }

    #[tokio::test]
    async fn a_command_that_ends_otherwise_than_it_must_is_an_error() {
        let ctx = Context {
            global: crate::args::Global { quiet: true, ..Default::default() },
            style: output::Style { quiet: true, ..Default::default() },
            bars: crate::progress::Bars::default(),
            stop: tokio_util::sync::CancellationToken::new(),
        };
        let mut stage = Stage::new(&ctx);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("no replica.db");
        let file = file.to_str().unwrap();
        let wrong = stage.anabranch(&["sync", file]).await.unwrap_err().to_string();
        assert!(wrong.contains("`anabranch sync '"), "{wrong}");
        let script = ["completions", "bash"];
        let wrong = stage.anabranch_ending(&script, Exit::Offline).await.unwrap_err().to_string();
        assert!(wrong.contains("exit code 0 instead of 4"), "{wrong}");
        stage.anabranch(&script).await.unwrap().has("script").unwrap();
        assert_eq!(stage.into_steps().len(), 1, "only what went right is a step");
    }

    #[test]
    fn sql_answers_as_sqlite3_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.db");
        let sql = "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 'x'), (NULL, 2.5);
                   SELECT * FROM t; -- the end";
        assert_eq!(run_sql(&file, sql).unwrap(), ["1|x", "|2.5"]);
        assert!(run_sql(&file, "SELECT nonsense").is_err());
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("laptop.db"), "laptop.db");
        assert_eq!(quoted("it's 2 o'clock"), r"'it'\''s 2 o'\''clock'");
        assert_eq!(quoted(""), "''");
    }
}
