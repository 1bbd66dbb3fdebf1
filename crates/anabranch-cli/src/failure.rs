//! Why a command failed, and how that is told: text or JSON, and the exit code.
//!
//! The library's errors say what happened and what to do; here they get their exit code, a code
//! for programs, and, where both sides changed, the choice that the user has at the command line.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use anabranch::{AdoptError, Error, ErrorKind, LibsqlError, ServerError, StoreError};
use anabranch_server::{ServeError, TokensError};
use serde_json::{Value, json};

use crate::human::Paint;
use crate::shell::{Refused, ShellError};
use crate::shown;

/// How the program ends. The numbers are part of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// An error.
    Failed,
    /// The command line or the request makes no sense as it stands.
    Usage,
    /// Both sides changed and somebody must decide, or the remote is ahead of a push.
    Diverged,
    /// The remote cannot be reached.
    Offline,
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

impl Exit {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Diverged => 3,
            Exit::Offline => 4,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library refused or failed.
    #[error(transparent)]
    Library(#[from] Error),
    /// Nothing is at a place that was named; no replica waits for it.
    #[error("there is no remote at {place}: {what}")]
    NoRemote {
        /// The place, credentials left out.
        place: String,
        /// What was missed.
        what: String,
    },
    /// A place that was named cannot be reached; no replica waits for it.
    #[error(transparent)]
    Unreachable(Error),
    /// The request makes no sense as it stands.
    #[error("{0}")]
    Usage(String),
    /// Something that was looked at is damaged; it has been reported in full already.
    #[error("{0}")]
    Damaged(String),
    /// A file.
    #[error("{what} {path} failed", path = path.display())]
    File {
        /// What was tried ("reading").
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A SQLite database that is only looked at.
    #[error("{what} {path} failed", path = path.display())]
    Sqlite {
        /// What was tried ("opening").
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// What was to be printed could not be.
    #[error("writing the output failed")]
    Output(#[source] io::Error),
    /// The program could not be set up.
    #[error("{what} failed")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A part of this program panicked.
    #[error("an internal error: {0}; please report it. Nothing needs to be cleaned up")]
    Panicked(String),
    /// A server that cannot start.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A server's file of tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A statement or a command of a shell.
    #[error(transparent)]
    Shell(Box<Refused>),
    /// A step of the demo had another outcome than it must have.
    #[error("the demo went wrong at `{step}`: {what}")]
    Demo {
        /// The command.
        step: String,
        /// What was expected and found.
        what: String,
    },
}

impl Failure {
    /// What failed at a place that was named on the command line. It may be mistyped, and there are
    /// no local changes that wait for it.
    pub(crate) fn at_named_place(error: Error) -> Self {
        match error {
            Error::Store(e @ StoreError::NotAFolder { .. }) => Failure::Usage(e.to_string()),
            Error::RemoteGone { remote } => {
                let what = "it does not hold this replica's database".to_owned();
                Failure::NoRemote { place: remote, what }
            }
            Error::Offline { remote, source } => match *source {
                StoreError::Gone { what, .. } => Failure::NoRemote { place: remote, what },
                e => Failure::Unreachable(Error::Offline { remote, source: Box::new(e) }),
            },
            e => Failure::Library(e),
        }
    }

    /// How the program ends after it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Failure::Library(e) => match e.kind() {
                ErrorKind::Diverged => Exit::Diverged,
                ErrorKind::Offline => Exit::Offline,
                ErrorKind::Usage => Exit::Usage,
                _ => Exit::Failed,
            },
            Failure::Unreachable(_) => Exit::Offline,
            Failure::Usage(_) => Exit::Usage,
            Failure::Shell(refused) => match *refused.error {
                ShellError::Offline { .. } => Exit::Offline,
                ShellError::Interrupted => Exit::Interrupted,
                _ => Exit::Failed,
            },
            _ => Exit::Failed,
        }
    }

    /// A short name for programs.
    fn code(&self) -> &str {
        match self {
            Failure::Library(e) => library_code(e),
            Failure::NoRemote { .. } => "no-remote",
            Failure::Unreachable(e) => library_code(e),
            Failure::Usage(_) => "usage",
            Failure::Damaged(_) => "damaged",
            Failure::File { .. } => "file",
            Failure::Sqlite { .. } => "sqlite",
            Failure::Output(_) => "output",
            Failure::Setup { .. } => "setup",
            Failure::Panicked(_) => "internal",
            Failure::Serve(_) => "serve",
            Failure::Tokens(_) => "tokens",
            Failure::Shell(refused) => refused.error.code(),
            Failure::Demo { .. } => "demo",
        }
    }

    fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let mut last = self.to_string();
        let mut next = StdError::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some errors of other crates repeat their cause.
            if !last.ends_with(&text) {
                causes.push(text.clone());
            }
            last = text;
            next = cause.source();
        }
        causes
    }

    /// What to do, where the message itself does not say it in terms of this program.
    fn advice(&self) -> Option<&'static str> {
        match self {
            Failure::Library(Error::Diverged { .. }) => Some(
                "to go on from the remote's state, run `anabranch repair FILE --take-remote`: it \
                 keeps your file as it is beside the new one, so that you can carry over what you \
                 need; to look first, run `anabranch status FILE --tables` and `anabranch clone \
                 URL OTHER`",
            ),
            Failure::Library(Error::Resolving { .. }) => Some(
                "`anabranch conflicts FILE --json` has all of its versions: write what is meant with \
                 any SQLite program",
            ),
            Failure::Library(Error::Behind { .. }) => {
                Some("`anabranch sync FILE` does both where that is possible")
            }
            Failure::Library(Error::Offline { .. } | Error::RemoteGone { .. }) => {
                Some("nothing is lost: local changes wait in the file; try again later")
            }
            Failure::Library(Error::RemoteWentBack { .. }) => Some(
                "put the newer objects back, or go on from what is there with `anabranch repair \
                 FILE --take-remote`, which keeps your file as it is beside the new one; or publish \
                 your file's state at a new place: move FILE-anabranch* away, then `anabranch init \
                 FILE --remote NEW`",
            ),
            Failure::Unreachable(_) => Some("nothing was changed; try again later"),
            Failure::Shell(refused) => refused.error.advice(),
            _ => None,
        }
    }

    /// The error for people, on several lines.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let mut text = format!("{} {self}\n", paint.bad("error:"));
        if let Failure::Shell(refused) = self {
            text += &refused.details();
        }
        for cause in self.causes() {
            text += &format!("{} {cause}\n", paint.strong("caused by:"));
        }
        if let Some(advice) = self.advice() {
            text += &format!("{} {advice}\n", paint.strong("help:"));
        }
        text
    }

    /// The error for programs.
    pub(crate) fn json(&self) -> Value {
        let mut error = json!({
            "code": self.code(),
            "message": self.to_string(),
            "causes": self.causes(),
        });
        let details = match self {
            Failure::Library(Error::Diverged { local_pages, base, remote_lsn }) => {
                json!({"local_pages": local_pages, "base": base, "remote_lsn": remote_lsn})
            }
            Failure::Library(Error::Behind { base, remote_lsn }) => {
                json!({"base": base, "remote_lsn": remote_lsn})
            }
            Failure::Library(Error::SchemaConflict { kind, name, local, remote, .. }) => {
                json!({"kind": kind, "name": name, "local": local, "remote": remote})
            }
            Failure::Library(Error::Unmergeable { table, why, .. }) => {
                json!({"table": table, "why": why})
            }
            Failure::Library(Error::Aborted { conflict, .. }) => {
                Value::Object(shown::json_conflict(conflict))
            }
            Failure::Library(Error::BaseGone { base, local_pages }) => {
                json!({"base": base, "local_pages": local_pages})
            }
            _ => return json!({ "error": error }),
        };
        error["details"] = details;
        json!({ "error": error })
    }
}

/// The names that `--json` gives to the library's errors.
fn library_code(error: &Error) -> &'static str {
    match error {
        Error::Diverged { .. } => "diverged",
        Error::SchemaConflict { .. } => "schema-conflict",
        Error::SchemaBroken { .. } => "schema-broken",
        Error::OnlyTheApplicationKnows { .. } => "application-defined",
        Error::Unmergeable { .. } => "unmergeable",
        Error::Aborted { .. } => "conflict-abort",
        Error::Resolved { .. } => "resolved-row",
        Error::Rebase { .. } | Error::Layers { .. } => "rebase",
        Error::BasePage { .. } => "mismatch",
        Error::NoConflict { .. } => "no-conflict",
        Error::Resolving { .. } => "resolving",
        Error::Races { .. } => "races",
        Error::TooLong { .. } => "too-long",
        Error::Behind { .. } => "behind",
        Error::Offline { .. } => "offline",
        Error::Unconfirmed { .. } => "unconfirmed",
        Error::NotAReplica { .. } => "not-a-replica",
        Error::AlreadyAReplica { .. } => "already-a-replica",
        Error::Locked { .. } => "locked",
        Error::FileIsOlder { .. } => "file-is-older",
        Error::NotTheSameFile { .. } => "not-the-same-file",
        Error::PageSizeChanged { .. } => "page-size-changed",
        Error::RemoteNotEmpty { .. } => "remote-not-empty",
        Error::RemoteEmpty { .. } => "remote-empty",
        Error::RemoteGone { .. } => "remote-gone",
        Error::RemoteWentBack { .. } => "remote-went-back",
        Error::NothingPublished { .. } => "nothing-published",
        Error::BeforeHistory { .. } => "before-history",
        Error::UnknownState { .. } => "unknown-state",
        Error::OtherDatabase { .. } => "other-database",
        Error::Deleted { .. } => "deleted",
        Error::TargetExists { .. } => "target-exists",
        Error::Mismatch { .. } => "mismatch",
        Error::BaseGone { .. } => "base-gone",
        Error::KeepsMoving { .. } => "keeps-moving",
        Error::SidecarDamaged { .. } => "sidecar-damaged",
        Error::SidecarVersion { .. } => "sidecar-version",
        Error::Sidecar { .. } => "sidecar",
        Error::Io { .. } => "io",
        Error::File(_) => "file",
        Error::Pages(_) => "damaged",
        Error::Store(e) => store_code(e),
        Error::Location(_) | Error::ServerUrl(_) => "location",
        Error::NoDialect { .. } => "no-dialect",
        Error::OnlyPageSize { .. } => "page-size",
        Error::Adopt { source, .. } => adopt_code(source),
        Error::Server { source, .. } => server_code(source),
        Error::Usage(_) => "usage",
        Error::Panicked(_) => "internal",
        _ => match error.kind() {
            ErrorKind::Diverged => "diverged",
            ErrorKind::Offline => "offline",
            ErrorKind::Busy => "busy",
            ErrorKind::Usage => "usage",
            _ => "failed",
        },
    }
}

/// The names of what can be wrong with a server.
fn server_code(error: &ServerError) -> &'static str {
    match error {
        ServerError::Unauthorized { .. } => "unauthorized",
        ServerError::Forbidden { .. } => "forbidden",
        ServerError::Certificate(_) => "certificate",
        ServerError::InvalidName { .. } => "invalid-name",
        ServerError::Redirect { .. } | ServerError::Redirects { .. } => "redirect",
        ServerError::Protocol { .. } => "protocol",
        _ => "server",
    }
}

/// The names of what can be wrong with a server that speaks only the libSQL dialect.
fn libsql_code(error: &LibsqlError) -> &'static str {
    match error {
        LibsqlError::Denied { .. } => "unauthorized",
        LibsqlError::NoDatabase { .. } => "no-remote",
        LibsqlError::GenerationGone { .. } => "generation-gone",
        LibsqlError::Redirect { .. } => "redirect",
        LibsqlError::Malformed { .. }
        | LibsqlError::Status { .. }
        | LibsqlError::PushStatus(_)
        | LibsqlError::CutTransaction { .. }
        | LibsqlError::TooManyGenerations(_)
        | LibsqlError::OtherGeneration { .. } => "protocol",
        LibsqlError::Frames { .. } | LibsqlError::Export { .. } => "damaged",
        LibsqlError::PageSize { .. } => "page-size",
        LibsqlError::OlderGeneration { .. } => "rewound",
        LibsqlError::NoState(_) => "beyond-head",
        LibsqlError::HigherFrame { .. } => "higher-frame",
        LibsqlError::LowerFrame { .. } => "lower-frame",
        LibsqlError::Conflict { .. } => "conflict",
        LibsqlError::Unfinished { .. } => "unfinished-transaction",
        LibsqlError::NoHistory => "no-history",
        LibsqlError::NotEmpty => "remote-not-empty",
        _ => "libsql",
    }
}

/// The names of why a file cannot be taken over.
fn adopt_code(error: &AdoptError) -> &'static str {
    match error {
        AdoptError::NoInfo { .. } => "no-info-file",
        AdoptError::Malformed(_)
        | AdoptError::Hash { .. }
        | AdoptError::Version(_)
        | AdoptError::NoGeneration => "info-file",
        AdoptError::PageSize(_) => "page-size",
        AdoptError::ShortWal { .. } | AdoptError::InsideTransaction(_) => "checkpointed",
        AdoptError::InUse(_) => "in-use",
        AdoptError::OtherFrame { .. }
        | AdoptError::NoSuchPosition { .. }
        | AdoptError::OtherState { .. } => "other-database",
        AdoptError::Interrupted => "adoption-unfinished",
        _ => "adopt",
    }
}

/// The names of what can be wrong with a remote. The more frequent ones are in the help text.
fn store_code(error: &StoreError) -> &'static str {
    match error {
        StoreError::Rewound { .. } => "rewound",
        StoreError::Deleted { .. } => "deleted",
        StoreError::Corrupt { .. } => "damaged",
        StoreError::Missing { .. } => "missing",
        StoreError::Incomplete { .. } => "incomplete",
        StoreError::Refused { .. } => "refused",
        StoreError::NoSpace { .. } => "no-space",
        StoreError::NotAFolder { .. } => "not-a-folder",
        StoreError::BeyondHead { .. } => "beyond-head",
        StoreError::BelowFloor { .. } | StoreError::BeforeHistory { .. } => "before-history",
        StoreError::ConditionIgnored { .. } | StoreError::ConditionUnsupported { .. } => {
            "unconditional"
        }
        StoreError::Unsettled { .. } => "unsettled",
        StoreError::Settings { .. } => "settings",
        StoreError::Other { source, .. } => source.downcast_ref().map_or("store", libsql_code),
        _ => "store",
    }
}

#[cfg(test)]
mod tests {
    use anabranch::Lsn;

    use super::*;

    fn diverged() -> Failure {
        Failure::Library(Error::Diverged {
            local_pages: 3,
            base: Lsn::new(7),
            remote_lsn: Lsn::new(9),
        })
    }

    #[test]
    fn divergence_has_its_exit_code_its_details_and_a_way_out() {
        let failure = diverged();
        assert_eq!(failure.exit().code(), 3);
        let json = failure.json();
        assert_eq!(json["error"]["code"], "diverged");
        assert_eq!(json["error"]["details"]["remote_lsn"], 9);
        let text = failure.text(Paint::default());
        assert!(text.starts_with("error: diverged"), "{text}");
        assert!(text.contains("--take-remote"), "{text}");
    }

    #[test]
    fn what_is_wrong_with_a_remote_has_a_code_of_its_own() {
        let (location, key) = (|| "river".to_owned(), || "db/x/log/0".to_owned());
        let (at, found) = (Lsn::new(7), Lsn::new(9));
        let errors = [
            (StoreError::Rewound { location: location(), key: key(), at, found }, "rewound"),
            (StoreError::Missing { location: location(), key: key() }, "missing"),
            (StoreError::BeyondHead { location: location(), at: found, head: at }, "beyond-head"),
            (StoreError::BeforeHistory { location: location(), oldest: at }, "before-history"),
            (
                StoreError::Incomplete { location: location(), key: key(), proof: key() },
                "incomplete",
            ),
        ];
        for (error, code) in errors {
            let failure = Failure::Library(Error::Store(error));
            assert_eq!(failure.json()["error"]["code"], code);
            assert_eq!(failure.exit(), Exit::Failed);
        }
        let went_back = Error::RemoteWentBack { remote: location(), base: found, found: at };
        let text = Failure::Library(went_back).text(Paint::default());
        assert!(text.contains("help: ") && text.contains("--take-remote"), "{text}");
    }

    #[test]
    fn a_named_place_that_cannot_be_reached_is_offline_without_local_changes() {
        let offline = |source| Error::Offline { remote: "river".into(), source: Box::new(source) };
        let failure = Failure::at_named_place(offline(StoreError::Interrupted));
        assert_eq!(failure.exit(), Exit::Offline);
        assert!(!failure.text(Paint::default()).contains("local changes"));
        let gone = StoreError::Gone { location: "river".into(), what: "no such folder".into() };
        let failure = Failure::at_named_place(offline(gone));
        assert_eq!(failure.exit(), Exit::Failed);
        assert_eq!(failure.to_string(), "there is no remote at river: no such folder");
    }

    #[test]
    fn causes_are_told_once_each() {
        let failure = Failure::File {
            what: "reading",
            path: "x.db".into(),
            source: io::Error::other("the disk is on fire"),
        };
        assert_eq!(
            failure.text(Paint::default()),
            "error: reading x.db failed\ncaused by: the disk is on fire\n"
        );
        assert_eq!(failure.json()["error"]["causes"][0], "the disk is on fire");
        assert_eq!(Failure::Usage("x".into()).exit().code(), 2);
    }
}
