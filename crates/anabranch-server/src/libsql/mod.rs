//! The dialect of the official libSQL clients: `{db}/info`, `{db}/export/…`, `{db}/sync/…`.
//!
//! These clients count frames: a position is a generation and the number of a frame in it, and their
//! local WAL is the generation. Every frame of the log has such a number, whoever pushed it, so they
//! share databases with Anabranch's own replicas.
//!
//! | request | answer |
//! |---|---|
//! | `GET info` | `{"current_generation"}` |
//! | `GET export/{g}` | the base of a generation, a database file |
//! | `GET sync/{g}/{start}/{end}` | frames; 400 with `{"generation", "max_frame_no"}` if there is none at `start` |
//! | `POST sync/{g}/{start}/{end}[/{baton}]` | `{"status", "generation", "max_frame_no"[, "baton"]}` |
//!
//! | module | what it decides |
//! |---|---|
//! | `push`, `session`, `guard` | whether frames have their place; what is kept aside; the proof |
//! | `heal` | what becomes of frames that have no place in the log |
//! | `pull`, `export`, `rollover` | which frames are served; bases and bridges; new generations |
//! | `engine`, `load`, `generation`, `frame` | what is kept at hand of a database |
//!
//! This file reads requests and writes answers. Neither it nor the rest knows sockets; the time of a
//! request is passed along.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http_body_util::{BodyExt, Limited};
use hyper::header::{CONTENT_LENGTH, HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use crate::database::Database;
use crate::dispatch::Call;
use crate::error::{ApiError, answer, json_response};

mod engine;
mod export;
mod frame;
mod generation;
mod guard;
mod heal;
mod load;
mod pull;
mod push;
mod rollover;
mod session;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use engine::{Engine, SchemaSeen};
pub(crate) use heal::{conflicts, drop_lineage, lineages};

pub(crate) use settings::Settings;

use frame::{FRAME_BYTES, Frames};
use generation::FIRST;
use pull::{Pulled, Wanted};
use push::Push;
use session::Baton;

/// Answers a request of the dialect; `segments` is the path below the database.
pub(crate) async fn serve(
    call: Call,
    request: Request<Body>,
    segments: &[String],
) -> Result<Response, ApiError> {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = request.method().clone();
    match (segments.as_slice(), &method) {
        (["info"], &Method::GET) => info(&call).await,
        (["export", generation], &Method::GET) => export(&call, number(generation)?).await,
        (["sync", generation, start, end], &Method::GET) => {
            let (generation, start, end) = (number(generation)?, number(start)?, number(end)?);
            pulled(&call, Wanted { generation, start, end }).await
        }
        (["sync", generation, start, end, baton @ ..], &Method::POST) if baton.len() <= 1 => {
            let numbers = (number(generation)?, number(start)?, number(end)?);
            pushed(call, request, numbers, baton.first().copied()).await
        }
        (["info"] | ["export", _] | ["sync", _, _, _] | ["sync", _, _, _, _], _) => {
            Err(ApiError::method())
        }
        _ => Err(ApiError::no_endpoint(request.uri().path())),
    }
}

fn number(text: &str) -> Result<u32, ApiError> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| plain);
    number.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        ApiError::bad_request(format!("'{shown}' is not a number below 2^32"))
    })
}

/// Frames from `start`, without `end`.
fn check_range(start: u32, end: u32) -> Result<(), ApiError> {
    if start == 0 || end <= start {
        return Err(ApiError::bad_request(format!(
            "no frames: from {start} to {end}, without that"
        )));
    }
    Ok(())
}

async fn info(call: &Call) -> Result<Response, ApiError> {
    let generation = match call.database().await? {
        Some(db) => pull::current(&db, db.libsql().now()).await?,
        // The first push will make it.
        None if call.creates() => FIRST,
        None => return Err(call.absent()),
    };
    Ok(json_response(StatusCode::OK, &json!({ "current_generation": generation })))
}

async fn export(call: &Call, generation: u32) -> Result<Response, ApiError> {
    let base = match call.database().await? {
        Some(db) => pull::base(&db, generation).await?,
        None if call.creates() && generation == FIRST => None,
        None => return Err(call.absent()),
    };
    let (bytes, body) = match base {
        Some(base) => (base.bytes(), Body::from_stream(base.stream())),
        None => {
            let empty = export::empty_database();
            (empty.len() as u64, Body::from(empty))
        }
    };
    let mut response = octets(body);
    response.headers_mut().insert(CONTENT_LENGTH, bytes.into());
    Ok(response)
}

fn octets(body: Body) -> Response {
    answer("application/octet-stream", body)
}

async fn pulled(call: &Call, wanted: Wanted) -> Result<Response, ApiError> {
    check_range(wanted.start, wanted.end)?;
    let pulled = match call.database().await? {
        Some(db) => pull::pull(&db, wanted, db.libsql().now()).await?,
        None if call.creates() => Pulled::End { generation: FIRST, max_frame_no: 0 },
        None => return Err(call.absent()),
    };
    Ok(match pulled {
        Pulled::Frames(frames) => octets(Body::from(frames)),
        Pulled::End { generation, max_frame_no } => {
            let end = json!({
                "status": "ok", "generation": generation, "max_frame_no": max_frame_no,
            });
            json_response(StatusCode::BAD_REQUEST, &end)
        }
    })
}

async fn pushed(
    call: Call,
    request: Request<Body>,
    (generation, start, end): (u32, u32, u32),
    baton: Option<&str>,
) -> Result<Response, ApiError> {
    call.require_write()?;
    check_range(start, end)?;
    let settings = call.app.databases.libsql();
    let baton = baton.and_then(Baton::decode);
    let mine = baton.as_ref().filter(|baton| baton.server == settings.server);
    let session = mine.map(|baton| baton.session.to_owned());
    let proven = baton.as_ref().map(|baton| baton.proven);
    let other = baton.filter(|baton| baton.server != settings.server).and_then(|b| b.url);
    if let Some(url) = other.filter(|url| Some(url.as_str()) != settings.advertise.as_deref())
        && let Some(response) = redirect(&url, request.uri().path())
    {
        return Ok(response);
    }
    let bytes = u64::from(end - start) * FRAME_BYTES as u64;
    let Some(_room) = settings.room(bytes, call.app.config.limits.turn).await else {
        return Err(ApiError::busy("too many pushes are under way"));
    };
    let frames = read_frames(&call, request.into_body(), start, end).await?;
    let db = call.for_push().await?;
    let push = Push { generation, start, frames, session, proven };
    let answer = push::push(&db, push, db.libsql().now()).await?;
    if answer.baton.is_some() {
        forget_idle_session(&db);
    }
    Ok(json_response(StatusCode::OK, &answer.to_json()))
}

/// The server that has the session: the client repeats its request there.
fn redirect(url: &str, path: &str) -> Option<Response> {
    let plain = url.starts_with("http://") || url.starts_with("https://");
    let location = format!("{}{path}", url.trim_end_matches('/'));
    let location = HeaderValue::from_str(&location).ok().filter(|_| plain)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}

/// Reads the body: as many frames as the path says. What all requests together hold in memory is
/// bounded, so that one may wait for another.
async fn read_frames(call: &Call, body: Body, start: u32, end: u32) -> Result<Frames, ApiError> {
    let limit = call.app.config.limits.libsql_body;
    let bytes = u64::from(end - start) * FRAME_BYTES as u64;
    if bytes > limit {
        return Err(ApiError::too_large(limit));
    }
    let length = usize::try_from(bytes).map_err(|_| ApiError::too_large(limit))?;
    let collected = Limited::new(body, length).collect().await;
    let wrong = |found: String| {
        ApiError::bad_request(format!(
            "frames {start} to {} are {bytes} bytes, but the body has {found}",
            end - 1
        ))
    };
    let body = collected.map_err(|e| match e.downcast::<http_body_util::LengthLimitError>() {
        Ok(_) => wrong("more".to_owned()),
        Err(e) => ApiError::bad_request(format!("the body could not be read: {e}")),
    })?;
    let body = body.to_bytes();
    if body.len() != length {
        return Err(wrong(body.len().to_string()));
    }
    Frames::new(body).map_err(|index| {
        let number = u64::from(start) + index.unwrap_or(0) as u64;
        ApiError::bad_request(format!("frame {number} is of page 0"))
    })
}

/// Gives up what is kept aside for a client that does not come back.
fn forget_idle_session(db: &Arc<Database>) {
    let idle = db.libsql().session_idle;
    let db = Arc::downgrade(db);
    tokio::spawn(async move {
        tokio::time::sleep(idle).await;
        if let Some(db) = db.upgrade() {
            db.engine().expire_sessions(db.libsql().now(), idle).await;
        }
    });
}

/// Begins a new generation, also if the current one is hardly used, but not within a push: its client
/// could never finish it.
pub(crate) async fn rollover(db: &Arc<Database>) -> Result<Response, ApiError> {
    let head = db.head().await?;
    engine::check_page_size(&head)?;
    let working = Arc::clone(db);
    let task = tokio::spawn(async move {
        let mut core = working.engine().core().await;
        let (now, idle) = (working.libsql().now(), working.libsql().session_idle);
        if core.sessions.is_pushed_to(generation::Span::current(&head).number, now, idle) {
            return Err(ApiError::busy("a push is under way that a new generation would strand"));
        }
        rollover::append(&working, &mut core, &head, now).await
    });
    let head = task.await.map_err(|_| ApiError::busy("the server is stopping, or met a bug"))??;
    let span = generation::Span::current(&head);
    let body = json!({ "generation": span.number, "base_lsn": span.base().to_string() });
    Ok(json_response(StatusCode::OK, &body))
}

/// An error in the form that these clients show: `{"error": TEXT}`. They read a 500 as the end of a
/// generation, and can do nothing about what is gone: both are said as "come again".
pub(crate) fn error_response(error: &ApiError) -> Response {
    let body = json!({"error": error.message, "code": error.code});
    let status = match error.status {
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::GONE => StatusCode::SERVICE_UNAVAILABLE,
        status => status,
    };
    let mut response = json_response(status, &body);
    error.headers(&mut response);
    response
}
