"""Two replicas, random SQL on either, a sync of both after each burst: they must be the same.

    torture.py PROGRAM FOLDER SEED ROUNDS

Schema changes of all kinds, VACUUM, automatic vacuum, checkpoints, full text search, transactions
that are rolled back, large and small pages; with and without a connection that stays open. Stock
SQLite writes; the program syncs. Ends with 1 and says why if something is wrong.
"""
import os
import random
import sqlite3
import subprocess
import sys

PROGRAM, FOLDER, SEED, ROUNDS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
random.seed(SEED)
os.chdir(FOLDER)


def fail(*what):
    print(f"seed {SEED}:", *what)
    sys.exit(1)


def anabranch(*args):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True)


def succeed(*args):
    done = anabranch(*args)
    if done.returncode:
        fail(args, done.returncode, done.stderr)


def stock(db, sql):
    # Random bytes become texts here and there.
    done = subprocess.run(["sqlite3", db, sql], capture_output=True, text=True, errors="surrogateescape")
    if done.returncode:
        fail(db, sql, done.stderr)
    return done.stdout.strip()


class Writer:
    """An application: one connection for one burst."""

    numbers = 0

    def __init__(self, db):
        self.db = sqlite3.connect(db, isolation_level=None, timeout=30)

    def query(self, sql):
        return [row[0] for row in self.db.execute(sql)]

    def tables(self):
        return self.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '[rtw][0-9]*'")

    def some(self, names):
        return random.choice(names) if names else None

    def run(self, sql):
        try:
            self.db.execute(sql)
        except (sqlite3.OperationalError, sqlite3.IntegrityError):
            pass  # Not everything is possible at every moment: VACUUM in a transaction, a full key.

    def anything(self):
        Writer.numbers += 1
        n, table = Writer.numbers, self.some(self.tables())
        if table is None:
            return self.run(f"CREATE TABLE t{n}(id INTEGER PRIMARY KEY, v, w TEXT DEFAULT 'x')")
        column = self.some([row[1] for row in self.db.execute(f"PRAGMA table_info({table})")])
        rows = random.choice([1, 3, 30, 400])
        size = random.choice([5, 60, 900, 9000 if rows < 30 else 60])
        count = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        index = self.some(self.query("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"))
        view = self.some(self.query("SELECT type || ' ' || name FROM sqlite_schema WHERE type IN ('view', 'trigger')"))
        text = self.some(self.query("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING fts5%'"))
        key = random.choice(["a", "b"])
        choices = [
            (9, f"CREATE TABLE t{n}(id INTEGER PRIMARY KEY, v, w TEXT DEFAULT 'x')"),
            (6, f"CREATE TABLE w{n}(a TEXT PRIMARY KEY, b BLOB) WITHOUT ROWID"),
            (5, f"DROP TABLE {table}"),
            (4, f"CREATE INDEX i{n} ON {table}({column})"),
            (3, f"ALTER TABLE {table} RENAME TO r{n}"),
            (3, f"ALTER TABLE {table} ADD COLUMN c{n} DEFAULT 'y'"),
            (3, f"DROP INDEX {index}"),
            (3, "VACUUM"),
            (2, f"CREATE VIRTUAL TABLE f{n} USING fts5(x)"),
            (4, f"INSERT INTO {text} SELECT 'hello w' || abs(random() % 50) FROM (VALUES (1), (2), (3))"),
            (1, f"DROP TABLE {text}"),
            (3, f"CREATE TRIGGER g{n} AFTER INSERT ON {table} BEGIN DELETE FROM {table} WHERE rowid % 7 = 3; END"),
            (3, f"CREATE VIEW v{n} AS SELECT * FROM {table}"),
            (3, f"DROP {view}"),
            (9, f"DELETE FROM {table} WHERE random() % {random.choice([1, 2, 9])} = 0"),
            (10, f"UPDATE {table} SET {column} = hex(randomblob({size})) WHERE random() % {random.choice([1, 3, 20])} = 0"),
            (3, "PRAGMA incremental_vacuum"),
            (2, f"PRAGMA user_version = {n}"),
            (2, f"PRAGMA wal_checkpoint({random.choice(['PASSIVE', 'FULL', 'TRUNCATE', 'RESTART'])})"),
            (12, f"{count} INSERT INTO {table}(v) SELECT hex(randomblob({size})) FROM n"),
            (10, f"{count} INSERT OR IGNORE INTO {table}(a, b) SELECT hex(randomblob(8)), randomblob({size}) FROM n"),
            (2, f"UPDATE {table} SET {key} = {key} || 'z'"),
        ]
        weights, statements = zip(*choices)
        self.run(random.choices(statements, weights)[0])

    def burst(self):
        for _ in range(random.choice([1, 1, 2, 5, 12])):
            if random.random() < 0.3:
                self.run("BEGIN IMMEDIATE")
                for _ in range(3):
                    self.anything()
                if self.db.in_transaction:
                    self.db.execute(random.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
            else:
                self.anything()
        self.db.close()


def sync_what_was_written(db):
    done = anabranch("sync", db)
    if done.returncode == 1 and ("looks older" in done.stderr or "another database" in done.stderr):
        # By chance everything is as it was earlier, or nothing is as it was: said to be meant.
        succeed("repair", "--keep", db)
        done = anabranch("sync", db)
    if done.returncode:
        fail("sync", db, done.returncode, done.stderr)


def main():
    page_size, vacuum = random.choice([512, 1024, 4096, 65536]), random.choice([0, 1, 2])
    stock("a.db", f"PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum}; CREATE TABLE t0(id INTEGER PRIMARY KEY, v)")
    succeed("init", "a.db", "--remote", "remote")
    succeed("clone", "remote", "b.db")
    open_connections = {}
    for turn in range(ROUNDS):
        here, there = random.sample(["a.db", "b.db"], 2)
        for db in (here, there):
            if random.random() < 0.3:
                if db in open_connections:
                    open_connections.pop(db).close()
                else:
                    open_connections[db] = sqlite3.connect(db)
                    open_connections[db].execute("SELECT count(*) FROM sqlite_schema").fetchone()
        Writer(here).burst()
        sync_what_was_written(here)
        succeed("sync", there)
        for db in (here, there):
            found = stock(db, "PRAGMA integrity_check")
            if found != "ok":
                fail("turn", turn, db, found)
        if stock(here, ".dump") != stock(there, ".dump"):
            fail("turn", turn, "the replicas differ")
        if turn % 10 == 0:
            succeed("verify", there)


main()
