//! A server for tests: one database in a file, spoken to as the real servers are, that can be told to
//! misbehave.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use anabranch_hrana::{
    BatchResult, Col, Error, PipelineRequest, PipelineResponse, StepOutcome, Stmt, StmtResult,
    StreamRequest, StreamResponse, StreamResult, Value,
};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

/// What the server does next, once.
pub(super) enum Trick {
    /// Answers so, without looking at the request.
    Say(String),
    /// Forgets the stream, and says so with status 400.
    Expire,
    /// Forgets the stream, and says so as version 3 does inside a transaction.
    ExpireInAnswer,
    /// Does what is asked, and goes away before the answer.
    GoAway,
    /// Takes the request, and does nothing until told.
    Wait(Receiver<()>),
}

#[derive(Default)]
struct State {
    streams: HashMap<String, Connection>,
    batons: u64,
    tricks: Vec<Trick>,
    /// The paths asked for, and how many requests there were in each.
    asked: Vec<String>,
}

pub(super) struct StandIn {
    pub(super) address: String,
    state: Arc<Mutex<State>>,
}

/// How a server is.
#[derive(Clone)]
pub(super) struct How {
    pub(super) file: PathBuf,
    pub(super) version: u8,
    /// Results longer than this are refused.
    pub(super) bytes_max: usize,
}

impl StandIn {
    pub(super) fn start(how: How) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // Ends with the tests.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (shared, how) = (Arc::clone(&shared), how.clone());
                std::thread::spawn(move || serve(&client, &shared, &how));
            }
        });
        StandIn { address, state }
    }

    pub(super) fn trick(&self, trick: Trick) {
        self.state.lock().unwrap().tricks.insert(0, trick);
    }

    /// The paths asked for so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}

fn serve(client: &TcpStream, state: &Mutex<State>, how: &How) {
    let mut reader = BufReader::new(client);
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let lower = line.to_ascii_lowercase();
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap().to_owned();
            } else if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            } else if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let Some(answer) = answer(&path, &body, state, how) else { return };
        let mut client = client;
        if client.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn with_status(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn answer(path: &str, body: &[u8], state: &Mutex<State>, how: &How) -> Option<String> {
    let mut locked = state.lock().unwrap();
    locked.asked.push(path.to_owned());
    let known = format!("/db/v{}/pipeline", how.version);
    if path != known {
        return Some(with_status("404 Not Found", "{\"error\":\"no such path\"}"));
    }
    let request: PipelineRequest = serde_json::from_slice(body).unwrap();
    let trick = locked.tricks.pop();
    match trick {
        Some(Trick::Say(answer)) => return Some(answer),
        Some(Trick::Wait(told)) => {
            drop(locked);
            let _ = told.recv();
            return None;
        }
        Some(Trick::Expire) => {
            locked.streams.clear();
            let body =
                r#"{"message":"The stream has expired due to inactivity","code":"STREAM_EXPIRED"}"#;
            return Some(with_status("400 Bad Request", body));
        }
        Some(Trick::ExpireInAnswer) => {
            locked.streams.clear();
            let error = Error::new("STREAM_EXPIRED", "The stream has expired due to inactivity");
            let result = StreamResult::Error { error };
            let results = vec![result; request.requests.len()];
            let response = PipelineResponse { results, ..PipelineResponse::default() };
            return Some(with_status("200 OK", &serde_json::to_string(&response).unwrap()));
        }
        Some(Trick::GoAway) | None => {}
    }
    let mut stream = match &request.baton {
        None => Some(Connection::open(&how.file).unwrap()),
        Some(baton) => match locked.streams.remove(baton) {
            Some(stream) => Some(stream),
            None => return Some(with_status("400 Bad Request", "Received an invalid baton")),
        },
    };
    let mut results = Vec::new();
    for request in request.requests {
        let conn = stream.as_ref().unwrap();
        let done = match request {
            StreamRequest::Close => {
                stream = None;
                Ok(StreamResponse::Close)
            }
            StreamRequest::Execute { stmt } => {
                run(conn, &stmt, how).map(|result| StreamResponse::Execute { result })
            }
            StreamRequest::GetAutocommit => {
                Ok(StreamResponse::GetAutocommit { is_autocommit: conn.is_autocommit() })
            }
            StreamRequest::Batch { batch } => {
                let (mut result, mut outcomes) = (BatchResult::default(), Vec::new());
                for step in batch.steps {
                    let holds = step.condition.is_none_or(|c| c.holds(&outcomes, false));
                    let ran = holds.then(|| run(conn, &step.stmt, how));
                    outcomes.push(match &ran {
                        None => StepOutcome::Skipped,
                        Some(Ok(_)) => StepOutcome::Ok,
                        Some(Err(_)) => StepOutcome::Error,
                    });
                    let (ok, error) = match ran {
                        None => (None, None),
                        Some(Ok(ok)) => (Some(ok), None),
                        Some(Err(error)) => (None, Some(error)),
                    };
                    result.step_results.push(ok);
                    result.step_errors.push(error);
                }
                Ok(StreamResponse::Batch { result })
            }
            other => panic!("{other:?}"),
        };
        results.push(match done {
            Ok(response) => StreamResult::Ok { response },
            Err(error) => StreamResult::Error { error },
        });
    }
    let mut baton = None;
    if let Some(stream) = stream {
        locked.batons += 1;
        let name = format!("baton {}", locked.batons);
        locked.streams.insert(name.clone(), stream);
        baton = Some(name);
    }
    if matches!(trick, Some(Trick::GoAway)) {
        return None;
    }
    let response = PipelineResponse { baton, base_url: None, results };
    Some(with_status("200 OK", &serde_json::to_string(&response).unwrap()))
}

fn run(conn: &Connection, stmt: &Stmt, how: &How) -> Result<StmtResult, Error> {
    let told = |e: rusqlite::Error| match e {
        rusqlite::Error::SqlInputError { msg, offset, .. } => {
            Error::new("SQL_INPUT_ERROR", format!("SQL input error: {msg} (at offset {offset})"))
        }
        rusqlite::Error::SqliteFailure(_, message) => {
            Error::new("SQLITE_CONSTRAINT", format!("SQLite error: {}", message.unwrap()))
        }
        e => panic!("{e}"),
    };
    let mut statement = conn.prepare(stmt.sql.as_deref().unwrap()).map_err(told)?;
    for (i, arg) in stmt.args.iter().enumerate() {
        statement.raw_bind_parameter(i + 1, crate::shell::local::Arg(arg)).unwrap();
    }
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let cols = names.iter().map(|name| Col { name: Some(name.clone()), decltype: None }).collect();
    let before = conn.total_changes();
    let mut rows = statement.raw_query();
    let (mut all, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(told)? {
        let value = |i: usize| match row.get_ref(i).unwrap() {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Real(x) => Value::Float(x),
            ValueRef::Text(text) => Value::Text(String::from_utf8(text.to_vec()).unwrap()),
            ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec().into()),
        };
        let row: Vec<Value> = (0..names.len()).map(value).collect();
        bytes += serde_json::to_string(&row).unwrap().len();
        if bytes > how.bytes_max {
            return Err(Error::new("RESPONSE_TOO_LARGE", "Response is too large"));
        }
        all.push(row);
    }
    drop(rows);
    drop(statement);
    let wrote = conn.total_changes() > before;
    Ok(StmtResult {
        cols,
        rows: all,
        affected_row_count: if wrote { conn.changes() } else { 0 },
        last_insert_rowid: wrote.then(|| conn.last_insert_rowid()),
        ..StmtResult::default()
    })
}
