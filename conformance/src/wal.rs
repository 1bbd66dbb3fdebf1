//! A `-wal` file in pieces: to see what it holds, and to damage it so that SQLite does not notice.

use std::fs;
use std::io;
use std::path::Path;

use crate::FRAME_BYTES;

const HEADER_BYTES: usize = 32;

/// The header and all frames of the current salts.
#[derive(Debug, Clone)]
pub struct Wal {
    header: Vec<u8>,
    /// The frames, headers included.
    pub frames: Vec<Vec<u8>>,
}

impl Wal {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is too short to have a header.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        if bytes.len() < HEADER_BYTES {
            return Err(io::Error::other("no WAL header"));
        }
        let (header, frames) = bytes.split_at(HEADER_BYTES);
        let salts = &header[16..24];
        let frames = frames.chunks_exact(FRAME_BYTES).map(<[u8]>::to_vec);
        let frames = frames.take_while(|frame| &frame[8..16] == salts).collect();
        Ok(Wal { header: header.to_vec(), frames })
    }

    /// Writes header and frames with checksums that are right for what they hold now.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        // The lowest bit of the magic number says in which byte order the sums are made.
        let big_endian = self.header[3] & 1 == 1;
        let mut header = self.header.clone();
        let mut sums = checksum((0, 0), &header[..24], big_endian);
        header[24..28].copy_from_slice(&sums.0.to_be_bytes());
        header[28..32].copy_from_slice(&sums.1.to_be_bytes());
        let mut bytes = header;
        for frame in &self.frames {
            let mut frame = frame.clone();
            sums = checksum(sums, &frame[..8], big_endian);
            sums = checksum(sums, &frame[24..], big_endian);
            frame[16..20].copy_from_slice(&sums.0.to_be_bytes());
            frame[20..24].copy_from_slice(&sums.1.to_be_bytes());
            bytes.extend_from_slice(&frame);
        }
        fs::write(path, bytes)
    }

    /// The page of frame `number`, from 1.
    #[must_use]
    pub fn page_of(&self, number: usize) -> u32 {
        let frame = &self.frames[number - 1];
        u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]])
    }

    /// Whether frame `number`, from 1, ends a transaction.
    #[must_use]
    pub fn is_commit(&self, number: usize) -> bool {
        self.frames[number - 1][4..8] != [0; 4]
    }

    /// Commit frames whose page stands in an earlier frame of their transaction too.
    #[must_use]
    pub fn commits_that_repeat(&self) -> usize {
        let mut begun: Vec<u32> = Vec::new();
        let mut repeats = 0;
        for number in 1..=self.frames.len() {
            let page = self.page_of(number);
            if self.is_commit(number) {
                repeats += usize::from(begun.contains(&page));
                begun.clear();
            } else {
                begun.push(page);
            }
        }
        repeats
    }
}

/// SQLite's WAL checksum, carried on from `sums`.
fn checksum(mut sums: (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    for pair in bytes.chunks_exact(8) {
        sums.0 = sums.0.wrapping_add(word(pair)).wrapping_add(sums.1);
        sums.1 = sums.1.wrapping_add(word(&pair[4..])).wrapping_add(sums.0);
    }
    sums
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::Wal;
    use crate::file::path_beside;

    #[test]
    fn what_sqlite_wrote_is_written_back_alike() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("a.db");
        let wal = path_beside(&db, "-wal");
        let kept = dir.path().join("kept");
        // While the connection is open: closing it takes the file away.
        let done = Command::new("sqlite3")
            .arg(&db)
            .arg("PRAGMA journal_mode = WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1), (2)")
            .arg(format!(".shell cp '{}' '{}'", wal.display(), kept.display()))
            .output();
        assert!(done.unwrap().status.success());
        let written = Wal::read(&kept).unwrap();
        assert!(written.is_commit(written.frames.len()));
        written.write(&wal).unwrap();
        assert_eq!(std::fs::read(&kept).unwrap(), std::fs::read(&wal).unwrap());
    }
}
