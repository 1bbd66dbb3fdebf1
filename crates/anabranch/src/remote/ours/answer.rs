//! What our dialect answers, and what its errors mean to the engine.

use std::str::FromStr;

use anabranch_format::{DatabaseId, Lsn, Metadata, Micros, PushId};
use anabranch_store::{Anchor, Entry, Head, Position, StoreError};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::remote::http::{self, Connection};
use crate::remote::server_error::ServerError;

/// No answer is longer, but for downloads.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Says that our dialect is spoken.
const PROTOCOL: &str = "anabranch-protocol";

/// An answer that is not the one hoped for.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: String,
    message: String,
    more: Map<String, Value>,
}

/// Why there is no answer that could be used.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The server's own word.
    Refused(Refusal),
    /// Anything else.
    Failed(ServerError),
}

/// What `log/head` tells.
#[derive(Debug, Deserialize)]
pub(super) struct HeadAnswer {
    pub(super) database: DatabaseId,
    newest: Option<Metadata>,
    modified: Option<Micros>,
    floor: Lsn,
    /// The database was made beforehand and waits for its first content.
    #[serde(default)]
    pub(super) waiting: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct MetadataAnswer {
    pub(super) metadata: Option<Metadata>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LastPushAnswer {
    pub(super) push: Option<PushId>,
    pub(super) lsn: Option<Lsn>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PositionAnswer {
    lsn: Lsn,
    metadata: Option<Metadata>,
    modified: Option<Micros>,
    /// The position that was asked for, where it was a frame.
    #[serde(default)]
    pub(super) at: Option<Lsn>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EntriesAnswer {
    pub(super) entries: Vec<EntryAnswer>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EntryAnswer {
    metadata: Metadata,
    modified: Micros,
    bytes: u64,
}

fn senseless(what: impl Into<String>) -> ServerError {
    ServerError::Protocol { what: what.into() }
}

/// Metadata is as strictly looked at as in an object.
pub(super) fn checked(metadata: Metadata, database: &DatabaseId) -> Result<Metadata, ServerError> {
    metadata.encode().map_err(|e| senseless(e.to_string()))?;
    if metadata.database != *database {
        return Err(senseless("it tells of another database than it was asked about"));
    }
    Ok(metadata)
}

impl HeadAnswer {
    pub(super) fn head(self) -> Result<Head, ServerError> {
        let newest = self.newest.map(|m| checked(m, &self.database)).transpose()?;
        let anchor = newest.as_ref().map_or_else(Anchor::start, Anchor::of);
        Ok(Head { anchor, newest, modified: self.modified, floor: self.floor })
    }
}

impl PositionAnswer {
    pub(super) fn position(self, database: &DatabaseId) -> Result<Position, ServerError> {
        let metadata = self.metadata.map(|m| checked(m, database)).transpose()?;
        if metadata.as_ref().map_or(Lsn::ZERO, |m| m.lsn.1) != self.lsn {
            return Err(senseless("the segment does not end at the position"));
        }
        Ok(Position::with(metadata, self.modified))
    }
}

impl EntryAnswer {
    pub(super) fn entry(self, database: &DatabaseId) -> Result<Entry, ServerError> {
        let metadata = checked(self.metadata, database)?;
        Ok(Entry::with(metadata, self.modified, self.bytes))
    }
}

/// Reads the answer that is wanted, or the one that is given instead.
pub(super) async fn read<T: DeserializeOwned>(response: Response) -> Result<T, NoAnswer> {
    let mut response = accepted(response).await?;
    let body = http::read_all(&mut response, ANSWER_BYTES_MAX).await.map_err(NoAnswer::Failed)?;
    serde_json::from_slice(&body).map_err(|e| NoAnswer::Failed(senseless(e.to_string())))
}

/// The response, if it is a success in our dialect.
pub(super) async fn accepted(mut response: Response) -> Result<Response, NoAnswer> {
    let status = response.status();
    let ours = response.headers().contains_key(PROTOCOL);
    if status.is_success() {
        let not_ours = ServerError::NotOurs { status: status.as_u16() };
        return if ours { Ok(response) } else { Err(NoAnswer::Failed(not_ours)) };
    }
    let body = http::read_all(&mut response, ANSWER_BYTES_MAX).await.unwrap_or_default();
    Err(match refusal(status, &body) {
        Some(refusal) => NoAnswer::Refused(refusal),
        // A proxy before the server, say.
        None if status.is_server_error() || http::is_passing(status) => {
            let message = status.canonical_reason().unwrap_or("no reason").to_owned();
            NoAnswer::Failed(ServerError::Busy { status: status.as_u16(), message })
        }
        None => NoAnswer::Failed(ServerError::NotOurs { status: status.as_u16() }),
    })
}

fn refusal(status: StatusCode, body: &[u8]) -> Option<Refusal> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let more = body.get("error")?.as_object()?.clone();
    let text = |name: &str| more.get(name).and_then(Value::as_str);
    let code = text("code")?.chars().take(64).collect();
    let message = text("message").unwrap_or_default().chars().take(1000).collect();
    Some(Refusal { status, code, message, more })
}

impl Refusal {
    /// A member of the error that is a text of its own form.
    fn member<T: FromStr>(&self, name: &str) -> Option<T> {
        self.more.get(name)?.as_str()?.parse().ok()
    }

    /// The segment that stands where something else was to be put.
    pub(super) fn metadata(&self, database: &DatabaseId) -> Option<Metadata> {
        let metadata = serde_json::from_value(self.more.get("metadata")?.clone()).ok()?;
        checked(metadata, database).ok()
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The oldest position that is kept, if the one asked for is older.
    pub(super) fn floor(&self) -> Option<Lsn> {
        if self.code == "below-floor" { self.member("floor") } else { None }
    }

    fn error(self, connection: &Connection) -> ServerError {
        let Refusal { status, code, message, .. } = &self;
        let (status, message) = (status.as_u16(), message.clone());
        match code.as_str() {
            "unauthorized" => ServerError::Unauthorized { given: connection.has_token() },
            "read-only" | "foreign" | "create-explicit" => ServerError::Forbidden { message },
            "no-database" => ServerError::NoDatabase,
            "other-database" | "name-taken" => {
                let expected = connection.database.as_ref().map(ToString::to_string);
                ServerError::OtherDatabase {
                    found: self.member("found").unwrap_or_default(),
                    expected,
                }
            }
            "invalid-name" | "other-host" => ServerError::InvalidName { message },
            "store" | "busy" | "unconfirmed" => ServerError::Busy { status, message },
            _ => ServerError::Refused { status, code: self.code, message },
        }
    }

    /// What it means: an error of the log, where it is one.
    pub(super) fn store_error(self, connection: &Connection) -> StoreError {
        let location = connection.location.clone();
        let known = match self.code.as_str() {
            "below-floor" => self.member("at").zip(self.floor()).map(|(at, floor)| {
                StoreError::BelowFloor { location: location.clone(), at, floor }
            }),
            "beyond-head" => self
                .member("at")
                .zip(self.member("head"))
                .map(|(at, head)| StoreError::BeyondHead { location: location.clone(), at, head }),
            "before-history" => self
                .member("oldest")
                .map(|oldest| StoreError::BeforeHistory { location: location.clone(), oldest }),
            "rewound" => self.member("at").zip(self.member("found")).map(|(at, found)| {
                let key = format!("the segment that ends at {at}");
                StoreError::Rewound { location: location.clone(), key, at, found }
            }),
            "deleted" => self
                .member("database")
                .map(|database| StoreError::Deleted { location: location.clone(), database }),
            _ => None,
        };
        known.unwrap_or_else(|| self.error(connection).at(&location))
    }
}

impl NoAnswer {
    pub(super) fn store_error(self, connection: &Connection) -> StoreError {
        match self {
            NoAnswer::Refused(refusal) => refusal.store_error(connection),
            NoAnswer::Failed(e) => e.at(&connection.location),
        }
    }
}
