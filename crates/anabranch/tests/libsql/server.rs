//! A libSQL server as the protocol describes one, in memory, on a socket of its own: generations,
//! batons, repeats, conflicts; and, on request, everything that can go wrong on the way.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

pub const PAGE: usize = 4096;
pub const FRAME: usize = 24 + PAGE;

/// A generation: its base and its frames.
#[derive(Clone)]
pub struct Generation {
    pub base: Vec<u8>,
    pub frames: Vec<Vec<u8>>,
}

/// What the server does with a request, instead of answering it.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing special.
    None,
    /// Closes the connection at once.
    Unheard,
    /// Does what is asked, and closes the connection.
    Unanswered,
    /// Does what is asked, and sends half of the answer.
    Cut,
    /// Answers this instead.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Does what is asked, and answers this.
    Lie(u16, Vec<u8>),
    /// Answers, and ends the generation.
    Roll,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

type Script = Box<dyn FnMut(&Request) -> Fault + Send>;

pub struct State {
    pub generations: Vec<Generation>,
    /// Frames of transactions that are not whole, by baton.
    aside: HashMap<String, Vec<Vec<u8>>>,
    batons: u64,
    /// Frames that are there already are compared, not refused.
    pub repeats: bool,
    /// Frames in one answer at most.
    pub frames_max: usize,
    /// A generation ends once it has so many frames.
    pub rollover: usize,
    /// Requests, as method and path, since they were last looked at.
    pub seen: Vec<Request>,
    pub script: Script,
}

pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn json(status: u16, text: String) -> Answer {
    Answer { status, headers: vec![("content-type", "application/json".into())], body: text.into() }
}

impl Server {
    /// A server with a database without content.
    pub fn empty() -> Self {
        Self::with(empty_database())
    }

    /// A server whose first generation has this base.
    pub fn with(base: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            generations: vec![Generation { base, frames: Vec::new() }],
            aside: HashMap::new(),
            batons: 0,
            repeats: true,
            frames_max: 1000,
            rollover: usize::MAX,
            seen: Vec::new(),
            script: Box::new(|_| Fault::None),
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Server { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}/db", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on `script` decides what goes wrong.
    pub fn script(&self, script: impl FnMut(&Request) -> Fault + Send + 'static) {
        self.state().script = Box::new(script);
    }

    /// From now on nothing goes wrong.
    pub fn honest(&self) {
        self.script(|_| Fault::None);
    }

    /// Requests since the last call, as text.
    pub fn requests(&self) -> Vec<String> {
        let seen = std::mem::take(&mut self.state().seen);
        seen.into_iter().map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// Ends the generation.
    pub fn roll(&self) {
        self.state().roll();
    }

    /// The newest generation and its number of frames.
    pub fn end(&self) -> (usize, usize) {
        let state = self.state();
        (state.generations.len(), state.current().frames.len())
    }
}

impl State {
    fn current(&self) -> &Generation {
        self.generations.last().unwrap()
    }

    fn roll(&mut self) {
        let base = self.current().image();
        self.generations.push(Generation { base, frames: Vec::new() });
        self.aside.clear();
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let path: Vec<&str> = request.path.split('/').filter(|part| !part.is_empty()).collect();
        match (request.method.as_str(), &path[..]) {
            ("GET", ["db", "info"]) => {
                json(200, format!(r#"{{"current_generation":{}}}"#, self.generations.len()))
            }
            ("GET", ["db", "export", generation]) => match self.generation(generation) {
                Some(generation) => {
                    Answer { status: 200, headers: Vec::new(), body: generation.base.clone() }
                }
                None => json(404, r#"{"error":"no such generation"}"#.into()),
            },
            ("GET", ["db", "sync", generation, start, end]) => self.pull(generation, start, end),
            ("POST", ["db", "sync", generation, start, end, baton @ ..]) => {
                self.push(generation, start, end, baton.first().copied(), &request.body)
            }
            _ => json(404, r#"{"error":"no such page"}"#.into()),
        }
    }

    fn generation(&self, number: &str) -> Option<&Generation> {
        let number: usize = number.parse().ok()?;
        self.generations.get(number.checked_sub(1)?)
    }

    fn pull(&self, generation: &str, start: &str, end: &str) -> Answer {
        let Some(of) = self.generation(generation) else {
            return json(404, r#"{"error":"no such generation"}"#.into());
        };
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
        let last = (end - 1).min(of.frames.len()).min(start - 1 + self.frames_max);
        if start == 0 || start > last {
            let (now, newest) = (self.generations.len(), of.frames.len());
            return json(
                400,
                format!(r#"{{"status":"end","generation":{now},"max_frame_no":{newest}}}"#),
            );
        }
        let body = of.frames[start - 1..last].concat();
        Answer { status: 200, headers: Vec::new(), body }
    }

    fn push(
        &mut self,
        generation: &str,
        start: &str,
        end: &str,
        baton: Option<&str>,
        body: &[u8],
    ) -> Answer {
        let generation: usize = generation.parse().unwrap();
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
        let new: Vec<Vec<u8>> = body.chunks(FRAME).map(<[u8]>::to_vec).collect();
        if !body.len().is_multiple_of(FRAME) || end <= start || end - start != new.len() {
            return json(400, r#"{"error":"not that many frames"}"#.into());
        }
        let reply = |status: &str, newest: usize, baton: Option<&str>| {
            let baton = baton.map_or("null".into(), |baton| format!("\"{baton}\""));
            json(
                200,
                format!(
                    r#"{{"status":"{status}","generation":{generation},"max_frame_no":{newest},"baton":{baton}}}"#
                ),
            )
        };
        let Some(of) = self.generations.get(generation - 1) else {
            return json(404, r#"{"error":"no such generation"}"#.into());
        };
        let baton = baton.map(|baton| baton.replace("%2F", "/").replace("%3F", "?"));
        let mut aside = baton.and_then(|b| self.aside.remove(&b)).unwrap_or_default();
        let newest = of.frames.len() + aside.len();
        if start > newest + 1 {
            return reply("ok", of.frames.len(), None);
        }
        let have = |number: usize| of.frames.get(number - 1);
        let known = (start..end).take_while(|number| have(*number).is_some()).count();
        let equal = (start..).zip(&new).take(known).all(|(number, frame)| {
            have(number).is_some_and(|there| there[..8] == frame[..8] && there[24..] == frame[24..])
        });
        if known > 0 && !(self.repeats && equal) {
            return reply("conflict", newest, None);
        }
        let fresh = &new[known..];
        if fresh.is_empty() {
            return reply("ok", end - 1, None);
        }
        if generation != self.generations.len() {
            return reply("conflict", newest, None);
        }
        // Parts that were sent before are sent again from some place on.
        aside.truncate(start + known - 1 - of.frames.len());
        aside.extend_from_slice(fresh);
        if fresh.last().is_some_and(|frame| frame[4..8] == [0; 4]) {
            self.batons += 1;
            let baton = format!("b/{}?", self.batons);
            self.aside.insert(baton.clone(), aside);
            return reply("ok", end - 1, Some(&baton));
        }
        let current = self.generations.last_mut().unwrap();
        current.frames.append(&mut aside);
        let full = current.frames.len() >= self.rollover;
        let answer = reply("ok", end - 1, None);
        if full {
            self.roll();
        }
        answer
    }
}

impl Generation {
    /// The database after all frames.
    pub fn image(&self) -> Vec<u8> {
        let mut image = self.base.clone();
        let mut open: BTreeMap<usize, &[u8]> = BTreeMap::new();
        for frame in &self.frames {
            let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            open.insert(word(0) as usize, &frame[24..]);
            if word(4) == 0 {
                continue;
            }
            image.resize(word(4) as usize * PAGE, 0);
            for (pgno, page) in std::mem::take(&mut open) {
                if pgno <= word(4) as usize {
                    image[(pgno - 1) * PAGE..pgno * PAGE].copy_from_slice(page);
                }
            }
        }
        image
    }
}

/// A database of one page, in WAL mode, without tables.
pub fn empty_database() -> Vec<u8> {
    database("VACUUM")
}

/// The bytes of a database in WAL mode that `sql` makes.
pub fn database(sql: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA user_version = 0",
    )
    .unwrap();
    conn.execute_batch(sql).unwrap();
    conn.close().unwrap();
    std::fs::read(&path).unwrap()
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.seen.push(request.clone());
        let fault = (state.script)(&request);
        let (answer, cut) = match fault {
            Fault::Unheard => return,
            Fault::Answer(status, headers, body) => (Answer { status, headers, body }, false),
            Fault::None => (state.answer(&request), false),
            Fault::Cut => (state.answer(&request), true),
            Fault::Roll => {
                let answer = state.answer(&request);
                state.roll();
                (answer, false)
            }
            Fault::Unanswered => {
                state.answer(&request);
                return;
            }
            Fault::Lie(status, body) => {
                state.answer(&request);
                (Answer { status, headers: Vec::new(), body }, false)
            }
        };
        drop(state);
        let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", answer.body.len());
        let body = if cut { &answer.body[..answer.body.len() / 2] } else { &answer.body[..] };
        let mut writer = stream;
        if writer.write_all(&[head.as_bytes(), body].concat()).is_err() || cut {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}
