//! A naive server of the libSQL dialect, in memory.
//!
//! It does what the dialect's description says and nothing more: no store, no durability, no guard
//! against a client whose `-wal` no longer continues what the server holds. It shows what the
//! official client does of itself, and is the peer that benchmarks compare with: no server can be
//! faster than one that only copies bytes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use hyper::body::Bytes;
use hyper::service::{make_service_fn, service_fn};
use hyper::{Body, Method, Request, Response, StatusCode, body};
use serde_json::{Value, json};

use crate::runtime::runtime;
use crate::{FRAME_BYTES, PAGE_BYTES};

/// A base, and whole transactions on top of it.
#[derive(Clone, Default)]
struct Generation {
    base: Bytes,
    frames: Vec<u8>,
}

impl Generation {
    fn frame_count(&self) -> usize {
        self.frames.len() / FRAME_BYTES
    }

    /// The database after the last frame.
    fn image(&self) -> Vec<u8> {
        let mut image = self.base.to_vec();
        for frame in self.frames.chunks(FRAME_BYTES) {
            let start = (number_at(frame, 0) as usize - 1) * PAGE_BYTES;
            if image.len() < start + PAGE_BYTES {
                image.resize(start + PAGE_BYTES, 0);
            }
            image[start..start + PAGE_BYTES].copy_from_slice(&frame[24..]);
            let pages_after = number_at(frame, 4) as usize;
            if pages_after > 0 {
                image.truncate(pages_after * PAGE_BYTES);
            }
        }
        image
    }
}

/// Frames of a transaction whose end has not come yet.
struct Session {
    generation: usize,
    first: usize,
    frames: Vec<u8>,
}

/// One database of the mock.
#[derive(Default)]
pub struct MockDatabase {
    /// Generation g lies at g - 1.
    generations: Vec<Generation>,
    sessions: HashMap<String, Session>,
    batons: usize,
}

impl MockDatabase {
    /// An empty database, or one that begins with `base`.
    #[must_use]
    pub fn new(base: Option<Vec<u8>>) -> Self {
        let base = Bytes::from(base.unwrap_or_else(empty_database));
        let generations = vec![Generation { base, frames: Vec::new() }];
        MockDatabase { generations, ..MockDatabase::default() }
    }

    fn current(&self) -> usize {
        self.generations.len()
    }

    fn generation(&self, number: usize) -> Option<&Generation> {
        self.generations.get(number.checked_sub(1)?)
    }

    /// Begins a new generation.
    fn roll_over(&mut self) {
        let base = self.generations.last().map(Generation::image).unwrap_or_default();
        self.generations.push(Generation { base: base.into(), frames: Vec::new() });
        self.sessions.clear();
    }

    fn pull(&self, number: usize, start: usize, end: usize) -> Option<Vec<u8>> {
        let generation = self.generation(number)?;
        let end = end.min(generation.frame_count() + 1);
        if start == 0 || start >= end {
            return None;
        }
        Some(generation.frames[(start - 1) * FRAME_BYTES..(end - 1) * FRAME_BYTES].to_vec())
    }

    fn push(&mut self, number: usize, start: usize, frames: &[u8], baton: Option<&str>) -> Value {
        let current = self.current();
        let Some(stored) = self.generations.get_mut(number.wrapping_sub(1)) else {
            return answer("conflict", current, 0, None);
        };
        let session = baton
            .and_then(|baton| self.sessions.remove(baton))
            .filter(|session| session.generation == number);
        let count = frames.len() / FRAME_BYTES;
        let held = stored.frame_count();
        let (first, mut pending) = match session {
            Some(session) if session.first + session.frames.len() / FRAME_BYTES == start => {
                (session.first, session.frames)
            }
            _ => (start, Vec::new()),
        };
        if first > held + 1 {
            return answer("ok", number, held, None);
        }
        pending.extend_from_slice(frames);

        let known = (held + 1 - first).min(pending.len() / FRAME_BYTES);
        let theirs = pending[..known * FRAME_BYTES].chunks(FRAME_BYTES);
        let ours = stored.frames[(first - 1) * FRAME_BYTES..].chunks(FRAME_BYTES);
        if !theirs.zip(ours).all(|(theirs, ours)| same_frame(theirs, ours)) {
            return answer("conflict", number, held, None);
        }
        let new = pending.split_off(known * FRAME_BYTES);
        if !new.is_empty() && number != current {
            return answer("conflict", number, held, None);
        }
        let last_commit = new.chunks(FRAME_BYTES).rposition(|frame| number_at(frame, 4) > 0);
        let whole = last_commit.map_or(0, |index| (index + 1) * FRAME_BYTES);
        stored.frames.extend_from_slice(&new[..whole]);
        let aside = new[whole..].to_vec();
        let baton = (!aside.is_empty()).then(|| {
            self.batons += 1;
            let baton = format!("mock-{}", self.batons);
            let first = stored.frame_count() + 1;
            self.sessions
                .insert(baton.clone(), Session { generation: number, first, frames: aside });
            baton
        });
        answer("ok", number, start + count - 1, baton)
    }
}

fn answer(status: &str, generation: usize, max_frame_no: usize, baton: Option<String>) -> Value {
    json!({
        "status": status,
        "generation": generation,
        "max_frame_no": max_frame_no,
        "baton": baton,
    })
}

fn number_at(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"))
}

/// Page number, commit size and content; salts and checksums are each client's own.
fn same_frame(a: &[u8], b: &[u8]) -> bool {
    a[..8] == b[..8] && a[24..] == b[24..]
}

/// One page: a header that says WAL mode, and a schema without tables.
fn empty_database() -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..24].copy_from_slice(&[0x10, 0, 2, 2, 0, 64, 32, 32]);
    // Counters, size in pages, schema format, text encoding, and who wrote it.
    for (at, value) in [(24, 1_u32), (28, 1), (44, 4), (56, 1), (92, 1), (96, 3_040_001)] {
        page[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    page[100] = 0x0d;
    page[105] = 0x10;
    page
}

struct Shared {
    databases: Mutex<HashMap<String, MockDatabase>>,
    requests: Mutex<u64>,
}

/// A running mock.
#[derive(Clone)]
pub struct Mock {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mock({})", self.address)
    }
}

impl Mock {
    /// Starts a mock at `address`; port 0 is any free one.
    ///
    /// # Panics
    ///
    /// If it cannot listen there.
    #[must_use]
    pub fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared { databases: Mutex::default(), requests: Mutex::new(0) });
        let for_service = Arc::clone(&shared);
        let service = make_service_fn(move |_| {
            let shared = Arc::clone(&for_service);
            async move {
                Ok::<_, Infallible>(service_fn(move |request| handle(Arc::clone(&shared), request)))
            }
        });
        let _guard = runtime().enter();
        let server = hyper::Server::bind(&address).tcp_nodelay(true).serve(service);
        let address = server.local_addr();
        runtime().spawn(server);
        Mock { shared, address }
    }

    /// Puts a database in place of whatever stands there.
    pub fn put(&self, name: &str, database: MockDatabase) {
        lock(&self.shared.databases).insert(name.to_owned(), database);
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a new generation of a database.
    pub fn roll_over(&self, name: &str) {
        if let Some(database) = lock(&self.shared.databases).get_mut(name) {
            database.roll_over();
        }
    }

    /// Drops all push sessions, as an impatient server does.
    pub fn forget_sessions(&self, name: &str) {
        if let Some(database) = lock(&self.shared.databases).get_mut(name) {
            database.sessions.clear();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

async fn handle(shared: Arc<Shared>, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    *lock(&shared.requests) += 1;
    let (parts, body) = request.into_parts();
    let Ok(body) = body::to_bytes(body).await else { return Ok(refused("the body was cut")) };
    let segments: Vec<&str> = parts.uri.path().split('/').filter(|s| !s.is_empty()).collect();
    let (name, rest) = match segments.as_slice() {
        all @ ["info" | "export" | "sync", ..] => ("default", all),
        ["admin", "v1", "databases", name, rest @ ..] => (*name, rest),
        [name, rest @ ..] => (*name, rest),
        [] => return Ok(refused("no such endpoint")),
    };
    let mut databases = lock(&shared.databases);
    let database = databases.entry(name.to_owned()).or_insert_with(|| MockDatabase::new(None));
    Ok(respond(database, &parts.method, rest, &body))
}

fn respond(
    database: &mut MockDatabase,
    method: &Method,
    rest: &[&str],
    body: &Bytes,
) -> Response<Body> {
    let number = |text: &str| text.parse::<usize>().unwrap_or(0);
    match (method.as_str(), rest) {
        ("GET", ["info"]) => {
            as_json(StatusCode::OK, &json!({ "current_generation": database.current() }))
        }
        ("GET", ["export", generation]) => match database.generation(number(generation)) {
            Some(generation) => Response::new(generation.base.clone().into()),
            None => refused("no such generation"),
        },
        ("GET", ["sync", generation, start, end]) => {
            match database.pull(number(generation), number(start), number(end)) {
                Some(frames) => Response::new(frames.into()),
                None => as_json(
                    StatusCode::BAD_REQUEST,
                    &answer("end_of_generation", database.current(), 0, None),
                ),
            }
        }
        ("POST", ["sync", generation, start, end, baton @ ..]) => {
            let (start, end) = (number(start), number(end));
            if body.is_empty() || !body.len().is_multiple_of(FRAME_BYTES) || start == 0 {
                return refused("no whole frames");
            }
            if end.checked_sub(start) != Some(body.len() / FRAME_BYTES) {
                return refused("another number of frames than announced");
            }
            let baton = baton.first().copied();
            let answer = database.push(number(generation), start, body, baton);
            as_json(StatusCode::OK, &answer)
        }
        ("POST", ["rollover"]) => {
            database.roll_over();
            as_json(StatusCode::OK, &json!({ "generation": database.current() }))
        }
        _ => as_json(StatusCode::NOT_FOUND, &json!({ "error": "no such endpoint" })),
    }
}

fn refused(why: &str) -> Response<Body> {
    as_json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "error": why }))
}

fn as_json(status: StatusCode, value: &Value) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(value.to_string().into())
        .expect("an answer")
}
