//! One stream of a WebSocket: takes jobs in their order, and answers each exactly once.

use std::sync::Arc;

use anabranch_hrana::ws::{Response, ServerMsg};
use anabranch_hrana::{Batch, Error, Stmt};
use anabranch_store::DatabaseName;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::http::too_many;
use super::super::room::Part;
use super::super::sink::{Fetching, Lines, lines};
use super::super::stream::{Stream, Told};
use super::super::streams::Place;
use crate::auth::Access;
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::server::App;
use anabranch_sql::Rights;

/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Entries that are fetched at a time are hardly longer.
const FETCHED_BYTES: usize = 4 << 20;

/// A request of a stream.
pub(super) struct Job {
    pub(super) request_id: i32,
    pub(super) work: Work,
    /// By the token at the time of the request.
    pub(super) rights: Rights,
    pub(super) access: Access,
    /// Memory that the message takes.
    pub(super) _part: Part,
}

/// What is to be done; texts are in place.
pub(super) enum Work {
    Open,
    Execute(Stmt),
    Batch(Batch),
    Sequence(String),
    Describe(String),
    Autocommit,
    OpenCursor(Batch),
    /// So many entries at most.
    Fetch(u32),
    CloseCursor,
    Close,
}

/// Tells of a bug, which would leave a request without its answer for ever.
struct OnBug(CancellationToken);

impl Drop for OnBug {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

struct Worker {
    app: Arc<App>,
    /// `Err`: it could not be opened, and everything that is asked of it fails so.
    stream: Result<(Stream, Place), Error>,
    cursor: Option<Result<Fetching, Error>>,
}

/// Does the jobs of one stream until it is closed or the connection ends.
pub(super) async fn run(
    app: Arc<App>,
    name: DatabaseName,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    answers: mpsc::Sender<String>,
    broken: CancellationToken,
) {
    let _on_bug = OnBug(broken);
    let stream = Err(Error::new("STREAM_CLOSED", "the stream is not open"));
    let mut worker = Worker { app, stream, cursor: None };
    while let Some(job) = jobs.recv().await {
        // Nobody waits for it any more.
        if answers.is_closed() {
            break;
        }
        let closes = matches!(job.work, Work::Close);
        let text = Box::pin(worker.answer(&name, job)).await;
        if answers.send(text).await.is_err() || closes {
            break;
        }
    }
    worker.close().await;
}

impl Worker {
    async fn close(&mut self) {
        let closed = Err(Error::new("STREAM_CLOSED", "the stream is closed"));
        if let Ok((stream, place)) = std::mem::replace(&mut self.stream, closed) {
            stream.close().await;
            drop(place);
        }
        self.cursor = None;
    }

    async fn answer(&mut self, name: &DatabaseName, job: Job) -> String {
        let request_id = job.request_id;
        let answered = match job.work {
            Work::Open => {
                self.stream = open(&self.app, name, job.access).await;
                self.stream.as_ref().map(|_| Response::OpenStream).map_err(Clone::clone)
            }
            Work::Close => {
                self.close().await;
                Ok(Response::CloseStream)
            }
            Work::CloseCursor => {
                self.cursor = None;
                Ok(Response::CloseCursor)
            }
            Work::Fetch(count) => match self.fetch(count).await {
                Ok((list, done)) => return fetched(request_id, &list, done),
                Err(error) => Err(error),
            },
            work => self.run(work, Told { rights: job.rights, short: false }).await,
        };
        text(request_id, answered)
    }

    async fn run(&mut self, work: Work, told: Told) -> Result<Response, Error> {
        let (stream, _) = self.stream.as_mut().map_err(|error| error.clone())?;
        Ok(match work {
            Work::Execute(stmt) => Response::Execute { result: stream.execute(stmt, told).await? },
            Work::Batch(batch) => Response::Batch { result: stream.batch(batch, told).await? },
            Work::Sequence(sql) => {
                stream.sequence(sql, told).await?;
                Response::Sequence
            }
            Work::Describe(sql) => Response::Describe { result: stream.describe(sql, told).await? },
            Work::OpenCursor(batch) => {
                let lines = lines(&self.app);
                let lines = stream.batch_into(batch, told, lines).await.and_then(Lines::finish);
                let opened = lines.map(Fetching::new);
                let failed = opened.as_ref().err().cloned();
                self.cursor = Some(opened);
                if let Some(error) = failed {
                    return Err(error);
                }
                Response::OpenCursor
            }
            _ => Response::GetAutocommit { is_autocommit: stream.get_autocommit().await },
        })
    }

    /// The next entries of the cursor, as the elements of a list, and whether they are the last.
    async fn fetch(&mut self, count: u32) -> Result<(Vec<u8>, bool), Error> {
        let none = || Err(Error::new("CURSOR_CLOSED", "the cursor is not open"));
        let mut fetching = self.cursor.take().unwrap_or_else(none).inspect_err(|error| {
            self.cursor = Some(Err(error.clone()));
        })?;
        let read = tokio::task::spawn_blocking(move || {
            let read = fetching.next(count, FETCHED_BYTES);
            (fetching, read)
        });
        let failed = |e: String| {
            Error::new("SQLITE_IOERR", format!("the result of the cursor could not be read: {e}"))
        };
        let (fetching, read) = read.await.map_err(|e| failed(e.to_string()))?;
        self.cursor = Some(Ok(fetching));
        read.map_err(|e| failed(e.to_string()))
    }
}

/// A stream of the database that the connection is for.
async fn open(
    app: &Arc<App>,
    name: &DatabaseName,
    access: Access,
) -> Result<(Stream, Place), Error> {
    let slot = app.databases.slot(name);
    let call = Call { app: Arc::clone(app), slot, access, turn: None };
    let database = match access {
        Access::Write => call.for_push().await,
        Access::Read => call.existing().await,
    };
    app.databases.done(call.slot);
    let database = database.map_err(|e| as_error(&e))?;
    let place = app.sql.streams.place(database.id()).ok_or_else(|| as_error(&too_many()))?;
    Ok((Stream::open(&database).await?, place))
}

fn as_error(e: &ApiError) -> Error {
    Error::new(e.code.replace('-', "_").to_ascii_uppercase(), e.message.clone())
}

fn text(request_id: i32, answered: Result<Response, Error>) -> String {
    let message = match answered {
        Ok(response) => ServerMsg::ResponseOk { request_id, response },
        Err(error) => ServerMsg::ResponseError { request_id, error },
    };
    let error = match serde_json::to_string(&message) {
        Ok(text) if text.len() <= ANSWER_BYTES_MAX => return text,
        Ok(_) => {
            let text = format!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
            Error::new("RESPONSE_TOO_LARGE", text)
        }
        Err(e) => Error::new("SQLITE_MISMATCH", format!("a value cannot be sent: {e}")),
    };
    // A code and a short text can be written.
    serde_json::to_string(&ServerMsg::ResponseError { request_id, error }).unwrap_or_default()
}

/// The answer to a fetch: its entries are JSON already.
fn fetched(request_id: i32, list: &[u8], done: bool) -> String {
    let list = String::from_utf8_lossy(list);
    format!(
        r#"{{"type":"response_ok","request_id":{request_id},"response":{{"type":"fetch_cursor","entries":[{list}],"done":{done}}}}}"#
    )
}
