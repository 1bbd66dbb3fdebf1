//! The dialect of the official libSQL clients: `{db}/info`, `{db}/export/…`, `{db}/sync/…`.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use serde_json::json;

use crate::database::Database;
use crate::dispatch::Call;
use crate::error::{ApiError, json_response};

/// Answers a request of the dialect; `segments` is the path below the database.
pub(crate) async fn serve(
    call: Call,
    request: Request<Body>,
    segments: &[String],
) -> Result<Response, ApiError> {
    let _ = (call, segments);
    Err(ApiError::no_endpoint(request.uri().path()))
}

/// Begins a new generation.
pub(crate) async fn rollover(database: &Arc<Database>) -> Result<Response, ApiError> {
    let _ = database;
    Err(ApiError::no_endpoint("rollover"))
}

/// An error in the form that these clients show: `{"error": TEXT}`.
pub(crate) fn error_response(error: &ApiError) -> Response {
    let body = json!({"error": error.message, "code": error.code});
    let mut response = json_response(error.status, &body);
    error.headers(&mut response);
    response
}
