//! Whatever is written is read back as it was.
#![allow(clippy::unwrap_used, missing_docs)]

use anabranch_hrana::ws::{ClientMsg, Request, Response, ServerMsg};
use anabranch_hrana::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

fn back<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
}

fn float() -> impl Strategy<Value = f64> {
    any::<u64>().prop_map(f64::from_bits).prop_filter("has a form in JSON", |n| n.is_finite())
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        float().prop_map(Value::Float),
        any::<String>().prop_map(Value::Text),
        vec(any::<u8>(), 0..9).prop_map(|bytes| Value::Blob(bytes.into())),
    ]
}

fn stmt() -> impl Strategy<Value = Stmt> {
    let named = (any::<String>(), value()).prop_map(|(name, value)| NamedArg { name, value });
    let sql = (option::of(any::<String>()), option::of(any::<i32>()));
    (sql, vec(value(), 0..3), vec(named, 0..3), option::of(any::<bool>())).prop_map(
        |((sql, sql_id), args, named_args, want_rows)| Stmt {
            sql,
            sql_id,
            args,
            named_args,
            want_rows,
        },
    )
}

fn cond() -> impl Strategy<Value = BatchCond> {
    let leaf = prop_oneof![
        any::<u32>().prop_map(|step| BatchCond::Ok { step }),
        any::<u32>().prop_map(|step| BatchCond::Error { step }),
        Just(BatchCond::IsAutocommit),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|cond| BatchCond::Not { cond: Box::new(cond) }),
            vec(inner.clone(), 0..3).prop_map(|conds| BatchCond::And { conds }),
            vec(inner, 0..3).prop_map(|conds| BatchCond::Or { conds }),
        ]
    })
}

fn batch() -> impl Strategy<Value = Batch> {
    let step = (option::of(cond()), stmt());
    let step = step.prop_map(|(condition, stmt)| BatchStep { condition, stmt });
    vec(step, 0..3).prop_map(|steps| Batch { steps })
}

fn cols() -> impl Strategy<Value = Vec<Col>> {
    let text = || option::of(any::<String>());
    vec((text(), text()).prop_map(|(name, decltype)| Col { name, decltype }), 0..3)
}

fn result() -> impl Strategy<Value = StmtResult> {
    let counts = (any::<u64>(), option::of(any::<i64>()), any::<u64>(), any::<u64>(), float());
    (cols(), vec(vec(value(), 0..3), 0..3), counts).prop_map(|(cols, rows, counts)| {
        let (affected_row_count, last_insert_rowid, rows_read, rows_written, query_duration_ms) =
            counts;
        StmtResult {
            cols,
            rows,
            affected_row_count,
            last_insert_rowid,
            rows_read,
            rows_written,
            query_duration_ms,
        }
    })
}

fn error() -> impl Strategy<Value = Error> {
    any::<(String, String)>().prop_map(|(code, message)| Error { message, code })
}

fn batch_result() -> impl Strategy<Value = BatchResult> {
    (vec(option::of(result()), 0..3), vec(option::of(error()), 0..3))
        .prop_map(|(step_results, step_errors)| BatchResult { step_results, step_errors })
}

fn described() -> impl Strategy<Value = DescribeResult> {
    let text = || option::of(any::<String>());
    let param = text().prop_map(|name| DescribeParam { name });
    let col = (any::<String>(), text()).prop_map(|(name, decltype)| DescribeCol { name, decltype });
    (vec(param, 0..3), vec(col, 0..3), any::<(bool, bool)>()).prop_map(
        |(params, cols, (is_explain, is_readonly))| DescribeResult {
            params,
            cols,
            is_explain,
            is_readonly,
        },
    )
}

fn entry() -> impl Strategy<Value = CursorEntry> {
    prop_oneof![
        (any::<u32>(), cols()).prop_map(|(step, cols)| CursorEntry::StepBegin { step, cols }),
        vec(value(), 0..4).prop_map(|row| CursorEntry::Row { row }),
        (any::<u64>(), option::of(any::<i64>())).prop_map(|(affected_row_count, id)| {
            CursorEntry::StepEnd { affected_row_count, last_insert_rowid: id }
        }),
        (any::<u32>(), error()).prop_map(|(step, error)| CursorEntry::StepError { step, error }),
        error().prop_map(|error| CursorEntry::Error { error }),
    ]
}

fn asked() -> impl Strategy<Value = StreamRequest> {
    let sql = || (option::of(any::<String>()), option::of(any::<i32>()));
    prop_oneof![
        Just(StreamRequest::Close),
        Just(StreamRequest::GetAutocommit),
        stmt().prop_map(|stmt| StreamRequest::Execute { stmt }),
        batch().prop_map(|batch| StreamRequest::Batch { batch }),
        sql().prop_map(|(sql, sql_id)| StreamRequest::Sequence { sql, sql_id }),
        sql().prop_map(|(sql, sql_id)| StreamRequest::Describe { sql, sql_id }),
        any::<(i32, String)>().prop_map(|(sql_id, sql)| StreamRequest::StoreSql { sql_id, sql }),
        any::<i32>().prop_map(|sql_id| StreamRequest::CloseSql { sql_id }),
    ]
}

fn answered() -> impl Strategy<Value = StreamResult> {
    let response = prop_oneof![
        Just(StreamResponse::Close),
        result().prop_map(|result| StreamResponse::Execute { result }),
        batch_result().prop_map(|result| StreamResponse::Batch { result }),
        described().prop_map(|result| StreamResponse::Describe { result }),
        any::<bool>().prop_map(|is_autocommit| StreamResponse::GetAutocommit { is_autocommit }),
    ];
    prop_oneof![
        response.prop_map(|response| StreamResult::Ok { response }),
        error().prop_map(|error| StreamResult::Error { error }),
    ]
}

fn asked_by_socket() -> impl Strategy<Value = Request> {
    let sql = || (option::of(any::<String>()), option::of(any::<i32>()));
    prop_oneof![
        any::<i32>().prop_map(|stream_id| Request::OpenStream { stream_id }),
        any::<i32>().prop_map(|stream_id| Request::GetAutocommit { stream_id }),
        (any::<i32>(), stmt()).prop_map(|(stream_id, stmt)| Request::Execute { stream_id, stmt }),
        (any::<(i32, i32)>(), batch()).prop_map(|((stream_id, cursor_id), batch)| {
            Request::OpenCursor { stream_id, cursor_id, batch }
        }),
        any::<(i32, u32)>()
            .prop_map(|(cursor_id, max_count)| Request::FetchCursor { cursor_id, max_count }),
        (any::<i32>(), sql()).prop_map(|(stream_id, (sql, sql_id))| Request::Sequence {
            stream_id,
            sql,
            sql_id
        }),
        any::<(i32, String)>().prop_map(|(sql_id, sql)| Request::StoreSql { sql_id, sql }),
    ]
}

proptest! {
    #[test]
    fn bodies_of_pipelines(
        baton in option::of(any::<String>()),
        requests in vec(asked(), 0..4),
        results in vec(answered(), 0..4),
    ) {
        let request = PipelineRequest { baton: baton.clone(), requests };
        prop_assert_eq!(back(&request), request);
        let response = PipelineResponse { baton, base_url: None, results };
        prop_assert_eq!(back(&response), response);
    }

    #[test]
    fn cursors(baton in option::of(any::<String>()), batch in batch(), entry in entry()) {
        let request = CursorRequest { baton, batch };
        prop_assert_eq!(back(&request), request);
        prop_assert_eq!(back(&entry), entry);
    }

    #[test]
    fn messages(
        request_id in any::<i32>(),
        request in asked_by_socket(),
        entries in vec(entry(), 0..4),
        error in error(),
    ) {
        let message = ClientMsg::Request { request_id, request };
        prop_assert_eq!(back(&message), message);
        let response = Response::FetchCursor { entries, done: false };
        let message = ServerMsg::ResponseOk { request_id, response };
        prop_assert_eq!(back(&message), message);
        let message = ServerMsg::ResponseError { request_id, error };
        prop_assert_eq!(back(&message), message);
    }

    /// Whatever the bytes, they are read or refused.
    #[test]
    fn noise(text in r#"[\[\]{}",:a-z0-9_\\]{0,60}"#) {
        let _ = serde_json::from_str::<PipelineRequest>(&text);
        let _ = serde_json::from_str::<ClientMsg>(&text);
    }
}
