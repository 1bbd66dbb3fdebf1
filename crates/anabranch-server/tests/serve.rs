//! A server as its clients meet it, before any dialect: access, names, limits, stopping.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use anabranch_server::{Config, Create, Location, ServeError, Server, TenantBy, Tokens};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    _dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    done: tokio::task::JoinHandle<()>,
}

async fn start(change: impl FnOnce(&mut Config)) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(Location::folder(dir.path().join("data")), dir.path());
    config.listen = "127.0.0.1:0".parse().unwrap();
    change(&mut config);
    let server = Server::bind(config).await.unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel();
    let done = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    Running { address, _dir: dir, stop: Some(stop), done }
}

impl Running {
    /// Sends `text` and reads until the server closes.
    async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that refuses early may close before it has read everything.
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let text = format!("{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n");
        let answer = self.raw(&text).await;
        let status = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.done).await.unwrap().unwrap();
    }
}

fn tokens(text: &str) -> Tokens {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Tokens::read(file.path()).unwrap()
}

#[tokio::test]
async fn health_needs_no_token_and_databases_do() {
    let server = start(|c| c.tokens = Some(tokens("alpha\nread beta\n"))).await;
    for path in ["/livez", "/readyz/", "//version"] {
        assert_eq!(server.ask("GET", path, "").await.0, 200, "{path}");
    }
    assert_eq!(server.ask("POST", "/livez", "").await.0, 405);
    let name = "/admin/v1/databases/notes";
    assert_eq!(server.ask("GET", name, "").await.0, 401);
    assert_eq!(server.ask("GET", name, "Authorization: Bearer gamma\r\n").await.0, 401);
    let (alpha, beta) = ("Authorization: Bearer alpha\r\n", "Authorization: Bearer beta\r\n");
    assert_eq!(server.ask("PUT", name, beta).await.0, 403, "a token that may only read");
    assert_eq!(server.ask("GET", name, beta).await.0, 404);
    assert_eq!(server.ask("PUT", name, alpha).await.0, 201);
    assert_eq!(server.ask("PUT", name, alpha).await.0, 200, "it is there already");
    let (status, body) = server.ask("GET", name, beta).await;
    assert!(status == 200 && body.contains("\"generation\":1"), "{status} {body}");
    server.stop().await;
}

#[tokio::test]
async fn a_server_without_tokens_answers_this_machine_only() {
    let server = start(|_| {}).await;
    let ask = |headers: &'static str| server.ask("GET", "/admin/v1/databases/x", headers);
    assert_eq!(ask("").await.0, 404);
    assert_eq!(ask("Host: evil.example\r\n").await.0, 403);
    assert_eq!(ask("Origin: https://evil.example\r\n").await.0, 403);
    server.stop().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(Location::folder(dir.path()), dir.path());
    config.listen = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(Server::bind(config).await, Err(ServeError::Open { .. })));
}

#[tokio::test]
async fn a_database_is_named_by_path_or_by_host_and_made_when_it_should_be() {
    let by_path = start(|c| c.create = Create::Explicit).await;
    for path in ["/notes/info", "/notes/sync/1/1/2", "/info"] {
        assert_eq!(by_path.ask("GET", path, "").await.0, 404, "{path}");
    }
    assert_eq!(by_path.ask("GET", "/No.Name/info", "").await.0, 404);
    assert_eq!(by_path.ask("GET", "/notes/what", "").await.0, 404);
    by_path.stop().await;
    let by_host = start(|c| c.tenant_by = TenantBy::Host("localhost".into())).await;
    assert_eq!(by_host.ask("GET", "/log/head", "Host: 127.0.0.1\r\n").await.0, 421);
    by_host.stop().await;
}

#[tokio::test]
async fn headers_are_limited_in_length_number_and_time() {
    let server = start(|c| c.limits.headers = Duration::from_millis(100)).await;
    let long =
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let answer = server.raw(&long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(200));
    assert!(server.raw(&many).await.starts_with("HTTP/1.1 431"));
    // Without an end the connection ends by itself.
    assert!(!server.raw("GET /livez HTTP/1.1\r\nHost: loc").await.contains("200"));
    assert_eq!(server.raw("").await, "");
    server.stop().await;
}

#[tokio::test]
async fn ids_of_requests_are_kept_or_made() {
    let server = start(|_| {}).await;
    let ask = |id: &str| {
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{id}Connection: close\r\n\r\n")
    };
    let answer = server.raw(&ask("X-Request-Id: my-id_1\r\n")).await;
    assert!(answer.contains("x-request-id: my-id_1"), "{answer}");
    for odd in ["", "X-Request-Id: two words\r\n"] {
        let answer = server.raw(&ask(odd)).await;
        assert!(answer.contains("x-request-id: ") && !answer.contains("two"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn metrics_have_a_listener_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(Location::folder(dir.path()), dir.path());
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.metrics_listen = Some("127.0.0.1:0".parse().unwrap());
    let server = Server::bind(config).await.unwrap();
    let metrics = server.metrics_address();
    let address = server.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let done = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    let get = |address: SocketAddr, path: &'static str| async move {
        let url = format!("http://{address}{path}");
        reqwest::get(url).await.unwrap().text().await.unwrap()
    };
    get(address, "/livez").await;
    let text = get(metrics.unwrap(), "/metrics").await;
    assert!(text.contains("anabranch_http_requests_total{dialect=\"ops\""), "{text}");
    stop.send(()).unwrap();
    tokio::time::timeout(DEADLINE, done).await.unwrap().unwrap();
}
