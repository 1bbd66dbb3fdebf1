//! `GET log/watch`: an event for each new end of the log, as server-sent events.
//!
//! The first comes at once if the log lies beyond what the client knows. While nothing happens a
//! comment is sent now and then, so that both ends notice when the other is gone. The stream ends
//! cleanly when the server is told to stop, or the database is not what it was: the client asks
//! again.

use std::convert::Infallible;
use std::time::Duration;

use anabranch_format::Lsn;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use super::database;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::params::Params;

/// After this long without an event a comment is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Tells of each new end of the log beyond `after`.
pub(super) async fn watch(mut call: Call, params: &Params<'_>) -> Result<Response, ApiError> {
    let after: Lsn = params.require("after")?;
    let database = database(&call, params).await?;
    // It waits for long, and takes nothing meanwhile.
    call.turn = None;
    let watching = database.watch();
    database.head().await?;
    let stop = call.app.stop.clone();
    let events = futures::stream::unfold(
        (watching, after, true),
        move |(mut watching, at, first)| {
            let (stop, database) = (stop.clone(), database.clone());
            async move {
                if first {
                    // The headers go out with the first bytes.
                    return Some((event(": watching\n\n"), (watching, at, false)));
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    lsn = watching.beyond(at) => {
                        let text = format!("event: head\nid: {lsn}\ndata: {{\"lsn\":\"{lsn}\"}}\n\n");
                        Some((event(&text), (watching, lsn, false)))
                    }
                    () = tokio::time::sleep(HEARTBEAT) => {
                        (!database.is_stale()).then(|| (event(": still here\n\n"), (watching, at, false)))
                    }
                }
            }
        },
    );
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn event(text: &str) -> Result<Bytes, Infallible> {
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}
