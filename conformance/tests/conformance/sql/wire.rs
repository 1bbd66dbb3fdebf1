//! What clients put on the wire, byte by byte where it matters, and what must come back.

use anabranch_conformance::{Answer, ask};
use serde_json::{Value, json};

use crate::support::{TABLE, Yard, insert};

/// Posts a text to an endpoint of the scenario's database, without any header of its own.
fn post(yard: &Yard, endpoint: &str, body: &str) -> Answer {
    ask("POST", &format!("{}/{endpoint}", yard.url()), &[], body.into()).unwrap()
}

#[track_caller]
fn good(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The result of a request that is answered alone.
#[track_caller]
fn only(answer: &Answer) -> Value {
    let json = good(answer);
    assert_eq!(json["results"].as_array().map(Vec::len), Some(1), "{json}");
    json["results"][0].clone()
}

/// What does not depend on time.
fn timeless(mut result: Value) -> Value {
    for name in ["query_duration_ms", "rows_read", "rows_written"] {
        if let Some(object) = result.as_object_mut() {
            object.remove(name);
        }
    }
    result
}

#[test]
fn a_pipeline_is_answered_request_by_request() {
    let yard = Yard::new();
    let body = r#"{"baton": null, "requests": [
        {"type": "execute", "stmt": {"sql": "CREATE TABLE a(id INTEGER PRIMARY KEY, x NUMERIC, b BLOB)"}},
        {"type": "execute", "stmt": {"sql": "INSERT INTO a(x, b) VALUES (?, ?)", "args": [
            {"type": "integer", "value": "-9223372036854775808"}, {"type": "blob", "base64": "AQID/w=="}]}},
        {"type": "execute", "stmt": {"sql": "SELECT x, b, 1.5 AS f, NULL, 'é\"' FROM a"}},
        {"type": "execute", "stmt": {"sql": "SELECT absent"}},
        {"type": "get_autocommit"},
        {"type": "close"}]}"#;
    let json = good(&post(&yard, "v3/pipeline", body));
    assert_eq!((&json["baton"], &json["base_url"]), (&Value::Null, &Value::Null));
    let results = json["results"].as_array().unwrap();
    let types: Vec<&Value> = results.iter().map(|r| &r["response"]["type"]).collect();
    assert_eq!(
        types,
        ["execute", "execute", "execute", "", "get_autocommit", "close"]
            .map(|t| { if t.is_empty() { Value::Null } else { t.into() } })
            .iter()
            .collect::<Vec<_>>()
    );
    assert_eq!(
        timeless(results[1]["response"]["result"].clone()),
        json!({"cols": [], "rows": [], "affected_row_count": 1, "last_insert_rowid": "1",
               "replication_index": null})
    );
    assert_eq!(
        timeless(results[2]["response"]["result"].clone()),
        json!({
            "cols": [
                {"name": "x", "decltype": "NUMERIC"}, {"name": "b", "decltype": "BLOB"},
                {"name": "f", "decltype": null}, {"name": "NULL", "decltype": null},
                {"name": "'é\"'", "decltype": null}],
            "rows": [[
                {"type": "integer", "value": "-9223372036854775808"},
                {"type": "blob", "base64": "AQID/w"},
                {"type": "float", "value": 1.5}, {"type": "null"}, {"type": "text", "value": "é\""}]],
            "affected_row_count": 0, "last_insert_rowid": null, "replication_index": null})
    );
    let error = &results[3]["error"];
    assert_eq!(results[3]["type"], "error");
    assert_eq!(error["code"], "SQL_INPUT_ERROR", "{error}");
    assert!(error["message"].as_str().unwrap().contains("no such column: absent"), "{error}");
    assert_eq!(results[4]["response"]["is_autocommit"], true);
}

/// What clients of both families do to URLs, headers and fields.
#[test]
fn peculiar_requests_are_understood() {
    let yard = Yard::new();
    let select = r#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT 1"}},{"type":"close"}]}"#;
    let url = yard.url();
    let at =
        |url: &str, headers: &[(&str, &str)]| ask("POST", url, headers, select.into()).unwrap();
    let cases: [(String, &[(&str, &str)]); 9] = [
        (format!("{url}/v2/pipeline"), &[]),
        (format!("{url}/v3/pipeline"), &[("content-type", "application/json")]),
        (format!("{url}/v3/pipeline"), &[("content-type", "text/plain; charset=utf-8")]),
        (format!("{url}//v3/pipeline"), &[]),
        (format!("{url}//v3//pipeline"), &[]),
        (format!("{url}/v3/pipeline?x=1"), &[]),
        (format!("{url}/v2/pipeline?tls=0&x"), &[("authorization", "Bearer")]),
        (format!("{url}/v3/pipeline"), &[("authorization", "Bearer ")]),
        (
            format!("{url}/v3/pipeline"),
            &[("accept-encoding", "gzip, deflate"), ("user-agent", "node")],
        ),
    ];
    for (url, headers) in cases {
        let answer = at(&url, headers);
        let compressed = answer.headers.iter().any(|(name, _)| name == "content-encoding");
        if !compressed {
            let json = good(&answer);
            let rows = &json["results"][0]["response"]["result"]["rows"];
            assert_eq!(*rows, json!([[{"type": "integer", "value": "1"}]]), "{url} {headers:?}");
        }
    }
    // Fields that are missing, null, or of a later version.
    for stmt in [
        json!({"sql": "SELECT ?1", "args": [{"type": "text", "value": "x", "more": 1}]}),
        json!({"sql": "SELECT ?1", "args": [{"type": "text", "value": "x"}], "named_args": null,
               "want_rows": null, "sql_id": null, "replication_index": "7"}),
        json!({"sql": "SELECT :x", "named_args": [{"name": "x", "value": {"type": "text", "value": "x"}}]}),
        json!({"sql": "SELECT :x", "named_args": [{"name": ":x", "value": {"type": "text", "value": "x"}}],
               "want_rows": false, "new_field": {"deep": [1, 2]}}),
        json!({"sql": "SELECT 'x';;  -- the end"}),
    ] {
        let request =
            json!({"requests": [{"type": "execute", "stmt": stmt, "other": true}], "later": 1});
        let result = only(&post(&yard, "v2/pipeline", &request.to_string()));
        let rows = &result["response"]["result"]["rows"];
        assert_eq!(*rows, json!([[{"type": "text", "value": "x"}]]), "{stmt}: {result}");
    }
}

#[test]
fn statements_that_are_none_or_badly_bound_have_their_codes() {
    let yard = Yard::new();
    good(&post(&yard, "v2/pipeline", &one(TABLE)));
    good(&post(&yard, "v2/pipeline", &one(&insert("a"))));
    let one_arg = json!([{"type": "integer", "value": "1"}]);
    let named = json!([{"name": "a", "value": {"type": "null"}}]);
    for (stmt, code) in [
        (json!({"sql": ""}), "SQL_NO_STATEMENT"),
        (json!({"sql": " -- nothing"}), "SQL_NO_STATEMENT"),
        (json!({"sql": "SELECT 1; SELECT 2"}), "SQL_MANY_STATEMENTS"),
        (json!({"sql": "SELECT"}), "SQL_PARSE_ERROR"),
        (json!({"sql": "SELECT * FROM nowhere"}), "SQL_INPUT_ERROR"),
        (json!({"sql": "INSERT INTO t VALUES (1, 'again')"}), "SQLITE_CONSTRAINT"),
        (json!({"sql": "INSERT INTO t(id) VALUES ('text')"}), "SQLITE_MISMATCH"),
        (json!({"sql": "SELECT abs(-9223372036854775808)"}), "SQLITE_UNKNOWN"),
        (json!({"sql": "SELECT 1", "args": one_arg}), "ARGS_INVALID"),
        (json!({"sql": "SELECT ?, ?", "args": one_arg}), "ARGS_INVALID"),
        (
            json!({"sql": "SELECT :a", "args": one_arg, "named_args": named}),
            "ARGS_BOTH_POSITIONAL_AND_NAMED",
        ),
    ] {
        let request = json!({"requests": [{"type": "execute", "stmt": stmt}]});
        let result = only(&post(&yard, "v3/pipeline", &request.to_string()));
        assert_eq!(
            (&result["type"], &result["error"]["code"]),
            (&"error".into(), &code.into()),
            "{stmt}: {result}"
        );
        assert!(result["error"]["message"].is_string(), "{result}");
    }
}

/// A pipeline of one statement.
fn one(sql: &str) -> String {
    json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]}).to_string()
}

#[test]
fn a_batch_runs_by_its_conditions() {
    let yard = Yard::new();
    let ok = |step: u32| json!({"type": "ok", "step": step});
    let steps = json!([
        {"stmt": {"sql": "SELECT 'zero'"}},
        {"stmt": {"sql": "SELECT * FROM nowhere"}, "condition": ok(0)},
        {"stmt": {"sql": "SELECT 'not run'"}, "condition": ok(1)},
        {"stmt": {"sql": "SELECT 'run'"}, "condition": {"type": "error", "step": 1}},
        {"stmt": {"sql": "SELECT 'not run'"}, "condition": {"type": "error", "step": 2}},
        {"stmt": {"sql": "SELECT 'run'"}, "condition": {"type": "not", "cond": ok(2)}},
        {"stmt": {"sql": "SELECT 'run'"}, "condition": {"type": "and", "conds": [ok(0), ok(3)]}},
        {"stmt": {"sql": "SELECT 'not run'"}, "condition": {"type": "or", "conds": []}},
        {"stmt": {"sql": "BEGIN"}, "condition": {"type": "is_autocommit"}},
        {"stmt": {"sql": "SELECT 'not run'"}, "condition": {"type": "is_autocommit"}},
        {"stmt": {"sql": "ROLLBACK"}},
    ]);
    let request = json!({"requests": [{"type": "batch", "batch": {"steps": steps}}]});
    let result = only(&post(&yard, "v3/pipeline", &request.to_string()));
    let result = &result["response"]["result"];
    let seen: Vec<String> = (0..11)
        .map(|i| {
            let (done, error) = (&result["step_results"][i], &result["step_errors"][i]);
            match (done.is_null(), error.is_null()) {
                (true, true) => "skipped".to_owned(),
                (true, false) => error["code"].as_str().unwrap().to_owned(),
                (false, true) => done["rows"][0][0]["value"].as_str().unwrap_or("done").to_owned(),
                _ => panic!("both: {result}"),
            }
        })
        .collect();
    assert_eq!(
        seen,
        [
            "zero",
            "SQL_INPUT_ERROR",
            "skipped",
            "run",
            "skipped",
            "run",
            "run",
            "skipped",
            "done",
            "skipped",
            "done",
        ]
    );
}

#[test]
fn a_cursor_comes_line_by_line() {
    let yard = Yard::new();
    good(&post(&yard, "v2/pipeline", &one("CREATE TABLE a(id INTEGER PRIMARY KEY, x TEXT)")));
    let steps = json!([
        {"stmt": {"sql": "INSERT INTO a(x) VALUES ('p'), ('q') RETURNING id, x"}},
        {"stmt": {"sql": "SELECT * FROM nowhere"}},
        {"stmt": {"sql": "SELECT 'skipped'"}, "condition": {"type": "ok", "step": 1}},
        {"stmt": {"sql": "SELECT count(*) FROM a"}},
    ]);
    let answer =
        post(&yard, "v3/cursor", &json!({"baton": null, "batch": {"steps": steps}}).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    assert!(text.ends_with('\n'), "{text}");
    let entries: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries[0]["base_url"], Value::Null);
    assert!(entries[0]["baton"].is_string(), "the stream stays open");
    let text = |text: &str| json!({"type": "text", "value": text});
    let integer = |text: &str| json!({"type": "integer", "value": text});
    assert_eq!(
        entries[1],
        json!({"type": "step_begin", "step": 0, "cols": [
        {"name": "id", "decltype": "INTEGER"}, {"name": "x", "decltype": "TEXT"}]})
    );
    assert_eq!(entries[2], json!({"type": "row", "row": [integer("1"), text("p")]}));
    assert_eq!(entries[3], json!({"type": "row", "row": [integer("2"), text("q")]}));
    assert_eq!(
        entries[4],
        json!({"type": "step_end", "affected_row_count": 2, "last_insert_rowid": "2"})
    );
    let failed = entries.iter().find(|e| e["type"] == "step_error").unwrap();
    assert_eq!(
        (&failed["step"], failed["error"]["code"].is_string()),
        (&json!(1), true),
        "{failed}"
    );
    let last = &entries[entries.len() - 3..];
    assert_eq!(last[0]["step"], 3);
    assert_eq!(last[1], json!({"type": "row", "row": [integer("2")]}));
    assert_eq!(last[2]["type"], "step_end");
    let known = ["step_begin", "row", "step_end", "step_error"];
    assert!(
        entries[1..].iter().all(|e| known.contains(&e["type"].as_str().unwrap())),
        "{entries:?}"
    );
    // Its baton goes on at once.
    let request = json!({"baton": entries[0]["baton"], "requests": [{"type": "get_autocommit"}]});
    let result = only(&post(&yard, "v3/pipeline", &request.to_string()));
    assert_eq!(result["response"]["is_autocommit"], true);
}

#[test]
fn a_statement_is_described_without_being_run() {
    let yard = Yard::new();
    good(&post(&yard, "v2/pipeline", &one("CREATE TABLE a(id INTEGER PRIMARY KEY, x TEXT)")));
    for (sql, expected) in [
        (
            "SELECT id, upper(x) FROM a WHERE id = ?2 AND x = :name",
            json!({
            "params": [{"name": null}, {"name": "?2"}, {"name": ":name"}],
            "cols": [{"name": "id", "decltype": "INTEGER"}, {"name": "upper(x)", "decltype": null}],
            "is_explain": false, "is_readonly": true}),
        ),
        (
            "INSERT INTO a VALUES (1, 'x')",
            json!({"params": [], "cols": [], "is_explain": false, "is_readonly": false}),
        ),
        (
            "BEGIN READONLY",
            json!({"params": [], "cols": [], "is_explain": false, "is_readonly": true}),
        ),
    ] {
        let request = json!({"requests": [{"type": "describe", "sql": sql}]});
        let result = only(&post(&yard, "v2/pipeline", &request.to_string()));
        assert_eq!(result["response"]["result"], expected, "{sql}");
    }
    let request = json!({"requests": [{"type": "describe", "sql": "EXPLAIN SELECT 1"}]});
    let result = only(&post(&yard, "v2/pipeline", &request.to_string()));
    assert_eq!(result["response"]["result"]["is_explain"], true);
    let result = only(&post(&yard, "v2/pipeline", &execute_only("SELECT count(*) FROM a")));
    assert_eq!(result["response"]["result"]["rows"], json!([[{"type": "integer", "value": "0"}]]));
}

fn execute_only(sql: &str) -> String {
    json!({"requests": [{"type": "execute", "stmt": {"sql": sql}}]}).to_string()
}

#[test]
fn stored_texts_belong_to_their_stream() {
    let yard = Yard::new();
    // Longer in bytes than the limit that clients count in units of UTF-16.
    let long = format!("SELECT '{}'", "日".repeat(4_000));
    let request = json!({"requests": [
        {"type": "store_sql", "sql_id": -7, "sql": long},
        {"type": "execute", "stmt": {"sql_id": -7}},
        {"type": "close_sql", "sql_id": 99}]});
    let json = good(&post(&yard, "v2/pipeline", &request.to_string()));
    let value = &json["results"][1]["response"]["result"]["rows"][0][0]["value"];
    assert_eq!(value.as_str().map(|text| text.chars().count()), Some(4_000));
    assert_eq!(json["results"][2]["response"]["type"], "close_sql");
    let request = json!({"baton": json["baton"], "requests": [
        {"type": "close_sql", "sql_id": -7}, {"type": "execute", "stmt": {"sql_id": -7}}]});
    assert_eq!(post(&yard, "v2/pipeline", &request.to_string()).status, 400);
}

#[test]
fn protocol_errors_are_told_from_failing_statements() {
    let yard = Yard::new();
    good(&post(&yard, "v2/pipeline", &one(TABLE)));
    let open = good(&post(&yard, "v2/pipeline", &execute_only("SELECT 1")));
    let again = json!({"baton": open["baton"], "requests": []}).to_string();
    good(&post(&yard, "v2/pipeline", &again));
    let elsewhere = format!("{}/v3/pipeline", yard.url_of("elsewhere"));
    let of_another = good(&ask("POST", &elsewhere, &[], execute_only("BEGIN").into()).unwrap());
    let of_another = of_another["baton"].clone();
    let after_close = json!({"requests": [{"type": "close"}, {"type": "get_autocommit"}]});
    let batch = |cond: Value| {
        json!({"requests": [{"type": "batch", "batch": {"steps": [
            {"stmt": {"sql": "SELECT 1"}, "condition": cond}]}}]})
    };
    for (body, version) in [
        ("{".to_owned(), "v2"),
        (again, "v2"),
        (json!({"baton": "made up", "requests": []}).to_string(), "v3"),
        (json!({"requests": [{"type": "unheard_of"}]}).to_string(), "v3"),
        (json!({"requests": [{"type": "get_autocommit"}]}).to_string(), "v2"),
        (after_close.to_string(), "v3"),
        (batch(json!({"type": "ok", "step": 0})).to_string(), "v3"),
        (batch(json!({"type": "is_autocommit"})).to_string(), "v2"),
        (json!({"requests": [{"type": "execute", "stmt": {"sql_id": 4}}]}).to_string(), "v3"),
        (json!({"baton": of_another, "requests": []}).to_string(), "v3"),
    ] {
        let answer = post(&yard, &format!("{version}/pipeline"), &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        let json = answer.json();
        assert!(
            json["message"].is_string() && json["code"].is_string(),
            "{body}: {}",
            answer.text()
        );
        // Anything behind it hides the message from one client.
        let kind = answer.headers.iter().find(|(name, _)| name == "content-type");
        assert_eq!(kind.map(|(_, value)| value.as_str()), Some("application/json"), "{body}");
    }
}

#[test]
fn probes_and_browsers_are_answered() {
    let yard = Yard::new();
    let get = |path: &str| ask("GET", &format!("{}/{path}", yard.url()), &[], Vec::new()).unwrap();
    assert_eq!((get("v2").status, get("v3").status), (200, 200));
    assert_eq!(get("v3-protobuf").status, 404, "a client would switch to it");
    // A web page elsewhere must not reach a server that asks for no token.
    let origin = [("origin", "https://elsewhere.example")];
    let url = format!("{}/v2/pipeline", yard.url());
    let answer = ask("POST", &url, &origin, one("SELECT 1").into()).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());

    let yard = Yard::with_tokens("secret", "");
    let url = format!("{}/v2/pipeline", yard.url());
    let asked = [
        origin[0],
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, content-type"),
    ];
    let answer = ask("OPTIONS", &url, &asked, Vec::new()).unwrap();
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    let with_token = [origin[0], ("authorization", "Bearer secret")];
    let answer = ask("POST", &url, &with_token, one("SELECT 1").into()).unwrap();
    good(&answer);
    let allowed = answer.headers.iter().find(|(name, _)| name == "access-control-allow-origin");
    assert!(allowed.is_some(), "{:?}", answer.headers);
}
