//! The journal: rows of merged pushes that did not end as their clients wrote them; and what is kept
//! of these clients.
//!
//! Each part carries its own lines. They count if the part does.

use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;

use anabranch_format::{LineageId, PartHeader, read_section, skip_section};
use anabranch_rebase::{Conflict, Decision, Row, Value};
use anabranch_store::{Aside, AsideName, Spool, SpoolReader, StoreError, crash_point};
use axum::response::Response;
use hyper::StatusCode;
use serde_json::{Map, Value as Json, json};

use crate::database::Database;
use crate::error::{ApiError, json_response};
use crate::libsql::engine::{blocking, scratch};

/// Rows that one answer tells of.
const ANSWER_ROWS_MAX: usize = 1_000;
/// Bytes of rows that one answer tells of, about.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// A value that is longer is told by its beginning and its length.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Gathers the lines of one merge.
pub(super) struct Writer {
    spool: Spool,
    lines: u64,
}

impl Writer {
    pub(super) fn new(spool: Spool) -> Self {
        Writer { spool, lines: 0 }
    }

    pub(super) fn write(&mut self, conflict: &Conflict) -> io::Result<()> {
        serde_json::to_writer(&mut self.spool, &line(conflict)).map_err(io::Error::other)?;
        self.spool.write_all(b"\n")?;
        self.lines += 1;
        Ok(())
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.spool.len()
    }

    pub(super) fn finish(self) -> io::Result<(Spool, u64)> {
        Ok((self.spool, self.lines))
    }
}

fn line(conflict: &Conflict) -> Json {
    let row = |row: &Option<Row>| row.as_ref().map(row_json);
    let (decision, rowid) = match &conflict.decision {
        Decision::Local => ("local", None),
        Decision::Remote => ("remote", None),
        Decision::Merged => ("merged", None),
        Decision::Neither => ("neither", None),
        Decision::Renumbered(to) => ("renumbered", Some(*to)),
    };
    json!({
        "table": conflict.table,
        "key": row_json(&conflict.key),
        "kind": conflict.kind,
        "decision": decision,
        "rowid": rowid,
        "base": row(&conflict.base),
        "local": row(&conflict.local),
        "remote": row(&conflict.remote),
        "detail": conflict.detail,
    })
}

fn row_json(row: &Row) -> Json {
    let values = row.columns.iter().zip(&row.values);
    Json::Object(
        values.map(|(name, value)| (name.clone(), value_json(value))).collect::<Map<_, _>>(),
    )
}

/// A value; bytes as `{"hex": HEX}`, what is too long as its beginning, with its length.
fn value_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(n) => (*n).into(),
        // JSON has no other numbers.
        Value::Real(n) if n.is_finite() => (*n).into(),
        Value::Real(n) => json!({ "real": n.to_string() }),
        Value::Text(text) if text.len() <= VALUE_BYTES_MAX => text.as_str().into(),
        Value::Text(text) => {
            let start: String = text.chars().take(VALUE_BYTES_MAX / 4).collect();
            json!({ "text": start, "bytes": text.len() })
        }
        Value::Blob(bytes) => {
            use std::fmt::Write;
            let start = &bytes[..bytes.len().min(VALUE_BYTES_MAX / 2)];
            let hex = start.iter().fold(String::new(), |mut hex, byte| {
                // Writing to a string does not fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            if start.len() == bytes.len() {
                json!({ "hex": hex })
            } else {
                json!({ "hex": hex, "bytes": bytes.len() })
            }
        }
    }
}

/// A part that counts, and its object.
struct Counted {
    header: PartHeader,
    lsn: anabranch_format::Lsn,
    source: BufReader<SpoolReader>,
}

async fn counted(db: &Database, aside: &Aside) -> Result<Option<Counted>, ApiError> {
    let AsideName::Part(first, push) = &aside.name else { return Ok(None) };
    let metadata = match db.log().segment_at(*first).await {
        Ok(position) => position.metadata,
        Err(StoreError::BelowFloor { .. } | StoreError::BeyondHead { .. }) => None,
        Err(e) => return Err(e.into()),
    };
    let metadata = metadata.filter(|m| m.lsn.0 == *first && m.push.as_ref() == Some(push));
    let Some(metadata) = metadata else { return Ok(None) };
    let Some(object) = db.log().aside(&aside.lineage, &aside.name).await? else { return Ok(None) };
    let read = blocking(move || {
        let mut source = BufReader::new(object);
        PartHeader::decode(&mut source).map(|header| (header, source))
    });
    let (header, source) = read.await?.map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", e.to_string())
            .with("lineage", aside.lineage.as_str())
    })?;
    Ok(Some(Counted { header, lsn: metadata.lsn.1, source }))
}

/// `GET …/conflicts[?lineage=ID]`: the newest rows of the journal, newest first.
pub(crate) async fn conflicts(
    db: &Arc<Database>,
    lineage: Option<&LineageId>,
) -> Result<Response, ApiError> {
    let mut listed = db.log().asides(lineage.map_or("", LineageId::as_str)).await?;
    listed.sort_by_key(|aside| match aside.name {
        AsideName::Part(lsn, _) => std::cmp::Reverse(lsn),
        AsideName::After(_) | AsideName::Proven(..) => {
            std::cmp::Reverse(anabranch_format::Lsn::ZERO)
        }
    });
    let (mut rows, mut bytes, mut more) = (Vec::new(), 0, false);
    for aside in &listed {
        let Some(part) = counted(db, aside).await? else { continue };
        if part.header.conflicts == 0 {
            continue;
        }
        if rows.len() >= ANSWER_ROWS_MAX || bytes >= ANSWER_BYTES_MAX {
            more = true;
            break;
        }
        let lines = blocking(move || lines(part)).await?.map_err(|e| scratch(&e))?;
        bytes += lines.1;
        more |= lines.2;
        rows.extend(lines.0);
    }
    Ok(json_response(StatusCode::OK, &json!({ "conflicts": rows, "more": more })))
}

/// The rows of a part, about how many bytes they are, and whether that is not all. Blocking.
fn lines(part: Counted) -> io::Result<(Vec<Json>, usize, bool)> {
    let Counted { header, lsn, mut source } = part;
    skip_section(&mut source, header.sections[0])?;
    let mut spool = Spool::new(&std::env::temp_dir());
    read_section(&mut source, header.sections[1], &mut spool)?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for line in BufReader::new(spool.finish()).lines() {
        if rows.len() == ANSWER_ROWS_MAX || bytes >= ANSWER_BYTES_MAX {
            return Ok((rows, bytes, true));
        }
        let line = line?;
        bytes += line.len();
        let mut row: Json = serde_json::from_str(&line).map_err(io::Error::other)?;
        row["lineage"] = header.lineage.as_str().into();
        row["lsn"] = lsn.to_string().into();
        row["time"] = header.time.0.into();
        rows.push(row);
    }
    Ok((rows, bytes, false))
}

/// `GET …/lineages`: the clients whose pushes were merged, as far as anything is kept of them.
pub(crate) async fn lineages(db: &Arc<Database>) -> Result<Response, ApiError> {
    let listed = db.log().asides("").await?;
    let mut told: Vec<Json> = Vec::new();
    let mut more = false;
    for of_one in listed.chunk_by(|a, b| a.lineage == b.lineage) {
        if told.len() == ANSWER_ROWS_MAX {
            more = true;
            break;
        }
        let (mut parts, mut conflicts, mut newest) = (0u32, 0, None::<(u32, Json)>);
        for aside in of_one {
            let Some(Counted { header, lsn, .. }) = counted(db, aside).await? else { continue };
            parts += 1;
            conflicts += header.conflicts;
            if newest.as_ref().is_none_or(|(last, _)| *last < header.frames.1) {
                let told = json!({
                    "lineage": header.lineage.as_str(), "generation": header.number,
                    "from_generation": header.fork.0, "from_frame": header.fork.1,
                    "last_frame": header.frames.1, "lsn": lsn.to_string(), "time": header.time.0,
                });
                newest = Some((header.frames.1, told));
            }
        }
        if let Some((_, mut lineage)) = newest {
            lineage["parts"] = parts.into();
            lineage["conflicts"] = conflicts.into();
            told.push(lineage);
        }
    }
    Ok(json_response(StatusCode::OK, &json!({ "lineages": told, "more": more })))
}

/// `DELETE …/lineages/ID`: forgets the frames and the journal. Their rows stay merged; a client that
/// has not come on yet gets the whole database instead of its way on.
pub(crate) async fn drop_lineage(db: &Arc<Database>, id: &str) -> Result<Response, ApiError> {
    let lineage: LineageId =
        id.parse().map_err(|_| ApiError::bad_request(format!("'{id}' is no lineage")))?;
    let mut core = db.engine().core().await;
    let deleted = db.log().delete_asides(&lineage).await?;
    core.healing.forget(&lineage);
    drop(core);
    crash_point!("heal::after-drop");
    if deleted == 0 {
        let text = format!("nothing is kept of a lineage {lineage}");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no-lineage", text));
    }
    tracing::info!(database = %db.name(), %lineage, deleted, "dropped what was kept of a client");
    Ok(json_response(StatusCode::OK, &json!({ "lineage": lineage.as_str(), "objects": deleted })))
}
