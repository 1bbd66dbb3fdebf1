//! Our own dialect: `{db}/log/…`.

use axum::body::Body;
use axum::response::Response;
use hyper::Request;

use crate::dispatch::Call;
use crate::error::ApiError;

/// Answers a request of our dialect; `segments` is the path below the database.
pub(crate) async fn serve(
    call: Call,
    request: Request<Body>,
    segments: &[String],
) -> Result<Response, ApiError> {
    let _ = (call, segments);
    Err(ApiError::no_endpoint(request.uri().path()))
}
