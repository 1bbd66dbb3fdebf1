//! What every command gets: the global options, and how places are found.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anabranch::{Options, RemoteLog, Replica, Take};

use tokio_util::sync::CancellationToken;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Style;
use crate::progress::Bars;

/// What ends the name of a sidecar.
pub(crate) const SIDECAR_SUFFIX: &str = "-anabranch";

/// What every command gets.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The global options.
    pub(crate) global: Global,
    /// How output is wanted.
    pub(crate) style: Style,
    /// Shows progress.
    pub(crate) bars: Bars,
    /// For commands that go on until they are told to stop.
    pub(crate) stop: CancellationToken,
}

impl Context {
    /// The library's settings.
    pub(crate) fn options(&self) -> Options {
        let mut options = Options::default();
        options.endpoint.clone_from(&self.global.endpoint);
        options.progress = self.bars.progress();
        options.auth_token = self.token().map(Into::into);
        options.encryption_key = self.global.encryption_key.clone().map(Into::into);
        if let Some(timeout) = self.global.busy_timeout {
            options.busy_timeout = timeout;
        }
        options
    }

    /// What proves to a server who asks.
    pub(crate) fn token(&self) -> Option<String> {
        self.global.auth_token.clone().or_else(customary_token)
    }

    /// Opens the replica that was named, or the only one in the current directory.
    pub(crate) async fn replica(&self, file: Option<PathBuf>) -> Result<Replica, Failure> {
        Ok(Replica::open(&named_or_only(file)?, self.options()).await?)
    }

    /// As [`Context::replica`], with a side to take where rows do not decide.
    pub(crate) async fn replica_taking(
        &self,
        file: Option<PathBuf>,
        take: Option<Take>,
    ) -> Result<Replica, Failure> {
        let options = Options { take, ..self.options() };
        Ok(Replica::open(&named_or_only(file)?, options).await?)
    }

    /// Opens the remote that was named, or that of the replica that was named.
    pub(crate) async fn remote_log(&self, place: Option<OsString>) -> Result<RemoteLog, Failure> {
        let file = match place {
            Some(place) if !is_replica(&place) => {
                let opened = RemoteLog::open(&place, self.options()).await;
                return opened.map_err(Failure::at_named_place);
            }
            Some(file) => PathBuf::from(file),
            None => named_or_only(None)?,
        };
        let replica = Replica::open(&file, self.options()).await?;
        Ok(replica.remote_log().await?)
    }
}

/// The token that programs for libSQL servers take from the environment.
fn customary_token() -> Option<String> {
    let tokens = ["LIBSQL_AUTH_TOKEN", "TURSO_AUTH_TOKEN"].iter();
    tokens.filter_map(|name| std::env::var(name).ok()).find(|token| !token.is_empty())
}

/// The path with `suffix` at its end.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a place that may be a remote or a replica is a replica: a file, or what has a sidecar.
fn is_replica(place: &OsStr) -> bool {
    let path = Path::new(place);
    path.is_file() || with_suffix(path, SIDECAR_SUFFIX).is_file()
}

/// The file that was named, or else the only replica in the current directory.
pub(crate) fn named_or_only(file: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match file {
        Some(file) => Ok(file),
        None => only_replica(Path::new(".")),
    }
}

fn only_replica(dir: &Path) -> Result<PathBuf, Failure> {
    let mut found = replicas_in(dir)?;
    if found.len() == 1
        && let Some(file) = found.pop()
    {
        return Ok(file);
    }
    if found.is_empty() {
        return Err(Failure::Usage(
            "which replica? No FILE was named, and the current directory holds none (no \
             *-anabranch sidecar)"
                .to_owned(),
        ));
    }
    found.sort();
    let names: Vec<String> = found.iter().take(5).map(|f| f.display().to_string()).collect();
    let more = if found.len() > 5 { ", ..." } else { "" };
    Err(Failure::Usage(format!(
        "which replica? Name one of those in the current directory: {}{more}",
        names.join(", ")
    )))
}

fn replicas_in(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |source| Failure::File { what: "listing", path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(file) = without_suffix(&name) {
            found.push(PathBuf::from(file));
        }
    }
    Ok(found)
}

/// The name of the database whose sidecar is called `name`.
fn without_suffix(name: &OsStr) -> Option<OsString> {
    let stem = name.as_encoded_bytes().strip_suffix(SIDECAR_SUFFIX.as_bytes())?;
    if stem.is_empty() {
        return None;
    }
    os_string(stem)
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> Option<OsString> {
    use std::os::unix::ffi::OsStrExt as _;
    Some(OsStr::from_bytes(bytes).to_owned())
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> Option<OsString> {
    // Elsewhere a name that is not UTF-8 has to be given on the command line.
    std::str::from_utf8(bytes).ok().map(OsString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_replica_of_a_directory_need_not_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let said = |e: Failure| e.to_string();
        assert!(said(only_replica(dir.path()).unwrap_err()).contains("holds none"));
        std::fs::write(dir.path().join("-anabranch"), "").unwrap();
        std::fs::write(dir.path().join("b c.db-anabranch"), "").unwrap();
        std::fs::write(dir.path().join("b c.db-anabranch-wal"), "").unwrap();
        assert_eq!(only_replica(dir.path()).unwrap(), PathBuf::from("b c.db"));
        std::fs::write(dir.path().join("a.db-anabranch"), "").unwrap();
        let error = only_replica(dir.path()).unwrap_err();
        assert_eq!(error.exit().code(), 2);
        assert!(said(error).contains("a.db, b c.db"));
    }
}
