//! `push`, `pull` and `sync`.

use std::io::{self, Write};

use anabranch::{Offline, PullReport, Pulled, PushReport, Pushed, Rebased, SyncReport, Take};
use serde::Serialize;

use super::diff::DryRun;
use super::write_notes;
use crate::args::{self, OneFile};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::human::{Paint, bytes, counted, offline_reason};
use crate::output::{Human, Outcome};

/// Says what was fetched; `more` at the end of the line.
pub(super) fn write_pulled(
    out: &mut dyn Write,
    pulled: &Pulled,
    more: Option<&str>,
) -> io::Result<()> {
    let (pages, size) = (counted(pulled.pages, "page"), bytes(pulled.bytes));
    writeln!(out, "pulled {pages} ({size}){}", behind(more))
}

fn behind(more: Option<&str>) -> String {
    more.map(|more| format!(", {more}")).unwrap_or_default()
}

/// Says what was sent; `more` at the end of the line.
pub(super) fn write_pushed(
    out: &mut dyn Write,
    pushed: &Pushed,
    more: Option<&str>,
) -> io::Result<()> {
    let size = match pushed.bytes {
        0 => "an earlier attempt had arrived".to_owned(),
        n => bytes(n),
    };
    writeln!(out, "pushed {} ({size}){}", counted(pushed.pages, "page"), behind(more))
}

/// Says what became of local changes, where both sides had changed; or what `would`.
pub(super) fn write_rebased(
    out: &mut dyn Write,
    rebased: &Rebased,
    would: bool,
    paint: Paint,
) -> io::Result<()> {
    let rows: u64 = rebased.tables.iter().map(|t| t.inserted + t.updated + t.deleted).sum();
    let objects = match rebased.schema {
        0 => String::new(),
        n => format!(" and {} of the schema", counted(n, "object")),
    };
    let (rows, put) = (counted(rows, "row"), if would { "would be put" } else { "put" });
    writeln!(out, "both sides changed: {rows}{objects} of this side {put} on top of the others'")?;
    for table in &rebased.tables {
        if table.renumbered > 0 {
            let rows = counted(table.renumbered, "row");
            let got = if would { "would get" } else { "got" };
            writeln!(out, "  {}: {rows} {got} a new key", table.table)?;
        }
        if table.conflicts > 0 {
            let conflicts = paint.warn(&counted(table.conflicts, "conflict"));
            writeln!(out, "  {}: {conflicts}", table.table)?;
        }
    }
    match rebased.conflicts {
        0 => Ok(()),
        _ if would => Ok(()),
        _ => writeln!(out, "`anabranch conflicts` shows what was decided"),
    }
}

/// Says plainly that nothing was exchanged, and what waits.
fn write_offline(out: &mut dyn Write, offline: &Offline, paint: Paint) -> io::Result<()> {
    let waiting = match offline.pages_to_push {
        0 => "nothing waits to be pushed".to_owned(),
        1 => "1 page waits to be pushed; it is safe in the file, sync again later".to_owned(),
        n => format!(
            "{} wait to be pushed; they are safe in the file, sync again later",
            counted(n, "page")
        ),
    };
    writeln!(out, "{} {waiting}", paint.warn("offline:"))?;
    writeln!(out, "  {}", offline_reason(&offline.reason))
}

#[derive(Serialize)]
#[serde(transparent)]
struct PushDone(PushReport);

impl Human for PushDone {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        match &self.0.pushed {
            Some(pushed) => write_pushed(out, pushed, None)?,
            None => writeln!(out, "nothing to push")?,
        }
        write_notes(out, &self.0.notes, paint)?;
        writeln!(out, "at position {}", self.0.position)
    }
}

pub(super) async fn push(args: OneFile, ctx: &Context) -> Result<Outcome, Failure> {
    let report = ctx.replica(args.file).await?.push().await?;
    Ok(Outcome::done(PushDone(report)))
}

#[derive(Serialize)]
#[serde(transparent)]
struct PullDone(PullReport);

impl Human for PullDone {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        match &self.0.pulled {
            Some(pulled) => write_pulled(out, pulled, None)?,
            None => writeln!(out, "nothing to pull")?,
        }
        if let Some(rebased) = &self.0.rebased {
            write_rebased(out, rebased, false, paint)?;
        }
        write_notes(out, &self.0.notes, paint)?;
        writeln!(out, "at position {}", self.0.position)
    }
}

pub(super) async fn pull(args: args::Pull, ctx: &Context) -> Result<Outcome, Failure> {
    let replica = ctx.replica_taking(args.file, args.take.map(Take::from)).await?;
    let report = replica.pull().await?;
    Ok(Outcome::done(PullDone(report)))
}

#[derive(Serialize)]
#[serde(transparent)]
struct SyncDone(SyncReport);

impl Human for SyncDone {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let report = &self.0;
        if let Some(pulled) = &report.pulled {
            write_pulled(out, pulled, None)?;
        }
        if let Some(rebased) = &report.rebased {
            write_rebased(out, rebased, false, paint)?;
        }
        if let Some(pushed) = &report.pushed {
            write_pushed(out, pushed, None)?;
        }
        write_notes(out, &report.notes, paint)?;
        if let Some(offline) = &report.offline {
            return write_offline(out, offline, paint);
        }
        let already = match (&report.pulled, &report.pushed) {
            (None, None) => "already ",
            _ => "",
        };
        writeln!(out, "{already}{} at position {}", paint.good("in step"), report.position)
    }
}

pub(super) async fn sync(args: args::Sync, ctx: &Context) -> Result<Outcome, Failure> {
    let replica = ctx.replica_taking(args.file, args.take.map(Take::from)).await?;
    if args.dry_run {
        return Ok(Outcome::done(DryRun::from(replica.preview().await?)));
    }
    let report = replica.sync().await?;
    let exit = if report.offline.is_some() { Exit::Offline } else { Exit::Done };
    Ok(Outcome::ended(exit, SyncDone(report)))
}

#[cfg(test)]
mod tests {
    use anabranch::Lsn;

    use super::*;

    fn text(report: SyncReport) -> String {
        let mut out = Vec::new();
        SyncDone(report).human(&mut out, Paint::default()).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn report() -> SyncReport {
        SyncReport {
            offline: None,
            pulled: None,
            rebased: None,
            pushed: None,
            position: Lsn::new(42),
            notes: Vec::new(),
        }
    }

    #[test]
    fn offline_is_said_plainly_with_what_waits() {
        let offline = Offline { reason: "no such folder".into(), pages_to_push: 3 };
        let said = text(SyncReport { offline: Some(offline), ..report() });
        assert!(said.starts_with("offline: 3 pages wait to be pushed"), "{said}");
        assert!(said.contains("no such folder"), "{said}");
        assert!(!said.contains("in step"), "{said}");
    }

    #[test]
    fn a_sync_says_what_moved_and_where_it_stands() {
        assert_eq!(text(report()), "already in step at position 000000000000002a\n");
        let pushed = Pushed { from: Lsn::new(41), to: Lsn::new(42), pages: 1, bytes: 812 };
        let said = text(SyncReport { pushed: Some(pushed), ..report() });
        assert_eq!(said, "pushed 1 page (812 B)\nin step at position 000000000000002a\n");
    }
}
