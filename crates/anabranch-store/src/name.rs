//! Names of databases in a remote.

use std::fmt;
use std::str::FromStr;

/// Name of a database in a remote: 1 to 64 characters of a-z, 0-9, `-`, `_` and `.`, beginning with
/// a letter or digit. Names that a server needs for itself are refused everywhere, so that a
/// remote can be put behind a server later.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabaseName(Box<str>);

/// The text cannot name a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// Wrong characters or length.
    #[error(
        "'{0}' cannot name a database: use 1 to 64 characters of a-z, 0-9, '-', '_' and '.', \
         beginning with a letter or digit"
    )]
    Characters(String),
    /// A name that a server needs for itself.
    #[error("'{0}' cannot name a database: servers use this name themselves")]
    Reserved(String),
}

const NAME_BYTES_MAX: usize = 64;

/// First path segments that mean something else to a server.
const RESERVED: [&str; 18] = [
    "admin",
    "api",
    "dev",
    "export",
    "favicon.ico",
    "health",
    "healthz",
    "info",
    "livez",
    "log",
    "metrics",
    "readyz",
    "robots.txt",
    "sync",
    "v1",
    "v2",
    "v3",
    "version",
];

impl DatabaseName {
    /// The name that is used where a remote holds one database only.
    #[must_use]
    pub fn default_name() -> Self {
        DatabaseName("default".into())
    }

    /// The name as text; safe as part of an object name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatabaseName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let plain = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
        let fits = |b: u8| plain(b) || matches!(b, b'-' | b'_' | b'.');
        let shown = || text.chars().take(80).collect();
        if text.len() > NAME_BYTES_MAX
            || !text.bytes().next().is_some_and(plain)
            || !text.bytes().all(fits)
        {
            return Err(InvalidName::Characters(shown()));
        }
        if RESERVED.contains(&text) {
            return Err(InvalidName::Reserved(shown()));
        }
        Ok(DatabaseName(text.into()))
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseName({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_object_names_and_leave_a_servers_own_alone() {
        for good in ["default", "app", "a.b-c_d", "0"] {
            assert_eq!(good.parse::<DatabaseName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "a/b", "A", "a b", "ä", &"x".repeat(65)] {
            assert!(
                matches!(bad.parse::<DatabaseName>(), Err(InvalidName::Characters(_))),
                "{bad}"
            );
        }
        for reserved in RESERVED {
            assert!(matches!(reserved.parse::<DatabaseName>(), Err(InvalidName::Reserved(_))));
        }
    }
}
