//! How a connection becomes a WebSocket.
//!
//! Nobody has shown a token yet: that comes with the first message. So nothing here tells whether a
//! database is there.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Socket;
use crate::dispatch::Call;
use crate::error::ApiError;

/// Subprotocols with their versions, best first.
const PROTOCOLS: [(&str, u8); 3] = [("hrana3", 3), ("hrana2", 2), ("hrana1", 1)];

/// Takes the connection over.
pub(in crate::sql) fn upgrade(call: Call, mut parts: Parts) -> Result<Response, ApiError> {
    if parts.method != Method::GET {
        return Err(ApiError::method());
    }
    let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(SEC_WEBSOCKET_VERSION).map(str::trim) != Some("13") {
        return Err(ApiError::bad_request("a WebSocket must have Sec-WebSocket-Version: 13"));
    }
    let Some(key) = text(SEC_WEBSOCKET_KEY) else {
        return Err(ApiError::bad_request("a WebSocket must have a Sec-WebSocket-Key"));
    };
    let accept = derive_accept_key(key.trim().as_bytes());
    let (protocol, version) = protocol(&parts)?;
    let app = Arc::clone(&call.app);
    let place = Arc::clone(&app.sql.sockets).try_acquire_owned();
    let place = place.map_err(|_| {
        let text = "too many WebSockets are open; come again";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_SOCKETS", text)
    })?;
    let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return Err(ApiError::bad_request("this connection cannot become a WebSocket"));
    };
    let name = call.slot.name().clone();
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        match upgrade.await {
            Ok(io) => Box::pin(Socket::run(app, name, version, io, place)).await,
            Err(error) => tracing::debug!(%error, "a connection did not become a WebSocket"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}

/// The best of the subprotocols that the client offers. One that offers none speaks version 1.
fn protocol(parts: &Parts) -> Result<(Option<&'static str>, u8), ApiError> {
    let mut offers = parts.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().peekable();
    if offers.peek().is_none() {
        return Ok((None, 1));
    }
    let offers: Vec<&str> = offers
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let best = PROTOCOLS.iter().find(|(name, _)| offers.contains(name));
    let (name, version) = best.ok_or_else(|| {
        ApiError::bad_request(
            "of the subprotocols this server knows hrana3, hrana2 and hrana1 only",
        )
    })?;
    Ok((Some(*name), *version))
}
