//! The server under test, and a relay before it that counts bytes.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;

/// `anabranch serve` on a folder.
pub(super) struct Server {
    child: Child,
    /// What it serves at.
    pub(super) address: SocketAddr,
    metrics: SocketAddr,
}

impl Server {
    pub(super) fn start(program: &Path, data: &Path) -> Result<Self> {
        Self::start_with(program, data, &[])
    }

    pub(super) fn start_with(program: &Path, data: &Path, extra: &[&str]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(extra)
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().ok_or("the server has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut found = |word: &str| -> Result<SocketAddr> {
            for line in lines.by_ref() {
                let line = line?;
                if let Some(rest) = line.trim().strip_prefix(word) {
                    let text = rest.trim().trim_start_matches("http://");
                    return Ok(text.trim_end_matches("/metrics").parse()?);
                }
            }
            Err("the server did not start".into())
        };
        let (address, metrics) = (found("listening")?, found("metrics")?);
        // It must not wait for somebody to read what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Server { child, address, metrics })
    }

    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Requests so far, of all dialects.
    pub(super) fn requests(&self) -> Result<u64> {
        let text = get(self.metrics, "/metrics")?;
        let counts = text.lines().filter(|l| l.starts_with("anabranch_http_requests_total{"));
        let counts = counts.filter(|l| !l.contains("dialect=\"ops\""));
        Ok(counts.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// Databases that are open.
    pub(super) fn open_databases(&self) -> Result<u64> {
        let text = get(self.metrics, "/metrics")?;
        let gauge = text.lines().find(|line| line.starts_with("anabranch_databases_open"));
        let value = gauge.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        Ok(value.ok_or("the server does not say how many databases are open")?)
    }

    /// Resident memory now, and its peak, in bytes.
    pub(super) fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |word: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(word))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        Ok((of("VmRSS:").ok_or("no VmRSS")?, of("VmHWM:").ok_or("no VmHWM")?))
    }

    /// Begins to measure the peak anew.
    pub(super) fn reset_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing that it could lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request on a connection of its own; the body of the answer.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<String> {
    send(address, "GET", path)
}

pub(super) fn send(address: SocketAddr, method: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if !head.starts_with("HTTP/1.1 2") {
        return Err(format!("{method} {path}: {}", head.lines().next().unwrap_or("")).into());
    }
    Ok(body.to_owned())
}

/// Passes bytes on, and counts them.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    /// From the client to the server.
    up: Arc<AtomicU64>,
    /// From the server to the client.
    down: Arc<AtomicU64>,
}

impl Relay {
    pub(super) fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (Arc::clone(&up), Arc::clone(&down));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else {
                    continue;
                };
                pass(&client, &server, &counters.0);
                pass(&server, &client, &counters.1);
            }
        });
        Ok(Relay { address, up, down })
    }

    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Bytes so far, headers included: to the server, and back.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.up.load(Ordering::SeqCst), self.down.load(Ordering::SeqCst))
    }
}

fn pass(from: &TcpStream, to: &TcpStream, count: &Arc<AtomicU64>) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    let count = Arc::clone(count);
    let _ = from.set_nodelay(true);
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            count.fetch_add(read as u64, Ordering::SeqCst);
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
