//! What can be asked of a log: where it ends, what was pushed, what there was before.

use anabranch_format::{Lsn, Metadata, Micros, WriterId};
use anabranch_store::{At, Entry, Head, Position, StoreError};
use axum::response::Response;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::database;
use crate::dispatch::Call;
use crate::error::{ApiError, json_response};
use crate::housekeeping;
use crate::params::Params;

/// Entries of the history in one answer.
const ENTRIES_MAX: usize = 1_000;

/// Metadata as our own objects have it.
pub(super) fn metadata_json(metadata: &Metadata) -> Value {
    serde_json::to_value(metadata).unwrap_or(Value::Null)
}

fn ok(value: &Value) -> Response {
    json_response(StatusCode::OK, value)
}

/// Where the log ends. If the client says what it knows of the log, that must be in it.
pub(super) async fn head(call: &Call, params: &Params<'_>) -> Result<Response, ApiError> {
    let database = database(call, params).await?;
    let head = database.head().await?;
    if let Some(known) = params.anchor()? {
        database.log().confirm(&known, &head).await?;
    }
    let Head { newest, modified, floor, .. } = &*head;
    // Where only the administrator makes databases, an empty one is for whoever publishes first.
    let waiting = newest.is_none() && !call.creates();
    Ok(ok(&json!({
        "database": database.id().as_str(),
        "waiting": waiting,
        "newest": newest.as_ref().map(metadata_json),
        "modified": modified,
        "floor": floor,
    })))
}

/// Who stands at the place after a position.
pub(super) async fn next(call: &Call, params: &Params<'_>) -> Result<Response, ApiError> {
    let database = database(call, params).await?;
    let found = database.log().at_key_after(params.require("after")?).await?;
    Ok(ok(&json!({ "metadata": found.as_ref().map(metadata_json) })))
}

/// The last push of a writer.
pub(super) async fn last_push(
    call: &Call,
    params: &Params<'_>,
    writer: &str,
) -> Result<Response, ApiError> {
    let writer: WriterId =
        writer.parse().map_err(|e| ApiError::bad_request(format!("the writer's id: {e}")))?;
    let database = database(call, params).await?;
    let found = database.log().last_push(&writer).await?;
    let (push, lsn) = found.unzip();
    Ok(ok(&json!({ "push": push, "lsn": lsn })))
}

/// Generations that are gone back over to find one.
const GENERATIONS_MAX: u32 = 10_000;

/// The position of a frame as libSQL clients count them, and the segment that holds it.
async fn frame_position(
    call: &Call,
    params: &Params<'_>,
    generation: u32,
) -> Result<Response, ApiError> {
    let frame: u32 = params.require("frame")?;
    let database = database(call, params).await?;
    let (log, head) = (database.log(), database.head().await?);
    let unknown =
        || StoreError::BeforeHistory { location: log.location().to_owned(), oldest: head.floor };
    let mut of = head.newest.clone().ok_or_else(unknown)?;
    for _ in 0..GENERATIONS_MAX {
        if of.generation.0 <= generation {
            break;
        }
        let before = of.generation.1.get().saturating_sub(1);
        of = log.segment_at(Lsn::new(before)).await?.metadata.ok_or_else(unknown)?;
    }
    let (number, first) = of.generation;
    // A generation begins where the one before it ended.
    let at = first.get().saturating_sub(1).checked_add(u64::from(frame)).map(Lsn::new);
    let at = at.filter(|at| number == generation && *at <= of.lsn.1).ok_or_else(unknown)?;
    let found = match at {
        Lsn::ZERO => Position::with(None, None),
        at => log.segment_at(at).await?,
    };
    Ok(ok(&json!({
        "at": at,
        "lsn": found.lsn,
        "metadata": found.metadata.as_ref().map(metadata_json),
        "modified": found.modified,
    })))
}

/// The state at a position or time.
pub(super) async fn position(call: &Call, params: &Params<'_>) -> Result<Response, ApiError> {
    if let Some(generation) = params.get("generation")? {
        return frame_position(call, params, generation).await;
    }
    let at = match (params.get::<Lsn>("lsn")?, params.get::<i64>("time")?) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("either a position or a time, not both"));
        }
        (Some(lsn), None) => At::Lsn(lsn),
        (None, Some(time)) => At::Time(Micros(time)),
        (None, None) => At::Head,
    };
    let database = database(call, params).await?;
    let found = database.log().position_at(at).await?;
    Ok(ok(&json!({
        "lsn": found.lsn,
        "metadata": found.metadata.as_ref().map(metadata_json),
        "modified": found.modified,
    })))
}

/// The newest segments, or the newest of those before a position.
pub(super) async fn entries(call: &Call, params: &Params<'_>) -> Result<Response, ApiError> {
    let count = params.get::<usize>("count")?.unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX);
    let before = params.get::<Lsn>("before")?.unwrap_or(Lsn::MAX);
    let database = database(call, params).await?;
    let entries = database.log().history_before(before, count).await?;
    let entry = |entry: &Entry| {
        json!({
            "metadata": metadata_json(&entry.metadata),
            "modified": entry.modified,
            "bytes": entry.bytes,
        })
    };
    Ok(ok(&json!({ "entries": entries.iter().map(entry).collect::<Vec<_>>() })))
}

/// Merges and deletes old history.
pub(super) async fn compact(call: &Call, params: &Params<'_>) -> Result<Response, ApiError> {
    call.require_write()?;
    let database = database(call, params).await?;
    Ok(ok(&housekeeping::compact(&database, params).await?))
}
