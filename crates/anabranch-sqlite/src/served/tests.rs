use super::*;

struct World {
    _dir: tempfile::TempDir,
    file: ServedFile,
}

fn empty() -> World {
    let dir = tempfile::tempdir().unwrap();
    let file = NewServedFile::create(&dir.path().join("s.db"), PageSize::DEFAULT, 0).unwrap();
    let file = file.finish().unwrap();
    World { _dir: dir, file }
}

impl World {
    fn connect(&self) -> Connection {
        let conn = Connection::open_with_flags(self.file.path(), ServedFile::flags()).unwrap();
        ServedFile::set_up(&conn).unwrap();
        conn
    }

    fn count(&self, conn: &Connection) -> i64 {
        assert!(self.file.published().begin(conn).unwrap());
        let count = conn.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap();
        conn.execute_batch("COMMIT").unwrap();
        count
    }

    fn publish(&mut self) {
        let tip = self.file.tip().unwrap().unwrap();
        self.file.publish(tip);
    }
}

#[test]
fn readers_see_what_is_published_and_no_more() {
    let mut world = empty();
    let (writer, reader) = (world.connect(), world.connect());
    writer.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    assert!(world.file.published().begin(&reader).unwrap());
    assert!(reader.prepare("SELECT * FROM t").is_err(), "the table is not published");
    reader.execute_batch("COMMIT").unwrap();
    world.publish();
    writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(world.count(&reader), 1);
    world.publish();
    assert_eq!(world.count(&reader), 2);
    assert!(world.file.tip().unwrap().is_none());
}

#[test]
fn frames_are_the_transactions_that_were_committed() {
    let mut world = empty();
    let writer = world.connect();
    writer.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    world.publish();
    writer
        .execute_batch("INSERT INTO t VALUES (2); INSERT INTO t VALUES (zeroblob(20000))")
        .unwrap();
    let tip = world.file.tip().unwrap().unwrap();
    let mut commits = Vec::new();
    let mut frames = 0;
    world
        .file
        .frames(&tip, |_, commit, page| {
            frames += 1;
            assert_eq!(page.len(), 4096);
            if commit != 0 {
                commits.push(commit);
            }
            Ok::<(), FileError>(())
        })
        .unwrap();
    assert_eq!(commits.len(), 2);
    assert_eq!(*commits.last().unwrap(), tip.pages());
    assert!(frames > 5, "{frames}");
}

#[test]
fn what_is_undone_was_never_there() {
    let mut world = empty();
    let writer = world.connect();
    writer
        .execute_batch("CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1)")
        .unwrap();
    world.publish();
    let before = dump(&world);
    writer
        .execute_batch(
            "DROP INDEX i; DELETE FROM t; ALTER TABLE t ADD COLUMN b;
             INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 9999)
             SELECT x, 'text' FROM c",
        )
        .unwrap();
    drop(writer);
    let tip = world.file.tip().unwrap().unwrap();
    world.file.undo(&tip).unwrap();
    assert_eq!(dump(&world), before);
    assert!(world.file.tip().unwrap().is_none());
    let again = world.connect();
    again.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    world.publish();
    assert_eq!(world.count(&again), 2);
    let sound: String = again.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

/// Every page of the published state, without the file's own fields.
fn dump(world: &World) -> Vec<Vec<u8>> {
    (1..=world.file.published().pages())
        .map(|n| {
            let pgno = Pgno::new(n).unwrap();
            let mut page = world.file.published_page(pgno, <[u8]>::to_vec).unwrap();
            if n == 1 {
                page[24..28].fill(0);
                page[92..100].fill(0);
            }
            page
        })
        .collect()
}

#[test]
fn pages_of_the_log_replace_the_state_also_a_larger_one() {
    let mut world = empty();
    let writer = world.connect();
    writer.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    world.publish();
    let small = dump(&world);
    writer.execute_batch("CREATE TABLE u(b); INSERT INTO t VALUES (zeroblob(90000))").unwrap();
    world.publish();
    let large = dump(&world);
    drop(writer);
    for state in [&small, &large, &small] {
        let size = u32::try_from(state.len()).unwrap();
        let mut replacing = world.file.replace(size).unwrap();
        for (n, page) in (1..).zip(state) {
            replacing.page(Pgno::new(n).unwrap(), page).unwrap();
        }
        replacing.commit().unwrap();
        world.file.publish_tip().unwrap();
        let mut found = dump(&world);
        // The counter, which is the file's own, says for which change the stated size is valid.
        found[0][28..32].copy_from_slice(&state[0][28..32]);
        assert_eq!(&found, state);
        let conn = world.connect();
        let sound: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(sound, "ok");
    }
}

#[test]
fn a_checkpoint_starts_the_wal_anew_and_old_readers_go_on() {
    let mut world = empty();
    let (writer, old) = (world.connect(), world.connect());
    writer.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    world.publish();
    assert!(world.file.published().begin(&old).unwrap());
    let count = || old.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 1);
    for _ in 0..50 {
        writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    }
    world.publish();
    let frames = world.file.published().wal_frames();
    world.file.checkpoint().unwrap();
    assert!(world.file.published().wal_frames() > frames, "the old reader keeps the frames");
    writer.execute_batch("INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(count(), 1);
    old.execute_batch("COMMIT").unwrap();
    assert_eq!(world.count(&old), 51, "the last one is not published");
    world.publish();
    world.file.checkpoint().unwrap();
    assert_eq!(world.file.published().wal_frames(), 1);
    writer.execute_batch("INSERT INTO t VALUES (4)").unwrap();
    assert_eq!(world.count(&old), 52);
    world.publish();
    assert_eq!(world.count(&old), 53);
}
