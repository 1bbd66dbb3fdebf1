//! The JSON of every type, as it stands on the wire.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Debug;

use anabranch_hrana::ws::{ClientMsg, Request, Response, ServerMsg};
use anabranch_hrana::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};

/// `value` is written as `wire`, and read back from it.
#[track_caller]
fn both<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, wire: Json) {
    assert_eq!(serde_json::to_value(value).unwrap(), wire);
    assert_eq!(&serde_json::from_str::<T>(&wire.to_string()).unwrap(), value);
}

/// Read only: another way to write `value`.
#[track_caller]
fn reads<T: DeserializeOwned + PartialEq + Debug>(wire: Json, value: &T) {
    assert_eq!(&serde_json::from_str::<T>(&wire.to_string()).unwrap(), value);
}

#[track_caller]
fn refused<T: DeserializeOwned + Debug>(wire: Json, part: &str) {
    let error = serde_json::from_str::<T>(&wire.to_string()).unwrap_err().to_string();
    assert!(error.contains(part), "{error}");
}

fn stmt(sql: &str) -> Stmt {
    Stmt::new(sql)
}

#[test]
fn values() {
    both(&Value::Null, json!({"type": "null"}));
    both(&Value::Integer(-5), json!({"type": "integer", "value": "-5"}));
    both(&Value::Integer(i64::MIN), json!({"type": "integer", "value": "-9223372036854775808"}));
    both(&Value::Float(1.5), json!({"type": "float", "value": 1.5}));
    both(&Value::Text("a/ü\"".into()), json!({"type": "text", "value": "a/ü\""}));
    both(&Value::Blob(vec![1, 2, 3].into()), json!({"type": "blob", "base64": "AQID"}));
    both(&Value::Blob(vec![255, 239].into()), json!({"type": "blob", "base64": "/+8"}));
    both(&Value::Blob(Vec::new().into()), json!({"type": "blob", "base64": ""}));
    // Slashes are not escaped: one client borrows the string.
    let text = serde_json::to_string(&Value::Blob(vec![255].into())).unwrap();
    assert_eq!(text, r#"{"type":"blob","base64":"/w"}"#);
}

#[test]
fn values_as_clients_write_them() {
    reads(json!({"type": "float", "value": 7}), &Value::Float(7.0));
    reads(json!({"type": "float", "value": -7}), &Value::Float(-7.0));
    reads(json!({"type": "blob", "base64": "/+8="}), &Value::Blob(vec![255, 239].into()));
    reads(json!({"value": "7", "more": [1], "type": "integer"}), &Value::Integer(7));
    let escaped: Value = serde_json::from_str(r#"{"type":"text","value":"\u00fc\/"}"#).unwrap();
    assert_eq!(escaped, Value::Text("ü/".into()));
    refused::<Value>(json!({"type": "integer", "value": 5}), "decimal string");
    refused::<Value>(json!({"type": "integer", "value": "9223372036854775808"}), "decimal");
    refused::<Value>(json!({"type": "integer"}), "decimal string");
    refused::<Value>(json!({"type": "float", "value": null}), "number");
    refused::<Value>(json!({"type": "blob", "base64": "A?"}), "base64");
    refused::<Value>(json!({"type": "text", "value": 1}), "string");
    refused::<Value>(json!({"type": "date", "value": 1}), "date");
}

#[test]
fn infinities_are_not_written() {
    for n in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        assert!(serde_json::to_string(&Value::Float(n)).is_err());
    }
}

#[test]
fn statements() {
    both(&stmt("SELECT 1"), json!({"sql": "SELECT 1"}));
    let full = Stmt {
        sql: None,
        sql_id: Some(3),
        args: vec![Value::Null],
        named_args: vec![NamedArg { name: ":a".into(), value: Value::Integer(1) }],
        want_rows: Some(false),
    };
    both(
        &full,
        json!({"sql_id": 3, "args": [{"type": "null"}], "want_rows": false,
            "named_args": [{"name": ":a", "value": {"type": "integer", "value": "1"}}]}),
    );
    reads(
        json!({"sql": "SELECT 1", "sql_id": null, "args": null, "named_args": null,
            "want_rows": null, "replication_index": "7"}),
        &stmt("SELECT 1"),
    );
}

#[test]
fn statement_results() {
    let result = StmtResult {
        cols: vec![
            Col { name: Some("a".into()), decltype: Some("INTEGER".into()) },
            Col { name: Some("1".into()), decltype: None },
        ],
        rows: vec![vec![Value::Integer(1), Value::Null]],
        affected_row_count: 1,
        last_insert_rowid: Some(12),
        rows_read: 2,
        rows_written: 3,
        query_duration_ms: 0.5,
    };
    both(
        &result,
        json!({"cols": [{"name": "a", "decltype": "INTEGER"}, {"name": "1", "decltype": null}],
            "rows": [[{"type": "integer", "value": "1"}, {"type": "null"}]],
            "affected_row_count": 1, "last_insert_rowid": "12", "replication_index": null,
            "rows_read": 2, "rows_written": 3, "query_duration_ms": 0.5}),
    );
    let empty = json!({"cols": [], "rows": [], "affected_row_count": 0, "last_insert_rowid": null,
        "replication_index": null, "rows_read": 0, "rows_written": 0, "query_duration_ms": 0.0});
    both(&StmtResult::default(), empty);
    // As other servers write it.
    reads(json!({"cols": [], "rows": [], "affected_row_count": 0}), &StmtResult::default());
}

#[test]
fn batches() {
    let ok = BatchCond::Ok { step: 0 };
    let cond = BatchCond::And {
        conds: vec![
            ok.clone(),
            BatchCond::Not { cond: Box::new(BatchCond::IsAutocommit) },
            BatchCond::Or { conds: vec![BatchCond::Error { step: 0 }] },
        ],
    };
    let batch = Batch {
        steps: vec![
            BatchStep { condition: None, stmt: stmt("BEGIN") },
            BatchStep { condition: Some(cond), stmt: stmt("COMMIT") },
        ],
    };
    both(
        &batch,
        json!({"steps": [{"stmt": {"sql": "BEGIN"}}, {"stmt": {"sql": "COMMIT"}, "condition":
            {"type": "and", "conds": [{"type": "ok", "step": 0},
                {"type": "not", "cond": {"type": "is_autocommit"}},
                {"type": "or", "conds": [{"type": "error", "step": 0}]}]}}]}),
    );
    reads(
        json!({"steps": [{"stmt": {"sql": "BEGIN"}, "condition": null}], "replication_index": 1}),
        &Batch { steps: vec![BatchStep { condition: None, stmt: stmt("BEGIN") }] },
    );
    refused::<BatchCond>(json!({"type": "ok"}), "step");
    refused::<BatchCond>(json!({"type": "xor", "conds": []}), "xor");
    both(
        &BatchResult {
            step_results: vec![Some(StmtResult::default()), None, None],
            step_errors: vec![None, Some(Error::new("SQLITE_BUSY", "busy")), None],
        },
        json!({"step_results": [StmtResult::default(), null, null],
            "step_errors": [null, {"message": "busy", "code": "SQLITE_BUSY"}, null],
            "replication_index": null}),
    );
}

#[test]
fn conditions_are_nested_to_a_limit() {
    let deep = |levels: usize| {
        let open = r#"{"type":"not","cond":"#.repeat(levels - 1);
        format!(r#"{open}{{"type":"is_autocommit"}}{}"#, "}".repeat(levels - 1))
    };
    assert!(serde_json::from_str::<BatchCond>(&deep(BatchCond::DEPTH_MAX)).is_ok());
    for levels in [BatchCond::DEPTH_MAX + 1, 1_000_000] {
        assert!(serde_json::from_str::<BatchCond>(&deep(levels)).is_err());
    }
    let wide = format!(r#"{{"type":"or","conds":[{}]}}"#, deep(BatchCond::DEPTH_MAX));
    assert!(serde_json::from_str::<BatchCond>(&wide).unwrap_err().to_string().contains("deeper"));
}

#[test]
fn conditions_hold_as_they_say() {
    use StepOutcome::{Error as Failed, Ok as Done, Skipped};
    let outcomes = [Done, Failed, Skipped];
    let holds =
        |wire: Json| serde_json::from_value::<BatchCond>(wire).unwrap().holds(&outcomes, true);
    let ok = |step: u32| json!({"type": "ok", "step": step});
    assert!(holds(ok(0)) && !holds(ok(1)) && !holds(ok(2)) && !holds(ok(3)));
    let error = |step: u32| json!({"type": "error", "step": step});
    assert!(!holds(error(0)) && holds(error(1)) && !holds(error(2)) && !holds(error(3)));
    assert!(holds(json!({"type": "not", "cond": ok(2)})));
    assert!(holds(json!({"type": "and", "conds": []})));
    assert!(!holds(json!({"type": "or", "conds": []})));
    assert!(!holds(json!({"type": "and", "conds": [ok(0), ok(1)]})));
    assert!(holds(json!({"type": "or", "conds": [ok(0), ok(1)]})));
    assert!(holds(json!({"type": "is_autocommit"})));
    assert!(!BatchCond::IsAutocommit.holds(&outcomes, false));
}

#[test]
fn conditions_are_about_earlier_steps() {
    let batch = |cond: BatchCond| Batch {
        steps: vec![
            BatchStep { condition: None, stmt: stmt("BEGIN") },
            BatchStep { condition: Some(cond), stmt: stmt("COMMIT") },
        ],
    };
    assert_eq!(batch(BatchCond::Ok { step: 0 }).check_conditions(true), Ok(()));
    let own = BatchCond::Not { cond: Box::new(BatchCond::Error { step: 1 }) };
    let expected = CondError::NotBefore { at: 1, step: 1 };
    assert_eq!(batch(own).check_conditions(true), Err(expected));
    let autocommit = batch(BatchCond::And { conds: vec![BatchCond::IsAutocommit] });
    assert_eq!(autocommit.check_conditions(true), Ok(()));
    assert_eq!(autocommit.check_conditions(false), Err(CondError::TooNew { at: 1 }));
}

#[test]
fn descriptions() {
    both(
        &DescribeResult {
            params: vec![DescribeParam { name: Some(":a".into()) }, DescribeParam { name: None }],
            cols: vec![DescribeCol { name: "a".into(), decltype: None }],
            is_explain: false,
            is_readonly: true,
        },
        json!({"params": [{"name": ":a"}, {"name": null}],
            "cols": [{"name": "a", "decltype": null}], "is_explain": false, "is_readonly": true}),
    );
}

#[test]
fn errors_always_have_a_code() {
    both(&Error::new("", "x"), json!({"message": "x", "code": ""}));
    reads(json!({"message": "x", "code": null}), &Error::new("", "x"));
    reads(json!({"message": "x"}), &Error::new("", "x"));
}

#[test]
fn requests_of_pipelines() {
    both(&StreamRequest::Close, json!({"type": "close"}));
    both(&StreamRequest::GetAutocommit, json!({"type": "get_autocommit"}));
    both(
        &StreamRequest::Execute { stmt: stmt("SELECT 1") },
        json!({"type": "execute", "stmt": {"sql": "SELECT 1"}}),
    );
    both(
        &StreamRequest::Batch { batch: Batch::default() },
        json!({"type": "batch", "batch": {"steps": []}}),
    );
    both(
        &StreamRequest::Sequence { sql: Some("a;b".into()), sql_id: None },
        json!({"type": "sequence", "sql": "a;b"}),
    );
    both(
        &StreamRequest::Describe { sql: None, sql_id: Some(-1) },
        json!({"type": "describe", "sql_id": -1}),
    );
    both(
        &StreamRequest::StoreSql { sql_id: 0, sql: "a".into() },
        json!({"type": "store_sql", "sql_id": 0, "sql": "a"}),
    );
    both(&StreamRequest::CloseSql { sql_id: 0 }, json!({"type": "close_sql", "sql_id": 0}));
    reads(
        json!({"sql": "x", "sql_id": null, "replication_index": "1", "type": "describe"}),
        &StreamRequest::Describe { sql: Some("x".into()), sql_id: None },
    );
    refused::<StreamRequest>(json!({"type": "execute"}), "stmt");
    refused::<StreamRequest>(json!({"type": "store_sql", "sql_id": 1}), "sql");
    refused::<StreamRequest>(json!({"type": "vacuum"}), "vacuum");
    refused::<StreamRequest>(json!({"stmt": {"sql": "x"}}), "type");
}

#[test]
fn bodies_of_pipelines() {
    both(
        &PipelineRequest { baton: Some("b".into()), requests: vec![StreamRequest::Close] },
        json!({"baton": "b", "requests": [{"type": "close"}]}),
    );
    // JavaScript leaves the baton out.
    let close = PipelineRequest { baton: None, requests: vec![StreamRequest::Close] };
    reads(json!({"requests": [{"type": "close"}]}), &close);
    let ok = |response| StreamResult::Ok { response };
    let response = PipelineResponse {
        baton: None,
        base_url: None,
        results: vec![
            ok(StreamResponse::Execute { result: StmtResult::default() }),
            ok(StreamResponse::Batch { result: BatchResult::default() }),
            ok(StreamResponse::Sequence),
            ok(StreamResponse::Describe { result: DescribeResult::default() }),
            ok(StreamResponse::StoreSql),
            ok(StreamResponse::CloseSql),
            ok(StreamResponse::GetAutocommit { is_autocommit: true }),
            StreamResult::Error { error: Error::new("STREAM_EXPIRED", "gone") },
            ok(StreamResponse::Close),
        ],
    };
    let ok = |response: Json| json!({"type": "ok", "response": response});
    both(
        &response,
        json!({"baton": null, "base_url": null, "results": [
            ok(json!({"type": "execute", "result": StmtResult::default()})),
            ok(json!({"type": "batch", "result": BatchResult::default()})),
            ok(json!({"type": "sequence"})),
            ok(json!({"type": "describe", "result": DescribeResult::default()})),
            ok(json!({"type": "store_sql"})),
            ok(json!({"type": "close_sql"})),
            ok(json!({"type": "get_autocommit", "is_autocommit": true})),
            json!({"type": "error", "error": {"message": "gone", "code": "STREAM_EXPIRED"}}),
            ok(json!({"type": "close"})),
        ]}),
    );
}

#[test]
fn lines_of_cursors() {
    both(
        &CursorRequest { baton: None, batch: Batch::default() },
        json!({"baton": null, "batch": {"steps": []}}),
    );
    both(
        &CursorHead { baton: Some("b".into()), base_url: None },
        json!({"baton": "b", "base_url": null}),
    );
    both(
        &CursorEntry::StepBegin { step: 0, cols: vec![Col::default()] },
        json!({"type": "step_begin", "step": 0, "cols": [{"name": null, "decltype": null}]}),
    );
    both(
        &CursorEntry::Row { row: vec![Value::Null] },
        json!({"type": "row", "row": [{"type": "null"}]}),
    );
    let end = |id| CursorEntry::StepEnd { affected_row_count: 1, last_insert_rowid: id };
    both(
        &end(Some(7)),
        json!({"type": "step_end", "affected_row_count": 1, "last_insert_rowid": "7"}),
    );
    both(
        &end(None),
        json!({"type": "step_end", "affected_row_count": 1, "last_insert_rowid": null}),
    );
    // As another server writes them.
    reads(
        json!({"type": "step_end", "affected_row_count": 1, "last_insert_rowid": 7}),
        &end(Some(7)),
    );
    reads(json!({"type": "step_end", "affected_row_count": 1}), &end(None));
    reads(
        json!({"type": "replication_index", "replication_index": 1}),
        &CursorEntry::ReplicationIndex,
    );
    let error = json!({"message": "m", "code": "C"});
    both(
        &CursorEntry::StepError { step: 2, error: Error::new("C", "m") },
        json!({"type": "step_error", "step": 2, "error": error}),
    );
    both(
        &CursorEntry::Error { error: Error::new("C", "m") },
        json!({"type": "error", "error": error}),
    );
}

#[test]
fn messages_of_clients() {
    both(&ClientMsg::Hello { jwt: Some("t".into()) }, json!({"type": "hello", "jwt": "t"}));
    both(&ClientMsg::Hello { jwt: None }, json!({"type": "hello"}));
    reads(json!({"type": "hello", "jwt": null}), &ClientMsg::Hello { jwt: None });
    let asks = |request: Request, wire: Json| {
        both(
            &ClientMsg::Request { request_id: 7, request },
            json!({"type": "request", "request_id": 7, "request": wire}),
        );
    };
    let (stream_id, cursor_id) = (1, 2);
    asks(Request::OpenStream { stream_id }, json!({"type": "open_stream", "stream_id": 1}));
    asks(Request::CloseStream { stream_id }, json!({"type": "close_stream", "stream_id": 1}));
    asks(
        Request::Execute { stream_id, stmt: stmt("a") },
        json!({"type": "execute", "stream_id": 1, "stmt": {"sql": "a"}}),
    );
    asks(
        Request::Batch { stream_id, batch: Batch::default() },
        json!({"type": "batch", "stream_id": 1, "batch": {"steps": []}}),
    );
    asks(
        Request::OpenCursor { stream_id, cursor_id, batch: Batch::default() },
        json!({"type": "open_cursor", "stream_id": 1, "cursor_id": 2, "batch": {"steps": []}}),
    );
    asks(Request::CloseCursor { cursor_id }, json!({"type": "close_cursor", "cursor_id": 2}));
    asks(
        Request::FetchCursor { cursor_id, max_count: 1000 },
        json!({"type": "fetch_cursor", "cursor_id": 2, "max_count": 1000}),
    );
    asks(
        Request::Sequence { stream_id, sql: Some("a".into()), sql_id: None },
        json!({"type": "sequence", "stream_id": 1, "sql": "a"}),
    );
    asks(
        Request::Describe { stream_id, sql: None, sql_id: Some(4) },
        json!({"type": "describe", "stream_id": 1, "sql_id": 4}),
    );
    asks(
        Request::StoreSql { sql_id: 4, sql: "a".into() },
        json!({"type": "store_sql", "sql_id": 4, "sql": "a"}),
    );
    asks(Request::CloseSql { sql_id: 4 }, json!({"type": "close_sql", "sql_id": 4}));
    asks(Request::GetAutocommit { stream_id }, json!({"type": "get_autocommit", "stream_id": 1}));
    refused::<Request>(json!({"type": "execute", "stmt": {"sql": "a"}}), "stream_id");
    refused::<Request>(json!({"type": "close"}), "close");
    refused::<ClientMsg>(json!({"type": "request", "request": {"type": "close_sql"}}), "sql_id");
}

#[test]
fn messages_of_servers() {
    both(&ServerMsg::HelloOk, json!({"type": "hello_ok"}));
    let error = json!({"message": "m", "code": "C"});
    both(
        &ServerMsg::HelloError { error: Error::new("C", "m") },
        json!({"type": "hello_error", "error": error}),
    );
    both(
        &ServerMsg::ResponseError { request_id: 7, error: Error::new("C", "m") },
        json!({"type": "response_error", "request_id": 7, "error": error}),
    );
    let answers = |response: Response, wire: Json| {
        both(
            &ServerMsg::ResponseOk { request_id: 7, response },
            json!({"type": "response_ok", "request_id": 7, "response": wire}),
        );
    };
    answers(Response::OpenStream, json!({"type": "open_stream"}));
    answers(Response::CloseStream, json!({"type": "close_stream"}));
    answers(
        Response::Execute { result: StmtResult::default() },
        json!({"type": "execute", "result": StmtResult::default()}),
    );
    answers(
        Response::Batch { result: BatchResult::default() },
        json!({"type": "batch", "result": BatchResult::default()}),
    );
    answers(Response::OpenCursor, json!({"type": "open_cursor"}));
    answers(Response::CloseCursor, json!({"type": "close_cursor"}));
    answers(
        Response::FetchCursor {
            entries: vec![CursorEntry::Row { row: vec![Value::Float(0.1)] }],
            done: true,
        },
        json!({"type": "fetch_cursor", "done": true,
            "entries": [{"type": "row", "row": [{"type": "float", "value": 0.1}]}]}),
    );
    answers(Response::Sequence, json!({"type": "sequence"}));
    answers(
        Response::Describe { result: DescribeResult::default() },
        json!({"type": "describe", "result": DescribeResult::default()}),
    );
    answers(Response::StoreSql, json!({"type": "store_sql"}));
    answers(Response::CloseSql, json!({"type": "close_sql"}));
    answers(
        Response::GetAutocommit { is_autocommit: false },
        json!({"type": "get_autocommit", "is_autocommit": false}),
    );
}
