//! What can go wrong in a shell, and what its user can do.

use std::io;
use std::path::PathBuf;

use super::clean::one_line;

/// So much of a statement is shown around the place of an error.
const EXCERPT_CHARS: usize = 70;

/// Why a statement or a command of a shell failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShellError {
    /// SQLite refused it, here or at the server.
    #[error("{message}")]
    Sql {
        /// SQLite's name for it, such as `SQLITE_BUSY`, or the server's.
        code: String,
        /// The words.
        message: String,
        /// The byte of the statement that they are about.
        offset: Option<usize>,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// A command that is not understood.
    #[error("{0}")]
    Usage(String),
    /// No connection to the server: the statement was not carried out.
    #[error("{at} cannot be reached")]
    Offline {
        /// The database's URL.
        at: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server cannot prove who it is.
    #[error(
        "the certificate of {at} is not trusted: is the name in the URL right, the clock, and the \
         authority among the system's?"
    )]
    Certificate {
        /// The database's URL.
        at: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The request was sent, and no answer came.
    #[error(
        "the connection to {at} broke before the answer was complete: it is not known whether the \
         statement was carried out"
    )]
    Lost {
        /// The database's URL.
        at: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The request cannot be made.
    #[error("the request to {at} cannot be made")]
    Request {
        /// The database's URL.
        at: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A header cannot hold it.
    #[error("the {what} has characters that no header can hold")]
    Secret {
        /// "token", "encryption key".
        what: &'static str,
    },
    /// The server wants to know who asks.
    #[error("{at} wants {what} token: give one by --auth-token or ANABRANCH_AUTH_TOKEN{said}")]
    Unauthorized {
        /// The database's URL.
        at: String,
        /// "a", or "another" if one was given.
        what: &'static str,
        /// What the server says, in brackets.
        said: String,
    },
    /// No SQL is spoken there, or no such database is.
    #[error(
        "{at} answers neither v3/pipeline nor v2/pipeline: no such database, or no server that \
         speaks SQL{said}"
    )]
    NoSql {
        /// The database's URL.
        at: String,
        /// What the server says, in brackets.
        said: String,
    },
    /// The server refuses the request as a whole.
    #[error("{at} answers with status {status}{said}")]
    Status {
        /// The database's URL.
        at: String,
        /// The status.
        status: u16,
        /// What the server says, in brackets.
        said: String,
    },
    /// An answer that is none.
    #[error("the answer of {at} makes no sense: {what}")]
    Protocol {
        /// The database's URL.
        at: String,
        /// What is wrong with it.
        what: String,
    },
    /// An answer that is longer than anybody wants to hold in memory.
    #[error(
        "the answer of {at} is longer than {bytes_max} bytes: ask for fewer rows at a time (LIMIT). \
         The statement was carried out"
    )]
    TooLong {
        /// The database's URL.
        at: String,
        /// What is taken.
        bytes_max: usize,
    },
    /// A redirect that is not followed.
    #[error("{at} redirects {why}, which is not followed: the statement was not carried out")]
    Redirect {
        /// The database's URL.
        at: String,
        /// Where to.
        why: String,
    },
    /// A file.
    #[error("{what} {path} failed", path = path.display())]
    File {
        /// "reading".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was to be shown could not be.
    #[error("writing the output failed")]
    Output(#[from] io::Error),
    /// A row of a file that is imported.
    #[error("{path}, record {record}: {source}; nothing was imported", path = path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// Which record, from 1.
        record: u64,
        /// Why.
        #[source]
        source: Box<ShellError>,
    },
    /// The input ended, or broke off, inside a transaction.
    #[error("the input ended inside a transaction, which was rolled back: COMMIT was missing")]
    OpenTransaction,
}

impl ShellError {
    /// What the error of a server comes to.
    pub(super) fn of_server(error: anabranch_hrana::Error) -> Self {
        let offset = offset_in(&error.message);
        ShellError::Sql { code: one_line(&error.code), message: one_line(&error.message), offset }
    }

    /// Whether it has this code of SQLite's, or of a server.
    pub(super) fn has_code(&self, wanted: &str) -> bool {
        matches!(self, ShellError::Sql { code, .. } if code == wanted)
    }

    /// A short name for programs.
    pub(crate) fn code(&self) -> &str {
        match self {
            ShellError::Sql { code, .. } => code,
            ShellError::Interrupted => "interrupted",
            ShellError::Usage(_) => "usage",
            ShellError::Offline { .. } => "offline",
            ShellError::Certificate { .. } => "certificate",
            ShellError::Lost { .. } => "unconfirmed",
            ShellError::Request { .. } | ShellError::Secret { .. } => "request",
            ShellError::Unauthorized { .. } => "unauthorized",
            ShellError::NoSql { .. } => "no-sql",
            ShellError::Status { .. } => "server",
            ShellError::Protocol { .. } => "protocol",
            ShellError::TooLong { .. } => "too-long",
            ShellError::Redirect { .. } => "redirect",
            ShellError::File { .. } => "file",
            ShellError::Output(_) => "output",
            ShellError::Import { source, .. } => source.code(),
            ShellError::OpenTransaction => "open-transaction",
        }
    }

    /// What the user can do.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        Some(match self {
            ShellError::Sql { code, .. } => match code.as_str() {
                "SQLITE_BUSY" | "SQLITE_LOCKED" => {
                    "another program is writing; give the statement again, a transaction from its \
                     BEGIN on (BEGIN IMMEDIATE takes its turn at once); for a file, --busy-timeout \
                     says how long to wait"
                }
                "TRANSACTION_TIMEOUT" => {
                    "begin anew, and take less time; large jobs are done on a replica (`anabranch \
                     clone`), then sent by `anabranch sync`"
                }
                "STREAM_EXPIRED" => {
                    "the server closed the connection, which was idle for too long, and rolled the \
                     transaction back: begin anew"
                }
                "TRANSACTION_BUSY" => "the server has no room for another transaction: try again",
                "RESPONSE_TOO_LARGE" => "ask for fewer rows at a time (LIMIT)",
                "SQLITE_READONLY" | "SQLITE_AUTH" | "AUTH_FORBIDDEN" => {
                    "the file or the token may only be read"
                }
                _ => return None,
            },
            ShellError::Import { source, .. } => return source.advice(),
            ShellError::Lost { .. } => "look whether it was, before you give it again",
            ShellError::Offline { .. } => "nothing was carried out; try again later",
            _ => return None,
        })
    }
}

/// The byte that a server's error is about: `... (at offset 14)`.
fn offset_in(message: &str) -> Option<usize> {
    let (_, rest) = message.rsplit_once("(at offset ")?;
    rest.split(')').next()?.parse().ok()
}

/// An error, and where in the input it arose.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What happened.
    pub(crate) error: Box<ShellError>,
    /// "line 7", "dump.sql, line 7"; empty if it needs not be told.
    pub(crate) place: String,
    /// The part of the statement that it is about, with a mark below; or empty.
    pub(crate) excerpt: String,
    /// A transaction was open before, and is not any more.
    pub(crate) is_rolled_back: bool,
}

impl Refused {
    /// Lines for people that follow the message.
    pub(crate) fn details(&self) -> String {
        let mut text = String::new();
        if !self.excerpt.is_empty() {
            text += &format!("{}\n", self.excerpt);
        }
        if self.is_rolled_back {
            text += "the transaction was rolled back\n";
        }
        text
    }

    pub(super) fn new(error: ShellError, place: String, sql: &str) -> Self {
        let offset = match &error {
            ShellError::Sql { offset, .. } => *offset,
            _ => None,
        };
        let excerpt = offset.map(|offset| excerpt(sql, offset)).unwrap_or_default();
        Refused { error: Box::new(error), place, excerpt, is_rolled_back: false }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}", self.error)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// The line of `sql` around `offset`, and a mark below it.
fn excerpt(sql: &str, offset: usize) -> String {
    let Some((before, after)) = sql.split_at_checked(offset) else { return String::new() };
    let lead: String = before.rsplit('\n').next().unwrap_or_default().to_owned();
    let chars = lead.chars().count();
    let lead: String = lead.chars().skip(chars.saturating_sub(EXCERPT_CHARS / 2)).collect();
    let tail: String =
        after.split('\n').next().unwrap_or_default().chars().take(EXCERPT_CHARS / 2).collect();
    let lead = one_line(&lead);
    let indent = unicode_width::UnicodeWidthStr::width(lead.as_str());
    format!("  {lead}{}\n  {}^", one_line(&tail), " ".repeat(indent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_error_is_marked() {
        assert_eq!(excerpt("SELECT\n  ä, x FROM t", 13), "    ä, x FROM t\n       ^");
        assert_eq!(excerpt("x", 7), "");
        let long = format!("{}x{}", "a".repeat(200), "b".repeat(200));
        let shown = excerpt(&long, 200);
        assert!(shown.lines().all(|line| line.chars().count() <= 2 + EXCERPT_CHARS), "{shown}");
        let told = anabranch_hrana::Error::new("X", "SQL input error: no\u{1b} (at offset 14)");
        let ShellError::Sql { offset, message, .. } = ShellError::of_server(told) else { panic!() };
        assert_eq!(offset, Some(14));
        assert!(message.contains("no^["));
    }
}
