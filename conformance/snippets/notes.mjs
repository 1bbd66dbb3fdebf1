// Notes in a local file, in step with `anabranch serve`: npm install @libsql/client
import { createClient } from "@libsql/client";

const syncUrl = process.argv[2]; // http://127.0.0.1:8080/notes
const db = createClient({ url: "file:notes-javascript.db", syncUrl, offline: true });
await db.sync(); // Fetches what is new there,
await db.execute("CREATE TABLE IF NOT EXISTS note(body TEXT)");
await db.execute("INSERT INTO note VALUES ('from JavaScript')");
await db.sync(); // or sends what is new here.
const { rows } = await db.execute("SELECT body FROM note");
for (const row of rows) console.log(row.body);
db.close();
