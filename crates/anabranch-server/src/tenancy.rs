//! Which database a request is for, and what is asked of it.
//!
//! By path: `/NAME/sync/1/2/3`, or `/sync/1/2/3` for the database `default`. By host: the label
//! before the server's domain. Never both, so that nobody reaches one database under the name of
//! another. Repeated slashes count once and one at the end does not count: real clients send both.

use anabranch_store::DatabaseName;
use hyper::header::HOST;
use hyper::http::request::Parts;

use crate::config::TenantBy;
use crate::error::ApiError;

/// Longest name of a database on a server: it must fit a label of a host name.
const NAME_BYTES_MAX: usize = 63;

/// No path has more segments.
const SEGMENTS_MAX: usize = 16;

/// First segments that mean an endpoint of the database `default`. They are reserved as names.
const ENDPOINTS: [&str; 8] = ["dev", "export", "info", "log", "sync", "v2", "v3", "v3-protobuf"];

/// First segments that mean the server itself.
const OF_SERVER: [&str; 4] = ["admin", "livez", "readyz", "version"];

/// What a path is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The server: the whole path, cut at its slashes.
    Server(Vec<String>),
    /// A database, and what of it.
    Database(DatabaseName, Vec<String>),
}

/// What the request is about.
pub(crate) fn target(by: &TenantBy, parts: &Parts) -> Result<Target, ApiError> {
    let segments = segments(parts.uri.path())?;
    if segments.first().is_some_and(|first| OF_SERVER.contains(&first.as_str())) {
        return Ok(Target::Server(segments));
    }
    match by {
        TenantBy::Host(domain) => {
            let name = of_host(&host(parts)?, domain)?;
            Ok(Target::Database(name, segments))
        }
        TenantBy::Path => {
            let endpoint = |first: &String| ENDPOINTS.contains(&first.as_str());
            if segments.first().is_none_or(endpoint) {
                return Ok(Target::Database(DatabaseName::default_name(), segments));
            }
            let mut segments = segments;
            let first = segments.remove(0);
            Ok(Target::Database(name(&first)?, segments))
        }
    }
}

fn segments(path: &str) -> Result<Vec<String>, ApiError> {
    let segments: Vec<String> =
        path.split('/').filter(|s| !s.is_empty()).take(SEGMENTS_MAX + 1).map(Into::into).collect();
    if segments.len() > SEGMENTS_MAX {
        return Err(ApiError::no_endpoint(path));
    }
    Ok(segments)
}

/// The name of a database, as servers take them.
pub(crate) fn name(text: &str) -> Result<DatabaseName, ApiError> {
    let shown: String = text.chars().take(80).collect();
    let refuse = |message: String| {
        ApiError::new(hyper::StatusCode::NOT_FOUND, "invalid-name", message)
            .with("database", shown.as_str())
    };
    if text.len() > NAME_BYTES_MAX || text.contains('.') {
        return Err(refuse(format!(
            "'{shown}' cannot name a database of a server: use 1 to {NAME_BYTES_MAX} characters of \
             a-z, 0-9, '-' and '_', beginning with a letter or digit"
        )));
    }
    text.parse::<DatabaseName>().map_err(|e| refuse(e.to_string()))
}

/// The host that the client wrote: lower case, without port and without a dot at its end.
pub(crate) fn host(parts: &Parts) -> Result<String, ApiError> {
    let written = match parts.uri.host() {
        Some(host) => Some(host),
        None => parts.headers.get(HOST).and_then(|value| value.to_str().ok()),
    };
    let written = written.ok_or_else(|| ApiError::bad_request("the request has no Host"))?;
    let host = match written.strip_prefix('[') {
        // An IPv6 address in brackets.
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => written.rsplit_once(':').map_or(written, |(host, _)| host),
    };
    Ok(host.trim_end_matches('.').to_ascii_lowercase())
}

fn of_host(host: &str, domain: &str) -> Result<DatabaseName, ApiError> {
    if host == domain {
        return Ok(DatabaseName::default_name());
    }
    let label = host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.'));
    match label {
        Some(label) => name(label),
        None => {
            let shown: String = host.chars().take(80).collect();
            Err(ApiError::new(
                hyper::StatusCode::MISDIRECTED_REQUEST,
                "other-host",
                format!("'{shown}' is no host of this server: databases are at NAME.{domain}"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(by: &TenantBy, host: &str, uri: &str) -> Result<Target, &'static str> {
        let request = hyper::Request::builder().uri(uri).header(HOST, host).body(()).unwrap();
        target(by, &request.into_parts().0).map_err(|e| e.code)
    }

    fn database(name: &str, rest: &[&str]) -> Result<Target, &'static str> {
        let rest = rest.iter().map(|s| (*s).to_owned()).collect();
        Ok(Target::Database(name.parse().unwrap(), rest))
    }

    #[test]
    fn the_first_segment_names_the_database() {
        let by = TenantBy::Path;
        let path = |uri: &str| ask(&by, "x", uri);
        assert_eq!(path("/notes/info"), database("notes", &["info"]));
        assert_eq!(path("/info"), database("default", &["info"]));
        assert_eq!(path("/"), database("default", &[]));
        assert_eq!(path("//notes//sync/1//2/3/"), database("notes", &["sync", "1", "2", "3"]));
        assert_eq!(path("/default/log/head?after=1"), database("default", &["log", "head"]));
        let admin = vec!["admin".to_owned(), "v1".to_owned()];
        assert_eq!(path("/admin/v1/"), Ok(Target::Server(admin)));
        for bad in ["/Notes/info", "/a.b/info", "/_x/info", "/metrics/info", "/a%2fb/info"] {
            assert_eq!(path(bad), Err("invalid-name"), "{bad}");
        }
        assert_eq!(path(&format!("/{}/info", "a".repeat(64))), Err("invalid-name"));
        assert_eq!(path(&"/a".repeat(40)), Err("no-endpoint"));
    }

    #[test]
    fn the_first_label_names_the_database() {
        let by = TenantBy::Host("localhost".into());
        let at = |host: &str, uri: &str| ask(&by, host, uri);
        assert_eq!(at("db1.localhost:8080", "/info"), database("db1", &["info"]));
        assert_eq!(at("DB1.LocalHost.", "/info"), database("db1", &["info"]));
        assert_eq!(at("localhost", "/info"), database("default", &["info"]));
        // The path is never looked at for a name.
        assert_eq!(at("a.localhost", "/b/info"), database("a", &["b", "info"]));
        for (host, code) in [
            ("127.0.0.1:8080", "other-host"),
            ("[::1]:8080", "other-host"),
            ("evil.example", "other-host"),
            ("xlocalhost", "other-host"),
            ("a.b.localhost", "invalid-name"),
            (".localhost", "invalid-name"),
        ] {
            assert_eq!(at(host, "/info"), Err(code), "{host}");
        }
    }
}
