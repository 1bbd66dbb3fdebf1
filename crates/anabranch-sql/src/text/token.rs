//! Tokens of SQL, as far as the ends of statements and their first words need them.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name without quotes.
    Word,
    /// `;`
    Semicolon,
    /// `(`
    Open,
    /// `)`
    Close,
    /// A quoted string or name, a number, an operator: anything else.
    Other,
}

/// One token, with its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) text: &'a str,
}

impl Token<'_> {
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }
}

/// Walks over the tokens of a text; blanks and comments are none.
#[derive(Debug, Clone)]
pub(super) struct Tokens<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(sql: &'a str) -> Self {
        Self { sql, at: 0 }
    }

    /// Passes over the empty statements at the beginning.
    pub(super) fn skip_semicolons(mut self) -> Self {
        loop {
            let before = self.at;
            match self.next() {
                Some(token) if token.kind == Kind::Semicolon => {}
                _ => {
                    self.at = before;
                    return self;
                }
            }
        }
    }

    /// How far the text was read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn rest(&self) -> &'a [u8] {
        &self.sql.as_bytes()[self.at..]
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let skip = match rest {
                [b' ' | b'\t' | b'\n' | 0x0c | b'\r', ..] => 1,
                // A byte order mark counts as a blank in SQLite.
                [0xef, 0xbb, 0xbf, ..] => 3,
                [b'-', b'-', ..] => {
                    rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1)
                }
                [b'/', b'*', tail @ ..] => {
                    tail.windows(2).position(|w| w == b"*/").map_or(rest.len(), |at| at + 4)
                }
                _ => return,
            };
            self.at += skip;
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let rest = self.rest();
        let first = *rest.first()?;
        let (kind, len) = match first {
            b';' => (Kind::Semicolon, 1),
            b'(' => (Kind::Open, 1),
            b')' => (Kind::Close, 1),
            b'\'' | b'"' | b'`' => (Kind::Other, quoted(rest, first)),
            b'[' => {
                (Kind::Other, rest.iter().position(|b| *b == b']').map_or(rest.len(), |at| at + 1))
            }
            b if is_name(b) => {
                let len = rest.iter().position(|b| !is_name(*b)).unwrap_or(rest.len());
                (if b.is_ascii_digit() { Kind::Other } else { Kind::Word }, len)
            }
            _ => (Kind::Other, 1),
        };
        let start = self.at;
        self.at += len;
        // All cuts are at ASCII bytes or before and after whole names, which take all others.
        Some(Token { kind, start, text: self.sql.get(start..self.at).unwrap_or_default() })
    }
}

/// Whether a byte may be part of a name or number: as in SQLite, all that is not ASCII may.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Length of what is quoted at the beginning of `rest`; the quote itself is doubled inside.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(found) = rest[at..].iter().position(|b| *b == quote) {
        at += found + 1;
        if rest.get(at) != Some(&quote) {
            return at;
        }
        at += 1;
    }
    rest.len()
}

/// Whether a text has no statement: only blanks, comments and semicolons.
#[must_use]
pub fn is_blank(sql: &str) -> bool {
    Tokens::new(sql).skip_semicolons().next().is_none()
}
