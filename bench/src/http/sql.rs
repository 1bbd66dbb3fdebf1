//! SQL over HTTP: single statements of one client, many clients at once, databases that are closed.
//!
//! The client speaks HTTP over one connection that stays open, as the official ones do, and sends what
//! they send: a pipeline of one statement and `close`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anabranch::Options;
use anabranch::blocking::Replica;

use super::server::Server;
use crate::Result;
use crate::clone::{GIGABYTE, ROW};
use crate::report::{Report, Row, Series, ms, ratio, size, time_ratio};
use crate::stage::{Stage, settle_disk};

const SELECTS: usize = 2000;
const SELECT_MAX: Duration = Duration::from_micros(300);
const POINT_MAX: f64 = 1.5;
const INSERTS: usize = 300;
const INSERT_MAX: f64 = 1.5;
const CLIENTS: usize = 64;
const INSERTS_EACH: usize = 50;
const TOGETHER_MIN: f64 = 10.0;
const DATABASES: usize = 200;
const WARM_UP: usize = 4;
/// A closed database costs its entry in an index, if that.
const CLOSED_MAX: u64 = 16 << 10;

pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    selects(stage, report)?;
    inserts(stage, report)?;
    closed(stage, report)
}

/// `SELECT 1`, and rows of a large database by their key.
fn selects(stage: &Stage, report: &mut Report) -> Result<()> {
    let (prepared, rows) = stage.prepared(GIGABYTE, ROW)?;
    let scene = stage.scene("http-sql")?;
    let db = scene.database("a.db", Some(&prepared))?;
    let server = Server::start(&stage.program, &scene.path("data"))?;
    Replica::init(&db, OsStr::new(&server.url("db")), Options::default())?;
    let mut client = Client::connect(server.address, "db")?;
    let start = Instant::now();
    client.run("SELECT 1")?;
    report.row(Row {
        workload: "SQL",
        figure: format!("first statement on {} (the server makes its replica)", size(GIGABYTE)),
        target: String::new(),
        measured: ms(start.elapsed()),
        peer: String::new(),
        ratio: None,
        met: None,
    })?;
    let one = Series::of(SELECTS, |_| client.timed("SELECT 1"))?;
    let mut keys = Keys::new(rows);
    let point = Series::of(SELECTS, |_| {
        client.timed(&format!("SELECT body FROM t WHERE id = {}", keys.next()))
    })?;
    let conn = rusqlite::Connection::open(&db)?;
    let local = Series::of(SELECTS, |_| {
        let sql = format!("SELECT body FROM t WHERE id = {}", keys.next());
        let start = Instant::now();
        conn.prepare(&sql)?.query_row([], |row| row.get::<_, String>(0))?;
        Ok(start.elapsed())
    })?;
    report.row(Row {
        workload: "SQL",
        figure: "SELECT 1, one client".to_owned(),
        target: format!("< {}", ms(SELECT_MAX)),
        measured: one.show(),
        peer: String::new(),
        ratio: None,
        met: Some(one.median() < SELECT_MAX),
    })?;
    let both = local.median() + one.median();
    let slower = time_ratio(point.median(), both);
    report.row(Row {
        workload: "SQL",
        figure: format!("row by key, {}", size(GIGABYTE)),
        target: format!("≤ {POINT_MAX} × in process and SELECT 1"),
        measured: point.show(),
        peer: format!("in process {}, together {}", ms(local.median()), ms(both)),
        ratio: Some(slower),
        met: Some(slower <= POINT_MAX),
    })?;
    drop(server);
    scene.clear()
}

/// Rows one by one: by one client, and by many at once.
fn inserts(stage: &Stage, report: &mut Report) -> Result<()> {
    let scene = stage.scene("http-sql")?;
    let server = Server::start(&stage.program, &scene.path("data"))?;
    let mut client = Client::connect(server.address, "db")?;
    client.run("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)")?;
    settle_disk()?;
    let sync = synced_appends(&scene.path("synced"))?;
    let create = synced_files(&scene.path("files"))?;
    let insert = "INSERT INTO t(body) VALUES ('a row of some length, as rows are')";
    let alone = Series::of(INSERTS, |_| client.timed(insert))?;
    let slower = time_ratio(alone.median(), sync.median());
    report.row(Row {
        workload: "SQL",
        figure: "INSERT of a row, one client, folder".to_owned(),
        target: format!("≤ {INSERT_MAX} × fdatasync"),
        measured: alone.show(),
        peer: format!(
            "append and fdatasync: {}; a new file, durably: {}",
            sync.show(),
            create.show()
        ),
        ratio: Some(slower),
        met: Some(slower <= INSERT_MAX),
    })?;
    let start = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> std::result::Result<(), String> {
                    let mut client =
                        Client::connect(server.address, "db").map_err(|e| e.to_string())?;
                    (0..INSERTS_EACH)
                        .try_for_each(|_| client.run(insert).map(drop))
                        .map_err(|e| e.to_string())
                })
            })
            .collect();
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        Ok(())
    })?;
    let each = start.elapsed() / u32::try_from(CLIENTS * INSERTS_EACH)?;
    let faster = time_ratio(alone.median(), each);
    let all = client.run("SELECT count(*) FROM t")?;
    if !all.contains(&format!("\"{}\"", INSERTS + CLIENTS * INSERTS_EACH)) {
        return Err(format!("rows are missing: {all}").into());
    }
    report.row(Row {
        workload: "SQL",
        figure: format!("INSERTs of {CLIENTS} clients at once, per second"),
        target: format!("≥ {TOGETHER_MIN} × one client"),
        measured: format!("{:.0}", 1.0 / each.as_secs_f64()),
        peer: format!("one client: {:.0}", 1.0 / alone.median().as_secs_f64()),
        ratio: Some(faster),
        met: Some(faster >= TOGETHER_MIN),
    })?;
    drop(server);
    scene.clear()
}

/// Databases that were used and are closed.
fn closed(stage: &Stage, report: &mut Report) -> Result<()> {
    let scene = stage.scene("http-sql")?;
    let extra = ["--idle-database", "1s"];
    let server = Server::start_with(&stage.program, &scene.path("data"), &extra)?;
    let use_all = |from: usize| -> Result<()> {
        for n in from..from + DATABASES {
            let mut client = Client::connect(server.address, &format!("db{n}"))?;
            client.run("CREATE TABLE t(a)")?;
        }
        while server.open_databases()? > 0 {
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    };
    // What the allocator keeps of what was freed does not grow any more after a while.
    (0..WARM_UP).try_for_each(|round| use_all(round * DATABASES))?;
    let (before, _) = server.memory()?;
    use_all(WARM_UP * DATABASES)?;
    let (after, _) = server.memory()?;
    let each = after.saturating_sub(before) / DATABASES as u64;
    report.row(Row {
        workload: "SQL",
        figure: format!("memory of the server per closed database, {DATABASES} used and closed"),
        target: format!("< {}", size(CLOSED_MAX)),
        measured: size(each),
        peer: format!("the server: {}", size(after)),
        ratio: Some(ratio(each, CLOSED_MAX)),
        met: Some(each < CLOSED_MAX),
    })?;
    drop(server);
    scene.clear()
}

/// What the disk takes for a page that must stay.
fn synced_appends(path: &Path) -> Result<Series> {
    let mut file = File::create(path)?;
    Series::of(INSERTS, |_| {
        let start = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        Ok(start.elapsed())
    })
}

/// What the disk takes for a new file that must stay, and its name: what a store of objects needs.
fn synced_files(folder: &Path) -> Result<Series> {
    fs::create_dir_all(folder)?;
    Series::of(INSERTS, |n| {
        let start = Instant::now();
        let mut file = File::create(folder.join(n.to_string()))?;
        file.write_all(&[7; 512])?;
        file.sync_all()?;
        File::open(folder)?.sync_all()?;
        Ok(start.elapsed())
    })
}

/// Keys all over a table.
struct Keys {
    rows: u64,
    at: u64,
}

impl Keys {
    fn new(rows: u64) -> Self {
        Keys { rows, at: 1 }
    }

    fn next(&mut self) -> u64 {
        self.at =
            self.at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.at >> 20) % self.rows + 1
    }
}

/// A connection to one database.
struct Client {
    stream: BufReader<TcpStream>,
    path: String,
}

impl Client {
    fn connect(server: SocketAddr, database: &str) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let path = format!("/{database}/v2/pipeline");
        Ok(Client { stream: BufReader::new(stream), path })
    }

    fn timed(&mut self, sql: &str) -> Result<Duration> {
        let start = Instant::now();
        self.run(sql)?;
        Ok(start.elapsed())
    }

    /// Runs one statement; the answer as it came.
    fn run(&mut self, sql: &str) -> Result<String> {
        let sql = serde_json::to_string(sql)?;
        let body = format!(
            "{{\"requests\":[{{\"type\":\"execute\",\"stmt\":{{\"sql\":{sql}}}}},{{\"type\":\"close\"}}]}}"
        );
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.path,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        let mut status = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("the server has closed the connection".into());
            }
            if status.is_empty() {
                status.clone_from(&line);
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(text) = line.strip_prefix("content-length:") {
                length = text.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body = String::from_utf8(body)?;
        if !status.contains(" 200 ") || body.contains("\"error\"") {
            return Err(format!("{sql}: {} {body}", status.trim()).into());
        }
        Ok(body)
    }
}
