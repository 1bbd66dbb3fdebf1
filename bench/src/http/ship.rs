//! W1, W2 and W4 over HTTP: bytes and requests of one push, times of push and pull, beside the
//! official client against the same server.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anabranch::Options;
use anabranch::blocking::Replica;

use super::server::{Relay, Server};
use crate::Result;
use crate::app::App;
use crate::report::{Report, Row, Series, ms, ratio, size, time_ratio};
use crate::ship::workload;
use crate::stage::{Scene, Stage};

/// A push takes no more requests.
const REQUESTS_MAX: u64 = 4;

/// What the official client took for the same.
struct Official {
    push: Duration,
    pull: Duration,
    push_bytes: u64,
    push_requests: u64,
}

pub(super) fn measure(stage: &Stage, name: &'static str, report: &mut Report) -> Result<()> {
    let scene = stage.scene(&format!("http-{name}"))?;
    let server = Server::start(&stage.program, &scene.path("data"))?;
    let relay = Relay::to(server.address)?;
    let (mut pushes, mut pulls) = (Vec::new(), Vec::new());
    let (mut bytes, mut requests) = (0, 0);
    for round in 0..stage.rounds {
        let (push, pull, sent, asked) = once(stage, &scene, &server, &relay, name, round)?;
        pushes.push(push);
        pulls.push(pull);
        (bytes, requests) = (sent, asked);
    }
    let (pushes, pulls) = (Series::from(pushes), Series::from(pulls));
    let official = official(stage, &server, name)?;
    if let Some(here) = &official
        && let Some(mock) = against_mock(stage, name)?
    {
        peer_rows(name, here, &mock, report)?;
    }
    rows(name, (bytes, requests), &pushes, &pulls, official.as_ref(), report)?;
    drop(server);
    scene.clear()
}

/// One push and one pull of the workload, and what the push took.
fn once(
    stage: &Stage,
    scene: &Scene,
    server: &Server,
    relay: &Relay,
    name: &str,
    round: usize,
) -> Result<(Duration, Duration, u64, u64)> {
    let (db, script) = workload(name)?.lay_out(stage, scene, &format!("a{round}.db"))?;
    let database = format!("db{round}");
    let url = relay.url(&database);
    let (replica, _) = Replica::init(&db, OsStr::new(&url), Options::default())?;
    let mut app = App::open(&db)?;
    let other = scene.path(&format!("b{round}.db"));
    let direct = server.url(&database);
    let (follower, _) = Replica::clone_from(OsStr::new(&direct), &other, Options::default())?;
    let beside = App::open(&other)?;
    app.run("INSERT INTO t(body) VALUES('the first change');")?;
    replica.push()?;
    follower.pull()?;
    app.script(&script)?;
    let (before, asked) = (relay.bytes().0, server.requests()?);
    let start = Instant::now();
    replica.push()?.pushed.ok_or("nothing was pushed")?;
    let push = start.elapsed();
    let (bytes, requests) = (relay.bytes().0 - before, server.requests()? - asked);
    let start = Instant::now();
    follower.pull()?.pulled.ok_or("nothing was pulled")?;
    let pull = start.elapsed();
    app.close()?;
    beside.close()?;
    Ok((push, pull, bytes, requests))
}

/// The same by the official client; `None` without its driver.
fn official(stage: &Stage, server: &Server, name: &str) -> Result<Option<Official>> {
    let Some(driver) = &stage.libsql_client else { return Ok(None) };
    let url = server.url(&format!("official-{}", name.to_lowercase()));
    run_official(driver, name, &url).map(Some)
}

/// The same against a server that keeps everything in memory and makes nothing durable; `None` where
/// that was not built.
fn against_mock(stage: &Stage, name: &str) -> Result<Option<Official>> {
    let Some(driver) = &stage.libsql_client else { return Ok(None) };
    let program = driver.with_file_name("libsql-mock");
    if !program.exists() {
        return Ok(None);
    }
    let mut mock = Command::new(program).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let output = mock.stderr.take().ok_or("the mock says nothing")?;
    BufReader::new(output).read_line(&mut line)?;
    let at = line.find("http://").ok_or("the mock tells no address")?;
    let url = line[at..].split_whitespace().next().unwrap_or("").trim_end_matches('/');
    let done = run_official(driver, name, url);
    mock.kill()?;
    mock.wait()?;
    done.map(Some)
}

/// What the official client tells of a workload.
pub(super) fn driven(driver: &Path, workload: &str, url: &str) -> Result<serde_json::Value> {
    let output = Command::new(driver)
        .args(["bench", workload, url])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the official client ended with {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn run_official(driver: &Path, name: &str, url: &str) -> Result<Official> {
    let told = driven(driver, &name.to_lowercase(), url)?;
    let seconds = |of: &str| told[of]["seconds"].as_f64().ok_or("the driver told no time");
    Ok(Official {
        push: Duration::from_secs_f64(seconds("push")?),
        pull: Duration::from_secs_f64(seconds("pull")?),
        push_bytes: told["push"]["sent_bytes"].as_u64().unwrap_or(0),
        push_requests: told["push"]["requests"].as_u64().unwrap_or(0),
    })
}

/// The official client against this server, beside itself against one that does no work.
fn peer_rows(
    name: &'static str,
    here: &Official,
    mock: &Official,
    report: &mut Report,
) -> Result<()> {
    for (what, here, mock, most) in
        [("push", here.push, mock.push, 2.0), ("pull", here.pull, mock.pull, 1.0)]
    {
        let slower = time_ratio(here, mock);
        report.row(Row {
            workload: name,
            figure: format!("{what} of the official client, against this server"),
            target: if name == "W1" { format!("≤ {most} × in memory") } else { String::new() },
            measured: ms(here),
            peer: format!("the same against a server in memory: {}", ms(mock)),
            ratio: Some(slower),
            met: (name == "W1").then_some(slower <= most),
        })?;
    }
    Ok(())
}

fn rows(
    name: &'static str,
    (bytes, requests): (u64, u64),
    pushes: &Series,
    pulls: &Series,
    official: Option<&Official>,
    report: &mut Report,
) -> Result<()> {
    let none = || "the official client was not run".to_owned();
    let fewer = official.map(|o| ratio(o.push_bytes, bytes));
    let (target, met) = match name {
        "W1" => ("≥ 80 × fewer".to_owned(), fewer.map(|fewer| fewer >= 80.0)),
        "W4" => ("≤ 3 KB".to_owned(), Some(bytes <= 3000)),
        _ => (String::new(), None),
    };
    report.row(Row {
        workload: name,
        figure: "HTTP: bytes sent by one push, headers included".to_owned(),
        target,
        measured: size(bytes),
        peer: official.map_or_else(none, |o| {
            format!("official client: {} in {} requests", size(o.push_bytes), o.push_requests)
        }),
        ratio: fewer,
        met,
    })?;
    let most = if name == "W4" { 1 } else { REQUESTS_MAX };
    report.row(Row {
        workload: name,
        figure: "HTTP: requests of one push".to_owned(),
        target: format!("≤ {most}"),
        measured: requests.to_string(),
        peer: official.map_or_else(none, |o| format!("official client: {}", o.push_requests)),
        ratio: None,
        met: Some(requests <= most),
    })?;
    for (what, ours, theirs) in [
        ("push", pushes, official.map(|o| o.push)),
        ("pull, application connected", pulls, official.map(|o| o.pull)),
    ] {
        let faster = theirs.map(|theirs| time_ratio(theirs, ours.median()));
        let (target, met) = match (name, what) {
            ("W1", "pull, application connected") => {
                ("≥ 100 × faster", faster.map(|faster| faster >= 100.0))
            }
            ("W2", _) => ("no slower", faster.map(|faster| faster >= 1.0)),
            _ => ("", None),
        };
        report.row(Row {
            workload: name,
            figure: format!("HTTP: {what} (library)"),
            target: target.to_owned(),
            measured: ours.show(),
            peer: theirs.map_or_else(none, |t| format!("official client: {}", ms(t))),
            ratio: faster,
            met,
        })?;
    }
    Ok(())
}
