//! What can go wrong between us and a store.
//!
//! Errors are cut by what the caller can do: try again later ([`StoreError::is_offline`]), reload
//! from a snapshot ([`StoreError::BelowFloor`]), report damage, or correct the request. Each names
//! the place and, where there is one, the key of the object.

use std::io;
use std::path::PathBuf;

use anabranch_format::{DatabaseId, DeltaError, Lsn, MetadataError, SnapshotError};

/// The way out where a remote has lost something for good.
const NEW_PLACE: &str = "Or publish a replica that is in step at a new place: move \
    FILE-anabranch* away, then `anabranch init FILE --remote NEW`";

/// What is wrong with an object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Its metadata cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The pages in it cannot be read.
    #[error(transparent)]
    Pages(#[from] DeltaError),
    /// The snapshot cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It contradicts its name or its neighbours.
    #[error("{0}")]
    Contradiction(String),
    /// It belongs to another database.
    #[error("it belongs to the database {found}, not to {expected}")]
    Database {
        /// As in the object.
        found: DatabaseId,
        /// The database whose log this is.
        expected: DatabaseId,
    },
}

/// Why an operation on a store failed. Nothing changed unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The place is not there, or does not hold the database: a disk that is not mounted, a folder
    /// that was moved away.
    #[error("{location} is not there: {what}")]
    Gone {
        /// The remote.
        location: String,
        /// What was missed.
        what: String,
    },
    /// The store cannot be reached, or does not answer.
    #[error("{location} cannot be reached")]
    Unreachable {
        /// The remote.
        location: String,
        /// The object that was asked for.
        key: String,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The store refuses access.
    #[error("{location} refuses access to {key}: check the permissions or credentials")]
    Refused {
        /// The remote.
        location: String,
        /// The object.
        key: String,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The folder's file system takes no more.
    #[error(
        "{location} has no room for {key}: {why}. Nothing was written; make room there and try again"
    )]
    NoSpace {
        /// The remote.
        location: String,
        /// The object.
        key: String,
        /// What is used up.
        why: &'static str,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// What is at the place can be no remote.
    #[error("{location} is a file: a remote is a folder, or a bucket named by its URL")]
    NotAFolder {
        /// The remote.
        location: String,
    },
    /// The store answered with an error.
    #[error("an operation on {key} in {location} failed")]
    Failed {
        /// The remote.
        location: String,
        /// The object.
        key: String,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// An object is damaged.
    #[error("{key} in {location} is damaged. If you have a backup of it, put it back. {NEW_PLACE}")]
    Corrupt {
        /// The remote.
        location: String,
        /// The object.
        key: String,
        /// What is wrong with it.
        #[source]
        source: Box<Damage>,
    },
    /// An object that must be there is missing.
    #[error(
        "{key} is missing in {location}, although the log goes on after it. If the remote is a copy \
         that is still being made, try again once it is complete; if the object was lost, put it \
         back from a backup. {NEW_PLACE}"
    )]
    Missing {
        /// The remote.
        location: String,
        /// The object.
        key: String,
    },
    /// The log goes on after a segment that is not there.
    #[error(
        "not all objects of the log are in {location} (yet): {key} is missing, although {proof} is \
         there. If the remote is a copy that is still being made, try again once it is complete; \
         if objects were lost, put them back from a backup. {NEW_PLACE}"
    )]
    Incomplete {
        /// The remote.
        location: String,
        /// The object that is missing.
        key: String,
        /// What shows that it must have been there.
        proof: String,
    },
    /// The log does not hold what was read from it before.
    #[error(
        "{location} does not hold any more what was read from it before ({key} is gone or has \
         other content), and ends at {found}: an older copy was put in its place. Nothing was \
         changed. Put the newer objects back, or go on from what is there with `anabranch repair \
         FILE --take-remote`, which keeps the file as it is beside the new one. {NEW_PLACE}"
    )]
    Rewound {
        /// The remote.
        location: String,
        /// The object.
        key: String,
        /// The position that was known to be in the log.
        at: Lsn,
        /// Where the log ends now, as far as a listing shows.
        found: Lsn,
    },
    /// The store overwrites objects although it was told to create them only if absent.
    #[error(
        "{location} ignores the condition of a conditional write (If-None-Match): two programs \
         that write at once would overwrite each other, so nothing is written to it. Use a store \
         that honours it"
    )]
    ConditionIgnored {
        /// The remote.
        location: String,
    },
    /// The store cannot create an object only if it is absent.
    #[error(
        "{location} cannot create an object only if it is absent (a folder needs a file system \
         with hard links)"
    )]
    ConditionUnsupported {
        /// The remote.
        location: String,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The database was deleted.
    #[error("the database {database} in {location} was deleted")]
    Deleted {
        /// The remote.
        location: String,
        /// The database.
        database: DatabaseId,
    },
    /// The log keeps nothing as old as that.
    #[error("position {at} is older than what {location} keeps (from {floor} on)")]
    BelowFloor {
        /// The remote.
        location: String,
        /// The position.
        at: Lsn,
        /// The oldest position that is kept.
        floor: Lsn,
    },
    /// The log does not go as far as that.
    #[error("position {at} is beyond the end of the log in {location}, which is {head}")]
    BeyondHead {
        /// The remote.
        location: String,
        /// The position.
        at: Lsn,
        /// Where the log ends.
        head: Lsn,
    },
    /// The log holds no state as old as that time.
    #[error("{location} keeps no state as old as that: the oldest is position {oldest}")]
    BeforeHistory {
        /// The remote.
        location: String,
        /// The oldest position that is kept.
        oldest: Lsn,
    },
    /// Objects kept vanishing while they were being read, round after round.
    #[error("{location} is being cleaned up faster than it can be read: try again")]
    Unsettled {
        /// The remote.
        location: String,
    },
    /// A temporary file could not be used.
    #[error("a temporary file in {directory} cannot be used", directory = directory.display())]
    Scratch {
        /// Where it is.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The settings for this kind of store are wrong or incomplete.
    #[error("the settings for {location} cannot be used")]
    Settings {
        /// The remote.
        location: String,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The endpoint of a service is no address of one.
    #[error(
        "the endpoint '{endpoint}' cannot be used: {why}. Write it as https://HOST or \
         http://HOST:PORT (it comes from the option, or from a variable such as AWS_ENDPOINT_URL)"
    )]
    Endpoint {
        /// As given, credentials left out.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// The operation was cut short because the program is ending.
    #[error("the operation was cut short")]
    Interrupted,
    /// A remote that is no object store failed: for those who stand in for a [`crate::Log`] by
    /// other means, such as a server.
    #[error("{location} failed")]
    Other {
        /// The remote.
        location: String,
        /// It cannot be reached for now, so that trying later can help.
        offline: bool,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Whether the remote is out of reach for now, so that trying later can help.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        matches!(
            self,
            StoreError::Gone { .. }
                | StoreError::Unreachable { .. }
                | StoreError::Other { offline: true, .. }
        )
    }

    /// Whether an object is damaged or contradicts others.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self,
            StoreError::Corrupt { .. } | StoreError::Missing { .. } | StoreError::Incomplete { .. }
        )
    }

    /// The key of the object that the error is about.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            StoreError::Unreachable { key, .. }
            | StoreError::Refused { key, .. }
            | StoreError::NoSpace { key, .. }
            | StoreError::Failed { key, .. }
            | StoreError::Corrupt { key, .. }
            | StoreError::Missing { key, .. }
            | StoreError::Incomplete { key, .. }
            | StoreError::Rewound { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The error behind a failure of [`crate::Fetched::into_pages`]'s source, which can only speak
    /// in [`DeltaError`]s: names the object again.
    pub fn from_pages(error: DeltaError) -> Result<StoreError, DeltaError> {
        match error {
            DeltaError::Io(e) => e.downcast::<StoreError>().map_err(DeltaError::Io),
            other => Err(other),
        }
    }

    /// The same, in the only form that a source of pages can pass on.
    pub(crate) fn into_pages_error(self) -> DeltaError {
        DeltaError::Io(io::Error::new(io::ErrorKind::InvalidData, self))
    }
}

/// An error and its causes in one line: what errors of this project leave to their sources, they do
/// not repeat.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
