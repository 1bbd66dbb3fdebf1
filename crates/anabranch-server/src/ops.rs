//! Health, version and metrics.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::error::{ApiError, answer, json_response};
use crate::server::App;

/// `GET /livez`, `/readyz`, `/version`: answered without a token.
pub(crate) async fn serve(
    app: &App,
    request: &Parts,
    endpoint: &str,
) -> Result<Response, ApiError> {
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(ApiError::method());
    }
    match endpoint {
        "livez" => Ok(json_response(StatusCode::OK, &json!({"status": "ok"}))),
        "readyz" => ready(app).await,
        _ => Ok(json_response(
            StatusCode::OK,
            &json!({"name": "anabranch", "version": env!("CARGO_PKG_VERSION")}),
        )),
    }
}

/// Whether requests could be served: the store answers, and the server is not about to stop.
async fn ready(app: &App) -> Result<Response, ApiError> {
    if app.stopping() {
        return Err(ApiError::busy("the server is stopping"));
    }
    app.root.find(&anabranch_store::DatabaseName::default_name()).await?;
    Ok(json_response(StatusCode::OK, &json!({"status": "ok"})))
}

/// The listener for metrics knows one path.
pub(crate) fn metrics(handle: &Arc<PrometheusHandle>, path: &str) -> Response {
    if path.trim_end_matches('/') != "/metrics" {
        let mut response = Response::new(Body::from("metrics are at /metrics\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    handle.run_upkeep();
    answer("text/plain; version=0.0.4; charset=utf-8", Body::from(handle.render()))
}
