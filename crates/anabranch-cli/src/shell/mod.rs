//! `shell`: SQL for people and scripts, against a file here or a database on a server alike.
//!
//! ```text
//! terminal -> line (editing) --+
//! standard input, .read FILE --+-> session -> split -> Backend: local (SQLite) or remote (http)
//! arguments -------------------+      |                   | rows, one by one
//!                                     +-> dot commands    v
//!                                         (dump, import)  render -> output -> clean (terminal)
//! ```
//!
//! All of it blocks, and so runs on a thread of its own; requests to a server run on the command's
//! runtime, which waits for Ctrl-C at the same time. Ctrl-C stops the statement under way: SQLite is
//! interrupted, a request is given up together with its stream. Without a terminal it ends the shell.
//!
//! Memory: one statement, one row (locally) or one answer (of a server), the rows whose widths are
//! compared, one page of a dump, one batch of an import. Each has a limit where it is defined.

mod backend;
mod clean;
mod commands;
mod dot;
mod dump;
mod error;
mod http;
mod import;
mod line;
mod literal;
mod local;
mod output;
mod remote;
mod render;
mod session;
mod split;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anabranch::ServerUrl;
use tokio::runtime::Handle;

use crate::args;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Outcome;

use backend::{Backend, Interrupt};
use http::Http;
use line::{NAMES_MAX, Prompt, Typed};
use local::Local;
use output::Output;
use remote::Remote;
use session::{BUFFER_BYTES, Next, Session};

pub(crate) use error::{Refused, ShellError};
pub(crate) use render::Mode;

/// The name of a database that is in memory alone.
const IN_MEMORY: &str = ":memory:";
/// How long a statement may take to end after Ctrl-C where the shell ends with it.
const INTERRUPT_TIME_MAX: Duration = Duration::from_millis(500);

/// What the shell is about.
#[derive(Debug)]
enum Target {
    Server(ServerUrl),
    File(PathBuf),
}

/// Runs a shell until it is left, its input ends, or something fails.
pub(crate) async fn shell(args: args::SqlShell, ctx: &Context) -> Result<Outcome, Failure> {
    let target = Target::of(&args.target, args.create)?;
    let interrupt = Arc::new(Interrupt::default());
    let is_interactive =
        args.sql.is_empty() && io::stdin().is_terminal() && io::stdout().is_terminal();
    let (raised, runtime, ctx) = (Arc::clone(&interrupt), Handle::current(), ctx.clone());
    let mut job = tokio::task::spawn_blocking(move || {
        let backend = target.open(&args, &ctx, &runtime, &raised)?;
        run(backend, &target, &args, &ctx, raised, is_interactive)
    });
    loop {
        tokio::select! {
            ended = &mut job => return flatten(ended),
            Ok(()) = tokio::signal::ctrl_c() => interrupt.raise(),
        }
        if !is_interactive {
            // It may wait for input that never comes.
            let ended = tokio::time::timeout(INTERRUPT_TIME_MAX, &mut job).await;
            return ended.map_or_else(|_| Err(interrupted()), flatten);
        }
    }
}

fn flatten(
    ended: Result<Result<Outcome, Failure>, tokio::task::JoinError>,
) -> Result<Outcome, Failure> {
    ended.unwrap_or_else(|e| Err(Failure::Panicked(e.to_string())))
}

fn interrupted() -> Failure {
    Failure::Shell(Box::new(Refused::new(ShellError::Interrupted, String::new(), "")))
}

impl Target {
    fn of(text: &OsStr, create: bool) -> Result<Self, Failure> {
        if let Some(url) = ServerUrl::parse(text) {
            let url = url.map_err(|e| Failure::Usage(e.to_string()))?;
            return match create {
                true => Err(Failure::Usage("--create is for files".to_owned())),
                false => Ok(Target::Server(url)),
            };
        }
        let path = PathBuf::from(text);
        if text == IN_MEMORY || path.is_file() || (create && !path.exists()) {
            return Ok(Target::File(path));
        }
        let shown = path.display();
        let scheme = text.to_str().and_then(|text| Some(text.split_once("://")?.0));
        Err(Failure::Usage(match scheme {
            Some("ws" | "wss") => format!("{shown}: give the URL with http or https"),
            Some(_) => format!(
                "{shown} speaks no SQL: `anabranch clone` makes a replica of a database there, for \
                 which there is a shell"
            ),
            None if path.is_dir() => format!(
                "{shown} is a folder: `anabranch clone` makes a replica of a database in it, for \
                 which there is a shell"
            ),
            None => format!("there is no file {shown}; to make a new database, add --create"),
        }))
    }

    fn open(
        &self,
        args: &args::SqlShell,
        ctx: &Context,
        runtime: &Handle,
        interrupt: &Arc<Interrupt>,
    ) -> Result<Box<dyn Backend>, Failure> {
        let interrupt = Arc::clone(interrupt);
        Ok(match self {
            Target::File(path) => {
                let opened = Local::open(path, args.create, ctx.global.busy_timeout, interrupt);
                Box::new(opened.map_err(|source| Failure::Sqlite {
                    what: "opening",
                    path: path.clone(),
                    source,
                })?)
            }
            Target::Server(url) => {
                let (token, key) = (ctx.token(), ctx.global.encryption_key.as_deref());
                let http = Http::new(url.clone(), token.as_deref(), key);
                let refused = |e| Failure::Shell(Box::new(Refused::new(e, String::new(), "")));
                Box::new(Remote::new(http.map_err(refused)?, runtime.clone(), interrupt))
            }
        })
    }

    /// In the prompt.
    fn short_name(&self) -> String {
        let name = match self {
            Target::File(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
            Target::Server(url) => url.to_string().rsplit('/').next().map(str::to_owned),
        };
        clean::one_line(&name.unwrap_or_default())
    }

    fn long_name(&self) -> String {
        match self {
            Target::File(path) => clean::one_line(&path.display().to_string()),
            Target::Server(url) => url.to_string(),
        }
    }
}

fn run(
    backend: Box<dyn Backend>,
    target: &Target,
    args: &args::SqlShell,
    ctx: &Context,
    interrupt: Arc<Interrupt>,
    is_interactive: bool,
) -> Result<Outcome, Failure> {
    let mode = match args.mode {
        Some(mode) => mode,
        None if ctx.style.json => Mode::Json,
        None if !io::stdout().is_terminal() => Mode::List,
        None if is_utf8_terminal() => Mode::Box,
        None => Mode::Table,
    };
    let mut settings = render::Settings::new(mode);
    settings.headers = args.headers.then_some(true);
    let mut session = Session::new(backend, interrupt, settings, Output::standard());
    session.bail = !is_interactive && !args.no_bail;
    session.json = ctx.style.json;
    session.is_interactive = is_interactive;
    let done = if is_interactive {
        converse(&mut session, target, ctx.style.quiet)
    } else {
        script(&mut session, &args.sql)
    };
    let was_open = session.backend.in_transaction();
    session.backend.close();
    let outcome = |exit| Ok(Outcome { exit, report: None, failure: None });
    match done {
        Err(refused) if is_closed_pipe(&refused.error) => outcome(Exit::Done),
        Err(refused) => Err(Failure::Shell(Box::new(refused))),
        Ok(()) if was_open && is_interactive => {
            let _ = writeln!(io::stderr(), "the open transaction was rolled back");
            outcome(Exit::Done)
        }
        Ok(()) if was_open => {
            let open = Refused::new(ShellError::OpenTransaction, String::new(), "");
            Err(Failure::Shell(Box::new(open)))
        }
        Ok(()) if session.failed && !is_interactive => outcome(Exit::Failed),
        Ok(()) => outcome(Exit::Done),
    }
}

/// A reader that has seen enough is no failure.
fn is_closed_pipe(error: &ShellError) -> bool {
    matches!(error, ShellError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
}

/// Runs what was given as arguments, or else what comes on standard input.
fn script(session: &mut Session, texts: &[String]) -> Result<(), Refused> {
    if texts.is_empty() {
        session.tells_lines = true;
        let mut input = BufReader::with_capacity(BUFFER_BYTES, io::stdin().lock());
        return session.read(&mut input, None).map(|_| ());
    }
    for text in texts {
        session.tells_lines = text.contains('\n');
        if session.text(text)? == Next::Quit {
            break;
        }
    }
    Ok(())
}

/// Talks with a person.
fn converse(session: &mut Session, target: &Target, quiet: bool) -> Result<(), Refused> {
    let failed = |e: rustyline::error::ReadlineError| {
        let source = match e {
            rustyline::error::ReadlineError::Io(e) => e,
            e => io::Error::other(e),
        };
        let path = Path::new("the terminal").to_owned();
        Refused::new(ShellError::File { what: "reading", path, source }, String::new(), "")
    };
    // Also shows at once whether the server is there.
    let names = session.known_names(NAMES_MAX);
    let names = names.map_err(|e| Refused::new(e, String::new(), ""))?;
    let mut prompt = Prompt::new().map_err(failed)?;
    prompt.know(names);
    if !quiet {
        let _ =
            writeln!(io::stdout(), "{}: .help lists commands, Ctrl-D leaves", target.long_name());
    }
    let name = target.short_name();
    loop {
        let mark = if session.backend.in_transaction() { "*" } else { "" };
        match prompt.ask(&format!("{name}{mark}> ")).map_err(failed)? {
            Typed::End => return Ok(()),
            Typed::Cancelled => {}
            Typed::Text(text) => {
                if session.text(&text)? == Next::Quit {
                    return Ok(());
                }
                if may_change_names(&text)
                    && !session.backend.in_transaction()
                    && let Ok(names) = session.known_names(NAMES_MAX)
                {
                    prompt.know(names);
                }
            }
        }
    }
}

/// Whether there may be other tables after these statements.
fn may_change_names(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    ["CREATE", "DROP", "ALTER", "COMMIT", ".READ", ".IMPORT"].iter().any(|word| text.contains(word))
}

/// Whether the terminal draws lines, as far as the locale tells.
fn is_utf8_terminal() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| std::env::var(name).ok());
    let locale = set.map(|locale| locale.to_ascii_uppercase()).find(|locale| !locale.is_empty());
    cfg!(windows)
        || locale.is_some_and(|locale| locale.contains("UTF-8") || locale.contains("UTF8"))
}
