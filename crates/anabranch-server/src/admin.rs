//! Administration of databases: `/admin/v1/databases/NAME`.
//!
//! | request | what it does |
//! |---|---|
//! | `GET …/NAME` | tells id, position and generation |
//! | `PUT …/NAME` | creates the database, empty; 200 if it is there already |
//! | `POST …/NAME/rollover` | begins a new generation for libSQL clients |
//! | `GET …/NAME/conflicts[?lineage=ID]` | rows of merged pushes of libSQL clients that did not end as written |
//! | `GET …/NAME/lineages` | the clients whose pushes were merged |
//! | `DELETE …/NAME/lineages/ID` | forgets what is kept of one |
//! | `POST …/NAME/compact[?retain-seconds=N]` | merges old history, drops what is older |

use axum::response::Response;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::database::Database;
use crate::dispatch::Call;
use crate::entropy;
use crate::error::{ApiError, json_response};
use crate::housekeeping::{self, RETAIN_SECONDS};
use crate::params::Params;

/// Serves `rest`, the path after `/admin/v1/databases/NAME`.
pub(crate) async fn serve(
    call: &Call,
    request: &Parts,
    rest: &[String],
) -> Result<Response, ApiError> {
    let method = &request.method;
    match rest {
        [] if method == Method::GET => told(&*call.existing().await?, StatusCode::OK).await,
        [] if method == Method::PUT => {
            call.require_write()?;
            let (database, created) =
                call.app.databases.create(&call.slot, &entropy::database_id()).await?;
            told(&database, if created { StatusCode::CREATED } else { StatusCode::OK }).await
        }
        [] => Err(ApiError::method()),
        [act] if method != Method::POST && matches!(act.as_str(), "rollover" | "compact") => {
            Err(ApiError::method())
        }
        [act] if act == "rollover" => {
            call.require_write()?;
            let database = call.existing().await?;
            crate::libsql::rollover(&database).await
        }
        [act] if act == "compact" => {
            call.require_write()?;
            let params = Params::parse(request.uri.query().unwrap_or_default())?;
            params.only(&[RETAIN_SECONDS])?;
            let report = housekeeping::compact(&*call.existing().await?, &params).await?;
            Ok(json_response(StatusCode::OK, &report))
        }
        [list] if list == "conflicts" || list == "lineages" => {
            if method != Method::GET {
                return Err(ApiError::method());
            }
            let database = call.existing().await?;
            if list == "lineages" {
                return crate::libsql::lineages(&database).await;
            }
            let lineage = request.uri.query().unwrap_or("");
            let lineage = match lineage.strip_prefix("lineage=") {
                Some(id) => Some(id.parse().map_err(|_| ApiError::bad_request("no lineage's id"))?),
                None if lineage.is_empty() => None,
                None => {
                    return Err(ApiError::bad_request("conflicts knows one parameter, lineage"));
                }
            };
            crate::libsql::conflicts(&database, lineage.as_ref()).await
        }
        [list, lineage] if list == "lineages" => {
            if method != Method::DELETE {
                return Err(ApiError::method());
            }
            call.require_write()?;
            crate::libsql::drop_lineage(&call.existing().await?, lineage).await
        }
        _ => Err(ApiError::no_endpoint(request.uri.path())),
    }
}

async fn told(database: &Database, status: StatusCode) -> Result<Response, ApiError> {
    let head = database.head().await?;
    let newest = head.newest.as_ref();
    let body = json!({
        "name": database.name().as_str(),
        "id": database.id().as_str(),
        "lsn": head.lsn().to_string(),
        "floor": head.floor.to_string(),
        "generation": newest.map_or(1, |m| m.next_generation.unwrap_or(m.generation.0)),
        "pages": newest.map_or(0, |m| m.pages.1),
        "page_size": newest.map_or(Value::Null, |m| m.page_size.get().into()),
    });
    Ok(json_response(status, &body))
}
