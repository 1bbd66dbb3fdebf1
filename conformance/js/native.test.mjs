// npm `libsql`, by itself and beneath `@libsql/client`: without a file, and as a replica that writes at
// the server.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { join } from "node:path";
import { createClient } from "@libsql/client";
import Database from "libsql";
import { PATIENCE, Server } from "./server.mjs";

let server;
before(async () => {
    server = await Server.start();
});
after(() => server.end());

test("without a file, across a server that dies", PATIENCE, async () => {
    const db = new Database(server.url("native"));
    db.exec("CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT); INSERT INTO note(body) VALUES ('a')");
    const all = () => db.prepare("SELECT body FROM note ORDER BY id").all().map((row) => row.body);
    assert.deepEqual(all(), ["a"]);
    db.prepare("INSERT INTO note(body) VALUES (?)").run(["b"]);
    assert.deepEqual(all(), ["a", "b"]);
    await server.restart();
    assert.deepEqual(all(), ["a", "b"], "a query leaves a stream open, which is gone");
    assert.throws(() => db.exec("INSERT INTO nowhere VALUES (1)"), /no such table/);
    db.exec("BEGIN; INSERT INTO note(body) VALUES ('c'); COMMIT");
    assert.deepEqual(all(), ["a", "b", "c"]);
    db.close();
});

test("a replica that writes at the server reads it back from its file", PATIENCE, async () => {
    const open = (name) =>
        createClient({ url: `file:${join(server.place, name)}`, syncUrl: server.url("replica") });
    const [one, other] = [open("one.db"), open("other.db")];
    await one.execute("CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT)");
    await one.execute({ sql: "INSERT INTO note(body) VALUES (?)", args: ["a"] });
    const all = async (db) => (await db.execute("SELECT body FROM note ORDER BY id")).rows.map((row) => row.body);
    assert.deepEqual(await all(one), ["a"]);
    await one.batch(["INSERT INTO note(body) VALUES ('b')", "INSERT INTO note(body) VALUES ('c')"], "write");
    assert.deepEqual(await all(one), ["a", "b", "c"]);
    const tx = await one.transaction("write");
    await tx.execute("INSERT INTO note(body) VALUES ('d')");
    assert.equal((await tx.execute("SELECT count(*) AS n FROM note")).rows[0].n, 4);
    await tx.commit();
    const undone = await one.transaction("write");
    await undone.execute("DELETE FROM note");
    await undone.rollback();
    await assert.rejects(one.execute("INSERT INTO note VALUES (1, 'again')"), /UNIQUE constraint failed/);
    const returned = await one.execute("INSERT INTO note(body) VALUES ('e') RETURNING id");
    assert.equal(returned.rows[0].id, 5);
    assert.deepEqual(await all(one), ["a", "b", "c", "d", "e"]);
    await other.sync();
    assert.deepEqual(await all(other), ["a", "b", "c", "d", "e"]);
    await Promise.all([one.execute("DELETE FROM note WHERE id = 1"), other.execute("DELETE FROM note WHERE id = 2")]);
    await one.sync();
    await other.sync();
    assert.deepEqual(await all(one), ["c", "d", "e"]);
    assert.deepEqual(await all(other), ["c", "d", "e"]);
    one.close();
    other.close();
});
