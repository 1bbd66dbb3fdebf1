//! `conflicts URL`: what a server decided when it merged what libSQL clients had written past a
//! conflict.

use std::io::{self, Write};

use anabranch::Micros;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{Paint, rfc3339, time};
use crate::listing::Listing;
use crate::output::{Human, Outcome};

/// A value is shown to people up to so many characters.
const CHARS_MAX: usize = 60;

/// A row of the server's journal, as the server tells it.
struct Entry(Json);

impl Entry {
    fn time(&self) -> Micros {
        Micros(self.0["time"].as_i64().unwrap_or_default())
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = Map::new();
        all.insert("at".to_owned(), json!(rfc3339(self.time())));
        all.extend(self.0.as_object().cloned().unwrap_or_default());
        all.serialize(serializer)
    }
}

fn row(row: &Json) -> String {
    let Some(row) = row.as_object() else { return "nothing".to_owned() };
    let shown = |value: &Json| {
        let text = value.to_string();
        let cut = text.chars().nth(CHARS_MAX).is_some();
        // JSON escapes what could move the cursor.
        let start: String = text.chars().take(CHARS_MAX).collect();
        if cut { format!("{start}...") } else { start }
    };
    let values: Vec<String> = row.iter().map(|(name, v)| format!("{name} {}", shown(v))).collect();
    values.join(", ").escape_debug().to_string().replace("\\\"", "\"").replace("\\\\", "\\")
}

impl Human for Entry {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let decision = match (self.text("decision"), &self.0["rowid"]) {
            ("local", _) => "the client's version stands".to_owned(),
            ("remote", _) => "the log's version stands".to_owned(),
            ("renumbered", rowid) => format!("both stand, the client's as {rowid}"),
            _ => "both were merged".to_owned(),
        };
        let table: String = self.text("table").escape_debug().collect();
        writeln!(
            out,
            "{}  {}: {}; {decision}",
            time(self.time()),
            paint.strong(&format!("{table}, {}", row(&self.0["key"]))),
            self.text("kind").escape_debug(),
        )?;
        for (name, said) in [("before", "base"), ("client", "local"), ("log", "remote")] {
            if !self.0[said].is_null() {
                writeln!(out, "    {name:<7} {}", row(&self.0[said]))?;
            }
        }
        Ok(())
    }
}

/// Lists the journal of the server at `args.file`, which is a URL.
pub(super) async fn list(args: args::Conflicts, ctx: &Context) -> Result<Outcome, Failure> {
    let place = args.file.map(Into::into);
    let log = ctx.remote_log(place).await?;
    let told = log.merged_conflicts().await?;
    let mut listing = Listing::new("conflicts", ctx.style);
    let wanted = |entry: &Entry| {
        args.table.as_deref().is_none_or(|table| entry.text("table").eq_ignore_ascii_case(table))
            && args.since.is_none_or(|since| entry.time() >= since)
    };
    for entry in told.conflicts.into_iter().map(Entry).filter(wanted) {
        listing.item(&entry).map_err(Failure::Output)?;
    }
    if told.more {
        tracing::warn!("the server has more than it tells in one answer; these are the newest");
    }
    listing.end("no conflicts")
}
