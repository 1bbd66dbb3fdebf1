//! `watch`: keeps replicas in step for as long as it runs.
//!
//! A line on standard output for each event, as it happens. Several replicas are independent of each
//! other: one that fails ends alone, and the program once all have ended.

use std::io::{self, Write};
use std::path::PathBuf;

use anabranch::{Pulled, Pushed, Replica, WatchEvent, WatchOptions, WatchReport, WatchState};
use futures::future::join_all;
use serde::Serialize;
use serde_json::Value;

use super::sync::{write_pulled, write_pushed, write_rebased};
use super::write_notes;
use crate::args;
use crate::context::{Context, named_or_only};
use crate::failure::{Exit, Failure};
use crate::human::{Paint, counted, offline_reason};
use crate::output::{self, Human, Outcome, Style};

pub(super) async fn watch(args: args::Watch, ctx: &Context) -> Result<Outcome, Failure> {
    let files = match args.files.is_empty() {
        true => vec![named_or_only(None)?],
        false => args.files,
    };
    let options = WatchOptions { interval: args.interval, ..WatchOptions::default() };
    let mut replicas = Vec::new();
    for file in &files {
        replicas.push(Replica::open(file, ctx.options()).await?);
    }
    let alone = files.len() == 1;
    let watches = replicas.into_iter().zip(files).map(|(replica, file)| {
        let teller = Teller { file, alone, style: ctx.style };
        let options = &options;
        async move {
            let tell = |event| teller.tell(What::Event(event));
            let ended = replica.watch(options, ctx.stop.cancelled(), tell).await;
            teller.end(ended)
        }
    });
    let mut worst = Exit::Done;
    let mut failure = None;
    for ended in join_all(watches).await {
        match ended {
            Ok(exit) if worst == Exit::Done => worst = exit,
            Ok(_) => {}
            Err(e) => failure = failure.or(Some(e)),
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(Outcome { exit: worst, report: None, failure: None }),
    }
}

/// Tells what happens to one replica.
struct Teller {
    file: PathBuf,
    alone: bool,
    style: Style,
}

impl Teller {
    fn tell(&self, what: What) {
        let line = Line { file: self.file.display().to_string(), what };
        let name = (!self.alone).then(|| line.file.clone());
        // That nobody reads it is no reason to stop.
        if let Err(failure) = output::show_line(&Named { name, line }, self.style) {
            output::tell(&failure, self.style.json);
        }
    }

    /// Tells how it ended. The error of a replica that is watched alone is the command's.
    fn end(&self, ended: Result<WatchReport, anabranch::Error>) -> Result<Exit, Failure> {
        match ended {
            Ok(WatchReport { state, .. }) => {
                self.tell(What::Stopped(Stopped { event: "stopped", state }));
                Ok(match state {
                    WatchState::InStep => Exit::Done,
                    WatchState::Offline => Exit::Offline,
                    WatchState::Diverged => Exit::Diverged,
                    _ => Exit::Failed,
                })
            }
            Err(error) => {
                let failure = Failure::Library(error);
                if !self.alone {
                    let error = failure.json()["error"].take();
                    self.tell(What::Failed(Failed { event: "failed", error }));
                }
                Err(failure)
            }
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum What {
    Event(WatchEvent),
    Stopped(Stopped),
    Failed(Failed),
}

#[derive(Serialize)]
struct Stopped {
    event: &'static str,
    state: WatchState,
}

#[derive(Serialize)]
struct Failed {
    event: &'static str,
    error: Value,
}

#[derive(Serialize)]
struct Line {
    file: String,
    #[serde(flatten)]
    what: What,
}

/// A line, and the name before it where there are several.
#[derive(Serialize)]
#[serde(transparent)]
struct Named {
    #[serde(skip)]
    name: Option<String>,
    line: Line,
}

impl Human for Named {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let mut text = Vec::new();
        write_what(&mut text, &self.line.what, paint)?;
        for line in String::from_utf8_lossy(&text).lines() {
            match &self.name {
                Some(name) => writeln!(out, "{}: {line}", paint.strong(name))?,
                None => writeln!(out, "{line}")?,
            }
        }
        Ok(())
    }
}

fn write_what(out: &mut dyn Write, what: &What, paint: Paint) -> io::Result<()> {
    match what {
        What::Event(event) => write_event(out, event, paint),
        What::Stopped(Stopped { state, .. }) => {
            let state = match state {
                WatchState::InStep => paint.good("in step"),
                WatchState::Behind => paint.warn("local changes wait to be pushed"),
                WatchState::Offline => paint.warn("offline, local changes wait to be pushed"),
                WatchState::Diverged => paint.warn("both sides changed, and somebody must decide"),
                WatchState::Busy => paint.warn("another program held the file"),
                _ => String::new(),
            };
            writeln!(out, "stopped: {state}")
        }
        What::Failed(Failed { error, .. }) => {
            let message = error["message"].as_str().unwrap_or_default();
            writeln!(out, "{} {message}", paint.bad("failed:"))
        }
    }
}

fn write_event(out: &mut dyn Write, event: &WatchEvent, paint: Paint) -> io::Result<()> {
    match event {
        WatchEvent::Watching { position } => {
            writeln!(out, "{} at position {position}, watching", paint.good("in step"))
        }
        WatchEvent::Synced { pulled, rebased, pushed, position, ms, notes } => {
            let end = format!("at position {position}, {ms} ms");
            write_moved(out, pulled.as_ref(), pushed.as_ref(), &end)?;
            if let Some(rebased) = rebased {
                write_rebased(out, rebased, false, paint)?;
            }
            write_notes(out, notes, paint)
        }
        WatchEvent::Offline { reason, pages_to_push } => {
            let waiting = match pages_to_push {
                0 => String::new(),
                n => format!("; what changed here is safe in the file: {}", counted(*n, "page")),
            };
            let reason = offline_reason(reason);
            writeln!(out, "{} trying again: {reason}{waiting}", paint.warn("offline,"))
        }
        WatchEvent::Online { position } => {
            writeln!(out, "{} in step at position {position}", paint.good("back online,"))
        }
        WatchEvent::Diverged { reason } => writeln!(
            out,
            "{} {reason}; it is tried again after each local change",
            paint.warn("somebody must decide:"),
        ),
        WatchEvent::Busy { reason } => {
            writeln!(out, "{} trying again: {reason}", paint.warn("busy,"))
        }
        _ => Ok(()),
    }
}

fn write_moved(
    out: &mut dyn Write,
    pulled: Option<&Pulled>,
    pushed: Option<&Pushed>,
    end: &str,
) -> io::Result<()> {
    if let Some(pulled) = pulled {
        write_pulled(out, pulled, Some(end))?;
    }
    if let Some(pushed) = pushed {
        write_pushed(out, pushed, Some(end))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anabranch::{Lsn, Note};

    use super::*;

    fn named(alone: bool, what: What) -> Named {
        let line = Line { file: "a.db".to_owned(), what };
        Named { name: (!alone).then(|| "a.db".to_owned()), line }
    }

    fn text(alone: bool, what: What) -> String {
        let mut out = Vec::new();
        named(alone, what).human(&mut out, Paint::default()).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn synced() -> What {
        let pushed = Pushed { from: Lsn::new(41), to: Lsn::new(42), pages: 1, bytes: 812 };
        What::Event(WatchEvent::Synced {
            pulled: None,
            rebased: None,
            pushed: Some(pushed),
            position: Lsn::new(42),
            ms: 7,
            notes: vec![Note::SwitchedToWal],
        })
    }

    #[test]
    fn each_event_is_a_line_with_its_file_where_there_are_several() {
        let said = text(true, synced());
        let first = "pushed 1 page (812 B), at position 000000000000002a, 7 ms";
        assert_eq!(said.lines().next(), Some(first));
        assert!(text(false, synced()).lines().all(|line| line.starts_with("a.db: ")));
        let stopped = || What::Stopped(Stopped { event: "stopped", state: WatchState::InStep });
        assert_eq!(text(true, stopped()), "stopped: in step\n");
    }

    #[test]
    fn each_event_is_an_object_that_names_file_and_event() {
        let json = serde_json::to_value(named(true, synced())).unwrap();
        assert_eq!((&json["file"], &json["event"]), (&"a.db".into(), &"synced".into()));
        assert_eq!(json["pushed"]["pages"], 1);
        let offline = WatchEvent::Offline { reason: "gone".into(), pages_to_push: 2 };
        let json = serde_json::to_value(named(true, What::Event(offline))).unwrap();
        assert_eq!((&json["event"], &json["pages_to_push"]), (&"offline".into(), &2.into()));
    }
}
