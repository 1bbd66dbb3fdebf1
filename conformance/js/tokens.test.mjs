// `@libsql/client` at a server that asks for tokens.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createClient } from "@libsql/client";
import { PATIENCE, Server } from "./server.mjs";

let server;
before(async () => {
    server = await Server.start({ tokens: ["writer", "read reader"] });
});
after(() => server.end());

const client = (scheme, authToken) => createClient({ url: server.url("tokens", scheme), authToken });

test("a token that may write writes, one that may read reads", PATIENCE, async () => {
    for (const scheme of ["http", "ws"]) {
        const writer = client(scheme, "writer");
        await writer.execute("CREATE TABLE IF NOT EXISTS note(body)");
        await writer.execute("INSERT INTO note VALUES ('a')");
        const reader = client(scheme, "reader");
        const before = (await reader.execute("SELECT * FROM note")).rows.length;
        for (const sql of ["INSERT INTO note VALUES ('b')", "DROP TABLE note", "CREATE TABLE x(x)"]) {
            await assert.rejects(reader.execute(sql), (error) => error.code !== "SERVER_ERROR", sql);
        }
        await assert.rejects(reader.batch(["DELETE FROM note"], "write"));
        const tx = await reader.transaction("write");
        assert.equal((await tx.execute("SELECT * FROM note")).rows.length, before);
        await assert.rejects(tx.execute("DELETE FROM note"));
        assert.equal((await tx.execute("SELECT * FROM note")).rows.length, before, "the stream lives on");
        await tx.rollback();
        assert.equal((await reader.execute("SELECT * FROM note")).rows.length, before);
        writer.close();
        reader.close();
    }
});

test("http: a wrong token, or none, is refused in words", PATIENCE, async () => {
    for (const token of ["somebody", undefined]) {
        const db = client("http", token);
        await assert.rejects(db.execute("SELECT 1"), /401|AUTH_/);
        db.close();
    }
});

test("ws: a wrong token, or none, is refused with a code", PATIENCE, async () => {
    for (const token of ["somebody", undefined]) {
        const db = client("ws", token);
        await assert.rejects(db.execute("SELECT 1"), (error) => {
            assert.match(`${error.code} ${error.message}`, /AUTH_/);
            return true;
        });
        db.close();
    }
});
