//! Words of SQL: as much of its grammar as telling names apart from everything else needs.
//!
//! Nothing here decides what a statement means; SQLite does. Texts come out of `sqlite_schema` and
//! may be anything.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword, or a name without quotes.
    Word,
    /// A name in `"`, `` ` `` or `[]`.
    Quoted,
    /// Text in `'`; SQLite takes it for a name where only a name can stand.
    Text,
    /// A number or a blob.
    Literal,
    /// A character that is none of these.
    Sign(u8),
}

/// A token and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    /// As it is written, with its quotes.
    pub(crate) text: &'a str,
    /// Byte offset in the statement.
    pub(crate) at: usize,
}

impl Token<'_> {
    /// Whether it is this keyword.
    pub(crate) fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    /// Whether it is this character.
    pub(crate) fn sign(&self, sign: u8) -> bool {
        self.kind == Kind::Sign(sign)
    }

    /// The name that it stands for, if it can be a name.
    pub(crate) fn name(&self) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text.to_owned()),
            Kind::Quoted | Kind::Text => Some(unquoted(self.text)),
            Kind::Literal | Kind::Sign(_) => None,
        }
    }
}

/// Takes off quotes, if there are any.
pub(crate) fn unquoted(text: &str) -> String {
    let mut chars = text.chars();
    let (Some(first), Some(last)) = (chars.next(), chars.next_back()) else {
        return text.to_owned();
    };
    match (first, last) {
        ('[', ']') => chars.as_str().to_owned(),
        ('"' | '\'' | '`', _) if first == last => {
            let doubled: String = [first, first].iter().collect();
            chars.as_str().replace(&doubled, first.encode_utf8(&mut [0; 4]))
        }
        _ => text.to_owned(),
    }
}

/// A name in quotes, so that it can be nothing else.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether two names are the same to SQLite, which tells apart no cases of ASCII letters.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// The tokens of a statement; white space and comments are none.
pub(crate) fn tokens(sql: &str) -> Vec<Token<'_>> {
    let bytes = sql.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (end, kind) = token_at(bytes, at);
        if let Some(kind) = kind {
            found.push(Token { kind, text: &sql[at..end], at });
        }
        at = end;
    }
    found
}

/// Where the token that begins at `at` ends (always beyond `at`, at a character's boundary), and
/// what it is; `None`: white space or a comment.
fn token_at(bytes: &[u8], at: usize) -> (usize, Option<Kind>) {
    let next = bytes.get(at + 1).copied();
    match bytes[at] {
        b' ' | b'\t' | b'\n' | b'\r' | 0x0c => (at + 1, None),
        b'-' if next == Some(b'-') => {
            (find(bytes, at + 2, |b| b == b'\n').map_or(bytes.len(), |end| end + 1), None)
        }
        b'/' if next == Some(b'*') => (end_of_comment(bytes, at + 2), None),
        quote @ (b'"' | b'`') => (end_of_quotes(bytes, at, quote), Some(Kind::Quoted)),
        b'\'' => (end_of_quotes(bytes, at, b'\''), Some(Kind::Text)),
        b'[' => {
            let end = find(bytes, at + 1, |b| b == b']').map_or(bytes.len(), |end| end + 1);
            (end, Some(Kind::Quoted))
        }
        b'x' | b'X' if next == Some(b'\'') => {
            (end_of_quotes(bytes, at + 1, b'\''), Some(Kind::Literal))
        }
        b'0'..=b'9' => (end_of_number(bytes, at), Some(Kind::Literal)),
        b'.' if next.is_some_and(|b| b.is_ascii_digit()) => {
            (end_of_number(bytes, at), Some(Kind::Literal))
        }
        b if in_word(b) => {
            (find(bytes, at, |b| !in_word(b)).unwrap_or(bytes.len()), Some(Kind::Word))
        }
        sign => (at + 1, Some(Kind::Sign(sign))),
    }
}

fn in_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80
}

fn find(bytes: &[u8], from: usize, stop: impl Fn(u8) -> bool) -> Option<usize> {
    bytes.get(from..)?.iter().position(|&b| stop(b)).map(|found| from + found)
}

fn end_of_comment(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(2).position(|two| two == b"*/").map_or(bytes.len(), |found| from + found + 2)
}

/// `at` is the opening quote; a doubled one inside does not close.
fn end_of_quotes(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut from = at + 1;
    while let Some(end) = find(bytes, from, |b| b == quote) {
        if bytes.get(end + 1) != Some(&quote) {
            return end + 1;
        }
        from = end + 2;
    }
    bytes.len()
}

fn end_of_number(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&b) = bytes.get(end) {
        let exponent = matches!(bytes[end - 1], b'e' | b'E') && matches!(b, b'+' | b'-');
        if !(b.is_ascii_alphanumeric() || b == b'.' || b == b'_' || exponent) {
            break;
        }
        end += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        tokens(sql).iter().map(|t| t.text).collect()
    }

    #[test]
    fn statements_fall_into_tokens() {
        let sql = "CREATE TABLE \"a \"\"b\"(x INT--no\n, [y z] TEXT/*,*/DEFAULT 'it''s', é BLOB \
                   DEFAULT x'00', w CHECK(w>1.5e-3))";
        let expected = [
            "CREATE",
            "TABLE",
            "\"a \"\"b\"",
            "(",
            "x",
            "INT",
            ",",
            "[y z]",
            "TEXT",
            "DEFAULT",
            "'it''s'",
            ",",
            "é",
            "BLOB",
            "DEFAULT",
            "x'00'",
            ",",
            "w",
            "CHECK",
            "(",
            "w",
            ">",
            "1.5e-3",
            ")",
            ")",
        ];
        assert_eq!(texts(sql), expected);
    }

    #[test]
    fn quotes_come_off() {
        for (quoted, name) in [
            ("\"a\"\"b\"", "a\"b"),
            ("[a\"b]", "a\"b"),
            ("`a``b`", "a`b"),
            ("'a'", "a"),
            ("a", "a"),
        ] {
            assert_eq!(unquoted(quoted), name);
        }
        assert_eq!(unquoted("\""), "\"");
        assert_eq!(unquoted(""), "");
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_without_losing_a_token(sql in "[-'\"`\\[\\]a-cx0-9./* \n(),é]{0,60}") {
            let found = tokens(&sql);
            for pair in found.windows(2) {
                prop_assert!(pair[0].at + pair[0].text.len() <= pair[1].at);
            }
            for token in found {
                prop_assert_eq!(&sql[token.at..token.at + token.text.len()], token.text);
            }
        }

        #[test]
        fn a_quoted_name_is_the_name(name in ".{1,20}") {
            let quoted = quoted(&name);
            let found = tokens(&quoted);
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].name(), Some(name));
        }
    }
}
