//! Requests to a server, whatever they mean: connections, redirects, repeats and time limits.
//!
//! Time: a connection must be made within [`CONNECT_TIMEOUT`]; a peer that neither takes nor sends a
//! byte for [`SILENCE_MAX`] is given up. Memory: answers that are read as a whole have a limit.
//! Redirects are followed [`REDIRECTS_MAX`] times, never from https to http; the token goes to the
//! host of the URL alone, and so does what is pushed.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anabranch_format::DatabaseId;
use anabranch_store::{Counter, SpoolReader};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, ClientBuilder, Method, Response, StatusCode};
use url::Url;

use super::ServerUrl;
use super::server_error::ServerError;
use crate::replica::AuthToken;

/// How long a connection may take to be made: longer means "offline".
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may neither take nor send anything.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// After a push the server unpacks and stores it before it answers: a second more for so many bytes.
const ANSWERED_BYTES_PER_SECOND: u64 = 4 << 20;
/// A connection that nobody uses is closed before the server would.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 5;
/// How often a request is repeated that was not answered, or answered "not now".
pub(super) const REPEATS_MAX: usize = 3;
/// The pauses between: about doubled each time, by chance longer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A server that asks for a longer pause gets none.
const PAUSE_ASKED_MAX: Duration = Duration::from_secs(5);
/// What is read of a spool at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// Connections to servers, kept open between the operations of all who share the value; made when
/// first needed. To be used within one async runtime.
#[derive(Clone, Default)]
pub struct Connections {
    ours: Clients,
    libsql: Clients,
}

/// For http and for https: only the second needs the system's certificates, and reading them takes
/// many times as long as a sync with nothing to do.
#[derive(Clone, Default)]
struct Clients {
    plain: Arc<OnceLock<Client>>,
    secure: Arc<OnceLock<Client>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

impl Connections {
    /// For requests whose silence is watched by who makes them.
    fn client(&self, url: &Url) -> Result<Client, ServerError> {
        self.ours.client(url, |builder| builder).map_err(ServerError::Request)
    }

    /// For requests to a libSQL server, which end when nothing comes for [`SILENCE_MAX`].
    pub(super) fn libsql_client(&self, url: &Url) -> Result<Client, reqwest::Error> {
        self.libsql.client(url, |builder| builder.read_timeout(SILENCE_MAX))
    }
}

impl Clients {
    fn client(
        &self,
        url: &Url,
        more: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<Client, reqwest::Error> {
        let secure = url.scheme() == "https";
        let slot = if secure { &self.secure } else { &self.plain };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .http1_only()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_MAX)
            .user_agent(concat!("anabranch/", env!("CARGO_PKG_VERSION")));
        if !secure {
            builder = builder.tls_certs_only([]);
        }
        let client = more(builder).build()?;
        Ok(slot.get_or_init(|| client).clone())
    }
}

/// A database on a server, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) url: ServerUrl,
    pub(super) location: String,
    /// The database that is meant, once it is known.
    pub(super) database: Option<DatabaseId>,
    connections: Connections,
    token: Option<AuthToken>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Below the database.
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: HeaderMap,
    pub(super) upload: Option<Upload>,
}

/// A body that is sent in portions, and again if need be.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) head: Bytes,
    pub(super) body: SpoolReader,
    pub(super) counter: Counter,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: ServerError,
    /// It is certain that the server has not seen the request.
    pub(super) unsent: bool,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        let headers = HeaderMap::new();
        Ask { method, path: path.into(), query: Vec::new(), headers, upload: None }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }
}

/// The pauses between repeats.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(PAUSE.0)
        .with_max_delay(PAUSE.1)
        .with_max_times(REPEATS_MAX)
        .with_jitter()
        .build()
}

/// Whether an answer with this status may be another one soon.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The pause before a repeat: ours, or a longer one that the server asks for.
pub(super) fn pause(ours: Duration, response: Option<&Response>) -> Duration {
    let asked = response.and_then(|r| r.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok());
    let asked = asked.map(Duration::from_secs).filter(|asked| *asked <= PAUSE_ASKED_MAX);
    asked.map_or(ours, |asked| asked.max(ours))
}

impl Connection {
    pub(super) fn new(url: ServerUrl, options: &crate::replica::Options) -> Self {
        Connection {
            location: url.to_string(),
            url,
            database: None,
            connections: options.connections.clone(),
            token: options.auth_token.clone(),
        }
    }

    /// The same, for questions about the database `id`.
    pub(super) fn of(&self, id: &DatabaseId) -> Self {
        Connection { database: Some(id.clone()), ..self.clone() }
    }

    /// Whether a token goes along.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks, and again where that can help. Only for what may be done twice.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Response, Fault> {
        let mut pauses = pauses();
        loop {
            let asked = self.ask_once(ask).await;
            let wait = match &asked {
                Ok(response) if is_passing(response.status()) => {
                    pauses.next().map(|ours| pause(ours, Some(response)))
                }
                Err(fault) if fault.error.is_offline() => pauses.next(),
                _ => None,
            };
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return asked,
            }
        }
    }

    /// Asks once; follows redirects.
    pub(super) async fn ask_once(&self, ask: &Ask) -> Result<Response, Fault> {
        let mut url = self.url.join(&ask.path);
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(ask, &url).await?;
            let Some(next) = redirected(&response, &url) else { return Ok(response) };
            if let Some(why) = self.forbidden(ask, &url, &next) {
                let error = ServerError::Redirect { to: shown(&next), why };
                return Err(Fault { error, unsent: true });
            }
            url = next;
        }
        Err(Fault { error: ServerError::Redirects { to: shown(&url) }, unsent: true })
    }

    /// Why a redirect is not followed.
    fn forbidden(&self, ask: &Ask, from: &Url, to: &Url) -> Option<&'static str> {
        if !matches!(to.scheme(), "http" | "https") {
            return Some("it is no address of a server");
        }
        if from.scheme() == "https" && to.scheme() == "http" {
            return Some("it leads from https to http");
        }
        if ask.method != Method::GET && !self.url.is_home(to) {
            return Some("what is sent goes to the host in the URL alone");
        }
        None
    }

    async fn send(&self, ask: &Ask, url: &Url) -> Result<Response, Fault> {
        let refused = |error| Fault { error, unsent: true };
        let client = self.connections.client(url).map_err(refused)?;
        let mut request =
            client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
        if let Some(token) = self.token.as_ref().filter(|_| self.url.is_home(url)) {
            request = request.bearer_auth(token.secret());
        }
        let moved = Arc::new(AtomicU64::new(0));
        let mut patience = SILENCE_MAX;
        if let Some(upload) = &ask.upload {
            let length = upload.head.len() as u64 + upload.body.len();
            patience += Duration::from_secs(length / ANSWERED_BYTES_PER_SECOND);
            request = request
                .header(CONTENT_LENGTH, HeaderValue::from(length))
                .body(upload.body(Arc::clone(&moved)));
        }
        match unless_silent(request.send(), patience, &moved).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(e)) => Err(fault(e)),
            None => {
                let error = ServerError::Silent { seconds: patience.as_secs() };
                Err(Fault { error, unsent: false })
            }
        }
    }
}

/// The next portion of an answer's body; `None` at its end.
pub(super) async fn next_part(response: &mut Response) -> Result<Option<Bytes>, ServerError> {
    match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
        Ok(Ok(part)) => Ok(part),
        Ok(Err(e)) => Err(ServerError::Unreachable(e)),
        Err(_) => Err(ServerError::Silent { seconds: SILENCE_MAX.as_secs() }),
    }
}

/// The whole body of an answer, if it has at most `bytes_max`.
pub(super) async fn read_all(
    response: &mut Response,
    bytes_max: usize,
) -> Result<Vec<u8>, ServerError> {
    let mut all = Vec::new();
    while let Some(part) = next_part(response).await? {
        if all.len() + part.len() > bytes_max {
            let what = format!("it is longer than {bytes_max} bytes");
            return Err(ServerError::Protocol { what });
        }
        all.extend_from_slice(&part);
    }
    Ok(all)
}

impl Upload {
    /// The bytes from the first on; `moved` rises as they go.
    fn body(&self, moved: Arc<AtomicU64>) -> Body {
        let state = (Some(self.head.clone()), self.body.rewound(), self.counter.clone());
        let stream = futures::stream::try_unfold(state, move |(head, body, counter)| {
            let moved = Arc::clone(&moved);
            async move {
                moved.fetch_add(1, Ordering::Relaxed);
                if let Some(head) = head {
                    return Ok(Some((head, (None, body, counter))));
                }
                let (body, block) = read_block(body).await?;
                counter.add(block.len() as u64);
                let ended = block.is_empty();
                Ok::<_, std::io::Error>((!ended).then_some((block, (None, body, counter))))
            }
        });
        Body::wrap_stream(stream.boxed())
    }
}

async fn read_block(mut body: SpoolReader) -> std::io::Result<(SpoolReader, Bytes)> {
    use std::io::Read;
    let read = tokio::task::spawn_blocking(move || {
        let mut block = Vec::new();
        let read = (&mut body).take(BLOCK_BYTES as u64).read_to_end(&mut block);
        read.map(|_| (body, block.into()))
    });
    read.await.map_err(std::io::Error::other)?
}

/// Waits for `answer` unless nothing moves for `patience`.
async fn unless_silent<T>(
    answer: impl Future<Output = T>,
    patience: Duration,
    moved: &AtomicU64,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut seen = moved.load(Ordering::Relaxed);
    loop {
        if let Ok(answered) = tokio::time::timeout(patience, &mut answer).await {
            return Some(answered);
        }
        let now = moved.load(Ordering::Relaxed);
        if now == seen {
            return None;
        }
        seen = now;
    }
}

fn fault(e: reqwest::Error) -> Fault {
    let e = e.without_url();
    let unsent = e.is_connect() || e.is_builder();
    let error = if e.is_builder() {
        ServerError::Request(e)
    } else if e.is_connect() && is_about_a_certificate(&e) {
        ServerError::Certificate(e)
    } else {
        ServerError::Unreachable(e)
    };
    Fault { error, unsent }
}

/// The library's own type for it is private; this is how it tells.
fn is_about_a_certificate(e: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(e);
    while let Some(error) = cause {
        if error.to_string().contains("certificate") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Where the answer sends us.
fn redirected(response: &Response, url: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    url.join(response.headers().get(LOCATION)?.to_str().ok()?).ok()
}

/// A place that somebody else named, for people.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.as_str().chars().take(200).collect()
}
