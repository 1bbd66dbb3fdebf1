//! An S3 service for tests: s3s-fs, whose own check and write are not one step, behind a lock for
//! each key, which makes its conditional writes exact. It can be told to make trouble.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

pub const KEY: &str = "AKEY";
pub const SECRET: &str = "secret-secret";

/// What happens to the next PUT of a log object.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// The service is busy and does nothing.
    Busy,
    /// The service does it, and the connection breaks.
    LostAnswer,
    /// The service does it, then says that it is busy.
    DoneButBusy,
    /// "Conflict", and nothing is done.
    Conflict,
}

/// A running service; it ends with the runtime it was started in.
#[derive(Clone)]
pub struct Server {
    s3: S3Service,
    locks: Arc<Vec<tokio::sync::Mutex<()>>>,
    hasher: RandomState,
    pub trouble: Arc<Mutex<VecDeque<Trouble>>>,
    /// Where the objects lie, if the service is to overwrite them whatever the condition.
    overwrites_in: Option<PathBuf>,
}

impl Server {
    /// Starts a service over `directory`, with one bucket named `bucket`; answers its endpoint.
    pub async fn start(directory: &std::path::Path, ignores_conditions: bool) -> (Self, String) {
        std::fs::create_dir_all(directory.join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let server = Server {
            s3: builder.build(),
            locks: Arc::new((0..64).map(|_| tokio::sync::Mutex::new(())).collect()),
            hasher: RandomState::new(),
            trouble: Arc::default(),
            overwrites_in: ignores_conditions.then(|| directory.to_path_buf()),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = serving.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { server.answer(request).await }
                });
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        (server, endpoint)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<s3s::Body>, String> {
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        let lock = self.hasher.hash_one(request.uri().path()) as usize % self.locks.len();
        let _guard = if changes { Some(self.locks[lock].lock().await) } else { None };
        // The header itself is signed, so it is the object that has to go.
        if let Some(directory) = self.overwrites_in.as_ref().filter(|_| changes) {
            let _ = std::fs::remove_file(directory.join(&request.uri().path()[1..]));
        }
        let is_log = *request.method() == Method::PUT && request.uri().path().contains("/log/");
        let trouble = if is_log { self.trouble.lock().unwrap().pop_front() } else { None };
        let status = |code| Ok(Response::builder().status(code).body(s3s::Body::empty()).unwrap());
        match trouble {
            Some(Trouble::Busy) => return status(503),
            Some(Trouble::Conflict) => return status(409),
            _ => {}
        }
        let answer = Service::call(&self.s3, request).await.map_err(|e| format!("{e:?}"))?;
        match trouble {
            Some(Trouble::LostAnswer) => Err("the connection breaks".to_owned()),
            Some(Trouble::DoneButBusy) => status(503),
            _ => Ok(answer),
        }
    }
}
