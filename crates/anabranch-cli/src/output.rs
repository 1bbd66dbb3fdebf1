//! What a command hands back, and how it gets to standard output.
//!
//! Every command answers with an [`Outcome`]: its exit code and a report that can show itself as
//! text and as JSON. Nothing else in the program writes to standard output, so a closed pipe
//! (`anabranch log | head -1`) is met here once: it ends the output, not the program, whose work is
//! done by then and whose exit code stays true.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::human::Paint;

/// A report that people can read.
pub(crate) trait Human {
    /// Writes the report as text.
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()>;

    /// Whether it was asked for as such, so that `--quiet` does not suppress it.
    fn is_answer(&self) -> bool {
        false
    }
}

/// A report that people and programs can read.
pub(crate) trait Report: Human + Send {
    /// Writes the report as one JSON document.
    fn json(&self, out: &mut dyn Write) -> io::Result<()>;
}

impl<T: Human + Serialize + Send> Report for T {
    fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}

/// What a command did.
pub(crate) struct Outcome {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// What it says; `None` if it has said it already.
    pub(crate) report: Option<Box<dyn Report>>,
    /// Told as an error after the report.
    pub(crate) failure: Option<Failure>,
}

impl Outcome {
    /// Done, with this to say.
    pub(crate) fn done(report: impl Report + 'static) -> Self {
        Outcome { exit: Exit::Done, report: Some(Box::new(report)), failure: None }
    }

    /// Done, with this to say, which is boxed already.
    pub(crate) fn done_with(report: Box<dyn Report>) -> Self {
        Outcome { exit: Exit::Done, report: Some(report), failure: None }
    }

    /// Ended otherwise, with this to say.
    pub(crate) fn ended(exit: Exit, report: impl Report + 'static) -> Self {
        Outcome { exit, report: Some(Box::new(report)), failure: None }
    }

    /// Found damage: the report says all, the failure sums it up.
    pub(crate) fn damaged(report: impl Report + 'static, summary: String) -> Self {
        let failure = Some(Failure::Damaged(summary));
        Outcome { exit: Exit::Failed, report: Some(Box::new(report)), failure }
    }
}

/// How output is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// One JSON document instead of text.
    pub(crate) json: bool,
    /// No reports that were not asked for.
    pub(crate) quiet: bool,
    /// Colours on standard output.
    pub(crate) paint: Paint,
}

/// Shows a report on standard output.
pub(crate) fn show(report: &dyn Report, style: Style) -> Result<(), Failure> {
    if style.quiet && !style.json && !report.is_answer() {
        return Ok(());
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = match style.json {
        true => report.json(&mut out),
        false => report.human(&mut out, style.paint),
    };
    finish(written.and_then(|()| out.flush()))
}

/// Shows one of many things, as it happens; with `--json` on one line.
pub(crate) fn show_line(line: &(impl Human + Serialize), style: Style) -> Result<(), Failure> {
    if style.quiet && !style.json {
        return Ok(());
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = match style.json {
        true => serde_json::to_writer(&mut out, line)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
        false => line.human(&mut out, style.paint),
    };
    finish(written.and_then(|()| out.flush()))
}

/// A reader that has seen enough is no failure.
pub(crate) fn finish(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::Output),
    }
}

/// Tells a failure on standard error. Nothing can be done if that fails too.
pub(crate) fn tell(failure: &Failure, json: bool) {
    let mut err = io::stderr().lock();
    let _ = if json {
        writeln!(err, "{}", failure.json())
    } else {
        write!(err, "{}", failure.text(Paint::for_stream(&io::stderr())))
    };
}
