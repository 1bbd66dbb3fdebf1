//! Memory of the whole process: alone in its program, since the limit is everybody's.

use anabranch_sql::{Collected, Limits, Session, cap_process_memory};
use rusqlite::Connection;

#[test]
fn what_grows_in_memory_ends_at_the_cap_of_the_process() {
    let conn = Connection::open_in_memory().unwrap();
    cap_process_memory(&conn, 64 << 20).unwrap();
    let mut session = Session::new(conn, &Limits::default()).unwrap();
    // An aggregate goes on to the end of its rows before it says that memory ran out.
    let many = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 20000)";
    for sql in [
        "SELECT json_group_array(printf('%.*c', 10000, 'x')) FROM n",
        "SELECT json_group_object(i, printf('%.*c', 10000, 'x')) FROM n",
        "SELECT jsonb_group_array(printf('%.*c', 10000, 'x')) FROM n",
    ] {
        let error = session
            .execute(&format!("{many} {sql}"), &[], &[], &mut Collected::default())
            .unwrap_err();
        assert!(
            ["SQLITE_NOMEM", "SQLITE_INTERRUPT"].contains(&error.code.as_str()),
            "{sql}: {error}"
        );
    }
    session.execute("SELECT json_group_array(1)", &[], &[], &mut Collected::default()).unwrap();
}
