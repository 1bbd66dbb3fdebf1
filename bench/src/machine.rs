//! What the measurements were taken on.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

use crate::Result;
use crate::child::present;
use crate::report::{Series, ms, say};
use crate::stage::Stage;

/// Prints the machine, the programs, the date, and what one fsync costs here.
pub(crate) fn describe(stage: &Stage) -> Result<()> {
    say(&format!("- date: {}", output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])))?;
    say(&format!("- command: {}", std::env::args().collect::<Vec<_>>().join(" ")))?;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or("unknown");
    let model = model.trim_start_matches([':', '\t', ' ']);
    say(&format!("- machine: {cores} × {model}, {} of memory", memory.trim()))?;
    let dir = stage.dir.to_string_lossy();
    let system = output("df", &["--output=fstype", &dir]);
    let system = system.lines().last().unwrap_or("unknown");
    say(&format!("- kernel: {}; file system: {system}", output("uname", &["-sr"])))?;
    let version = output("sqlite3", &["--version"]);
    let version = version.split(' ').next().unwrap_or_default();
    say(&format!("- the application: sqlite3 {version}; bundled: {}", rusqlite::version()))?;
    if !present("strace") {
        say("- strace is not installed: calls of fsync cannot be counted")?;
    }
    let fsync = fsync_of_a_page(stage)?;
    say(&format!("- 4 KiB appended and synced (fsync): {}", ms(fsync)))?;
    say(&format!("- medians of {} rounds, the range in brackets", stage.rounds))?;
    say("")
}

/// Prints how busy the machine is.
pub(crate) fn load(before: &str) -> Result<()> {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let time = output("date", &["-u", "+%H:%M:%S"]);
    say(&format!("<!-- {time}, {before}: load {load} -->"))
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn fsync_of_a_page(stage: &Stage) -> Result<std::time::Duration> {
    let path = stage.dir.join("fsync");
    let mut file = File::create(&path)?;
    let series = Series::of(200, |_| {
        file.write_all(&[7; 4096])?;
        let start = Instant::now();
        file.sync_all()?;
        Ok(start.elapsed())
    })?;
    fs::remove_file(&path)?;
    Ok(series.median())
}
