// The library beneath `@libsql/client`, asked for the protocol's third version: cursors, and the state of
// a transaction.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import * as hrana from "@libsql/hrana-client";
import { PATIENCE, Server } from "./server.mjs";

let server;
before(async () => {
    server = await Server.start();
});
after(() => server.end());

test("http: a server without Protobuf is spoken to in the second version", PATIENCE, async () => {
    const client = hrana.openHttp(server.url("two"), undefined, undefined, undefined, 3);
    assert.equal(await client.getVersion(), 2);
    const stream = client.openStream();
    await stream.sequence("CREATE TABLE u(x); INSERT INTO u VALUES (1)");
    const batch = stream.batch(false);
    const fails = batch.step();
    const failed = assert.rejects(fails.run("SELECT * FROM nowhere"), /no such table/);
    const ran = batch.step().condition(hrana.BatchCond.error(fails)).query("SELECT 1 AS one, NULL AS two");
    const skipped = batch.step().condition(hrana.BatchCond.ok(fails)).run("DELETE FROM u");
    await batch.execute();
    await failed;
    assert.deepEqual((await ran).columnNames, ["one", "two"]);
    assert.equal(await skipped, undefined);
    const stored = stream.storeSql("SELECT x FROM u");
    assert.equal((await stream.queryValue(stored)).value, 1);
    stored.close();
    await describes(stream);
    stream.close();
    client.close();
});

async function describes(stream) {
    const described = await stream.describe("SELECT 1 AS one WHERE ?1 = :x");
    assert.deepEqual(described.paramNames, ["?1", ":x"]);
    assert.deepEqual(described.columns.map((column) => column.name), ["one"]);
    assert.ok(described.isReadonly);
}

test("ws: a batch through a cursor, by its conditions", PATIENCE, async () => {
    const client = hrana.openWs(server.url("three", "ws"), undefined, 3);
    assert.equal(await client.getVersion(), 3);
    const stream = client.openStream();
    await stream.run("CREATE TABLE t(x)");
    const batch = stream.batch(true);
    const fails = batch.step();
    const failed = assert.rejects(fails.run("SELECT * FROM nowhere"), /no such table/);
    const ran = batch.step().condition(hrana.BatchCond.error(fails)).query("SELECT 1 AS one, NULL AS two");
    const skipped = batch.step().condition(hrana.BatchCond.ok(fails)).run("DELETE FROM t");
    const began = batch.step().run("BEGIN");
    const open = hrana.BatchCond.not(hrana.BatchCond.isAutocommit(batch));
    const inside = batch.step().condition(open).run("INSERT INTO t VALUES ('x')");
    await batch.execute();
    await failed;
    await began;
    assert.deepEqual((await ran).columnNames, ["one", "two"]);
    assert.equal((await ran).rows[0].one, 1);
    assert.equal(await skipped, undefined);
    assert.equal((await inside).affectedRowCount, 1);
    assert.equal(await stream.getAutocommit(), false);
    await stream.run("ROLLBACK");
    assert.equal(await stream.getAutocommit(), true);
    stream.close();
    client.close();
});

test("ws: a long cursor, stored texts, several streams", PATIENCE, async () => {
    const client = hrana.openWs(server.url("long", "ws"), undefined, 3);
    await client.getVersion();
    const [stream, other] = [client.openStream(), client.openStream()];
    const batch = stream.batch(true);
    const rows = batch.step().query(`WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n
        WHERE i < 12345) SELECT i FROM n`);
    const [, seven] = await Promise.all([batch.execute(), other.queryValue("SELECT 7")]);
    assert.equal((await rows).rows.length, 12_345);
    assert.equal(seven.value, 7);
    const stored = client.storeSql("SELECT 8");
    assert.equal((await stream.queryValue(stored)).value, 8);
    assert.equal((await other.queryValue(stored)).value, 8, "texts belong to the connection");
    stored.close();
    await stream.sequence("CREATE TABLE u(x); INSERT INTO u VALUES (1)");
    assert.equal((await other.queryValue("SELECT x FROM u")).value, 1);
    await describes(stream);
    stream.close();
    other.close();
    client.close();
});
