//! WebSockets: many streams over one connection.
//!
//! ```text
//!             ┌── jobs of stream 1 ──> worker ──┐
//! messages ───┤                                 ├──> answers
//!             └── jobs of stream 2 ──> worker ──┘
//! ```
//!
//! One task reads messages, in their order, and writes answers. It keeps what belongs to the whole
//! connection: the token, stored SQL, the numbers in use. Each stream has a worker (see `worker`), so
//! that streams do not wait for one another. At most [`JOBS_MAX`] requests are under way; no further
//! message is read before one of them is answered. Memory for messages is limited by `metered`.
//!
//! A client that breaks the protocol is told by the code with which the connection is closed. When the
//! connection ends, each worker finishes the statement that it is at, then rolls back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_hrana::Error;
use anabranch_hrana::ws::{ClientMsg, Request, Response as Answer, ServerMsg};
use anabranch_store::DatabaseName;
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::room::{FREE_BYTES, Part};
use super::serve::{access_code, rights};
use super::texts::{Misuse, Texts, check_batch};
use crate::auth::{self, Access, NoAccess};
use crate::metrics;
use crate::server::App;

mod handshake;
mod metered;
mod worker;

pub(super) use handshake::upgrade;

use metered::Metered;
use worker::{Job, Work};

/// Requests of one connection that are under way.
const JOBS_MAX: usize = 128;
/// Streams that are open over one connection.
const STREAMS_MAX: usize = 128;
/// Answers that wait to be sent, besides the one of each worker.
const ANSWERS_MAX: usize = 4;
/// How often the client is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
/// After this long without a sign of it, it is not.
const SILENCE: Duration = Duration::from_secs(65);
/// After this long without a request the connection is closed; clients make a new one.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// How long a closed connection is waited for.
const CLOSING: Duration = Duration::from_secs(5);
/// Bytes that are read at a time; each connection has a buffer of this length.
const READ_BYTES: usize = 8 << 10;
/// A reason for closing is no longer.
const REASON_BYTES_MAX: usize = 120;

type Io = WebSocketStream<Metered<TokioIo<Upgraded>>>;

/// Why the connection is closed, as the client is told.
#[derive(Debug)]
struct Close {
    code: CloseCode,
    reason: String,
}

impl Close {
    fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        Close { code, reason: reason.into() }
    }

    fn bug() -> Self {
        Close::new(CloseCode::Error, "a request met a bug in the server; its log has more")
    }
}

impl From<Misuse> for Close {
    fn from(misuse: Misuse) -> Self {
        Close::new(CloseCode::Policy, misuse.0)
    }
}

fn misuse(text: impl Into<String>) -> Close {
    Misuse(text.into()).into()
}

/// A connection.
struct Socket {
    app: Arc<App>,
    name: DatabaseName,
    version: u8,
    io: Io,
    /// `None`: nobody has said hello.
    access: Option<Access>,
    texts: Texts,
    /// The workers, by the client's numbers.
    streams: HashMap<i32, mpsc::UnboundedSender<Job>>,
    /// The streams of cursors, by the client's numbers.
    cursors: HashMap<i32, i32>,
    answer: mpsc::Sender<String>,
    /// Requests that are not answered.
    under_way: usize,
    /// A worker met a bug.
    broken: CancellationToken,
    last_heard: Instant,
    last_asked: Instant,
    opened: Instant,
}

impl Socket {
    async fn run(
        app: Arc<App>,
        name: DatabaseName,
        version: u8,
        io: Upgraded,
        _place: OwnedSemaphorePermit,
    ) {
        let _counted = metrics::Socket::open();
        let limits = &app.config.limits;
        let longest = usize::try_from(limits.sql_body).unwrap_or(usize::MAX);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(longest))
            .max_frame_size(Some(longest));
        let io = Metered::new(TokioIo::new(io), app.sql.room.clone(), limits);
        let io = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let (answer, answers) = mpsc::channel(ANSWERS_MAX);
        let now = Instant::now();
        let mut socket = Socket {
            app,
            name,
            version,
            io,
            access: None,
            texts: Texts::default(),
            streams: HashMap::new(),
            cursors: HashMap::new(),
            answer,
            under_way: 0,
            broken: CancellationToken::new(),
            last_heard: now,
            last_asked: now,
            opened: now,
        };
        let close = socket.serve(answers).await;
        // Workers stop: what they would answer has nowhere to go.
        let Socket { mut io, streams, .. } = socket;
        drop(streams);
        if let Some(close) = close {
            tracing::debug!(
                code = u16::from(close.code),
                reason = close.reason,
                "closed a WebSocket"
            );
            let farewell = goodbye(&mut io, close);
            let _ = tokio::time::timeout(CLOSING, farewell).await;
        }
    }

    /// Serves until the connection ends, or is to be closed for the reason that comes back.
    async fn serve(&mut self, mut answers: mpsc::Receiver<String>) -> Option<Close> {
        let (stop, broken) = (self.app.stop.clone(), self.broken.clone());
        let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = false;
        loop {
            if stopping && self.under_way == 0 {
                return Some(Close::new(CloseCode::Away, "the server is stopping"));
            }
            let listening = !stopping && self.under_way < JOBS_MAX;
            let done = tokio::select! {
                () = broken.cancelled() => Err(Close::bug()),
                Some(text) = answers.recv() => {
                    self.under_way = self.under_way.saturating_sub(1);
                    self.send(Message::text(text)).await
                }
                message = self.io.next(), if listening => match message {
                    Some(Ok(message)) => self.take(message).await,
                    Some(Err(error)) => return unreadable(error),
                    None => return None,
                },
                _ = ping.tick() => self.look(listening).await,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    Ok(true)
                }
            };
            match done {
                Ok(true) => {}
                Ok(false) => return None,
                Err(close) => return Some(close),
            }
        }
    }

    /// Whether the connection is of any use still.
    async fn look(&mut self, listening: bool) -> Result<bool, Close> {
        if self.access.is_none() && self.opened.elapsed() > self.app.config.limits.headers {
            return Err(misuse("no hello came"));
        }
        if self.under_way == 0 && self.last_asked.elapsed() > IDLE {
            return Err(Close::new(CloseCode::Normal, "the connection was not used for long"));
        }
        // Whoever is not listened to is not silent.
        if !listening {
            self.last_heard = Instant::now();
        }
        if self.last_heard.elapsed() > SILENCE {
            return Ok(false);
        }
        self.send(Message::Ping(Vec::new().into())).await
    }

    /// Sends; answers whether the connection goes on.
    async fn send(&mut self, message: Message) -> Result<bool, Close> {
        Ok(self.io.send(message).await.is_ok())
    }

    async fn say(&mut self, message: &ServerMsg) -> Result<bool, Close> {
        let text = serde_json::to_string(message).map_err(|_| Close::bug())?;
        self.send(Message::text(text)).await
    }

    async fn take(&mut self, message: Message) -> Result<bool, Close> {
        self.last_heard = Instant::now();
        let part = self.io.get_mut().message_ended();
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => {
                let text = "messages are text frames with JSON";
                return Err(Close::new(CloseCode::Unsupported, text));
            }
            // Its answer was sent by the library.
            Message::Close(_) => return Ok(false),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(true),
        };
        self.last_asked = Instant::now();
        let parsed = if text.len() as u64 <= FREE_BYTES {
            serde_json::from_str(&text)
        } else {
            let parse = tokio::task::spawn_blocking(move || serde_json::from_str(&text));
            parse.await.map_err(|_| Close::bug())?
        };
        match parsed {
            Ok(ClientMsg::Hello { jwt }) => self.hello(jwt.as_deref()).await,
            Ok(ClientMsg::Request { request_id, request }) => {
                let Some(access) = self.access else {
                    return Err(misuse("a request came before hello"));
                };
                self.request(request_id, request, access, part).await
            }
            Err(e) => Err(Close::new(CloseCode::Invalid, format!("the message is not read: {e}"))),
        }
    }

    async fn hello(&mut self, token: Option<&str>) -> Result<bool, Close> {
        if self.access.is_some() && self.version < 2 {
            return Err(misuse("hello came twice"));
        }
        match auth::access_of(self.app.config.tokens.as_ref(), token.map(str::trim)) {
            Ok(access) => {
                self.access = Some(access);
                self.io.get_mut().trust();
                self.say(&ServerMsg::HelloOk).await
            }
            Err(no) => {
                let text = match no {
                    NoAccess::Missing => "Authentication failed: The JWT is missing",
                    NoAccess::Unknown => "Authentication failed: The JWT is invalid",
                };
                let error = Error::new(access_code(no), text);
                self.say(&ServerMsg::HelloError { error }).await?;
                Err(Close::new(CloseCode::Normal, text))
            }
        }
    }

    async fn request(
        &mut self,
        request_id: i32,
        request: Request,
        access: Access,
        part: Part,
    ) -> Result<bool, Close> {
        self.check_version(&request)?;
        let (stream_id, work) = match request {
            Request::StoreSql { sql_id, sql } => {
                return match self.texts.store(sql_id, sql)? {
                    Ok(()) => self.respond(request_id, Answer::StoreSql).await,
                    Err(error) => self.say(&ServerMsg::ResponseError { request_id, error }).await,
                };
            }
            Request::CloseSql { sql_id } => {
                self.texts.close(sql_id);
                return self.respond(request_id, Answer::CloseSql).await;
            }
            Request::OpenStream { stream_id } => {
                self.open_stream(stream_id)?;
                (stream_id, Work::Open)
            }
            Request::CloseStream { stream_id } => (stream_id, Work::Close),
            Request::Execute { stream_id, stmt } => {
                (stream_id, Work::Execute(self.texts.stmt(stmt)?))
            }
            Request::Batch { stream_id, batch } => {
                check_batch(&batch, self.version)?;
                (stream_id, Work::Batch(self.texts.batch(batch)?))
            }
            Request::Sequence { stream_id, sql, sql_id } => {
                (stream_id, Work::Sequence(self.texts.text(sql, sql_id)?))
            }
            Request::Describe { stream_id, sql, sql_id } => {
                (stream_id, Work::Describe(self.texts.text(sql, sql_id)?))
            }
            Request::GetAutocommit { stream_id } => (stream_id, Work::Autocommit),
            Request::OpenCursor { stream_id, cursor_id, batch } => {
                check_batch(&batch, self.version)?;
                self.open_cursor(stream_id, cursor_id)?;
                (stream_id, Work::OpenCursor(self.texts.batch(batch)?))
            }
            Request::FetchCursor { cursor_id, max_count } => {
                let stream = self.cursors.get(&cursor_id);
                let stream =
                    stream.ok_or_else(|| misuse(format!("no cursor {cursor_id} is open")))?;
                (*stream, Work::Fetch(max_count))
            }
            Request::CloseCursor { cursor_id } => {
                let stream = self.cursors.remove(&cursor_id);
                let stream =
                    stream.ok_or_else(|| misuse(format!("no cursor {cursor_id} is open")))?;
                (stream, Work::CloseCursor)
            }
        };
        let closes = matches!(work, Work::Close);
        let worker = self.streams.get(&stream_id);
        let worker = worker.ok_or_else(|| misuse(format!("no stream {stream_id} is open")))?;
        let job = Job { request_id, work, rights: rights(access), access, _part: part };
        worker.send(job).map_err(|_| Close::bug())?;
        self.under_way += 1;
        if closes {
            // The number is free again; jobs that were sent are still done.
            self.streams.remove(&stream_id);
            self.cursors.retain(|_, stream| *stream != stream_id);
        }
        Ok(true)
    }

    async fn respond(&mut self, request_id: i32, response: Answer) -> Result<bool, Close> {
        self.say(&ServerMsg::ResponseOk { request_id, response }).await
    }

    fn check_version(&self, request: &Request) -> Result<(), Close> {
        let (needs, what) = match request {
            Request::OpenCursor { .. }
            | Request::FetchCursor { .. }
            | Request::CloseCursor { .. }
            | Request::GetAutocommit { .. } => (3, "cursors and get_autocommit need version 3"),
            Request::Sequence { .. }
            | Request::Describe { .. }
            | Request::StoreSql { .. }
            | Request::CloseSql { .. } => (2, "sequence, describe and stored SQL need version 2"),
            _ => (1, ""),
        };
        if self.version < needs { Err(misuse(what)) } else { Ok(()) }
    }

    fn open_stream(&mut self, stream_id: i32) -> Result<(), Close> {
        if self.streams.contains_key(&stream_id) {
            return Err(misuse(format!("a stream {stream_id} is open already")));
        }
        if self.streams.len() >= STREAMS_MAX {
            return Err(misuse(format!("more than {STREAMS_MAX} streams are open")));
        }
        let (jobs, queue) = mpsc::unbounded_channel();
        let answer = self.answer.clone();
        let (app, name, broken) = (Arc::clone(&self.app), self.name.clone(), self.broken.clone());
        let work = worker::run(Arc::clone(&app), name, queue, answer, broken);
        app.tasks.spawn(work);
        self.streams.insert(stream_id, jobs);
        Ok(())
    }

    fn open_cursor(&mut self, stream_id: i32, cursor_id: i32) -> Result<(), Close> {
        if self.cursors.contains_key(&cursor_id) {
            return Err(misuse(format!("a cursor {cursor_id} is open already")));
        }
        if self.cursors.values().any(|stream| *stream == stream_id) {
            return Err(misuse(format!("stream {stream_id} has an open cursor already")));
        }
        if !self.streams.contains_key(&stream_id) {
            return Err(misuse(format!("no stream {stream_id} is open")));
        }
        self.cursors.insert(cursor_id, stream_id);
        Ok(())
    }
}

/// What to say about a message that could not be read; `None`: nobody is there any more.
fn unreadable(error: WsError) -> Option<Close> {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            let text = format!("a message of {size} bytes; this server takes {max_size}");
            Some(Close::new(CloseCode::Size, text))
        }
        WsError::Utf8(_) => Some(Close::new(CloseCode::Invalid, "the message is not UTF-8")),
        WsError::Protocol(e) => Some(Close::new(CloseCode::Protocol, e.to_string())),
        WsError::Io(e) => match e.downcast::<metered::Refused>() {
            Ok(metered::Refused::BeforeHello) => Some(misuse("a long message came before hello")),
            Ok(metered::Refused::NoRoom) => {
                let text = "too many long messages are under way";
                Some(Close::new(CloseCode::Again, text))
            }
            Err(_) => None,
        },
        _ => None,
    }
}

/// Says why, and waits for the client to close as well: else it might not hear it.
async fn goodbye(io: &mut Io, close: Close) {
    let mut reason = String::new();
    for c in close.reason.chars() {
        if reason.len() + c.len_utf8() > REASON_BYTES_MAX {
            break;
        }
        reason.push(c);
    }
    let frame = CloseFrame { code: close.code, reason: reason.into() };
    if io.send(Message::Close(Some(frame))).await.is_ok() {
        while let Some(Ok(_)) = io.next().await {
            io.get_mut().message_ended();
        }
    }
}
