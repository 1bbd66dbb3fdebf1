//! `adopt`: take over a replica of an official libSQL client.

use std::io::{self, Write};

use anabranch::{AdoptReport, Replica};
use serde::Serialize;

use super::write_notes;
use crate::args::Adopt;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{Paint, counted};
use crate::output::{Human, Outcome};

#[derive(Serialize)]
struct Adopted {
    file: String,
    remote: String,
    #[serde(flatten)]
    report: AdoptReport,
}

impl Human for Adopted {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        writeln!(out, "adopted {} as a replica of {}", self.file, self.remote)?;
        if let Some(backup) = &self.report.backup {
            writeln!(out, "what its libSQL client knew it by is kept as {}", backup.display())?;
        }
        write_notes(out, &self.report.notes, paint)?;
        let local = match self.report.local_pages {
            0 => paint.good("nothing to push"),
            n => format!("{} to push", counted(n, "page")),
        };
        writeln!(out, "at position {}, {local}", self.report.position)
    }
}

pub(super) async fn adopt(args: Adopt, ctx: &Context) -> Result<Outcome, Failure> {
    let adopted = Replica::adopt(&args.file, &args.remote, ctx.options()).await;
    let (replica, report) = adopted.map_err(Failure::at_named_place)?;
    Ok(Outcome::done(Adopted {
        file: args.file.display().to_string(),
        remote: replica.remote().to_owned(),
        report,
    }))
}
