//! What fetches and merges, and what is said and settled about merging.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::when;

/// Fetch and apply what changed at the remote
///
/// Programs that have the database open go on: readers see the state before or after, never between.
/// Where something changed here as well, that is put on top of it, row by row, as `sync` does, and
/// waits to be pushed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  anabranch pull notes.db")]
pub(crate) struct Pull {
    /// The replica [default: the only one in the current directory]
    pub(crate) file: Option<PathBuf>,
    /// Whose side counts where rows do not decide: see `sync --help`
    #[arg(long, value_name = "SIDE")]
    pub(crate) take: Option<Takes>,
}

/// Pull and push in one step
///
/// Where both sides changed, what changed here is put on top of what others changed, row by row.
/// Different rows are simply all there. Of a row that both changed, one version stands (the local one,
/// unless `config` says otherwise) and all are kept in the conflict journal: `anabranch conflicts`.
///
/// Exit code 4 says that the remote could not be reached: nothing is lost, sync again later. Exit
/// code 3 says that somebody must decide, and that nothing was touched: both sides changed one object
/// of the schema, or a table that cannot be merged, or a row for which `config` says `abort`; or the
/// remote does not keep any more what both started from. --take decides all of these but rows: `local`
/// goes on with the schema, or table, of this side, `remote` with that of the others. If the common
/// state is gone, `remote` makes the file what the remote has, keeping a copy beside it, `local`
/// sends the file's whole state, and `union` adds the rows written here to what the remote has.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  anabranch sync notes.db\n  anabranch sync --json notes.db\n  \
    anabranch sync notes.db --dry-run\n  anabranch sync notes.db --take remote"
)]
pub(crate) struct Sync {
    /// The replica [default: the only one in the current directory]
    pub(crate) file: Option<PathBuf>,
    /// Show what would be pushed, pulled and decided, table by table, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Whose side counts where rows do not decide
    #[arg(long, value_name = "SIDE")]
    pub(crate) take: Option<Takes>,
}

/// What counts where rows do not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Takes {
    /// What is here
    Local,
    /// What the remote has
    Remote,
    /// Both, if the remote does not keep any more what both started from
    Union,
}

impl From<Takes> for anabranch::Take {
    fn from(take: Takes) -> Self {
        match take {
            Takes::Local => anabranch::Take::Local,
            Takes::Remote => anabranch::Take::Remote,
            Takes::Union => anabranch::Take::Union,
        }
    }
}

/// One of two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Take {
    /// What is here
    Local,
    /// What the remote has
    Remote,
}

impl From<Take> for anabranch::Side {
    fn from(take: Take) -> Self {
        match take {
            Take::Local => anabranch::Side::Local,
            Take::Remote => anabranch::Side::Remote,
        }
    }
}

/// Show the conflict journal, or take the other side of a conflict after all
///
/// Every row that did not end as it was written is here, in the replica that decided: its key, what
/// happened, the three versions, and what was decided. Those that were resolved are left out. The URL
/// of a server's database shows what the server decided when it merged writes of libSQL clients.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  anabranch conflicts notes.db\n  \
    anabranch conflicts notes.db --table note --since yesterday --json\n  \
    anabranch conflicts resolve notes.db 3 --take remote"
)]
pub(crate) struct Conflicts {
    #[command(subcommand)]
    pub(crate) command: Option<ConflictsCommand>,
    /// The replica [default: the only one in the current directory], or a server's URL
    #[arg(value_name = "FILE|URL")]
    pub(crate) file: Option<PathBuf>,
    /// Only those of this table
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Only those that were decided since then
    #[arg(
        long,
        value_name = "TIME",
        allow_hyphen_values = true,
        value_parser = when::parse_since
    )]
    pub(crate) since: Option<anabranch::Micros>,
    /// Those that were resolved, too
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConflictsCommand {
    Resolve(ConflictsResolve),
}

/// Write the other version of a row back, as an ordinary change
///
/// What stands there by now is replaced. Of two rows that both stand since one got a new key, the one
/// that is not taken is deleted. Foreign keys are enforced, triggers fire. The next sync sends the
/// change.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  anabranch conflicts resolve notes.db 3 --take remote")]
pub(crate) struct ConflictsResolve {
    /// The replica
    pub(crate) file: PathBuf,
    /// The conflict's number, as `anabranch conflicts` shows it
    pub(crate) id: i64,
    /// Whose version is to stand
    #[arg(long, value_name = "SIDE")]
    pub(crate) take: Take,
}

/// Show the rows that changed since file and remote were last in step
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch diff notes.db\n  \
    anabranch diff notes.db --remote --json")]
pub(crate) struct Diff {
    /// The replica [default: the only one in the current directory]
    pub(crate) file: Option<PathBuf>,
    /// Those that others changed at the remote, not those that changed here
    #[arg(long)]
    pub(crate) remote: bool,
}

/// Show or change what is done where both sides changed a row
///
/// conflict = local | remote | merge | abort, for all tables, and conflict.TABLE for one: `local` (the
/// default) lets the row of the last one to sync stand, `remote` the one that was there before; `merge`
/// takes each column from the side that changed it, and the local one if both did; `abort` changes
/// nothing and ends with exit code 3.
///
/// conflict.TABLE.insert = renumber | local | remote | abort: what is done about two rows that were
/// inserted under one key. Without it both stay, the local one under a new key, if SQLite chose the
/// key; if the application did, the policy decides.
///
/// Each replica has its own settings; they hold from its next sync on. Put a TABLE with a dot in its
/// name into double quotes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  anabranch config notes.db\n  \
    anabranch config notes.db conflict = merge\n  \
    anabranch config notes.db conflict.note = abort\n  \
    anabranch config notes.db conflict.note.insert = remote\n  \
    anabranch config notes.db conflict.note --unset")]
pub(crate) struct Config {
    /// The replica
    pub(crate) file: PathBuf,
    /// KEY shows one setting, KEY = VALUE makes it
    #[arg(value_name = "KEY [= VALUE]")]
    pub(crate) setting: Vec<String>,
    /// Take the setting back
    #[arg(long)]
    pub(crate) unset: bool,
}
