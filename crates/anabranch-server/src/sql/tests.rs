//! What clients meet, over real sockets.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_store::Location;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::auth::Tokens;
use crate::config::Config;
use crate::server::{App, Server};

mod http;
mod streams;
mod ws;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    app: Arc<App>,
    dir: Arc<tempfile::TempDir>,
    client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    done: tokio::task::JoinHandle<()>,
}

/// An answer over HTTP.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

async fn start(change: impl FnOnce(&mut Config)) -> Running {
    start_in(Arc::new(tempfile::tempdir().unwrap()), change).await
}

async fn start_in(dir: Arc<tempfile::TempDir>, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = Config::new(Location::folder(dir.path().join("data")), dir.path());
    config.listen = "127.0.0.1:0".parse().unwrap();
    change(&mut config);
    let server = Server::bind(config).await.unwrap();
    let (address, app) = (server.address(), server.app());
    let (stop, stopped) = oneshot::channel();
    let done = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    Running { address, app, dir, client: reqwest::Client::new(), stop: Some(stop), done }
}

fn tokens(text: &str) -> Option<Tokens> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Some(Tokens::read(file.path()).unwrap())
}

impl Running {
    async fn ask(&self, method: &str, path: &str, token: &str, body: String) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.client.request(method, format!("http://{}{path}", self.address));
        let request = match token {
            "" => request,
            token => request.header("authorization", token),
        };
        let answer = request.timeout(DEADLINE).body(body).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, text: answer.text().await.unwrap() }
    }

    /// Sends the body `{"baton": baton, "requests": requests}`.
    async fn pipeline(&self, path: &str, baton: &Value, requests: Value) -> Answer {
        let body = json!({"baton": baton, "requests": requests}).to_string();
        self.ask("POST", path, "", body).await
    }

    /// The same at version 3, which must succeed.
    async fn run(&self, baton: &Value, requests: Value) -> Value {
        self.pipeline("/v3/pipeline", baton, requests).await.ok()
    }

    /// As if so much time had passed that all idle streams are closed.
    fn expire(&self) {
        self.app.sql.streams.expire(Instant::now() + Duration::from_secs(100_000));
    }

    async fn stop(mut self) -> Arc<tempfile::TempDir> {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.done).await.unwrap().unwrap();
        self.dir
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// An error of the whole request, in the form that clients show.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/json", "no charset, or it is hidden");
        let error = self.json();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].is_string() && error["message"] == error["error"], "{error}");
    }
}

fn execute(sql: &str) -> Value {
    json!({"type": "execute", "stmt": {"sql": sql}})
}

fn close() -> Value {
    json!({"type": "close"})
}

/// Without what depends on the time and on how statements are run.
fn plain(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                for name in ["rows_read", "rows_written", "query_duration_ms"] {
                    object.remove(name);
                }
                object.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

/// The first value of the first row of a result.
fn first(result: &Value) -> &Value {
    &result["response"]["result"]["rows"][0][0]
}
