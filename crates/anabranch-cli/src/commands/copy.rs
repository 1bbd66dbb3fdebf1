//! `clone` and `restore`: make a new file from what is at a remote.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anabranch::{At, CloneReport, Replica, RestoreReport};
use serde::Serialize;

use super::write_notes;
use crate::args::{Clone_, Restore};
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{self, Paint, bytes, counted, speed};
use crate::output::{Human, Outcome};
use crate::when::When;

#[derive(Serialize)]
struct Cloned {
    file: String,
    #[serde(flatten)]
    report: CloneReport,
    #[serde(skip)]
    elapsed: Duration,
}

impl Human for Cloned {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        writeln!(
            out,
            "cloned {}: {} ({} fetched){}",
            self.file,
            counted(self.report.pages, "page"),
            bytes(self.report.bytes),
            speed(self.report.bytes, self.elapsed),
        )?;
        writeln!(out, "{} at position {}", paint.good("in step"), self.report.position)
    }
}

pub(super) async fn clone(args: Clone_, ctx: &Context) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let cloned = Replica::clone_from(&args.remote, &args.file, ctx.options()).await;
    let (_, report) = cloned.map_err(Failure::at_named_place)?;
    let file = args.file.display().to_string();
    Ok(Outcome::done(Cloned { file, report, elapsed: started.elapsed() }))
}

#[derive(Serialize)]
struct Restored {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(flatten)]
    report: RestoreReport,
    #[serde(skip)]
    elapsed: Duration,
}

impl Human for Restored {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let written = match self.report.time {
            Some(time) => format!(", written {}", human::time(time)),
            None => String::new(),
        };
        writeln!(
            out,
            "restored the state at position {}{written}",
            paint.strong(&self.report.position.to_string()),
        )?;
        write_notes(out, &self.report.notes, paint)?;
        writeln!(
            out,
            "{} has {} ({} fetched){}",
            self.file,
            counted(self.report.pages, "page"),
            bytes(self.report.bytes),
            speed(self.report.bytes, self.elapsed),
        )
    }
}

pub(super) async fn restore(args: Restore, ctx: &Context) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let (place, file) = args.places();
    let log = ctx.remote_log(place).await?;
    let at = args.at.map_or(At::Head, At::from);
    let report = log.restore(&file, at).await?;
    Ok(Outcome::done(Restored {
        file: file.display().to_string(),
        asked: match args.at {
            Some(When::Time(time)) => human::rfc3339(time),
            _ => None,
        },
        at: report.time.and_then(human::rfc3339),
        report,
        elapsed: started.elapsed(),
    }))
}
