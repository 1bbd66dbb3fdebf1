//! Why a rebase did not come to an end. The scratch copy is thrown away then; nothing has changed.

use thiserror::Error;

/// A rebase that failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RebaseError {
    /// Both sides changed one object of the schema, differently.
    #[error("both sides changed the {kind} {name}: here `{local}`, at the remote `{remote}`")]
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
