//! `log`: the history of a database.

use std::io::{self, Write};

use anabranch::HistoryEntry;
use serde::Serialize;

use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{self, Paint, bytes, count};
use crate::output::{Human, Outcome};

#[derive(Serialize)]
struct History {
    remote: String,
    entries: Vec<Entry>,
    /// Whether there are older entries than those shown.
    more: bool,
}

#[derive(Serialize)]
struct Entry {
    /// The time in RFC 3339.
    at: Option<String>,
    #[serde(flatten)]
    entry: HistoryEntry,
}

impl Human for History {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        if self.entries.is_empty() {
            return writeln!(out, "no history yet");
        }
        let head = format!(
            "{:<16}  {:<19}  {:>9}  {:>8}  {:>9}  {}",
            "position", "time", "pages", "bytes", "size", "writer"
        );
        writeln!(out, "{}", paint.faint(&head))?;
        for Entry { entry, .. } in &self.entries {
            writeln!(
                out,
                "{}  {}  {:>9}  {:>8}  {:>9}  {}",
                paint.strong(&entry.lsn.to_string()),
                human::time(entry.time),
                count(entry.pages),
                bytes(entry.bytes),
                count(entry.db_pages.into()),
                entry.writer,
            )?;
        }
        if self.more {
            writeln!(out, "{}", paint.faint("older entries: -n N"))?;
        }
        Ok(())
    }

    fn is_answer(&self) -> bool {
        true
    }
}

pub(super) async fn log(args: args::Log, ctx: &Context) -> Result<Outcome, Failure> {
    let log = ctx.remote_log(args.place).await?;
    let mut found = log.history(args.number.saturating_add(1)).await?;
    let more = found.len() > args.number;
    found.truncate(args.number);
    let entries =
        found.into_iter().map(|entry| Entry { at: human::rfc3339(entry.time), entry }).collect();
    Ok(Outcome::done(History { remote: log.location().to_owned(), entries, more }))
}
