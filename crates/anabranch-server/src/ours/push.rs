//! `POST log`: a push.
//!
//! The client says in the query after which position it pushes and by which push id, so that a push
//! that comes too late, or again, is answered before its body counts. Otherwise the body is taken in
//! and checked, and then it is this push's turn at the end of the log. Whoever stands at the place
//! decides, as in the log itself: the client's own push id means that it has won, whichever attempt
//! it was.

use std::sync::Arc;

use anabranch_format::{Lsn, Metadata, PushId};
use anabranch_store::{AppendError, Appended, Head};
use axum::body::Body;
use axum::response::Response;
use futures::StreamExt;
use hyper::header::CONTENT_LENGTH;
use hyper::{HeaderMap, StatusCode};
use serde_json::json;

use super::look::metadata_json;
use super::{database, receive};
use crate::database::Database;
use crate::dispatch::Call;
use crate::error::{ApiError, json_response};
use crate::params::Params;

/// So much of a body that does not count is read, so that the client gets to read the answer.
const DRAINED_BYTES_MAX: usize = 1 << 20;

/// Appends what the client sends, if that starts from the end of the log.
pub(super) async fn push(
    call: &Call,
    params: &Params<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    call.require_write()?;
    let (after, push): (Lsn, PushId) = (params.require("after")?, params.require("push")?);
    let limit = call.app.config.limits.push_body;
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(limit));
    }
    let database = database(call, params).await?;
    if database.known_head().is_some_and(|head| head.lsn() > after) {
        drain(body).await;
        return decided(&database, after, &push).await;
    }
    let received = receive::receive(body, limit, database.log().scratch()).await?;
    check_place(&received.metadata, &database, after, &push)?;
    let checking = Arc::clone(&database);
    let checked = tokio::task::spawn_blocking(move || received.check(&checking));
    let mut new = checked.await.map_err(|_| ApiError::busy("the server is about to stop"))??;
    let turn = database.turn().await;
    let Some(head) = head_at(&database, after).await? else {
        drop(turn);
        return decided(&database, after, &push).await;
    };
    new.rollover =
        database.engine().rollover_choice(database.libsql().now(), database.libsql().session_idle);
    let appended = database.append(&head, new, "anabranch").await;
    drop(turn);
    match appended {
        Ok(outcome) => told(&database, &outcome, &push),
        Err(e) => Err(refused(e)),
    }
}

/// The end of the log, if that is at `after`; `None` if it lies beyond.
async fn head_at(database: &Database, after: Lsn) -> Result<Option<Arc<Head>>, ApiError> {
    // What is known may be old; then the append finds somebody else at the place.
    if let Some(known) = database.known_head().filter(|head| head.lsn() == after) {
        return Ok(Some(known));
    }
    let head = database.head().await?;
    match head.lsn().cmp(&after) {
        std::cmp::Ordering::Equal => Ok(Some(head)),
        std::cmp::Ordering::Greater => Ok(None),
        std::cmp::Ordering::Less => Err(ApiError::new(
            StatusCode::CONFLICT,
            "beyond-head",
            format!("position {after} is beyond the end of the log, which is {}", head.lsn()),
        )
        .with("at", after.to_string())
        .with("head", head.lsn().to_string())),
    }
}

/// What is pushed must be what the query says.
fn check_place(
    metadata: &Metadata,
    database: &Database,
    after: Lsn,
    push: &PushId,
) -> Result<(), ApiError> {
    let fits = metadata.database == *database.id()
        && metadata.from() == after
        && metadata.push.as_ref() == Some(push);
    if fits {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid",
        "what was pushed is of another database, position or push than the request says",
    ))
}

/// The log goes on after `after`: who stands there decides.
async fn decided(database: &Database, after: Lsn, push: &PushId) -> Result<Response, ApiError> {
    match database.log().at_key_after(after).await? {
        Some(metadata) if metadata.push.as_ref() == Some(push) => {
            told(database, &Appended::Won(metadata), push)
        }
        Some(metadata) => told(database, &Appended::Lost(metadata), push),
        None => Err(ApiError::new(
            StatusCode::CONFLICT,
            "not-at-head",
            format!("position {after} is no end of a segment"),
        )),
    }
}

fn told(database: &Database, outcome: &Appended, push: &PushId) -> Result<Response, ApiError> {
    match outcome {
        Appended::Won(metadata) => {
            database.push_has_won();
            let body = json!({ "metadata": metadata_json(metadata) });
            Ok(json_response(StatusCode::CREATED, &body))
        }
        Appended::Lost(metadata) => {
            database.push_has_lost();
            Err(ApiError::new(
                StatusCode::CONFLICT,
                "behind",
                format!("the log has gone on to {}, and push {push} is not in it", metadata.lsn.1),
            )
            .with("metadata", metadata_json(metadata)))
        }
    }
}

fn refused(e: AppendError) -> ApiError {
    let message = anabranch_store::causes(&e);
    match e {
        AppendError::Unknown { .. } => {
            tracing::warn!(error = %message, "an append was not confirmed");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unconfirmed", message)
        }
        AppendError::BelowFloor { after, floor } => {
            ApiError::new(StatusCode::GONE, "below-floor", message)
                .with("at", after.to_string())
                .with("floor", floor.to_string())
        }
        AppendError::NotAtHead { .. } => {
            ApiError::new(StatusCode::CONFLICT, "not-at-head", message)
        }
        AppendError::Store(e) => e.into(),
        _ => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message),
    }
}

async fn drain(body: Body) {
    let mut stream = body.into_data_stream();
    let mut drained = 0;
    while drained < DRAINED_BYTES_MAX
        && let Some(Ok(part)) = stream.next().await
    {
        drained += part.len();
    }
}
