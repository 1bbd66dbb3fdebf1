//! The file that an official libSQL client keeps beside its replica: how far it is in step.
//!
//! `FILE-info` is JSON: `{"hash": H, "version": 0, "durable_frame_num": F, "generation": G}`, where H is
//! the CRC-32 of version, frame and generation, each as four bytes, little-endian.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::AdoptError;
use crate::error::Error;
use crate::image::{folder_of, refuse_existing, sync_folder};
use crate::remote::Spot;
use crate::sidecar::beside;

/// Four short fields need no more.
const BYTES_MAX: u64 = 4096;
/// The only version there is.
const VERSION: u32 = 0;

/// What the file says.
#[derive(Deserialize)]
struct Info {
    hash: u32,
    version: u32,
    durable_frame_num: u32,
    generation: u32,
}

/// Where the file of the database at `db` lies.
pub(super) fn path_for(db: &Path) -> PathBuf {
    beside(db, "-info")
}

/// Reads and checks the file of the database at `db`; `None` if there is none.
pub(super) fn read(db: &Path) -> Result<Option<Spot>, Error> {
    let path = path_for(db);
    let failed = |source| Error::Io { what: "reading", path: path.clone(), source };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut text = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
    parse(&text).map(Some).map_err(|e| e.of(db))
}

fn parse(text: &[u8]) -> Result<Spot, AdoptError> {
    let info: Info =
        serde_json::from_slice(text).map_err(|e| AdoptError::Malformed(e.to_string()))?;
    let hash = hash(&info);
    if hash != info.hash {
        return Err(AdoptError::Hash { stated: info.hash, found: hash });
    }
    if info.version != VERSION {
        return Err(AdoptError::Version(info.version));
    }
    if info.generation == 0 {
        return Err(AdoptError::NoGeneration);
    }
    Ok(Spot { generation: info.generation, frame: info.durable_frame_num })
}

/// For the fuzz target: whether the text says where a client is, and generation and frame if so.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &[u8]) -> Option<(u32, u32)> {
    parse(text).ok().map(|spot| (spot.generation, spot.frame))
}

fn hash(info: &Info) -> u32 {
    let words = [info.version, info.durable_frame_num, info.generation];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    crc32fast::hash(&bytes)
}

/// Puts the file of the database at `db` aside, durably, so that its client does not take the database
/// for its own any more. Answers where it is now; `None` if it was not there.
pub(super) fn put_aside(db: &Path) -> Result<Option<PathBuf>, Error> {
    let path = path_for(db);
    let mut number = 1u64;
    let target = loop {
        let target = beside(db, &format!("-info.adopted-{number}"));
        match refuse_existing(&target) {
            Ok(()) => break target,
            Err(Error::TargetExists { .. } | Error::LeftBehind { .. }) => number += 1,
            Err(e) => return Err(e),
        }
    };
    match std::fs::rename(&path, &target) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { what: "renaming", path, source }),
    }
    sync_folder(folder_of(db))?;
    Ok(Some(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_official_client_is_read() {
        let text = br#"{"hash":2375342450,"version":0,"durable_frame_num":213,"generation":1}"#;
        assert_eq!(parse(text).unwrap(), Spot { generation: 1, frame: 213 });
    }

    fn with(version: u32, frame: u32, generation: u32) -> Vec<u8> {
        let mut info = Info { hash: 0, version, durable_frame_num: frame, generation };
        info.hash = hash(&info);
        format!(
            r#"{{"hash":{},"version":{version},"durable_frame_num":{frame},"generation":{generation}}}"#,
            info.hash
        )
        .into()
    }

    #[test]
    fn damage_and_what_is_not_known_are_told() {
        assert!(parse(&with(0, 5, 2)).is_ok());
        assert!(matches!(parse(&with(1, 5, 2)), Err(AdoptError::Version(1))));
        assert!(matches!(parse(&with(0, 5, 0)), Err(AdoptError::NoGeneration)));
        let damaged = String::from_utf8(with(0, 5, 2)).unwrap().replace(":5,", ":6,");
        assert!(matches!(parse(damaged.as_bytes()), Err(AdoptError::Hash { .. })));
        for text in ["", "{}", r#"{"hash":-1}"#, "\u{0}"] {
            assert!(matches!(parse(text.as_bytes()), Err(AdoptError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn putting_aside_never_replaces_anything() {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("app.db");
        assert_eq!(put_aside(&db).unwrap(), None);
        for number in 1..3 {
            std::fs::write(path_for(&db), with(0, number, 1)).unwrap();
            let kept = put_aside(&db).unwrap().unwrap();
            assert!(kept.to_string_lossy().ends_with(&format!("app.db-info.adopted-{number}")));
            assert_eq!(std::fs::read(kept).unwrap(), with(0, number, 1));
        }
        assert!(read(&db).unwrap().is_none());
    }
}
