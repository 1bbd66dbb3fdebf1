//! Settings of one replica, kept in its sidecar: what is done about conflicts.
//!
//! | key | values |
//! |---|---|
//! | `conflict` | `local`, `remote`, `merge`, `abort`: for all tables |
//! | `conflict.TABLE` | the same, for one table |
//! | `conflict.TABLE.insert` | `renumber`, `local`, `remote`, `abort`: where both sides inserted a row under one key |
//!
//! A table whose name holds a dot or a quote is written in double quotes, as in SQL. SQLite does not
//! tell cases apart in names, so neither is it done here.

use std::fmt;
use std::str::FromStr;

use anabranch_rebase::{InsertRule, Policy, Rules};
use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::sidecar::Sidecar;

/// The table; also made where a sidecar of an earlier version has none.
pub(crate) const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS setting(key TEXT PRIMARY KEY, value TEXT NOT NULL);";

/// What a setting is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// The policy of a table, or of all.
    Policy(Option<String>),
    /// The rule of a table for rows inserted on both sides.
    Insert(String),
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || {
            Error::Usage(format!(
                "there is no setting '{text}': there are `conflict`, `conflict.TABLE` and \
                 `conflict.TABLE.insert` (a TABLE with dots in its name in double quotes)"
            ))
        };
        if text == "conflict" {
            return Ok(Key::Policy(None));
        }
        let rest = text.strip_prefix("conflict.").ok_or_else(unknown)?;
        let (table, rest) = table_of(rest).ok_or_else(unknown)?;
        match rest {
            _ if table.is_empty() => Err(unknown()),
            "" => Ok(Key::Policy(Some(table))),
            ".insert" => Ok(Key::Insert(table)),
            _ => Err(unknown()),
        }
    }
}

/// A table's name at the start of `text`, in lower case, and what follows it.
fn table_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        return Some((text[..end].to_ascii_lowercase(), &text[end..]));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.next_if(|(_, c)| *c == '"').is_some() {
            name.push('"');
        } else {
            return Some((name.to_ascii_lowercase(), &quoted[at + 1..]));
        }
    }
    None
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, end) = match self {
            Key::Policy(None) => return f.write_str("conflict"),
            Key::Policy(Some(table)) => (table, ""),
            Key::Insert(table) => (table, ".insert"),
        };
        if table.contains(['.', '"']) {
            write!(f, "conflict.\"{}\"{end}", table.replace('"', "\"\""))
        } else {
            write!(f, "conflict.{table}{end}")
        }
    }
}

/// A word that stands for a plain enum.
fn word<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

fn word_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a word for a plain enum, not {other:?}"),
    }
}

impl Key {
    /// Fails if `value` is none that the setting can have.
    pub(crate) fn check(&self, value: &str) -> Result<(), Error> {
        let (known, choices) = match self {
            Key::Policy(_) => (word::<Policy>(value).is_some(), "local, remote, merge or abort"),
            Key::Insert(_) => {
                (word::<InsertRule>(value).is_some(), "renumber, local, remote or abort")
            }
        };
        match known {
            true => Ok(()),
            false => Err(Error::Usage(format!("{self} can be {choices}, not '{value}'"))),
        }
    }

    fn apply(&self, value: &str, rules: &mut Rules) -> Option<()> {
        match self {
            Key::Policy(None) => rules.policy = word(value)?,
            Key::Policy(Some(table)) => {
                rules.tables.entry(table.clone()).or_default().policy = Some(word(value)?);
            }
            Key::Insert(table) => {
                rules.tables.entry(table.clone()).or_default().insert = Some(word(value)?);
            }
        }
        Some(())
    }
}

impl Sidecar {
    /// All settings that were made, by key.
    pub(crate) fn settings(&self) -> Result<Vec<(String, String)>, Error> {
        self.run(|conn| {
            let mut statement = conn.prepare("SELECT key, value FROM setting ORDER BY key")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }

    /// One setting, if it was made.
    pub(crate) fn setting(&self, key: &Key) -> Result<Option<String>, Error> {
        let key = key.to_string();
        self.run(|conn| {
            conn.query_row("SELECT value FROM setting WHERE key = ?1", [key], |row| row.get(0))
                .optional()
        })
    }

    /// Makes a setting, or takes it back.
    pub(crate) fn set(&self, key: &Key, value: Option<&str>) -> Result<(), Error> {
        let name = key.to_string();
        self.run(|conn| match value {
            Some(value) => conn
                .execute("REPLACE INTO setting(key, value) VALUES (?1, ?2)", params![name, value]),
            None => conn.execute("DELETE FROM setting WHERE key = ?1", [name]),
        })?;
        Ok(())
    }

    /// The rules that the settings make.
    pub(crate) fn rules(&self) -> Result<Rules, Error> {
        let mut rules = Rules::default();
        for (key, value) in self.settings()? {
            let applied = key.parse::<Key>().ok().and_then(|key| key.apply(&value, &mut rules));
            let damaged = || self.damaged(&format!("it says '{key} = {value}'"));
            applied.ok_or_else(damaged)?;
        }
        Ok(rules)
    }
}

/// What holds where nothing was set.
pub(crate) fn default_of(key: &Key) -> String {
    match key {
        Key::Policy(_) => word_of(&Policy::default()),
        Key::Insert(_) => "renumber where SQLite chose the key, else the table's policy".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for (text, key) in [
            ("conflict", Key::Policy(None)),
            ("conflict.note", Key::Policy(Some("note".into()))),
            ("conflict.insert", Key::Policy(Some("insert".into()))),
            ("conflict.note.insert", Key::Insert("note".into())),
            ("conflict.\"a.insert\"", Key::Policy(Some("a.insert".into()))),
            ("conflict.\"a\"\"b\".insert", Key::Insert("a\"b".into())),
        ] {
            assert_eq!(text.parse::<Key>().unwrap(), key);
            assert_eq!(key.to_string(), text);
        }
        assert_eq!("conflict.NOTE".parse::<Key>().unwrap().to_string(), "conflict.note");
        let wrong =
            ["", "conflicts", "conflict.", "conflict.a.b", "conflict.\"a", "conflict.\"a\"b"];
        for text in wrong {
            assert!(matches!(text.parse::<Key>(), Err(Error::Usage(_))), "{text}");
        }
    }

    #[test]
    fn values_are_those_of_the_setting() {
        let policy = Key::Policy(None);
        let insert = Key::Insert("t".into());
        assert!(policy.check("merge").is_ok() && policy.check("renumber").is_err());
        assert!(insert.check("renumber").is_ok() && insert.check("merge").is_err());
        let mut rules = Rules::default();
        insert.apply("abort", &mut rules).unwrap();
        Key::Policy(Some("t".into())).apply("remote", &mut rules).unwrap();
        assert_eq!(rules.insert_rule_of("T"), Some(InsertRule::Abort));
        assert_eq!((rules.policy_of("T"), rules.policy_of("u")), (Policy::Remote, Policy::Local));
        assert_eq!(default_of(&policy), "local");
    }
}
