//! Names of files and folders as people have them.

use crate::yard::Yard;

#[test]
fn spaces_and_quotes_in_names_are_ordinary() {
    let yard = Yard::new();
    let (file, remote, copy) = ("my notes' 100%.db", "the river?", "a copy #2.db");
    yard.make_notes(file, 5);
    yard.ok(["init", file, "--remote", remote]);
    yard.ok(["clone", remote, copy]);
    yard.sql(copy, "DELETE FROM note WHERE id = 1");
    yard.ok(["sync", copy]);
    yard.ok(["sync", file]);
    assert_eq!(yard.number(file, "SELECT count(*) FROM note"), 4);
    yard.ok(["log", file]);
    yard.ok(["restore", file, "an old one.db"]);
    yard.ok(["inspect", file]);
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf_8_work_too() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    fn words<'a>(words: &[&'a [u8]]) -> Vec<&'a OsStr> {
        words.iter().map(|word| OsStr::from_bytes(word)).collect()
    }
    let (file, copy) = (&b"caf\xe9.db"[..], &b"k\xf6pie.db"[..]);
    let path = |name: &'static [u8]| Path::new(OsStr::from_bytes(name));
    let yard = Yard::new();
    yard.make_notes(path(b"caf\xe9.db"), 5);
    let said = yard.fails(2, words(&[b"init", file, b"--remote", b"fl\xfc\xdf"]));
    assert!(said.contains("not valid UTF-8"), "remotes are named in objects and URLs: {said}");
    yard.ok(words(&[b"init", file, b"--remote", b"river"]));
    yard.ok(words(&[b"clone", b"river", copy]));
    yard.sql(path(b"k\xf6pie.db"), "DELETE FROM note WHERE id = 1");
    yard.ok(words(&[b"sync", copy]));
    yard.ok(words(&[b"sync", file]));
    assert_eq!(yard.number(path(b"caf\xe9.db"), "SELECT count(*) FROM note"), 4);
    yard.json(words(&[b"status", file]));
    yard.ok(words(&[b"log", file]));
    yard.json(words(&[b"inspect", file]));
    yard.json(words(&[b"verify", file]));
    yard.ok(words(&[b"restore", b"river", b"f\xfc\xdf.db"]));
    // The only replica of a folder is found by such a name too.
    let only = Yard::new();
    let remote: OsString = yard.path("river").into_os_string();
    only.ok([OsStr::new("clone"), &remote, OsStr::from_bytes(copy)]);
    only.ok(["sync"]);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_database_leads_to_the_same_replica() {
    let yard = Yard::published();
    std::fs::create_dir(yard.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../a.db", yard.path("elsewhere/link.db")).unwrap();
    yard.sql("elsewhere/link.db", "DELETE FROM note WHERE id = 1");
    let report = yard.json(["sync", "elsewhere/link.db"]);
    assert!(report["pushed"]["pages"].as_u64().unwrap() > 0, "{report}");
    assert!(!yard.path("elsewhere/link.db-anabranch").exists());
    assert!(yard.ok(["sync", "a.db"]).starts_with("already in step"));
    yard.ok(["log", "elsewhere/link.db"]);
}

#[test]
fn a_file_url_is_a_folder() {
    let yard = Yard::new();
    yard.make_notes("a.db", 5);
    let url = format!("file://{}", yard.path("river").display());
    yard.ok(["init", "a.db", "--remote", &url]);
    yard.ok(["clone", "river", "b.db"]);
    yard.ok(["clone", &url, "c.db"]);
    assert_eq!(yard.number("c.db", "SELECT count(*) FROM note"), 5);
}
