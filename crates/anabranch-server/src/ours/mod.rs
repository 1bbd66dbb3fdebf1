//! Our own dialect: `{db}/log…`.
//!
//! | request | what it does |
//! |---|---|
//! | `GET log/head` | tells where the log ends |
//! | `GET log/delta` | sends what leads from one position to another |
//! | `POST log/pages` | sends single pages of an earlier state |
//! | `POST log` | appends |
//! | `PUT log` | gives the name to a new database |
//! | `GET log/watch` | tells of each new end |
//! | `GET log/next`, `log/writers/ID` | tells what became of a push |
//! | `GET log/position`, `log/entries` | looks back |
//! | `POST log/compact` | merges and deletes old history |
//!
//! docs/protocol.md has every parameter, status and code. A client that knows the database's id
//! names it in each request, and is told if another one has the name by now.

mod delta;
mod look;
mod pages;
mod push;
mod receive;
mod watch;

use std::sync::Arc;

use anabranch_format::{DatabaseId, LineageId};
use axum::body::Body;
use axum::response::Response;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use crate::database::Database;
use crate::dispatch::Call;
use crate::error::{ApiError, json_response};
use crate::params::Params;

/// Says in each answer that this dialect is spoken here, and in which version.
const PROTOCOL: (&str, HeaderValue) = ("anabranch-protocol", HeaderValue::from_static("1"));

/// Answers a request of our dialect; `segments` is the path below the database.
pub(crate) async fn serve(
    call: Call,
    request: Request<Body>,
    segments: &[String],
) -> Result<Response, ApiError> {
    let mut response = answer(call, request, segments).await?;
    response.headers_mut().insert(PROTOCOL.0, PROTOCOL.1);
    Ok(response)
}

async fn answer(
    call: Call,
    request: Request<Body>,
    segments: &[String],
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let params = Params::parse(parts.uri.query().unwrap_or_default())?;
    let segments: Vec<&str> = segments.iter().skip(1).map(String::as_str).collect();
    let looks = !matches!(segments.as_slice(), [] | ["compact" | "pages"]);
    if looks && parts.method != Method::GET {
        return Err(ApiError::method());
    }
    match segments.as_slice() {
        [] if parts.method == Method::POST => {
            push::push(&call, &params, &parts.headers, body).await
        }
        [] if parts.method == Method::PUT => claim(&call, &params).await,
        [] => Err(ApiError::method()),
        ["head"] => look::head(&call, &params).await,
        ["next"] => look::next(&call, &params).await,
        ["position"] => look::position(&call, &params).await,
        ["entries"] => look::entries(&call, &params).await,
        ["conflicts"] => {
            let database = database(&call, &params).await?;
            let lineage: Option<LineageId> = params.get("lineage")?;
            crate::libsql::conflicts(&database, lineage.as_ref()).await
        }
        ["writers", writer] => look::last_push(&call, &params, writer).await,
        ["pages"] if parts.method == Method::POST => pages::pages(&call, &params, body).await,
        ["pages"] => Err(ApiError::method()),
        ["delta"] => delta::delta(&call, &params, &parts.headers).await,
        ["watch"] => watch::watch(call, &params).await,
        ["compact"] if parts.method == Method::POST => look::compact(&call, &params).await,
        ["compact"] => Err(ApiError::method()),
        _ => Err(ApiError::no_endpoint(parts.uri.path())),
    }
}

/// The database that the request is for. Where another one has its name by now, or it was deleted,
/// that is told.
async fn database(call: &Call, params: &Params<'_>) -> Result<Arc<Database>, ApiError> {
    let wanted: Option<DatabaseId> = params.get("database")?;
    let found = call.database().await?;
    match (found, wanted) {
        (Some(database), Some(wanted)) if *database.id() != wanted => {
            Err(other_database(database.id()))
        }
        (Some(database), _) => Ok(database),
        (None, Some(wanted)) => {
            let name = call.slot.name();
            if call.app.root.find_even_deleted(name).await? == Some(wanted.clone()) {
                // Says that it was deleted.
                call.app.root.log(name, &wanted).floor().await?;
            }
            Err(call.absent())
        }
        (None, None) => Err(call.absent()),
    }
}

fn other_database(found: &DatabaseId) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "other-database",
        format!("the database with this name has the id {found}"),
    )
    .with("found", found.as_str())
}

/// Gives the name to the database that the client is about to publish.
async fn claim(call: &Call, params: &Params<'_>) -> Result<Response, ApiError> {
    call.require_write()?;
    let id: DatabaseId = params.require("database")?;
    let (database, created) = match call.database().await? {
        Some(database) => (database, false),
        None if call.creates() => call.app.databases.create(&call.slot, &id).await?,
        None => {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "create-explicit",
                "databases of this server are made by its administrator: PUT \
                 /admin/v1/databases/NAME",
            ));
        }
    };
    if *database.id() != id {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "name-taken",
            format!("the name '{}' belongs to the database {}", database.name(), database.id()),
        )
        .with("found", database.id().as_str()));
    }
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_response(status, &json!({ "database": id.as_str() })))
}
