// What the quick starts of the TypeScript client do: a client without a file, then one with a replica.
import { createClient } from "@libsql/client";

const turso = createClient({
    url: process.env.TURSO_DATABASE_URL,
    authToken: process.env.TURSO_AUTH_TOKEN,
});
await turso.execute("CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)");
await turso.execute({ sql: "INSERT INTO users (name) VALUES (?)", args: ["remote"] });
await turso.execute({ sql: "SELECT * FROM users WHERE id = ?", args: [1] });
const transaction = await turso.transaction("write");
await transaction.execute({ sql: "INSERT INTO users (name) VALUES (:name)", args: { name: "transaction" } });
await transaction.commit();

const replica = createClient({
    url: "file:local.db",
    syncUrl: process.env.TURSO_DATABASE_URL,
    authToken: process.env.TURSO_AUTH_TOKEN,
    syncInterval: 60000,
});
await replica.sync();
await replica.batch(
    [
        "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)",
        { sql: "INSERT INTO users(name) VALUES (?)", args: ["replica"] },
    ],
    "write",
);
const { rows } = await replica.execute("SELECT * FROM users");
for (const row of rows) console.log(row.name);
turso.close();
replica.close();
