//! Requests without sockets, for the fuzz targets.

use std::path::Path;
use std::sync::Arc;

use anabranch_store::{Location, Root, StoreOptions};
use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::{Request, StatusCode};

use crate::config::Config;
use crate::server::App;
use crate::{dispatch, params};

/// A server on a store in memory.
#[derive(Debug)]
pub struct Requests(Arc<App>);

impl Requests {
    /// An empty one; temporary files go into `scratch`.
    #[must_use]
    pub fn new(scratch: &Path) -> Self {
        let root = Root::memory(&StoreOptions::new(scratch));
        let mut config = Config::new(Location::folder(scratch), scratch);
        config.limits.libsql_body = 1 << 20;
        config.limits.push_body = 1 << 20;
        Requests(App::new(config, root))
    }

    /// The status and body of the answer; `None` if `path` is none.
    pub async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Option<(u16, Vec<u8>)> {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.body(Body::from(body)).ok()?;
        let response = dispatch::handle(Arc::clone(&self.0), request).await;
        let status = response.status();
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
        // A stream of events does not end.
        if response.headers().get("content-type").is_some_and(|t| t == "text/event-stream") {
            return Some((status.as_u16(), Vec::new()));
        }
        let body = response.into_body().collect().await.ok()?;
        Some((status.as_u16(), body.to_bytes().to_vec()))
    }
}

/// Reads the parameters of a request.
pub fn parameters(query: &str) {
    if let Ok(params) = params::Params::parse(query) {
        let _ = params.anchor();
        let _ = params.get::<u64>("count");
    }
}
