use anabranch_hrana::Value;

use super::support::{all, blob, fails, int, rows, session, text, value};

fn hex(digits: &str) -> Value {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    blob(&(0..digits.len()).step_by(2).map(byte).collect::<Vec<_>>())
}

/// What libSQL 0.9.30 answers to the same.
#[test]
fn blobs_are_those_of_libsql() {
    let mut session = session();
    for (sql, expected) in [
        ("vector('[1,2,3]')", "0000803f0000004000004040"),
        ("vector('[ 1 , 2 ]')", "0000803f00000040"),
        ("vector('[]')", ""),
        ("vector(x'')", ""),
        ("vector('[1 2]')", "00004041"),
        ("vector('[1e39]')", "0000807f"),
        ("vector('[.5]')", "0000003f"),
        ("vector('[+1.]')", "0000803f"),
        ("vector64('[1,2,3]')", "000000000000f03f0000000000000040000000000000084002"),
        ("vector64(x'0000803f')", "000000000000f03f02"),
        ("vector(vector64('[1,2]'))", "0000803f00000040"),
        ("vector8('[1,2,3]')", "007fff008180003c0000803f000104"),
        ("vector8('[1,2,3,4,5,-6]')", "a2b9d1e8ff000000b1b0303d0000c0c0000204"),
        ("vector8('[5,5]')", "00000000000000000000a040000204"),
        ("vector8('[]')", "0000000000000000000004"),
        ("vector16('[1,2,3,0.1,65504,70000,1e-7]')", "003c00400042662eff7b007c020005"),
        ("vectorb16('[1,2,3,0.1]')", "803f00404040cc3d06"),
        ("vector1bit('[1,-2,3]')", "050d03"),
        ("vector1bit('[1,-2,3,0,1,1,1,1,1]')", "f501001703"),
        ("vector1bit('[]')", "001003"),
    ] {
        assert_eq!(value(&mut session, &format!("SELECT {sql}")), hex(expected), "{sql}");
    }
}

#[test]
fn texts_are_those_of_libsql() {
    let mut session = session();
    for (sql, expected) in [
        (
            "vector32('[1,2.5,3e10,0.1,-7,1e-5,123456789,1e20]')",
            "[1,2.5,3e+10,0.1,-7,1e-05,1.23457e+08,1e+20]",
        ),
        ("vector64('[0.30000000000000004,999999.5,100000,1e-4]')", "[0.3,1e+06,100000,0.0001]"),
        ("vector8('[1,2.5,3]')", "[1,2.49804,3]"),
        ("vector8('[5,5]')", "[5,5]"),
        ("vector1bit('[1,-2,3]')", "[1,-1,1]"),
        ("vector16('[1,0.1,3]')", "[1,0.0999756,3]"),
        ("vectorb16('[1,0.1,3]')", "[1,0.0996094,3]"),
        ("'[1e39]'", "[Inf]"),
        ("x'0000c07f'", "[NaN]"),
        ("'[-0.0]'", "[0]"),
        ("vector1bit('[]')", "[]"),
    ] {
        assert_eq!(value(&mut session, &format!("SELECT vector_extract({sql})")), text(expected));
    }
}

#[test]
fn distances_are_those_of_libsql() {
    let mut session = session();
    let (near, far) =
        (Value::Float(0.285_714_298_486_709_6), Value::Float(2.828_427_076_339_721_7));
    for (sql, expected) in [
        ("cos('[1,2,3]','[3,2,1]')", near.clone()),
        ("cos(vector64('[1,2,3]'),vector64('[3,2,1]'))", near.clone()),
        ("cos(vector16('[1,2,3]'),vector16('[3,2,1]'))", near),
        ("cos(vector8('[1,2,3]'),vector8('[3,2,1]'))", Value::Float(0.286_034_464_836_120_6)),
        ("cos(vector1bit('[1,-2,3]'),vector1bit('[3,2,1]'))", Value::Float(1.0)),
        ("cos('[0,0]','[1,1]')", Value::Null),
        ("l2('[1,2,3]','[3,2,1]')", far.clone()),
        ("l2(vector64('[1,2,3]'),vector64('[3,2,1]'))", far.clone()),
        ("l2(vector8('[1,2,3]'),vector8('[3,2,1]'))", far.clone()),
        ("l2(vectorb16('[1,2,3]'),vectorb16('[3,2,1]'))", far),
        ("l2(vector64('[]'),vector64('[]'))", Value::Float(0.0)),
    ] {
        assert_eq!(
            value(&mut session, &format!("SELECT vector_distance_{sql}")),
            expected,
            "{sql}"
        );
    }
}

#[test]
fn errors_are_those_of_libsql() {
    let mut session = session();
    for (sql, expected) in [
        ("vector(1)", "vector: unexpected value type: got INTEGER, expected TEXT or BLOB"),
        ("vector(NULL)", "vector: unexpected value type: got NULL, expected TEXT or BLOB"),
        ("vector('1')", "vector: must start with '['"),
        ("vector('[1')", "vector: must end with ']'"),
        ("vector('[a]')", "vector: invalid float at position 0: 'a'"),
        ("vector('[nan]')", "vector: invalid float at position 0: 'nan'"),
        ("vector('[1,]')", "vector: invalid float at position 1: ''"),
        ("vector('[1] x')", "vector: non-space symbols after closing ']' are forbidden"),
        ("vector(x'00')", "vector: unexpected binary type: 0"),
        (
            "vector_distance_cos('[1,2]','[1]')",
            "vector_distance: vectors must have the same length: 2 != 1",
        ),
        (
            "vector_distance_cos('[1,2]',vector64('[1,2]'))",
            "vector_distance: vectors must have the same type: 1 != 2",
        ),
        (
            "vector_distance_l2(vector1bit('[1]'),vector1bit('[1]'))",
            "vector_distance: l2 distance is not supported for float1bit vectors",
        ),
    ] {
        let error = fails(&mut session, &format!("SELECT {sql}"));
        assert_eq!(error.message, format!("SQLite error: {expected}"), "{sql}");
    }
}

#[test]
fn vectors_in_tables() {
    let mut session = session();
    all(
        &mut session,
        &[
            "CREATE TABLE m(title TEXT, e F32_BLOB(3), n AS (vector_distance_l2(e, '[0,0,0]')))",
            "CREATE INDEX by_norm ON m(vector_distance_l2(e, '[0,0,0]'))",
            "INSERT INTO m VALUES('a', vector('[1,0,0]')),('b', vector('[0,2,0]'))",
        ],
    );
    assert_eq!(
        rows(&mut session, "SELECT title FROM m ORDER BY vector_distance_cos(e, '[0,1,0.1]')"),
        [[text("b")], [text("a")]]
    );
    assert_eq!(value(&mut session, "SELECT typeof(e) FROM m WHERE n=2"), text("blob"));
}

#[test]
fn a_schema_with_a_vector_index_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let made = rusqlite::Connection::open(&path).unwrap();
    made.create_scalar_function(
        "libsql_vector_idx",
        1,
        rusqlite::functions::FunctionFlags::SQLITE_DETERMINISTIC,
        |context| context.get::<Vec<u8>>(0),
    )
    .unwrap();
    made.execute_batch(
        "CREATE TABLE t(e); CREATE INDEX i ON t(libsql_vector_idx(e)); INSERT INTO t VALUES(x'00')",
    )
    .unwrap();
    drop(made);
    let conn = rusqlite::Connection::open(&path).unwrap();
    let mut session = anabranch_sql::Session::new(conn, &anabranch_sql::Limits::default()).unwrap();
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(1));
    let error = fails(&mut session, "INSERT INTO t VALUES(x'01')");
    assert!(error.message.contains("libsql_vector_idx"), "{error}");
}
