//! The file in which an official client keeps its position: `FILE-info`.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::file::path_beside;

/// Where a client stands: `frame` frames after the base of `generation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The generation, from 1.
    pub generation: u32,
    /// The number of frames after its base.
    pub frame: u32,
}

/// Reads the position of the replica at `db`; none if the file is not there.
///
/// # Errors
///
/// The file cannot be read, or is not what an official client writes.
pub fn read_position(db: &Path) -> io::Result<Option<Position>> {
    let bytes = match fs::read(path_beside(db, "-info")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let info: Value = serde_json::from_slice(&bytes)?;
    let number = |name: &str| {
        let number = info[name].as_u64().and_then(|n| u32::try_from(n).ok());
        number.ok_or_else(|| io::Error::other(format!("no {name} in {info}")))
    };
    let position =
        Position { generation: number("generation")?, frame: number("durable_frame_num")? };
    if number("version")? != 0 || number("hash")? != hash(position) {
        return Err(io::Error::other(format!("not an info file of this version: {info}")));
    }
    Ok(Some(position))
}

/// Puts `position` into the file, as an official client would.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_position(db: &Path, position: Position) -> io::Result<()> {
    let info = json!({
        "hash": hash(position),
        "version": 0,
        "durable_frame_num": position.frame,
        "generation": position.generation,
    });
    fs::write(path_beside(db, "-info"), info.to_string())
}

/// CRC-32 over version, frame and generation, each as four little-endian bytes.
fn hash(position: Position) -> u32 {
    let mut bytes = Vec::with_capacity(12);
    for part in [0, position.frame, position.generation] {
        bytes.extend_from_slice(&part.to_le_bytes());
    }
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::{Position, hash, read_position, write_position};

    #[test]
    fn the_hash_is_the_official_clients() {
        assert_eq!(hash(Position { generation: 1, frame: 213 }), 2_375_342_450);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("app.db");
        assert_eq!(read_position(&db).unwrap(), None);
        let position = Position { generation: 7, frame: 0 };
        write_position(&db, position).unwrap();
        assert_eq!(read_position(&db).unwrap(), Some(position));
        std::fs::write(dir.path().join("app.db-info"), "{\"hash\": 1}").unwrap();
        assert!(read_position(&db).is_err());
    }
}
