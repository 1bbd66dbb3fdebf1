use std::time::Duration;

use anabranch_hrana::CursorEntry;
use serde_json::{Value, json};

use super::{DEADLINE, Running, close, execute, first, plain, start, start_in, tokens};
use crate::config::{Create, TenantBy};

fn no_rows(affected: u64, id: Value) -> Value {
    json!({"type": "ok", "response": {"type": "execute", "result": {"cols": [], "rows": [],
        "affected_row_count": affected, "last_insert_rowid": id, "replication_index": null}}})
}

fn integer(n: i64) -> Value {
    json!({"type": "integer", "value": n.to_string()})
}

async fn table(server: &Running) {
    let made =
        server.run(&Value::Null, json!([execute("CREATE TABLE t(a INTEGER UNIQUE, b)"), close()]));
    assert_eq!(made.await["baton"], Value::Null);
}

async fn count(server: &Running) -> Value {
    let answer =
        server.run(&Value::Null, json!([execute("SELECT count(*) FROM t"), close()])).await;
    first(&answer["results"][0]).clone()
}

#[tokio::test]
async fn each_request_has_its_result_in_order() {
    let server = start(|_| {}).await;
    table(&server).await;
    let requests = json!([
        {"type": "execute", "stmt": {"sql": "INSERT INTO t VALUES(?, ?)", "args":
            [{"type": "integer", "value": "1"}, {"type": "blob", "base64": "AQ=="}]}},
        execute("INSERT INTO t VALUES(1, 2)"),
        execute("SELECT a, b, a + 0.5 AS c, NULL, 'x' FROM t"),
        {"type": "sequence", "sql": "INSERT INTO t VALUES(2, 2); INSERT INTO t VALUES(3, 3)"},
        {"type": "describe", "sql": "SELECT a FROM t WHERE a = :a AND b = ?"},
        {"type": "store_sql", "sql_id": 5, "sql": "SELECT count(*) FROM t"},
        {"type": "execute", "stmt": {"sql_id": 5, "want_rows": false}},
        {"type": "close_sql", "sql_id": 5},
        {"type": "close_sql", "sql_id": 5},
        close(),
    ]);
    let answer = server.pipeline("/v2/pipeline", &Value::Null, requests).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let answer = plain(answer.ok());
    assert_eq!((&answer["baton"], &answer["base_url"]), (&Value::Null, &Value::Null));
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 10);
    assert_eq!(results[0], no_rows(1, json!("1")));
    let failed = json!({"type": "error", "error": {"code": "SQLITE_CONSTRAINT",
        "message": "SQLite error: UNIQUE constraint failed: t.a"}});
    assert_eq!(results[1], failed);
    let selected = json!({"type": "ok", "response": {"type": "execute", "result": {
        "cols": [{"name": "a", "decltype": "INTEGER"}, {"name": "b", "decltype": null},
            {"name": "c", "decltype": null}, {"name": "NULL", "decltype": null},
            {"name": "'x'", "decltype": null}],
        "rows": [[integer(1), {"type": "blob", "base64": "AQ"}, {"type": "float", "value": 1.5},
            {"type": "null"}, {"type": "text", "value": "x"}]],
        "affected_row_count": 0, "last_insert_rowid": null, "replication_index": null}}});
    assert_eq!(results[2]["response"]["result"]["cols"].as_array().unwrap().len(), 5);
    assert_eq!(results[2]["response"]["result"]["rows"], selected["response"]["result"]["rows"]);
    assert_eq!(results[2], selected);
    assert_eq!(results[3], json!({"type": "ok", "response": {"type": "sequence"}}));
    let described = &results[4]["response"]["result"];
    assert_eq!(described["params"], json!([{"name": ":a"}, {"name": null}]));
    assert_eq!(described["is_readonly"], true);
    assert_eq!(results[5], json!({"type": "ok", "response": {"type": "store_sql"}}));
    assert_eq!(first(&results[6]), &integer(3), "rows are sent, wanted or not");
    assert_eq!(results[8], json!({"type": "ok", "response": {"type": "close_sql"}}));
    assert_eq!(results[9], json!({"type": "ok", "response": {"type": "close"}}));
    server.stop().await;
}

#[tokio::test]
async fn a_baton_leads_to_its_stream_once() {
    let server = start(|_| {}).await;
    table(&server).await;
    let begun =
        server.run(&Value::Null, json!([execute("BEGIN"), execute("INSERT INTO t VALUES(1, 1)")]));
    let old = begun.await["baton"].clone();
    let seen = server.run(&old, json!([{"type": "get_autocommit"}])).await;
    let in_transaction = json!({"type": "ok",
        "response": {"type": "get_autocommit", "is_autocommit": false}});
    assert_eq!(seen["results"][0], in_transaction);
    assert_ne!(seen["baton"], old);
    let again = json!([execute("SELECT 1")]);
    for path in ["/v2/pipeline", "/v3/pipeline"] {
        server.pipeline(path, &old, again.clone()).await.refused(400, "PROTOCOL_ERROR");
    }
    let elsewhere = server.pipeline("/other/v3/pipeline", &seen["baton"], again.clone()).await;
    elsewhere.refused(400, "PROTOCOL_ERROR");
    server.pipeline("/v3/pipeline", &json!("x"), again).await.refused(400, "PROTOCOL_ERROR");
    let done = server.run(&seen["baton"], json!([execute("COMMIT"), close()])).await;
    assert_eq!(done["baton"], Value::Null);
    assert_eq!(count(&server).await, integer(1));
    server.stop().await;
}

#[tokio::test]
async fn closing_rolls_back_and_succeeds_for_any_baton() {
    let server = start(|_| {}).await;
    table(&server).await;
    let begun =
        server.run(&Value::Null, json!([execute("BEGIN"), execute("INSERT INTO t VALUES(1, 1)")]));
    let baton = begun.await["baton"].clone();
    let closed = json!({"baton": null, "base_url": null,
        "results": [{"type": "ok", "response": {"type": "close"}}]});
    // The second time it is gone.
    for baton in [&baton, &baton, &json!("nonsense"), &Value::Null] {
        for path in ["/v2/pipeline", "/v3/pipeline", "/nowhere/v3/pipeline"] {
            assert_eq!(server.pipeline(path, baton, json!([close()])).await.ok(), closed);
        }
    }
    assert_eq!(count(&server).await, integer(0));
    server.stop().await;
}

#[tokio::test]
async fn an_expired_stream_with_nothing_to_lose_is_replaced() {
    let server = start(|_| {}).await;
    for path in ["/v2/pipeline", "/v3/pipeline"] {
        let first = server.pipeline(path, &Value::Null, json!([execute("SELECT 1")])).await.ok();
        server.expire();
        let second =
            server.pipeline(path, &first["baton"], json!([execute("SELECT 1")])).await.ok();
        assert_eq!(second["results"][0]["type"], "ok");
        assert!(second["baton"].is_string());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_baton_outlives_the_server() {
    let server = start(|_| {}).await;
    let first = server.run(&Value::Null, json!([execute("SELECT 1")])).await;
    let begun = server.run(&Value::Null, json!([execute("BEGIN")])).await;
    let dir = server.stop().await;
    let server = start_in(dir, |_| {}).await;
    let second = server.run(&first["baton"], json!([execute("SELECT 1")])).await;
    assert_eq!(second["results"][0]["type"], "ok");
    let lost = server.run(&begun["baton"], json!([execute("COMMIT")])).await;
    assert_eq!(lost["results"][0]["error"]["code"], "STREAM_EXPIRED");
    server.stop().await;
}

#[tokio::test]
async fn an_expired_transaction_is_told_once() {
    let server = start(|_| {}).await;
    let begin = json!([execute("BEGIN")]);
    let stored = json!([{"type": "store_sql", "sql_id": 1, "sql": "SELECT 1"}]);
    let expired = json!({"code": "STREAM_EXPIRED",
        "message": "The stream has expired due to inactivity"});
    for lost in [begin, stored] {
        let begun = server.run(&Value::Null, lost).await;
        let baton = &begun["baton"];
        server.expire();
        let old = server.pipeline("/v2/pipeline", baton, json!([execute("COMMIT"), close()])).await;
        old.refused(400, "STREAM_EXPIRED");
        let new = server.run(baton, json!([execute("COMMIT"), {"type": "get_autocommit"}])).await;
        let error = json!({"type": "error", "error": expired});
        assert_eq!(new, json!({"baton": null, "base_url": null, "results": [error, error]}));
        let body = json!({"baton": baton, "batch": {"steps": [{"stmt": {"sql": "SELECT 1"}}]}});
        let cursor = server.ask("POST", "/v3/cursor", "", body.to_string()).await;
        assert_eq!(cursor.status, 200);
        let lines: Vec<Value> =
            cursor.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let step = json!({"type": "step_error", "step": 0, "error": expired});
        assert_eq!(lines, [json!({"baton": null, "base_url": null}), step]);
    }
    server.stop().await;
}

#[tokio::test]
async fn steps_of_a_batch_depend_on_earlier_ones() {
    let server = start(|_| {}).await;
    table(&server).await;
    let ok = |step: u32| json!({"type": "ok", "step": step});
    let step = |sql: &str, condition: Value| json!({"stmt": {"sql": sql}, "condition": condition});
    let batch = json!({"type": "batch", "batch": {"steps": [
        step("BEGIN IMMEDIATE", Value::Null),
        step("INSERT INTO t VALUES(1, 1)", ok(0)),
        step("INSERT INTO t VALUES(1, 2)", ok(1)),
        step("COMMIT", ok(2)),
        step("ROLLBACK", json!({"type": "and", "conds": [{"type": "not", "cond": ok(3)},
            {"type": "not", "cond": {"type": "is_autocommit"}}]})),
    ]}});
    let answer = plain(server.run(&Value::Null, json!([batch, close()])).await);
    let response = &answer["results"][0]["response"];
    assert_eq!(response["type"], "batch");
    assert_eq!(response["result"]["replication_index"], Value::Null);
    let ran = |list: &str| -> Vec<bool> {
        let steps = response["result"][list].as_array().unwrap();
        steps.iter().map(|step| !step.is_null()).collect()
    };
    assert_eq!(ran("step_results"), [true, true, false, false, true]);
    assert_eq!(ran("step_errors"), [false, false, true, false, false]);
    assert_eq!(response["result"]["step_results"][1], no_rows(1, json!("1"))["response"]["result"]);
    assert_eq!(count(&server).await, integer(0));
    server.stop().await;
}

#[tokio::test]
async fn what_is_against_the_protocol_runs_nothing() {
    let server = start(|_| {}).await;
    table(&server).await;
    let insert = execute("INSERT INTO t VALUES(1, 1)");
    let batch = |cond: Value| json!({"type": "batch", "batch": {"steps": [{"stmt": {"sql": "SELECT 1"}, "condition": cond}]}});
    let cases = [
        ("/v2/pipeline", json!([insert, close(), insert])),
        ("/v3/pipeline", json!([insert, {"type": "what"}])),
        ("/v3/pipeline", json!([insert, {"type": "execute"}])),
        ("/v3/pipeline", json!([insert, batch(json!({"type": "ok", "step": 0}))])),
        ("/v2/pipeline", json!([insert, batch(json!({"type": "is_autocommit"}))])),
        ("/v2/pipeline", json!([insert, {"type": "get_autocommit"}])),
        ("/v2/pipeline", json!("x")),
    ];
    for (path, requests) in cases {
        server.pipeline(path, &Value::Null, requests).await.refused(400, "PROTOCOL_ERROR");
    }
    server.ask("POST", "/v2/pipeline", "", "{".into()).await.refused(400, "PROTOCOL_ERROR");
    assert_eq!(count(&server).await, integer(0));
    // These are found only on the way.
    let stored = json!({"type": "store_sql", "sql_id": 1, "sql": "SELECT 1"});
    for requests in [
        json!([{"type": "execute", "stmt": {"sql_id": 1}}]),
        json!([{"type": "execute", "stmt": {}}]),
        json!([{"type": "sequence", "sql": "SELECT 1", "sql_id": 1}]),
        json!([stored, stored]),
    ] {
        let answer = server.pipeline("/v2/pipeline", &Value::Null, requests).await;
        answer.refused(400, "PROTOCOL_ERROR");
    }
    let long = "x".repeat(65 << 10);
    let kept = json!([{"type": "store_sql", "sql_id": 1, "sql": long}]);
    let answer = server.run(&Value::Null, kept).await;
    assert_eq!(answer["results"][0]["error"]["code"], "SQL_STORE_TOO_LARGE");
    server.stop().await;
}

#[tokio::test]
async fn a_cursor_answers_line_by_line() {
    let server = start(|_| {}).await;
    table(&server).await;
    let body = json!({"batch": {"steps": [
        {"stmt": {"sql": "INSERT INTO t VALUES(1, 1), (2, 2)"}},
        {"stmt": {"sql": "SELECT a FROM t ORDER BY a"}},
        {"stmt": {"sql": "INSERT INTO t VALUES(1, 1)"}},
        {"stmt": {"sql": "SELECT 1"}, "condition": {"type": "ok", "step": 2}},
    ]}});
    let answer = server.ask("POST", "/v3/cursor", "", body.to_string()).await;
    assert_eq!(
        (answer.status, answer.headers["content-type"].as_bytes()),
        (200, &b"text/plain"[..])
    );
    assert!(answer.text.ends_with('\n'));
    let mut lines: Vec<Value> =
        answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let head = lines.remove(0);
    assert!(head["baton"].is_string() && head["base_url"].is_null(), "{head}");
    // A step that fails may have begun.
    lines.retain(|line| *line != json!({"type": "step_begin", "step": 2, "cols": []}));
    assert_eq!(
        lines,
        [
            json!({"type": "step_begin", "step": 0, "cols": []}),
            json!({"type": "step_end", "affected_row_count": 2, "last_insert_rowid": "2"}),
            json!({"type": "step_begin", "step": 1,
                "cols": [{"name": "a", "decltype": "INTEGER"}]}),
            json!({"type": "row", "row": [integer(1)]}),
            json!({"type": "row", "row": [integer(2)]}),
            json!({"type": "step_end", "affected_row_count": 0, "last_insert_rowid": null}),
            json!({"type": "step_error", "step": 2, "error": {"code": "SQLITE_CONSTRAINT",
                "message": "SQLite error: UNIQUE constraint failed: t.a"}}),
        ]
    );
    let next = server.run(&head["baton"], json!([execute("SELECT 1"), close()])).await;
    assert_eq!(next["results"][0]["type"], "ok");
    server.stop().await;
}

#[tokio::test]
async fn the_stream_of_a_cursor_is_free_while_its_lines_are_unread() {
    let server = start(|_| {}).await;
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) \
               SELECT i, hex(zeroblob(1000)) FROM n";
    let body = json!({"batch": {"steps": [{"stmt": {"sql": sql}}]}}).to_string();
    let url = format!("http://{}/v3/cursor", server.address);
    let mut answer = server.client.post(url).timeout(DEADLINE).body(body).send().await.unwrap();
    let mut text = answer.chunk().await.unwrap().unwrap().to_vec();
    let end = text.iter().position(|b| *b == b'\n').expect("the head comes at once");
    let head: Value = serde_json::from_slice(&text[..end]).unwrap();
    let next = server.run(&head["baton"], json!([execute("SELECT 7")])).await;
    assert_eq!(first(&next["results"][0]), &integer(7));
    while let Some(part) = answer.chunk().await.unwrap() {
        text.extend_from_slice(&part);
    }
    let text = String::from_utf8(text).unwrap();
    let entries: Vec<CursorEntry> =
        text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 3002);
    assert!(matches!(entries[3001], CursorEntry::StepEnd { .. }));
    server.stop().await;
}

#[tokio::test]
async fn tokens_count_at_each_request() {
    let server = start(|c| c.tokens = tokens("alpha\nread beta\n")).await;
    let body =
        |baton: &Value, sql: &str| json!({"baton": baton, "requests": [execute(sql)]}).to_string();
    let ask =
        async |token: &str, body: String| server.ask("POST", "/v2/pipeline", token, body).await;
    let create = body(&Value::Null, "CREATE TABLE t(a INTEGER UNIQUE, b)");
    ask("", create.clone()).await.refused(401, "AUTH_JWT_MISSING");
    ask("Bearer", create.clone()).await.refused(401, "AUTH_JWT_MISSING");
    ask("Bearer gamma", create.clone()).await.refused(401, "AUTH_JWT_INVALID");
    // Whoever may only read makes no database.
    ask("Bearer beta", create.clone()).await.refused(404, "NO_DATABASE");
    let made = ask("bearer alpha", create).await.ok();
    assert_eq!(made["results"][0]["type"], "ok");
    // The same stream, with the rights of whoever asks now.
    let refused = ask("Bearer beta", body(&made["baton"], "INSERT INTO t VALUES(1, 1)")).await.ok();
    assert_eq!(refused["results"][0]["error"]["code"], "SQLITE_READONLY");
    let read = ask("Bearer beta", body(&refused["baton"], "SELECT count(*) FROM t")).await.ok();
    assert_eq!(first(&read["results"][0]), &integer(0));
    let wrote = ask("Bearer alpha", body(&read["baton"], "INSERT INTO t VALUES(1, 1)")).await.ok();
    assert_eq!(wrote["results"][0]["type"], "ok");
    ask("Bearer gamma", body(&wrote["baton"], "SELECT 1")).await.refused(401, "AUTH_JWT_INVALID");
    server.stop().await;
}

#[tokio::test]
async fn what_asks_for_versions_and_origins_needs_no_token() {
    let server = start(|c| c.tokens = tokens("alpha\n")).await;
    for path in ["/v2", "/v3/", "/notes/v2", "/notes//v3?x=1"] {
        let answer = server.ask("GET", path, "", String::new()).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
    }
    for path in ["/v3-protobuf", "/notes/v3-protobuf"] {
        let answer = server.ask("GET", path, "", String::new()).await;
        answer.refused(404, "NO_ENDPOINT");
    }
    let get = server.ask("GET", "/v2/pipeline", "Bearer alpha", String::new()).await;
    get.refused(405, "METHOD");
    assert_eq!(get.headers["access-control-allow-origin"], "*", "errors can be read as well");
    let options = server
        .client
        .request(reqwest::Method::OPTIONS, format!("http://{}/notes/v2/pipeline", server.address))
        .header("origin", "https://app.example")
        .header("access-control-request-headers", "authorization,content-type")
        .send();
    let options = options.await.unwrap();
    assert_eq!(options.status(), 204);
    assert_eq!(options.headers()["access-control-allow-origin"], "*");
    assert_eq!(options.headers()["access-control-allow-headers"], "authorization,content-type");
    assert!(options.headers()["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    server.stop().await;
}

#[tokio::test]
async fn clients_without_a_token_send_an_empty_one() {
    let server = start(|_| {}).await;
    let body = json!({"requests": [execute("SELECT 1"), close()]}).to_string();
    for token in ["", "Bearer", "Bearer x"] {
        let answer = server.ask("POST", "/a/v3/pipeline?x=1", token, body.clone()).await;
        assert_eq!(answer.ok()["results"][0]["type"], "ok");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_full_server_closes_idle_streams_but_no_transactions() {
    let server = start(|c| {
        c.limits.sql_streams = 2;
        c.limits.sql_streams_per_database = 1;
    })
    .await;
    let idle = server.run(&Value::Null, json!([execute("SELECT 1")])).await;
    let begun = server.run(&Value::Null, json!([execute("BEGIN")])).await;
    assert_eq!(begun["results"][0]["type"], "ok", "an idle stream made place");
    let full = server.pipeline("/v3/pipeline", &idle["baton"], json!([execute("SELECT 1")])).await;
    full.refused(429, "TOO_MANY_STREAMS");
    assert!(full.headers.contains_key("retry-after"));
    let select = || json!([execute("SELECT 1")]);
    // Other databases have places of their own, as long as there are any.
    server.pipeline("/b/v2/pipeline", &Value::Null, select()).await.ok();
    server.pipeline("/c/v2/pipeline", &Value::Null, select()).await.ok();
    let done = server.run(&begun["baton"], json!([execute("COMMIT"), close()])).await;
    assert_eq!(done["results"][0]["type"], "ok");
    let back = server.run(&idle["baton"], select()).await;
    assert_eq!(back["results"][0]["type"], "ok");
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_that_was_left_behind_gives_its_place_up() {
    let server = start(|c| {
        c.limits.sql_streams_per_database = 1;
        c.sql.transaction_idle = Duration::ZERO;
    })
    .await;
    let begun = server.run(&Value::Null, json!([execute("BEGIN")])).await;
    let other = server.run(&Value::Null, json!([execute("SELECT 1"), close()])).await;
    assert_eq!(other["results"][0]["type"], "ok");
    let lost = server.run(&begun["baton"], json!([execute("COMMIT")])).await;
    assert_eq!(lost["results"][0]["error"]["code"], "STREAM_EXPIRED");
    server.stop().await;
}

#[tokio::test]
async fn bodies_are_limited() {
    let server = start(|c| c.limits.sql_body = 1000).await;
    let long = format!("SELECT '{}'", "x".repeat(1000));
    let answer = server.pipeline("/v2/pipeline", &Value::Null, json!([execute(&long)])).await;
    answer.refused(413, "TOO_LARGE");
    server.stop().await;
}

#[tokio::test]
async fn a_database_is_made_only_where_it_may_be() {
    let server = start(|c| c.create = Create::Explicit).await;
    let answer = server.pipeline("/v2/pipeline", &Value::Null, json!([execute("SELECT 1")])).await;
    answer.refused(404, "NO_DATABASE");
    server.stop().await;
    let by_host = start(|c| c.tenant_by = TenantBy::Host("localhost".into())).await;
    let url = format!("http://{}/v2/pipeline", by_host.address);
    let body = json!({"requests": [execute("SELECT 1"), close()]}).to_string();
    let request = by_host.client.post(url).header("host", "notes.localhost").body(body);
    let answer = request.timeout(Duration::from_secs(10)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    by_host.stop().await;
}
