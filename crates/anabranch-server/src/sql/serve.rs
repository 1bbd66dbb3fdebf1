//! The endpoints of SQL, and what their clients want besides.
//!
//! | request | answer |
//! |---|---|
//! | `POST v2/pipeline`, `POST v3/pipeline` | requests for one stream, in order |
//! | `POST v3/cursor` | a batch, its results line by line |
//! | `GET v2`, `GET v3` | that there is such a version |
//! | an upgrade to a WebSocket at the database's own path | see `ws` |
//! | `OPTIONS` | that web pages may ask |
//!
//! `v3-protobuf` is 404: a client that finds it there uses it, and does not come back to JSON.
//!
//! Errors of a whole request are `{"message", "code", "error"}`: one client shows `message`, others
//! the text as it is. Those of a statement are part of a successful answer.

use std::sync::Arc;
use std::time::Instant;

use anabranch_store::Root;
use axum::body::Body;
use axum::response::Response;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde_json::json;
use tokio::sync::{OnceCell, Semaphore};

use super::baton::Key;
use super::room::Room;
use super::streams::Streams;
use super::{http, ws};
use crate::auth::{Access, NoAccess};
use crate::config::{Limits, SqlLimits};
use crate::dispatch::Call;
use crate::error::{ApiError, answer, json_response};
use anabranch_sql::Rights;

/// Name of the secret that the servers on a store share.
const KEY: &str = "baton-key";

/// What all SQL of a server shares.
#[derive(Debug)]
pub(crate) struct Service {
    pub(super) streams: Arc<Streams>,
    pub(super) room: Room,
    pub(super) sockets: Arc<Semaphore>,
    key: OnceCell<Key>,
}

impl Service {
    pub(crate) fn new(limits: &Limits, sql: &SqlLimits) -> Self {
        Service {
            streams: Streams::new(limits, sql),
            room: Room::new(),
            sockets: Arc::new(Semaphore::new(limits.sql_sockets)),
            key: OnceCell::new(),
        }
    }

    /// The key of batons: read from the store once.
    pub(super) async fn key(&self, root: &Root) -> Result<&Key, ApiError> {
        let read = || async { Ok::<_, ApiError>(Key::new(&root.secret(KEY).await?)) };
        self.key.get_or_try_init(read).await
    }

    /// Closes streams that nobody came back to.
    pub(crate) fn expire(&self) {
        self.streams.expire(Instant::now());
    }

    /// Closes streams that wait for a client: the server stops.
    pub(crate) fn close_idle(&self) {
        self.streams.close_idle();
    }
}

/// Whether these headers ask for a WebSocket.
pub(crate) fn is_socket(headers: &HeaderMap) -> bool {
    let value = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.split(',').any(|v| v.trim().eq_ignore_ascii_case("websocket")))
}

/// Whether the request is answered whoever asks. On a WebSocket the token comes later.
pub(crate) fn needs_no_token(method: &Method, segments: &[String]) -> bool {
    let probe = segments.len() == 1 && matches!(*method, Method::GET | Method::HEAD);
    let absent = segments.first().is_some_and(|first| first == "v3-protobuf");
    segments.is_empty() || method == Method::OPTIONS || probe || absent
}

/// That the token of a request opens nothing, with the codes that clients know.
pub(crate) fn no_access(no: NoAccess) -> ApiError {
    let error = ApiError::from(no);
    ApiError { code: access_code(no), ..error }
}

pub(super) fn access_code(no: NoAccess) -> &'static str {
    match no {
        NoAccess::Missing => "AUTH_JWT_MISSING",
        NoAccess::Unknown => "AUTH_JWT_INVALID",
    }
}

/// What statements may do.
pub(super) fn rights(access: Access) -> Rights {
    match access {
        Access::Write => Rights::Write,
        Access::Read => Rights::Read,
    }
}

/// Answers a request; `segments` is the path below the database.
pub(crate) async fn serve(
    call: Call,
    request: Request<Body>,
    segments: &[String],
) -> Result<Response, ApiError> {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (parts, body) = request.into_parts();
    match (segments.as_slice(), &parts.method) {
        (_, &Method::OPTIONS) => Ok(preflight(&parts)),
        ([], _) => ws::upgrade(call, parts),
        (["v2"], &Method::GET | &Method::HEAD) => Ok(text("SQL over HTTP, version 2\n")),
        (["v3"], &Method::GET | &Method::HEAD) => Ok(text("SQL over HTTP, version 3\n")),
        (["v2", "pipeline"], &Method::POST) => http::pipeline(&call, &parts, body, 2).await,
        (["v3", "pipeline"], &Method::POST) => http::pipeline(&call, &parts, body, 3).await,
        (["v3", "cursor"], &Method::POST) => http::cursor(&call, &parts, body).await,
        (["v2" | "v3"] | ["v2" | "v3", "pipeline"] | ["v3", "cursor"], _) => {
            Err(ApiError::method())
        }
        _ => Err(ApiError::no_endpoint(parts.uri.path())),
    }
}

fn text(text: &'static str) -> Response {
    answer("text/plain", Body::from(text))
}

/// What a browser asks before it sends what a web page wants.
fn preflight(parts: &Parts) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, OPTIONS");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    // A `*` would leave out the one with the token.
    let asked = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let asked = asked.unwrap_or_else(|| HeaderValue::from_static("authorization, content-type"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
    response
}

/// Lets web pages of any origin read the answer: what opens a database is a token, never a cookie.
pub(crate) fn allow_origins(response: &mut Response) {
    let any = HeaderValue::from_static("*");
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, any);
}

/// An error of a whole request, in the form that these clients show.
pub(crate) fn error_response(error: &ApiError) -> Response {
    let code = error.code.replace('-', "_").to_ascii_uppercase();
    let body = json!({"message": error.message, "code": code, "error": error.message});
    let mut response = json_response(error.status, &body);
    error.headers(&mut response);
    response
}
