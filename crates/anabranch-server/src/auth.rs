//! Who may do what: static bearer tokens from a file.
//!
//! A line of the file is a token, or `read`, a space and a token for one that may only read. Empty
//! lines and lines that begin with `#` mean nothing. Tokens are compared in constant time, so that
//! the time of an answer tells nothing about them.

use std::fmt;
use std::path::{Path, PathBuf};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use crate::error::ApiError;

/// A token file is no longer than this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Write,
    /// Look.
    Read,
}

/// The tokens of a server. Printed without them.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens(Vec<(String, bool)>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// It cannot be read.
    #[error("reading the tokens in {path} failed", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is longer than any list of tokens.
    #[error("{path} is longer than {FILE_BYTES_MAX} bytes: it is no list of tokens", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It has none.
    #[error("{path} holds no token: write one into a line of its own", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A token that no header could carry.
    #[error(
        "line {line} of {path} is no token: expected visible ASCII characters without spaces, or \
         'read' and such a token",
        path = path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl Tokens {
    /// Reads a file of tokens.
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let failed = |source| TokensError::Io { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
            return Err(TokensError::TooLong { path: path.to_owned() });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(failed)?, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, TokensError> {
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (token, writes) = match line.strip_prefix("read ") {
                Some(token) => (token.trim_start(), false),
                None => (line, true),
            };
            if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(TokensError::Malformed { path: path.to_owned(), line: index + 1 });
            }
            tokens.push((token.to_owned(), writes));
        }
        if tokens.is_empty() {
            return Err(TokensError::Empty { path: path.to_owned() });
        }
        Ok(Tokens(tokens))
    }

    fn find(&self, given: &str) -> Option<Access> {
        // All are compared, whichever fits.
        self.0.iter().fold(None, |found, (token, writes)| {
            let same = bool::from(token.as_bytes().ct_eq(given.as_bytes()));
            match same {
                true if *writes => Some(Access::Write),
                true => found.or(Some(Access::Read)),
                false => found,
            }
        })
    }
}

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAccess {
    /// There is none.
    Missing,
    /// Nobody knows it.
    Unknown,
}

impl From<NoAccess> for ApiError {
    fn from(no: NoAccess) -> Self {
        match no {
            NoAccess::Missing => ApiError::no_token(),
            NoAccess::Unknown => ApiError::wrong_token(),
        }
    }
}

/// What the request with these headers may do.
pub(crate) fn access(tokens: Option<&Tokens>, headers: &HeaderMap) -> Result<Access, NoAccess> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    access_of(tokens, token)
}

/// What whoever has this token may do.
pub(crate) fn access_of(tokens: Option<&Tokens>, token: Option<&str>) -> Result<Access, NoAccess> {
    let Some(tokens) = tokens else { return Ok(Access::Write) };
    // Official clients send an empty token where they have none.
    match token.filter(|token| !token.is_empty()) {
        None => Err(NoAccess::Missing),
        Some(token) => tokens.find(token).ok_or(NoAccess::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Tokens, TokensError> {
        Tokens::parse(text, Path::new("tokens"))
    }

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_token_opens_what_its_line_says() {
        let tokens = tokens("# ours\n\nalpha\n read  beta \n").unwrap();
        let ask = |value: &str| access(Some(&tokens), &with(value));
        assert_eq!(ask("Bearer alpha"), Ok(Access::Write));
        assert_eq!(ask("bearer  beta"), Ok(Access::Read));
        assert_eq!(ask("Bearer gamma"), Err(NoAccess::Unknown));
        assert_eq!(ask("Bearer "), Err(NoAccess::Missing));
        assert_eq!(ask("Bearer"), Err(NoAccess::Missing));
        assert_eq!(ask("Basic alpha"), Err(NoAccess::Missing));
        assert_eq!(access(Some(&tokens), &HeaderMap::new()), Err(NoAccess::Missing));
        assert_eq!(access(None, &with("Bearer")), Ok(Access::Write));
        assert_eq!(ApiError::from(NoAccess::Unknown).status, 401);
        assert!(!format!("{tokens:?}").contains("alpha"));
    }

    #[test]
    fn what_is_no_list_of_tokens_is_refused() {
        assert!(matches!(tokens("# nothing\n"), Err(TokensError::Empty { .. })));
        assert!(matches!(tokens("a\nb c\n"), Err(TokensError::Malformed { line: 2, .. })));
        assert!(matches!(tokens("read \n"), Err(TokensError::Malformed { line: 1, .. }) | Ok(_)));
        assert!(matches!(Tokens::read(Path::new("/nowhere/x")), Err(TokensError::Io { .. })));
    }
}
