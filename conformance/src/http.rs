//! One HTTP request, for what no client library asks.

use std::time::Duration;

use hyper::{Body, Client, Method, Request, body};
use serde_json::Value;

use crate::runtime::runtime;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request and awaits the whole answer.
///
/// # Errors
///
/// The connection cannot be made, or is cut before the answer is complete.
///
/// # Panics
///
/// If the method or the URL is malformed, or nothing comes for a minute.
pub fn ask(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<Answer, String> {
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).expect("a method"))
        .uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).expect("a request");
    runtime().block_on(async {
        let client = Client::builder().pool_max_idle_per_host(0).build_http::<Body>();
        let exchange = async {
            let (parts, body) =
                client.request(request).await.map_err(|e| e.to_string())?.into_parts();
            let body = body::to_bytes(body).await.map_err(|e| e.to_string())?;
            let header =
                |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                };
            Ok(Answer {
                status: parts.status.as_u16(),
                headers: parts.headers.iter().map(header).collect(),
                body: body.to_vec(),
            })
        };
        tokio::time::timeout(Duration::from_secs(60), exchange)
            .await
            .expect("an answer within a minute")
    })
}
