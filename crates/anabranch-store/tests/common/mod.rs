//! What the tests of the log share: a database in memory, and stores to keep its log on.
#![allow(dead_code, clippy::unwrap_used, clippy::cast_possible_truncation)]

pub mod fault;
pub mod pages_at;
pub mod suite;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_format::{
    DatabaseId, DbChecksum, DeltaEncoder, Lsn, Micros, PageChecksum, PageSize, Pgno, Salts,
    SegmentEncoder,
};
use anabranch_store::{
    Anchor, AppendError, Appended, Fetched, Head, Log, NewSegment, Progress, Rollover, Root, Spool,
    StoreError, StoreKind, StoreOptions,
};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};

pub const PAGE: PageSize = PageSize::MIN;

/// A repeatable source of numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn page(&mut self, bytes: usize) -> Vec<u8> {
        (0..bytes.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(bytes).collect()
    }
}

/// A database: nothing but pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Db {
    pub page_size: PageSize,
    pub pages: Vec<Vec<u8>>,
}

impl Db {
    pub fn empty() -> Self {
        Db { page_size: PAGE, pages: Vec::new() }
    }

    pub fn size(&self) -> u32 {
        self.pages.len() as u32
    }

    pub fn sum(&self) -> DbChecksum {
        let mut sum = DbChecksum::EMPTY;
        for (index, page) in self.pages.iter().enumerate() {
            let pgno = Pgno::new(index as u32 + 1).unwrap();
            if pgno != self.page_size.lock_page() {
                sum.toggle(PageChecksum::of(pgno, page));
            }
        }
        sum
    }

    /// Page 1, one other page and everything up to `size` gets new content.
    pub fn edited(&self, seed: u64, size: u32) -> Self {
        let mut random = Random(seed);
        let mut db = self.clone();
        db.pages.truncate(size as usize);
        while db.size() < size {
            db.pages.push(random.page(self.page_size.bytes()));
        }
        db.pages[0] = random.page(self.page_size.bytes());
        let other = (random.next() % u64::from(size)) as usize;
        db.pages[other] = random.page(self.page_size.bytes());
        db
    }

    /// The pages of `after` that this one has not.
    pub fn changed(&self, after: &Db) -> Vec<(Pgno, Vec<u8>)> {
        let differs = |index: usize, page: &Vec<u8>| self.pages.get(index) != Some(page);
        let pages = after.pages.iter().enumerate();
        pages
            .filter(|(index, page)| differs(*index, page))
            .map(|(index, page)| (Pgno::new(index as u32 + 1).unwrap(), page.clone()))
            .collect()
    }

    pub fn segment(&self, after: &Db, writer: &str, push: &str, now: i64) -> NewSegment {
        let spool = Spool::new(&std::env::temp_dir());
        let mut encoder = DeltaEncoder::new(spool, self.page_size, Lsn::ZERO).unwrap();
        for (pgno, page) in self.changed(after) {
            encoder.page(pgno, &page).unwrap();
        }
        let encoded = encoder.finish(after.size()).unwrap();
        NewSegment {
            push: push.parse().unwrap(),
            writer: writer.parse().unwrap(),
            now: Micros(now),
            page_size: self.page_size,
            pages: (self.size(), after.size()),
            sum: (self.sum(), after.sum()),
            frames: encoded.frames,
            transactions: None,
            rollover: Rollover::WhenDue,
            body: encoded.sink,
        }
    }

    /// Takes over what was fetched, checking sizes and sums on the way.
    pub fn apply(&mut self, fetched: Fetched) -> Result<(), StoreError> {
        let mut db = if fetched.from.is_none() { Db::empty() } else { self.clone() };
        db.page_size = fetched.page_size;
        assert_eq!((db.size(), db.sum()), (fetched.pages.0, fetched.sum.0), "not at its start");
        let (size, sum) = (fetched.pages.1, fetched.sum.1);
        fetched.for_each(|pgno, page| {
            let index = pgno.get() as usize - 1;
            if db.pages.len() <= index {
                db.pages.resize(index + 1, vec![0; page.len()]);
            }
            db.pages[index] = page.to_vec();
            Ok::<(), StoreError>(())
        })?;
        db.pages.resize(size as usize, vec![0; db.page_size.bytes()]);
        assert_eq!(db.sum(), sum, "the pages are those that the log describes");
        *self = db;
        Ok(())
    }
}

/// A remote to test with.
pub struct Fixture {
    pub root: Root,
    pub raw: Arc<dyn ObjectStore>,
    pub options: StoreOptions,
    pub directory: tempfile::TempDir,
    /// Stops what serves it.
    pub server: Option<Box<dyn std::any::Any + Send>>,
}

impl Fixture {
    pub fn memory() -> Self {
        Self::on(Arc::new(InMemory::new()), StoreKind::Memory)
    }

    /// On any store.
    pub fn on(raw: Arc<dyn ObjectStore>, kind: StoreKind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(directory.path());
        let root = Root::with_store(raw.clone(), kind, &options);
        Fixture { root, raw, options, directory, server: None }
    }

    pub async fn folder() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("the remote");
        let options = StoreOptions::new(directory.path());
        let location = anabranch_store::Location::folder(&path);
        assert!(Root::open(&location, &options).await.unwrap_err().is_offline());
        let root = Root::create(&location, &options).await.unwrap();
        let raw = object_store::local::LocalFileSystem::new_with_prefix(&path).unwrap();
        Fixture { root, raw: Arc::new(raw), options, directory, server: None }
    }

    pub fn folder_path(&self) -> PathBuf {
        self.directory.path().join("the remote")
    }

    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// A new database in it.
    pub async fn log(&self) -> Log {
        let id: DatabaseId = "0123456789abcdef".parse().unwrap();
        let name = "default".parse().unwrap();
        self.root.name(&name, &id).await.unwrap();
        self.root.log(&name, &id)
    }

    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let prefix = Key::from(format!("db/0123456789abcdef/{prefix}"));
        let listed: Vec<_> = self.raw.list(Some(&prefix)).try_collect().await.unwrap();
        let mut keys: Vec<String> = listed.into_iter().map(|o| o.location.to_string()).collect();
        keys.sort();
        keys
    }

    pub async fn read(&self, key: &str) -> Vec<u8> {
        self.raw.get(&Key::from(key)).await.unwrap().bytes().await.unwrap().to_vec()
    }

    pub async fn overwrite(&self, key: &str, bytes: Vec<u8>) {
        self.raw.put(&Key::from(key), bytes.into()).await.unwrap();
    }

    pub async fn delete(&self, key: &str) {
        self.raw.delete(&Key::from(key)).await.unwrap();
    }
}

/// A replica that pushes and pulls without a file.
pub struct Replica {
    pub log: Log,
    pub writer: String,
    pub head: Head,
    pub db: Db,
    pub pushes: u64,
    pub rollover: Rollover,
}

/// A frame as a client numbers it: page, commit size, salts and content.
pub type Frame = (Pgno, u32, Salts, Vec<u8>);

impl Replica {
    pub fn new(log: &Log, writer: &str) -> Self {
        Replica {
            log: log.clone(),
            writer: writer.to_owned(),
            head: Head::empty(),
            db: Db::empty(),
            pushes: 0,
            rollover: Rollover::WhenDue,
        }
    }

    pub fn at(&self) -> Lsn {
        self.head.lsn()
    }

    pub fn next_push(&mut self) -> String {
        self.pushes += 1;
        format!("{}-{}", self.writer, self.pushes)
    }

    /// Changes the database and pushes that; the replica must be at the head.
    pub async fn push(&mut self, size: u32) -> Result<Appended, AppendError> {
        let push = self.next_push();
        let after = self.db.edited(self.at().get() * 31 + self.pushes, size);
        let mut segment = self.db.segment(&after, &self.writer, &push, 1_000_000);
        segment.rollover = self.rollover;
        let appended = self.log.append(&self.head, segment, &Progress::none()).await?;
        if let Appended::Won(metadata) = &appended {
            self.head = self.head.after(metadata.clone());
            self.db = after;
        }
        Ok(appended)
    }

    pub async fn pushed(&mut self, size: u32) {
        let appended = self.push(size).await.unwrap();
        assert!(matches!(appended, Appended::Won(_)), "{appended:?}");
    }

    /// Pushes several transactions as they would stand in SQLite's own WAL: pages in no order, the
    /// commit frame repeating one.
    pub async fn pushed_frames(&mut self, transactions: u32) -> Vec<Frame> {
        let mut random = Random(self.at().get() ^ 77);
        let (mut after, salts) = (self.db.clone(), Salts(random.next() as u32, 9));
        let spool = Spool::new(&std::env::temp_dir());
        let mut encoder = SegmentEncoder::new(spool, PAGE, self.db.size(), salts).unwrap();
        let mut frames = Vec::new();
        for _ in 0..transactions {
            let size = (2 + random.next() % 6) as u32;
            let next = after.edited(random.next(), size);
            let mut changed = after.changed(&next);
            changed.reverse();
            let first = changed[0].clone();
            changed.push(first);
            let last = changed.len() - 1;
            for (index, (pgno, page)) in changed.into_iter().enumerate() {
                let commit = if index == last { size } else { 0 };
                encoder.frame(pgno, commit, &page).unwrap();
                frames.push((pgno, commit, salts, page));
            }
            after = next;
        }
        let encoded = encoder.finish().unwrap();
        let push = self.next_push();
        let new = NewSegment {
            push: push.parse().unwrap(),
            writer: self.writer.parse().unwrap(),
            now: Micros(1_000_000),
            page_size: PAGE,
            pages: (self.db.size(), after.size()),
            sum: (self.db.sum(), after.sum()),
            frames: encoded.frames,
            transactions: Some(encoded.transactions),
            rollover: self.rollover,
            body: encoded.sink,
        };
        let appended = self.log.append(&self.head, new, &Progress::none()).await.unwrap();
        let Appended::Won(metadata) = appended else { panic!("{appended:?}") };
        self.head = self.head.after(metadata);
        self.db = after;
        frames
    }

    pub async fn pull(&mut self) -> Result<(), StoreError> {
        let anchor =
            if self.at() == Lsn::ZERO { Anchor::start() } else { self.head.anchor.clone() };
        let head = self.log.head(&anchor).await?;
        if head.lsn() != self.at() {
            let fetched = self.log.fetch(self.at(), &head, &Progress::none()).await?;
            self.db.apply(fetched)?;
        }
        self.head = head;
        Ok(())
    }
}

/// A replica that has just cloned.
pub async fn cloned(log: &Log, writer: &str) -> Result<Replica, StoreError> {
    let mut replica = Replica::new(log, writer);
    replica.pull().await?;
    Ok(replica)
}
