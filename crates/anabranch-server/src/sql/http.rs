//! Pipelines and cursors over HTTP.
//!
//! A request is read and checked as a whole, then its stream is found or opened, then a task of its own
//! runs it: a client that goes away cuts nothing off in the middle. The stream is kept for the next
//! request only if the answer still has somebody to go to; else it is closed.
//!
//! A stream that is gone is a client's commonest trouble: one family of clients never lets go of a
//! baton that was refused. So a baton whose stream had nothing to lose gets a new stream; otherwise
//! version 3 is told of it inside a successful answer that takes the baton away.

use std::io::Read as _;

use anabranch_format::DatabaseId;
use anabranch_hrana::{
    Batch, CursorEntry, CursorHead, CursorRequest, Error, PipelineRequest, StreamRequest,
    StreamResponse, StreamResult,
};
use anabranch_store::SpoolReader;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::header::CONTENT_LENGTH;
use hyper::http::request::Parts;
use serde::de::DeserializeOwned;

use super::room::{FREE_BYTES, Part};
use super::serve::rights;
use super::sink::{Lines, MEMORY_BYTES, lines};
use super::stream::{Stream, Told};
use super::streams::{Held, Taken};
use super::texts::{Misuse, check_batch};
use crate::auth::Access;
use crate::dispatch::Call;
use crate::error::{self, ApiError};

/// The results of one pipeline are together no longer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Part of a file that is sent at a time.
const PART_BYTES: usize = 64 << 10;

/// What a client hears of a stream that was closed for lack of requests.
fn expired() -> Error {
    Error::new("STREAM_EXPIRED", "The stream has expired due to inactivity")
}

impl From<Misuse> for ApiError {
    fn from(misuse: Misuse) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, "PROTOCOL_ERROR", misuse.0)
    }
}

/// `POST v2/pipeline` and `POST v3/pipeline`.
pub(super) async fn pipeline(
    call: &Call,
    parts: &Parts,
    body: Body,
    version: u8,
) -> Result<Response, ApiError> {
    let (asked, room) = read::<PipelineRequest>(call, parts, body).await?;
    check(&asked.requests, version)?;
    let closes = asked.requests.last() == Some(&StreamRequest::Close);
    let only_closes = closes && asked.requests.len() == 1;
    let opened = if only_closes {
        existing(call, asked.baton.as_deref()).await?
    } else {
        open(call, asked.baton.as_deref()).await?
    };
    let (held, database) = match opened {
        Opened::Here(held, database) => (held, database),
        // Clients send it when they let go of a stream, and cannot know that it is gone.
        _ if only_closes => {
            let mut results = Results::new();
            results.push(&StreamResult::Ok { response: StreamResponse::Close });
            return Ok(results.answer(None));
        }
        Opened::Unknown => return Err(Misuse("the baton is unknown or was used".into()).into()),
        Opened::Expired if version == 2 => {
            let Error { message, .. } = expired();
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "STREAM_EXPIRED", message));
        }
        Opened::Expired => return Ok(refuse_all(&asked.requests, &expired())),
        Opened::Failed(error) => return Ok(refuse_all(&asked.requests, &error)),
    };
    let told = Told { rights: rights(call.access), short: closes };
    let task = call.app.tasks.spawn(async move {
        let _room = room;
        run(held, asked.requests, told).await
    });
    let (results, held) = task.await.map_err(|_| bug())??;
    let key = call.app.sql.key(&call.app.root).await?;
    Ok(results.answer(held.map(|held| held.keep(key, &database))))
}

fn bug() -> ApiError {
    let text = "this request met a bug in the server; its log has more";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "bug", text)
}

/// `POST v3/cursor`.
pub(super) async fn cursor(call: &Call, parts: &Parts, body: Body) -> Result<Response, ApiError> {
    let (asked, room) = read::<CursorRequest>(call, parts, body).await?;
    check_batch(&asked.batch, 3)?;
    let (held, database) = match open(call, asked.baton.as_deref()).await? {
        Opened::Here(held, database) => (held, database),
        Opened::Unknown => return Err(Misuse("the baton is unknown or was used".into()).into()),
        Opened::Expired => return refuse_cursor(call, expired()),
        Opened::Failed(error) => return refuse_cursor(call, error),
    };
    let told = Told { rights: rights(call.access), short: false };
    let lines = lines(&call.app);
    let task = call.app.tasks.spawn(async move {
        let _room = room;
        run_cursor(held, asked.batch, told, lines).await
    });
    let (lines, held) = task.await.map_err(|_| bug())??;
    let key = call.app.sql.key(&call.app.root).await?;
    lines_response(Some(held.keep(key, &database)), lines)
}

/// What became of the stream of a request.
enum Opened {
    Here(Box<Held>, DatabaseId),
    /// Nobody gave the baton, or it was used.
    Unknown,
    /// Its stream is gone, with something that the client relies on.
    Expired,
    /// A new one could not be opened.
    Failed(Error),
}

/// The stream of `baton`, if it is there.
async fn existing(call: &Call, baton: Option<&str>) -> Result<Opened, ApiError> {
    let Some(baton) = baton else { return Ok(Opened::Unknown) };
    let Some(database) = call.database().await? else { return Ok(Opened::Unknown) };
    let key = call.app.sql.key(&call.app.root).await?;
    let Some(ticket) = key.open(database.id(), baton) else { return Ok(Opened::Unknown) };
    Ok(match call.app.sql.streams.take(&ticket) {
        Taken::Here(held) => Opened::Here(held, database.id().clone()),
        Taken::Used | Taken::Gone => Opened::Unknown,
    })
}

/// The stream of `baton`, or a new one.
async fn open(call: &Call, baton: Option<&str>) -> Result<Opened, ApiError> {
    let database = match call.access {
        Access::Write => call.for_push().await?,
        Access::Read => call.existing().await?,
    };
    let service = &call.app.sql;
    let key = service.key(&call.app.root).await?;
    if let Some(baton) = baton {
        let Some(ticket) = key.open(database.id(), baton) else { return Ok(Opened::Unknown) };
        match service.streams.take(&ticket) {
            Taken::Here(held) => return Ok(Opened::Here(held, database.id().clone())),
            Taken::Used => return Ok(Opened::Unknown),
            Taken::Gone if ticket.in_transaction || ticket.has_texts => return Ok(Opened::Expired),
            // What it had is lost: temporary tables, settings, the last row id. Clients of an HTTP
            // API hardly rely on them, and many cannot go on otherwise.
            Taken::Gone => {}
        }
    }
    let place = service.streams.place_soon(database.id()).await.ok_or_else(too_many)?;
    Ok(match Stream::open(&database).await {
        Ok(stream) => Opened::Here(Held::new(stream, place), database.id().clone()),
        Err(error) => Opened::Failed(error),
    })
}

/// No place among the streams.
pub(super) fn too_many() -> ApiError {
    let text = "too many streams are open: close those that are done, or come again";
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_STREAMS", text);
    error.retry_after = Some(1);
    error
}

/// Refuses what the version has not, and what would fail in the middle.
fn check(requests: &[StreamRequest], version: u8) -> Result<(), Misuse> {
    for (at, request) in requests.iter().enumerate() {
        match request {
            StreamRequest::Close if at + 1 < requests.len() => {
                return Err(Misuse("requests follow after 'close'".to_owned()));
            }
            StreamRequest::Batch { batch } => check_batch(batch, version)?,
            StreamRequest::GetAutocommit if version < 3 => {
                return Err(Misuse("'get_autocommit' needs version 3".to_owned()));
            }
            _ => {}
        }
    }
    Ok(())
}

type Ran = Result<(Results, Option<Box<Held>>), Misuse>;

/// Runs the requests of a pipeline, in order. The stream comes back unless it was closed.
async fn run(mut held: Box<Held>, requests: Vec<StreamRequest>, told: Told) -> Ran {
    let mut results = Results::new();
    for request in requests {
        if request == StreamRequest::Close {
            held.close().await;
            results.push(&StreamResult::Ok { response: StreamResponse::Close });
            return Ok((results, None));
        }
        match Box::pin(answer(&mut held, request, told)).await {
            Ok(Ok(response)) => results.push(&StreamResult::Ok { response }),
            Ok(Err(error)) => results.push(&StreamResult::Error { error }),
            Err(misuse) => {
                held.close().await;
                return Err(misuse);
            }
        }
    }
    Ok((results, Some(held)))
}

async fn answer(
    held: &mut Held,
    request: StreamRequest,
    told: Told,
) -> Result<Result<StreamResponse, Error>, Misuse> {
    let Held { stream, texts, .. } = held;
    Ok(match request {
        StreamRequest::Execute { stmt } => {
            let result = stream.execute(texts.stmt(stmt)?, told).await;
            result.map(|result| StreamResponse::Execute { result })
        }
        StreamRequest::Batch { batch } => {
            let result = stream.batch(texts.batch(batch)?, told).await;
            result.map(|result| StreamResponse::Batch { result })
        }
        StreamRequest::Sequence { sql, sql_id } => {
            let done = stream.sequence(texts.text(sql, sql_id)?, told).await;
            done.map(|()| StreamResponse::Sequence)
        }
        StreamRequest::Describe { sql, sql_id } => {
            let result = stream.describe(texts.text(sql, sql_id)?, told).await;
            result.map(|result| StreamResponse::Describe { result })
        }
        StreamRequest::StoreSql { sql_id, sql } => {
            texts.store(sql_id, sql)?.map(|()| StreamResponse::StoreSql)
        }
        StreamRequest::CloseSql { sql_id } => {
            texts.close(sql_id);
            Ok(StreamResponse::CloseSql)
        }
        StreamRequest::GetAutocommit => {
            Ok(StreamResponse::GetAutocommit { is_autocommit: stream.get_autocommit().await })
        }
        // The caller's.
        StreamRequest::Close => Ok(StreamResponse::Close),
    })
}

async fn run_cursor(
    mut held: Box<Held>,
    batch: Batch,
    told: Told,
    lines: Lines,
) -> Result<(SpoolReader, Box<Held>), ApiError> {
    let batch = match held.texts.batch(batch) {
        Ok(batch) => batch,
        Err(misuse) => {
            held.close().await;
            return Err(misuse.into());
        }
    };
    let empty = Lines::new(lines.directory(), u64::MAX);
    let lines = match held.stream.batch_into(batch, told, lines).await.and_then(Lines::finish) {
        Ok(lines) => lines,
        Err(error) => refused(empty, error)?,
    };
    Ok((lines, held))
}

/// The lines of a cursor that failed as a whole. One client can only read errors of a step.
fn refused(mut lines: Lines, error: Error) -> Result<SpoolReader, ApiError> {
    let failed = |e: Error| ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no-space", e.message);
    lines.add(&CursorEntry::StepError { step: 0, error }).map_err(failed)?;
    lines.finish().map_err(failed)
}

fn refuse_cursor(call: &Call, error: Error) -> Result<Response, ApiError> {
    lines_response(None, refused(lines(&call.app), error)?)
}

fn lines_response(baton: Option<String>, lines: SpoolReader) -> Result<Response, ApiError> {
    let head = CursorHead { baton, base_url: None };
    let mut head = serde_json::to_vec(&head).map_err(|_| bug())?;
    head.push(b'\n');
    let short = lines.len() <= MEMORY_BYTES;
    let body = if short { whole(head, lines)? } else { Body::from_stream(in_parts(head, lines)) };
    Ok(error::answer("text/plain", body))
}

fn whole(mut head: Vec<u8>, mut lines: SpoolReader) -> Result<Body, ApiError> {
    lines.read_to_end(&mut head).map_err(|_| bug())?;
    Ok(Body::from(head))
}

fn in_parts(
    head: Vec<u8>,
    lines: SpoolReader,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    futures::stream::unfold((Some(head), lines), |(head, mut lines)| async move {
        if let Some(head) = head {
            return Some((Ok(Bytes::from(head)), (None, lines)));
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut part = Vec::with_capacity(PART_BYTES);
            let read = lines.by_ref().take(PART_BYTES as u64).read_to_end(&mut part);
            (read.map(|_| Bytes::from(part)), lines)
        });
        match read.await {
            Ok((Ok(part), _)) if part.is_empty() => None,
            Ok((part, lines)) => Some((part, (None, lines))),
            Err(e) => {
                let nothing = anabranch_store::Spool::from_bytes(Vec::new()).finish();
                Some((Err(std::io::Error::other(e)), (None, nothing)))
            }
        }
    })
}

/// Each request has failed for the same reason, and there is no stream.
fn refuse_all(requests: &[StreamRequest], error: &Error) -> Response {
    let mut results = Results::new();
    for _ in requests {
        results.push(&StreamResult::Error { error: error.clone() });
    }
    results.answer(None)
}

/// The answer to a pipeline while it is made: written at once, so that no result is in memory twice.
struct Results(Vec<u8>);

impl Results {
    fn new() -> Self {
        Results(br#"{"base_url":null,"results":["#.to_vec())
    }

    fn push(&mut self, result: &StreamResult) {
        if !self.0.ends_with(b"[") {
            self.0.push(b',');
        }
        let from = self.0.len();
        let written = serde_json::to_writer(&mut self.0, result);
        let error = match written {
            Err(e) => Error::new("SQLITE_MISMATCH", format!("a value cannot be sent: {e}")),
            Ok(()) if self.0.len() > ANSWER_BYTES_MAX => {
                let message = format!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
                Error::new("RESPONSE_TOO_LARGE", message)
            }
            Ok(()) => return,
        };
        self.0.truncate(from);
        // A code and a short text can be written.
        let _ = serde_json::to_writer(&mut self.0, &StreamResult::Error { error });
    }

    fn answer(mut self, baton: Option<String>) -> Response {
        self.0.extend_from_slice(br#"],"baton":"#);
        match baton {
            // It needs no escapes.
            Some(baton) => self.0.extend_from_slice(format!("\"{baton}\"}}").as_bytes()),
            None => self.0.extend_from_slice(b"null}"),
        }
        error::answer("application/json", Body::from(self.0))
    }
}

/// Reads a body and what it says. Holds room in memory for a long one.
async fn read<T: DeserializeOwned + Send + 'static>(
    call: &Call,
    parts: &Parts,
    body: Body,
) -> Result<(T, Part), ApiError> {
    let limits = &call.app.config.limits;
    let limit = limits.sql_body;
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|text| text.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(limit));
    }
    let length = length.unwrap_or(limit);
    let Some(room) = call.app.sql.room.take(length, limits.turn).await else {
        return Err(ApiError::busy("too many long requests with SQL are under way"));
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let body = Limited::new(body, length).collect().await;
    let body = body.map_err(|e| match e.downcast::<LengthLimitError>() {
        Ok(_) => ApiError::too_large(limit),
        Err(e) => ApiError::bad_request(format!("the body could not be read: {e}")),
    })?;
    let body = body.to_bytes();
    let parsed = if body.len() as u64 <= FREE_BYTES {
        serde_json::from_slice(&body)
    } else {
        let parse = tokio::task::spawn_blocking(move || serde_json::from_slice(&body));
        parse.await.map_err(|_| bug())?
    };
    let read = parsed.map_err(|e| {
        let path = parts.uri.path();
        Misuse(format!("the body is not what {path} takes: {e}"))
    })?;
    Ok((read, room))
}
