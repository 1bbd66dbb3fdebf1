//! `verify`: a replica against its remote, page by page.

use std::io::{self, Write};

use anabranch::VerifyReport;
use serde::Serialize;

use crate::args::OneFile;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{Paint, counted, page_list};
use crate::output::{Human, Outcome};

#[derive(Serialize)]
struct Verified {
    file: String,
    #[serde(flatten)]
    report: VerifyReport,
}

impl Human for Verified {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let report = &self.report;
        let compared = counted(report.pages, "page");
        writeln!(out, "{}: compared {compared} at position {}", self.file, report.position)?;
        if !report.local.is_empty() {
            let pages = counted(report.local.len() as u64, "page");
            let list = page_list(&report.local);
            writeln!(out, "{} changed here, to be pushed: {list}", paint.warn(&pages))?;
        }
        if !report.damaged.is_empty() {
            let pages = counted(report.damaged.len() as u64, "page");
            let list = page_list(&report.damaged);
            writeln!(out, "{} that nobody changed: {list}", paint.bad(&format!("{pages} differ")))?;
        }
        if !report.remote_consistent {
            writeln!(out, "{}", paint.bad("the remote's contents do not fit its own checksums"))?;
        }
        if report.damaged.is_empty() && report.remote_consistent {
            let rest = if report.local.is_empty() { "every page" } else { "every other page" };
            writeln!(out, "{rest} {}", paint.good("is equal to the remote's"))?;
        }
        Ok(())
    }
}

pub(super) async fn verify(args: OneFile, ctx: &Context) -> Result<Outcome, Failure> {
    let replica = ctx.replica(args.file).await?;
    let report = replica.verify().await?;
    let file = replica.file().display().to_string();
    let summary = match (report.damaged.is_empty(), report.remote_consistent) {
        (true, true) => return Ok(Outcome::done(Verified { file, report })),
        (false, true) => format!(
            "{file} is damaged; `anabranch repair FILE` brings it to the remote's state, keeping \
             a copy"
        ),
        _ => "the remote is damaged: restore an earlier position from it, or publish a healthy \
              replica at a new place"
            .to_owned(),
    };
    Ok(Outcome::damaged(Verified { file, report }, summary))
}
