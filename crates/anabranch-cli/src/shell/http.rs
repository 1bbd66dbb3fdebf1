//! Requests to a server that speaks SQL over HTTP.
//!
//! A statement may have been carried out although its answer is lost, so a request is repeated only
//! where it cannot have arrived: when no connection came to be. Redirects are followed on the same
//! server only, never from https to http; token, key and statements go nowhere else. Time: a connection
//! within [`CONNECT_TIMEOUT`], then the first and each further byte within [`SILENCE_MAX`], or Ctrl-C.
//! Memory: an answer of at most [`ANSWER_BYTES_MAX`].

use std::time::Duration;

use anabranch::ServerUrl;
use anabranch_hrana::{PipelineRequest, PipelineResponse};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value as Json;

use super::clean::one_line;
use super::error::ShellError;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement may run without a byte of its answer.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// The most that an answer may have; servers answer 10 MiB of values, which JSON makes longer.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What is read of an answer that says why not.
const REFUSAL_BYTES_MAX: usize = 16 << 10;
/// What is shown of it.
const SAID_CHARS_MAX: usize = 300;
/// Redirects that one request follows.
const REDIRECTS_MAX: usize = 5;
/// Pauses between attempts to connect.
const PAUSES: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(600)];

const ENCRYPTION_KEY: &str = "x-turso-encryption-key";

/// The version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Tells whether a transaction is open.
    V3,
    /// Does not.
    V2,
}

impl Version {
    fn path(self) -> &'static str {
        match self {
            Version::V3 => "v3/pipeline",
            Version::V2 => "v2/pipeline",
        }
    }
}

/// What a server answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// What was asked for.
    Pipeline(PipelineResponse),
    /// This path is not there.
    NotFound {
        /// What the server says.
        said: String,
    },
    /// The stream is gone, or was never there: nothing was carried out.
    StreamGone,
}

/// One database on a server.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    url: ServerUrl,
    headers: HeaderMap,
    has_token: bool,
}

impl Http {
    pub(super) fn new(
        url: ServerUrl,
        token: Option<&str>,
        encryption_key: Option<&str>,
    ) -> Result<Self, ShellError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, secret("token", &format!("Bearer {token}"))?);
        }
        if let Some(key) = encryption_key {
            headers.insert(ENCRYPTION_KEY, secret("encryption key", key)?);
        }
        let mut builder = Client::builder()
            .http1_only()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX)
            .user_agent(concat!("anabranch/", env!("CARGO_PKG_VERSION")));
        if url.to_string().starts_with("http:") {
            // Reading the system's certificates takes a while.
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|source| ShellError::Request { at: url.to_string(), source })?;
        Ok(Http { client, url, headers, has_token: token.is_some() })
    }

    /// The database's URL, for people.
    pub(super) fn at(&self) -> String {
        self.url.to_string()
    }

    /// Sends `request` once, and reads the answer.
    pub(super) async fn ask(
        &self,
        version: Version,
        request: &PipelineRequest,
    ) -> Result<Answer, ShellError> {
        let body = serde_json::to_vec(request)
            .map_err(|e| self.protocol(format!("a value cannot be sent: {e}")))?;
        let mut response = self.follow(version, body.into()).await?;
        let status = response.status();
        if status == StatusCode::OK {
            let body = self.read(&mut response, ANSWER_BYTES_MAX).await?.ok_or_else(|| {
                ShellError::TooLong { at: self.at(), bytes_max: ANSWER_BYTES_MAX }
            })?;
            let answer = serde_json::from_slice(&body);
            return answer
                .map(Answer::Pipeline)
                .map_err(|e| self.protocol(one_line(&e.to_string())));
        }
        let body = self.read(&mut response, REFUSAL_BYTES_MAX).await?.unwrap_or_default();
        let refusal = Refusal::of(&body);
        let said = refusal.shown();
        Err(match status {
            StatusCode::NOT_FOUND => return Ok(Answer::NotFound { said }),
            StatusCode::BAD_REQUEST if request.baton.is_some() && refusal.is_about_stream() => {
                return Ok(Answer::StreamGone);
            }
            StatusCode::UNAUTHORIZED => {
                let what = if self.has_token { "another" } else { "a" };
                ShellError::Unauthorized { at: self.at(), what, said }
            }
            status => ShellError::Status { at: self.at(), status: status.as_u16(), said },
        })
    }

    async fn follow(&self, version: Version, body: bytes::Bytes) -> Result<Response, ShellError> {
        let refused = |why: String| Err(ShellError::Redirect { at: self.at(), why });
        let mut url = self.url.join(version.path());
        for _ in 0..=REDIRECTS_MAX {
            let response = self.connect_and_send(&url, &body).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let next = match target.and_then(|target| url.join(target).ok()) {
                Some(next) if matches!(next.scheme(), "http" | "https") => next,
                _ => return refused("to something that is no address".to_owned()),
            };
            if url.scheme() == "https" && next.scheme() == "http" {
                return refused("from https to http".to_owned());
            }
            if !self.url.is_home(&next) {
                let host = one_line(next.host_str().unwrap_or_default());
                return refused(format!("to another server, {host}"));
            }
            url = next;
        }
        refused(format!("more than {REDIRECTS_MAX} times"))
    }

    /// Sends once; only making the connection is tried again.
    async fn connect_and_send(
        &self,
        url: &Url,
        body: &bytes::Bytes,
    ) -> Result<Response, ShellError> {
        let mut pauses = PAUSES.iter();
        loop {
            let request = self.client.post(url.clone()).headers(self.headers.clone());
            let error = match request.body(body.clone()).send().await {
                Ok(response) => return Ok(response),
                Err(e) => e.without_url(),
            };
            if !error.is_connect() || is_about_a_certificate(&error) {
                return Err(self.fault(error));
            }
            match pauses.next() {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(self.fault(error)),
            }
        }
    }

    /// The whole body, if it has at most `bytes_max`.
    async fn read(
        &self,
        response: &mut Response,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, ShellError> {
        let mut all = Vec::new();
        loop {
            let part = response.chunk().await;
            let part = part.map_err(|e| self.fault(e.without_url()))?;
            let Some(part) = part else { return Ok(Some(all)) };
            if all.len() + part.len() > bytes_max {
                return Ok(None);
            }
            all.extend_from_slice(&part);
        }
    }

    fn fault(&self, source: reqwest::Error) -> ShellError {
        let at = self.at();
        if source.is_builder() {
            ShellError::Request { at, source }
        } else if source.is_connect() && is_about_a_certificate(&source) {
            ShellError::Certificate { at, source }
        } else if source.is_connect() {
            ShellError::Offline { at, source }
        } else {
            ShellError::Lost { at, source }
        }
    }

    pub(super) fn protocol(&self, what: String) -> ShellError {
        ShellError::Protocol { at: self.at(), what }
    }
}

fn secret(what: &'static str, text: &str) -> Result<HeaderValue, ShellError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| ShellError::Secret { what })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The library's own type for it is private; this is how it tells.
fn is_about_a_certificate(e: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(e);
    while let Some(error) = cause {
        if error.to_string().contains("certificate") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What a server says when it refuses a request as a whole.
#[derive(Debug, Default)]
struct Refusal {
    code: String,
    message: String,
}

impl Refusal {
    fn of(body: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<Json>(body) else {
            return Refusal {
                message: String::from_utf8_lossy(body).into_owned(),
                ..Refusal::default()
            };
        };
        let text = |of: &Json, name: &str| of.get(name).and_then(Json::as_str).map(str::to_owned);
        // `{"message", "code"}`, `{"error": "..."}`, or both within "error".
        let inner = json.get("error").filter(|error| error.is_object()).unwrap_or(&json);
        let message = text(inner, "message").or_else(|| text(inner, "error"));
        Refusal {
            code: text(inner, "code").unwrap_or_default(),
            message: message.unwrap_or_default(),
        }
    }

    /// Whether it says that the stream is gone. The request was looked at no further then.
    fn is_about_stream(&self) -> bool {
        self.code.starts_with("STREAM_") || self.message.to_ascii_lowercase().contains("baton")
    }

    /// After a colon, in one line; or nothing.
    fn shown(&self) -> String {
        let line: String = one_line(self.message.trim()).chars().take(SAID_CHARS_MAX).collect();
        if line.is_empty() { line } else { format!(": {line}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_understood_in_all_its_forms() {
        let expired = br#"{"message":"The stream has expired","code":"STREAM_EXPIRED"}"#;
        assert!(Refusal::of(expired).is_about_stream());
        assert!(Refusal::of(b"Received an invalid baton").is_about_stream());
        assert!(!Refusal::of(br#"{"error":"no such column"}"#).is_about_stream());
        assert_eq!(Refusal::of(br#"{"error":"no\nway"}"#).shown(), ": no way");
        let ours = br#"{"error":{"code":"unauthorized","message":"who\u001b?"}}"#;
        assert_eq!(Refusal::of(ours).shown(), ": who^[?");
        assert_eq!(Refusal::of(b"").shown(), "");
    }
}
