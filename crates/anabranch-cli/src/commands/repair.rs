//! `repair` and `compact`: setting right a replica, and tidying up a remote.

use std::io::{self, Write};

use anabranch::{CompactReport, Lsn, Repair, Replica};
use serde::Serialize;

use crate::args;
use crate::context::{Context, named_or_only};
use crate::failure::Failure;
use crate::human::{Paint, bytes, counted};
use crate::output::{Human, Outcome};

#[derive(Serialize)]
struct Repaired {
    file: String,
    what: String,
    position: Lsn,
    local_pages: u64,
    /// Where the file as it was has been kept.
    kept: Option<String>,
}

impl Human for Repaired {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        writeln!(out, "{}", self.what)?;
        if let Some(kept) = &self.kept {
            writeln!(out, "the file as it was is kept as {kept}")?;
        }
        let local = match self.local_pages {
            0 => paint.good("nothing to push"),
            n => format!("{} to push", counted(n, "page")),
        };
        writeln!(out, "at position {}, {local}", self.position)
    }
}

pub(super) async fn repair(args: args::Repair, ctx: &Context) -> Result<Outcome, Failure> {
    let how = match (args.adopt, args.keep, args.remote) {
        (true, ..) => Repair::Adopt,
        (_, true, _) => Repair::Keep,
        // Given together with --relink, and only so.
        (.., Some(remote)) => Repair::Relink { remote },
        _ => Repair::TakeRemote,
    };
    let file = named_or_only(args.file)?;
    let report = Replica::repair(&file, how, ctx.options()).await?;
    Ok(Outcome::done(Repaired {
        file: file.display().to_string(),
        what: report.what,
        position: report.position,
        local_pages: report.local_pages,
        kept: report.kept.map(|kept| kept.display().to_string()),
    }))
}

#[derive(Serialize)]
struct Compacted {
    remote: String,
    #[serde(flatten)]
    report: CompactReport,
}

impl Human for Compacted {
    fn human(&self, out: &mut dyn Write, _: Paint) -> io::Result<()> {
        let report = &self.report;
        let mut made = Vec::new();
        if report.deltas > 0 {
            made.push(counted(report.deltas, "delta"));
        }
        if let Some(lsn) = report.snapshot {
            made.push(format!("a snapshot at position {lsn}"));
        }
        match made.is_empty() {
            true => writeln!(out, "{}: nothing to merge", self.remote)?,
            false => writeln!(out, "{}: made {}", self.remote, made.join(" and "))?,
        }
        if report.objects_deleted > 0 {
            let (objects, size) = (counted(report.objects_deleted, "object"), report.bytes_deleted);
            writeln!(out, "deleted {objects} ({})", bytes(size))?;
        }
        match report.floor {
            Lsn::ZERO => writeln!(out, "every state can be restored"),
            floor => writeln!(out, "every state since position {floor} can be restored"),
        }
    }
}

pub(super) async fn compact(args: args::Compact, ctx: &Context) -> Result<Outcome, Failure> {
    let log = ctx.remote_log(args.place).await?;
    let report = log.compact(args.retain).await?;
    Ok(Outcome::done(Compacted { remote: log.location().to_owned(), report }))
}
