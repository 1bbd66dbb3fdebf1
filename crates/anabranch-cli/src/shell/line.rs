//! A person at a terminal: line editing, history, completion.
//!
//! A statement is edited as a whole, over as many lines as it takes until `;`. The history keeps the
//! newest [`HISTORY_MAX`] entries, in a file that only its owner may read; a line that begins with a
//! space is not kept.

use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::dot::COMMANDS;
use super::split::is_complete;

/// Entries of the history.
const HISTORY_MAX: usize = 1000;
/// Names that completion knows.
pub(super) const NAMES_MAX: usize = 5000;
/// Where the history is; empty: nowhere.
const HISTORY_VARIABLE: &str = "ANABRANCH_SHELL_HISTORY";

const KEYWORDS: &str = "ABORT ADD ALL ALTER ANALYZE AND AS ASC AUTOINCREMENT BEGIN BETWEEN BY CASCADE CASE \
    CAST CHECK COLLATE COLUMN COMMIT CONFLICT CONSTRAINT CREATE CROSS CURRENT_DATE CURRENT_TIME \
    CURRENT_TIMESTAMP DEFAULT DEFERRABLE DEFERRED DELETE DESC DISTINCT DO DROP EACH ELSE END ESCAPE \
    EXCEPT EXCLUSIVE EXISTS EXPLAIN FAIL FOR FOREIGN FROM FULL GENERATED GLOB GROUP HAVING IF IGNORE \
    IMMEDIATE IN INDEX INNER INSERT INSTEAD INTERSECT INTO IS ISNULL JOIN KEY LEFT LIKE LIMIT MATCH \
    MATERIALIZED NATURAL NOT NOTHING NOTNULL NULL NULLS OFFSET ON OR ORDER OUTER OVER PARTITION PLAN \
    PRAGMA PRIMARY QUERY RECURSIVE REFERENCES REGEXP REINDEX RELEASE RENAME REPLACE RESTRICT RETURNING \
    RIGHT ROLLBACK ROW ROWS SAVEPOINT SELECT SET STRICT TABLE TEMP TEMPORARY THEN TO TRANSACTION TRIGGER \
    UNION UNIQUE UPDATE USING VACUUM VALUES VIEW VIRTUAL WHEN WHERE WINDOW WITH WITHOUT";

/// What the user typed.
pub(super) enum Typed {
    /// A command, or statements.
    Text(String),
    /// Ctrl-C: begin anew.
    Cancelled,
    /// Ctrl-D.
    End,
}

/// The line editor.
pub(super) struct Prompt {
    editor: Editor<Words, FileHistory>,
    history: Option<PathBuf>,
}

impl Prompt {
    pub(super) fn new() -> rustyline::Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)?
            .history_ignore_space(true)
            .history_ignore_dups(true)?
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Words::default()));
        let history = history_file();
        if let Some(path) = &history {
            // There is none at first; and without it everything works.
            let _ = editor.load_history(path);
        }
        Ok(Prompt { editor, history })
    }

    /// What completion knows besides keywords and commands.
    pub(super) fn know(&mut self, names: Vec<String>) {
        if let Some(words) = self.editor.helper_mut() {
            words.names = names;
        }
    }

    /// Lets the user type.
    pub(super) fn ask(&mut self, prompt: &str) -> rustyline::Result<Typed> {
        match self.editor.readline(prompt) {
            Ok(text) => {
                if !text.trim().is_empty() && self.editor.add_history_entry(&text)? {
                    self.keep();
                }
                Ok(Typed::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Cancelled),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(e) => Err(e),
        }
    }

    /// Adds what was typed to the file, which other shells may share.
    fn keep(&mut self) {
        let Some(path) = &self.history else { return };
        let kept = make_folder(path)
            .map_err(ReadlineError::from)
            .and_then(|()| self.editor.append_history(path));
        if let Err(error) = kept {
            tracing::debug!(%error, "the history is not kept");
            self.history = None;
        }
    }
}

/// The user's file for what programs remember.
fn history_file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(HISTORY_VARIABLE) {
        return (!path.is_empty()).then(|| PathBuf::from(path));
    }
    let folder = |variable: &str| {
        std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    };
    let state = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else {
        folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))
    };
    Some(state?.join("anabranch").join("shell_history"))
}

fn make_folder(path: &Path) -> std::io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.exists()) else { return Ok(()) };
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

/// What can be completed, and when a statement is.
#[derive(Default)]
struct Words {
    names: Vec<String>,
}

impl Words {
    fn complete(&self, line: &str, pos: usize) -> (usize, Vec<String>) {
        let typed = line.get(..pos).unwrap_or(line);
        if let Some(command) = typed.strip_prefix('.')
            && !command.contains(char::is_whitespace)
        {
            let like = COMMANDS.iter().filter(|about| about.name.starts_with(command));
            return (1, like.map(|about| about.name.to_owned()).collect());
        }
        let of_word = |c: char| c.is_alphanumeric() || c == '_';
        let start = typed
            .rfind(|c| !of_word(c))
            .map_or(0, |at| at + typed[at..].chars().next().map_or(0, char::len_utf8));
        let word = &typed[start..];
        if word.is_empty() {
            return (start, Vec::new());
        }
        let begins = |known: &str| {
            known.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
        };
        let mut found: Vec<String> =
            self.names.iter().filter(|name| begins(name)).cloned().collect();
        // As it was begun.
        let lower = word.chars().all(char::is_lowercase);
        let keywords = KEYWORDS.split_ascii_whitespace().filter(|keyword| begins(keyword));
        found.extend(keywords.map(|keyword| match lower {
            true => keyword.to_ascii_lowercase(),
            false => keyword.to_owned(),
        }));
        (start, found)
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(Words::complete(self, line, pos))
    }
}

impl Validator for Words {
    fn validate(&self, ctx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_complete(ctx.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keywords_and_commands_are_completed() {
        let words = Words { names: vec!["note".to_owned(), "Größe".to_owned()] };
        let complete = |line: &str| words.complete(line, line.len());
        assert_eq!(complete("select * from no").1[0], "note");
        assert_eq!(complete("select * fro"), (9, vec!["from".to_owned()]));
        assert_eq!(complete("SELE"), (0, vec!["SELECT".to_owned()]));
        assert_eq!(complete("SELECT \"grö"), (8, vec!["Größe".to_owned()]));
        assert_eq!(complete(".sch"), (1, vec!["schema".to_owned()]));
        assert_eq!(complete("select ").1, Vec::<String>::new());
    }
}
