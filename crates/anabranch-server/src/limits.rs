//! Who may ask at all while no token is wanted.
//!
//! Without tokens a server answers local programs only. A browser on the same machine would carry
//! requests of any web page to it; so requests that name a foreign origin or a host that is not this
//! machine are refused.

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::ORIGIN;
use hyper::http::request::Parts;

use crate::error::ApiError;
use crate::tenancy;

/// Refuses what a web page may have sent.
pub(crate) fn check_local(parts: &Parts) -> Result<(), ApiError> {
    let foreign = |what: &str| {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "foreign",
            format!("without tokens this server answers local programs only, and {what}"),
        )
    };
    if !is_local(&tenancy::host(parts)?) {
        return Err(foreign("the Host of this request is not this machine"));
    }
    let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(()) };
    let host = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .map(|(_, host)| host.rsplit_once(':').map_or(host, |(host, _)| host));
    if host.is_some_and(is_local) {
        return Ok(());
    }
    Err(foreign("this request comes from a web page"))
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_pages_are_told_from_local_programs() {
        let ask = |host: &str, origin: Option<&str>| {
            let mut request = hyper::Request::builder().uri("/info").header("host", host);
            if let Some(origin) = origin {
                request = request.header(ORIGIN, origin);
            }
            check_local(&request.body(()).unwrap().into_parts().0).is_ok()
        };
        assert!(ask("127.0.0.1:8080", None) && ask("[::1]:80", None) && ask("a.localhost", None));
        assert!(ask("localhost", Some("http://localhost:3000")));
        assert!(!ask("evil.example", None), "a name that was bent to point here");
        assert!(!ask("localhost", Some("https://evil.example")));
        assert!(!ask("localhost", Some("null")));
    }
}
