//! The official libSQL client, told over standard input what to do.
//!
//! Each line is a JSON object with `"do"`; each is answered by one line, `{"ok": …}` or `{"error":
//! "…"}` with the library's own text. The process may be killed at any time, as an application may.
//!
//! `libsql-client bench …` measures the library instead, see [`bench`].

mod bench;
mod connector;
mod session;

use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::session::Session;

fn main() -> ExitCode {
    // The library blocks a worker while it opens a database, so one would not do.
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("no runtime: {error}");
                return ExitCode::FAILURE;
            }
        };
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        None => serve(&runtime),
        Some((command, rest)) if command == "bench" => match runtime.block_on(bench::run(rest)) {
            Ok(report) => {
                println!("{report}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        Some(_) => {
            eprintln!("{}", bench::USAGE);
            ExitCode::from(2)
        }
    }
}

/// Reads commands until the input ends.
fn serve(runtime: &Runtime) -> ExitCode {
    let mut session = Session::default();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return ExitCode::FAILURE };
        let answer = match serde_json::from_str::<Value>(&line) {
            Ok(command) => match runtime.block_on(Box::pin(session.obey(&command))) {
                Ok(done) => json!({ "ok": done }),
                Err(error) => json!({ "error": error.to_string() }),
            },
            Err(error) => json!({ "error": format!("not a command: {error}: {line}") }),
        };
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
