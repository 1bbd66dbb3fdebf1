//! A proxy between client and server that loses, cuts, refuses and counts, request by request.
//!
//! A script decides at each request what becomes of it. It runs on the proxy's thread and may call
//! back: to kill the client before the server has seen the request, or after the server has done its
//! work and before the client has the answer. So a test needs no sleep to hit a moment.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::client::HttpConnector;
use hyper::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::service::{make_service_fn, service_fn};
use hyper::{Body, Client, Request, Response, StatusCode, Uri, body};

use crate::runtime::runtime;

/// Called at a moment that a [`Fault`] names.
type Hook = Box<dyn FnOnce() + Send>;
type Script = Box<dyn FnMut(&Seen) -> Fault + Send>;

/// What becomes of a request.
pub enum Fault {
    /// It is passed on, and so is the answer.
    None,
    /// As [`Fault::None`], but another server gets it.
    Elsewhere(SocketAddr),
    /// The connection is cut, and the server never sees it.
    Drop,
    /// The server sees it and answers; the connection is cut instead of passing the answer on.
    LoseAnswer,
    /// The answer is passed on, but the connection is cut after so many bytes of its body.
    CutAnswer(usize),
    /// The proxy answers itself with this status and body; the server never sees it.
    Refuse(u16, String),
    /// The proxy redirects to another URL.
    Redirect(String),
    /// Something happens, and the connection is cut; the server never sees the request.
    Before(Hook),
    /// The server does its work, something happens, and the connection is cut.
    After(Hook),
    /// The server does its work, something happens, and the answer is passed on.
    Then(Hook),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::None => "None",
            Fault::Elsewhere(_) => "Elsewhere",
            Fault::Drop => "Drop",
            Fault::LoseAnswer => "LoseAnswer",
            Fault::CutAnswer(_) => "CutAnswer",
            Fault::Refuse(..) => "Refuse",
            Fault::Redirect(_) => "Redirect",
            Fault::Before(_) => "Before",
            Fault::After(_) => "After",
            Fault::Then(_) => "Then",
        })
    }
}

impl Fault {
    /// Something happens once the server has done its work; the connection is cut.
    pub fn after(hook: impl FnOnce() + Send + 'static) -> Self {
        Fault::After(Box::new(hook))
    }

    /// Something happens before the server sees the request; the connection is cut.
    pub fn before(hook: impl FnOnce() + Send + 'static) -> Self {
        Fault::Before(Box::new(hook))
    }

    /// Something happens once the server has done its work; the answer is passed on.
    pub fn then(hook: impl FnOnce() + Send + 'static) -> Self {
        Fault::Then(Box::new(hook))
    }
}

/// A request, as a script sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its number since the script was set, from 1.
    pub number: usize,
    /// GET or POST.
    pub method: String,
    /// The path as it stands in the request.
    pub path: String,
}

impl Seen {
    /// Whether this sends frames.
    #[must_use]
    pub fn is_push(&self) -> bool {
        self.method == "POST" && self.path.contains("/sync/")
    }

    /// Whether this asks for frames.
    #[must_use]
    pub fn is_pull(&self) -> bool {
        self.method == "GET" && self.path.contains("/sync/")
    }
}

/// A request that passed through, and what came of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// GET or POST.
    pub method: String,
    /// The path as it stands in the request.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Bytes of its body.
    pub sent: usize,
    /// The server's status; 0 if it never answered, or was not asked.
    pub status: u16,
    /// Bytes of the answer's body.
    pub received: usize,
    /// The answer's body, if it is JSON.
    pub answer: Option<serde_json::Value>,
}

impl Exchange {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

struct Shared {
    target: SocketAddr,
    client: Client<HttpConnector>,
    script: Mutex<(usize, Script)>,
    /// The exchanges since the last look, and how many were looked at before.
    log: Mutex<(usize, Vec<Exchange>)>,
}

/// A running proxy.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({} -> {})", self.address, self.shared.target)
    }
}

impl Proxy {
    /// Starts a proxy on any free port, which passes everything on to `target`.
    ///
    /// # Panics
    ///
    /// If no port can be bound.
    #[must_use]
    pub fn start(target: SocketAddr) -> Self {
        let _guard = runtime().enter();
        // A connection for each request: none is kept that a restarted server knows nothing of.
        let client = Client::builder().pool_max_idle_per_host(0).build_http();
        let shared = Arc::new(Shared {
            target,
            client,
            script: Mutex::new((0, Box::new(|_| Fault::None))),
            log: Mutex::default(),
        });
        let for_service = Arc::clone(&shared);
        let service = make_service_fn(move |_| {
            let shared = Arc::clone(&for_service);
            async move {
                Ok::<_, Infallible>(service_fn(move |request| handle(Arc::clone(&shared), request)))
            }
        });
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = hyper::Server::bind(&any).tcp_nodelay(true).serve(service);
        let address = server.local_addr();
        runtime().spawn(server);
        Proxy { shared, address }
    }

    /// The URL of a database behind this proxy.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("http://{}/{database}", self.address)
    }

    /// From now on `script` decides what becomes of each request.
    pub fn script(&self, script: impl FnMut(&Seen) -> Fault + Send + 'static) {
        *lock(&self.shared.script) = (0, Box::new(script));
    }

    /// From now on everything is passed on.
    pub fn calm(&self) {
        self.script(|_| Fault::None);
    }

    /// The n-th request (from 1) of those that `which` picks meets a fault, once.
    pub fn nth(
        &self,
        n: usize,
        which: impl Fn(&Seen) -> bool + Send + 'static,
        fault: impl FnOnce() -> Fault + Send + 'static,
    ) {
        let mut fault = Some(fault);
        let mut met = 0;
        self.script(move |seen| {
            if which(seen) {
                met += 1;
                if met == n
                    && let Some(fault) = fault.take()
                {
                    return fault();
                }
            }
            Fault::None
        });
    }

    /// What has passed through since the last call.
    #[must_use]
    pub fn take_log(&self) -> Vec<Exchange> {
        let mut log = lock(&self.shared.log);
        let exchanges = std::mem::take(&mut log.1);
        log.0 += exchanges.len();
        exchanges
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no script panics")
}

/// Says that the connection is to be cut.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

async fn handle(shared: Arc<Shared>, request: Request<Body>) -> Result<Response<Body>, Cut> {
    let (parts, body) = request.into_parts();
    let body = body::to_bytes(body).await.map_err(|_| Cut)?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let entry = {
        let mut log = lock(&shared.log);
        log.1.push(Exchange {
            method: parts.method.to_string(),
            path: path.clone(),
            headers: parts.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect(),
            sent: body.len(),
            status: 0,
            received: 0,
            answer: None,
        });
        log.0 + log.1.len() - 1
    };
    let fault = {
        let mut script = lock(&shared.script);
        script.0 += 1;
        let seen = Seen { number: script.0, method: parts.method.to_string(), path: path.clone() };
        (script.1)(&seen)
    };
    match fault {
        Fault::Drop => return Err(Cut),
        Fault::Before(hook) => {
            at_that_moment(hook).await;
            return Err(Cut);
        }
        Fault::Refuse(status, text) => {
            let status = StatusCode::from_u16(status).expect("a status");
            return Ok(Response::builder().status(status).body(text.into()).expect("an answer"));
        }
        Fault::Redirect(to) => {
            let answer = Response::builder().status(StatusCode::TEMPORARY_REDIRECT);
            return Ok(answer.header("location", to).body(Body::empty()).expect("an answer"));
        }
        _ => {}
    }

    let mut onward = Request::from_parts(parts, Body::from(body));
    let target = if let Fault::Elsewhere(other) = fault { other } else { shared.target };
    *onward.uri_mut() = format!("http://{target}{path}").parse::<Uri>().map_err(|_| Cut)?;
    let (mut parts, body) = shared.client.request(onward).await.map_err(|_| Cut)?.into_parts();
    let body = body::to_bytes(body).await.map_err(|_| Cut)?;
    note_answer(&shared, entry, parts.status.as_u16(), &body);
    match fault {
        Fault::LoseAnswer => Err(Cut),
        Fault::After(hook) => {
            at_that_moment(hook).await;
            Err(Cut)
        }
        Fault::CutAnswer(after) => {
            parts.headers.remove(TRANSFER_ENCODING);
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            let (mut sender, cut) = Body::channel();
            tokio::spawn(async move {
                // The client may be gone first; then there is nothing to cut.
                let _ = sender.send_data(body.slice(..after.min(body.len()))).await;
                // What was sent leaves first; else the client would see no answer at all.
                tokio::time::sleep(Duration::from_millis(50)).await;
                sender.abort();
            });
            Ok(Response::from_parts(parts, cut))
        }
        other => {
            if let Fault::Then(hook) = other {
                at_that_moment(hook).await;
            }
            parts.headers.remove(TRANSFER_ENCODING);
            Ok(Response::from_parts(parts, Body::from(body)))
        }
    }
}

/// Runs a hook where it may block: it may itself wait for requests that this runtime carries.
async fn at_that_moment(hook: Hook) {
    tokio::task::spawn_blocking(hook).await.expect("no hook panics");
}

/// Adds the answer to the exchange with this number, unless it was looked at already.
fn note_answer(shared: &Shared, entry: usize, status: u16, body: &[u8]) {
    let mut log = lock(&shared.log);
    let place = entry.checked_sub(log.0);
    if let Some(exchange) = place.and_then(|place| log.1.get_mut(place)) {
        exchange.status = status;
        exchange.received = body.len();
        exchange.answer = serde_json::from_slice(body).ok();
    }
}
