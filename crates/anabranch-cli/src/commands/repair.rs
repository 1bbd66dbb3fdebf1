//! `repair` and `compact`: setting right a replica, and tidying up a remote.

use std::io::{self, Write};

use anabranch::{Lsn, Repair, Replica};
use serde::Serialize;
use serde_json::Value;

use crate::args;
use crate::context::{Context, named_or_only};
use crate::failure::Failure;
use crate::human::{Paint, counted};
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
    let how = match (args.adopt, args.relink, args.remote) {
        (true, ..) => Repair::Adopt,
        (_, true, Some(remote)) => {
            let remote = remote.into_string().map_err(|remote| {
                let remote = remote.display().to_string();
                Failure::Usage(format!("the remote {remote} is not UTF-8: use a link to it"))
            })?;
            Repair::Relink { remote }
        }
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
    report: Value,
}

impl Human for Compacted {
    fn human(&self, out: &mut dyn Write, _: Paint) -> io::Result<()> {
        writeln!(out, "compacted {}", self.remote)?;
        if let Value::Object(fields) = &self.report {
            for (name, value) in fields {
                writeln!(out, "  {name}: {value}")?;
            }
        }
        Ok(())
    }
}

pub(super) async fn compact(args: args::Compact, ctx: &Context) -> Result<Outcome, Failure> {
    let log = ctx.remote_log(args.place).await?;
    let report = log.compact(args.retain).await?;
    let report = serde_json::to_value(report).map_err(|e| Failure::Output(e.into()))?;
    Ok(Outcome::done(Compacted { remote: log.location(), report }))
}
