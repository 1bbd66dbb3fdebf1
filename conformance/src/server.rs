//! The real server: started, watched through its log, killed, started again.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use crate::http::{Answer, ask};
use crate::{PATIENCE, program, program_with_crash_points};

/// How a named point ends the process.
const SIGABRT: i32 = 6;

/// How the server is started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The folder of its store.
    pub data: PathBuf,
    /// More arguments.
    pub args: Vec<String>,
    /// The token that its requests need, if it was told one.
    pub token: Option<String>,
}

/// What the server said, line by line.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Log {
    fn push(&self, line: String) {
        self.lines.lock().expect("no holder panics").0.push(line);
        self.more.notify_all();
    }

    fn end(&self) {
        self.lines.lock().expect("no holder panics").1 = true;
        self.more.notify_all();
    }

    /// Awaits that nobody is left who could say something.
    fn wait_for_end(&self) -> Result<(), String> {
        let lines = self.lines.lock().expect("no holder panics");
        let goes_on = |lines: &mut (Vec<String>, bool)| !lines.1;
        let waited = self.more.wait_timeout_while(lines, PATIENCE, goes_on);
        let (lines, timeout) = waited.expect("no holder panics");
        if timeout.timed_out() { Err(lines.0.join("\n")) } else { Ok(()) }
    }

    /// Awaits a line of which `found` makes something.
    fn wait<T>(&self, found: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().expect("no holder panics");
        loop {
            if let Some(hit) = lines.0.iter().find_map(|line| found(line)) {
                return Ok(hit);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return Err(lines.0.join("\n"));
            }
            lines = self.more.wait_timeout(lines, left).expect("no holder panics").0;
        }
    }
}

/// A running `anabranch serve`. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: Arc<Log>,
    address: SocketAddr,
    options: ServerOptions,
}

impl Server {
    /// Starts a server on any free port of the loopback, and awaits that it listens.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    #[must_use]
    pub fn start(options: ServerOptions) -> Self {
        Self::start_at(options, "127.0.0.1:0", None)
    }

    /// Starts a server whose clients, and other servers, are told of its address.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    #[must_use]
    pub fn start_advertised(mut options: ServerOptions) -> Self {
        // Nobody else gets the port soon: the system hands them out in turn.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port").to_string();
        options.args.extend(["--advertise".to_owned(), format!("http://{address}")]);
        Self::start_at(options, &address, None)
    }

    fn start_at(options: ServerOptions, listen: &str, dies: Option<&str>) -> Self {
        let mut command = match dies {
            Some(_) => Command::new(program_with_crash_points()),
            None => Command::new(program()),
        };
        match dies {
            Some(points) => command.env("FAILPOINTS", points),
            None => command.env_remove("FAILPOINTS"),
        };
        let mut child = command
            .arg("serve")
            .arg("--data")
            .arg(&options.data)
            .args(["--listen", listen])
            .args(&options.args)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let log = Arc::new(Log::default());
        let out = child.stdout.take().expect("a pipe");
        let err = child.stderr.take().expect("a pipe");
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|l| kept.push(l))
        });
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            BufReader::new(err).lines().map_while(Result::ok).for_each(|l| kept.push(l));
            kept.end();
        });
        let address = log
            .wait(listening_address)
            .unwrap_or_else(|said| panic!("the server did not come up: {said}"));
        Server { child, log, address, options }
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&mut self) {
        // Either may fail only because the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the server to stop (SIGTERM) and awaits its end; answers whether it ended well.
    ///
    /// # Panics
    ///
    /// If it cannot be signalled or waited for.
    pub fn stop(&mut self) -> bool {
        let told = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(told.expect("the program kill is installed").success());
        self.child.wait().expect("the server can be waited for").success()
    }

    /// Starts the server again with the same store and the same port, after `kill` or `stop`.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        *self = Self::start_at(self.options.clone(), &self.address.to_string(), None);
    }

    /// As [`Server::restart`]; it will die at named points, as `POINT=return`, `POINT=1*off->return`
    /// (the second time that it comes there).
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn restart_to_die(&mut self, points: &str) {
        self.kill();
        *self = Self::start_at(self.options.clone(), &self.address.to_string(), Some(points));
    }

    /// Whether the server has died at a named point: it does not answer, and its process has ended.
    ///
    /// # Panics
    ///
    /// If it ended otherwise, or neither ends nor answers.
    #[track_caller]
    pub fn has_died(&mut self) -> bool {
        let url = format!("http://{}/health", self.address);
        if ask("GET", &url, &[], Vec::new()).is_ok() {
            return false;
        }
        if let Err(said) = self.log.wait_for_end() {
            panic!("the server neither answers nor ends: {said}");
        }
        let ended = self.child.wait().expect("the server can be waited for");
        assert_eq!(ended.signal(), Some(SIGABRT), "{ended}: {}", self.log());
        true
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder of its store.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.options.data
    }

    /// The URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("http://{}/{database}", self.address)
    }

    /// One request to the server, with its token.
    ///
    /// # Panics
    ///
    /// If no answer comes.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Answer {
        let bearer = self.options.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> =
            bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        let url = format!("http://{}{path}", self.address);
        ask(method, &url, &headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Everything that the server has said so far.
    ///
    /// # Panics
    ///
    /// Never, unless a reader thread panicked.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lines.lock().expect("no holder panics").0.join("\n")
    }

    /// Awaits a line that contains `text`.
    ///
    /// # Panics
    ///
    /// If none comes.
    #[track_caller]
    pub fn await_log(&self, text: &str) -> String {
        let hit = self.log.wait(|line| line.contains(text).then(|| line.to_owned()));
        hit.unwrap_or_else(|said| panic!("no {text:?} in the log: {said}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// The address in a line that names a URL of the loopback.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let after = line.split("http://127.0.0.1:").nth(1)?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    format!("127.0.0.1:{digits}").parse().ok()
}
