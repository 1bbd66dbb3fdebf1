//! The demo's database: a script as an application might run it at its first start.

use std::fmt::Write as _;

/// How many notes there are at first.
pub(super) const NOTES: u32 = 2000;

const SCHEMA: &str = "\
CREATE TABLE notebook(id INTEGER PRIMARY KEY, title TEXT NOT NULL UNIQUE);
CREATE TABLE note(id INTEGER PRIMARY KEY, notebook INTEGER NOT NULL REFERENCES notebook(id),
                  title TEXT NOT NULL, body TEXT NOT NULL, changed TEXT NOT NULL);
CREATE INDEX note_by_notebook ON note(notebook, changed);
CREATE TABLE tag(note INTEGER NOT NULL REFERENCES note(id), word TEXT NOT NULL,
                 PRIMARY KEY (note, word)) WITHOUT ROWID;
CREATE VIRTUAL TABLE note_text USING fts5(title, body, content='note', content_rowid='id');
CREATE TRIGGER note_inserted AFTER INSERT ON note BEGIN
  INSERT INTO note_text(rowid, title, body) VALUES (new.id, new.title, new.body);
END;
CREATE TRIGGER note_deleted AFTER DELETE ON note BEGIN
  INSERT INTO note_text(note_text, rowid, title, body)
    VALUES ('delete', old.id, old.title, old.body);
END;
CREATE TRIGGER note_updated AFTER UPDATE ON note BEGIN
  INSERT INTO note_text(note_text, rowid, title, body)
    VALUES ('delete', old.id, old.title, old.body);
  INSERT INTO note_text(rowid, title, body) VALUES (new.id, new.title, new.body);
END;
INSERT INTO notebook(id, title) VALUES (1, 'Home'), (2, 'Work'), (3, 'Garden');
";

const WORDS: [&str; 32] = [
    "river", "branch", "stone", "water", "meadow", "letter", "train", "garden", "window", "winter",
    "paper", "market", "bridge", "morning", "table", "bread", "forest", "harbour", "lamp", "music",
    "orchard", "pencil", "quarry", "road", "salt", "timber", "valley", "weather", "yard", "coffee",
    "engine", "field",
];

/// The same words on every run: a small linear congruential generator.
struct Words(u64);

impl Words {
    fn number(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The high half, and as much of it as fits.
        usize::try_from(self.0 >> 33).unwrap_or(0) % below
    }

    fn some(&mut self, count: usize) -> String {
        let words: Vec<&str> = (0..count).map(|_| WORDS[self.number(WORDS.len())]).collect();
        words.join(" ")
    }
}

/// The script that makes the database.
pub(super) fn script() -> String {
    let mut words = Words(20_261_123);
    let mut sql = String::from("BEGIN;\n");
    sql += SCHEMA;
    for id in 1..=NOTES {
        let (title, length) = (words.some(3), 20 + words.number(60));
        let (body, notebook, day) = (words.some(length), 1 + id % 3, 1 + id % 28);
        // Writing to a string cannot fail.
        let _ = writeln!(
            sql,
            "INSERT INTO note VALUES ({id}, {notebook}, '{title}', '{body}', '2026-10-{day:02}');"
        );
        if id % 4 == 0 {
            let _ = writeln!(sql, "INSERT INTO tag VALUES ({id}, '{}');", words.some(1));
        }
    }
    sql += "COMMIT;\n";
    sql
}
