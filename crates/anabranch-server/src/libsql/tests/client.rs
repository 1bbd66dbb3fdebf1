//! The official client, as far as a server can tell: its files are SQLite's own, its requests are
//! made of the frames in its WAL, and it can be killed at each of them.

use std::path::PathBuf;

use anabranch_format::{
    FrameHeader, PageSize, Salts, WAL_HEADER_BYTES, WalHeader, WalReader, WalWriter,
};
use bytes::Bytes;
use hyper::{Method, StatusCode};

use super::super::frame::{FRAME_BYTES, Frames};
use super::world::{Answer, PAGE, Random, World, beside, open, remove, rows, sum};

/// Frames in a request.
const BATCH: u32 = 128;

/// Where the client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) generation: u32,
    pub(super) durable: u32,
}

/// How a sync ended, other than well.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The process is gone; only its files are left.
    Killed,
    /// No answer came.
    Lost,
    Lower,
    Conflict,
    Refused(u16, String),
}

/// What may happen to requests: one in so many, 0 for never.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) kill_before: u64,
    pub(super) kill_after: u64,
    pub(super) lose_answer: u64,
    pub(super) restart_server: u64,
}

pub(super) struct Client {
    pub(super) path: PathBuf,
    /// As saved in the file.
    saved: Option<Info>,
    /// As the process knows it.
    info: Option<Info>,
    random: Random,
    pub(super) faults: Faults,
}

impl Client {
    pub(super) fn new(world: &World, name: &str, seed: u64) -> Self {
        Client {
            path: world.dir.path().join(format!("{name}.db")),
            saved: None,
            info: None,
            random: Random(seed),
            faults: Faults::default(),
        }
    }

    pub(super) fn info(&self) -> Info {
        self.info.unwrap()
    }

    /// The frames that the process knows to be stored, if it has begun.
    pub(super) fn try_info(&self) -> Option<u32> {
        self.info.map(|info| info.durable)
    }

    /// The file and all that belongs to it is deleted, as users do after a conflict.
    pub(super) fn reset(&mut self) {
        remove(&self.path, &["", "-wal", "-shm"]);
        (self.saved, self.info) = (None, None);
    }

    pub(super) fn run(&self, sql: &str) {
        let file = open(&self.path);
        file.execute_batch(sql).unwrap();
        drop(file);
        remove(&self.path, &["-shm"]);
    }

    /// What a stock SQLite does that opens the file and closes it.
    pub(super) fn opened_by_stock_sqlite(&self) {
        let file = rusqlite::Connection::open(&self.path).unwrap();
        let _: i64 =
            file.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).unwrap();
        drop(file);
        assert!(!beside(&self.path, "-wal").exists());
    }

    pub(super) fn rows(&self) -> Vec<String> {
        let rows = rows(&self.path);
        remove(&self.path, &["-shm"]);
        rows
    }

    /// The database as its user sees it.
    pub(super) fn pages(&self) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(&self.path).unwrap();
        let mut pages: Vec<Vec<u8>> = bytes.chunks(PAGE).map(<[u8]>::to_vec).collect();
        for frame in self.wal().1.iter() {
            let index = frame.pgno().get() as usize - 1;
            if pages.len() <= index {
                pages.resize(index + 1, vec![0; PAGE]);
            }
            pages[index] = frame.page().to_vec();
            if frame.header.is_commit() {
                pages.resize(frame.header.commit_size as usize, vec![0; PAGE]);
            }
        }
        pages
    }

    pub(super) fn sum(&self) -> anabranch_format::DbChecksum {
        sum(&self.pages())
    }

    /// The header of the WAL, and its frames up to the last commit.
    pub(super) fn wal(&self) -> (Option<WalHeader>, Frames) {
        let bytes = std::fs::read(beside(&self.path, "-wal")).unwrap_or_default();
        let Ok(mut reader) = WalReader::new(&bytes[..]) else {
            return (None, Frames::new(Bytes::new()).unwrap());
        };
        let (mut page, mut whole) = (vec![0; PAGE], 0);
        while let Ok(Some(frame)) = reader.next_frame(&mut page) {
            if frame.is_commit() {
                whole = usize::try_from(reader.frames()).unwrap();
            }
        }
        let end = WAL_HEADER_BYTES + whole * FRAME_BYTES;
        let frames = bytes[WAL_HEADER_BYTES..end].to_vec();
        (Some(*reader.header()), Frames::new(frames.into()).unwrap())
    }

    pub(super) fn wal_frames(&self) -> u32 {
        u32::try_from(self.wal().1.len()).unwrap()
    }

    /// A transaction that was pulled goes behind what the WAL has.
    pub(super) fn insert(&mut self, transaction: &[u8]) {
        let (header, frames) = self.wal();
        let mut salt = || u32::try_from(self.random.below(1 << 32)).unwrap();
        let header =
            header.unwrap_or_else(|| WalHeader::new(PageSize::DEFAULT, 0, Salts(salt(), salt())));
        let mut writer = WalWriter::new(Vec::new(), header).unwrap();
        let new = Frames::new(transaction.to_vec().into()).unwrap();
        for frame in frames.iter().chain(new.iter()) {
            writer.frame(frame.pgno(), frame.header.commit_size, frame.page()).unwrap();
        }
        std::fs::write(beside(&self.path, "-wal"), writer.into_inner()).unwrap();
    }

    async fn ask(
        &mut self,
        world: &World,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Failed> {
        let count = world.server_count();
        for _ in 0..12 {
            let mut server = usize::try_from(self.random.below(count as u64)).unwrap();
            let chance = |random: &mut Random, n: u64| n > 0 && random.one_in(n);
            if chance(&mut self.random, self.faults.restart_server) {
                world.restart(server);
            }
            if chance(&mut self.random, self.faults.kill_before) {
                self.info = self.saved;
                return Err(Failed::Killed);
            }
            let mut path = path.to_owned();
            let mut answer = world.ask(server, &method, &path, body.clone()).await;
            if let Some(location) = &answer.location {
                assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
                let (host, rest) =
                    location.strip_prefix("http://localhost:").unwrap().split_once('/').unwrap();
                server = host.parse().unwrap();
                path = format!("/{rest}");
                answer = world.ask(server, &method, &path, body.clone()).await;
            }
            if chance(&mut self.random, self.faults.kill_after) {
                self.info = self.saved;
                return Err(Failed::Killed);
            }
            if chance(&mut self.random, self.faults.lose_answer) {
                return Err(Failed::Lost);
            }
            assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{answer:?}");
            assert_ne!(answer.status, StatusCode::GONE, "{answer:?}");
            if !answer.status.is_server_error() {
                return Ok(answer);
            }
        }
        Err(Failed::Refused(503, "twelve times".to_owned()))
    }

    async fn bootstrap(&mut self, world: &World) -> Result<(), Failed> {
        let info = self.ask(world, Method::GET, "/info", Bytes::new()).await?;
        assert_eq!(info.status, StatusCode::OK, "{info:?}");
        let generation =
            u32::try_from(info.json()["current_generation"].as_u64().unwrap()).unwrap();
        let path = format!("/export/{generation}");
        let base = self.ask(world, Method::GET, &path, Bytes::new()).await?;
        if base.status != StatusCode::OK {
            return Err(Failed::Refused(base.status.as_u16(), path));
        }
        remove(&self.path, &["-wal", "-shm"]);
        std::fs::write(&self.path, &base.body).unwrap();
        self.save(Info { generation, durable: 0 });
        Ok(())
    }

    fn save(&mut self, info: Info) {
        (self.saved, self.info) = (Some(info), Some(info));
    }

    /// One sync: pushes if there is something to push, else pulls. The frames that moved.
    pub(super) async fn sync(&mut self, world: &World) -> Result<u32, Failed> {
        if self.info.is_none() {
            self.bootstrap(world).await?;
        }
        if self.wal_frames() > self.info().durable {
            self.push(world).await
        } else {
            self.pull(world).await
        }
    }

    async fn push(&mut self, world: &World) -> Result<u32, Failed> {
        let before = self.info().durable;
        if let Err(failed) = self.try_push(world).await {
            if failed != Failed::Lower {
                return Err(failed);
            }
            self.try_push(world).await?;
        }
        let info = self.info();
        self.save(info);
        Ok(info.durable.saturating_sub(before))
    }

    async fn try_push(&mut self, world: &World) -> Result<(), Failed> {
        let (frames, max) = (self.wal().1, self.wal_frames());
        let mut baton = String::new();
        let mut start = self.info().durable + 1;
        // Fixed, whatever the answers name meanwhile.
        let generation = self.info().generation;
        while start <= max {
            let end = max.min(start + BATCH - 1) + 1;
            let path = format!("/sync/{generation}/{start}/{end}{baton}");
            let body = frames.part(start as usize - 1, end as usize - 1).bytes().clone();
            let answer = self.ask(world, Method::POST, &path, body).await?;
            if answer.status != StatusCode::OK {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                return Err(Failed::Refused(answer.status.as_u16(), text));
            }
            let json = answer.json();
            if json["status"] == "conflict" {
                return Err(Failed::Conflict);
            }
            assert_eq!(json["status"], "ok");
            let number = |name: &str| u32::try_from(json[name].as_u64().unwrap()).unwrap();
            let stored = number("max_frame_no");
            assert!(stored < end, "a number above what was pushed: {json}, {path}");
            if stored < end - 1 {
                self.info = Some(Info { durable: stored, ..self.info() });
                return Err(Failed::Lower);
            }
            self.info = Some(Info { generation: number("generation"), durable: stored });
            baton = json["baton"].as_str().map(|b| format!("/{b}")).unwrap_or_default();
            start = end;
        }
        Ok(())
    }

    pub(super) async fn pull(&mut self, world: &World) -> Result<u32, Failed> {
        let (mut open_frames, mut pulled): (Vec<u8>, u32) = (Vec::new(), 0);
        loop {
            let Info { generation, durable } = self.info();
            let start = durable + 1 + u32::try_from(open_frames.len() / FRAME_BYTES).unwrap();
            let path = format!("/sync/{generation}/{start}/{}", start + BATCH);
            let answer = self.ask(world, Method::GET, &path, Bytes::new()).await?;
            if answer.status == StatusCode::BAD_REQUEST {
                let json = answer.json();
                let newest =
                    u32::try_from(json["generation"].as_u64().unwrap_or_else(|| panic!("{json}")))
                        .unwrap();
                assert!(newest >= generation, "{json}");
                assert!(
                    open_frames.is_empty(),
                    "the end of a generation in mid-transaction: {path}"
                );
                if newest == generation {
                    return Ok(pulled);
                }
                self.checkpoint();
                self.save(Info { generation: generation + 1, durable: 0 });
                continue;
            }
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            assert!(!answer.body.is_empty() && answer.body.len().is_multiple_of(FRAME_BYTES));
            for frame in answer.body.chunks_exact(FRAME_BYTES) {
                open_frames.extend_from_slice(frame);
                pulled += 1;
                if FrameHeader::decode(frame.first_chunk().unwrap()).unwrap().is_commit() {
                    let frames = u32::try_from(open_frames.len() / FRAME_BYTES).unwrap();
                    self.insert(&open_frames);
                    open_frames.clear();
                    let info = self.info();
                    let moved = Info { durable: info.durable + frames, ..info };
                    self.info = Some(moved);
                    if self.faults.kill_after > 0 && self.random.one_in(self.faults.kill_after * 4)
                    {
                        // Pulled, but its position not saved.
                        self.info = self.saved;
                        return Err(Failed::Killed);
                    }
                    self.save(moved);
                }
            }
        }
    }

    /// Pulls as far as `place`, a frame 0, where the process is killed.
    pub(super) async fn pull_until(&mut self, world: &World, place: Info) {
        while self.info() != place {
            let Info { generation, durable } = self.info();
            let path = format!("/sync/{generation}/{}/{}", durable + 1, durable + 129);
            let answer = world.get(&path).await;
            if answer.status == StatusCode::OK {
                self.insert(&answer.body);
                let durable = self.wal_frames();
                self.save(Info { generation, durable });
            } else {
                self.checkpoint();
                self.save(Info { generation: generation + 1, durable: 0 });
            }
        }
    }

    fn checkpoint(&self) {
        let file = open(&self.path);
        file.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(file);
        remove(&self.path, &["-wal", "-shm"]);
    }

    /// Syncs until nothing moves any more.
    pub(super) async fn settle(&mut self, world: &World) -> Result<(), Failed> {
        while self.sync(world).await? > 0 {}
        Ok(())
    }
}
