//! Merging any number of changes in bounded memory and with a bounded number of open files.
//!
//! Changes come oldest first. Up to 64 of them, or as many as fit the memory for their zstd
//! windows, are held open; then they are merged into one *run*, a temporary file of page numbers
//! and pages in ascending order. Sixteen runs of one level become one of the next. What is left at
//! the end is merged while it is being read.
//!
//! Memory: a page and a decoder for each open change, and 16 MiB of windows (one change with a
//! larger window is alone in its group; 128 MiB is the limit of the format). Files: 64 changes and
//! 16 runs a level.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use anabranch_format::{
    DbChecksum, DeltaError, DeltaReader, Kind, Merge, Metadata, PageChecksum, PageOrder, PageSize,
    PageSource, Pgno, SegmentReader, SnapshotReader, WINDOW_LOG_MAX,
};

use crate::error::{Damage, StoreError};
use crate::objects::Objects;
use crate::spool::SpoolReader;

/// Changes that are open at once.
const OPEN_MAX: usize = 64;
/// Runs of one level that become one of the next.
const RUNS_PER_LEVEL: usize = 16;
/// Memory for the zstd windows of all open changes.
const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

type Source = Box<dyn PageSource + Send>;

/// An object whose bytes are at hand.
#[derive(Debug)]
pub(crate) struct OpenPiece {
    pub(crate) key: String,
    pub(crate) metadata: Metadata,
    /// What follows the metadata.
    pub(crate) body: SpoolReader,
}

/// Changes on their way to becoming one.
pub(crate) struct Runs {
    objects: Objects,
    directory: PathBuf,
    page_size: PageSize,
    open: Vec<Source>,
    window_bytes: u64,
    /// Lowest level first; within a level oldest first. A higher level is older.
    levels: Vec<Vec<Source>>,
    /// Size of the database after the newest change.
    size_after: u32,
}

impl Runs {
    pub(crate) fn new(objects: &Objects, page_size: PageSize) -> Self {
        Runs {
            objects: objects.clone(),
            directory: objects.scratch().to_path_buf(),
            page_size,
            open: Vec::new(),
            window_bytes: 0,
            levels: Vec::new(),
            size_after: 0,
        }
    }

    /// Adds the next newer change. Blocking: may merge what is open into a file.
    pub(crate) fn add(&mut self, piece: OpenPiece) -> Result<(), StoreError> {
        let window = window_bytes(&piece.body).map_err(|e| self.objects.scratch_failed(e))?;
        let full = self.open.len() >= OPEN_MAX || self.window_bytes + window > WINDOW_BYTES_MAX;
        if full && !self.open.is_empty() {
            self.merge_open()?;
        }
        self.size_after = piece.metadata.pages.1;
        let source = self.source(piece)?;
        self.open.push(source);
        self.window_bytes += window;
        Ok(())
    }

    /// All changes as one. Blocking reads.
    pub(crate) fn finish(self) -> Source {
        let mut sources: Vec<Source> = self.levels.into_iter().rev().flatten().collect();
        sources.extend(self.open);
        match sources.pop() {
            Some(only) if sources.is_empty() => only,
            Some(last) => {
                sources.push(last);
                Box::new(Merge::new(sources, self.page_size, self.size_after))
            }
            None => Box::new(Nothing),
        }
    }

    fn source(&self, piece: OpenPiece) -> Result<Source, StoreError> {
        let OpenPiece { key, metadata, body } = piece;
        let body = BufReader::with_capacity(BUFFER_BYTES, body);
        let named = |source: Source| {
            Box::new(Named { objects: self.objects.clone(), key: key.clone(), source }) as Source
        };
        let opened = match metadata.kind {
            Kind::Snapshot => SnapshotReader::new(body, &metadata)
                .map(|reader| named(Box::new(reader)))
                .map_err(Damage::Snapshot),
            _ if metadata.transactions.is_some() => return self.unordered(&key, body, &metadata),
            _ => DeltaReader::new(body, &metadata)
                .map(|reader| named(Box::new(reader)))
                .map_err(Damage::Pages),
        };
        opened.map_err(|damage| self.objects.corrupt(&key, damage))
    }

    /// A segment of several transactions, in whatever order SQLite wrote its pages: they go to a
    /// file, and are read from it in page order, of each the last.
    fn unordered(
        &self,
        key: &str,
        body: BufReader<SpoolReader>,
        metadata: &Metadata,
    ) -> Result<Source, StoreError> {
        let damaged = |e: DeltaError| self.objects.corrupt(key, Damage::Pages(e));
        let mut segment = SegmentReader::new(body, metadata).map_err(damaged)?;
        let mut file = self.scratch_file()?;
        let mut page = vec![0; self.page_size.bytes()];
        let mut last: Vec<(Pgno, u64)> = Vec::new();
        while let Some(frame) = segment.next_frame(&mut page).map_err(damaged)? {
            last.push((frame.pgno, last.len() as u64));
            file.write_all(&page).map_err(|e| self.objects.scratch_failed(e))?;
        }
        let file = file.into_inner().map_err(|e| self.objects.scratch_failed(e.into_error()))?;
        last.sort_unstable();
        let mut pages: Vec<(Pgno, u64)> = Vec::new();
        for (pgno, at) in last {
            match pages.last_mut() {
                Some(newest) if newest.0 == pgno => newest.1 = at,
                _ if pgno.get() <= metadata.pages.1 && pgno != self.page_size.lock_page() => {
                    pages.push((pgno, at));
                }
                _ => {}
            }
        }
        let (before, after) = metadata.pages;
        let order = PageOrder::new(self.page_size, before, after);
        let source = Indexed { file, pages: pages.into_iter() };
        let source: Source = Box::new(Ordered { source: Box::new(source), order });
        Ok(Box::new(Named { objects: self.objects.clone(), key: key.to_owned(), source }))
    }

    fn merge_open(&mut self) -> Result<(), StoreError> {
        let sources = std::mem::take(&mut self.open);
        self.window_bytes = 0;
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
                .map_err(|e| self.objects.scratch_failed(e))?;
        }
        let file = file.into_inner().map_err(|e| e.into_error());
        let rewound = file.and_then(|mut file| file.seek(SeekFrom::Start(0)).map(|_| file));
        let file = rewound.map_err(|e| self.objects.scratch_failed(e))?;
        Ok(Box::new(Run { file: BufReader::with_capacity(BUFFER_BYTES, file) }))
    }

    fn scratch_file(&self) -> Result<BufWriter<File>, StoreError> {
        let file =
            tempfile::tempfile_in(&self.directory).map_err(|e| self.objects.scratch_failed(e))?;
        Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
    }

    /// What went wrong while merging: damage that names its object, or else one of our own files.
    fn unnamed(&self, e: DeltaError) -> StoreError {
        match StoreError::from_pages(e) {
            Ok(named) => named,
            Err(e) => self.objects.scratch_failed(io::Error::other(e)),
        }
    }
}

/// The window that the first zstd frame of `body` asks for; what its decoder will allocate.
fn window_bytes(body: &SpoolReader) -> io::Result<u64> {
    let mut start = Vec::with_capacity(14);
    body.rewound().take(14).read_to_end(&mut start)?;
    Ok(frame_window(&start).unwrap_or(0).min(1 << WINDOW_LOG_MAX))
}

/// Window size in a zstd frame header (RFC 8878, section 3.1.1.1); `None` if it is no such header.
fn frame_window(start: &[u8]) -> Option<u64> {
    let (magic, rest) = start.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*magic) != 0xFD2F_B528 {
        return None;
    }
    let (&descriptor, rest) = rest.split_first()?;
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let &window = rest.first()?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // The window is the whole content, whose size follows the dictionary id.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = rest.get(dictionary..)?;
    let width = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut number = [0u8; 8];
    number[..width].copy_from_slice(size.get(..width)?);
    Some(u64::from_le_bytes(number) + if width == 2 { 256 } else { 0 })
}

/// Names the object in every error.
struct Named {
    objects: Objects,
    key: String,
    source: Source,
}

impl PageSource for Named {
    fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, DeltaError> {
        self.source
            .next_page(page)
            .map_err(|e| self.objects.corrupt(&self.key, Damage::Pages(e)).into_pages_error())
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
    pub(crate) objects: Objects,
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
            return Err(self.objects.corrupt(&self.key, damage).into_pages_error());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_from_frame_headers() {
        for (level, len, pledged) in [(3, 10_000usize, true), (3, 10_000, false), (19, 300, true)] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
            if pledged {
                encoder.set_pledged_src_size(Some(len as u64)).unwrap();
            }
            encoder.write_all(&vec![7; len]).unwrap();
            let frame = encoder.finish().unwrap();
            let window = frame_window(&frame).unwrap();
            if pledged {
                assert_eq!(window, len as u64);
            } else {
                assert_eq!(window, 2 << 20);
            }
        }
        assert_eq!(frame_window(b"junk that is no frame"), None);
        assert_eq!(frame_window(&[0x28, 0xB5, 0x2F, 0xFD, 0xE0]), None);
    }
}
