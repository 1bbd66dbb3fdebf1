//! `diff`: the rows that differ from the last common state; and what `sync --dry-run` shows.

use std::io::{self, Write};

use anabranch::{Conflict, Differing, Lsn, Preview, RowChange, TableChanges};
use serde::{Serialize, Serializer};
use serde_json::json;

use super::sync::write_rebased;
use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{Paint, counted};
use crate::listing::Listing;
use crate::output::{Human, Outcome};
use crate::shown;

/// A row that differs.
struct Change(RowChange);

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let RowChange { table, key, before, after } = &self.0;
        let change = match (before, after) {
            (None, _) => "insert",
            (_, None) => "delete",
            _ => "update",
        };
        let row = |row: &Option<anabranch::Row>| row.as_ref().map(shown::json_row);
        json!({
            "table": table,
            "key": shown::json_row(key),
            "change": change,
            "before": row(before),
            "after": row(after),
        })
        .serialize(serializer)
    }
}

impl Human for Change {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let RowChange { table, key, before, after } = &self.0;
        let table = paint.strong(table);
        match (before, after) {
            (None, Some(row)) => writeln!(out, "{} {table}: {}", paint.good("+"), shown::row(row)),
            (Some(row), None) => writeln!(out, "{} {table}: {}", paint.bad("-"), shown::row(row)),
            (Some(before), Some(after)) => {
                let changed: Vec<String> = after
                    .columns
                    .iter()
                    .zip(&after.values)
                    .filter(|(name, value)| shown::of(before, name) != Some(value))
                    .map(|(name, value)| {
                        let was = shown::of(before, name).map(shown::value);
                        let was = was.unwrap_or_else(|| "no such column".to_owned());
                        format!("{name} {was} -> {}", shown::value(value))
                    })
                    .collect();
                let (key, changed) = (shown::row(key), changed.join(", "));
                writeln!(out, "{} {table}, {key}: {changed}", paint.warn("~"))
            }
            (None, None) => Ok(()),
        }
    }
}

pub(super) async fn diff(args: args::Diff, ctx: &Context) -> Result<Outcome, Failure> {
    let replica = ctx.replica(args.file).await?;
    let which = if args.remote { Differing::Remote } else { Differing::Here };
    let mut listing = Listing::new("rows", ctx.style);
    let mut written = Ok(());
    replica
        .diff(which, |change| {
            written = listing.item(&Change(change));
            written.is_ok()
        })
        .await?;
    written.map_err(Failure::Output)?;
    listing.end(match which {
        Differing::Here => "no row changed here",
        _ => "no row changed at the remote",
    })
}

/// What a sync would do.
#[derive(Serialize)]
pub(super) struct DryRun {
    dry_run: bool,
    position: Lsn,
    remote_lsn: Lsn,
    pull: Vec<TableChanges>,
    push: Vec<TableChanges>,
    rebased: Option<anabranch::Rebased>,
    #[serde(serialize_with = "conflicts")]
    conflicts: Vec<Conflict>,
}

fn conflicts<S: Serializer>(all: &[Conflict], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(all.iter().map(shown::json_conflict))
}

impl From<Preview> for DryRun {
    fn from(preview: Preview) -> Self {
        let Preview { position, remote_lsn, pull, push, rebased, conflicts } = preview;
        DryRun { dry_run: true, position, remote_lsn, pull, push, rebased, conflicts }
    }
}

fn write_tables(out: &mut dyn Write, what: &str, tables: &[TableChanges]) -> io::Result<()> {
    for t in tables {
        let counts = [(t.inserted, "inserted"), (t.updated, "updated"), (t.deleted, "deleted")];
        let counts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, how)| format!("{n} {how}")).collect();
        writeln!(out, "would {what} {}: {}", t.table, counts.join(", "))?;
    }
    Ok(())
}

impl Human for DryRun {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        write_tables(out, "pull", &self.pull)?;
        write_tables(out, "push", &self.push)?;
        let moved = self.remote_lsn > self.position;
        if self.pull.is_empty() && self.push.is_empty() {
            let pulled = if moved { ", no row of it changed" } else { "" };
            writeln!(out, "no row would be pushed or pulled{pulled}")?;
        }
        if let Some(rebased) = &self.rebased {
            write_rebased(out, rebased, true, paint)?;
            for conflict in &self.conflicts {
                shown::write_conflict(out, "  ", conflict, paint)?;
            }
            let more = rebased.conflicts.saturating_sub(self.conflicts.len() as u64);
            if more > 0 {
                writeln!(out, "  and {} more", counted(more, "conflict"))?;
            }
        }
        writeln!(out, "nothing was changed: this was a dry run")
    }

    fn is_answer(&self) -> bool {
        true
    }
}
