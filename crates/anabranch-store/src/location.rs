//! Where a remote is.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

/// Where a remote is: a folder or a bucket.
///
/// Printed as typed, with credentials and queries left out.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    pub(crate) place: Place,
    shown: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Folder(PathBuf),
    Bucket { scheme: Scheme, bucket: String, prefix: String },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scheme {
    S3,
    Google,
    Azure,
}

/// The text does not say where a remote is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// Nothing was given.
    #[error("the remote is empty: give a folder, or a URL such as s3://bucket/prefix")]
    Empty,
    /// Not a URL.
    #[error("'{text}' is not a URL: {why}")]
    Url {
        /// As typed, shortened.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A kind of URL that is not known.
    #[error("'{scheme}:' remotes are not known; use a folder, file:, s3://, gs:// or az://")]
    Scheme {
        /// The part before the colon.
        scheme: String,
    },
    /// No bucket.
    #[error("the URL names no bucket: write {scheme}://BUCKET/PREFIX")]
    NoBucket {
        /// The part before the colon.
        scheme: String,
    },
    /// A URL of a known kind with something else than two slashes after the colon.
    #[error(
        "'{scheme}:' is followed by '//BUCKET/PREFIX'; for a folder whose name begins like this, \
         write ./{scheme}:..."
    )]
    Slashes {
        /// The part before the colon.
        scheme: String,
    },
    /// A query or fragment, which would be ignored.
    #[error(
        "the URL has a query or fragment, which mean nothing here: settings come from the \
         environment and options, and a '?' or '#' in a name is written %3F or %23"
    )]
    Query,
}

impl Location {
    /// Reads a path or URL as people type it.
    pub fn parse(text: &OsStr) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        let Some(utf8) = text.to_str() else { return Ok(Self::folder(text)) };
        let scheme = utf8.split_once("://").map(|(scheme, _)| scheme);
        if utf8.starts_with("file:") {
            return Self::file_url(utf8);
        }
        match scheme {
            Some(s)
                if !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+') =>
            {
                Self::bucket_url(utf8)
            }
            _ => match utf8.split_once(':') {
                Some((scheme, _)) if is_bucket_scheme(scheme) => {
                    Err(LocationError::Slashes { scheme: scheme.to_owned() })
                }
                _ => Ok(Self::folder(text)),
            },
        }
    }

    /// The folder `path`.
    #[must_use]
    pub fn folder(path: impl Into<OsString>) -> Self {
        let path = PathBuf::from(path.into());
        Location { shown: path.display().to_string(), place: Place::Folder(path) }
    }

    fn file_url(text: &str) -> Result<Self, LocationError> {
        let url = parse_url(text)?;
        let bad = |why: &str| LocationError::Url { text: shorten(text), why: why.to_owned() };
        if !text["file:".len()..].starts_with('/') {
            return Err(bad("write file:/absolute/path"));
        }
        refuse_settings(&url)?;
        let path = url.to_file_path().map_err(|()| bad("it names no local path"))?;
        Ok(Location { shown: shown(&url), place: Place::Folder(path) })
    }

    fn bucket_url(text: &str) -> Result<Self, LocationError> {
        let url = parse_url(text)?;
        let scheme = bucket_scheme(url.scheme())
            .ok_or_else(|| LocationError::Scheme { scheme: shorten(url.scheme()) })?;
        let bucket = url
            .host_str()
            .filter(|h| !h.is_empty())
            .ok_or_else(|| LocationError::NoBucket { scheme: url.scheme().to_owned() })?;
        refuse_settings(&url)?;
        let prefix = object_store::path::Path::from_url_path(url.path())
            .map_err(|e| LocationError::Url { text: shorten(text), why: e.to_string() })?;
        let place = Place::Bucket { scheme, bucket: bucket.to_owned(), prefix: prefix.to_string() };
        Ok(Location { shown: shown(&url), place })
    }

    /// The folder, if it is one.
    #[must_use]
    pub fn is_folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(path) => Some(path),
            Place::Bucket { .. } => None,
        }
    }
}

fn bucket_scheme(scheme: &str) -> Option<Scheme> {
    match scheme {
        "s3" | "s3a" => Some(Scheme::S3),
        "gs" => Some(Scheme::Google),
        "az" | "azure" => Some(Scheme::Azure),
        _ => None,
    }
}

/// Whether a text before a colon was surely meant to name a bucket or a server.
fn is_bucket_scheme(scheme: &str) -> bool {
    let scheme = scheme.to_ascii_lowercase();
    bucket_scheme(&scheme).is_some() || matches!(scheme.as_str(), "http" | "https")
}

fn refuse_settings(url: &Url) -> Result<(), LocationError> {
    let has = url.query().is_some() || url.fragment().is_some();
    if has { Err(LocationError::Query) } else { Ok(()) }
}

fn parse_url(text: &str) -> Result<Url, LocationError> {
    Url::parse(text).map_err(|e| LocationError::Url { text: redacted(text), why: e.to_string() })
}

/// A text that should be a URL, shortened and without credentials.
pub(crate) fn redacted(text: &str) -> String {
    shorten(&redact(text))
}

/// Cuts out what stands between `//` and `@` in a text that may not even be a URL.
fn redact(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(from), Some(to)) if from + 3 < to => {
            format!("{}...{}", &text[..from + 3], &text[to..])
        }
        _ => text.to_owned(),
    }
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for URLs without a host, which have no credentials either.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, LocationError> {
        Location::parse(OsStr::new(text))
    }

    #[test]
    fn paths_and_urls_are_told_apart() {
        for path in ["/a/b", "a b", "./x", "C:\\x", "with:colon", "a@b"] {
            assert_eq!(parse(path).unwrap().is_folder(), Some(Path::new(path)), "{path}");
        }
        assert_eq!(parse("file:///a/b%20c").unwrap().is_folder(), Some(Path::new("/a/b c")));
        assert_eq!(parse("file:/a").unwrap().is_folder(), Some(Path::new("/a")));
        let s3 = parse("s3://bucket/some/prefix/").unwrap();
        let expected = Place::Bucket {
            scheme: Scheme::S3,
            bucket: "bucket".into(),
            prefix: "some/prefix".into(),
        };
        assert_eq!(s3.place, expected);
        assert!(s3.is_folder().is_none());
        parse("gs://b").unwrap();
        parse("az://container/x").unwrap();
    }

    #[test]
    fn what_is_not_a_place_is_refused() {
        assert_eq!(parse(""), Err(LocationError::Empty));
        assert!(matches!(parse("http://host/x"), Err(LocationError::Scheme { .. })));
        assert!(matches!(parse("file:rel"), Err(LocationError::Url { .. })));
        assert!(matches!(
            parse("s3:///x"),
            Err(LocationError::NoBucket { .. } | LocationError::Url { .. })
        ));
        assert_eq!(parse("s3://b/x?versionId=3"), Err(LocationError::Query));
        for text in ["file:///path/x#1", "file:///path/x?y", "s3://b/x#1"] {
            assert_eq!(parse(text), Err(LocationError::Query), "{text}");
        }
        assert_eq!(parse("file:///a/b%231").unwrap().is_folder(), Some(Path::new("/a/b#1")));
        for text in ["s3:bucket/x", "s3:/bucket/x", "S3:x", "gs:b", "az:b", "https:host"] {
            assert!(matches!(parse(text), Err(LocationError::Slashes { .. })), "{text}");
        }
        assert!(parse("./s3:bucket/x").unwrap().is_folder().is_some());
    }

    #[test]
    fn credentials_are_not_shown() {
        let location = parse("s3://key:secret@bucket/x").unwrap();
        assert!(!format!("{location} {location:?}").contains("secret"));
        let error = parse("s3://key:secret@:99999/x").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
