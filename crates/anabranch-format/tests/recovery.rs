//! The commands of docs/recovery.md give the database back, from objects written by the codecs.
#![expect(clippy::cast_possible_truncation, reason = "test data is small")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;

use anabranch_format::Metadata;
use common::*;

/// The first shell block of the page.
fn commands() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/recovery.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```sh\n").expect("the page has a shell block");
    rest.split_once("```").expect("that ends").0.to_owned()
}

fn put(remote: &Path, key: &str, bytes: &[u8]) {
    let file = remote.join(key);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, bytes).unwrap();
}

/// Writes a remote that holds these states: each as a push, one of them also as a snapshot.
struct Remote {
    /// Leave out the pushes up to the snapshot, as retention does.
    forget: bool,
    /// Keep every object apart, named by a small one, as large ones are in a bucket.
    bodies: bool,
    snapshot_of: Option<usize>,
}

impl Remote {
    fn write(&self, remote: &Path, states: &[(Image, String)]) -> u64 {
        let id = "0123456789abcdef0123";
        put(remote, "names/default/00000000.json", b"{\"database\":\"deleted\"}");
        let name = format!("{{\"database\": \"{id}\"}}\n");
        put(remote, "names/default/00000001.json", name.as_bytes());
        let mut at = 0;
        let mut before = Image::empty(states[0].0.page_size);
        for (index, (after, _)) in states.iter().enumerate() {
            let first = at + 1;
            let (metadata, body) = segment(&before, after, at);
            at = metadata.lsn.1.get();
            if !self.forget || self.snapshot_of.is_some_and(|n| index > n) {
                let key = format!("log/{:011x}/{first:016x}.wal.zst", first >> 20);
                self.put(remote, id, &key, metadata, &body);
            }
            if self.snapshot_of == Some(index) {
                let (metadata, object) = snapshot(after, at, 1 << 18);
                let body = &object[metadata.encode().unwrap().len()..];
                self.put(remote, id, &format!("snapshot/{at:016x}.db.zst"), metadata, body);
            }
            before = after.clone();
        }
        at
    }

    fn put(&self, remote: &Path, id: &str, key: &str, mut metadata: Metadata, body: &[u8]) {
        let whole = object(&metadata, body);
        if !self.bodies {
            return put(remote, &format!("db/{id}/{key}"), &whole);
        }
        let name = format!("body/{}-ab.zst", key.replace('/', "-"));
        put(remote, &format!("db/{id}/{name}"), &whole);
        metadata.body = Some(name);
        put(remote, &format!("db/{id}/{key}"), &object(&metadata, &[]));
    }
}

fn recovers(remote: &Remote, page_size: u32) {
    let dir = tempfile::tempdir().unwrap();
    let states = history(dir.path(), page_size);
    let folder = dir.path().join("a folder");
    let head = remote.write(&folder, &states);
    let out = dir.path().join("out here.db");
    let script = dir.path().join("recover.sh");
    std::fs::write(&script, commands()).unwrap();
    let said = run(Command::new("sh").arg(&script).arg(&folder).arg(&out));
    assert_eq!(said, format!("ok\n{} is at position {head}\n", out.display()));

    let (image, expected) = states.last().unwrap();
    assert_eq!(&dump(&out), expected);
    assert_eq!(&Image::read(&out, states.len() as u32), image, "page by page");
    assert!(!dir.path().join("out here.db-wal").exists());

    let again = Command::new("sh").arg(&script).arg(&folder).arg(&out).output().unwrap();
    assert!(!again.status.success(), "an existing file is left alone");
}

#[test]
fn the_newest_state_is_recovered_from_pushes_alone() {
    for page_size in [512, 4096, 65536] {
        recovers(&Remote { forget: false, bodies: false, snapshot_of: None }, page_size);
    }
}

#[test]
fn the_newest_state_is_recovered_from_a_snapshot_and_the_pushes_after_it() {
    for (page_size, snapshot_of) in [(4096, 2), (1024, 3), (65536, 1)] {
        let remote = Remote { forget: true, bodies: false, snapshot_of: Some(snapshot_of) };
        recovers(&remote, page_size);
    }
}

#[test]
fn the_newest_state_is_recovered_from_a_snapshot_alone() {
    recovers(&Remote { forget: true, bodies: false, snapshot_of: Some(4) }, 4096);
}

#[test]
fn bodies_apart_are_found_by_their_names() {
    recovers(&Remote { forget: false, bodies: true, snapshot_of: None }, 4096);
    recovers(&Remote { forget: true, bodies: true, snapshot_of: Some(2) }, 4096);
}
