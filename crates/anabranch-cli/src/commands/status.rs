//! `status`: where a replica stands.

use std::io::{self, Write};
use std::path::PathBuf;

use anabranch::{RemoteStatus, Status, TableChanges};
use serde::Serialize;

use super::write_notes;
use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{self, Paint, bytes, count, counted};
use crate::output::{Human, Outcome};

#[derive(Serialize)]
#[serde(transparent)]
struct Found(Status);

impl Human for Found {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let status = &self.0;
        let mut line = |name: &str, text: &str| writeln!(out, "{name:<9} {text}");
        line("replica", &status.file.display().to_string())?;
        line("remote", &status.remote)?;
        match status.dialect {
            "anabranch" => line("spoken", "Anabranch's own protocol")?,
            "libsql" => line("spoken", "the libSQL protocol")?,
            _ => {}
        }
        let size = u64::from(status.pages) * u64::from(status.page_size);
        let pages = counted(u64::from(status.pages), "page");
        line(
            "size",
            &format!("{pages} of {} bytes, {}", count(status.page_size.into()), bytes(size)),
        )?;
        let settled = status.last_sync.map(|at| format!(", reached {}", human::time(at)));
        line("position", &format!("{}{}", status.position, settled.unwrap_or_default()))?;
        line("here", &local(status, paint))?;
        if status.local_pages > 0 {
            line("", &paint.faint(&format!("found by {}", status.found_by)))?;
        }
        line("there", &there(&status.remote_status, paint))?;
        if let Some(what) = &status.unfinished {
            line(
                "waiting",
                &format!("an interrupted operation; the next sync completes it ({what})"),
            )?;
        }
        if let Some(tables) = &status.tables {
            write_tables(out, tables, &status.tables_skipped)?;
        }
        write_notes(out, &status.notes, paint)
    }

    fn is_answer(&self) -> bool {
        true
    }
}

fn local(status: &Status, paint: Paint) -> String {
    if status.local_pages == 0 {
        return paint.good("nothing changed");
    }
    let pages = counted(status.local_pages, "page");
    paint.warn(&format!("{pages} changed, to be pushed"))
}

fn there(remote: &RemoteStatus, paint: Paint) -> String {
    match remote {
        RemoteStatus::UpToDate => paint.good("nothing new"),
        RemoteStatus::Ahead { head, frames } => {
            let ahead = format!("{} ahead", counted(*frames, "frame"));
            format!("{}, at position {head}", paint.warn(&ahead))
        }
        RemoteStatus::Offline { reason } => {
            format!("{}: {}", paint.warn("offline"), human::offline_reason(reason))
        }
        RemoteStatus::Trouble { reason } => format!("{}: {reason}", paint.bad("trouble")),
        RemoteStatus::NotAsked => "not asked".to_owned(),
    }
}

fn write_tables(
    out: &mut dyn Write,
    tables: &[TableChanges],
    skipped: &[(String, String)],
) -> io::Result<()> {
    let names = tables.iter().map(|t| &t.table).chain(skipped.iter().map(|(name, _)| name));
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0).clamp(5, 40);
    if tables.is_empty() {
        writeln!(out, "no rows changed")?;
    } else {
        let head = ["inserted", "updated", "deleted"].map(|name| format!("{name:>10}")).join(" ");
        writeln!(out, "{:<width$} {head}", "table")?;
    }
    for t in tables {
        let (inserted, updated, deleted) = (count(t.inserted), count(t.updated), count(t.deleted));
        writeln!(out, "{:<width$} {inserted:>10} {updated:>10} {deleted:>10}", t.table)?;
    }
    for (table, why) in skipped {
        writeln!(out, "{table:<width$} not compared: {why}")?;
    }
    Ok(())
}

pub(super) async fn status(args: args::Status, ctx: &Context) -> Result<Outcome, Failure> {
    let mut status = ctx.replica(args.file).await?.status(args.tables, !args.no_remote).await?;
    if ctx.style.json {
        // JSON has no way to write a path that is not UTF-8.
        status.file = PathBuf::from(status.file.to_string_lossy().into_owned());
    }
    let trouble = matches!(status.remote_status, RemoteStatus::Trouble { .. });
    let found = Found(status);
    Ok(if trouble {
        Outcome::damaged(found, "no sync is possible as things stand".to_owned())
    } else {
        Outcome::done(found)
    })
}
