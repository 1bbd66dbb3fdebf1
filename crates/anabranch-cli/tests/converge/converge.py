"""Replicas written offline on all sides, synced in any order, with kills in between, must converge.

    converge.py PROGRAM FOLDER FIRST_SEED CASES

A share CONVERGE_ZOO of the seeds (from 0, the default, to 1), told by a chance of its own so that what the
others do stays as it is, takes its schema from `zoo.py`.

Stock SQLite writes; the program syncs. Each row version that is written carries a token of its own,
so that plain SQL tells afterwards where it is. The rule that is checked knows nothing of how rows
are merged:

    a token that no program overwrote or deleted after having seen it is in the database, once, or
    else in a journal as the version that lost, once in each; and nothing else is in the database.

It can be in the journals of several replicas, if each of them overwrote it before it heard of the
others. Both in the database and in a journal is what another replica's row refers to, what came
back because the version that had won was in the way of another row, or what lost no more than a column
that was dropped.

Taking the other side of a conflict afterwards (`conflicts resolve`) is a program that overwrites what
it sees: what it brings back may be there, besides being in the journal.

Twice in the database is what stood in a table that one replica gave another name and another
replica's whole schema brought back under the old one.

Besides: all files are equal page by page, and integrity, foreign keys and full text indices are
clean. Ends with 1 and says why, and for which seeds, if something is wrong; goes on after a case that
is wrong if CONVERGE_GO_ON is set. CONVERGE_LOG shows what was done, CONVERGE_KEEP takes the files.
"""
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import traceback

import zoo

PROGRAM, FOLDER, FIRST, CASES = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

POINTS = [
    "push::after-intent", "append::before-put", "append::after-put", "push::after-append",
    "settle::before-commit", "settle::after-commit", "pull::after-fetch", "apply::under-lock",
    "pull::under-lock", "apply::before-commit", "apply::after-commit", "pull::after-commit",
    "rebase::after-base-pages", "rebase::computed", "rebase::under-lock", "rebase::after-commit",
]
# What the sources name besides, so that a new point needs no line here.
POINTS += os.environ.get("CONVERGE_POINTS", "").split()

# The share of cases with a schema from the zoo.
ZOO = float(os.environ.get("CONVERGE_ZOO", "0"))

# Local fields of page 1, which differ between equal replicas.
LOCAL_FIELDS = [(18, 20), (24, 28), (40, 44), (92, 100)]


class Wrong(Exception):
    pass


def run(*args, point=None):
    env = dict(os.environ)
    if point:
        env["FAILPOINTS"] = f"{point}=return"
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, env=env, timeout=120)


def succeed(*args):
    done = run(*args)
    if done.returncode:
        raise Wrong(f"{args}: {done.returncode} {done.stderr}")
    return done.stdout


class Server:
    """`anabranch serve` on a free port, started when the first case needs it."""

    def __init__(self):
        self.process, self.url = None, None

    def start(self):
        if not self.process:
            data = os.path.join(FOLDER, "served")
            shutil.rmtree(data, ignore_errors=True)
            self.process = subprocess.Popen(
                [PROGRAM, "serve", "--data", data, "--listen", "127.0.0.1:0"],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for line in self.process.stderr:
                if found := re.search(r"listening\s+(http://\S+)", line):
                    self.url = found[1]
                    break
            # Nobody reads on, and a full pipe must not stop it.
            self.drain = threading.Thread(target=self.process.stderr.read, daemon=True)
            self.drain.start()
        return self.url

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            shutil.rmtree(os.path.join(FOLDER, "served"), ignore_errors=True)


SERVER = Server()


class Case:
    def __init__(self, seed):
        self.seed = seed
        self.random = random.Random(seed)
        # What is chosen here leaves alone what programs write.
        self.chance = random.Random(~seed)
        # Nor does whether the schema is one from the zoo: that does not change the other cases.
        self.zoo = zoo.Zoo(self) if random.Random(f"zoo {seed}").random() < ZOO else None
        self.open_here = []
        self.resolved = set()  # brought back from a journal
        self.renamed = {}  # name of a table -> the one before
        self.revived = False  # somebody took the local schema as a whole
        self.numbers = 0
        self.committed = {}  # token -> what wrote it, for people
        self.gone = set()  # overwritten or deleted by a program that saw it
        self.dropped = 0
        self.log = []

    def token(self):
        self.numbers += 1
        return f"T{self.numbers}."

    # -- writing ---------------------------------------------------------------------------------

    def schema(self):
        r = self.random
        delete = r.choice(["", "ON DELETE CASCADE", "ON DELETE SET NULL", "ON DELETE RESTRICT"])
        tables = {
            "auto": "CREATE TABLE auto(id INTEGER PRIMARY KEY, tok TEXT, n, x)",
            "seq": "CREATE TABLE seq(id INTEGER PRIMARY KEY AUTOINCREMENT, tok TEXT NOT NULL, n, x)",
            "word": "CREATE TABLE word(k TEXT PRIMARY KEY COLLATE NOCASE, n, tok TEXT, x)",
            "pair": "CREATE TABLE pair(a INT, b TEXT, tok TEXT, n, x, PRIMARY KEY(b, a)) WITHOUT ROWID",
            "bare": "CREATE TABLE bare(tok TEXT, n, x)",
            "uniq": "CREATE TABLE uniq(id INTEGER PRIMARY KEY, u UNIQUE, tok TEXT, n, x)",
            "nullkey": "CREATE TABLE nullkey(k TEXT PRIMARY KEY, tok TEXT, n, x)",
            "made": "CREATE TABLE made(id INTEGER PRIMARY KEY, n, tok TEXT, x, g AS (n || tok), s AS (n || 's') STORED)",
            "strict_": "CREATE TABLE strict_(k INT PRIMARY KEY, tok TEXT, n INT CHECK (n IS NULL OR n < 1000), x ANY) STRICT",
        }
        chosen = r.sample(sorted(tables), r.randint(2, 5))
        sql = [tables[name] for name in chosen]
        for parent in [name for name in chosen if name in ("auto", "seq", "uniq")]:
            if r.random() < 0.6:
                sql.append(f"CREATE TABLE child_{parent}(id INTEGER PRIMARY KEY, p REFERENCES {parent}(id) {delete}, tok TEXT, n, x)")
        for name in chosen:
            if r.random() < 0.3:
                sql.append(f"CREATE INDEX i_{name} ON {name}(n, x)")
        if "auto" in chosen and r.random() < 0.4:
            sql += [
                "CREATE VIRTUAL TABLE full USING fts5(tok, n, content='auto', content_rowid='id')",
                "CREATE TRIGGER full_i AFTER INSERT ON auto BEGIN INSERT INTO full(rowid, tok, n) VALUES (new.id, new.tok, new.n); END",
                "CREATE TRIGGER full_d AFTER DELETE ON auto BEGIN INSERT INTO full(full, rowid, tok, n) VALUES ('delete', old.id, old.tok, old.n); END",
                "CREATE TRIGGER full_u AFTER UPDATE ON auto BEGIN INSERT INTO full(full, rowid, tok, n) VALUES ('delete', old.id, old.tok, old.n); INSERT INTO full(rowid, tok, n) VALUES (new.id, new.tok, new.n); END",
            ]
        if r.random() < 0.2:
            sql.append("CREATE VIRTUAL TABLE own USING fts5(tok, n)")
        if r.random() < 0.3:
            sql.append(f"CREATE TABLE audit(tab, tok)")
            sql.append(f"CREATE TRIGGER a1 AFTER INSERT ON {chosen[0]} BEGIN INSERT INTO audit(tab, tok) VALUES ('{chosen[0]}', 'A' || new.tok); END")
        return sql

    def open(self, db):
        conn = sqlite3.connect(db, isolation_level=None, timeout=30)
        conn.execute("PRAGMA foreign_keys = ON")
        return conn

    def token_tables(self, conn):
        names = []
        rows = conn.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        for name, sql in rows:
            if "USING fts5" in (sql or ""):
                # One with content of its own is a table as any other; over another's content it is an index.
                if "content=" not in sql:
                    names.append(name)
            elif not name.startswith(("sqlite_", "full_", "own_")):
                columns = [row[1] for row in conn.execute(f"PRAGMA table_info({zoo.quoted(name)})")]
                if "tok" in columns:
                    names.append(name)
        return names

    def tokens(self, conn):
        found = {}
        for table in self.token_tables(conn):
            for (token,) in conn.execute(f"SELECT tok FROM {zoo.quoted(table)} WHERE tok IS NOT NULL"):
                found.setdefault(token, []).append(table)
        return found

    def statement(self, conn):
        """Some statement, and the numbers of tokens that it may write."""
        r = self.random
        tables = self.token_tables(conn)
        ddl = r.random()
        if ddl < self.ddl or not tables:
            return self.change_of_schema(conn, tables)
        table = r.choice(tables)
        if table == "audit":
            return f"DELETE FROM audit WHERE {self.some(conn, table)}", ()
        columns = [row[1] for row in conn.execute(f"PRAGMA table_info({zoo.quoted(table)})")]
        key = {"word": ["k"], "pair": ["a", "b"], "nullkey": ["k"], "strict_": ["k"]}.get(table, [])
        n = r.choice([None, 1, 1.0, 2, "two", b"\x00\xff", r.randint(0, 999)])
        if table.startswith("strict_"):
            n = r.choice([None, r.randint(0, 999)])
        x = r.choice([None, "x", r.randbytes(3), "y" * r.choice([1, 50, 900, 9000])]) if "x" in columns else None
        act = r.choice(["insert", "insert", "update", "update", "delete"])
        if act == "insert":
            names, values = ["tok", "n"], [self.token(), n]
            if "x" in columns:
                names.append("x")
                values.append(x)
            for name in key:
                names.append(name)
                if table in ("strict_",) or name == "a":
                    values.append(r.randint(1, 12))
                else:
                    values.append(None if table == "nullkey" and r.random() < 0.3 else r.choice("abcdefABC"))
            if "u" in columns:
                names.append("u")
                values.append(r.choice([None, r.randint(1, 9), r.choice("pqr")]))
            if "p" in columns:
                parent = table.removeprefix("child_")
                names.append("p")
                ids = []
                if parent in tables:
                    ids = [row[0] for row in conn.execute(f"SELECT id FROM {zoo.quoted(parent)}")]
                values.append(r.choice(ids) if ids and r.random() < 0.9 else None)
            if table in ("auto", "seq") and r.random() < 0.15:
                names.append("id")  # Chosen by the application.
                values.append(r.choice([5000 + r.randint(0, 3), -r.randint(1, 3), 10**12 + r.randint(0, 2)]))
            marks = ", ".join("?" * len(names))
            return f"INSERT INTO {zoo.quoted(table)}({', '.join(names)}) VALUES ({marks})", values
        some = self.some(conn, table)
        if act == "delete":
            return f"DELETE FROM {zoo.quoted(table)} WHERE {some}", ()
        sets, values = ["tok = ?"], [self.token()]
        for name, value in [("n", n), ("x", x)]:
            if name in columns and r.random() < 0.5:
                sets.append(f"{name} = ?")
                values.append(value)
        if "u" in columns and r.random() < 0.4:
            sets.append("u = ?")
            values.append(r.choice([None, r.randint(1, 9)]))
        if table == "word" and r.random() < 0.2:
            sets.append("k = ?")
            values.append(r.choice("abcdefABC"))
        return f"UPDATE {zoo.quoted(table)} SET {', '.join(sets)} WHERE {some}", values

    def some(self, conn, table):
        """The condition for one row, chosen here so that a seed chooses the same again."""
        key = "a, b" if table == "pair" else "rowid"
        rows = conn.execute(f"SELECT {key} FROM {zoo.quoted(table)} ORDER BY {key}").fetchall()
        if not rows:
            return "0"
        marks = ", ".join(repr(part) for part in self.random.choice(rows))
        return f"({key}) = ({marks})"

    def change_of_schema(self, conn, tables):
        r = self.random
        self.numbers += 1
        n = self.numbers
        table = r.choice(tables) if tables else None
        choices = [f"CREATE TABLE new{n}(id INTEGER PRIMARY KEY, tok TEXT, n, x)", f"CREATE TABLE new{n}(tok TEXT, n, x)"]
        if table and table != "own":
            choices += [
                f"ALTER TABLE {zoo.quoted(table)} ADD COLUMN c{n} DEFAULT 'y'",
                f"CREATE INDEX j{n} ON {zoo.quoted(table)}(n)",
                f"CREATE VIEW v{n} AS SELECT tok FROM {zoo.quoted(table)}",
            ]
            if r.random() < 0.3 and table.startswith("new"):
                choices += [f"DROP TABLE {zoo.quoted(table)}", f"ALTER TABLE {zoo.quoted(table)} RENAME TO newer{n}"]
        index = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL LIMIT 1").fetchone()
        if index and r.random() < 0.3:
            choices.append(f"DROP INDEX {index[0]}")
        return r.choice(choices), ()

    def act(self, conn):
        sql, values = self.statement(conn)
        try:
            conn.execute(sql, values)
        except (sqlite3.IntegrityError, sqlite3.OperationalError) as e:
            return [(sql, values, str(e))]
        if found := re.fullmatch(r'ALTER TABLE "(\w+)" RENAME TO (\w+)', sql):
            self.renamed[found[2]] = found[1]
        return [(sql, [v if not isinstance(v, (bytes, str)) or len(v) < 20 else "..." for v in values])]

    def burst(self, db):
        conn = self.open(db)
        for _ in range(self.random.choice([1, 1, 2, 4, 8, 20])):
            transaction = self.random.random() < 0.2
            before = self.tokens(conn)
            written = []
            if transaction:
                conn.execute("BEGIN IMMEDIATE")
            for _ in range(3 if transaction else 1):
                written += self.zoo.act(conn) if self.zoo else self.act(conn)
            if transaction and conn.in_transaction:
                end = self.random.choice(["COMMIT", "COMMIT", "ROLLBACK"])
                try:
                    if self.zoo:
                        self.zoo.end(conn, end)
                    else:
                        conn.execute(end)
                except sqlite3.IntegrityError:
                    conn.execute("ROLLBACK")
            after = self.tokens(conn)
            self.log.append((db, written))
            for token in after.keys() - before.keys():
                self.committed[token] = (db, written[-1][0])
            self.gone |= before.keys() - after.keys()
        if self.random.random() < 0.1:
            sql = self.random.choice(["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)", "ANALYZE", "REINDEX"])
            self.log.append((db, sql))
            conn.execute(sql)
        conn.close()

    # -- syncing ---------------------------------------------------------------------------------

    def sync(self, db):
        r = self.random
        if r.random() < self.kills:
            point = r.choice(POINTS)
            done = run("sync", db, point=point)
            self.log.append((db, "sync", point, done.returncode, done.stdout, done.stderr[-500:]))
            self.note_undecided(db, done)
            if done.returncode < 0:
                if db in self.killed:
                    self.undecided.add(db)  # What it said of the one killed before went with it.
                self.killed.add(db)
                if r.random() < 0.5:
                    return  # Others go on first; this one recovers later.
        if self.chance.random() < 0.05:
            self.dry_run(db)
        if self.chance.random() < 0.15:
            self.through(db, "pull")
            self.through(db, "push")
        else:
            self.through(db, "sync")

    def through(self, db, verb, done=None):
        """Runs `verb` until it is through, deciding on what has to be decided."""
        r = self.random
        for _ in range(8):
            done = done or run("--json", verb, db)
            self.log.append((db, verb, done.returncode, (done.stdout + done.stderr)[-500:]))
            self.note_undecided(db, done)
            self.killed.discard(db)
            if done.returncode == 0:
                self.in_order(db)
                return
            code = json.loads(done.stderr)["error"]["code"]
            last, done = done, None
            if code in ("schema-conflict", "schema-broken", "unmergeable"):
                side = r.choice(["local", "remote"])
                self.revived |= side == "local"
                done = run("--json", "pull" if verb == "pull" else "sync", "--take", side, db)
                self.log.append((db, "take", done.returncode, (done.stdout + done.stderr)[-500:]))
                self.note_undecided(db, done)
                if done.returncode == 0:
                    self.in_order(db)
                    return
                code = json.loads(done.stderr)["error"]["code"]
                if code == "schema-broken" and self.zoo:
                    # What one side has cannot stand with the rows of both; perhaps what the other has.
                    other = {"local": "remote", "remote": "local"}[side]
                    self.revived |= other == "local"
                    again = run("--json", "pull" if verb == "pull" else "sync", "--take", other, db)
                    self.log.append((db, "take", again.returncode, (again.stdout + again.stderr)[-500:]))
                    if again.returncode == 0:
                        self.note_undecided(db, again)
                        self.in_order(db)
                        return
                if code == "schema-broken":
                    # That is for a person.
                    self.make_way(db, json.loads(done.stderr)["error"])
                elif code != "conflict-abort":
                    raise Wrong(f"{verb} --take {db}: {done.stderr}")
                done = None
            if code == "conflict-abort":
                self.settle_aborts(db)
            elif code == "file-is-older":
                succeed("repair", "--keep", db)  # By chance all is as it was earlier: said to be meant.
            elif code == "behind":
                self.through(db, "pull")
            elif code not in ("locked", "schema-broken", "schema-conflict", "unmergeable"):
                break
        raise Wrong(f"{verb} {db}: {last.returncode} {last.stderr}")

    def note_undecided(self, db, done):
        if "cannot be told" in done.stdout:
            self.undecided.add(db)

    def settle_aborts(self, db):
        for setting in json.loads(succeed("--json", "config", db))["settings"]:
            if setting["value"] == "abort":
                succeed("config", db, f"{setting['key']} = local")

    def make_way(self, db, error):
        """What is of this side and fits nowhere goes, as the message says: it stands on what the other
        side took away, and taking this side's schema cannot bring all of that back."""
        message = error["message"]
        found = re.search(r"the (view|trigger|index) (.+?) of this side", message)
        if not found or f"Drop the {found[1]} {found[2]} here" not in message:
            raise Wrong(f"sync --take {db}: {error}")
        conn = self.open(db)
        conn.execute(f"DROP {found[1]} {zoo.quoted(found[2])}")
        conn.close()
        self.log.append((db, "made way", found[0]))

    def both_at_once(self, one, other):
        """Two programs sync at the same time, perhaps the same file."""
        start = lambda db: subprocess.Popen(
            [PROGRAM, "--json", "sync", db], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started = [(db, start(db)) for db in (one, other)]
        for db, process in started:
            out, err = process.communicate(timeout=120)
            self.through(db, "sync", subprocess.CompletedProcess((), process.returncode, out, err))

    def dry_run(self, db):
        """It may say that something has to be decided or said, as a sync would, but it changes nothing."""
        before = self.everything(db)
        done = run("--json", "sync", "--dry-run", db)
        self.log.append((db, "dry", done.returncode, (done.stdout + done.stderr)[-300:]))
        if done.returncode not in (0, 3) and json.loads(done.stderr)["error"]["code"] != "file-is-older":
            # A sync says so as well. By chance none of the pages that the last ones left is there, and
            # most are as they were earlier: empty ones are all alike, and VACUUM moves them about.
            raise Wrong(f"sync --dry-run {db}: {done.returncode} {done.stderr}")
        if self.everything(db) != before:
            raise Wrong(f"sync --dry-run {db} changed something: {done.stdout}")

    def everything(self, db):
        """What the file, the journal and the remote say."""
        conn = self.open(db)
        if self.zoo:
            digest = self.tokens(conn)
        else:
            digest = hashlib.sha256("\n".join(conn.iterdump()).encode()).hexdigest() if not self.has_index(conn) else None
        version = conn.execute("PRAGMA schema_version").fetchone()
        conn.close()
        return digest, version, succeed("--json", "conflicts", "--all", db), succeed("--json", "log", db)

    def has_index(self, conn):
        return conn.execute("SELECT 1 FROM sqlite_schema WHERE sql LIKE '%USING fts5%'").fetchone()

    def resolve(self, db):
        """Takes the other side of a conflict."""
        c = self.chance
        entries = json.loads(succeed("--json", "conflicts", db))["conflicts"]
        if not entries:
            return
        entry = c.choice(entries)
        conn = self.open(db)
        names = self.token_tables(conn)
        before = self.tokens(conn)
        audited = conn.execute("SELECT 1 FROM sqlite_schema WHERE name = 'a1' AND tbl_name = ?", (entry["table"],)).fetchone()
        conn.close()
        # Triggers fire: a row that comes back is written down once more.
        if audited or entry["table"] not in names:
            return
        done = run("--json", "conflicts", "resolve", db, str(entry["id"]), "--take", c.choice(["local", "remote"]))
        self.log.append((db, "resolve", entry, done.returncode, (done.stdout + done.stderr)[-300:]))
        if done.returncode and json.loads(done.stderr)["error"]["code"] != "resolving":
            raise Wrong(f"resolve {db} {entry}: {done.stderr}")
        conn = self.open(db)
        after = self.tokens(conn)
        conn.close()
        self.gone |= before.keys() - after.keys()
        for token in after.keys() - before.keys():
            self.resolved.add(token)
            self.committed.setdefault(token, (db, "resolve"))  # A trigger wrote it.

    # -- checking --------------------------------------------------------------------------------

    def image(self, db):
        conn = self.open(db)
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        conn.close()
        image = bytearray(open(db, "rb").read())
        for start, end in LOCAL_FIELDS:
            image[start:end] = bytes(end - start)
        return bytes(image)

    def in_order(self, db):
        conn = self.open(db)
        found = [row[0] for row in conn.execute("PRAGMA integrity_check")]
        if found != ["ok"]:
            raise Wrong(f"integrity of {db}: {found}")
        broken = conn.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise Wrong(f"foreign keys of {db}: {broken}")
        conn.close()

    def check(self, replicas):
        images = {db: self.image(db) for db in replicas}
        if len(set(images.values())) != 1:
            raise Wrong("the files differ")
        conn = self.open(replicas[0])
        for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING fts5%'").fetchall():
            name = zoo.quoted(name)
            try:
                conn.execute(f"SELECT count(tok) FROM {name}").fetchone()
            except sqlite3.OperationalError:
                continue  # The table whose rows it indexes got another name.
            conn.execute(f"INSERT INTO {name}({name}) VALUES ('integrity-check')")
            if not self.zoo:
                # Where a row replaces another, SQLite does not fire the trigger that would take the
                # old one out of an index over another table: there the two may differ.
                conn.execute(f"INSERT INTO {name}({name}, rank) VALUES ('integrity-check', 1)")
        for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING rtree%'").fetchall():
            if (found := conn.execute("SELECT rtreecheck(?)", (name,)).fetchone()[0]) != "ok":
                raise Wrong(f"{name}: {found}")
        present = self.tokens(conn)
        conn.close()
        lost, put_back, kept = {}, set(), set()
        for db in replicas:
            for entry in json.loads(succeed("--json", "conflicts", "--all", db))["conflicts"]:
                tokens = losing(entry)
                if entry["kind"] == "foreign-key":
                    put_back |= {entry[side]["tok"] for side in ("base", "local", "remote") if entry[side]}
                won = entry.get(entry["decision"])
                if won and entry["base"] and won.get("tok") == entry["base"].get("tok"):
                    # A row that a replica wrote earlier won over what became of it elsewhere: as it was,
                    # for the remote's made way, or with a reference that a foreign key set to NULL.
                    put_back |= {won.get("tok")}
                    if entry["decision"] == "local":
                        kept.add((db, won.get("tok"), entry["id"]))
                for token in tokens:
                    lost.setdefault(token, []).append((db, entry))
        for token, tables in present.items():
            # Where one side changed a table and the other gave it another name and changed its
            # declaration, `--take local` lets the table of this side stand, as a whole, beside what
            # became of it there.
            apart = self.revived and len({self.first_name(name) for name in tables}) == 1 < len(set(tables))
            if len(tables) > len(set(tables)) or len(tables) > 1 and not apart:
                raise Wrong(f"{token} is there {len(tables)} times, in {tables}")
            if token not in self.committed:
                raise Wrong(f"{token} in {tables} was written by nobody")
        for token in self.committed.keys() - self.gone:
            entries = lost.get(token, [])
            if token not in present and not entries:
                raise Wrong(f"{token} {self.committed[token]} is neither there nor in a journal")
            if token in self.resolved:
                continue
            for db in replicas:
                times = [entry for replica, entry in entries if replica == db and not of_column(entry)]
                # Where it cannot be told whether a sync that was killed had been through, what it said counts.
                # A foreign key's action and a trigger make another version, under the same token.
                # A version that was lost may come to a replica once more: another one still had it, and
                # brought it back, since a row there refers to it.
                again = sum(1 for other, tok, _ in kept if tok == token and other != db)
                allowed = len({lost_row(entry, token) for entry in times}) + again
                if len(times) > allowed and db not in self.undecided:
                    raise Wrong(f"{token} is lost {len(times)} times to {db}: {entries}")
            if token in present and token not in put_back:
                # A table that one replica dropped may come back from another that wrote into it.
                entries = [entry for _, entry in entries if entry["kind"] != "dropped"]
                if entries and not self.undecided:
                    raise Wrong(f"{token} is there and also lost: {entries}")

    def first_name(self, table):
        while table in self.renamed:
            table = self.renamed[table]
        return table

    def run(self):
        r = self.random
        self.kills = r.choice([0, 0, 0.2, 0.4])
        self.ddl = r.choice([0, 0, 0.05, 0.15])
        self.undecided, self.killed = set(), set()
        count = r.choice([2, 2, 3, 3, 4, 5])
        replicas = [f"{i}.db" for i in range(count)]
        page_size, vacuum = r.choice([512, 1024, 4096, 4096, 65536]), r.choice([0, 0, 1, 2])
        conn = self.open(replicas[0])
        conn.execute(f"PRAGMA page_size = {page_size}")
        conn.execute(f"PRAGMA auto_vacuum = {vacuum}")
        if self.zoo:
            self.zoo.schema(conn)
            self.log += [row[0] for row in conn.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")]
        else:
            for sql in self.schema():
                self.log.append(sql)
                conn.execute(sql)
        conn.close()
        for _ in range(r.randint(0, 3)):
            self.burst(replicas[0])
        c = self.chance
        remote = "remote"
        if c.random() < 0.2:
            remote = f"{SERVER.start()}/case{self.seed}"
        succeed("init", replicas[0], "--remote", remote)
        for db in replicas[1:]:
            succeed("clone", remote, db)
        for db in replicas:
            policy = r.choice([None, None, "local", "remote", "merge", "abort"])
            if policy:
                succeed("config", db, f"conflict = {policy}")
            self.rules(db)
            if c.random() < 0.2:
                # As long as somebody has the file open, its `-wal` stays.
                conn = self.open(db)
                conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                self.open_here.append(conn)
        for _ in range(r.randint(1, 5)):
            for _ in range(c.choice([1, 1, 1, 2])):
                for db in r.sample(replicas, r.randint(1, count)):
                    self.burst(db)
            if c.random() < 0.15:
                self.both_at_once(c.choice(replicas), c.choice(replicas))
            for db in r.sample(replicas, r.randint(1, count)):
                self.sync(db)
            if c.random() < 0.2:
                self.resolve(c.choice(replicas))
        self.kills = 0
        for conn in self.open_here:
            conn.close()
        for _ in range(3 + count):
            for db in replicas:
                self.sync(db)
            if len({self.image(db) for db in replicas}) == 1:
                break
        self.check(replicas)

    def rules(self, db):
        """Rules for single tables."""
        c = self.chance
        conn = self.open(db)
        tables = [name for name in self.token_tables(conn) if name != "own"]
        conn.close()
        if not tables:
            return
        if c.random() < 0.2:
            rule = c.choice(["renumber", "renumber", "local", "remote", "abort"])
            succeed("config", db, f"conflict.{zoo.quoted(c.choice(tables))}.insert = {rule}")
        if c.random() < 0.2:
            succeed("config", db, f"conflict.{zoo.quoted(c.choice(tables))} = {c.choice(['local', 'remote', 'merge', 'abort'])}")


def of_column(entry):
    """Whether no more is lost than a column that was dropped; the row itself may be told of as well."""
    return entry["kind"] == "dropped" and (entry.get("detail") or "").startswith("dropped with ")


def lost_row(entry, token):
    """The version under a token, for comparing."""
    rows = [entry[side] for side in ("remote", "local") if (entry[side] or {}).get("tok") == token]
    return json.dumps(rows[0] if rows else None, sort_keys=True)


def losing(entry):
    """The tokens of the versions that did not make it, by the journal's own words. Where rows are merged
    column by column and both sides changed the token, the local one stands."""
    decision, detail = entry["decision"], entry.get("detail") or ""
    losers = {"local": ["remote"], "remote": ["local"], "merged": ["remote"], "neither": ["local", "remote"]}.get(decision, [])
    if decision == "merged" and detail.endswith("else the remote's version stands"):
        losers = ["local"]  # All but a reference to what is gone.
    elif decision == "merged" and (entry["base"] or {}).get("tok") == (entry["local"] or {}).get("tok"):
        losers = []  # Only the remote changed the token.
    # A foreign key's action and a trigger may change a row without giving it a new token.
    stays = (entry.get(decision) or {}).get("tok")
    return {entry[side]["tok"] for side in losers if (entry[side] or {}).get("tok") not in (None, stays)}


def main():
    wrong = []
    for seed in range(FIRST, FIRST + CASES):
        folder = os.path.join(FOLDER, "case")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        os.chdir(folder)
        case = Case(seed)
        try:
            case.run()
        except Exception as e:
            wrong.append(seed)
            print(f"seed {seed}: {e if isinstance(e, Wrong) else traceback.format_exc()}", flush=True)
            if os.environ.get("CONVERGE_LOG"):
                for line in case.log:
                    print("   ", line)
            if os.environ.get("CONVERGE_KEEP"):
                shutil.copytree(folder, os.environ["CONVERGE_KEEP"], dirs_exist_ok=True)
            if not os.environ.get("CONVERGE_GO_ON"):
                break
        finally:
            for conn in case.open_here:
                conn.close()
        if seed % 25 == 0:
            print(f"up to seed {seed}", file=sys.stderr, flush=True)
    shutil.rmtree(os.path.join(FOLDER, "case"), ignore_errors=True)
    SERVER.stop()
    if wrong:
        print(f"wrong: {wrong}")
        sys.exit(1)
    print(f"{CASES} cases from {FIRST} on")


main()
