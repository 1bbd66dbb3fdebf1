//! Checks that the bundled SQLite was compiled with the parts this crate stands on.
//!
//! The flags come from the environment of the *outermost* build (`.cargo/config.toml` is not
//! inherited by crates that depend on this one), so a missing flag is the usual first mistake of a
//! new user of the library. Better to say so here, with the lines to copy, than to fail at run time.

use std::path::Path;

/// What must stand in the compiled library: a symbol or a compile option's text, and its flag.
const NEEDED: [(&str, &str); 2] = [
    ("ENABLE_DBPAGE_VTAB", "-DSQLITE_ENABLE_DBPAGE_VTAB"),
    ("ENABLE_SNAPSHOT", "-DSQLITE_ENABLE_SNAPSHOT"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBSQLITE3_FLAGS");
    // Absent when a system SQLite is linked; then the check at open decides.
    let Some(dir) = std::env::var_os("DEP_SQLITE3_LIB_DIR") else { return };
    let Some(library) = ["libsqlite3.a", "sqlite3.lib"]
        .iter()
        .find_map(|name| std::fs::read(Path::new(&dir).join(name)).ok())
    else {
        return;
    };
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(text, _)| !library.windows(text.len()).any(|w| w == text.as_bytes()))
        .map(|(_, flag)| *flag)
        .collect();
    if missing.is_empty() {
        return;
    }
    println!(
        "cargo::error=the bundled SQLite was compiled without {}. Put these two lines into \
         .cargo/config.toml of your workspace (or set the variable for this build):",
        missing.join(" and ")
    );
    println!("cargo::error=    [env]");
    println!(
        "cargo::error=    LIBSQLITE3_FLAGS = \"-DSQLITE_ENABLE_DBPAGE_VTAB \
         -DSQLITE_ENABLE_SESSION -DSQLITE_ENABLE_PREUPDATE_HOOK -DSQLITE_ENABLE_SNAPSHOT\""
    );
}
