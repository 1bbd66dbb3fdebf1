//! I4: whatever stock SQLite does to one replica, the other becomes the same.
//!
//! By hand, for longer: `TORTURE_ROUNDS=500 TORTURE_SEED=7 cargo test -p anabranch-cli --test torture`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs the script beside this file, which prints its seed if something is wrong.
fn torture(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/torture.py");
    let out = Command::new("python3")
        .args([script, env!("CARGO_BIN_EXE_anabranch")])
        .arg(folder.path())
        .args([seed.to_string(), number("TORTURE_ROUNDS", 40).to_string()])
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{}{}", said(&out.stdout), said(&out.stderr));
}

#[test]
fn i4_two_replicas_stay_the_same_through_random_sql() {
    torture(number("TORTURE_SEED", 1));
}

#[test]
fn i4_two_replicas_stay_the_same_through_other_random_sql() {
    torture(number("TORTURE_SEED", 1) + 1);
}
