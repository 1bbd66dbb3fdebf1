//! The `anabranch` program: keeps copies of a SQLite database in step.
//!
//! Decides nothing about databases: the library (`anabranch`) does the work, and answers with
//! reports and typed errors. This crate owns the command line, what is printed (text or JSON),
//! progress bars, the meaning of Ctrl-C, and the exit codes:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | error |
//! | 2 | the command line or the request makes no sense as it stands |
//! | 3 | both sides changed and somebody must decide, or the remote is ahead of a push |
//! | 4 | offline: the remote cannot be reached (for `sync` that is a report, not an error) |
//! | 130, 143 | interrupted by Ctrl-C, or by SIGTERM |
//!
//! Every command is a function from its arguments to an [`output::Outcome`]; `main` shows that. With
//! `--json`, standard output holds exactly one JSON document, or nothing if the command failed:
//! then standard error holds `{"error": {"code", "message", "causes"}}`.

mod args;
mod commands;
mod context;
mod demo;
mod failure;
mod human;
mod inspect;
mod listing;
mod output;
mod progress;
mod run;
mod shell;
mod shown;
mod when;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{Cli, Command, Global, LogFormat};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::human::Paint;
use crate::output::Style;
use crate::progress::Bars;

/// Replaces the filter that `-v` sets, in the syntax of `tracing-subscriber`.
const LOG_VARIABLE: &str = "ANABRANCH_LOG";

fn main() -> ExitCode {
    // Without the feature there are no fail points, and the variable `FAILPOINTS` means nothing.
    let _scenario = fail::has_failpoints().then(fail::FailScenario::setup);
    ExitCode::from(start().code())
}

fn start() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return misunderstood(&e),
    };
    let Some(command) = cli.command else {
        return print_help();
    };
    start_tracing(&cli.global, &command);
    if cli.global.json {
        // Told as JSON, like every failure, and by nothing else.
        std::panic::set_hook(Box::new(|_| ()));
    }
    let style = Style {
        json: cli.global.json,
        quiet: cli.global.quiet,
        paint: Paint::for_stream(&io::stdout()),
    };
    let bars = Bars::new(!cli.global.quiet && !cli.global.json);
    let stop = CancellationToken::new();
    run::run(command, &Context { global: cli.global, style, bars, stop })
}

/// Without a command, prints what there is.
fn print_help() -> Exit {
    match output::finish(Cli::command().print_help()) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            output::tell(&failure, false);
            failure.exit()
        }
    }
}

/// Answers a command line that was not understood, or that asked for help or the version.
fn misunderstood(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // Help on a closed pipe is no failure.
        let _ = error.print();
        return Exit::Done;
    }
    let json = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if json {
        let text = error.to_string();
        let text = text.trim().trim_start_matches("error: ");
        output::tell(&Failure::Usage(text.to_owned()), true);
    } else {
        let _ = error.print();
    }
    Exit::Usage
}

fn start_tracing(global: &Global, command: &Command) {
    let server = match command {
        Command::Serve(serve) => Some(serve.log_format),
        _ => None,
    };
    let level = match global.verbose {
        0 if global.quiet || (global.json && server.is_none()) => "off",
        0 if server.is_none() => "warn",
        0 | 1 if server.is_none() || global.verbose == 0 => "info",
        2 => "debug",
        _ => "trace",
    };
    let ours = [
        "anabranch",
        "anabranch_store",
        "anabranch_sqlite",
        "anabranch_rebase",
        "anabranch_server",
        "anabranch_cli",
    ];
    let default = ours.map(|name| format!("{name}={level}")).join(",");
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    match server {
        Some(LogFormat::Json) => {
            tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(io::stderr).init();
        }
        Some(LogFormat::Logfmt) => {
            let layer =
                tracing_logfmt::builder().with_target(false).layer().with_writer(io::stderr);
            tracing_subscriber::registry().with(filter).with(layer).init();
        }
        None => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(Paint::for_stream(&io::stderr()).is_on())
            .init(),
    }
}
