//! What can go wrong with a server that speaks the libSQL dialect.
//!
//! Cut by whose turn it is: the server is out of reach, it refuses, it breaks the protocol, or it
//! does not have (any more) what is needed.

use std::io;
use std::path::PathBuf;

use anabranch_format::PageSize;
use anabranch_store::StoreError;

use super::spot::Spot;
use super::{BATCH_FRAMES, FRAME_BYTES};

/// Why a request to a libSQL server, or what it answered, is of no use. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibsqlError {
    /// No connection, or none that lasted.
    #[error("{request} was not answered")]
    Unreachable {
        /// Method and path.
        request: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server has trouble of its own.
    #[error("the server answered {status} to {request} again and again{said}: try later")]
    Unavailable {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// What it said, after a colon.
        said: String,
    },
    /// 401 or 403.
    #[error(
        "the server refuses {request} with {status}{said}: give a valid token by --auth-token or \
         ANABRANCH_AUTH_TOKEN (and, for a database that is encrypted with your own key, the key by \
         --encryption-key)"
    )]
    Denied {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// What it said, after a colon.
        said: String,
    },
    /// 404 or 410 for a database.
    #[error("the server knows no such database: it answered {status} to {request}{said}")]
    NoDatabase {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// What it said, after a colon.
        said: String,
    },
    /// 404 or 410 for a generation.
    #[error(
        "the server does not keep generation {generation} any more{said}: `anabranch repair FILE \
         --take-remote` goes on from its newest state, keeping the file as it is beside the new one"
    )]
    GenerationGone {
        /// The generation.
        generation: u32,
        /// What it said, after a colon.
        said: String,
    },
    /// Any other status that makes no sense.
    #[error("the server answered {status} to {request}{said}")]
    Status {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// What it said, after a colon.
        said: String,
    },
    /// A redirect that is not followed.
    #[error("{request} is redirected {why}; nothing was sent there")]
    Redirect {
        /// Method and path.
        request: String,
        /// Where to, and what is wrong with that.
        why: String,
    },
    /// An answer that is not what the protocol says.
    #[error("the server's answer to {request} is none of the libSQL sync protocol: {what}")]
    Malformed {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        what: String,
    },
    /// Frames that lead to no database.
    #[error("what the server sent as {at} cannot be used: {what}")]
    Frames {
        /// The frame.
        at: Spot,
        /// What is wrong with it.
        what: FrameFault,
    },
    /// An image that is no database.
    #[error("what the server sent as the base of generation {generation} is no database: {what}")]
    Export {
        /// The generation.
        generation: u32,
        /// What is wrong with it.
        what: String,
    },
    /// Only one page size can be sent.
    #[error(
        "the libSQL sync protocol knows pages of 4096 bytes only, and the database has pages of \
         {found}: set `PRAGMA page_size = 4096` and VACUUM (outside WAL mode)"
    )]
    PageSize {
        /// The database's.
        found: PageSize,
    },
    /// The server is at an older generation than it was.
    #[error(
        "the server is at generation {found}, but this replica has seen generation {known}: an older \
         copy of the database was put in its place, or the database was made anew"
    )]
    OlderGeneration {
        /// Where the replica is.
        known: u32,
        /// Where the server is.
        found: u32,
    },
    /// A generation ended inside a transaction.
    #[error("the server ends generation {generation} inside a transaction, after frame {frame}")]
    CutTransaction {
        /// The generation.
        generation: u32,
        /// Its last frame.
        frame: u32,
    },
    /// More generations than can be believed.
    #[error("the server names one newer generation after the other, {0} of them so far")]
    TooManyGenerations(u32),
    /// Numbers beyond what the protocol can count.
    #[error("the protocol cannot count beyond {0}")]
    Exhausted(Spot),
    /// The state that is asked for does not end a transaction of the server.
    #[error("the server has no state at {0}: no transaction ends there")]
    NoState(Spot),
    /// A push was answered by a number beyond its last frame.
    #[error(
        "the server returned a higher frame number than was sent ({found} instead of {expected}): \
         it holds frames of somebody else there; sync again"
    )]
    HigherFrame {
        /// The last frame sent.
        expected: u32,
        /// As answered.
        found: u32,
    },
    /// A push was answered by a number below its last frame, twice.
    #[error(
        "the server returned a lower frame number than was sent ({found} instead of {expected}), \
         also after everything was sent again"
    )]
    LowerFrame {
        /// The last frame sent.
        expected: u32,
        /// As answered.
        found: u32,
    },
    /// A push was accepted in a generation that does not have it.
    #[error(
        "the server took the push as part of generation {found} instead of {known}, but has it in \
         neither"
    )]
    OtherGeneration {
        /// Where it was sent.
        known: u32,
        /// As answered.
        found: u32,
    },
    /// A push was refused although nobody stands in its place.
    #[error(
        "the server refuses the push after {after} as a conflict, although it shows no frame there"
    )]
    Conflict {
        /// The position after which it was tried.
        after: Spot,
    },
    /// The server shows frames of a transaction that nobody finished.
    #[error(
        "the server holds the beginning of a transaction after {after} that was never finished (a \
         client was cut off while it pushed); as long as it is there nobody can push. Only who runs \
         the server can remove it"
    )]
    Unfinished {
        /// The position after which it stands.
        after: Spot,
    },
    /// A push was answered by a word that means nothing.
    #[error("the server answered the push with the status '{0}'")]
    PushStatus(String),
    /// Something that such a server does not have.
    #[error(
        "a server that speaks the libSQL dialect keeps no history that can be asked for: no list of \
         what happened, no state by time, nothing to compact"
    )]
    NoHistory,
    /// The database at the server is not empty.
    #[error("the server holds a database already")]
    NotEmpty,
    /// The key cannot be sent.
    #[error("the {what} has characters that no HTTP header can carry")]
    Secret {
        /// Token or key.
        what: &'static str,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up")]
    Client(#[source] reqwest::Error),
    /// A temporary file failed.
    #[error("a temporary file in {folder} cannot be used", folder = folder.display())]
    Scratch {
        /// Where it is.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program is ending.
    #[error("the operation was cut short")]
    Interrupted,
}

/// What is wrong with frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// Not a row of frames.
    #[error(
        "{0} bytes are not a number of frames of {FRAME_BYTES} bytes, from 1 to {BATCH_FRAMES}"
    )]
    Length(usize),
    /// Page number 0, or that of the lock page.
    #[error("it names page {0}, which no frame can hold")]
    Page(u32),
    /// A size that cannot be.
    #[error("it ends a transaction with a database of {0} pages, which cannot be")]
    Size(u32),
    /// The database grows without its new pages.
    #[error("the database grows from {from} to {to} pages, but not all of the new ones came")]
    Growth {
        /// Size before.
        from: u32,
        /// Size after.
        to: u32,
    },
    /// Page 1 is not that of a database.
    #[error("its page 1 is not that of a database with pages of 4096 bytes: {0}")]
    PageOne(String),
}

impl LibsqlError {
    /// Whether the server is out of reach for now, so that trying later can help.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        matches!(self, LibsqlError::Unreachable { .. } | LibsqlError::Unavailable { .. })
    }

    /// The same in the terms of the sync engine.
    pub(super) fn at(self, location: &str) -> StoreError {
        StoreError::Other {
            location: location.to_owned(),
            offline: self.is_offline(),
            source: Box::new(self),
        }
    }
}
