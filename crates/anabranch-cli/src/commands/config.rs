//! `config`: a replica's settings.

use std::io::{self, Write};

use anabranch::Setting;
use serde::Serialize;

use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::Paint;
use crate::output::{Human, Outcome};

#[derive(Serialize)]
struct Shown {
    key: String,
    value: String,
    /// Somebody made it; else this is what holds without.
    set: bool,
}

impl From<Setting> for Shown {
    fn from(setting: Setting) -> Self {
        Shown { key: setting.key, value: setting.value, set: setting.made }
    }
}

#[derive(Serialize)]
struct All {
    settings: Vec<Shown>,
}

impl Human for All {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        if self.settings.is_empty() {
            writeln!(out, "nothing is set: where both sides changed a row, the last to sync wins")?;
        }
        self.settings.iter().try_for_each(|setting| setting.human(out, paint))
    }

    fn is_answer(&self) -> bool {
        true
    }
}

impl Human for Shown {
    fn human(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let aside = if self.set { "" } else { " (not set)" };
        writeln!(out, "{} = {}{}", self.key, self.value, paint.faint(aside))
    }

    fn is_answer(&self) -> bool {
        true
    }
}

/// What the words after the file ask for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    All,
    One(&'a str),
    Set(&'a str, &'a str),
}

/// Reads `KEY`, `KEY VALUE`, `KEY = VALUE` and `KEY=VALUE`, however it is cut into words.
fn asked<'a>(words: &'a [String], joined: &'a str) -> Result<Asked<'a>, Failure> {
    // No value has the sign in it; the name of a table may.
    if let Some((key, value)) = joined.rsplit_once('=') {
        return match (key.trim(), value.trim()) {
            ("", _) | (_, "") => {
                Err(Failure::Usage(format!("'{joined}' lacks a key or a value: KEY = VALUE")))
            }
            (key, value) => Ok(Asked::Set(key, value)),
        };
    }
    match words {
        [] => Ok(Asked::All),
        [key] => Ok(Asked::One(key)),
        [key, value] => Ok(Asked::Set(key, value)),
        _ => Err(Failure::Usage(format!("'{joined}' is too much: KEY = VALUE"))),
    }
}

pub(super) async fn config(args: args::Config, ctx: &Context) -> Result<Outcome, Failure> {
    let replica = ctx.replica(Some(args.file)).await?;
    let joined = args.setting.join(" ");
    let shown: Shown = match (asked(&args.setting, &joined)?, args.unset) {
        (Asked::All, false) => {
            let settings = replica.settings().await?.into_iter().map(Into::into).collect();
            return Ok(Outcome::done(All { settings }));
        }
        (Asked::One(key), false) => replica.setting(key).await?.into(),
        (Asked::Set(key, value), false) => replica.set(key, Some(value)).await?.into(),
        (Asked::One(key), true) => replica.set(key, None).await?.into(),
        (_, true) => {
            let what = "--unset takes a KEY back, and wants nothing else".to_owned();
            return Err(Failure::Usage(what));
        }
    };
    Ok(Outcome::done(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_however_they_are_cut_into_words() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let joined = words.join(" ");
            asked(&words, &joined).map(|asked| format!("{asked:?}")).map_err(|e| e.to_string())
        };
        assert_eq!(read(&[]).unwrap(), "All");
        assert_eq!(read(&["conflict"]).unwrap(), "One(\"conflict\")");
        let set = "Set(\"conflict.a\", \"local\")";
        let words: [&[&str]; 5] = [
            &["conflict.a", "local"],
            &["conflict.a", "=", "local"],
            &["conflict.a=local"],
            &["conflict.a=", "local"],
            &["conflict.a = local"],
        ];
        for words in words {
            assert_eq!(read(words).unwrap(), set, "{words:?}");
        }
        assert_eq!(
            read(&["conflict.\"a=b\" = merge"]).unwrap(),
            "Set(\"conflict.\\\"a=b\\\"\", \"merge\")"
        );
        assert!(read(&["a", "b", "c"]).is_err() && read(&["="]).is_err() && read(&["a="]).is_err());
    }
}
