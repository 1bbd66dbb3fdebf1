//! `conflicts`: the conflict journal, and taking the other side after all.

use std::io::{self, Write};

use anabranch::{ConflictEntry, ConflictFilter, Row, Side};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{Paint, rfc3339, time};
use crate::listing::Listing;
use crate::output::{Human, Outcome};
use crate::shown;

/// A conflict of the journal.
struct Entry(ConflictEntry);

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry = &self.0;
        let mut all = serde_json::Map::new();
        all.insert("id".to_owned(), json!(entry.id));
        all.insert("at".to_owned(), json!(rfc3339(entry.time)));
        all.insert("time".to_owned(), json!(entry.time));
        all.insert("base_lsn".to_owned(), json!(entry.base));
        all.insert("remote_lsn".to_owned(), json!(entry.remote_lsn));
        all.extend(shown::json_conflict(&entry.conflict));
        let resolved = entry.resolved.map(|(take, at)| json!({ "take": take, "at": rfc3339(at) }));
        all.insert("resolved".to_owned(), resolved.unwrap_or(Json::Null));
        all.serialize(serializer)
    }
}

impl Human for Entry {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let entry = &self.0;
        let title = format!("{} {}  ", entry.id, time(entry.time));
        shown::write_conflict(out, &title, &entry.conflict, paint)?;
        if let Some((take, at)) = entry.resolved {
            let side = side(take);
            writeln!(out, "    {}", paint.good(&format!("{side} was taken at {}", time(at))))?;
        }
        Ok(())
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Local => "the local version",
        Side::Remote => "the remote's version",
    }
}

pub(super) async fn conflicts(args: args::Conflicts, ctx: &Context) -> Result<Outcome, Failure> {
    match args.command {
        Some(args::ConflictsCommand::Resolve(args)) => resolve(args, ctx).await,
        None if args.file.as_ref().is_some_and(|file| file.to_string_lossy().contains("://")) => {
            super::server_conflicts::list(args, ctx).await
        }
        None => list(args, ctx).await,
    }
}

async fn list(args: args::Conflicts, ctx: &Context) -> Result<Outcome, Failure> {
    let replica = ctx.replica(args.file).await?;
    let filter = ConflictFilter { table: args.table, since: args.since, resolved: args.all };
    let mut listing = Listing::new("conflicts", ctx.style);
    let mut written = Ok(());
    replica
        .conflicts(&filter, |entry| {
            written = listing.item(&Entry(entry));
            written.is_ok()
        })
        .await?;
    written.map_err(Failure::Output)?;
    listing.end("no conflicts")
}

#[derive(Serialize)]
struct Resolved {
    id: i64,
    table: String,
    take: Side,
    /// The row that stood there until then.
    #[serde(serialize_with = "row")]
    replaced: Option<Row>,
    /// What stands there now.
    #[serde(serialize_with = "row")]
    now: Option<Row>,
}

#[expect(clippy::ref_option, reason = "what serde hands over")]
fn row<S: Serializer>(row: &Option<Row>, serializer: S) -> Result<S::Ok, S::Error> {
    row.as_ref().map(shown::json_row).serialize(serializer)
}

impl Human for Resolved {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let name = |row: &Option<Row>| row.as_ref().map_or_else(|| "no row".to_owned(), shown::row);
        writeln!(out, "took {} in table {}", side(self.take), paint.strong(&self.table))?;
        writeln!(out, "  was  {}", name(&self.replaced))?;
        writeln!(out, "  is   {}", name(&self.now))?;
        writeln!(out, "the next sync sends it")
    }
}

async fn resolve(args: args::ConflictsResolve, ctx: &Context) -> Result<Outcome, Failure> {
    let replica = ctx.replica(Some(args.file)).await?;
    let done = replica.resolve_conflict(args.id, args.take.into()).await?;
    let anabranch::Resolution { id, table, take, replaced, now } = done;
    Ok(Outcome::done(Resolved { id, table, take, replaced, now }))
}
