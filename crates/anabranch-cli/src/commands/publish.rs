//! `init`: publish a database.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anabranch::{InitReport, Replica};
use serde::Serialize;

use super::write_notes;
use crate::args::Init;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{Paint, bytes, counted, speed};
use crate::output::{Human, Outcome};

#[derive(Serialize)]
struct Done {
    file: String,
    remote: String,
    #[serde(flatten)]
    report: InitReport,
    #[serde(skip)]
    elapsed: Duration,
}

impl Human for Done {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        match &self.report.published {
            Some(push) => writeln!(
                out,
                "published {} at {}: {} ({}){}",
                self.file,
                self.remote,
                counted(push.pages, "page"),
                bytes(push.bytes),
                speed(push.bytes, self.elapsed),
            )?,
            None => writeln!(out, "linked {}, empty so far, to {}", self.file, self.remote)?,
        }
        write_notes(out, &self.report.notes, paint)?;
        writeln!(out, "{} at position {}", paint.good("in step"), self.report.position)
    }
}

pub(super) async fn init(args: Init, ctx: &Context) -> Result<Outcome, Failure> {
    let started = Instant::now();
    // An existing file is published as it is, also with `--create`.
    let create = args.create && !args.file.exists();
    let published = if create {
        Replica::init_new(&args.file, &args.remote, ctx.options()).await
    } else {
        Replica::init(&args.file, &args.remote, ctx.options()).await
    };
    let (replica, report) = published.map_err(Failure::at_named_place)?;
    Ok(Outcome::done(Done {
        file: args.file.display().to_string(),
        remote: replica.remote().to_owned(),
        report,
        elapsed: started.elapsed(),
    }))
}
