//! Requests to a libSQL server: headers, redirects, retries, limits.
//!
//! Redirects are followed here and not by the HTTP library, since they are used for load balancing and
//! must keep the method and the body: up to [`REDIRECTS_MAX`], never from https to http. Another host
//! gets neither the token nor the key, and no body at all: a redirect must not be a way to have rows
//! sent elsewhere.
//!
//! A request is repeated after a 5xx and after a lost connection, with growing, jittered pauses.
//! Every request of the protocol may be repeated: frames that the server has already are compared.
//! [`Failed::arrived`] says whether one of the attempts may have had its effect.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::error::LibsqlError;
use crate::remote::ServerUrl;
use crate::remote::http::Connections;
use crate::replica::Options;

/// Redirects that one request follows.
const REDIRECTS_MAX: usize = 5;
/// Attempts after the first where the server has trouble.
const RETRIES: usize = 5;
/// Attempts after the first where there is no connection: offline is an ordinary state, to be told
/// soon.
const RETRIES_UNCONNECTED: usize = 2;
/// The first pause; each is twice the one before, plus as much again at random at most.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an answer of bounded length may take as a whole.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(300);
/// What is read of an answer that says why not.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;
/// What is shown of it.
const SAID_CHARS_MAX: usize = 300;

const ENCRYPTION_KEY: &str = "x-turso-encryption-key";

/// The connection to one database on a server.
pub(super) struct Http {
    connections: Connections,
    url: ServerUrl,
    /// Token and key: for the server itself only.
    secrets: HeaderMap,
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) body: Option<Bytes>,
    /// A 500 is an answer of the protocol, not trouble.
    pub(super) expects_500: bool,
    /// How long the whole may take; `None` where the length of the answer has no bound.
    pub(super) time_max: Option<Duration>,
}

impl Request {
    pub(super) fn get(url: Url) -> Self {
        let time_max = Some(ANSWER_TIME_MAX);
        Request { method: Method::GET, url, body: None, expects_500: false, time_max }
    }

    pub(super) fn post(url: Url, body: Bytes) -> Self {
        Request { method: Method::POST, body: Some(body), ..Self::get(url) }
    }

    /// Method and path, for people.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method, self.url.path())
    }
}

/// A request that got no answer of use.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: LibsqlError,
    /// An attempt may have been carried out.
    pub(super) arrived: bool,
}

/// An answer that is no trouble of the server's, read to its end.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) body: Body,
    /// An earlier attempt of the same request may have been carried out.
    pub(super) arrived: bool,
}

/// What came with an answer.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Vec<u8>),
    /// More than was allowed for.
    TooLong,
}

/// What was taken of an answer.
enum Taken {
    Read(StatusCode, Body),
    Begun(Response),
}

impl Body {
    /// All of it; nothing if that was too long.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Body::Whole(bytes) => bytes,
            Body::TooLong => &[],
        }
    }
}

impl Http {
    pub(super) fn new(url: ServerUrl, options: &Options) -> Result<Self, LibsqlError> {
        let mut secrets = HeaderMap::new();
        let token = options.auth_token.as_ref().map_or("", |token| token.secret());
        secrets.insert(AUTHORIZATION, secret("token", &format!("Bearer {token}"))?);
        if let Some(key) = &options.encryption_key {
            secrets.insert(ENCRYPTION_KEY, secret("encryption key", key.secret())?);
        }
        Ok(Http { connections: options.connections.clone(), url, secrets })
    }

    /// The address of `path` below the database.
    pub(super) fn url(&self, path: &str) -> Url {
        self.url.join(path)
    }

    /// The database's own URL.
    pub(super) fn database_url(&self) -> &ServerUrl {
        &self.url
    }

    /// Sends `request`, again where that can help, and reads the answer of at most `bytes_max`.
    pub(super) async fn ask(
        &self,
        request: &Request,
        bytes_max: usize,
    ) -> Result<Answered, Failed> {
        match self.send(request, Some(bytes_max)).await? {
            (Taken::Read(status, body), arrived) => Ok(Answered { status, body, arrived }),
            (Taken::Begun(_), arrived) => Err(Failed { error: LibsqlError::Interrupted, arrived }),
        }
    }

    /// Sends `request`, again where that can help, until an answer begins.
    pub(super) async fn open(&self, request: &Request) -> Result<Response, LibsqlError> {
        match self.send(request, None).await {
            Ok((Taken::Begun(response), _)) => Ok(response),
            Ok((Taken::Read(..), _)) => Err(LibsqlError::Interrupted),
            Err(failed) => Err(failed.error),
        }
    }

    /// Sends `request`, again where that can help. Reads the answer, if it has a bound. Answers also
    /// whether an earlier attempt may have been carried out.
    async fn send(
        &self,
        request: &Request,
        bytes_max: Option<usize>,
    ) -> Result<(Taken, bool), Failed> {
        let pauses = |times| {
            ExponentialBuilder::default()
                .with_min_delay(PAUSE)
                .with_max_times(times)
                .with_jitter()
                .build()
        };
        let (mut troubled, mut unconnected) = (pauses(RETRIES), pauses(RETRIES_UNCONNECTED));
        let mut arrived = false;
        loop {
            let attempt = self.attempt(request, bytes_max).await;
            let (error, pause) = match attempt {
                Ok(answer) => return Ok((answer, arrived)),
                Err(error @ LibsqlError::Unavailable { .. }) => {
                    arrived = true;
                    (error, troubled.next())
                }
                Err(LibsqlError::Unreachable { request, source }) => {
                    let connected = !source.is_connect();
                    arrived |= connected;
                    let pause = if connected { troubled.next() } else { unconnected.next() };
                    (LibsqlError::Unreachable { request, source }, pause)
                }
                Err(error) => return Err(Failed { error, arrived }),
            };
            let Some(pause) = pause else { return Err(Failed { error, arrived }) };
            tracing::debug!(%error, ?pause, "trying again");
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt.
    async fn attempt(
        &self,
        request: &Request,
        bytes_max: Option<usize>,
    ) -> Result<Taken, LibsqlError> {
        let mut response = self.follow(request).await?;
        let status = response.status();
        if is_trouble(status, request) {
            let (request, said) = (request.name(), said(response).await);
            return Err(LibsqlError::Unavailable { request, status: status.as_u16(), said });
        }
        let Some(bytes_max) = bytes_max else { return Ok(Taken::Begun(response)) };
        let bytes_max = if status.is_success() { bytes_max } else { REFUSAL_BYTES_MAX };
        let body = body(&mut response, bytes_max).await.map_err(|e| unreachable(request, e))?;
        Ok(Taken::Read(status, body))
    }

    /// Sends `request` through redirects.
    async fn follow(&self, request: &Request) -> Result<Response, LibsqlError> {
        let refused = |why: String| Err(LibsqlError::Redirect { request: request.name(), why });
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let home = self.url.is_home(&url);
            if !home && request.body.is_some() {
                return refused(format!("to another host, {}", host(&url)));
            }
            let response = self.send_to(request, url.clone(), home).await?;
            let Some(target) = redirect_of(&response) else { return Ok(response) };
            let next = match target.to_str().ok().and_then(|target| url.join(target).ok()) {
                Some(next) if matches!(next.scheme(), "http" | "https") => next,
                _ => return refused("to something that is no address".to_owned()),
            };
            if url.scheme() == "https" && next.scheme() == "http" {
                return refused(format!("from https to http, at {}", host(&next)));
            }
            url = next;
        }
        refused(format!("more than {REDIRECTS_MAX} times"))
    }

    async fn send_to(
        &self,
        request: &Request,
        url: Url,
        home: bool,
    ) -> Result<Response, LibsqlError> {
        let client = self.connections.libsql_client(&url).map_err(LibsqlError::Client)?;
        let mut builder = client.request(request.method.clone(), url);
        if home {
            builder = builder.headers(self.secrets.clone());
        }
        if let Some(time) = request.time_max {
            builder = builder.timeout(time);
        }
        if let Some(body) = &request.body {
            builder = builder
                .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
                .body(body.clone());
        }
        builder.send().await.map_err(|source| unreachable(request, source))
    }
}

fn secret(what: &'static str, text: &str) -> Result<HeaderValue, LibsqlError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| LibsqlError::Secret { what })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Errors of the HTTP library name the URL; the request is named already.
pub(super) fn unreachable(request: &Request, source: reqwest::Error) -> LibsqlError {
    LibsqlError::Unreachable { request: request.name(), source: source.without_url() }
}

fn is_trouble(status: StatusCode, request: &Request) -> bool {
    let answer = request.expects_500 && status == StatusCode::INTERNAL_SERVER_ERROR;
    (status.is_server_error() && !answer) || status == StatusCode::TOO_MANY_REQUESTS
}

fn redirect_of(response: &Response) -> Option<&HeaderValue> {
    response.headers().get(LOCATION).filter(|_| response.status().is_redirection())
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// Reads a body of at most `bytes_max`.
pub(super) async fn body(
    response: &mut Response,
    bytes_max: usize,
) -> Result<Body, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > bytes_max {
            return Ok(Body::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Body::Whole(body))
}

/// What the server says in an answer that is of no other use: after a colon, or nothing.
pub(super) async fn said(mut response: Response) -> String {
    let body = body(&mut response, REFUSAL_BYTES_MAX).await;
    body.map_or_else(|_| String::new(), |body| said_in(body.bytes()))
}

/// The text of a refusal, in one line that can be shown.
pub(super) fn said_in(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(json) => match json.get("error").and_then(serde_json::Value::as_str) {
            Some(error) => error.to_owned(),
            None => return String::new(),
        },
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let line: String = text.trim().chars().take(SAID_CHARS_MAX).map(printable).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_one_line_without_control_characters() {
        assert_eq!(said_in(br#"{"error": "no\nway"}"#), ": no way");
        assert_eq!(said_in(b"\x1b[31mred\x07"), ":  [31mred ");
        assert_eq!(said_in(b" "), "");
        assert_eq!(said_in(&[b'x'; 1000]).len(), 302);
    }
}
