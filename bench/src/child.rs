//! Child processes, and what they cost: wall time, peak memory, calls of fsync.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// What a process took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Peak of the resident memory.
    pub(crate) peak_bytes: u64,
}

/// Runs the program under test quietly, and measures its wall time from start to end.
pub(crate) fn timed(program: &Path, args: &[&OsStr]) -> Result<Duration> {
    let start = Instant::now();
    let output = Command::new(program).arg("--quiet").args(args).stdin(Stdio::null()).output()?;
    let wall = start.elapsed();
    succeeded(program, &output).map(|()| wall)
}

fn succeeded(program: &Path, output: &std::process::Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ended with {}: {}", program.display(), output.status, said.trim()).into())
}

/// Runs the program and watches its peak memory.
///
/// `VmHWM` is read every millisecond, since a process that has ended shows it no more. Unlike the
/// `ru_maxrss` of a finished child it does not contain what the parent had at the fork.
pub(crate) fn watched(program: &Path, args: &[&OsStr]) -> Result<Cost> {
    let start = Instant::now();
    let mut child = Command::new(program)
        .arg("--quiet")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_bytes = 0;
    let status = loop {
        peak_bytes = peak_bytes.max(peak_of(&status_file).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let wall = start.elapsed();
    if !status.success() {
        return Err(format!("{} ended with {status}", program.display()).into());
    }
    Ok(Cost { wall, peak_bytes })
}

fn peak_of(status_file: &str) -> Option<u64> {
    let status = fs::read_to_string(status_file).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Calls of fsync and fdatasync, by the file they were for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Syncs {
    pub(crate) count: usize,
    pub(crate) files: Vec<String>,
}

/// Counts the calls of fsync and fdatasync of one run with `strace`; `None` without that program.
pub(crate) fn syncs(program: &Path, args: &[&OsStr], log: &Path) -> Result<Option<Syncs>> {
    if !present("strace") {
        return Ok(None);
    }
    let output = Command::new("strace")
        .args(["-f", "-y", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(log)
        .arg(program)
        .arg("--quiet")
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    succeeded(program, &output)?;
    let mut syncs = Syncs::default();
    for line in fs::read_to_string(log)?.lines() {
        // A call that was interrupted in the log by another thread's is continued by "resumed".
        let Some(at) = line.find("sync(").filter(|_| !line.contains("resumed>")) else { continue };
        syncs.count += 1;
        let file = line[at..].split(['<', '>']).nth(1).unwrap_or("?");
        syncs.files.push(file.rsplit('/').next().unwrap_or(file).to_owned());
    }
    Ok(Some(syncs))
}

/// Whether a program can be started.
pub(crate) fn present(program: &str) -> bool {
    let found =
        Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok()
}
