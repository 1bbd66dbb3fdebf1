//! The commands: each calls the library once and turns the answer into an [`Outcome`].
//!
//! The `demo` calls [`run`] just as `main` does, so what it shows is what the program does.

mod adopt;
mod completions;
mod config;
mod conflicts;
mod copy;
mod diff;
mod log;
mod publish;
mod remote;
mod repair;
mod serve;
mod server_conflicts;
mod status;
mod sync;
mod verify;
mod watch;

use std::io::{self, Write};

use anabranch::Note;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::Paint;
use crate::output::Outcome;
use crate::{demo, inspect, shell};

/// Does what was asked.
pub(crate) async fn run(command: Command, ctx: &Context) -> Result<Outcome, Failure> {
    match command {
        Command::Init(args) => publish::init(args, ctx).await,
        Command::Clone(args) => copy::clone(args, ctx).await,
        Command::Adopt(args) => adopt::adopt(args, ctx).await,
        Command::Push(args) => Box::pin(sync::push(args, ctx)).await,
        // What exchanges rows has large states: boxes keep those of the others small.
        Command::Pull(args) => Box::pin(sync::pull(args, ctx)).await,
        Command::Sync(args) => Box::pin(sync::sync(args, ctx)).await,
        Command::Conflicts(args) => conflicts::conflicts(args, ctx).await,
        Command::Diff(args) => Box::pin(diff::diff(args, ctx)).await,
        Command::Config(args) => config::config(args, ctx).await,
        Command::Watch(args) => watch::watch(args, ctx).await,
        Command::Status(args) => status::status(args, ctx).await,
        Command::Log(args) => log::log(args, ctx).await,
        Command::Restore(args) => copy::restore(args, ctx).await,
        Command::Verify(args) => verify::verify(args, ctx).await,
        Command::Remote(args) => remote::remote(args, ctx).await,
        Command::Repair(args) => repair::repair(args, ctx).await,
        Command::Compact(args) => repair::compact(args, ctx).await,
        Command::Serve(args) => serve::serve(*args, ctx).await,
        Command::Shell(args) => Box::pin(shell::shell(args, ctx)).await,
        Command::Inspect(args) => inspect::inspect(args).await,
        // The demo runs commands itself: the box ends the circle of types.
        Command::Demo(args) => Box::pin(demo::demo(args, ctx)).await,
        Command::Completions(args) => Ok(completions::completions(&args)),
    }
}

/// Writes what else happened, a line each.
fn write_notes(out: &mut dyn Write, notes: &[Note], paint: Paint) -> io::Result<()> {
    for note in notes {
        let text = match note {
            Note::SwitchedToWal => {
                "the database was in rollback-journal mode and is in WAL mode now; programs that \
                 use it need not change"
                    .to_owned()
            }
            Note::Recovered { what } => {
                format!("an operation that was interrupted earlier has been completed: {what}")
            }
            Note::Other { text } => text.clone(),
            _ => continue,
        };
        writeln!(out, "{} {text}", paint.warn("note:"))?;
    }
    Ok(())
}
