//! What the fuzz targets share.
//!
//! Checksums stand in the way of a fuzzer: hardly a mutated object gets past the first one. So each
//! target takes an input in two ways: as it is, as an attacker's first try, and as a recipe from
//! which an object with fitting checksums is made, as an attacker who knows the format would.

#[cfg(feature = "remote")]
use std::{path::Path, sync::OnceLock};

use anabranch_format::{
    DbChecksum, FORMAT_VERSION, Kind, Lsn, Metadata, Micros, PageSize, Pgno, Salts, WalHeader,
    WalWriter,
};

#[cfg(feature = "remote")]
/// Where temporary files go: none of them has a name.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<tempfile::TempDir> = OnceLock::new();
    SCRATCH.get_or_init(|| tempfile::tempdir().expect("a temporary directory")).path()
}

#[cfg(feature = "remote")]
/// Runs what is asynchronous; one thread, so that what happens is the same each time.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    })
}

/// Takes numbers from the front of the input; zeros once it is used up.
#[derive(Debug)]
pub struct Recipe<'a>(pub &'a [u8]);

impl Recipe<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number that is usually small, and sometimes at the edges of its range.
    pub fn number(&mut self) -> u32 {
        match self.byte() {
            small @ 0..=199 => u32::from(small),
            200..=229 => u32::from_le_bytes([0; 4].map(|_: u8| self.byte())),
            230..=239 => u32::MAX - u32::from(self.byte()),
            // Around the lock page of small pages.
            _ => (1 << 21) + 1 - 4 + u32::from(self.byte() % 8),
        }
    }

    /// One of SQLite's page sizes, small ones more often.
    pub fn page_size(&mut self) -> PageSize {
        let shift = 9 + u32::from(self.byte() % 16).saturating_sub(8);
        PageSize::new(1 << shift).expect("2^9 to 2^16 are page sizes")
    }

    /// Metadata of some kind, not always without contradiction.
    pub fn metadata(&mut self, kind: Kind, page_size: PageSize, frames: u64) -> Metadata {
        let flags = self.byte();
        let id = "0123456789abcdef";
        Metadata {
            version: FORMAT_VERSION,
            kind,
            database: id.parse().expect("an id"),
            lsn: (Lsn::new(1), Lsn::new(u64::MAX - 1)),
            generation: (1, Lsn::new(1)),
            next_generation: None,
            healed: None,
            push: None,
            writer: id.parse().expect("an id"),
            time: Micros(1),
            clock: None,
            page_size,
            pages: (self.number(), self.number()),
            sum: (DbChecksum::EMPTY, DbChecksum::EMPTY),
            frames: Some(if flags & 1 == 0 { frames } else { u64::from(self.number()) }),
            transactions: None,
            chunk: (kind == Kind::Snapshot).then(|| match flags & 2 {
                0 => page_size.get() << (flags >> 6),
                _ => self.number(),
            }),
            body: None,
        }
    }

    /// Frames: page number, commit size, the byte that fills the page.
    pub fn frames(&mut self) -> Vec<(u32, u32, u8)> {
        let count = self.byte() % 16;
        (0..count).map(|_| (self.number(), self.commit_size(), self.byte())).collect()
    }

    fn commit_size(&mut self) -> u32 {
        if self.byte() < 128 { 0 } else { self.number() }
    }
}

/// A WAL of these frames with fitting checksums; page 0 is left out, a WAL cannot name it.
pub fn wal(page_size: PageSize, frames: &[(u32, u32, u8)]) -> Vec<u8> {
    let header = WalHeader::new(page_size, 0, Salts(1, 0));
    let mut wal = WalWriter::new(Vec::new(), header).expect("memory takes it");
    for &(page, commit_size, fill) in frames {
        let Some(page) = Pgno::new(page) else { continue };
        wal.frame(page, commit_size, &vec![fill; page_size.bytes()]).expect("memory takes it");
    }
    wal.into_inner()
}

/// The bytes in zstd, with a checksum.
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packer = zstd::bulk::Compressor::new(1).expect("level 1 exists");
    packer.include_checksum(true).expect("a checksum can be had");
    packer.compress(bytes).expect("anything can be packed")
}
