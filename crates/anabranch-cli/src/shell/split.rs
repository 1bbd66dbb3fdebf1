//! Cuts SQL into statements, as it comes in.
//!
//! Bytes are looked at once, whatever portions they come in, by two small machines: one tells words,
//! strings and comments apart, the other knows when a `;` ends a statement: not inside `CREATE
//! TRIGGER`, where only `; END;` does. Both follow what SQLite's `sqlite3_complete` promises.
//!
//! Memory: the statement that is not complete yet, at most [`STATEMENT_BYTES_MAX`].

/// Longer than this is no statement that any SQLite would take.
pub(crate) const STATEMENT_BYTES_MAX: usize = 1_000_000_000;

/// The longest word that means something here.
const WORD_MAX: usize = "TEMPORARY".len();

/// A statement is longer than [`STATEMENT_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// One statement, with the `;` that ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Its text, without white space around it.
    pub(crate) sql: String,
    /// The line of the input on which it begins, from 1.
    pub(crate) line: u64,
}

/// Cuts what it is given into statements.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    text: String,
    /// Where the statement under way begins.
    start: usize,
    /// How far `text` has been looked at.
    seen: usize,
    /// Lines before `start`.
    lines: u64,
    lexer: Lexer,
    phase: Phase,
    /// The statement under way has more than white space and comments.
    meant: bool,
}

/// Where in the text a byte stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Lexer {
    #[default]
    Between,
    Word {
        letters: [u8; WORD_MAX],
        len: usize,
    },
    /// A string or a quoted name, up to this byte.
    Quoted(u8),
    /// After `-`, which may begin a comment.
    Dash,
    LineComment,
    /// After `/`, which may begin a comment.
    Slash,
    BlockComment,
    /// In a block comment, after `*`.
    Star,
}

/// What has been seen of the statement under way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Start,
    Explain,
    Create,
    Ordinary,
    Trigger,
    /// In a trigger, after `;`.
    TriggerSemicolon,
    /// In a trigger, after `; END`.
    TriggerEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Semicolon,
    Explain,
    Create,
    Temp,
    Trigger,
    End,
    Other,
}

impl Splitter {
    /// Takes more text.
    pub(crate) fn push(&mut self, text: &str) -> Result<(), TooLong> {
        self.text.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        if self.text.len() + text.len() > STATEMENT_BYTES_MAX {
            return Err(TooLong);
        }
        self.text.push_str(text);
        Ok(())
    }

    /// The next statement, if it is complete.
    pub(crate) fn next(&mut self) -> Option<Statement> {
        while let Some(&byte) = self.text.as_bytes().get(self.seen) {
            let ended = self.look(byte);
            self.seen += 1;
            if ended && let Some(statement) = self.take() {
                return Some(statement);
            }
        }
        None
    }

    /// What is left where the input ends without `;`.
    pub(crate) fn rest(&mut self) -> Option<Statement> {
        self.end_of_word();
        let rest = self.take();
        *self = Splitter { lines: self.lines, ..Splitter::default() };
        rest
    }

    /// Whether nothing of a statement is there: a line may be a command instead.
    pub(crate) fn is_between(&self) -> bool {
        let open = !matches!(self.lexer, Lexer::Between | Lexer::LineComment);
        !self.meant && !open
    }

    /// Counts a line that was not SQL.
    pub(crate) fn skip_line(&mut self) {
        self.take();
        self.lines += 1;
    }

    /// The line of the input that comes next.
    pub(crate) fn line(&self) -> u64 {
        self.lines + 1
    }

    /// Takes one byte; answers whether it ended a statement.
    fn look(&mut self, byte: u8) -> bool {
        match self.lexer {
            Lexer::Quoted(end) => {
                if byte == end {
                    self.lexer = Lexer::Between;
                }
                return false;
            }
            Lexer::LineComment => {
                if byte == b'\n' {
                    self.lexer = Lexer::Between;
                }
                return false;
            }
            Lexer::BlockComment => {
                if byte == b'*' {
                    self.lexer = Lexer::Star;
                }
                return false;
            }
            Lexer::Star => {
                self.lexer = match byte {
                    b'/' => Lexer::Between,
                    b'*' => Lexer::Star,
                    _ => Lexer::BlockComment,
                };
                return false;
            }
            Lexer::Dash if byte == b'-' => {
                self.lexer = Lexer::LineComment;
                return false;
            }
            Lexer::Slash if byte == b'*' => {
                self.lexer = Lexer::BlockComment;
                return false;
            }
            Lexer::Dash | Lexer::Slash => {
                self.lexer = Lexer::Between;
                self.token(Token::Other);
            }
            Lexer::Word { .. } if is_of_word(byte) => {}
            Lexer::Word { .. } => self.end_of_word(),
            Lexer::Between => {}
        }
        self.look_between(byte)
    }

    fn look_between(&mut self, byte: u8) -> bool {
        match byte {
            b';' => return self.token(Token::Semicolon),
            b'\'' | b'"' | b'`' => {
                self.token(Token::Other);
                self.lexer = Lexer::Quoted(byte);
            }
            b'[' => {
                self.token(Token::Other);
                self.lexer = Lexer::Quoted(b']');
            }
            b'-' => self.lexer = Lexer::Dash,
            b'/' => self.lexer = Lexer::Slash,
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => {}
            _ if is_of_word(byte) => self.letter(byte),
            _ => {
                self.token(Token::Other);
            }
        }
        false
    }

    fn letter(&mut self, byte: u8) {
        let (mut letters, mut len) = match self.lexer {
            Lexer::Word { letters, len } => (letters, len),
            _ => ([0; WORD_MAX], 0),
        };
        if let Some(slot) = letters.get_mut(len) {
            *slot = byte.to_ascii_uppercase();
        }
        // One more than fits says that it is too long to mean something.
        len = (len + 1).min(WORD_MAX + 1);
        self.lexer = Lexer::Word { letters, len };
    }

    fn end_of_word(&mut self) {
        if let Lexer::Word { letters, len } = self.lexer {
            self.lexer = Lexer::Between;
            self.token(match letters.get(..len).unwrap_or_default() {
                b"EXPLAIN" => Token::Explain,
                b"CREATE" => Token::Create,
                b"TEMP" | b"TEMPORARY" => Token::Temp,
                b"TRIGGER" => Token::Trigger,
                b"END" => Token::End,
                _ => Token::Other,
            });
        }
    }

    /// Takes one token; answers whether it ended a statement.
    fn token(&mut self, token: Token) -> bool {
        self.meant |= token != Token::Semicolon;
        self.phase = match (self.phase, token) {
            (Phase::Trigger | Phase::TriggerSemicolon, Token::Semicolon) => Phase::TriggerSemicolon,
            (_, Token::Semicolon) => Phase::Start,
            (Phase::TriggerSemicolon, Token::End) => Phase::TriggerEnd,
            (Phase::Trigger | Phase::TriggerSemicolon | Phase::TriggerEnd, _) => Phase::Trigger,
            (Phase::Start, Token::Explain) => Phase::Explain,
            (Phase::Start | Phase::Explain, Token::Create) => Phase::Create,
            // EXPLAIN QUERY PLAN.
            (Phase::Explain, Token::Other) => Phase::Explain,
            (Phase::Create, Token::Temp) => Phase::Create,
            (Phase::Create, Token::Trigger) => Phase::Trigger,
            _ => Phase::Ordinary,
        };
        self.phase == Phase::Start
    }

    /// What has been seen since the last statement; `None` if it means nothing.
    fn take(&mut self) -> Option<Statement> {
        let whole = self.text.get(self.start..self.seen).unwrap_or_default();
        let lead = whole.len() - whole.trim_start().len();
        let line = self.lines + newlines(&whole[..lead]) + 1;
        let statement = self.meant.then(|| Statement { sql: whole.trim().to_owned(), line });
        self.lines += newlines(whole);
        self.start = self.seen;
        self.meant = false;
        self.phase = Phase::Start;
        statement
    }
}

/// Whether `text` needs nothing more: it is a command, or its last statement ends with `;`.
pub(crate) fn is_complete(text: &str) -> bool {
    if text.trim_start().starts_with('.') {
        return true;
    }
    let mut splitter = Splitter::default();
    if splitter.push(text).is_err() {
        return true;
    }
    while splitter.next().is_some() {}
    splitter.end_of_word();
    splitter.is_between()
}

fn newlines(text: &str) -> u64 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u64
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::fallible_iterator::FallibleIterator as _;
    use rusqlite::{Batch, Connection};

    use super::*;

    fn split(text: &str) -> Vec<String> {
        let mut splitter = Splitter::default();
        splitter.push(text).unwrap();
        let mut all: Vec<String> = std::iter::from_fn(|| splitter.next()).map(|s| s.sql).collect();
        all.extend(splitter.rest().map(|s| s.sql));
        all
    }

    #[test]
    fn semicolons_in_strings_names_and_comments_end_nothing() {
        let text = "SELECT ';', \";\", `;`, [;] -- ;\n/* ; * / ; */ ; SELECT 'it''s;' ;; ; -- x\n;";
        assert_eq!(
            split(text),
            ["SELECT ';', \";\", `;`, [;] -- ;\n/* ; * / ; */ ;", "SELECT 'it''s;' ;"]
        );
        assert_eq!(split("SELECT 1; SELECT 2"), ["SELECT 1;", "SELECT 2"]);
        assert_eq!(split("SELECT 4-2/1;"), ["SELECT 4-2/1;"]);
        assert_eq!(split(" -- nothing\n/* at all"), Vec::<String>::new());
    }

    #[test]
    fn a_trigger_ends_with_its_own_end() {
        let trigger = "CREATE TEMPORARY TRIGGER a AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 \
                       END; INSERT INTO t VALUES(1); /* x */ end ;";
        assert_eq!(split(&format!("{trigger}SELECT 1;")), [trigger, "SELECT 1;"]);
        let explained =
            "EXPLAIN QUERY PLAN CREATE TRIGGER b AFTER INSERT ON t BEGIN SELECT 1; END;";
        assert_eq!(split(explained), [explained]);
        // A table of that name is no trigger.
        assert_eq!(split("CREATE TABLE trigger_(a); SELECT 1;").len(), 2);
        assert_eq!(split("CREATE TABLE TEMPORARYX(a); SELECT 1;").len(), 2);
        assert_eq!(split("BEGIN; SELECT 1; END;").len(), 3);
    }

    #[test]
    fn lines_are_told_of_where_statements_begin() {
        let mut splitter = Splitter::default();
        splitter.push("\n\nSELECT\n1;\n").unwrap();
        assert_eq!(splitter.next().unwrap().line, 3);
        assert!(splitter.next().is_none() && splitter.is_between());
        splitter.skip_line();
        splitter.push("-- a comment\nSELECT").unwrap();
        assert!(splitter.next().is_none());
        assert!(!splitter.is_between() || splitter.lexer != Lexer::Between);
        splitter.push(" 2;").unwrap();
        assert_eq!(splitter.next().unwrap().line, 6);
    }

    #[test]
    fn input_is_complete_with_its_semicolon() {
        for complete in ["", ".tables", "SELECT 1;", "-- x", "SELECT ';'; ", "/* x */"] {
            assert!(is_complete(complete), "{complete}");
        }
        for open in ["SELECT", "SELECT ';", "SELECT 1; x", "/* x", "CREATE TRIGGER a; "] {
            assert!(!is_complete(open), "{open}");
        }
    }

    /// Statements that SQLite can prepare, in any order, with any gaps.
    fn script() -> impl Strategy<Value = String> {
        let statements = prop::sample::select(vec![
            "SELECT 1",
            "SELECT 'a;''b', \"x;y\" FROM (SELECT 1 AS \"x;y\")",
            "SELECT [a;b], `a;b` FROM (SELECT 1 AS [a;b])",
            "SELECT 1 -- ; no\n + 2",
            "SELECT /* ; */ 3 - -4 / 5",
            "BEGIN",
            "END",
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN ';' END; DELETE \
             FROM t; END",
            "CREATE TEMP TRIGGER IF NOT EXISTS y AFTER DELETE ON t BEGIN INSERT INTO t VALUES(1); \
             SELECT 2; END",
            "EXPLAIN CREATE TRIGGER z AFTER INSERT ON t BEGIN SELECT 1; END",
            "CREATE TABLE \"trigger\"(a)",
            "SELECT 'ä;ö'",
            "EXPLAIN QUERY PLAN SELECT 'end;'",
        ]);
        let gaps =
            prop::sample::select(vec![";", " ; ", ";;", ";\n-- c;\n", "; /* ; */ ", "\n;\n"]);
        prop::collection::vec((statements, gaps), 0..8)
            .prop_map(|all| all.into_iter().map(|(s, g)| format!("{s}{g}")).collect())
    }

    proptest! {
        #[test]
        fn statements_are_those_that_sqlite_cuts(script in script(), cut in 0usize..400) {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch("CREATE TABLE t(a)").unwrap();
            let mut batch = Batch::new(&conn, &script);
            let mut theirs = Vec::new();
            while let Some(statement) = batch.next().unwrap() {
                theirs.push(statement.expanded_sql().unwrap().trim().to_owned());
            }
            let bare = |sql: &str| sql.trim_start_matches([';', ' ', '\n']).to_owned();
            let mut splitter = Splitter::default();
            let cut = (0..=cut.min(script.len())).rev().find(|at| script.is_char_boundary(*at));
            let (first, second) = script.split_at(cut.unwrap());
            let mut ours = Vec::new();
            for part in [first, second] {
                splitter.push(part).unwrap();
                ours.extend(std::iter::from_fn(|| splitter.next()).map(|s| s.sql));
            }
            prop_assert!(splitter.rest().is_none());
            // A comment before a statement belongs to it here, and there too.
            let theirs: Vec<String> = theirs.iter().map(|sql| bare(sql)).collect();
            let ours: Vec<String> = ours.iter().map(|sql| bare(sql)).collect();
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn any_text_is_cut_without_loss(text in "\\PC{0,80}") {
            let mut splitter = Splitter::default();
            splitter.push(&text).unwrap();
            let mut length = 0;
            while let Some(statement) = splitter.next() {
                prop_assert!(text.contains(&statement.sql));
                length += statement.sql.len();
            }
            prop_assert!(length <= text.len());
        }
    }
}
