//! `log`: the history of a database.

use std::io::{self, Write};

use anabranch::{HistoryEntry, Micros};
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
    /// When the remote received it, microseconds since 1970: `restore --at TIME` goes by that.
    received: Micros,
    /// The same in RFC 3339.
    received_at: Option<String>,
}

/// Times that differ by no more are shown as one (1 second).
const GAP_SHOWN: u64 = 1_000_000;

impl Entry {
    fn new(entry: HistoryEntry, received: Micros) -> Self {
        let received_at = human::rfc3339(received);
        Entry { at: human::rfc3339(entry.time), entry, received, received_at }
    }

    /// Set if the remote received it at a time noticeably different from that in the log.
    fn gap(&self) -> Option<String> {
        let gap = self.received.0.abs_diff(self.entry.time.0);
        (gap > GAP_SHOWN).then(|| format!("  (received {})", human::time(self.received)))
    }
}

impl Human for History {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        if self.entries.is_empty() && !self.more {
            return writeln!(out, "no history yet");
        }
        let head = format!(
            "{:<16}  {:<19}  {:>9}  {:>8}  {:>9}  {}",
            "position", "time", "pages", "bytes", "size", "writer"
        );
        writeln!(out, "{}", paint.faint(&head))?;
        for shown in &self.entries {
            let entry = &shown.entry;
            writeln!(
                out,
                "{}  {}  {:>9}  {:>8}  {:>9}  {}{}",
                paint.strong(&entry.lsn.to_string()),
                human::time(entry.time),
                count(entry.pages),
                bytes(entry.bytes),
                count(entry.db_pages.into()),
                entry.writer,
                shown.gap().map_or(String::new(), |gap| paint.warn(&gap)),
            )?;
        }
        if self.entries.iter().any(|entry| entry.gap().is_some()) {
            let text =
                "times are the writers'; `restore --at TIME` goes by when the remote received";
            writeln!(out, "{}", paint.faint(text))?;
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
    let mut found = log.history_received(args.number.saturating_add(1)).await?;
    let more = found.len() > args.number;
    found.truncate(args.number);
    let entries = found.into_iter().map(|(entry, received)| Entry::new(entry, received)).collect();
    Ok(Outcome::done(History { remote: log.location().to_owned(), entries, more }))
}
