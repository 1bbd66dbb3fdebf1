"""Schemas and statements of all kinds, for `converge.py`.

A table is made of random pieces: kinds of keys, constraints, generated columns, foreign keys to
whatever is unique somewhere, names that have to be quoted. Statements are made from what SQLite says
of the schema that is there, so that they follow it through all changes. Every table has a column
`tok` without constraints, and whatever writes a row gives it a token that no other row has.

No index and no generated column makes a text of a number: versions of SQLite write a REAL differently,
and one calls the other's index damaged.

What a program does to the schema, it does in order: where references would be broken afterwards, or
could not be followed any more, it takes the change back.
"""
import re
import sqlite3

# None begins with a quote: SQLite loses its memory over such a child's name under `RESTRICT`.
TABLES = ["a b", 'qu"ote', "select", "Ünï", "d.ot", "it's", "x[y]", "t`ick", "1st", "T", "values", "order by"]
COLUMNS = ["n", "x", "u v", "group", "Ä", "q'q", 'd"d', "e.e", "rowid", "2"]
TYPES = ["", "INT", "INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC"]
STRICT_TYPES = ["INT", "INTEGER", "TEXT", "REAL", "BLOB", "ANY"]
ACTIONS = ["", "CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"]
CLAUSES = ["", "", "", "", " ON CONFLICT REPLACE", " ON CONFLICT IGNORE"]


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def listed(names):
    return ", ".join(quoted(name) for name in names)


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


class Column:
    def __init__(self, name, kind, text):
        self.name, self.kind, self.text = name, kind, text


class Zoo:
    def __init__(self, case):
        self.case, self.r = case, case.random

    def chosen(self, chance):
        return self.r.random() < chance

    # -- declarations ----------------------------------------------------------------------------

    def schema(self, conn):
        """Makes the first schema."""
        r = self.r
        plans = [self.plan(name) for name in r.sample(TABLES, r.randint(2, 5))]
        parents = [(name, key) for name, plan in plans_of(plans) for key in plan["keys"]]
        for some in [parents] * 5 + [[]]:
            self.done(conn, [self.declaration(plan, some) for plan in plans])
            if self.tables(conn):
                break
        if self.chosen(0.3):
            self.done(conn, ['CREATE TABLE "the log"(' + r.choice(["", "id INTEGER PRIMARY KEY, "]) + "tab, tok)"])
        for table in self.tables(conn):
            if self.chosen(0.5):
                self.done(conn, [self.index(conn, table)])
            if self.chosen(0.25):
                self.done(conn, [self.trigger(conn, table)])
            if self.chosen(0.15):
                self.done(conn, self.view(conn, table))
        if self.chosen(0.15):
            self.done(conn, ["CREATE VIRTUAL TABLE \"r tree\" USING rtree(id, x0, x1, +tok TEXT)"])
        if self.chosen(0.15):
            self.done(conn, ['CREATE VIRTUAL TABLE "own ""text" USING fts5(tok, "n", prefix=2)'])
        if self.chosen(0.2):
            self.done(conn, self.full_text(conn))

    def plan(self, name):
        """A table without its foreign keys: those need to know of the other tables."""
        r = self.r
        strict, without = self.chosen(0.2), False
        kind = r.choice(["rowid", "rowid", "rowid", "auto", "single", "single", "several", "none", "desc"])
        columns, keys, tail = [], [], []
        types = STRICT_TYPES if strict else TYPES
        names = r.sample(COLUMNS, r.randint(2, 5))
        if kind in ("rowid", "auto"):
            columns.append(Column("id", "INTEGER", "PRIMARY KEY" + (" AUTOINCREMENT" if kind == "auto" else "")))
            keys.append([columns[0]])
        elif kind == "desc":  # No name of the rowid.
            columns.append(Column("id", "INTEGER", "PRIMARY KEY DESC"))
            keys.append([columns[0]])
        elif kind == "single":
            column = Column("k", r.choice([t for t in types if t != "INTEGER"]), "PRIMARY KEY" + r.choice(["", "", " DESC"]))
            if column.kind in ("", "TEXT", "ANY"):
                column.text += r.choice(["", " COLLATE NOCASE", " COLLATE RTRIM"])
            columns.append(column)
            keys.append([column])
        elif kind == "several":
            pair = [Column("k", r.choice(types), ""), Column("l m", r.choice(types), "")]
            columns += pair
            keys.append(r.sample(pair, 2))
            directions = [quoted(c.name) + r.choice(["", "", " DESC"]) for c in keys[0]]
            tail.append(f"PRIMARY KEY ({', '.join(directions)}){r.choice(CLAUSES)}")
        if kind in ("single", "several", "desc") and self.chosen(0.4):
            without = True
        for at, other in enumerate(names):
            column = Column(other, r.choice(types), "")
            if at and self.chosen(0.15):
                source = quoted(r.choice(names[:at]))
                expr = r.choice([f"coalesce({source}, 'g')", f"nullif({source}, 2)", f"coalesce({source}, tok)", f"typeof({source})"])
                column.kind = "ANY" if strict else column.kind
                column.text = f"GENERATED ALWAYS AS ({expr}) {r.choice(['VIRTUAL', 'STORED'])}"
                if self.chosen(0.15):
                    column.text += f" UNIQUE{r.choice(CLAUSES)}"
            else:
                self.constrain(column, keys)
            columns.append(column)
        plain = [c for c in columns if "GENERATED" not in c.text and c.name not in ("id", "k")]
        if len(plain) > 1 and self.chosen(0.2):
            pair = r.sample(plain, 2)
            keys.append(pair)
            tail.append(f"UNIQUE ({listed(c.name for c in pair)}){r.choice(CLAUSES)}")
        columns.insert(r.randint(0, len(columns)), Column("tok", "TEXT" if strict else r.choice(["", "TEXT"]), ""))
        options = ["WITHOUT ROWID"] * without + ["STRICT"] * strict
        return {"name": name, "columns": columns, "keys": keys, "tail": tail, "options": options}

    def constrain(self, column, keys):
        r, name = self.r, quoted(column.name)
        column.text += r.choice([""] * 4 + [" COLLATE NOCASE", " COLLATE RTRIM"]) if column.kind in ("", "TEXT", "ANY") else ""
        default = {"INT": "7", "INTEGER": "7", "REAL": "1.5", "BLOB": "X'00'"}.get(column.kind, "'d'")
        if self.chosen(0.2):
            column.text += f" DEFAULT {default}"
            if self.chosen(0.5):
                column.text += f" NOT NULL{r.choice(CLAUSES)}"
        elif self.chosen(0.1):
            column.text += " NOT NULL"
        if self.chosen(0.15):
            column.text += f" CHECK ({r.choice([f'{name} IS NULL OR {name} <> 3', f'length({name}) < 2000', f'{name} IS NOT 1.0'])})"
        if self.chosen(0.25):
            column.text += f" UNIQUE{r.choice(CLAUSES)}"
            keys.append([column])

    def declaration(self, plan, parents, name=None):
        r = self.r
        columns, tail = list(plan["columns"]), list(plan["tail"])
        plain = [c for c in columns if "GENERATED" not in c.text and c.name != "tok"]
        for number in range(r.choice([0, 0, 1, 1, 2])):
            if not parents:
                break
            table, key = r.choice(parents)
            clauses = f"REFERENCES {quoted(table)}({listed(c.name for c in key)})"
            for event in ("DELETE", "UPDATE"):
                if action := r.choice(ACTIONS):
                    clauses += f" ON {event} {action}"
            clauses += r.choice(["", "", " DEFERRABLE INITIALLY DEFERRED"])
            if len(key) == 1 and self.chosen(0.8):
                # A column of its own, in place of which a table may have its key.
                kind = key[0].kind
                if "STRICT" in plan["options"] and kind not in STRICT_TYPES:
                    kind = "ANY"
                columns.append(Column(f"p{number}", kind, clauses))
            elif len(plain) >= len(key):
                tail.append(f"FOREIGN KEY ({listed(c.name for c in r.sample(plain, len(key)))}) {clauses}")
        text = ", ".join([f"{quoted(c.name)} {c.kind} {c.text}".strip() for c in columns] + tail)
        return f"CREATE TABLE {quoted(name or plan['name'])}({text}) {', '.join(plan['options'])}".strip()

    def index(self, conn, table):
        r, n = self.r, self.number()
        names = r.sample([c for c in self.columns(conn, table, True)], 1)
        if self.chosen(0.3):
            names.append("tok")
        parts = [quoted(c) + r.choice(["", "", " DESC", " COLLATE NOCASE"]) for c in names]
        if self.chosen(0.2):
            first = quoted(names[0])
            parts[0] = r.choice([f"coalesce({first}, 0)", f"coalesce({first}, 'e')", f"nullif({first}, 1)"])
        where = r.choice(["", "", "", f" WHERE {quoted(names[0])} IS NOT NULL", f" WHERE {quoted(names[0])} > 5"])
        unique = r.choice(["", "", "UNIQUE "])
        return f"CREATE {unique}INDEX {quoted(f'i {n}')} ON {quoted(table)}({', '.join(parts)}){where}"

    def trigger(self, conn, table):
        r, n = self.r, self.number()
        event = r.choice(["INSERT", "INSERT", "UPDATE", "DELETE"])
        row = "old" if event == "DELETE" else "new"
        columns = self.columns(conn, table)
        if event == "UPDATE" and self.chosen(0.5):
            event += f" OF {quoted(r.choice(columns))}"
        other = r.choice(self.tables(conn))
        token = f"{row}.tok || '.{n}.' || hex(randomblob(4))"
        target = self.columns(conn, other)
        plain = [c for c in target if c not in ("id", "k", "l m", "tok")] or target
        bodies = [f"INSERT INTO {quoted(other)}(tok) VALUES ({token});"]
        if self.has_rowid(conn, other) and self.has_rowid(conn, table):
            bodies += [
                f"UPDATE {quoted(other)} SET {quoted(r.choice(plain))} = {row}.{quoted(r.choice(columns))} WHERE _rowid_ = {row}._rowid_;",
                f"DELETE FROM {quoted(other)} WHERE _rowid_ = {row}._rowid_ + 1;",
            ]
        body = r.choice(bodies)
        if "the log" in self.tables(conn) and self.chosen(0.6):
            body = f"INSERT INTO \"the log\"(tab, tok) VALUES ({literal(table)}, {token});"
        when = r.choice(["", "", f" WHEN {row}.{quoted(r.choice(columns))} IS NOT NULL"])
        return f"CREATE TRIGGER {quoted(f't {n}')} {r.choice(['AFTER', 'AFTER', 'BEFORE'])} {event} ON {quoted(table)}{when} BEGIN {body} END"

    def view(self, conn, table):
        r, n = self.r, self.number()
        name = f"v {n}"
        other = r.choice(self.tables(conn))
        columns = self.columns(conn, table)
        query = r.choice([
            f"SELECT tok FROM {quoted(table)}",
            f"SELECT * FROM {quoted(table)}",
            f"SELECT {quoted(r.choice(columns))} AS c, tok FROM {quoted(table)} WHERE tok > 'T3'",
            f"SELECT a.tok, b.{quoted(r.choice(self.columns(conn, other)))} AS c FROM {quoted(table)} a LEFT JOIN {quoted(other)} b ON a.tok = b.tok",
            f"WITH w AS (SELECT tok FROM {quoted(table)}) SELECT * FROM w",
        ])
        made = [f"CREATE VIEW {quoted(name)} AS {query}"]
        if self.chosen(0.4):
            made.append(
                f"CREATE TRIGGER {quoted(f'io {n}')} INSTEAD OF INSERT ON {quoted(name)} BEGIN "
                f"INSERT INTO {quoted(table)}(tok) VALUES (new.tok); END")
        return made

    def full_text(self, conn):
        """An index over the rows of a table, kept by triggers."""
        n = self.number()
        for table in self.tables(conn):
            columns = self.columns(conn, table)
            if "id" not in columns or not self.has_rowid(conn, table) or self.virtual(conn, table):
                continue
            key = [row for row in conn.execute(f"PRAGMA table_info({quoted(table)})") if row[5]]
            if len(key) != 1 or key[0][1] != "id" or "DESC" in self.sql(conn, table):
                continue
            full, on = quoted(f"full {n}"), quoted(table)
            remove = f"INSERT INTO {full}({full}, rowid, tok) VALUES ('delete', old.id, old.tok);"
            add = f"INSERT INTO {full}(rowid, tok) VALUES (new.id, new.tok);"
            return [
                f"CREATE VIRTUAL TABLE {full} USING fts5(tok, content={literal(table)}, content_rowid='id')",
                f"INSERT INTO {full}({full}) VALUES ('rebuild')",
                f"CREATE TRIGGER \"fi {n}\" AFTER INSERT ON {on} BEGIN {add} END",
                f"CREATE TRIGGER \"fd {n}\" AFTER DELETE ON {on} BEGIN {remove} END",
                f"CREATE TRIGGER \"fu {n}\" AFTER UPDATE ON {on} BEGIN {remove} {add} END",
            ]
        return []

    # -- what is there ---------------------------------------------------------------------------

    def number(self):
        self.case.numbers += 1
        return self.case.numbers

    def tables(self, conn):
        return self.case.token_tables(conn)

    def sql(self, conn, table):
        return conn.execute("SELECT sql FROM sqlite_schema WHERE name = ? AND type = 'table'", (table,)).fetchone()[0]

    def virtual(self, conn, table):
        return self.sql(conn, table).startswith("CREATE VIRTUAL")

    def has_rowid(self, conn, table):
        return "WITHOUT ROWID" not in self.sql(conn, table)

    def columns(self, conn, table, generated=False):
        rows = conn.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
        return [row[1] for row in rows if row[6] == 0 or generated and row[6] in (2, 3)]

    def kinds(self, conn, table):
        return {row[1]: row[2] for row in conn.execute(f"PRAGMA table_xinfo({quoted(table)})")}

    def key(self, conn, table):
        """What tells a row from the others of this state."""
        if self.has_rowid(conn, table):
            return ["rowid"] if self.virtual(conn, table) else ["_rowid_"]
        rows = conn.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
        return [quoted(row[1]) for row in sorted(rows, key=lambda row: row[5]) if row[5]]

    def references(self, conn, table):
        """The foreign keys of a table: the parent, and pairs of columns."""
        found = {}
        for number, _, parent, mine, theirs, *_ in conn.execute(f"PRAGMA foreign_key_list({quoted(table)})").fetchall():
            found.setdefault(number, (parent, []))[1].append((mine, theirs))
        return [found[number] for number in sorted(found)]

    def parents(self, conn):
        """Keys that can be referred to."""
        found = []
        for table in self.tables(conn):
            kinds = self.kinds(conn, table)
            rows = conn.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
            if self.virtual(conn, table):
                continue
            if key := [Column(row[1], row[2], "") for row in rows if row[5]]:
                found.append((table, key))
            for _, index, unique, origin, partial in conn.execute(f"PRAGMA index_list({quoted(table)})").fetchall():
                names = [row[2] for row in conn.execute(f"PRAGMA index_info({quoted(index)})")]
                if unique and origin == "u" and None not in names:
                    found.append((table, [Column(name, kinds[name], "") for name in names]))
        return found

    # -- statements ------------------------------------------------------------------------------

    def act(self, conn):
        """One statement, or a change of the schema. Says what was done."""
        tables = self.tables(conn)
        if self.chosen(self.case.ddl) or not tables:
            return self.done(conn, self.change_of_schema(conn, tables))
        table = self.r.choice(tables)
        sql = self.r.choice([self.insert, self.insert, self.update, self.update, self.delete])(conn, table)
        alone = not conn.in_transaction
        if alone:
            conn.execute("BEGIN")
        try:
            conn.execute(sql)
            said = short(sql)
        except sqlite3.Error as e:
            if "malformed" in str(e) and not self.out_of_turn(conn, e):
                raise
            said = (short(sql), str(e))
        if alone and conn.in_transaction:
            self.end(conn, "COMMIT")
        return [said]

    def out_of_turn(self, conn, error):
        """Whether triggers got in each other's way. SQLite fires the one made last first: if it writes the
        new row again, that row is to be taken out of a full-text index before it was put in, which FTS5
        calls malformed. The statement fails, and nothing is damaged."""
        if getattr(error, "sqlite_errorname", None) != "SQLITE_CORRUPT_VTAB":
            return False
        triggers = conn.execute("SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        indexed = {quoted(table) for name, table, _ in triggers if name.startswith("fi ")}
        writes = [f"{how} {table}" for table in indexed for how in ("INSERT INTO", "UPDATE", "DELETE FROM")]
        return any(w in sql for name, _, sql in triggers if name.startswith(("t ", "io ")) for w in writes)

    def end(self, conn, how):
        """Ends a transaction. SQLite itself leaves references broken where a row that refers to its own
        table replaces the one that it refers to: that is no state to begin with."""
        broken = conn.execute("PRAGMA foreign_key_check").fetchall()
        try:
            conn.execute("ROLLBACK" if broken else how)
        except sqlite3.IntegrityError:
            conn.execute("ROLLBACK")

    def value(self, kind, small=False):
        """A value for a column; few different ones if it is part of a key."""
        r = self.r
        whole, text, real = r.randint(1, 12), r.choice(["a", "b", "c", "A", "B", "a ", "b  ", "ä", "Ä"]), r.choice([0.5, 1.0, 2.5, -0.0, 1e300])
        blob = r.choice([b"", b"\x00", b"a", b"\xff\x00", r.randbytes(2)])
        if self.chosen(0.15):
            return None
        if not small:
            whole = r.choice([whole, 0, -1, 2**40, -(2**63), 2**63 - 1])
            size = r.choice([0, 1, 10, 60, 900, 5000] * 5 + [100_000])
            text, blob = r.choice([text, "y" * size]), r.choice([blob, r.randbytes(1) * size])
        by_kind = {"INT": whole, "INTEGER": whole, "TEXT": text, "REAL": real, "BLOB": blob}
        return by_kind.get(kind) if kind in by_kind and self.chosen(0.95) else r.choice([whole, text, real, blob])

    def row(self, conn, table):
        """Columns and literals for a new row."""
        r = self.r
        infos = conn.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
        single = sum(1 for row in infos if row[5]) == 1
        rowids = self.has_rowid(conn, table)
        row = {}
        for _, name, kind, _, _, key, hidden in infos:
            if hidden or name == "tok":
                continue
            if name == "id" and kind == "INTEGER" and key and single and rowids and not self.chosen(0.2):
                continue  # SQLite chooses.
            if key and kind == "INTEGER" and single:
                row[name] = literal(r.choice([r.randint(1, 12), 5000 + r.randint(0, 3), -r.randint(1, 3), 10**12 + r.randint(0, 2)]))
            elif key or self.chosen(0.8):
                row[name] = literal(self.value(kind, bool(key) or self.chosen(0.5)))
        if "rtree(" in self.sql(conn, table):
            low = r.randint(0, 50)
            row |= {"x0": str(low), "x1": str(low + r.randint(0, 9))}
        self.refer(conn, table, row)
        return row

    def refer(self, conn, table, row):
        """Lets the row refer to some rows that are there."""
        for parent, pairs in self.references(conn, table):
            if not self.chosen(0.85) or parent not in self.tables(conn):
                continue
            theirs = [name for _, name in pairs]
            if None in theirs:
                continue
            query = ", ".join(f"quote({quoted(name)})" for name in theirs)
            found = conn.execute(f"SELECT {query} FROM {quoted(parent)} ORDER BY 1 LIMIT 20").fetchall()
            chosen = self.r.choice(found) if found else ["NULL"] * len(pairs)
            for (mine, _), value in zip(pairs, chosen):
                if mine in row or mine.startswith("p"):
                    row[mine] = value

    def insert(self, conn, table):
        r = self.r
        if self.chosen(0.05):
            views = conn.execute("SELECT tbl_name FROM sqlite_schema WHERE sql LIKE '%INSTEAD OF INSERT%' ORDER BY 1").fetchall()
            if views:
                return f"INSERT INTO {quoted(r.choice(views)[0])}(tok) VALUES ('{self.case.token()}')"
        rows = [self.row(conn, table)]
        names = list(rows[0])
        while self.chosen(0.2):
            more = self.row(conn, table)
            rows.append({name: more.get(name, "NULL") for name in names})
        values = [f"({', '.join([literal(self.case.token())] + [row[name] for name in names])})" for row in rows]
        verb = r.choice(["INSERT"] * 6 + ["REPLACE", "INSERT OR IGNORE"])
        sql = f"{verb} INTO {quoted(table)}({listed(['tok'] + names)}) VALUES {', '.join(values)}"
        if verb == "INSERT" and self.chosen(0.15) and not self.virtual(conn, table):
            change = "NOTHING" if self.chosen(0.3) else f"UPDATE SET tok = excluded.tok || 'u'"
            sql += f" ON CONFLICT DO {change}"
        return sql

    def update(self, conn, table):
        r = self.r
        kinds, key = self.kinds(conn, table), self.key(conn, table)
        new = {}
        row = self.row(conn, table)
        keys = {info[1] for info in conn.execute(f"PRAGMA table_info({quoted(table)})") if info[5]}
        for name in row:
            if self.chosen(0.1 if name in keys else 0.4):
                new[name] = row[name]
        new["tok"] = f"'{self.case.token()}'"
        where = self.some(conn, table)
        if self.chosen(0.15):
            # Several rows: each gets a token of its own.
            where = self.several(conn, table)
            new["tok"] = f"'{self.case.token()}/' || tok"
            numbers = [name for name in keys if kinds[name] in ("INT", "INTEGER")]
            if self.chosen(0.5) and numbers:
                name = quoted(numbers[0])
                new = {"tok": new["tok"], numbers[0]: r.choice([f"-{name}", f"{name} + 1", f"13 - {name}"])}
        sets = ", ".join(f"{quoted(name)} = {value}" for name, value in new.items())
        verb = r.choice(["UPDATE"] * 6 + ["UPDATE OR REPLACE", "UPDATE OR IGNORE"])
        return f"{verb} {quoted(table)} SET {sets} WHERE {where}"

    def delete(self, conn, table):
        where = self.several(conn, table) if self.chosen(0.1) else self.some(conn, table)
        return f"DELETE FROM {quoted(table)} WHERE {where}"

    def some(self, conn, table):
        """The condition for one row, chosen here so that a seed chooses the same again."""
        key = self.key(conn, table)
        query = ", ".join(f"quote({part})" for part in key)
        rows = conn.execute(f"SELECT {query} FROM {quoted(table)} ORDER BY {', '.join(key)}").fetchall()
        if not rows:
            return "0"
        return " AND ".join(f"{part} IS {value}" for part, value in zip(key, self.r.choice(rows)))

    def several(self, conn, table):
        parts = self.key(conn, table)
        return self.r.choice([f"{parts[0]} < 6", f"{parts[0]} > 3", f"{parts[0]} >= 'b'", "1"])

    # -- changes of the schema -------------------------------------------------------------------

    def change_of_schema(self, conn, tables):
        r = self.r
        changes = [self.new_table]
        if tables:
            table = r.choice(tables)
            changes += [lambda conn: [self.index(conn, table)], lambda conn: [self.trigger(conn, table)], lambda conn: self.view(conn, table)]
            if not self.virtual(conn, table):
                changes += [lambda conn: self.altered(conn, table)] * 4
        changes.append(self.drop_something)
        return r.choice(changes)(conn)

    def new_table(self, conn):
        plan = self.plan(f"{self.r.choice(TABLES)} {self.number()}")
        return [self.declaration(plan, self.parents(conn) + [(plan["name"], key) for key in plan["keys"]])]

    def drop_something(self, conn):
        found = conn.execute(
            "SELECT type, name FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL AND name NOT LIKE 'f_ %' ORDER BY name").fetchall()
        found += [("table", table) for table in self.tables(conn) if self.chosen(0.1)]
        if not found:
            return []
        kind, name = self.r.choice(found)
        return [f"DROP {kind} {quoted(name)}"]

    def altered(self, conn, table):
        r, n, on = self.r, self.number(), quoted(table)
        columns = [name for name in self.columns(conn, table, True) if name not in ("tok", "id")]
        changes = [
            f"ALTER TABLE {on} ADD COLUMN {quoted(f'c {n}')} DEFAULT 'y'",
            f"ALTER TABLE {on} ADD COLUMN {quoted(f'c {n}')} TEXT NOT NULL DEFAULT 'n'",
            f"ALTER TABLE {on} ADD COLUMN {quoted(f'c {n}')} TEXT AS (tok || '{n}') VIRTUAL",
            f"ALTER TABLE {on} ADD COLUMN {quoted(f'c {n}')} INT CHECK ({quoted(f'c {n}')} IS NOT 3)",
            f"ALTER TABLE {on} RENAME TO {quoted(f'{r.choice(TABLES)} {n}')}",
        ]
        if "STRICT" in self.sql(conn, table):
            changes[0] = f"ALTER TABLE {on} ADD COLUMN {quoted(f'c {n}')} ANY DEFAULT 'y'"
        if columns:
            column = r.choice(columns)
            changes.append(f"ALTER TABLE {on} DROP COLUMN {quoted(column)}")
            if column != "rowid":  # Later versions of SQLite refuse that.
                changes.append(f"ALTER TABLE {on} RENAME COLUMN {quoted(column)} TO {quoted(f'{r.choice(COLUMNS)} {n}')}")
        return [r.choice(changes)] if self.chosen(0.75) else self.made_anew(conn, table, n)

    def made_anew(self, conn, table, n):
        """The table with another declaration, the way that SQLite's documentation describes."""
        r, sql = self.r, self.sql(conn, table)
        head = re.match(r'CREATE TABLE\s+("(?:[^"]|"")+"|\w+)\s*\(', sql)
        end = sql.rindex(")")
        body, options = sql[head.end():end], sql[end + 1:].strip()
        columns = self.columns(conn, table)
        extra = r.choice([
            ", CHECK (tok <> 'never')", f", UNIQUE ({quoted(r.choice(columns))}, tok)", f", UNIQUE ({quoted(r.choice(columns))})", "",
            f", CHECK ({quoted(r.choice(columns))} IS NOT 2)",
        ])
        if not extra and "PRIMARY KEY" in body and "AUTOINCREMENT" not in body:
            parts = [part.strip() for part in options.split(",") if part.strip()]
            parts = [part for part in parts if part != "WITHOUT ROWID"] + ["WITHOUT ROWID"] * ("WITHOUT ROWID" not in parts)
            options = ", ".join(parts)
        body = r.choice([body, body, f"{quoted(f'z {n}')} {'ANY' if 'STRICT' in options else ''} DEFAULT 'z', {body}"])
        new = quoted(f"new {n}")
        others = conn.execute(
            "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY type, name", (table,)).fetchall()
        return [
            f"CREATE TABLE {new}({body}{extra}) {options}",
            f"INSERT OR IGNORE INTO {new}({listed(columns)}) SELECT {listed(columns)} FROM {quoted(table)}",
            f"DROP TABLE {quoted(table)}",
            f"ALTER TABLE {new} RENAME TO {quoted(table)}",
        ] + [row[0] for row in others]

    def done(self, conn, statements):
        """Does all of it, or nothing, and nothing that leaves references in disorder. Says what was done."""
        alone = not conn.in_transaction
        anew = len(statements) > 3 and alone
        if anew:
            conn.execute("PRAGMA foreign_keys = OFF")
            conn.execute("PRAGMA legacy_alter_table = ON")
        conn.execute("SAVEPOINT change")
        try:
            for sql in statements:
                conn.execute(sql)
            if broken := conn.execute("PRAGMA foreign_key_check").fetchall():
                raise sqlite3.IntegrityError(f"references: {broken}")
            self.look(conn)
            said = statements
        except sqlite3.Error as e:
            if "malformed" in str(e) and "malformed database schema" not in str(e):
                raise
            said = [(statements, str(e))]
            conn.execute("ROLLBACK TO change")
        conn.execute("RELEASE change")
        if anew:
            conn.execute("PRAGMA foreign_keys = ON")
            conn.execute("PRAGMA legacy_alter_table = OFF")
        if said is statements:
            self.follow(statements)
        else:
            self.case.log.append(("taken back", said))
        return said

    def look(self, conn):
        """Every view must compile, and so must what a write to a table would need."""
        for kind, name in conn.execute("SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view')").fetchall():
            if kind == "view":
                conn.execute(f"SELECT * FROM {quoted(name)} LIMIT 0")
            elif name in self.tables(conn):
                # None of these does anything, but all are compiled.
                conn.execute(f"DELETE FROM {quoted(name)} WHERE 0")
                conn.execute(f"INSERT INTO {quoted(name)}(tok) SELECT 1 WHERE 0")
                conn.execute(f"UPDATE {quoted(name)} SET {', '.join(quoted(c) + ' = NULL' for c in self.columns(conn, name))} WHERE 0")

    def follow(self, statements):
        for sql in statements:
            name = r'"((?:[^"]|"")+)"'
            if len(statements) == 1 and (found := re.fullmatch(f"ALTER TABLE {name} RENAME TO {name}", sql)):
                old, new = (part.replace('""', '"') for part in found.groups())
                self.case.renamed[new] = old


def plans_of(plans):
    return [(plan["name"], plan) for plan in plans]


def short(sql):
    return sql if len(sql) < 600 else sql[:300] + " ... " + sql[-200:]
