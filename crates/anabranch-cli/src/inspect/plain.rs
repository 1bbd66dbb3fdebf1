//! The small objects of a remote, and bare zstd streams.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anabranch_format::{Lsn, SQLITE_MAGIC, WINDOW_LOG_MAX};
use serde_json::Value;
use zstd::stream::read::Decoder;

use super::findings::Findings;
use super::{MAGIC_BYTES, read_up_to, reading, wal};
use crate::failure::Failure;

/// JSON documents up to this length are looked into; a table of 100,000 writers stays below.
const JSON_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the folder that holds an object says about it.
fn folder_says(path: &Path) -> Option<&'static str> {
    let folders = ["names", "writers", "floor", "body"];
    let named = |dir: &Path| {
        let name = dir.file_name()?.to_str()?;
        folders.into_iter().find(|folder| *folder == name)
    };
    path.ancestors().skip(1).take(2).find_map(named)
}

/// Explains a JSON document: a name's target, or a hint.
pub(super) fn explain_json(path: &Path, findings: &mut Findings) -> Result<(), Failure> {
    findings.kind = match folder_says(path) {
        Some("names") => "name of a database",
        _ => "JSON document",
    };
    let file = File::open(path).map_err(reading(path))?;
    check_json(file, findings);
    Ok(())
}

fn check_json(source: impl Read, findings: &mut Findings) {
    let mut bytes = Vec::new();
    if let Err(e) = source.take(JSON_BYTES_MAX).read_to_end(&mut bytes) {
        return findings.damage(format!("reading it failed: {e}"));
    }
    match serde_json::from_slice::<Value>(&bytes) {
        Err(e) => findings.damage(format!("it is not JSON: {e}")),
        Ok(Value::Object(fields)) if bytes.len() < 4096 => {
            let shown = serde_json::to_string(&fields).unwrap_or_default();
            findings.fact_as("contents", fields, shown);
        }
        Ok(Value::Object(fields)) => {
            findings.fact("entries", fields.len());
        }
        Ok(other) => findings.fact("entries", other.as_array().map_or(1, Vec::len)),
    }
}

/// Explains a file without contents: what it says is in its name.
pub(super) fn explain_empty(path: &Path, findings: &mut Findings) {
    findings.kind = "empty file";
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if folder_says(path) == Some("floor")
        && let Ok(lsn) = name.parse::<Lsn>()
    {
        findings.kind = "floor";
        match lsn {
            Lsn::MAX => findings.note("the database was deleted"),
            _ => findings.fact("lsn", lsn.to_string()),
        }
        return;
    }
    if let Some(kind) = [".zst", ".json"].iter().find(|suffix| name.ends_with(*suffix)) {
        findings.damage(format!("a {kind} object cannot be empty"));
    }
}

/// Explains a zstd stream without metadata: a large object's body, or the table of writers.
pub(super) fn explain_zstd(path: &Path, findings: &mut Findings) -> Result<(), Failure> {
    findings.kind = "zstd stream";
    let file = File::open(path).map_err(reading(path))?;
    let mut decoder = Decoder::new(file).map_err(reading(path))?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(reading(path))?;
    let mut start = [0; MAGIC_BYTES];
    let read = match read_up_to(&mut decoder, &mut start) {
        Ok(read) => read,
        Err(e) => {
            findings.damage(format!("unpacking failed: {e}"));
            return Ok(());
        }
    };
    let start = &start[..read];
    let whole = BufReader::new(start.chain(decoder));
    if start == SQLITE_MAGIC {
        findings.kind = "body of a snapshot";
        count_bytes(whole, findings);
    } else if start.starts_with(&[0x37, 0x7f, 0x06]) {
        findings.kind = "body of a segment or delta";
        wal::explain_strict(whole, findings);
    } else if matches!(start.first(), Some(b'{' | b'[')) {
        findings.kind = match folder_says(path) {
            Some("writers") => "table of writers",
            _ => "JSON document in zstd",
        };
        check_json(whole, findings);
    } else {
        count_bytes(whole, findings);
    }
    Ok(())
}

fn count_bytes(mut source: impl Read, findings: &mut Findings) {
    match io::copy(&mut source, &mut io::sink()) {
        Ok(unpacked) => findings.fact("unpacked", unpacked),
        Err(e) => findings.damage(format!("unpacking failed: {e}")),
    }
}
