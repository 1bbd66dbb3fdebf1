//! From a request to what answers it.
//!
//! In this order: health and version; the token, or that the request is local; the database; a turn
//! among its requests; the dialect. Every request has an id, is counted, and is logged with what
//! became of it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Method, Request, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use crate::auth::{self, Access};
use crate::config::Create;
use crate::database::Database;
use crate::databases::Slot;
use crate::entropy;
use crate::error::ApiError;
use crate::server::App;
use crate::tenancy::{self, Target};
use crate::{admin, libsql, limits, metrics, ops, ours, sql};

/// Names a request in logs; taken over from the client if it sends one.
const REQUEST_ID: &str = "x-request-id";
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Ours,
    Libsql,
    Sql,
    Admin,
    Ops,
    None,
}

impl Dialect {
    fn of(segments: &[String], headers: &HeaderMap) -> Self {
        match segments.first().map(String::as_str) {
            Some("log") => Dialect::Ours,
            Some("info" | "export" | "sync") => Dialect::Libsql,
            Some("v2" | "v3" | "v3-protobuf") => Dialect::Sql,
            None if sql::is_socket(headers) => Dialect::Sql,
            _ => Dialect::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Dialect::Ours => "anabranch",
            Dialect::Libsql => "libsql",
            Dialect::Sql => "hrana",
            Dialect::Admin => "admin",
            Dialect::Ops => "ops",
            Dialect::None => "none",
        }
    }

    fn error(self, error: ApiError) -> Response {
        match self {
            Dialect::Libsql => libsql::error_response(&error),
            Dialect::Sql => sql::error_response(&error),
            _ => error.into_response(),
        }
    }
}

/// A request to a database, once it is known to be allowed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) access: Access,
    /// A turn among the requests of the database; given up by those that wait for long.
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

impl Call {
    /// The database; `None` if there is none of this name.
    pub(crate) async fn database(&self) -> Result<Option<Arc<Database>>, ApiError> {
        Ok(self.app.databases.get(&self.slot).await?)
    }

    /// The database, which must exist.
    pub(crate) async fn existing(&self) -> Result<Arc<Database>, ApiError> {
        self.database().await?.ok_or_else(|| self.absent())
    }

    /// That there is no database of this name.
    pub(crate) fn absent(&self) -> ApiError {
        ApiError::no_database(self.slot.name().as_str())
    }

    /// Whether a push would create the database.
    pub(crate) fn creates(&self) -> bool {
        self.app.config.create == Create::OnPush
    }

    /// The database for a push: made if there is none, and pushes make them.
    pub(crate) async fn for_push(&self) -> Result<Arc<Database>, ApiError> {
        self.require_write()?;
        if let Some(database) = self.database().await? {
            return Ok(database);
        }
        if !self.creates() {
            return Err(self.absent());
        }
        let (database, _) = self.app.databases.create(&self.slot, &entropy::database_id()).await?;
        Ok(database)
    }

    pub(crate) fn require_write(&self) -> Result<(), ApiError> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(ApiError::read_only()),
        }
    }
}

/// Answers a request.
pub(crate) async fn handle(app: Arc<App>, request: Request<Body>) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let span = tracing::info_span!("request", %id);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut dialect = Dialect::None;
    let answered = AssertUnwindSafe(route(app, request, &mut dialect))
        .catch_unwind()
        .instrument(span.clone())
        .await;
    let _in = span.enter();
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            if error.status.is_server_error() {
                tracing::warn!(%method, path, code = error.code, error = error.message, "not answered");
            }
            dialect.error(error)
        }
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(%method, path, panic = text, "the request met a bug in the server");
            dialect.error(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "bug",
                "this request met a bug in the server; its log has more",
            ))
        }
    };
    if dialect == Dialect::Sql {
        sql::allow_origins(&mut response);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (took, status) = (started.elapsed(), response.status().as_u16());
    metrics::request(dialect.name(), method_name(&method), status, took);
    tracing::debug!(%method, path, status, ?took, "answered");
    response
}

fn request_id(request: &Request<Body>) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |id: &&str| {
        !id.is_empty()
            && id.len() <= REQUEST_ID_BYTES_MAX
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    given.filter(plain).map_or_else(entropy::request_id, ToOwned::to_owned)
}

/// Methods are a label of a metric: no others count by their name.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

async fn route(
    app: Arc<App>,
    request: Request<Body>,
    dialect: &mut Dialect,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let target = tenancy::target(&app.config.tenant_by, &parts);
    if let Ok(Target::Database(_, segments)) = &target {
        *dialect = Dialect::of(segments, &parts.headers);
    }
    if let Ok(Target::Server(segments)) = &target
        && let [endpoint] = segments.as_slice()
        && endpoint != "admin"
    {
        *dialect = Dialect::Ops;
        return ops::serve(&app, &parts, endpoint).await;
    }
    let open = match &target {
        Ok(Target::Database(_, segments)) if *dialect == Dialect::Sql => {
            sql::needs_no_token(&parts.method, segments)
        }
        _ => false,
    };
    let access = match auth::access(app.config.tokens.as_ref(), &parts.headers) {
        Ok(access) => access,
        // Whoever is let in without a token can do nothing with this.
        Err(_) if open => Access::Read,
        Err(no) if *dialect == Dialect::Sql => return Err(sql::no_access(no)),
        Err(no) => return Err(no.into()),
    };
    if app.config.tokens.is_none() {
        limits::check_local(&parts)?;
    }
    let path = parts.uri.path().to_owned();
    let (name, segments) = match target? {
        Target::Database(name, segments) => (name, segments),
        Target::Server(segments) => {
            *dialect = Dialect::Admin;
            let [admin, v1, databases, name, rest @ ..] = segments.as_slice() else {
                return Err(ApiError::no_endpoint(&path));
            };
            if [admin, v1, databases] != ["admin", "v1", "databases"] {
                return Err(ApiError::no_endpoint(&path));
            }
            (tenancy::name(name)?, rest.to_vec())
        }
    };
    if *dialect == Dialect::None {
        return Err(ApiError::no_endpoint(&path));
    }
    let slot = app.databases.slot(&name);
    // Statements wait for one another, so whoever ends a transaction must not wait for a turn behind
    // those who wait for that. The number of streams limits them instead.
    let turn = match dialect {
        Dialect::Sql => None,
        _ => Some(slot.turn(app.config.limits.turn).await.ok_or_else(|| {
            ApiError::busy(format!("too many requests of the database '{name}' are under way"))
        })?),
    };
    let call = Call { app: Arc::clone(&app), slot: Arc::clone(&slot), access, turn };
    let answered = match dialect {
        Dialect::Ours => ours::serve(call, Request::from_parts(parts, body), &segments).await,
        Dialect::Libsql => libsql::serve(call, Request::from_parts(parts, body), &segments).await,
        Dialect::Sql => sql::serve(call, Request::from_parts(parts, body), &segments).await,
        _ => admin::serve(&call, &parts, &segments).await,
    };
    app.databases.done(slot);
    answered
}
