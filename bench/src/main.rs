//! Workloads and measurements of Anabranch, each beside its peer or limit in the same run.
//!
//! ```text
//! cargo run --release -p anabranch-bench -- [--dir DIR] [--rounds N] [--program FILE]
//!                                           [--litestream FILE] [--libsql-client FILE]
//!                                           [all|W1|W2|W3|W4|W6|W7|writing|large|rebase|http|http-PART ...]
//! ```
//!
//! The parts of `http` are W1, W2, W4, W5, W3, watch, bootstrap, many and sql.
//!
//! An application (the stock `sqlite3` program, with its defaults, in a process of its own) writes
//! a database; the library and the program are then measured bringing it to a folder and into other
//! replicas. Prints Markdown. Ends with 1 if a target was missed.

mod app;
mod child;
mod clone;
mod http;
mod large;
mod litestream;
mod machine;
mod rebase;
mod report;
mod ship;
mod single;
mod stage;
mod words;
mod writing;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::report::{Report, say};
use crate::stage::Stage;

/// Anything that goes wrong ends the run, with a message.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const WORKLOADS: [&str; 10] =
    ["W1", "W2", "W4", "W6", "W3", "W7", "writing", "large", "rebase", "http"];

const USAGE: &str = "usage: anabranch-bench [--dir DIR] [--rounds N] [--program FILE] \
                     [--litestream FILE] [--libsql-client FILE] \
                     [all|W1|W2|W3|W4|W6|W7|writing|large|rebase|http|http-PART ...]";

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            // There is nobody else to tell if this fails.
            let _ = say(&format!("error: {e}"));
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<usize> {
    let (stage, chosen) = arguments()?;
    std::fs::create_dir_all(&stage.dir)?;
    let stage = Stage { dir: stage.dir.canonicalize()?, ..stage };
    machine::describe(&stage)?;
    let mut report = Report::default();
    let known = WORKLOADS.into_iter().chain(http::PARTS);
    for name in known.filter(|name| chosen.iter().any(|c| c == name)) {
        machine::load(name)?;
        match name {
            "W3" => clone::measure(&stage, &mut report)?,
            "W7" => single::measure(&stage, &mut report)?,
            "writing" => writing::measure(&stage, &mut report)?,
            part if http::PARTS.contains(&part) => http::measure(&stage, part, &mut report)?,
            "large" => large::measure(&stage, &mut report)?,
            "rebase" => rebase::measure(&stage, &mut report)?,
            _ => ship::measure(&stage, name, &mut report)?,
        }
    }
    machine::load("the end")?;
    report.table()?;
    Ok(report.missed())
}

fn arguments() -> Result<(Stage, Vec<String>)> {
    let mut stage = Stage {
        dir: PathBuf::from("target/bench"),
        program: PathBuf::new(),
        rounds: 7,
        litestream: None,
        libsql_client: None,
    };
    let mut chosen = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--dir" => stage.dir = value()?.into(),
            "--rounds" => stage.rounds = value()?.parse::<usize>()?.max(1),
            "--program" => stage.program = value()?.into(),
            "--litestream" => stage.litestream = Some(value()?.into()),
            "--libsql-client" => stage.libsql_client = Some(value()?.into()),
            "all" => chosen.extend(all()),
            "http" => chosen.extend(http::PARTS.map(str::to_owned)),
            name if all().any(|known| known == name) => chosen.push(name.to_owned()),
            other => return Err(format!("what is {other}?\n{USAGE}").into()),
        }
    }
    if chosen.is_empty() {
        chosen.extend(all());
    }
    if stage.program.as_os_str().is_empty() {
        stage.program = build_program()?;
    }
    Ok((stage, chosen))
}

fn all() -> impl Iterator<Item = String> {
    WORKLOADS.into_iter().chain(http::PARTS).map(str::to_owned)
}

/// The program beside this one, built from the same sources.
fn build_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("anabranch");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let built = Command::new(cargo)
            .args(["build", "--release", "-q", "-p", "anabranch-cli"])
            .status()?;
        if !built.success() {
            return Err("the program could not be built".into());
        }
    }
    if program.exists() {
        Ok(program)
    } else {
        Err(format!("there is no {}: name it with --program", program.display()).into())
    }
}
