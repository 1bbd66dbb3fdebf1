use super::*;
use object_store::ObjectStoreExt;

#[tokio::test]
async fn a_folder_that_was_moved_away_is_not_made_anew() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("remote");
    std::fs::create_dir(&root).unwrap();
    let folder = Folder::open(&root).unwrap();
    folder.put(&Path::from("a/b/c"), "x".into()).await.unwrap();
    settle(folder.root(), "a/b/c").unwrap();
    std::fs::rename(&root, parent.path().join("elsewhere")).unwrap();
    for key in ["a/b/d", "n/e/w"] {
        let error = folder.put(&Path::from(key), "x".into()).await.unwrap_err();
        assert!(matches!(error, object_store::Error::NotFound { .. }), "{error}");
    }
    assert!(!root.exists());
}

#[test]
fn what_killed_writers_left_is_swept_and_what_may_be_in_use_is_not() {
    let root = tempfile::tempdir().unwrap();
    let shard = root.path().join("db/x/log/0");
    std::fs::create_dir_all(&shard).unwrap();
    for name in ["a", "a#1", "a#2", "b#1", "c#1", "d#x", "#", "e"] {
        std::fs::write(shard.join(name), "x").unwrap();
    }
    assert_eq!(sweep(root.path(), "db/x/log", &|key| key == "db/x/log/0/c").unwrap(), 3);
    let left = std::fs::read_dir(&shard).unwrap().map(|e| e.unwrap().file_name());
    let mut left: Vec<String> = left.map(|n| n.into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["#", "a", "b#1", "d#x", "e"]);
    assert_eq!(sweep(root.path(), "db/none", &|_| true).unwrap(), 0);
}

async fn listed(folder: &Folder, prefix: &str, after: &str) -> Vec<String> {
    let (prefix, after) = (Path::from(prefix), Path::from(after));
    let listed = folder.list_with_offset(Some(&prefix), &after);
    let listed: Vec<ObjectMeta> = listed.try_collect().await.unwrap();
    let mut keys: Vec<String> = listed.into_iter().map(|o| o.location.into()).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_listing_has_what_is_beyond_a_key_and_no_staging_files() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    for key in ["log/0/a", "log/0/b", "log/1/a", "log/10/a", "log/x", "other/a"] {
        folder.put(&Path::from(key), "x".into()).await.unwrap();
    }
    std::fs::write(root.path().join("log/1/b#1"), "x").unwrap();
    let all = ["log/0/a", "log/0/b", "log/1/a", "log/10/a", "log/x"];
    assert_eq!(listed(&folder, "log", "").await, all);
    for (n, after) in all.iter().enumerate() {
        assert_eq!(listed(&folder, "log", after).await, all[n + 1..], "{after}");
    }
    assert_eq!(listed(&folder, "log", "log/1").await, all[2..]);
    assert_eq!(listed(&folder, "log/0/a", "").await, [""; 0]);
    assert_eq!(listed(&folder, "none", "").await, [""; 0]);
    let level = folder.list_with_delimiter(Some(&Path::from("log"))).await.unwrap();
    assert_eq!(level.common_prefixes.len(), 3);
    assert_eq!(level.objects[0].location.as_ref(), "log/x");
}

#[cfg(unix)]
#[tokio::test]
async fn what_cannot_be_an_object_does_not_stop_a_listing() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("remote");
    std::fs::create_dir(&root).unwrap();
    let folder = Folder::open(&root).unwrap();
    folder.put(&Path::from("log/0/a"), "x".into()).await.unwrap();
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"log/caf\xe9")), "x").unwrap();
    std::fs::create_dir(root.join(std::ffi::OsStr::from_bytes(b"log/\xff"))).unwrap();
    symlink("self", root.join("log/self")).unwrap();
    symlink("..", root.join("log/up")).unwrap();
    symlink("nowhere", root.join("log/0/nothing")).unwrap();
    // A circle of two; each is followed once, and leads to objects that are there.
    let elsewhere = parent.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("b"), "x").unwrap();
    symlink(&elsewhere, root.join("log/1")).unwrap();
    symlink(root.join("log"), elsewhere.join("back")).unwrap();
    assert_eq!(listed(&folder, "log", "").await, ["log/0/a", "log/1/b"]);
    let level = folder.list_with_delimiter(Some(&Path::from("log"))).await.unwrap();
    let mut directories: Vec<&str> = level.common_prefixes.iter().map(AsRef::as_ref).collect();
    directories.sort_unstable();
    assert_eq!(directories, ["log/0", "log/1"]);
}

#[cfg(unix)]
#[tokio::test]
async fn linking_in_place_works_below_a_path_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9 #1"));
    std::fs::create_dir(&root).unwrap();
    let folder = Folder::open(&root).unwrap();
    let (stage, key) = (Path::from("tmp/x"), Path::from("log/0/y"));
    folder.put(&stage, "x".into()).await.unwrap();
    folder.copy_if_not_exists(&stage, &key).await.unwrap();
    let again = folder.copy_if_not_exists(&stage, &key).await.unwrap_err();
    assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");
}

#[test]
fn keys_are_compared_without_being_built() {
    for after in ["", "a", "log", "log/", "log/0/b", "log/0/b/x", "log0", "m"] {
        let listing = Listing::new(PathBuf::new(), after.to_owned());
        for (directory, name) in
            [("", "a"), ("log", "0"), ("log/0", "a"), ("log/0", "b"), ("log/0", "c"), ("log0", "a")]
        {
            let key =
                if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
            assert_eq!(
                listing.is_after(directory, name),
                key.as_str() > after,
                "{key} after {after}"
            );
        }
    }
}

#[tokio::test]
async fn an_object_is_created_once_and_leaves_nothing_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let key = Path::from("db/x/log/0/a");
    folder.put_opts(&key, "first".into(), create()).await.unwrap();
    let again = folder.put_opts(&key, "second".into(), create()).await.unwrap_err();
    assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");
    let shard = root.path().join("db/x/log/0");
    assert_eq!(std::fs::read_dir(&shard).unwrap().count(), 1);
    // Another writer is at it, or was killed.
    std::fs::write(shard.join("b#1"), "half").unwrap();
    folder.put_opts(&Path::from("db/x/log/0/b"), "whole".into(), create()).await.unwrap();
    let found = folder.get(&Path::from("db/x/log/0/b")).await.unwrap().bytes().await.unwrap();
    assert_eq!(found, "whole");
    assert_eq!(std::fs::read(shard.join("b#1")).unwrap(), b"half");
    folder.delete(&key).await.unwrap();
    let gone = folder.delete(&key).await.unwrap_err();
    assert!(matches!(gone, object_store::Error::NotFound { .. }), "{gone}");
    let directory = folder.head(&Path::from("db/x/log")).await.unwrap_err();
    assert!(matches!(directory, object_store::Error::NotFound { .. }), "{directory}");
}
