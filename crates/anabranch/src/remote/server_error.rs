//! What can go wrong between us and a server.

use anabranch_store::StoreError;

/// Why a server did not do what was asked. Nothing changed unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No connection, or it broke.
    #[error("no answer")]
    Unreachable(#[source] reqwest::Error),
    /// The server was silent for longer than anybody waits.
    #[error("no answer for {seconds} seconds")]
    Silent {
        /// How long.
        seconds: u64,
    },
    /// The server cannot prove that it is the one that was named.
    #[error(
        "its certificate is not trusted: is the name in the URL right, the clock, and the authority \
         among the system's?"
    )]
    Certificate(#[source] reqwest::Error),
    /// The request could not even be made.
    #[error("the request cannot be sent")]
    Request(#[source] reqwest::Error),
    /// The server wants to know who asks.
    #[error("it wants {what} token: give one by --auth-token or ANABRANCH_AUTH_TOKEN", what = token(*given))]
    Unauthorized {
        /// One was sent, and is not known there.
        given: bool,
    },
    /// The token is known, but not enough.
    #[error("it refuses: {message}")]
    Forbidden {
        /// The server's words.
        message: String,
    },
    /// No database has the name.
    #[error("it has no such database")]
    NoDatabase,
    /// Another database has the name.
    #[error("the database there is another one, {found}")]
    OtherDatabase {
        /// Its id.
        found: String,
        /// The id of the one that is meant, where one is.
        expected: Option<String>,
    },
    /// The name in the URL cannot name a database there.
    #[error("{message}")]
    InvalidName {
        /// The server's words.
        message: String,
    },
    /// What answers does not speak our dialect.
    #[error("it answers with status {status}, and not as `anabranch serve` does")]
    NotOurs {
        /// The status of the answer.
        status: u16,
    },
    /// It speaks our dialect, but what it says makes no sense.
    #[error("its answer makes no sense: {what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
    /// It cannot serve this now.
    #[error("it cannot serve this now (status {status}): {message}")]
    Busy {
        /// The status of the answer.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// It refuses for another reason.
    #[error("it answers '{code}' (status {status}): {message}")]
    Refused {
        /// The status of the answer.
        status: u16,
        /// The server's code for it.
        code: String,
        /// The server's words.
        message: String,
    },
    /// It sends us on and on.
    #[error("it redirects again and again, in the end to {to}")]
    Redirects {
        /// Where to.
        to: String,
    },
    /// It sends us where we do not go.
    #[error("it redirects to {to}, which is not followed: {why}")]
    Redirect {
        /// Where to.
        to: String,
        /// Why not.
        why: &'static str,
    },
}

fn token(given: bool) -> &'static str {
    if given { "another" } else { "a" }
}

impl ServerError {
    /// Whether trying later can help.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        matches!(
            self,
            ServerError::Unreachable(_) | ServerError::Silent { .. } | ServerError::Busy { .. }
        )
    }

    /// As an error of the store that the server stands for.
    pub(crate) fn at(self, location: &str) -> StoreError {
        StoreError::Other {
            location: location.to_owned(),
            offline: self.is_offline(),
            source: Box::new(self),
        }
    }

    /// What `e` says about a server, if it does.
    pub(crate) fn of(e: &StoreError) -> Option<&Self> {
        match e {
            StoreError::Other { source, .. } => source.downcast_ref(),
            _ => None,
        }
    }
}
