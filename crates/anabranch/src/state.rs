//! What a replica remembers between operations.
//!
//! Plain data: [`State`] is the settled part, [`Intent`] an act that may or may not have happened.
//! Where and how they are kept is the sidecar's business.

use std::ffi::{OsStr, OsString};

use anabranch_format::{DatabaseId, DbChecksum, Lsn, Micros, PageSize, PushId, WriterId};
use anabranch_sqlite::{ApplyIntent, FileIdentity, Mark};
use anabranch_store::Anchor;
use serde::{Deserialize, Serialize};

use crate::entropy;
use crate::remote::{Dialect, Spot};

/// How far the making of a replica has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// `init` has not yet claimed the name at the remote for sure; the next operation does.
    Publishing,
    /// `clone` has written the sidecar, but perhaps not put the database into its place.
    Cloning,
    /// Everything is in place.
    Ready,
}

/// The remote as the user named it, folders made absolute. Paths need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum RemoteText {
    Text(String),
    Bytes { bytes: Vec<u8> },
}

impl RemoteText {
    pub(crate) fn new(text: &OsStr) -> Self {
        match text.to_str() {
            Some(text) => RemoteText::Text(text.to_owned()),
            None => RemoteText::Bytes { bytes: text.as_encoded_bytes().to_vec() },
        }
    }

    pub(crate) fn to_os_string(&self) -> OsString {
        match self {
            RemoteText::Text(text) => text.into(),
            #[cfg(unix)]
            RemoteText::Bytes { bytes } => std::os::unix::ffi::OsStringExt::from_vec(bytes.clone()),
            #[cfg(not(unix))]
            RemoteText::Bytes { bytes } => String::from_utf8_lossy(bytes).into_owned().into(),
        }
    }
}

/// The remote state that this replica last had in common with its remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// The segment that ends there: where the next push goes.
    pub(crate) anchor: Anchor,
    /// Size in pages.
    pub(crate) size: u32,
    /// Database checksum.
    pub(crate) sum: DbChecksum,
    /// Schema cookie of the log at that position.
    pub(crate) log_cookie: u32,
    /// Schema cookie of the file when it was there: if it differs now, the schema changed here.
    pub(crate) file_cookie: u32,
}

impl Base {
    /// The position.
    pub(crate) fn lsn(&self) -> Lsn {
        self.anchor.last
    }
}

/// The settled state of a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) remote: RemoteText,
    /// Name of the database at the remote.
    pub(crate) name: String,
    pub(crate) database: DatabaseId,
    pub(crate) replica: WriterId,
    /// Seed of this replica's keyed page checksums.
    pub(crate) seed: u64,
    pub(crate) page_size: PageSize,
    pub(crate) base: Base,
    /// Which file this is.
    pub(crate) identity: FileIdentity,
    /// Page 1's change counter when the base was settled: it never falls within one file.
    pub(crate) change_counter: u32,
    /// Up to where the file's WAL has been looked at.
    pub(crate) mark: Option<Mark>,
    /// At the mark the file was ahead of its base: what is staged under this number names the pages
    /// that may have differed. `None`: at the mark the file was as the base.
    #[serde(default)]
    pub(crate) ahead: Option<i64>,
    /// It could not be told whether an earlier pull had been applied, and it was taken for one that
    /// was not: rows that are as the remote has them may have come from there.
    #[serde(default)]
    pub(crate) undecided: bool,
    /// When the base was settled.
    pub(crate) settled_at: Option<Micros>,
    /// What the database is known by, beside its pages.
    #[serde(default)]
    pub(crate) known: Known,
    /// What the server at the remote was found to speak; none if it is no server.
    #[serde(default)]
    pub(crate) dialect: Option<Dialect>,
    /// The file was taken over from an official libSQL client, whose info file, which names this
    /// position, is still to be put aside.
    #[serde(default)]
    pub(crate) adopting: Option<Spot>,
}

/// Hashes of the names of a database's tables, and the schema cookie at which they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) tables: Vec<u64>,
    pub(crate) cookie: u32,
}

impl State {
    /// A replica that has nothing in common with its remote yet; which file it is comes later.
    pub(crate) fn fresh(
        phase: Phase,
        remote: RemoteText,
        name: &str,
        database: DatabaseId,
        page_size: PageSize,
    ) -> Self {
        State {
            phase,
            remote,
            name: name.to_owned(),
            database,
            replica: entropy::writer_id(),
            seed: entropy::seed(),
            page_size,
            base: Base {
                anchor: Anchor::start(),
                size: 0,
                sum: DbChecksum::EMPTY,
                log_cookie: 0,
                file_cookie: 0,
            },
            identity: FileIdentity::default(),
            change_counter: 0,
            mark: None,
            ahead: None,
            undecided: false,
            settled_at: None,
            known: Known::default(),
            dialect: None,
            adopting: None,
        }
    }
}

/// A push whose outcome only the log can tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PushIntent {
    pub(crate) push: PushId,
    /// The position it continues.
    pub(crate) base: Lsn,
    pub(crate) size_before: u32,
    pub(crate) size_after: u32,
    pub(crate) sum_after: DbChecksum,
    pub(crate) log_cookie: u32,
    pub(crate) file_cookie: u32,
    pub(crate) change_counter: u32,
    pub(crate) mark: Option<Mark>,
    pub(crate) pages: u64,
}

impl PushIntent {
    /// The base once the push is in the log, as the segment that ends at `anchor`.
    pub(crate) fn base_after(&self, anchor: Anchor) -> Base {
        Base {
            anchor,
            size: self.size_after,
            sum: self.sum_after,
            log_cookie: self.log_cookie,
            file_cookie: self.file_cookie,
        }
    }
}

/// A pull whose outcome only the file can tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PullIntent {
    /// The position it leads to.
    pub(crate) target: Anchor,
    pub(crate) sum_after: DbChecksum,
    /// Schema cookie of the log at the target.
    pub(crate) log_cookie: u32,
    /// What was about to be committed to the file.
    pub(crate) apply: ApplyIntent,
}

impl PullIntent {
    /// The base once the pull is in the file.
    pub(crate) fn base_after(&self) -> Base {
        Base {
            anchor: self.target.clone(),
            size: self.apply.size_after,
            sum: self.sum_after,
            log_cookie: self.log_cookie,
            file_cookie: self.apply.cookie_after.unwrap_or(self.apply.cookie_before),
        }
    }
}

/// A pull of which the outcome is not the remote's state, but that with local changes on top. Only
/// the file can tell whether it happened. What the base becomes is staged apart from what the file
/// becomes: see [`Stage`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RebaseIntent {
    /// The position that becomes the base.
    pub(crate) target: Anchor,
    /// Size in pages, checksum and schema cookie of the log there.
    pub(crate) size: u32,
    pub(crate) sum_after: DbChecksum,
    pub(crate) log_cookie: u32,
    /// The file's schema is not the target's: the next push must say that it changed.
    pub(crate) carried: bool,
    /// What was about to be committed to the file.
    pub(crate) apply: ApplyIntent,
}

impl RebaseIntent {
    /// The base once the result is in the file.
    pub(crate) fn base_after(&self) -> Base {
        let cookie = self.apply.cookie_after.unwrap_or(self.apply.cookie_before);
        Base {
            anchor: self.target.clone(),
            size: self.size,
            sum: self.sum_after,
            log_cookie: self.log_cookie,
            file_cookie: if self.carried { !cookie } else { cookie },
        }
    }
}

/// What a rebase stages beside what the file becomes, which has the intent's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// What the base becomes.
    Base,
    /// How the file's pages differ from the base before.
    Before,
    /// The pages in which the file may differ from the new base afterwards.
    Ahead,
}

impl Stage {
    pub(crate) const ALL: [Stage; 3] = [Stage::Base, Stage::Before, Stage::Ahead];

    /// The number under which it is staged for an intent. Those of intents are positive.
    pub(crate) fn of(self, intent: i64) -> i64 {
        -(intent * 4 + self as i64)
    }
}

/// An act that may or may not have happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Intent {
    Push(PushIntent),
    Pull(PullIntent),
    Rebase(RebaseIntent),
}
