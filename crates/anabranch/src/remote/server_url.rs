//! Where a database is on a server.
//!
//! The path of the URL names the database; without one it is the server's default. `libsql://` is
//! how the official libSQL clients write https. Nothing secret is part of a URL here: a token given
//! as user name, password or query is refused, since URLs are remembered and shown.

use std::ffi::OsStr;
use std::fmt;

use url::Url;

/// The text does not say where a server is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerUrlError {
    /// Not a URL.
    #[error("'{text}' is not the URL of a server: {why}")]
    Url {
        /// As typed, shortened, credentials left out.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A user name or password.
    #[error(
        "the URL of {host} holds a user name or password, which would be remembered and shown: \
         leave it out, and give a token by --auth-token or ANABRANCH_AUTH_TOKEN"
    )]
    Credentials {
        /// The host.
        host: String,
    },
    /// A query or fragment.
    #[error(
        "the URL of {host} has a query or fragment, which mean nothing here; a token is given by \
         --auth-token or ANABRANCH_AUTH_TOKEN"
    )]
    Query {
        /// The host.
        host: String,
    },
}

/// The URL of a database on a server: `http` or `https`, no credentials, no query, no fragment, no
/// slash at the end of the path.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    url: Url,
    shown: String,
}

impl ServerUrl {
    /// Reads a URL as people type it; `None` if it is none of a server.
    #[must_use]
    pub fn parse(text: &OsStr) -> Option<Result<Self, ServerUrlError>> {
        let text = text.to_str()?;
        let (scheme, rest) = text.split_once("://")?;
        let plain = match scheme.to_ascii_lowercase().as_str() {
            "http" => true,
            "https" | "libsql" => false,
            _ => return None,
        };
        Some(Self::of(text, plain, rest))
    }

    fn of(text: &str, plain: bool, rest: &str) -> Result<Self, ServerUrlError> {
        let scheme = if plain { "http" } else { "https" };
        let mut url = Url::parse(&format!("{scheme}://{rest}"))
            .map_err(|e| ServerUrlError::Url { text: redacted(text), why: e.to_string() })?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ServerUrlError::Credentials { host });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ServerUrlError::Query { host });
        }
        let path: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
        let path = path.join("/");
        url.set_path(&path);
        let shown = url.as_str().trim_end_matches('/').to_owned();
        Ok(ServerUrl { url, shown })
    }

    /// The address of `path` below the database.
    #[must_use]
    pub fn join(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        let base = self.url.path().trim_end_matches('/');
        url.set_path(&format!("{base}/{path}"));
        url
    }

    /// Whether `url` is at the same server: its name and port, or its standard ports where http became
    /// https. Secrets, and what is pushed, go nowhere else.
    #[must_use]
    pub fn is_home(&self, url: &Url) -> bool {
        let home = &self.url;
        let upgraded = home.scheme() == "http"
            && url.scheme() == "https"
            && home.port().is_none()
            && url.port().is_none();
        home.host() == url.host()
            && (upgraded || home.port_or_known_default() == url.port_or_known_default())
    }
}

/// A text that should be a URL, shortened and without what may be credentials.
fn redacted(text: &str) -> String {
    let shown = match (text.find("://"), text.rfind('@')) {
        (Some(from), Some(to)) if from + 3 < to => {
            format!("{}...{}", &text[..from + 3], &text[to..])
        }
        _ => text.to_owned(),
    };
    let shown = shown.split(['?', '#']).next().unwrap_or_default();
    shown.chars().take(200).collect()
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServerUrl, ServerUrlError> {
        ServerUrl::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn the_path_names_the_database() {
        for (text, shown, head) in [
            ("http://h", "http://h", "http://h/log/head"),
            ("http://h:8080/", "http://h:8080", "http://h:8080/log/head"),
            ("https://h//db//", "https://h/db", "https://h/db/log/head"),
            (
                "libsql://H.example/a/db",
                "https://h.example/a/db",
                "https://h.example/a/db/log/head",
            ),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(url.join("log/head").as_str(), head);
        }
    }

    #[test]
    fn what_would_be_remembered_in_the_clear_is_refused() {
        for text in ["http://user@h/db", "https://u:secret@h/db", "libsql://:secret@h"] {
            let e = parse(text).unwrap_err();
            assert!(matches!(e, ServerUrlError::Credentials { .. }), "{text}: {e}");
            assert!(!e.to_string().contains("secret"));
        }
        for text in ["http://h/db?authToken=secret", "http://h/db#secret"] {
            let e = parse(text).unwrap_err();
            assert!(matches!(e, ServerUrlError::Query { .. }), "{text}: {e}");
            assert!(!e.to_string().contains("secret"));
        }
        let e = parse("http://u:secret@h:99999/db?authToken=secret").unwrap_err();
        assert!(matches!(e, ServerUrlError::Url { .. }), "{e}");
        assert!(!e.to_string().contains("secret"), "{e}");
    }

    #[test]
    fn secrets_stay_with_the_server() {
        let url = |text: &str| Url::parse(text).unwrap();
        let home = parse("http://db.example/x").unwrap();
        for same in ["http://db.example/y", "https://db.example/x", "http://db.example:80/"] {
            assert!(home.is_home(&url(same)), "{same}");
        }
        for other in [
            "http://example/x",
            "http://a.db.example/x",
            "http://db.example:8080/x",
            "https://db.example:8443/x",
        ] {
            assert!(!home.is_home(&url(other)), "{other}");
        }
        assert!(!parse("https://db.example/").unwrap().is_home(&url("http://db.example/")));
    }

    #[test]
    fn other_texts_name_no_server() {
        for text in ["", "http", "http:h", "/http://x", "s3://b", "./https://h"] {
            assert!(ServerUrl::parse(OsStr::new(text)).is_none(), "{text}");
        }
    }
}
