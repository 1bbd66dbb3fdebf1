//! A real server in this process, and a proxy before it that counts, cuts and loses.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anabranch_server::{Config, Location, Server};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What the proxy does to the next answers, and what it saw.
#[derive(Default)]
pub struct Rules {
    /// The first line of each request.
    pub requests: Vec<String>,
    /// Bytes that went to the client.
    pub bytes: u64,
    /// So many answers to requests that begin so are lost, after the server has given them.
    pub lose: Option<(&'static str, u32)>,
    /// So many answers to requests that begin so are cut off after so many bytes.
    pub cut: Option<(&'static str, u32, usize)>,
    /// A byte of each answer to requests that begin so is flipped, so far from its start.
    pub flip: Option<(&'static str, usize)>,
    /// So many requests that begin so are answered with this instead of being passed on; `{target}`
    /// in it is what was asked for.
    pub answer: Option<(&'static str, u32, String)>,
    /// Runs when an answer has been cut off, before the client learns of it.
    pub on_cut: Option<Box<dyn FnOnce() + Send>>,
}

/// Answers to the heads of requests.
type Answers = dyn Fn(&str) -> String + Send + Sync;

/// A server and the proxy before it.
pub struct Net {
    runtime: Runtime,
    pub rules: Arc<Mutex<Rules>>,
    pub folder: TempDir,
    pub direct: SocketAddr,
    pub address: SocketAddr,
}

impl Net {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut config = Config::new(Location::folder(folder.path().join("data")), folder.path());
        config.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let server = runtime.block_on(Server::bind(config)).unwrap();
        let direct = server.address();
        runtime.spawn(server.run(std::future::pending()));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let rules = Arc::new(Mutex::new(Rules::default()));
        let shared = Arc::clone(&rules);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, direct, Arc::clone(&shared)));
            }
        });
        Net { runtime, rules, folder, direct, address }
    }

    /// The URL of the database `name`.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.rules.lock().unwrap().requests)
    }

    /// Sends `PUT path` past the proxy.
    pub fn put(&self, path: &str) {
        self.ask("PUT", path, 201);
    }

    /// Has the server begin a new generation of the database `name`.
    pub fn rollover(&self, name: &str) {
        self.ask("POST", &format!("/admin/v1/databases/{name}/rollover"), 200);
    }

    /// Sends a request past the proxy, which must be answered with `status`.
    fn ask(&self, method: &str, path: &str, status: u16) {
        self.runtime.block_on(async {
            let mut stream = TcpStream::connect(self.direct).await.unwrap();
            let text = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: \
                 close\r\n\r\n"
            );
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        });
    }

    /// Something that answers every request with `answer`, at the URL it gives.
    pub fn answering(&self, answer: &'static str) -> String {
        self.scripted(move |_| answer.to_owned()).0
    }

    /// Something that answers requests as `answer` says, which gets their heads; where it is, and the
    /// heads that it gets.
    pub fn scripted(
        &self,
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> (String, Arc<Mutex<Vec<String>>>) {
        let (answer, heads): (Arc<Answers>, _) = (Arc::new(answer), Arc::default());
        let kept: Arc<Mutex<Vec<String>>> = Arc::clone(&heads);
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        self.runtime.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let read = client.read(&mut request).await.unwrap_or(0);
                    let head = String::from_utf8_lossy(&request[..read]).into_owned();
                    let answer = answer(&head);
                    kept.lock().unwrap().push(head);
                    let _ = client.write_all(answer.as_bytes()).await;
                });
            }
        });
        (format!("http://{address}/x"), heads)
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, rules: Arc<Mutex<Rules>>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let (mut request, mut sent) = (String::new(), 0);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let line = String::from_utf8_lossy(&up[..n.min(300)]);
                if ["GET ", "POST ", "PUT "].iter().any(|method| line.starts_with(method)) {
                    request = line.lines().next().unwrap_or_default().to_owned();
                    sent = 0;
                    rules.lock().unwrap().requests.push(request.clone());
                    if let Some(answer) = answered(&rules, &request) {
                        let _ = client.write_all(answer.as_bytes()).await;
                        return;
                    }
                }
                if server.write_all(&up[..n]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                let Some(pass) = tampered(&rules, &request, &mut down[..n], sent) else { return };
                let ended = pass < n;
                sent += pass;
                rules.lock().unwrap().bytes += pass as u64;
                let written = client.write_all(&down[..pass]).await;
                if ended && let Some(act) = { rules.lock().unwrap().on_cut.take() } {
                    // A runtime of its own may be started there.
                    let act = move || std::thread::spawn(act).join().unwrap();
                    tokio::task::block_in_place(act);
                }
                if written.is_err() || ended {
                    return;
                }
            }
        }
    }
}

/// The answer to a request that is not passed on.
fn answered(rules: &Mutex<Rules>, request: &str) -> Option<String> {
    match &mut rules.lock().unwrap().answer {
        Some((start, left @ 1.., answer)) if request.starts_with(*start) => {
            *left -= 1;
            Some(answer.replace("{target}", request.split(' ').nth(1).unwrap_or_default()))
        }
        _ => None,
    }
}

/// How many of the bytes pass; `None`: the connection breaks at once.
fn tampered(rules: &Mutex<Rules>, request: &str, bytes: &mut [u8], sent: usize) -> Option<usize> {
    let mut rules = rules.lock().unwrap();
    if let Some((start, left @ 1..)) = &mut rules.lose
        && request.starts_with(*start)
    {
        *left -= 1;
        return None;
    }
    if let Some((start, at)) = rules.flip
        && request.starts_with(start)
        && let Some(byte) = at.checked_sub(sent).and_then(|at| bytes.get_mut(at))
    {
        *byte ^= 0x10;
    }
    if let Some((start, left @ 1.., most)) = &mut rules.cut
        && request.starts_with(*start)
        && sent + bytes.len() > *most
    {
        *left -= 1;
        return Some(most.saturating_sub(sent));
    }
    Some(bytes.len())
}
