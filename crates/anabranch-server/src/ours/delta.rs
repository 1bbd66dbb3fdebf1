//! `GET log/delta`: what leads from one position to another, as the store has it.
//!
//! A download that was cut off goes on with `Range: bytes=N-` and `If-Match`: the tag is the same as
//! long as the bytes are. An answer that cannot be finished is cut off as well, never ended cleanly:
//! its length is announced.

use anabranch_format::Lsn;
use anabranch_store::{At, Position};
use axum::body::Body;
use axum::response::Response;
use futures::StreamExt;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH, RANGE,
};
use hyper::{HeaderMap, StatusCode};

use super::database;
use crate::database::Database;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::params::Params;

/// Sends the objects that lead to `upto`, or to the end of the log.
pub(super) async fn delta(
    call: &Call,
    params: &Params<'_>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let after: Lsn = params.require("after")?;
    let database = database(call, params).await?;
    let to = position(&database, params.get("upto")?).await?;
    let bundle = database.log().bundle(after, &to).await?;
    let (tag, total) = (format!("\"{}\"", bundle.tag()), bundle.bytes());
    if headers.get(IF_MATCH).is_some_and(|wanted| wanted.as_bytes() != tag.as_bytes()) {
        return Err(ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            "changed",
            "other objects lead there by now: begin anew",
        ));
    }
    let start = headers.get(RANGE).and_then(|range| start_of(range.to_str().ok()?));
    let start = start.unwrap_or(0);
    if start > total || (start == total && total > 0) {
        return Err(ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range",
            format!("there are {total} bytes, and those from {start} on were asked for"),
        ));
    }
    let name = database.name().clone();
    let stream = bundle.stream(start).inspect(move |part| {
        if let Err(error) = part {
            tracing::warn!(database = %name, %error, "an answer was cut off");
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, (total - start).into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.extend(HeaderValue::from_str(&tag).ok().map(|tag| (ETAG, tag)));
    if start > 0 {
        let range = format!("bytes {start}-{}/{total}", total - 1);
        headers.extend(HeaderValue::from_str(&range).ok().map(|range| (CONTENT_RANGE, range)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The position `upto`, or the end of the log.
async fn position(database: &Database, upto: Option<Lsn>) -> Result<Position, ApiError> {
    if let Some(known) = database.known_head().filter(|head| Some(head.lsn()) == upto) {
        // Nobody can take it back.
        return Ok(known.position());
    }
    let head = database.head().await?;
    let Some(upto) = upto.filter(|upto| *upto != head.lsn()) else { return Ok(head.position()) };
    let found = database.log().position_at(At::Lsn(upto)).await?;
    if found.lsn == upto {
        return Ok(found);
    }
    Err(ApiError::new(
        StatusCode::CONFLICT,
        "inside",
        format!("position {upto} lies inside a segment; the one before it ends at {}", found.lsn),
    ))
}

/// Where a range of the form `bytes=N-` begins. Others are passed over, as if none were given.
fn start_of(range: &str) -> Option<u64> {
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_range_to_the_end_counts() {
        assert_eq!(start_of("bytes=17-"), Some(17));
        for other in ["bytes=-5", "bytes=1-2", "bytes=1-,3-", "items=1-", "bytes=x-", ""] {
            assert_eq!(start_of(other), None, "{other}");
        }
    }
}
