use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use anabranch_format::PageSize;
use anabranch_sqlite::{FileError, FileIdentity, LiveFile};

use crate::support::{App, BUSY, cli, open_error};

#[test]
fn what_is_no_database_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(open_error(&dir.path().join("none.db")), FileError::Missing { .. }));
    assert!(matches!(open_error(dir.path()), FileError::IsADirectory { .. }));
    let text = dir.path().join("text.db");
    let content = "this is no database, but a text that is longer than its header. ".repeat(20);
    std::fs::write(&text, &content).unwrap();
    assert!(matches!(open_error(&text), FileError::NotADatabase { .. }));
    assert_eq!(std::fs::read_to_string(&text).unwrap(), content);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was put beside it");
}

#[test]
fn an_empty_file_is_no_database_until_it_is_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("empty.db");
    std::fs::write(&db, "").unwrap();
    let mut live = LiveFile::open(&db, BUSY).unwrap();
    assert!(matches!(live.begin(), Err(FileError::Empty { .. })));
    assert!(live.prepare().unwrap().switched_to_wal);
    assert_eq!(live.begin().unwrap().db_size(), 1);
}

#[test]
fn an_empty_database_of_any_page_size_can_be_made_but_never_over_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [512, 4096, 65536] {
        let db = dir.path().join(format!("{bytes}.db"));
        let page_size = PageSize::new(bytes).unwrap();
        let mut live = LiveFile::create_empty(&db, page_size, BUSY).unwrap();
        assert_eq!(live.page_size(), page_size);
        assert_eq!(live.begin().unwrap().page_one().page_size, page_size);
        drop(live);
        assert_eq!(cli(&db, "PRAGMA page_size; PRAGMA journal_mode"), format!("{bytes}\nwal"));
        let again = LiveFile::create_empty(&db, page_size, BUSY);
        assert!(matches!(again, Err(FileError::Exists { .. })));
    }
}

#[test]
fn a_rollback_mode_database_is_switched_and_that_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    cli(&db, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let mut live = LiveFile::open(&db, BUSY).unwrap();
    assert!(!live.begin().unwrap().is_wal());
    assert!(live.prepare().unwrap().switched_to_wal);
    assert!(!live.prepare().unwrap().switched_to_wal);
    assert!(live.begin().unwrap().is_wal());
    assert_eq!(cli(&db, "PRAGMA journal_mode; SELECT a FROM t"), "wal\n1");
}

#[test]
fn a_size_in_the_header_that_is_out_of_date_is_corrected() {
    // As SQLite before 3.7 leaves it: the size stale, so the two counters differ.
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("old.db");
    cli(&db, "CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(20000))");
    let mut bytes = std::fs::read(&db).unwrap();
    let pages = u32::try_from(bytes.len() / 4096).unwrap();
    bytes[28..32].copy_from_slice(&3u32.to_be_bytes());
    bytes[92..96].copy_from_slice(&1u32.to_be_bytes());
    std::fs::write(&db, bytes).unwrap();
    let mut live = LiveFile::open(&db, BUSY).unwrap();
    assert!(live.prepare().unwrap().normalised_size);
    assert!(!live.prepare().unwrap().normalised_size);
    let view = live.begin().unwrap();
    let one = view.page_one();
    assert_eq!((one.db_size, view.db_size()), (pages, pages));
    assert_eq!(one.change_counter, one.version_valid_for);
    drop(view);
    assert_eq!(cli(&db, "PRAGMA integrity_check"), "ok");
}

#[test]
fn the_checksum_extensions_reserved_bytes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    cli(&db, ".filectrl reserve_bytes 8\nVACUUM");
    let conn = rusqlite::Connection::open(&db).unwrap();
    conn.execute_batch("CREATE TABLE t(a)").unwrap();
    drop(conn);
    let mut bytes = std::fs::read(&db).unwrap();
    bytes[20] = 8;
    std::fs::write(&db, &bytes).unwrap();
    let mut live = LiveFile::open(&db, BUSY).unwrap();
    let refused = live.prepare();
    assert!(matches!(refused, Err(FileError::UnsupportedReserved { reserved: 8, .. })));
    drop(live);
    assert_eq!(std::fs::read(&db).unwrap(), bytes, "nothing was changed");
}

#[test]
fn a_program_with_an_exclusive_lock_makes_us_busy_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    cli(&db, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
    let mut app = App::open(&db);
    app.all(&["PRAGMA locking_mode=EXCLUSIVE", "INSERT INTO t VALUES (1)"]);
    let error = open_error(&db);
    assert!(error.is_busy(), "{error:?}");
    app.close();
    LiveFile::open(&db, BUSY).unwrap().begin().unwrap();
}

#[test]
fn an_exclusive_lock_taken_later_is_refused_to_the_other_program() {
    // While our connection is open, the other program is the one that has to wait.
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    cli(&db, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
    let mut live = LiveFile::open(&db, BUSY).unwrap();
    live.begin().unwrap();
    let mut app = App::open_with_timeout(&db, 0.05);
    app.sql("PRAGMA locking_mode=EXCLUSIVE");
    assert!(app.try_sql("INSERT INTO t VALUES (1)").is_err());
    live.begin().unwrap();
}

#[test]
fn odd_paths_and_links_lead_to_one_resolved_file() {
    let dir = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsString::from_vec(b"a b%20?#\xff.db".to_vec());
    let db = std::fs::canonicalize(dir.path()).unwrap().join(odd);
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(&db, &link).unwrap();
    let live = LiveFile::create_empty(&db, PageSize::DEFAULT, BUSY).unwrap();
    let linked = LiveFile::open(&link, BUSY).unwrap();
    assert_eq!(live.path(), db);
    assert_eq!(linked.path(), db);
    assert_eq!(linked.wal_path(), live.wal_path());
    assert_eq!(linked.identity().unwrap(), live.identity().unwrap());
    assert!(matches!(
        LiveFile::open(std::path::Path::new("file:nothing"), BUSY),
        Err(FileError::Missing { .. })
    ));
}

#[test]
fn a_copy_is_another_file_and_a_rename_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (db, copy, moved) =
        (dir.path().join("a.db"), dir.path().join("b.db"), dir.path().join("c.db"));
    drop(LiveFile::create_empty(&db, PageSize::DEFAULT, BUSY).unwrap());
    let original = FileIdentity::of(&db).unwrap();
    std::fs::copy(&db, &copy).unwrap();
    assert!(!FileIdentity::of(&copy).unwrap().same_file(&original));
    std::fs::rename(&db, &moved).unwrap();
    let now = FileIdentity::of(&moved).unwrap();
    assert!(now.same_file(&original) && now.same_boot(&original));
    let text = serde_json::to_string(&now).unwrap();
    assert_eq!(serde_json::from_str::<FileIdentity>(&text).unwrap(), now);
}

#[test]
fn across_boots_the_inode_counts_and_the_boot_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let now = FileIdentity::of(dir.path()).unwrap();
    let later = FileIdentity {
        boot: Some("another".into()),
        device: now.device.map(|d| d + 1),
        ..now.clone()
    };
    assert!(later.same_file(&now) && !later.same_boot(&now));
    let elsewhere = FileIdentity { machine: Some("another".into()), ..now.clone() };
    assert!(!elsewhere.same_file(&now));
    let other_device = FileIdentity { device: now.device.map(|d| d + 1), ..now.clone() };
    assert!(!other_device.same_file(&now));
}

#[test]
fn a_changed_page_size_is_an_error_with_both_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    cli(&db, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let mut live = LiveFile::open(&db, Duration::from_millis(100)).unwrap();
    live.begin().unwrap();
    cli(&db, "PRAGMA page_size=8192; VACUUM");
    match live.begin() {
        Err(FileError::PageSizeChanged { was, now, .. }) => {
            assert_eq!((was.get(), now.get()), (4096, 8192));
        }
        other => panic!("{other:?}"),
    };
}

#[test]
fn a_mark_survives_its_own_text() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    cli(&db, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
    let mut live = LiveFile::open(&db, BUSY).unwrap();
    let mut app = App::open(&db);
    app.sql("INSERT INTO t VALUES (1)");
    let mark = *live.begin().unwrap().mark().unwrap();
    let text = serde_json::to_string(&mark).unwrap();
    assert_eq!(serde_json::from_str::<anabranch_sqlite::Mark>(&text).unwrap(), mark);
    app.sql("INSERT INTO t VALUES (2)");
    let next = *live.begin().unwrap().mark().unwrap();
    assert!(next.same_run(&mark) && next.frame() > mark.frame());
}

#[test]
fn other_programs_do_not_delete_the_wal_under_us() {
    // They do if any code in this process opens and closes the database outside SQLite.
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    cli(&db, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
    let mut live = LiveFile::open(&db, BUSY).unwrap();
    let mut app = App::open(&db);
    app.sql("INSERT INTO t VALUES (1)");
    let view = live.begin().unwrap();
    view.sync_wal().unwrap();
    FileIdentity::of(&db).unwrap();
    app.close();
    assert!(db.with_extension("db-wal").exists());
    drop(view);
    live.identity().unwrap();
    live.begin().unwrap();
    cli(&db, "INSERT INTO t VALUES (2)");
    assert!(db.with_extension("db-wal").exists());
}
