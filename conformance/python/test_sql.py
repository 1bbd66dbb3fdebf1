"""PyPI `libsql` without a file, and as a replica that writes at the server."""

import multiprocessing
import time
import unittest

import libsql
from server import Server

ALL = "SELECT id, body FROM note ORDER BY id"
TABLE = "CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT UNIQUE)"


def numbered(*bodies):
    return list(enumerate(bodies, 1))


def add_eight(file, url):
    db = libsql.connect(file, sync_url=url, auth_token="")
    for _ in range(8):
        db.execute("BEGIN IMMEDIATE")
        (n,) = db.execute("SELECT n FROM n").fetchone()
        db.execute("UPDATE n SET n = ?", (n + 1,))
        db.commit()


class Remote(unittest.TestCase):
    def setUp(self):
        self.start()

    def start(self, *args):
        self.server = Server(*args)
        self.addCleanup(self.server.end)
        self.db = self.connect()

    def connect(self):
        return libsql.connect(self.server.url("python"), auth_token="")

    def all(self, db=None):
        return (db or self.db).execute(ALL).fetchall()

    def test_values_come_back_as_they_went(self):
        self.db.execute("CREATE TABLE v(x)")
        values = [None, 0, -(2**31), 0.1 + 0.2, -2.5, "", "Ærø \U0001f980 \"'\\", bytes(range(256))]
        for value in values:
            self.db.execute("INSERT INTO v VALUES (?)", (value,))
        self.db.commit()
        seen = [row[0] for row in self.db.execute("SELECT x FROM v ORDER BY rowid").fetchall()]
        self.assertEqual(seen, values)
        # The client itself makes a float of a large argument.
        edges = self.db.execute("SELECT 9223372036854775807, -9223372036854775807 - 1").fetchone()
        self.assertEqual(edges, (2**63 - 1, -(2**63)))

    def test_what_is_committed_is_seen_by_others_and_what_is_rolled_back_is_not(self):
        self.db.execute(TABLE)
        self.db.execute("INSERT INTO note(body) VALUES ('a')")
        self.assertTrue(self.db.in_transaction)
        other = self.connect()
        self.assertEqual(self.all(other), [])
        self.db.commit()
        self.assertEqual(self.all(other), numbered("a"))
        self.db.execute("INSERT INTO note(body) VALUES ('b')")
        self.assertEqual(self.all(), numbered("a", "b"))
        self.db.rollback()
        self.assertEqual(self.all(), numbered("a"))

    def test_scripts_many_and_cursors(self):
        self.db.executescript(f"{TABLE}; INSERT INTO note(body) VALUES ('a'); -- a remark\n")
        self.db.executemany("INSERT INTO note(body) VALUES (?)", [("b",), ("c",)])
        self.db.commit()
        cursor = self.db.cursor()
        cursor.execute("SELECT id, body AS words FROM note WHERE id > ? ORDER BY id", (1,))
        self.assertEqual([column[0] for column in cursor.description], ["id", "words"])
        self.assertEqual(cursor.fetchone(), (2, "b"))
        self.assertEqual(cursor.fetchall(), [(3, "c")])
        returned = self.db.execute("INSERT INTO note(body) VALUES ('d') RETURNING id").fetchall()
        self.assertEqual(returned, [(4,)])
        self.db.commit()
        self.assertEqual(self.all(), numbered("a", "b", "c", "d"))

    def test_a_failure_is_told_and_the_connection_lives(self):
        self.db.execute(TABLE)
        self.db.execute("INSERT INTO note(body) VALUES ('a')")
        with self.assertRaisesRegex(Exception, "UNIQUE constraint failed"):
            self.db.execute("INSERT INTO note(body) VALUES ('a')")
        with self.assertRaisesRegex(Exception, "no such table: nowhere"):
            self.db.execute("SELECT * FROM nowhere").fetchall()
        self.db.execute("INSERT INTO note(body) VALUES ('b')")
        self.db.commit()
        self.assertEqual(self.all(), numbered("a", "b"))

    def test_a_connection_outlives_the_server(self):
        self.db.execute(TABLE)
        self.db.execute("INSERT INTO note(body) VALUES ('a')")
        self.db.commit()
        # Leaves a stream open, as each query does.
        self.assertEqual(self.all(), numbered("a"))
        self.server.restart()
        self.assertEqual(self.all(), numbered("a"))
        self.server.restart()
        self.db.execute("INSERT INTO note(body) VALUES ('b')")
        self.db.commit()
        self.assertEqual(self.all(), numbered("a", "b"))

    def test_a_connection_outlives_its_stream(self):
        self.start("--sql-streams-each", "1", "--sql-stream-idle", "1s")
        self.db.execute(TABLE)
        self.db.execute("INSERT INTO note(body) VALUES ('a')")
        self.db.commit()
        self.assertEqual(self.all(), numbered("a"))
        # There is room for one stream, so the other is gone once this one opens.
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect().execute("SELECT 1").fetchall()
                break
            except ValueError:
                self.assertLess(time.monotonic(), deadline, "it never expires")
        self.assertEqual(self.all(), numbered("a"))
        self.db.execute("INSERT INTO note(body) VALUES ('b')")
        self.db.commit()
        self.assertEqual(self.all(), numbered("a", "b"))

    def test_a_transaction_that_was_lost_is_told_of_once(self):
        self.db.execute(TABLE)
        self.db.execute("BEGIN")
        self.db.execute("INSERT INTO note(body) VALUES ('lost')")
        self.server.restart()
        with self.assertRaises(Exception):
            self.db.execute("INSERT INTO note(body) VALUES ('lost as well')")
        self.assertEqual(self.all(), [])
        self.usable_again()

    def test_a_transaction_that_stood_idle_is_given_up_on_and_told_of_once(self):
        self.start("--sql-transaction-idle", "1s")
        self.db.execute(TABLE)
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("INSERT INTO note(body) VALUES ('lost')")
        # Waits until the other one is given up on.
        other = self.connect()
        other.execute("UPDATE note SET body = 'x'")
        other.commit()
        with self.assertRaises(Exception):
            self.db.execute("INSERT INTO note(body) VALUES ('lost as well')")
        self.assertEqual(self.all(), [])
        self.usable_again()

    def usable_again(self):
        try:
            self.db.rollback()
        except Exception:
            pass  # It believes in its transaction until the next answer.
        self.db.execute("INSERT INTO note(body) VALUES ('a')")
        self.db.commit()
        self.assertEqual(self.all(), numbered("a"))
        self.assertEqual(self.all(self.connect()), numbered("a"))


class Replica(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.end)

    def open(self, name):
        return libsql.connect(self.server.file(name), sync_url=self.server.url("replica"), auth_token="")

    def all(self, db):
        return db.execute(ALL).fetchall()

    def test_what_was_written_is_read_from_the_file(self):
        db = self.open("a.db")
        db.execute(TABLE)
        db.execute("INSERT INTO note(body) VALUES ('a')")
        db.commit()
        self.assertEqual(self.all(db), numbered("a"))
        db.execute("INSERT INTO note(body) VALUES ('b')")
        self.assertEqual(self.all(db), numbered("a", "b"))
        db.commit()
        with self.assertRaisesRegex(Exception, "UNIQUE constraint failed"):
            db.execute("INSERT INTO note(body) VALUES ('a')")
        db.rollback()
        db.execute("INSERT INTO note(body) VALUES ('undone')")
        db.rollback()
        self.assertEqual(self.all(db), numbered("a", "b"))
        other = self.open("b.db")
        other.sync()
        self.assertEqual(self.all(other), numbered("a", "b"))

    def test_two_that_write_at_once_wait_for_each_other(self):
        first = self.open("a.db")
        first.execute("CREATE TABLE n(n INTEGER)")
        first.execute("INSERT INTO n VALUES (0)")
        first.commit()
        # Not threads: the client lets no other one run while it waits for the server.
        url = self.server.url("replica")
        writers = [(self.server.file(name), url) for name in ("b.db", "c.db")]
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            pool.starmap(add_eight, writers)
        first.sync()
        self.assertEqual(first.execute("SELECT n FROM n").fetchall(), [(16,)])

    def test_a_replica_outlives_the_server(self):
        db = self.open("a.db")
        db.execute(TABLE)
        db.execute("INSERT INTO note(body) VALUES ('a')")
        db.commit()
        self.server.restart()
        db.execute("INSERT INTO note(body) VALUES ('b')")
        db.commit()
        self.assertEqual(self.all(db), numbered("a", "b"))


if __name__ == "__main__":
    unittest.main()
