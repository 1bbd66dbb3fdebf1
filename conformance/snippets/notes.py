# Notes in a local file, in step with `anabranch serve`: pip install libsql
import sys

import libsql

url = sys.argv[1]  # http://127.0.0.1:8080/notes
db = libsql.connect("notes-python.db", sync_url=url, auth_token="", offline=True)
db.sync()  # Fetches what is new there,
db.execute("CREATE TABLE IF NOT EXISTS note(body TEXT)")
db.execute("INSERT INTO note VALUES ('from Python')")
db.commit()
db.sync()  # or sends what is new here.
for (body,) in db.execute("SELECT body FROM note").fetchall():
    print(body)
