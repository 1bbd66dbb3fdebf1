//! What a shell is told.

use std::ffi::OsString;

use clap::Args;

use crate::shell::Mode;

/// Ask a database in SQL: a file here, or one on a server
///
/// TARGET is a SQLite file, a replica or not, or the URL of a database of `anabranch serve` or of any
/// server that libSQL clients use. At a terminal statements are typed, over as many lines as they take
/// until `;`: Ctrl-C stops the one under way, Ctrl-D leaves, .help lists commands such as .tables and
/// .dump. Otherwise statements and commands come as arguments, or on standard input.
///
/// Without a terminal the first error ends it with exit code 1; a transaction that is open by then is
/// rolled back. Rows are shown as a table at a terminal, else as values with | between; with --json
/// each statement that answers rows writes an array of objects, and a blob is {"hex": "00ff"}.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch shell notes.db\n  \
    anabranch shell https://db.example/notes\n  \
    anabranch shell notes.db 'SELECT count(*) FROM note'\n  \
    anabranch shell https://db.example/notes --json 'SELECT * FROM note' | jq '.[].body'\n  \
    anabranch shell https://db.example/notes .dump > notes.sql\n  \
    anabranch shell notes.db < changes.sql\n\n\
    The history of what is typed is $XDG_STATE_HOME/anabranch/shell_history, or what\n\
    ANABRANCH_SHELL_HISTORY says (empty: none is kept).")]
pub(crate) struct SqlShell {
    /// A file, or the URL of a database on a server
    pub(crate) target: OsString,
    /// Statements and commands to run, instead of those on standard input
    pub(crate) sql: Vec<String>,
    /// How rows are shown
    #[arg(long, value_name = "MODE", hide_possible_values = false)]
    pub(crate) mode: Option<Mode>,
    /// Show the names of columns in every mode
    #[arg(long)]
    pub(crate) headers: bool,
    /// Go on after an error; the exit code is 1 in the end
    #[arg(long)]
    pub(crate) no_bail: bool,
    /// Make the file if it does not exist
    #[arg(long)]
    pub(crate) create: bool,
}
