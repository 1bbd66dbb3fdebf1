//! Declarations of tables as they are written, compared piece by piece.
//!
//! What SQLite's `ALTER TABLE` can do to a declaration leaves the rows as they are stored: other
//! names, and columns behind the last one. Anything else means that rows must be written anew.

use crate::sql::{Kind, Token, same_name, tokens};

/// Names that changed: old and new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Renames {
    pub(crate) pairs: Vec<(String, String)>,
}

impl Renames {
    pub(crate) fn add(&mut self, old: &str, new: &str) {
        if old != new {
            self.pairs.push((old.to_owned(), new.to_owned()));
        }
    }

    fn has(&self, old: &str, new: &str) -> bool {
        self.pairs.iter().any(|(o, n)| same_name(o, old) && same_name(n, new))
    }
}

/// A `CREATE TABLE`, taken apart.
struct Declared<'a> {
    sql: &'a str,
    /// The name of the table, as tokens.
    head: Vec<Token<'a>>,
    columns: Vec<Vec<Token<'a>>>,
    constraints: Vec<Vec<Token<'a>>>,
    /// What follows the closing parenthesis.
    tail: Vec<Token<'a>>,
}

impl<'a> Declared<'a> {
    fn parse(sql: &'a str) -> Option<Self> {
        let all = tokens(sql);
        let open = all.iter().position(|t| t.sign(b'('))?;
        let mut depth = 0_usize;
        let mut items = vec![Vec::new()];
        let mut close = None;
        for (place, token) in all.iter().enumerate().skip(open) {
            match token.kind {
                Kind::Sign(b'(') => depth += 1,
                Kind::Sign(b')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                close = Some(place);
                break;
            }
            if depth == 1 && token.sign(b',') {
                items.push(Vec::new());
            } else if place != open {
                items.last_mut()?.push(*token);
            }
        }
        // Constraints may follow each other without a comma; the first word tells for all of them.
        let first = items.iter().position(|item| is_constraint(item)).unwrap_or(items.len());
        let constraints = items.split_off(first);
        Some(Self {
            sql,
            head: all[..open].to_vec(),
            columns: items,
            constraints,
            tail: all[close? + 1..].to_vec(),
        })
    }

    /// A column as it is written.
    fn text(&self, item: &[Token<'a>]) -> Option<&'a str> {
        let (first, last) = (item.first()?, item.last()?);
        self.sql.get(first.at..last.at + last.text.len())
    }
}

fn is_constraint(item: &[Token<'_>]) -> bool {
    let starts = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];
    item.first().is_some_and(|first| starts.iter().any(|word| first.is(word)))
}

/// The columns that `after` has behind those of `before`, as they are written, if that and `renames`
/// are all in which the declarations differ.
pub(crate) fn appended<'a>(
    before: &str,
    after: &'a str,
    renames: &Renames,
) -> Option<Vec<&'a str>> {
    let before = Declared::parse(before)?;
    let after = Declared::parse(after)?;
    let common = before.columns.len();
    let same = same_tokens(&before.head, &after.head, renames)
        && same_tokens(&before.tail, &after.tail, renames)
        && common <= after.columns.len()
        && before.constraints.len() == after.constraints.len()
        && before
            .columns
            .iter()
            .chain(&before.constraints)
            .zip(after.columns[..common].iter().chain(&after.constraints))
            .all(|(b, a)| same_tokens(b, a, renames));
    if !same {
        return None;
    }
    after.columns[common..].iter().map(|item| after.text(item)).collect()
}

/// Whether two statements say the same, but for white space, comments, and names that changed.
pub(crate) fn same_statement(before: &str, after: &str, renames: &Renames) -> bool {
    before == after || same_tokens(&tokens(before), &tokens(after), renames)
}

fn same_tokens(before: &[Token<'_>], after: &[Token<'_>], renames: &Renames) -> bool {
    before.len() == after.len() && before.iter().zip(after).all(|(b, a)| same_token(b, a, renames))
}

fn same_token(before: &Token<'_>, after: &Token<'_>, renames: &Renames) -> bool {
    let (Some(old), Some(new)) = (before.name(), after.name()) else {
        return before.kind == after.kind && before.text.eq_ignore_ascii_case(after.text);
    };
    // SQLite quotes what it renames. Otherwise quotes may tell a name from a word of the language,
    // and text from a name.
    renames.has(&old, &new)
        || match (before.kind, after.kind) {
            (Kind::Text, Kind::Text) => old == new,
            (b, a) => b == a && same_name(&old, &new),
        }
}

/// An index by its statement, on a table and columns that have other names now.
pub(crate) fn renamed_index(sql: &str, table: &str, columns: &Renames) -> Option<String> {
    let all = tokens(sql);
    let on = all.iter().position(|t| t.is("ON"))? + 1;
    let mut out = String::with_capacity(sql.len());
    let mut from = 0;
    for (place, token) in all.iter().enumerate().skip(on) {
        let called = all.get(place + 1).is_some_and(|next| next.sign(b'('));
        let new = match token.kind {
            _ if place == on => Some(table),
            Kind::Word | Kind::Quoted if !called => {
                let name = token.name()?;
                let pair = columns.pairs.iter().find(|(old, _)| same_name(old, &name));
                pair.map(|(_, new)| new.as_str())
            }
            _ => None,
        };
        if let Some(new) = new {
            out.push_str(sql.get(from..token.at)?);
            out.push_str(&crate::sql::quoted(new));
            from = token.at + token.text.len();
        }
    }
    out.push_str(sql.get(from..)?);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renames(pairs: &[(&str, &str)]) -> Renames {
        let mut renames = Renames::default();
        for (old, new) in pairs {
            renames.add(old, new);
        }
        renames
    }

    #[test]
    fn what_alter_table_makes_is_recognised() {
        let before = "CREATE TABLE t(a INT, b TEXT CHECK(b > 'x, y)'), UNIQUE(a, b)) STRICT";
        let after = "CREATE TABLE \"u\"(a INT, \"c\" TEXT CHECK(\"c\" > 'x, y)'), d INT DEFAULT (1+(2)), e, \
                     UNIQUE(a, \"c\")) STRICT";
        let all = renames(&[("t", "u"), ("b", "c")]);
        assert_eq!(appended(before, after, &all), Some(vec!["d INT DEFAULT (1+(2))", "e"]));
        assert_eq!(appended(before, after, &renames(&[("t", "u")])), None);
        assert_eq!(appended(before, before, &Renames::default()), Some(vec![]));
    }

    #[test]
    fn what_alter_table_cannot_make_is_not() {
        let none = Renames::default();
        let before = "CREATE TABLE t(a, b, UNIQUE(a))";
        for after in [
            "CREATE TABLE t(a, UNIQUE(a))",
            "CREATE TABLE t(b, a, UNIQUE(a))",
            "CREATE TABLE t(a, b)",
            "CREATE TABLE t(a, b INT, UNIQUE(a))",
            "CREATE TABLE t(a, b, UNIQUE(b))",
            "CREATE TABLE t(a, b, UNIQUE(a)) STRICT",
            "CREATE TABLE t(a, b, UNIQUE(a), CHECK(a > 1))",
            "nonsense",
            "CREATE TABLE t(((",
        ] {
            assert_eq!(appended(before, after, &none), None, "{after}");
        }
    }

    #[test]
    fn white_space_and_comments_do_not_count_but_quotes_do() {
        let none = Renames::default();
        assert!(same_statement("CREATE TABLE t(a)", "CREATE TABLE  T ( A ) -- x", &none));
        assert!(!same_statement(
            "CREATE TABLE t(a DEFAULT true)",
            "CREATE TABLE t(a DEFAULT \"true\")",
            &none
        ));
        assert!(!same_statement(
            "CREATE TABLE t(a DEFAULT 'x')",
            "CREATE TABLE t(a DEFAULT 'X')",
            &none
        ));
    }

    #[test]
    fn an_index_follows_its_table_and_columns() {
        let sql = "CREATE INDEX on_a ON t(a, lower(\"b\"), a(1)) WHERE a > 'a'";
        assert_eq!(
            renamed_index(sql, "new t", &renames(&[("a", "x"), ("B", "y")])).unwrap(),
            "CREATE INDEX on_a ON \"new t\"(\"x\", lower(\"y\"), a(1)) WHERE \"x\" > 'a'"
        );
    }
}
