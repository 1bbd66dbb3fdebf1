//! Runs one command so that it can be interrupted.
//!
//! A command that goes on until it is told to stop (`serve`, `watch`) is told so by the first signal, and
//! ended by the second. In a `shell` Ctrl-C stops a statement; it sees to that itself.
//!
//! The command runs on a thread of its own, so that a signal is seen also while SQLite or the disk
//! keeps that thread busy. The first Ctrl-C (or SIGTERM) drops the command's future, waits a moment
//! for blocking work to notice, says what to do next, and ends the program. The library is built to
//! be killed at any moment; dropping first only tidies up sooner.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::args::Command;
use crate::commands;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, Outcome};

/// How long an interrupted command may take to let go of what it holds.
const GRACE: Duration = Duration::from_secs(1);

/// Stack of the command's thread: what a main thread usually has.
const STACK_BYTES: usize = 8 * 1024 * 1024;

enum Ended {
    Finished(Result<Outcome, Failure>),
    Interrupted(Exit),
}

/// Runs `command`, shows what comes of it, and answers how the program ends.
pub(crate) fn run(command: Command, ctx: &Context) -> Exit {
    let advice = advice(&command);
    if matches!(command, Command::Serve(_) | Command::Shell(_)) {
        // Waiting is what they do; a line that says that work goes on would be in the way.
        ctx.bars.end();
    }
    let ended = execute(command, ctx.clone());
    ctx.bars.end();
    match ended {
        Ended::Interrupted(exit) => {
            tell_interrupted(advice, ctx.style.json);
            exit
        }
        Ended::Finished(Err(failure)) => {
            output::tell(&failure, ctx.style.json);
            failure.exit()
        }
        Ended::Finished(Ok(outcome)) => show(outcome, ctx),
    }
}

fn show(outcome: Outcome, ctx: &Context) -> Exit {
    let shown = outcome.report.map_or(Ok(()), |report| output::show(&*report, ctx.style));
    if let Some(failure) = outcome.failure {
        output::tell(&failure, ctx.style.json);
    }
    match shown {
        Err(failure) => {
            output::tell(&failure, ctx.style.json);
            failure.exit()
        }
        Ok(()) => outcome.exit,
    }
}

/// Whether `command` goes on until it is told to stop.
fn goes_on(command: &Command) -> bool {
    matches!(command, Command::Serve(_) | Command::Watch(_))
}

/// Whether `command` decides for itself what Ctrl-C means.
fn owns_ctrl_c(command: &Command) -> bool {
    matches!(command, Command::Shell(_))
}

/// What to do after an interruption of `command`.
fn advice(command: &Command) -> &'static str {
    match command {
        Command::Init(_) | Command::Clone(_) | Command::Restore(_) | Command::Compact(_) => {
            "interrupted; nothing to clean up: the same command can be given again"
        }
        Command::Push(_)
        | Command::Pull(_)
        | Command::Sync(_)
        | Command::Watch(_)
        | Command::Repair(_) => "interrupted; nothing to do: the next sync goes on from here",
        Command::Shell(_) => "interrupted; what was not committed is rolled back",
        _ => "interrupted; nothing to do",
    }
}

fn tell_interrupted(advice: &str, json: bool) {
    use std::io::Write as _;
    let mut err = std::io::stderr().lock();
    // Nobody is left to tell if this fails.
    let _ = if json {
        let causes: [&str; 0] = [];
        let error = json!({"code": "interrupted", "message": advice, "causes": causes});
        writeln!(err, "{}", json!({ "error": error }))
    } else {
        writeln!(err, "{advice}")
    };
}

fn execute(command: Command, ctx: Context) -> Ended {
    let setup = |source| Ended::Finished(Err(Failure::Setup { what: "starting threads", source }));
    let runtimes = runtime_for(&command)
        .and_then(|work| Ok((work, Builder::new_current_thread().enable_all().build()?)));
    match runtimes {
        Ok((work, signals)) => {
            outlive_file_size_limit(&signals);
            execute_on(work, &signals, command, ctx)
        }
        Err(e) => setup(e),
    }
}

/// What runs the command. A server has all cores; the others do what takes long on threads of its
/// own, and every further thread takes them time to start.
fn runtime_for(command: &Command) -> io::Result<Runtime> {
    match command {
        Command::Serve(_) => Builder::new_multi_thread().enable_all().build(),
        _ => Builder::new_current_thread().enable_all().build(),
    }
}

/// What the command's thread hands back, so that what is still running there can be waited for.
type Answer = (Caught, Runtime);

fn execute_on(work: Runtime, signals: &Runtime, command: Command, ctx: Context) -> Ended {
    let stop = goes_on(&command).then(|| ctx.stop.clone());
    let takes_ctrl_c = !owns_ctrl_c(&command);
    let (cancel, cancelled) = oneshot::channel::<()>();
    let (finished, mut answer) = oneshot::channel::<Answer>();
    let run = move || {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            work.block_on(async {
                tokio::select! {
                    outcome = commands::run(command, &ctx) => Some(outcome),
                    Ok(()) = cancelled => None,
                }
            })
        }));
        // The receiver is gone only if the program is ending.
        let _ = finished.send((ended, work));
    };
    let thread = std::thread::Builder::new().name("command".into()).stack_size(STACK_BYTES);
    if let Err(source) = thread.spawn(run) {
        return Ended::Finished(Err(Failure::Setup { what: "starting a thread", source }));
    }
    let exit = signals.block_on(async {
        let mut stop = stop;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Err(answer),
                exit = interruption(takes_ctrl_c) => match stop.take() {
                    Some(stop) => stop.cancel(),
                    None => return Ok(exit),
                },
            }
        }
    });
    match exit {
        Err(answer) => Ended::Finished(flatten(answer.map(wound_up))),
        Ok(exit) => {
            // The command may have ended at this very moment; then there is nobody to tell.
            let _ = cancel.send(());
            let answer = signals.block_on(async { tokio::time::timeout(GRACE, answer).await });
            let _ = answer.map(|answer| answer.map(wound_up));
            Ended::Interrupted(exit)
        }
    }
}

/// Ends what the command has left running.
fn wound_up((ended, work): Answer) -> Caught {
    work.shutdown_timeout(GRACE);
    ended
}

type Caught = std::thread::Result<Option<Result<Outcome, Failure>>>;

fn flatten(ended: Result<Caught, oneshot::error::RecvError>) -> Result<Outcome, Failure> {
    match ended {
        Ok(Ok(Some(outcome))) => outcome,
        Ok(Err(panic)) => Err(Failure::Panicked(panic_text(&*panic))),
        Ok(Ok(None)) | Err(_) => Err(Failure::Panicked("the command did not answer".to_owned())),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// A write beyond `ulimit -f` kills a program that does not handle the signal; in one that does, the
/// write fails like any other and is reported.
#[cfg(unix)]
fn outlive_file_size_limit(runtime: &Runtime) {
    use tokio::signal::unix::{SignalKind, signal};
    const SIGXFSZ: std::ffi::c_int = 25;
    let _context = runtime.enter();
    // The handler stays, whether or not anybody listens.
    if let Err(e) = signal(SignalKind::from_raw(SIGXFSZ)) {
        tracing::debug!(error = %e, "a file size limit will end the program");
    }
}

#[cfg(not(unix))]
fn outlive_file_size_limit(_: &Runtime) {}

/// Resolves when the user, or the system, wants the program to end.
#[cfg(unix)]
async fn interruption(takes_ctrl_c: bool) -> Exit {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        // Then the signals keep their usual effect, which is safe too.
        return std::future::pending().await;
    };
    tokio::select! {
        Some(()) = interrupt.recv(), if takes_ctrl_c => Exit::Interrupted,
        Some(()) = terminate.recv() => Exit::Terminated,
        else => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn interruption(takes_ctrl_c: bool) -> Exit {
    match tokio::signal::ctrl_c().await {
        Ok(()) if takes_ctrl_c => Exit::Interrupted,
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_text() {
        let panic = catch_unwind(|| panic!("page {} is odd", 7)).unwrap_err();
        let error = flatten(Ok(Err(panic))).err().unwrap();
        assert!(error.to_string().contains("page 7 is odd"));
        assert_eq!(error.exit(), Exit::Failed);
    }
}
