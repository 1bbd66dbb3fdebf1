//! Merging any number of changes in bounded memory and with a bounded number of open files.
//!
//! Changes come oldest first. Up to 64 of them, or as many as fit the memory for their zstd
//! windows, are gathered; then they are merged into one *run*, a temporary file of page numbers
//! and pages in ascending order. Sixteen runs of one level become one of the next. What is left at
//! the end is merged while it is being read.
//!
//! Of those that are merged together the longest is unpacked by threads of its own.
//!
//! Memory: a page and a decoder for each open change, 16 MiB of windows (one change with a larger
//! window is alone in its group; 8 MiB is the limit of the format), and what the threads have under
//! way. Files: 64 changes and 16 runs a level.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use anabranch_format::{
    DbChecksum, DeltaError, DeltaReader, Kind, Merge, Metadata, PageChecksum, PageOrder, PageSize,
    PageSource, Pgno, SegmentReader, SnapshotReader, WINDOW_LOG_MAX,
};

use crate::context::Context;
use crate::error::{Damage, StoreError};
use crate::spool::SpoolReader;
use crate::unpack::{self, SideBySide};

/// Changes that are open at once.
const OPEN_MAX: usize = 64;
/// Runs of one level that become one of the next.
const RUNS_PER_LEVEL: usize = 16;
/// Memory for the zstd windows of all open changes.
const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

pub(crate) type Source = Box<dyn PageSource + Send>;

/// An object whose bytes are at hand.
#[derive(Debug)]
pub(crate) struct OpenPiece {
    pub(crate) key: String,
    pub(crate) metadata: Metadata,
    /// What follows the metadata.
    pub(crate) body: SpoolReader,
}

/// Who sees that pages are what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// The checksums of the WAL inside are checked while it is read.
    Checked,
    /// The reader will check the pages: against the database checksum, or each against its own.
    LeftToReader,
}

/// Changes on their way to becoming one.
pub(crate) struct Runs {
    context: Context,
    directory: PathBuf,
    page_size: PageSize,
    chain: Chain,
    /// Gathered, to be opened and merged together.
    pieces: Vec<OpenPiece>,
    window_bytes: u64,
    /// Lowest level first; within a level oldest first. A higher level is older.
    levels: Vec<Vec<Source>>,
    /// Size of the database after the newest change.
    size_after: u32,
}

impl Runs {
    pub(crate) fn new(context: &Context, page_size: PageSize, chain: Chain) -> Self {
        Runs {
            context: context.clone(),
            directory: context.scratch().to_path_buf(),
            page_size,
            chain,
            pieces: Vec::new(),
            window_bytes: 0,
            levels: Vec::new(),
            size_after: 0,
        }
    }

    /// Adds the next newer change. Blocking: may merge what was gathered into a file.
    pub(crate) fn add(&mut self, piece: OpenPiece) -> Result<(), StoreError> {
        let first = unpack::first_frame(&piece.body).map_err(|e| self.context.scratch_failed(e))?;
        let window = first.map_or(0, |info| info.window).min(1 << WINDOW_LOG_MAX);
        let full = self.pieces.len() >= OPEN_MAX || self.window_bytes + window > WINDOW_BYTES_MAX;
        if full && !self.pieces.is_empty() {
            self.merge_pieces()?;
        }
        self.size_after = piece.metadata.pages.1;
        self.pieces.push(piece);
        self.window_bytes += window;
        Ok(())
    }

    /// All changes as one. Blocking reads.
    pub(crate) fn finish(mut self) -> Result<Source, StoreError> {
        let newest = self.open_pieces()?;
        let mut sources: Vec<Source> = self.levels.into_iter().rev().flatten().collect();
        sources.extend(newest);
        Ok(match sources.pop() {
            Some(only) if sources.is_empty() => only,
            Some(last) => {
                sources.push(last);
                Box::new(Merge::new(sources, self.page_size, self.size_after))
            }
            None => Box::new(Nothing),
        })
    }

    fn open_pieces(&mut self) -> Result<Vec<Source>, StoreError> {
        self.window_bytes = 0;
        let pieces = std::mem::take(&mut self.pieces);
        let longest = pieces.iter().map(|p| p.body.len()).max();
        let mut alone = longest;
        pieces
            .into_iter()
            .map(|piece| {
                // Only one, also where several are the longest.
                let longest = alone.take_if(|len| piece.body.len() == *len).is_some();
                self.open(piece, longest)
            })
            .collect()
    }

    /// All pages of one change, without adding it; if it is the longest, threads may unpack it. Blocking
    /// reads.
    pub(crate) fn open(&self, piece: OpenPiece, longest: bool) -> Result<Source, StoreError> {
        let OpenPiece { key, metadata, body } = piece;
        if metadata.transactions.is_some() {
            let body = BufReader::with_capacity(BUFFER_BYTES, body);
            let (before, after) = metadata.pages;
            let source = self.unordered(&key, body, &metadata, None)?.0;
            let order = PageOrder::new(self.page_size, before, after);
            let source = Box::new(Ordered { source, order });
            return Ok(Box::new(Named { context: self.context.clone(), key, source }));
        }
        let scratch = |e| self.context.scratch_failed(e);
        let threads = longest
            && (metadata.kind == Kind::Snapshot || self.chain == Chain::LeftToReader)
            && SideBySide::suits(&body).map_err(scratch)?;
        let opened: Result<Source, Damage> = if threads {
            let body = SideBySide::start(body).map_err(scratch)?;
            match metadata.kind {
                Kind::Snapshot => SnapshotReader::unpacked(body, &metadata)
                    .map(|reader| Box::new(reader) as Source)
                    .map_err(Damage::Snapshot),
                _ => DeltaReader::unpacked(body, &metadata)
                    .map(|reader| Box::new(reader) as Source)
                    .map_err(Damage::Pages),
            }
        } else {
            let body = BufReader::with_capacity(BUFFER_BYTES, body);
            match (metadata.kind, self.chain) {
                (Kind::Snapshot, _) => SnapshotReader::new(body, &metadata)
                    .map(|reader| Box::new(reader) as Source)
                    .map_err(Damage::Snapshot),
                (_, Chain::Checked) => DeltaReader::new(body, &metadata)
                    .map(|reader| Box::new(reader) as Source)
                    .map_err(Damage::Pages),
                (_, Chain::LeftToReader) => DeltaReader::unchained(body, &metadata)
                    .map(|reader| Box::new(reader) as Source)
                    .map_err(Damage::Pages),
            }
        };
        match opened {
            Ok(source) => Ok(Box::new(Named { context: self.context.clone(), key, source })),
            Err(damage) => Err(self.context.damaged(&key, damage)),
        }
    }

    /// The pages of the first `frames` frames of a segment, and the size of the database after them:
    /// the state at a position inside it, which must end a transaction.
    pub(crate) fn cut(&self, piece: OpenPiece, frames: u64) -> Result<(Source, u32), StoreError> {
        let OpenPiece { key, metadata, body } = piece;
        let body = BufReader::with_capacity(BUFFER_BYTES, body);
        self.unordered(&key, body, &metadata, Some(frames))
    }

    /// A segment of several transactions, in whatever order SQLite wrote its pages: they go to a
    /// file, and are read from it in page order, of each the last. All frames or the first few, and
    /// the size after them.
    fn unordered(
        &self,
        key: &str,
        body: BufReader<SpoolReader>,
        metadata: &Metadata,
        frames: Option<u64>,
    ) -> Result<(Source, u32), StoreError> {
        let damaged = |e: DeltaError| self.context.damaged(key, Damage::Pages(e));
        let mut segment = SegmentReader::new(body, metadata).map_err(damaged)?;
        let mut file = self.scratch_file()?;
        let mut page = vec![0; self.page_size.bytes()];
        let mut last: Vec<(Pgno, u64)> = Vec::new();
        let mut size = 0;
        while frames.is_none_or(|frames| (last.len() as u64) < frames)
            && let Some(frame) = segment.next_frame(&mut page).map_err(damaged)?
        {
            size = frame.commit_size;
            last.push((frame.pgno, last.len() as u64));
            file.write_all(&page).map_err(|e| self.context.scratch_failed(e))?;
        }
        if size == 0 {
            let text = format!("frame {} of it does not end a transaction", last.len());
            return Err(self.context.contradiction(key, text));
        }
        let file = file.into_inner().map_err(|e| self.context.scratch_failed(e.into_error()))?;
        last.sort_unstable();
        let mut pages: Vec<(Pgno, u64)> = Vec::new();
        for (pgno, at) in last {
            match pages.last_mut() {
                Some(newest) if newest.0 == pgno => newest.1 = at,
                _ if pgno.get() <= size && pgno != self.page_size.lock_page() => {
                    pages.push((pgno, at));
                }
                _ => {}
            }
        }
        Ok((Box::new(Indexed { file, pages: pages.into_iter() }), size))
    }

    fn merge_pieces(&mut self) -> Result<(), StoreError> {
        let sources = self.open_pieces()?;
        let mut run = self.merge(sources)?;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(run);
            if self.levels[level].len() < RUNS_PER_LEVEL {
                break;
            }
            let sources = std::mem::take(&mut self.levels[level]);
            run = self.merge(sources)?;
        }
        Ok(())
    }

    fn merge(&self, sources: Vec<Source>) -> Result<Source, StoreError> {
        let mut merged = Merge::new(sources, self.page_size, self.size_after);
        let mut file = self.scratch_file()?;
        let mut page = vec![0; self.page_size.bytes()];
        loop {
            let pgno = merged.next_page(&mut page).map_err(|e| self.unnamed(e))?;
            let Some(pgno) = pgno else { break };
            file.write_all(&pgno.get().to_le_bytes())
                .and_then(|()| file.write_all(&page))
                .map_err(|e| self.context.scratch_failed(e))?;
        }
        let file = file.into_inner().map_err(|e| e.into_error());
        let rewound = file.and_then(|mut file| file.seek(SeekFrom::Start(0)).map(|_| file));
        let file = rewound.map_err(|e| self.context.scratch_failed(e))?;
        Ok(Box::new(Run { file: BufReader::with_capacity(BUFFER_BYTES, file) }))
    }

    fn scratch_file(&self) -> Result<BufWriter<File>, StoreError> {
        let file =
            tempfile::tempfile_in(&self.directory).map_err(|e| self.context.scratch_failed(e))?;
        Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
    }

    /// What went wrong while merging: damage that names its object, or else one of our own files.
    pub(crate) fn unnamed(&self, e: DeltaError) -> StoreError {
        match StoreError::from_pages(e) {
            Ok(named) => named,
            Err(e) => self.context.scratch_failed(io::Error::other(e)),
        }
    }
}

/// Names the object in every error.
pub(crate) struct Named {
    pub(crate) context: Context,
    pub(crate) key: String,
    pub(crate) source: Source,
}

impl PageSource for Named {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        self.source
            .next_page(page)
            .map_err(|e| self.context.damaged(&self.key, Damage::Pages(e)).into_pages_error())
    }
}

/// Checks order and completeness.
pub(crate) struct Ordered {
    pub(crate) source: Source,
    pub(crate) order: PageOrder,
}

impl PageSource for Ordered {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let next = self.source.next_page(page)?;
        match next {
            Some(pgno) => self.order.next(pgno)?,
            None => self.order.end()?,
        }
        Ok(next)
    }
}

/// Checks that a whole database is the one that the log's rolling checksum describes.
pub(crate) struct Summed {
    pub(crate) source: Source,
    pub(crate) sum: DbChecksum,
    pub(crate) expected: DbChecksum,
    pub(crate) context: Context,
    pub(crate) key: String,
}

impl PageSource for Summed {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let next = self.source.next_page(page)?;
        if let Some(pgno) = next {
            self.sum.toggle(PageChecksum::of(pgno, page));
        } else if self.sum != self.expected {
            let text = format!(
                "the database it leads to has the checksum {}, not {} as stated",
                self.sum, self.expected
            );
            let damage = Damage::Contradiction(text);
            return Err(self.context.corrupt(&self.key, damage).into_pages_error());
        }
        Ok(next)
    }
}

/// Pages in a temporary file of our own, each behind its number.
struct Run {
    file: BufReader<File>,
}

impl PageSource for Run {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let mut number = [0; 4];
        match self.file.read_exact(&mut number) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        self.file.read_exact(page)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a temporary file is damaged");
        Ok(Some(Pgno::new(u32::from_le_bytes(number)).ok_or_else(damaged)?))
    }
}

/// Pages in a temporary file in any order, and an index that brings them into theirs.
struct Indexed {
    file: File,
    pages: std::vec::IntoIter<(Pgno, u64)>,
}

impl PageSource for Indexed {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        let Some((pgno, index)) = self.pages.next() else { return Ok(None) };
        self.file.seek(SeekFrom::Start(index * page.len() as u64))?;
        self.file.read_exact(page)?;
        Ok(Some(pgno))
    }
}

struct Nothing;

impl PageSource for Nothing {
    fn next_page(&mut self, _: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        Ok(None)
    }
}
