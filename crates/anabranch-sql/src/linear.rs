//! SQLite's functions that search a text for another, in linear time.
//!
//! Its own `instr`, `replace` and the `trim`s with two arguments take the product of both lengths, which
//! for two values of some megabytes is an hour, and nothing can interrupt a function. These answer the
//! same, and are deterministic and harmless like those.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use memchr::memmem;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ffi};

/// Lengths, in bytes, that the characters to trim may have: valid UTF-8 has four.
const CHARACTER_LENGTHS_MAX: usize = 8;

/// Registers the functions on a connection.
pub(crate) fn register(conn: &Connection, value_bytes: u32) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    let texts = Texts::default();
    conn.create_scalar_function("instr", 2, flags, move |context| {
        let is_text = !(is_blob(context, 0) && is_blob(context, 1));
        let Some([haystack, needle]) = texts.first(context)? else { return Ok(None) };
        Ok(Some(position(&haystack, &needle, is_text)))
    })?;
    let texts = Texts::default();
    conn.create_scalar_function("replace", 3, flags, move |context| {
        let Some([text, from]) = texts.first(context)? else { return Ok(None) };
        // A text ends at a NUL here, and nothing is replaced by something, not even by NULL.
        if from.first().is_none_or(|byte| *byte == 0) {
            return Ok(Some(Text(text.to_vec())));
        }
        let Some(to) = texts.one(context, 2)? else { return Ok(None) };
        replace(&text, &from, &to, value_bytes).map(Some)
    })?;
    for (name, start, end) in [("trim", true, true), ("ltrim", true, false), ("rtrim", false, true)]
    {
        let texts = Texts::default();
        conn.create_scalar_function(name, 2, flags, move |context| {
            let Some([text, characters]) = texts.first(context)? else { return Ok(None) };
            trim(&text, &characters, start, end).map(Some)
        })?;
    }
    Ok(())
}

fn is_blob(context: &Context<'_>, index: usize) -> bool {
    matches!(context.get_raw(index), ValueRef::Blob(_))
}

/// A text of SQLite, which need not be UTF-8.
struct Text(Vec<u8>);

impl ToSql for Text {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

/// Arguments as texts. How a float is written is SQLite's secret: it is asked, on a connection of its
/// own, made when one comes.
#[derive(Default)]
struct Texts(RefCell<Option<Connection>>);

impl Texts {
    /// The first arguments; `None` if any is NULL.
    fn first<'a, const N: usize>(
        &self,
        context: &'a Context<'_>,
    ) -> rusqlite::Result<Option<[Cow<'a, [u8]>; N]>> {
        let mut all = [const { Cow::Borrowed(&[] as &[u8]) }; N];
        for (index, text) in all.iter_mut().enumerate() {
            let Some(one) = self.one(context, index)? else { return Ok(None) };
            *text = one;
        }
        Ok(Some(all))
    }

    fn one<'a>(
        &self,
        context: &'a Context<'_>,
        index: usize,
    ) -> rusqlite::Result<Option<Cow<'a, [u8]>>> {
        Ok(Some(match context.get_raw(index) {
            ValueRef::Null => return Ok(None),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Cow::Borrowed(bytes),
            ValueRef::Integer(n) => Cow::Owned(n.to_string().into_bytes()),
            ValueRef::Real(n) => Cow::Owned(self.float(n)?.into_bytes()),
        }))
    }

    fn float(&self, value: f64) -> rusqlite::Result<String> {
        let mut place = self.0.borrow_mut();
        let conn = match &mut *place {
            Some(conn) => conn,
            none => none.insert(Connection::open_in_memory()?),
        };
        conn.prepare_cached("SELECT CAST(? AS TEXT)")?.query_row([value], |row| row.get(0))
    }
}

/// Place of the first occurrence, from 1: in characters of a text, in bytes of a blob; 0 is nowhere.
fn position(haystack: &[u8], needle: &[u8], is_text: bool) -> i64 {
    let is_within = |byte: &u8| is_text && byte & 0xc0 == 0x80;
    let found = if needle.first().is_some_and(is_within) {
        // It begins within a character, where no text but the first is looked at.
        haystack.starts_with(needle).then_some(0)
    } else {
        memmem::find(haystack, needle)
    };
    let Some(found) = found else { return 0 };
    // The first byte begins a character, whatever it is.
    let after_first = haystack.get(1..found).unwrap_or_default();
    let before = usize::from(found > 0) + after_first.iter().filter(|b| !is_within(b)).count();
    i64::try_from(before).unwrap_or(i64::MAX - 1) + 1
}

fn replace(text: &[u8], from: &[u8], to: &[u8], bytes_max: u32) -> rusqlite::Result<Text> {
    let finder = memmem::Finder::new(from);
    let count = finder.find_iter(text).count();
    let length = (text.len() - count * from.len()).saturating_add(count.saturating_mul(to.len()));
    if u64::try_from(length).unwrap_or(u64::MAX) > u64::from(bytes_max) {
        return Err(too_big());
    }
    let mut out = Vec::with_capacity(length);
    let mut done = 0;
    for at in finder.find_iter(text) {
        out.extend_from_slice(&text[done..at]);
        out.extend_from_slice(to);
        done = at + from.len();
    }
    out.extend_from_slice(&text[done..]);
    Ok(Text(out))
}

fn trim(text: &[u8], characters: &[u8], start: bool, end: bool) -> rusqlite::Result<Text> {
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    for (place, character) in each_character(characters).enumerate() {
        places.entry(character).or_insert(place);
    }
    let lengths: HashSet<usize> = places.keys().map(|character| character.len()).collect();
    if lengths.len() > CHARACTER_LENGTHS_MAX {
        return Err(too_big());
    }
    let mut rest = text;
    // Where the text is not UTF-8, several may fit: the first that was named counts.
    while start
        && let Some((_, after)) = lengths
            .iter()
            .filter_map(|length| {
                let (character, after) = rest.split_at_checked(*length)?;
                Some((*places.get(character)?, after))
            })
            .min_by_key(|(place, _)| *place)
    {
        rest = after;
    }
    while end
        && let Some((_, before)) = lengths
            .iter()
            .filter_map(|length| {
                let (before, character) =
                    rest.split_at_checked(rest.len().checked_sub(*length)?)?;
                Some((*places.get(character)?, before))
            })
            .min_by_key(|(place, _)| *place)
    {
        rest = before;
    }
    Ok(Text(rest.to_vec()))
}

/// The characters of a text up to a NUL: a first byte, and all that continue it.
fn each_character(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text.split(|byte| *byte == 0).next().unwrap_or_default();
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let continued = if first < 0xc0 {
            0
        } else {
            rest[1..].iter().take_while(|b| **b & 0xc0 == 0x80).count()
        };
        let (character, after) = rest.split_at(1 + continued);
        rest = after;
        Some(character)
    })
}

fn too_big() -> rusqlite::Error {
    // With a message of ours the code would get lost.
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_TOOBIG), None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::types::Value;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let bytes = prop::collection::vec(
            prop_oneof![Just(b'a'), Just(b'b'), Just(0xc3), Just(0xa9), Just(0), Just(0x80)],
            0..6,
        );
        prop_oneof![
            5 => "[abé]{0,8}".prop_map(Value::Text),
            2 => bytes.prop_map(Value::Blob),
            1 => (-20_i64..20).prop_map(Value::Integer),
            1 => prop_oneof![Just(1.5), Just(0.1), Just(1e300), -1e3..1e3].prop_map(Value::Real),
            1 => Just(Value::Null),
        ]
    }

    fn pair() -> (Connection, Connection) {
        let (own, stock) =
            (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        register(&own, 4 << 20).unwrap();
        (own, stock)
    }

    fn answer(conn: &Connection, call: &str, args: &[Value]) -> (String, String) {
        let sql = format!("SELECT typeof({call}), quote(CAST({call} AS BLOB))");
        conn.query_row(&sql, rusqlite::params_from_iter(args), |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
    }

    proptest! {
        #[test]
        fn the_answers_are_those_of_sqlite(x in value(), y in value(), z in value()) {
            let (own, stock) = pair();
            let args = [x, y, z];
            for (call, arity) in [
                ("instr(?1, ?2)", 2),
                ("replace(?1, ?2, ?3)", 3),
                ("trim(?1, ?2)", 2),
                ("ltrim(?1, ?2)", 2),
                ("rtrim(?1, ?2)", 2),
            ] {
                let args = &args[..arity];
                prop_assert_eq!(answer(&own, call, args), answer(&stock, call, args), "{} {:?}", call, args);
            }
        }
    }

    #[test]
    fn long_values_take_no_longer_than_they_are() {
        let (own, _) = pair();
        // SQLite's own would take minutes for each.
        for call in [
            "instr(?1, ?2||'b')",
            "replace(?1, ?2||'b', '')",
            "trim(?1, replace(hex(zeroblob(500000)), '0', 'b')||'a')",
        ] {
            let args = [Value::Text("a".repeat(2_000_000)), Value::Text("a".repeat(1_000_000))];
            let sql = format!("SELECT length({call}) FROM (SELECT ?1, ?2)");
            // Too large for the limit here, or a number: an end in either case.
            let _ =
                own.query_row(&sql, rusqlite::params_from_iter(&args), |row| row.get::<_, i64>(0));
        }
    }

    #[test]
    fn nothing_grows_beyond_the_limit() {
        let (own, _) = pair();
        let sql = "SELECT replace(?1, 'a', '0123456789')";
        let error = own.query_row(sql, ["a".repeat(500_000)], |_| Ok(())).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::TooBig));
    }
}
