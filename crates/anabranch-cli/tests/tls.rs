//! The program and a server behind TLS: whom it trusts, and what it says where it does not.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use anabranch_server::{Config, Location, Server};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

const PROGRAM: &str = env!("CARGO_BIN_EXE_anabranch");

/// An authority of its own, a server, and places where TLS ends.
struct World {
    runtime: Runtime,
    folder: TempDir,
    authority: Issuer<'static, KeyPair>,
    server: SocketAddr,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("authority.pem"), root.pem()).unwrap();
        let authority = Issuer::new(params, key);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let mut config = Config::new(Location::folder(folder.path().join("data")), folder.path());
        config.listen = "127.0.0.1:0".parse().unwrap();
        let server = runtime.block_on(Server::bind(config)).unwrap();
        let address = server.address();
        runtime.spawn(server.run(std::future::pending()));
        World { runtime, folder, authority, server: address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Ends TLS with a certificate for `name`, and passes on to the server; or, with an `answer`, says
    /// that. Gives the port.
    fn terminator(&self, name: &str, answer: Option<String>) -> u16 {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), self.server);
        self.runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    // Who does not trust us goes away.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    if let Some(answer) = answer {
                        let _ = client.read(&mut [0; 4096]).await;
                        let _ = client.write_all(answer.as_bytes()).await;
                        let _ = client.shutdown().await;
                        return;
                    }
                    let mut server = TcpStream::connect(server).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        port
    }

    fn run(&self, trusted: Option<&Path>, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.folder.path()).args(args).env_remove("SSL_CERT_DIR");
        match trusted {
            Some(file) => command.env("SSL_CERT_FILE", file),
            None => command.env_remove("SSL_CERT_FILE"),
        };
        command.output().unwrap()
    }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn sqlite(db: &Path, sql: &str) -> String {
    let out = Command::new("sqlite3").arg("-bail").arg(db).arg(sql).output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn replicas_meet_over_tls_and_trust_only_known_authorities() {
    let world = World::new();
    let authority = world.path("authority.pem");
    let port = world.terminator("localhost", None);
    let url = format!("https://localhost:{port}/notes");
    sqlite(&world.path("a.db"), "CREATE TABLE t(v); INSERT INTO t VALUES ('over tls')");
    let trusting = |args: &[&str]| {
        let out = world.run(Some(&authority), args);
        assert!(out.status.success(), "{args:?}: {}", said(&out));
    };
    trusting(&["init", "a.db", "--remote", &url]);
    // As the official libSQL clients write https.
    trusting(&["clone", &format!("libsql://localhost:{port}/notes"), "b.db"]);
    sqlite(&world.path("b.db"), "INSERT INTO t VALUES ('back')");
    trusting(&["sync", "b.db"]);
    trusting(&["sync", "a.db"]);
    let dump = |name: &str| sqlite(&world.path(name), ".dump");
    assert_eq!(dump("a.db"), dump("b.db"));

    let out = world.run(Some(&authority), &["shell", &url, "SELECT v FROM t ORDER BY v"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "back\nover tls\n", "{}", said(&out));

    let refused = |trusted: Option<&Path>, url: &str| {
        let out = world.run(trusted, &["shell", url, "SELECT 1"]);
        assert_eq!(out.status.code(), Some(1), "{}", said(&out));
        assert!(said(&out).contains("is not trusted"), "{}", said(&out));
        let out = world.run(trusted, &["clone", url, "c.db"]);
        assert_eq!(out.status.code(), Some(1), "it is not offline: {}", said(&out));
        assert!(said(&out).contains("certificate is not trusted"), "{}", said(&out));
        assert!(!world.path("c.db").exists());
    };
    refused(None, &url);
    let elsewhere = world.terminator("elsewhere.example", None);
    refused(Some(&authority), &format!("https://localhost:{elsewhere}/notes"));
}

#[test]
fn nobody_is_led_from_https_to_http() {
    let world = World::new();
    let down = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/notes/log/head\r\nContent-Length: \
         0\r\nConnection: close\r\n\r\n",
        world.server
    );
    let port = world.terminator("localhost", Some(down));
    let url = format!("https://localhost:{port}/notes");
    let out = world.run(Some(&world.path("authority.pem")), &["clone", &url, "c.db"]);
    assert!(!out.status.success());
    assert!(said(&out).contains("from https to http"), "{}", said(&out));
}
