//! The naive server in memory as a program: `libsql-mock [ADDRESS [BASE]]`.
//!
//! Benchmarks run the official client against it. `BASE` is a database file in WAL mode with pages of
//! 4096 bytes that `default` begins with, to be cloned.

use std::net::SocketAddr;
use std::process::ExitCode;

use anabranch_conformance::{Mock, MockDatabase};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let Ok(address) = address.parse::<SocketAddr>() else {
        eprintln!("not an address: {address}");
        return ExitCode::FAILURE;
    };
    let base = match args.next().map(|path| (std::fs::read(&path), path)) {
        Some((Ok(bytes), _)) => Some(bytes),
        Some((Err(error), path)) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
        None => None,
    };
    let mock = Mock::start(address);
    mock.put("default", MockDatabase::new(base));
    eprintln!("listening on http://{}", mock.address());
    loop {
        std::thread::park();
    }
}
