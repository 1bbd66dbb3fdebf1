# What the quick start of the Python client does: a replica that writes at the server, and no file at all.
import os

import libsql

url = os.getenv("TURSO_DATABASE_URL")
auth_token = os.getenv("TURSO_AUTH_TOKEN")

remote = libsql.connect(url, auth_token=auth_token)
remote.execute("CREATE TABLE IF NOT EXISTS users (id INTEGER, name TEXT);")
remote.execute("INSERT INTO users(id, name) VALUES (10, 'remote');")
remote.commit()

conn = libsql.connect("hello.db", sync_url=url, auth_token=auth_token)
conn.sync()
conn.execute("INSERT INTO users(id, name) VALUES (?, ?);", (20, "replica"))
conn.commit()
conn.sync()
cur = conn.cursor()
for _, name in cur.execute("select * from users").fetchall():
    print(name)
