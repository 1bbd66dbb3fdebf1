//! I2 and I4 with writers on all sides: replicas that were written offline, in any order, by stock
//! SQLite, become the same, and every row that anybody committed is in them or in a journal.
//!
//! By hand, for longer:
//! `CONVERGE_CASES=10000 CONVERGE_SEED=7 cargo test -p anabranch-cli --test converge`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails, and says how many cases it ran")]

use std::path::Path;
use std::process::{Command, Output};

/// Cases of one run, in all.
const CASES_DEFAULT: u64 = 200;

/// Processes at a time. Most of a case is waiting for processes.
const LANES: u64 = 3;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs the script beside this file, which prints the seed of the case that is wrong.
fn converge(first: u64, cases: u64) -> Output {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::TempDir::new_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/converge/converge.py");
    Command::new("python3")
        .args([script, env!("CARGO_BIN_EXE_anabranch")])
        .arg(folder.path())
        .args([first.to_string(), cases.to_string()])
        .output()
        .unwrap()
}

#[test]
fn i2_i4_replicas_written_offline_converge_and_no_row_is_lost() {
    let (seed, cases) = (number("CONVERGE_SEED", 1), number("CONVERGE_CASES", CASES_DEFAULT));
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let share = cases / LANES + u64::from(lane < cases % LANES);
            // Far apart, so that lanes of one run never share a case.
            let first = seed * 1_000_000_000 + lane * 100_000_000;
            std::thread::spawn(move || converge(first, share))
        })
        .collect();
    for lane in lanes {
        let out = lane.join().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        println!("{}", said(&out.stdout));
        assert!(out.status.success(), "{}{}", said(&out.stdout), said(&out.stderr));
    }
}
