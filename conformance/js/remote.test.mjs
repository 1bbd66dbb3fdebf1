// `@libsql/client` without a file, over HTTP and over one WebSocket.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createClient } from "@libsql/client";
import { PATIENCE, Server } from "./server.mjs";

let server;
before(async () => {
    server = await Server.start();
});
after(() => server.end());

let databases = 0;

// A test on a database of its own, over each transport.
function each(name, body) {
    for (const scheme of ["http", "ws"]) {
        test(`${scheme}: ${name}`, PATIENCE, async () => {
            const url = server.url(`js-${++databases}`, scheme);
            const db = createClient({ url });
            try {
                await body(db, url);
            } finally {
                db.close();
            }
        });
    }
}

const lines = ({ rows }) => rows.map((row) => Object.values(row).join("|"));

async function withNotes(db) {
    await db.execute("CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT UNIQUE)");
}

const ALL = "SELECT id, body FROM note ORDER BY id";

each("values come back as they went", async (db) => {
    await db.execute("CREATE TABLE v(n, i INTEGER, r REAL, t TEXT, b BLOB)");
    const bytes = Uint8Array.from({ length: 256 }, (_, at) => at);
    const text = "Ærø \u{1f980} \"quoted\" \\ \n";
    const inserted = await db.execute({
        sql: "INSERT INTO v VALUES (?, ?, ?, ?, ?)",
        args: [null, 7, 1.5, text, bytes],
    });
    assert.equal(inserted.rowsAffected, 1);
    assert.equal(inserted.lastInsertRowid, 1n);
    await db.execute("INSERT INTO v(i, t) VALUES (?, ?)", [true, new Date(1_700_000_000_000)]);
    const { rows, columns, columnTypes } = await db.execute("SELECT *, typeof(i) AS kind FROM v");
    assert.deepEqual(columns, ["n", "i", "r", "t", "b", "kind"]);
    assert.deepEqual(columnTypes.slice(1, 5), ["INTEGER", "REAL", "TEXT", "BLOB"]);
    assert.equal(rows[0].n, null);
    assert.equal(rows[0].i, 7);
    assert.equal(rows[0].r, 1.5);
    assert.equal(rows[0].t, text);
    assert.deepEqual(new Uint8Array(rows[0].b), bytes);
    assert.equal(rows[0].kind, "integer");
    assert.equal(rows[1].i, 1);
});

each("integers beyond 2^53 are whole", async (db, url) => {
    await db.execute("CREATE TABLE v(i INTEGER)");
    const edges = [9223372036854775807n, -9223372036854775808n, 9007199254740993n];
    for (const edge of edges) await db.execute("INSERT INTO v VALUES (?)", [edge]);
    const exact = createClient({ url, intMode: "bigint" });
    const { rows } = await exact.execute("SELECT i FROM v ORDER BY rowid");
    exact.close();
    assert.deepEqual(rows.map((row) => row.i), edges);
});

each("arguments are bound by place and by name", async (db) => {
    await withNotes(db);
    await db.execute({ sql: "INSERT INTO note VALUES (:id, :body)", args: { id: 1, body: "bare" } });
    await db.execute({ sql: "INSERT INTO note VALUES (@id, $body)", args: { "@id": 2, $body: "with" } });
    await db.execute({ sql: "INSERT INTO note VALUES (?2, ?1)", args: ["third", 3] });
    assert.deepEqual(lines(await db.execute(ALL)), ["1|bare", "2|with", "3|third"]);
    const limited = await db.execute({ sql: `${ALL} LIMIT ? OFFSET ?`, args: [1, 1] });
    assert.deepEqual(lines(limited), ["2|with"]);
    await assert.rejects(db.execute({ sql: "SELECT ?", args: [1, 2] }), { code: "ARGS_INVALID" });
});

each("failures have their code and SQLite's words", async (db) => {
    await withNotes(db);
    await db.execute("INSERT INTO note VALUES (1, 'a')");
    await assert.rejects(db.execute("INSERT INTO note VALUES (1, 'b')"), {
        code: "SQLITE_CONSTRAINT",
        message: /UNIQUE constraint failed: note\.id/,
    });
    await assert.rejects(db.execute("SELECT * FROM nowhere"), /no such table: nowhere/);
    await assert.rejects(db.execute("SELEC 1"), /syntax error/);
    await assert.rejects(db.execute("SELECT 1; SELECT 2"), { code: "SQL_MANY_STATEMENTS" });
    assert.deepEqual(lines(await db.execute(ALL)), ["1|a"]);
});

each("a batch is done whole, in each mode", async (db) => {
    await db.batch(["CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT UNIQUE)"]);
    const insert = (body) => ({ sql: "INSERT INTO note(body) VALUES (?)", args: [body] });
    const [first, second] = await db.batch([insert("a"), insert("b")], "write");
    assert.equal(first.rowsAffected, 1);
    assert.equal(second.lastInsertRowid, 2n);
    await db.batch([insert("c"), ["UPDATE note SET body = ? WHERE id = ?", ["C", 3]]], "deferred");
    const read = await db.batch([ALL, "SELECT count(*) AS n FROM note"], "read");
    assert.deepEqual(lines(read[0]), ["1|a", "2|b", "3|C"]);
    assert.equal(read[1].rows[0].n, 3);
});

each("a batch that fails changes nothing", async (db) => {
    await withNotes(db);
    await db.execute("INSERT INTO note VALUES (1, 'a')");
    for (const mode of ["write", "deferred"]) {
        const steps = ["INSERT INTO note VALUES (2, 'b')", "INSERT INTO note VALUES (3, 'a')"];
        await assert.rejects(db.batch(steps, mode), { code: "SQLITE_CONSTRAINT" });
    }
    assert.deepEqual(lines(await db.execute(ALL)), ["1|a"]);
    await db.execute("INSERT INTO note VALUES (2, 'b')");
});

each("a transaction commits", async (db) => {
    await withNotes(db);
    for (const [at, mode] of ["write", "deferred"].entries()) {
        const tx = await db.transaction(mode);
        await tx.execute({ sql: "INSERT INTO note(body) VALUES (?)", args: [`first ${mode}`] });
        const inside = await tx.execute("SELECT count(*) AS n FROM note");
        assert.equal(inside.rows[0].n, 2 * at + 1);
        const outside = await db.execute("SELECT count(*) AS n FROM note");
        assert.equal(outside.rows[0].n, 2 * at, "nobody else sees it yet");
        await tx.batch([{ sql: "INSERT INTO note(body) VALUES (?)", args: [`second ${mode}`] }]);
        await tx.commit();
        assert.ok(tx.closed);
    }
    assert.equal((await db.execute(ALL)).rows.length, 4);
    const tx = await db.transaction("read");
    assert.equal((await tx.execute(ALL)).rows.length, 4);
    tx.close();
});

each("a transaction rolls back, and when it is closed", async (db) => {
    await withNotes(db);
    const undone = await db.transaction("write");
    await undone.execute("INSERT INTO note VALUES (1, 'undone')");
    await undone.rollback();
    const closed = await db.transaction("write");
    await closed.execute("INSERT INTO note VALUES (1, 'closed')");
    closed.close();
    const empty = await db.transaction("write");
    await empty.commit();
    // Waits for its turn until the other one is undone.
    await db.execute("INSERT INTO note VALUES (1, 'a')");
    assert.deepEqual(lines(await db.execute(ALL)), ["1|a"]);
});

each("a statement that fails leaves its transaction open", async (db) => {
    await withNotes(db);
    for (const body of ["a", "b"]) {
        const tx = await db.transaction("write");
        await assert.rejects(tx.execute("INSERT INTO nowhere VALUES (1)"), /no such table/);
        await tx.execute({ sql: "INSERT INTO note(body) VALUES (?)", args: [body] });
        await assert.rejects(tx.execute("INSERT INTO note VALUES (1, 'again')"), {
            code: "SQLITE_CONSTRAINT",
        });
        await tx.commit();
    }
    assert.deepEqual(lines(await db.execute(ALL)), ["1|a", "2|b"]);
});

each("scripts and migrations run", async (db) => {
    await db.executeMultiple(`
        CREATE TABLE parent(id INTEGER PRIMARY KEY);
        CREATE TABLE child(parent REFERENCES parent);
        INSERT INTO parent VALUES (1); -- a remark; with a semicolon
        INSERT INTO child VALUES (1);
    `);
    await db.migrate([
        "CREATE TABLE parent2(id INTEGER PRIMARY KEY, name TEXT)",
        "INSERT INTO parent2(id) SELECT id FROM parent",
        "DROP TABLE parent",
        "ALTER TABLE parent2 RENAME TO parent",
    ]);
    assert.deepEqual(lines(await db.execute("SELECT id FROM parent")), ["1"]);
    await assert.rejects(db.migrate(["DELETE FROM child", "DROP TABLE nowhere"]), /no such table/);
    assert.deepEqual(lines(await db.execute("SELECT parent FROM child")), ["1"]);
    const broken = "INSERT INTO child VALUES (1); INSERT INTO nowhere VALUES (1); DELETE FROM child;";
    await assert.rejects(db.executeMultiple(broken), /no such table/);
    assert.equal((await db.execute("SELECT * FROM child")).rows.length, 2, "up to there");
});

each("rows are returned, and upserted", async (db) => {
    await withNotes(db);
    const inserted = await db.execute("INSERT INTO note(body) VALUES ('a'), ('b') RETURNING id, body");
    assert.deepEqual(lines(inserted), ["1|a", "2|b"]);
    const upsert = "INSERT INTO note VALUES (2, 'c') ON CONFLICT DO UPDATE SET body = excluded.body RETURNING *";
    assert.deepEqual(lines(await db.execute(upsert)), ["2|c"]);
    const deleted = await db.execute("DELETE FROM note WHERE id = 1");
    assert.equal(deleted.rowsAffected, 1);
});

each("many write at once, and none is told that it is busy", async (db) => {
    await db.batch(["CREATE TABLE n(n)", "INSERT INTO n VALUES (0)"]);
    const add = () => db.execute("UPDATE n SET n = n + 1");
    const addInside = async () => {
        const tx = await db.transaction("write");
        const { rows } = await tx.execute("SELECT n FROM n");
        await tx.execute({ sql: "UPDATE n SET n = ?", args: [rows[0].n + 1] });
        await tx.commit();
    };
    await Promise.all(Array.from({ length: 30 }, (_, at) => (at % 3 ? add() : addInside())));
    assert.deepEqual(lines(await db.execute("SELECT n FROM n")), ["30"]);
});

each("more texts than are stored, and long ones", async (db) => {
    await withNotes(db);
    for (let at = 0; at < 120; at++) {
        const { rows } = await db.execute(`SELECT ${at} AS n`);
        assert.equal(rows[0].n, at);
    }
    const long = "日".repeat(4900);
    assert.equal((await db.execute(`SELECT '${long}' AS t`)).rows[0].t, long);
    const longer = "x".repeat(200_000);
    await db.execute(`INSERT INTO note(body) VALUES ('${longer}')`);
    assert.equal((await db.execute("SELECT length(body) AS n FROM note")).rows[0].n, 200_000);
    const steps = Array.from({ length: 200 }, (_, at) => `INSERT INTO note(body) VALUES ('${at}')`);
    await db.batch(steps, "write");
    assert.equal((await db.execute(ALL)).rows.length, 201);
});

each("a large answer arrives whole", async (db) => {
    const { rows } = await db.execute(`WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n
        WHERE i < 20000) SELECT i, hex(zeroblob(50)) AS filler FROM n`);
    assert.equal(rows.length, 20_000);
    assert.equal(rows.at(-1).i, 20_000);
});

each("what is refused does not end the connection", async (db) => {
    await withNotes(db);
    for (const sql of ["ATTACH '/tmp/x.db' AS x", "PRAGMA writable_schema = 1", "SELECT load_extension('x')"]) {
        await assert.rejects(db.execute(sql), (error) => typeof error.code === "string");
    }
    assert.deepEqual(lines(await db.execute("PRAGMA integrity_check")), ["ok"]);
});

test("a URL without a slash at its end loses its last segment, as is documented", PATIENCE, async () => {
    const lost = createClient({ url: server.url("js-lost").replace(/\/$/, "") });
    await lost.execute("CREATE TABLE IF NOT EXISTS of_the_default_database(x)");
    const without = createClient({ url: server.url("").replace(/\/+$/, "") });
    const found = await without.execute("SELECT name FROM sqlite_schema");
    assert.deepEqual(lines(found), ["of_the_default_database"]);
    lost.close();
    without.close();
});

for (const scheme of ["http", "ws"]) {
    test(`${scheme}: a client outlives the server`, PATIENCE, async () => {
        const own = await Server.start();
        const db = createClient({ url: own.url("js", scheme) });
        await withNotes(db);
        await db.execute("INSERT INTO note(body) VALUES ('a')");
        const tx = await db.transaction("write");
        await tx.execute("INSERT INTO note(body) VALUES ('lost')");
        await own.restart();
        await assert.rejects(async () => {
            await tx.execute("INSERT INTO note(body) VALUES ('lost as well')");
            await tx.commit();
        });
        tx.close();
        await db.execute("INSERT INTO note(body) VALUES ('b')");
        assert.deepEqual(lines(await db.execute(ALL)), ["1|a", "2|b"]);
        db.close();
        await own.end();
    });
}
