//! Why a rebase did not come to an end. The scratch copy is thrown away then; nothing has changed.

use thiserror::Error;

/// A rebase that failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RebaseError {
    /// Both sides changed one object of the schema, differently.
    #[error("both sides changed the {kind} {name}: here {}, at the remote {}; nothing was changed. \
             Taking the local or the remote's schema settles it", said(.local), said(.remote))]
    SchemaConflict {
        /// `table`, `index`, `view` or `trigger`.
        kind: String,
        /// Its name in the base, or the name that both gave it.
        name: String,
        /// The local statement; empty if it was dropped here.
        local: String,
        /// The remote's statement; empty if it was dropped there.
        remote: String,
    },
    /// What both sides changed together can't be one schema: an object of one side needs what the
    /// other side dropped or changed.
    #[error("the {kind} {name} of the {} schema does not work in the merged one: {why}; nothing was \
             changed. Taking the local or the remote's schema settles it", side(*.of))]
    SchemaBroken {
        /// `table`, `index`, `view` or `trigger`.
        kind: String,
        /// Its name.
        name: String,
        /// Whose object it is.
        of: crate::Side,
        /// What SQLite says.
        why: String,
    },
    /// An object uses a function, collation or module that only the application has.
    #[error(
        "{object} uses the {kind} {name}, which only the application that made it knows; rows \
             of it cannot be merged here. Sync before both sides change it"
    )]
    Unknown {
        /// What uses it.
        object: String,
        /// `function`, `collation`, `module` or `tokenizer`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A table that both sides changed, and that cannot be merged row by row.
    #[error("table {table} was changed on both sides, and cannot be merged: {why}")]
    Unmergeable {
        /// The table.
        table: String,
        /// Why not.
        why: String,
    },
    /// A row in conflict whose table has the policy `abort`.
    #[error("both sides changed a row of table {table} ({kind:?}), and its policy is `abort`")]
    Aborted {
        /// The table.
        table: String,
        /// What happened to the row.
        kind: crate::ConflictKind,
        /// The conflict.
        conflict: Box<crate::Conflict>,
    },
    /// A program's [`Resolve`](crate::Resolve) gave a row that cannot stand.
    #[error("the row that the program decided on cannot stand in table {table}: {why}")]
    Resolved {
        /// The table.
        table: String,
        /// Why not.
        why: String,
    },
    /// One of the three states cannot be read.
    #[error("reading {what}: {source}")]
    Read {
        /// What was read.
        what: String,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The pages of the states cannot be read.
    #[error("reading the pages of the states that are compared")]
    Pages {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The scratch copy or the work database cannot be written.
    #[error("working out {what}: {source}")]
    Work {
        /// What was being worked out.
        what: String,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The caller's journal failed.
    #[error(transparent)]
    Journal(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl RebaseError {
    /// Reading `what` failed.
    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> Self {
        let what = what.into();
        move |source| match unknown(&source) {
            Some((kind, name)) => Self::Unknown { object: what, kind, name },
            None => Self::Read { what, source },
        }
    }

    /// Working out `what` failed.
    pub(crate) fn work(what: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> Self {
        let what = what.into();
        move |source| match unknown(&source) {
            Some((kind, name)) => Self::Unknown { object: what, kind, name },
            None => Self::Work { what, source },
        }
    }
}

/// What SQLite misses, if that is what it says: only its text tells.
fn unknown(error: &rusqlite::Error) -> Option<(&'static str, String)> {
    const SAID: [(&str, &str); 5] = [
        ("no such function: ", "function"),
        ("no such collation sequence: ", "collation"),
        ("no such module: ", "module"),
        ("no such tokenizer: ", "tokenizer"),
        ("unknown tokenizer: ", "tokenizer"),
    ];
    let (rusqlite::Error::SqliteFailure(_, Some(text))
    | rusqlite::Error::SqlInputError { msg: text, .. }) = error
    else {
        return None;
    };
    SAID.iter().find_map(|(said, kind)| {
        let at = text.find(said)?;
        Some((*kind, text[at + said.len()..].trim().to_owned()))
    })
}

/// The code of an error of SQLite, also where it says at which place of a statement it is.
pub(crate) fn code(error: &rusqlite::Error) -> Option<rusqlite::ErrorCode> {
    match error {
        rusqlite::Error::SqlInputError { error, .. } => Some(error.code),
        other => other.sqlite_error_code(),
    }
}

/// What SQLite says, without the statement.
pub(crate) fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

fn said(statement: &str) -> String {
    if statement.is_empty() { "it was dropped".into() } else { format!("`{statement}`") }
}

fn side(side: crate::Side) -> &'static str {
    match side {
        crate::Side::Local => "local",
        crate::Side::Remote => "remote's",
    }
}
