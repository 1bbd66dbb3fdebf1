//! Our own program: builds it if need be, and runs its commands.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::file::sqlite;

/// The program `anabranch`: what `ANABRANCH_BIN` names, else built from the workspace above.
///
/// # Panics
///
/// If it cannot be built.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let Some(given) = env::var_os("ANABRANCH_BIN").map(PathBuf::from) else { return build() };
        given.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", given.display()))
    })
}

/// A program that dies at named points: [`program`] if it was built with them (`cargo test` of the
/// workspace does), else one that is built here.
///
/// # Panics
///
/// If it cannot be built, or does not die.
pub fn program_with_crash_points() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if has_crash_points(program()) {
            return program().to_owned();
        }
        eprintln!("{} has no crash points: building one that has", program().display());
        let built = build();
        assert!(has_crash_points(&built), "{} does not die at its crash points", built.display());
        built
    })
}

fn build() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--package", "anabranch-cli", "--features", "failpoints"])
        .current_dir(&workspace)
        // Empty in this project, and full of options in that one.
        .env_remove("LIBSQLITE3_FLAGS")
        .status()
        .expect("cargo can be started");
    assert!(built.success(), "cargo build -p anabranch-cli: {built}");
    let target = env::var_os("CARGO_TARGET_DIR").map_or(workspace.join("target"), PathBuf::from);
    let path = target.join("debug").join("anabranch");
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Whether `program` dies where `FAILPOINTS` tells it to.
fn has_crash_points(program: &Path) -> bool {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let db = dir.path().join("app.db");
    sqlite(&db, "CREATE TABLE t(x)");
    let ended = Command::new(program)
        .arg("init")
        .arg(&db)
        .arg("--remote")
        .arg(dir.path().join("remote"))
        .env("FAILPOINTS", "init::after-name=return")
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started");
    ended.status.code().is_none()
}

/// What a run of the program ended with.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The exit code, -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Our program, used as a client against one database of a server.
#[derive(Debug, Clone)]
pub struct Ours {
    url: String,
    token: Option<String>,
}

impl Ours {
    /// For the remote at `url`.
    #[must_use]
    pub fn new(url: &str, token: Option<&str>) -> Self {
        Ours { url: url.to_owned(), token: token.map(str::to_owned) }
    }

    /// Runs the program with these arguments.
    ///
    /// # Panics
    ///
    /// If it cannot be started, or panics.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        let mut command = Command::new(program());
        command.args(args).stdin(Stdio::null());
        for (name, _) in env::vars_os() {
            let own = name.to_string_lossy();
            if own.starts_with("ANABRANCH_") || own == "RUST_BACKTRACE" || own == "FAILPOINTS" {
                command.env_remove(&name);
            }
        }
        if let Some(token) = &self.token {
            command.env("ANABRANCH_AUTH_TOKEN", token);
        }
        let output = command.output().expect("the program can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ended = Ended {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        ended
    }

    /// Runs the program, which must succeed; answers what it printed.
    ///
    /// # Panics
    ///
    /// If it does not succeed.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out
    }

    /// Clones the remote to `db`.
    ///
    /// # Panics
    ///
    /// If it does not succeed.
    #[track_caller]
    pub fn clone_to(&self, db: &Path) {
        self.ok([OsStr::new("clone"), OsStr::new(&self.url), db.as_os_str()]);
    }

    /// Publishes `db` at the remote.
    ///
    /// # Panics
    ///
    /// If it does not succeed.
    #[track_caller]
    pub fn init(&self, db: &Path) {
        let args = ["init".as_ref(), db.as_os_str(), "--remote".as_ref(), self.url.as_ref()];
        self.ok(args);
    }

    /// Syncs `db` with its remote; answers the program's JSON.
    ///
    /// # Panics
    ///
    /// If it does not succeed.
    #[track_caller]
    pub fn sync(&self, db: &Path) -> Value {
        let said = self.ok(["sync".as_ref(), "--json".as_ref(), db.as_os_str()]);
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
    }

    /// Syncs `db` with its remote, whatever comes of it.
    pub fn try_sync(&self, db: &Path) -> Ended {
        self.run(["sync".as_ref(), "--json".as_ref(), db.as_os_str()])
    }
}
