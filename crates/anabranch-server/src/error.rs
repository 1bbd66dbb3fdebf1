//! What a client is told when something does not work.
//!
//! Our dialect and the administration answer `{"error": {"code", "message"}}` with further members
//! where a program can use them; the libSQL dialect has its own form, made from the same values.

use anabranch_store::{StoreError, causes};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Map, Value, json};

/// An answer that is not the one hoped for.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// Stable; programs go by it.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// Further members of the error's object.
    pub(crate) more: Map<String, Value>,
    /// Seconds after which to try again.
    pub(crate) retry_after: Option<u32>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, code, message: message.into(), more: Map::new(), retry_after: None }
    }

    /// With a further member.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn no_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this server wants a token: send 'Authorization: Bearer TOKEN'",
        )
    }

    pub(crate) fn wrong_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "this server does not know the token")
    }

    pub(crate) fn read_only() -> Self {
        Self::new(StatusCode::FORBIDDEN, "read-only", "this token may only read")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(crate) fn no_database(name: &str) -> Self {
        let message = format!("there is no database '{name}' here");
        Self::new(StatusCode::NOT_FOUND, "no-database", message).with("database", name)
    }

    pub(crate) fn no_endpoint(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "no-endpoint", format!("there is nothing at {path}"))
    }

    pub(crate) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method",
            "this endpoint does not know the method",
        )
    }

    pub(crate) fn too_large(limit: u64) -> Self {
        let message = format!("the body is longer than the {limit} bytes that this server takes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message).with("limit", limit)
    }

    /// Too much is under way, or the server is about to stop.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        let mut busy = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
        busy.retry_after = Some(1);
        busy
    }

    /// The error's object, without the wrapping.
    pub(crate) fn object(&self) -> Value {
        let mut object = self.more.clone();
        object.insert("code".into(), self.code.into());
        object.insert("message".into(), self.message.as_str().into());
        Value::Object(object)
    }

    /// The headers that belong to the status, whatever the body is.
    pub(crate) fn headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
    }
}

/// The store's errors, as all dialects tell them. What the server cannot help is 503, so that
/// clients come again; damage is 500, so that they do not.
impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        let message = causes(&e);
        match e {
            StoreError::BelowFloor { at, floor, .. } => {
                Self::new(StatusCode::GONE, "below-floor", message)
                    .with("at", at.to_string())
                    .with("floor", floor.to_string())
            }
            StoreError::BeyondHead { at, head, .. } => {
                Self::new(StatusCode::CONFLICT, "beyond-head", message)
                    .with("at", at.to_string())
                    .with("head", head.to_string())
            }
            StoreError::BeforeHistory { oldest, .. } => {
                Self::new(StatusCode::NOT_FOUND, "before-history", message)
                    .with("oldest", oldest.to_string())
            }
            StoreError::Rewound { at, found, .. } => {
                Self::new(StatusCode::CONFLICT, "rewound", message)
                    .with("at", at.to_string())
                    .with("found", found.to_string())
            }
            StoreError::Deleted { database, .. } => Self::new(StatusCode::GONE, "deleted", message)
                .with("database", database.to_string()),
            e if e.is_corrupt() => {
                tracing::error!(error = %message, "the log is damaged");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", message)
            }
            StoreError::NoSpace { .. } => {
                tracing::error!(error = %message, "no space is left");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "no-space", message)
            }
            _ => {
                tracing::warn!(error = %message, "the store failed");
                let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "store", message);
                error.retry_after = Some(1);
                error
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &json!({ "error": self.object() }));
        self.headers(&mut response);
        response
    }
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response {
    let mut response = answer("application/json", Body::from(value.to_string()));
    *response.status_mut() = status;
    response
}

/// An answer with status 200.
pub(crate) fn answer(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
