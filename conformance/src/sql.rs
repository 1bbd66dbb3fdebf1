//! A plain client of SQL over HTTP, so that what a server answers is seen as it comes, and what it
//! acknowledged is known to the byte.
//!
//! It checks of each answer what a library would stumble over: as many results as requests, each of the
//! type that was asked for, and errors with a code and a message.

use std::fmt;
use std::time::Duration;

use hyper::client::HttpConnector;
use hyper::{Body, Client, Request, body};
use serde_json::{Value, json};

use crate::runtime::runtime;

/// Longer than any statement may take, a wait for other writers included.
const ANSWER: Duration = Duration::from_secs(60);

/// Why a statement has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlFailure {
    /// No whole answer came: it may have been done, or not.
    Unknown(String),
    /// The request was refused as a whole.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The body, with its reason.
        body: String,
    },
    /// The statement failed.
    Statement {
        /// What kind of error.
        code: String,
        /// Its text.
        message: String,
    },
}

impl SqlFailure {
    /// The code of a failed statement; empty for anything else.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            SqlFailure::Statement { code, .. } => code,
            _ => "",
        }
    }

    /// Whether nobody can tell if it was done.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, SqlFailure::Unknown(_))
    }
}

impl fmt::Display for SqlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlFailure::Unknown(reason) => write!(f, "no answer: {reason}"),
            SqlFailure::Refused { status, body } => write!(f, "refused with {status}: {body}"),
            SqlFailure::Statement { code, message } => write!(f, "{code}: {message}"),
        }
    }
}

/// What becomes of one request of a pipeline.
pub type SqlAnswer = Result<Value, SqlFailure>;

/// One stream: a connection at the server, with its transaction.
#[derive(Debug)]
pub struct Sql {
    client: Client<HttpConnector>,
    url: String,
    token: Option<String>,
    baton: Option<String>,
}

impl Sql {
    /// For the database at `url`; nothing is sent yet.
    #[must_use]
    pub fn new(url: &str, token: Option<&str>) -> Self {
        // Nothing may be sent twice behind our back.
        let client = Client::builder().retry_canceled_requests(false).build_http();
        Sql { client, url: url.to_owned(), token: token.map(str::to_owned), baton: None }
    }

    /// Whether a stream is open at the server, as its last answer said.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.baton.is_some()
    }

    /// Forgets the stream, as a program does that dies.
    pub fn abandon(&mut self) {
        self.baton = None;
    }

    /// Goes on at another server, with a new stream.
    pub fn go_to(&mut self, url: &str) {
        self.baton = None;
        self.url = url.to_owned();
    }

    /// Sends another token from now on.
    pub fn set_token(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// Sends requests of one pipeline and awaits its answers, one for each.
    ///
    /// # Errors
    ///
    /// The pipeline as a whole has no answer, or was refused. The stream is given up then.
    ///
    /// # Panics
    ///
    /// If the answer is none that the protocol knows.
    pub fn pipeline(&mut self, requests: &[Value]) -> Result<Vec<SqlAnswer>, SqlFailure> {
        let message = json!({ "baton": self.baton.take(), "requests": requests });
        let (status, text) = self.post("v3/pipeline", message.to_string())?;
        if status != 200 {
            return Err(SqlFailure::Refused { status, body: text });
        }
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(answer.get("base_url"), Some(&Value::Null), "{text}");
        self.baton = match &answer["baton"] {
            Value::Null => None,
            Value::String(baton) => Some(baton.clone()),
            other => panic!("a baton {other}"),
        };
        let results = answer["results"].as_array().unwrap_or_else(|| panic!("results in {text}"));
        assert_eq!(results.len(), requests.len(), "one result for each request: {text}");
        Ok(requests
            .iter()
            .zip(results)
            .map(|(request, result)| answered(request, result))
            .collect())
    }

    /// Runs a statement; the stream stays open.
    ///
    /// # Errors
    ///
    /// It failed, or has no answer.
    ///
    /// # Panics
    ///
    /// As [`Sql::pipeline`].
    pub fn run(&mut self, sql: &str) -> SqlAnswer {
        let mut answers = self.pipeline(&[execute(sql)])?;
        answers.remove(0).map(|response| response["result"].clone())
    }

    /// Runs a statement, and closes the stream.
    ///
    /// # Errors
    ///
    /// It failed, or has no answer.
    ///
    /// # Panics
    ///
    /// As [`Sql::pipeline`].
    pub fn once(&mut self, sql: &str) -> SqlAnswer {
        let mut answers = self.pipeline(&[execute(sql), json!({ "type": "close" })])?;
        assert!(!self.is_open(), "closed");
        answers.remove(0).map(|response| response["result"].clone())
    }

    /// Runs statements in one transaction, as a batch does that stops at the first failure, and closes the
    /// stream.
    ///
    /// # Errors
    ///
    /// One failed, or there is no answer.
    ///
    /// # Panics
    ///
    /// As [`Sql::pipeline`].
    pub fn transaction(&mut self, statements: &[String]) -> Result<(), SqlFailure> {
        let steps = transactional(statements);
        let commit = steps.len() - 2;
        let batch = json!({ "type": "batch", "batch": { "steps": steps } });
        let mut answers = self.pipeline(&[batch, json!({ "type": "close" })])?;
        let result = answers.remove(0)?["result"].clone();
        let (results, errors) = (&result["step_results"], &result["step_errors"]);
        for part in [results, errors] {
            assert_eq!(part.as_array().map(Vec::len), Some(steps.len()), "{result}");
        }
        if results[commit].is_object() {
            return Ok(());
        }
        let error = errors.as_array().into_iter().flatten().find(|error| error.is_object());
        Err(failure(error.unwrap_or_else(|| panic!("neither committed nor failed: {result}"))))
    }

    /// Runs a script, and closes the stream.
    ///
    /// # Errors
    ///
    /// One of its statements failed, or there is no answer.
    ///
    /// # Panics
    ///
    /// As [`Sql::pipeline`].
    pub fn script(&mut self, sql: &str) -> Result<(), SqlFailure> {
        let sequence = json!({ "type": "sequence", "sql": sql });
        let mut answers = self.pipeline(&[sequence, json!({ "type": "close" })])?;
        answers.remove(0).map(drop)
    }

    /// Rows of a query on the open stream, or a new one, their columns joined by `|`.
    ///
    /// # Errors
    ///
    /// As [`Sql::run`].
    ///
    /// # Panics
    ///
    /// As [`Sql::pipeline`].
    pub fn rows(&mut self, sql: &str) -> Result<Vec<String>, SqlFailure> {
        let result = self.run(sql)?;
        let rows = result["rows"].as_array().unwrap_or_else(|| panic!("rows in {result}"));
        let line = |row: &Value| {
            let cells = row.as_array().unwrap_or_else(|| panic!("a row {row}"));
            cells.iter().map(cell).collect::<Vec<_>>().join("|")
        };
        Ok(rows.iter().map(line).collect())
    }

    /// Sends a body to an endpoint of the database; answers status and text.
    fn post(&self, endpoint: &str, body: String) -> Result<(u16, String), SqlFailure> {
        let mut request = Request::post(format!("{}/{endpoint}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::from(body)).expect("a request");
        let exchange = async {
            let (parts, body) = self.client.request(request).await?.into_parts();
            Ok((parts.status.as_u16(), body::to_bytes(body).await?))
        };
        let answer = runtime().block_on(async { tokio::time::timeout(ANSWER, exchange).await });
        let unknown = |reason: String| SqlFailure::Unknown(reason);
        let (status, bytes) = answer
            .map_err(|_| unknown("it takes too long".to_owned()))?
            .map_err(|e: hyper::Error| unknown(e.to_string()))?;
        Ok((status, String::from_utf8(bytes.to_vec()).expect("UTF-8")))
    }
}

/// A request to run one statement.
#[must_use]
pub fn execute(sql: &str) -> Value {
    json!({ "type": "execute", "stmt": { "sql": sql } })
}

/// The steps of a transaction: each runs if the one before succeeded.
fn transactional(statements: &[String]) -> Vec<Value> {
    let begin = json!({ "stmt": { "sql": "BEGIN IMMEDIATE" } });
    let after = |step: usize, sql: &str| json!({ "stmt": { "sql": sql }, "condition": { "type": "ok", "step": step } });
    let mut steps = vec![begin];
    for sql in statements {
        steps.push(after(steps.len() - 1, sql));
    }
    steps.push(after(steps.len() - 1, "COMMIT"));
    let committed = json!({ "type": "ok", "step": steps.len() - 1 });
    let undo = json!({ "type": "not", "cond": committed });
    steps.push(json!({ "stmt": { "sql": "ROLLBACK" }, "condition": undo }));
    steps
}

fn answered(request: &Value, result: &Value) -> SqlAnswer {
    match result["type"].as_str() {
        Some("ok") => {
            let response = &result["response"];
            assert_eq!(response["type"], request["type"], "{result}");
            if response["type"] == "execute" {
                check_result(&response["result"]);
            }
            Ok(response.clone())
        }
        Some("error") => Err(failure(&result["error"])),
        _ => panic!("a result {result}"),
    }
}

/// What both families of libraries insist on.
fn check_result(result: &Value) {
    assert!(result["cols"].is_array() && result["rows"].is_array(), "{result}");
    assert!(result["affected_row_count"].is_u64(), "{result}");
    let row = result.get("last_insert_rowid");
    assert!(row.is_some_and(|row| row.is_null() || row.is_string()), "{result}");
}

fn failure(error: &Value) -> SqlFailure {
    let text = |name: &str| match error[name].as_str() {
        Some(text) => text.to_owned(),
        None => panic!("an error without {name}: {error}"),
    };
    SqlFailure::Statement { code: text("code"), message: text("message") }
}

fn cell(value: &Value) -> String {
    match value["type"].as_str() {
        Some("null") => String::new(),
        Some("integer" | "text") => {
            value["value"].as_str().unwrap_or_else(|| panic!("no string: {value}")).to_owned()
        }
        Some("float") => value["value"].to_string(),
        Some("blob") => value["base64"].as_str().unwrap_or_else(|| panic!("{value}")).to_owned(),
        _ => panic!("a value {value}"),
    }
}
