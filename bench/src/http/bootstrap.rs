//! What the official client takes for a replica that is not there yet, beside the same from a server
//! that has the database as a file and does nothing but send it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anabranch::Options;
use anabranch::blocking::Replica;

use super::server::{Server, get};
use super::ship::driven;
use crate::Result;
use crate::report::{Report, Row, Series, size, time_ratio};
use crate::stage::{Stage, length, settle_disk};

/// Bytes of the database, and of a row.
const DATABASE: (u64, usize) = (200 << 20, 400);

pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let Some(driver) = &stage.libsql_client else { return Ok(()) };
    let (prepared, _) = stage.prepared(DATABASE.0, DATABASE.1)?;
    let scene = stage.scene("http-bootstrap")?;
    let db = scene.database("a.db", Some(&prepared))?;
    let server = Server::start(&stage.program, &scene.path("data"))?;
    let url = server.url("db");
    Replica::init(&db, OsStr::new(&url), Options::default())?;
    let info = get(server.address, "/db/info")?;
    let generation: String = info.chars().filter(char::is_ascii_digit).collect();
    let file = scene.path("export.db");
    let fetched = Command::new("curl")
        .args(["-sSf", "-o"])
        .arg(&file)
        .arg(format!("{url}/export/{generation}"))
        .status()?;
    if !fetched.success() {
        return Err("the export could not be fetched".into());
    }
    let files = format!("http://{}/db", serve_file(file, generation)?);
    let (mut here, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..stage.rounds {
        settle_disk()?;
        here.push(bootstrap(driver, &url)?);
        settle_disk()?;
        peer.push(bootstrap(driver, &files)?);
    }
    let (here, peer) = (Series::from(here), Series::from(peer));
    report.row(Row {
        workload: "bootstrap",
        figure: format!("the official client opens a new replica of {}", size(length(&db))),
        target: String::new(),
        measured: here.show(),
        peer: format!("the same from a server of files: {}", peer.show()),
        ratio: Some(time_ratio(here.median(), peer.median())),
        met: None,
    })?;
    drop(server);
    scene.clear()
}

fn bootstrap(driver: &Path, url: &str) -> Result<Duration> {
    let told = driven(driver, "bootstrap", url)?;
    let seconds = told["seconds"].as_f64().ok_or("the driver told no time")?;
    Ok(Duration::from_secs_f64(seconds))
}

/// Sends `file` for the base of `generation`, and knows no frames.
fn serve_file(file: PathBuf, generation: String) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (file, generation) = (file.clone(), generation.clone());
            // A client that goes away is none of our business.
            std::thread::spawn(move || answer(stream, &file, &generation).is_ok());
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, file: &Path, generation: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while header.trim() != "" || header.is_empty() {
            header.clear();
            if reader.read_line(&mut header)? == 0 {
                return Ok(());
            }
        }
        if request.contains("/export/") {
            let mut file = File::open(file)?;
            let length = file.metadata()?.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
            std::io::copy(&mut file, &mut stream)?;
            continue;
        }
        let (status, body) = if request.contains("/info") {
            ("200 OK", format!("{{\"current_generation\":{generation}}}"))
        } else {
            let end =
                format!("{{\"status\":\"ok\",\"generation\":{generation},\"max_frame_no\":0}}");
            ("400 Bad Request", end)
        };
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")?;
    }
}
