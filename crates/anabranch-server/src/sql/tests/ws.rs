use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::{DEADLINE, Running, execute, plain, start, tokens};

struct Client(WebSocketStream<TcpStream>);

/// Connects with these subprotocols; answers the one chosen, or the status of a refusal.
async fn offer(server: &Running, path: &str, protocols: &str) -> Result<(Client, String), u16> {
    let mut request = format!("ws://{}{path}", server.address).into_client_request().unwrap();
    if !protocols.is_empty() {
        let header = protocols.parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", header);
    }
    let stream = TcpStream::connect(server.address).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, response)) => {
            let chosen = response.headers().get("sec-websocket-protocol");
            let chosen = chosen.map_or("", |value| value.to_str().unwrap()).to_owned();
            Ok((Client(socket), chosen))
        }
        Err(WsError::Http(response)) => Err(response.status().as_u16()),
        Err(e) => panic!("{e}"),
    }
}

async fn connect(server: &Running, version: u8) -> Client {
    let (mut client, _) = offer(server, "/", &format!("hrana{version}")).await.unwrap();
    client.send(&json!({"type": "hello"})).await;
    assert_eq!(client.next().await, json!({"type": "hello_ok"}));
    client
}

impl Client {
    async fn send(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn request(&mut self, id: i32, request: Value) {
        self.send(&json!({"type": "request", "request_id": id, "request": request})).await;
    }

    async fn message(&mut self) -> Option<Message> {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.0.next()).await.unwrap();
            match message {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                _ => return None,
            }
        }
    }

    async fn next(&mut self) -> Value {
        match self.message().await {
            Some(Message::Text(text)) => plain(serde_json::from_str(&text).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a request and waits for its answer, which must be the next.
    async fn ask(&mut self, request: Value) -> Value {
        self.request(9, request).await;
        let answer = self.next().await;
        assert_eq!(answer["request_id"], 9, "{answer}");
        answer
    }

    /// With what the server closes.
    async fn closed(mut self) -> (u16, String) {
        loop {
            match self.message().await {
                Some(Message::Close(Some(frame))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Message::Text(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn on_stream(mut request: Value, stream: i32) -> Value {
    request["stream_id"] = stream.into();
    request
}

fn open(stream: i32) -> Value {
    json!({"type": "open_stream", "stream_id": stream})
}

#[tokio::test]
async fn a_client_sends_everything_at_once_and_is_answered_in_full() {
    let server = start(|c| c.tokens = tokens("alpha\n")).await;
    let (mut client, chosen) = offer(&server, "/notes/", "hrana2, hrana1").await.unwrap();
    assert_eq!(chosen, "hrana2");
    client.send(&json!({"type": "hello", "jwt": "alpha"})).await;
    client.request(0, open(0)).await;
    client.request(1, json!({"type": "store_sql", "sql_id": 0, "sql": "SELECT 7 AS x"})).await;
    client.request(2, json!({"type": "execute", "stream_id": 0, "stmt": {"sql_id": 0}})).await;
    client.request(3, json!({"type": "close_stream", "stream_id": 0})).await;
    assert_eq!(client.next().await, json!({"type": "hello_ok"}));
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(client.next().await);
    }
    answers.sort_by_key(|answer| answer["request_id"].as_i64());
    let ok = |id: i32, response: Value| json!({"type": "response_ok", "request_id": id, "response": response});
    let result = json!({"cols": [{"name": "x", "decltype": null}],
        "rows": [[{"type": "integer", "value": "7"}]], "affected_row_count": 0,
        "last_insert_rowid": null, "replication_index": null});
    assert_eq!(
        answers,
        [
            ok(0, json!({"type": "open_stream"})),
            ok(1, json!({"type": "store_sql"})),
            ok(2, json!({"type": "execute", "result": result})),
            ok(3, json!({"type": "close_stream"})),
        ]
    );
    // Numbers are used again, and a later hello replaces the token.
    client.send(&json!({"type": "hello", "jwt": "alpha"})).await;
    assert_eq!(client.next().await, json!({"type": "hello_ok"}));
    assert_eq!(client.ask(open(0)).await["type"], "response_ok");
    let failed = client.ask(on_stream(execute("SELECT * FROM nowhere"), 0)).await;
    assert_eq!(failed["type"], "response_error");
    assert!(failed["error"]["message"].as_str().unwrap().contains("no such table: nowhere"));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn the_server_chooses_the_best_subprotocol() {
    let server = start(|_| {}).await;
    let chosen = async |offers| offer(&server, "/", offers).await.map(|(_, chosen)| chosen);
    assert_eq!(chosen("hrana1,hrana3, hrana2").await, Ok("hrana3".into()));
    assert_eq!(chosen("").await, Ok(String::new()));
    assert_eq!(chosen("hrana3-protobuf").await, Err(400));
    server.stop().await;
    let server = start(|c| c.limits.sql_sockets = 1).await;
    let first = offer(&server, "/", "hrana2").await.unwrap();
    assert_eq!(offer(&server, "/", "hrana2").await.err(), Some(429));
    drop(first);
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_said_before_the_connection_is_closed() {
    let server = start(|c| c.tokens = tokens("alpha\nread beta\n")).await;
    for (hello, code) in [
        (json!({"type": "hello", "jwt": "gamma"}), "AUTH_JWT_INVALID"),
        (json!({"type": "hello"}), "AUTH_JWT_MISSING"),
    ] {
        let (mut client, _) = offer(&server, "/", "hrana2").await.unwrap();
        client.send(&hello).await;
        client.request(0, open(0)).await;
        let answer = client.next().await;
        assert_eq!(
            (&answer["type"], &answer["error"]["code"]),
            (&json!("hello_error"), &json!(code))
        );
        assert_eq!(client.closed().await.0, 1000);
    }
    // Whoever may only read makes no database, and is told so by each request of the stream.
    let (mut client, _) = offer(&server, "/", "hrana2").await.unwrap();
    client.send(&json!({"type": "hello", "jwt": "beta"})).await;
    client.next().await;
    assert_eq!(client.ask(open(0)).await["error"]["code"], "NO_DATABASE");
    let select = client.ask(on_stream(execute("SELECT 1"), 0)).await;
    assert_eq!(select["error"]["code"], "NO_DATABASE");
    let closed = client.ask(json!({"type": "close_stream", "stream_id": 0})).await;
    assert_eq!(closed["type"], "response_ok");
    // With another token the same connection may write.
    client.send(&json!({"type": "hello", "jwt": "alpha"})).await;
    client.next().await;
    assert_eq!(client.ask(open(0)).await["type"], "response_ok");
    let made = client.ask(on_stream(execute("CREATE TABLE t(a)"), 0)).await;
    assert_eq!(made["type"], "response_ok", "{made}");
    client.send(&json!({"type": "hello", "jwt": "beta"})).await;
    client.next().await;
    let refused = client.ask(on_stream(execute("INSERT INTO t VALUES(1)"), 0)).await;
    assert_eq!(refused["error"]["code"], "SQLITE_READONLY");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn what_is_against_the_protocol_closes_the_connection() {
    let server = start(|_| {}).await;
    let stored = json!({"type": "store_sql", "sql_id": 1, "sql": "SELECT 1"});
    let batch = json!({"steps": [{"stmt": {"sql": "SELECT 1"},
        "condition": {"type": "is_autocommit"}}]});
    let cursor = |id: i32| json!({"type": "open_cursor", "stream_id": 0, "cursor_id": id, "batch": {"steps": []}});
    let cases = [
        (2, vec![on_stream(execute("SELECT 1"), 5)], 1008, "no stream 5"),
        (2, vec![json!({"type": "close_stream", "stream_id": 5})], 1008, "no stream 5"),
        (2, vec![open(0), open(0)], 1008, "open already"),
        (
            2,
            vec![open(0), json!({"type": "execute", "stream_id": 0, "stmt": {"sql_id": 3}})],
            1008,
            "3",
        ),
        (2, vec![stored.clone(), stored.clone()], 1008, "stored under 1"),
        (
            2,
            vec![open(0), json!({"type": "batch", "stream_id": 0, "batch": batch})],
            1008,
            "version 3",
        ),
        (2, vec![open(0), json!({"type": "get_autocommit", "stream_id": 0})], 1008, "version 3"),
        (2, vec![open(0), cursor(0)], 1008, "version 3"),
        (1, vec![stored], 1008, "version 2"),
        (3, vec![open(0), cursor(0), cursor(1)], 1008, "cursor already"),
        (
            3,
            vec![json!({"type": "fetch_cursor", "cursor_id": 0, "max_count": 1})],
            1008,
            "cursor 0",
        ),
        (3, vec![json!({"type": "what"})], 1007, "what"),
    ];
    for (version, requests, code, reason) in cases {
        let mut client = connect(&server, version).await;
        for request in requests {
            client.request(0, request).await;
        }
        let closed = client.closed().await;
        assert!(closed.0 == code && closed.1.contains(reason), "{reason}: {closed:?}");
    }
    let (mut early, _) = offer(&server, "/", "hrana2").await.unwrap();
    early.request(0, open(0)).await;
    assert_eq!(early.closed().await.0, 1008, "before hello");
    let mut odd = connect(&server, 2).await;
    odd.0.send(Message::text("{")).await.unwrap();
    assert_eq!(odd.closed().await.0, 1007);
    let mut binary = connect(&server, 2).await;
    binary.0.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(binary.closed().await.0, 1003);
    let mut old = connect(&server, 1).await;
    old.send(&json!({"type": "hello"})).await;
    assert_eq!(old.closed().await.0, 1008, "version 1 knows one hello");
    server.stop().await;
}

#[tokio::test]
async fn messages_are_limited() {
    let server = start(|c| c.limits.sql_body = 1000).await;
    let mut client = connect(&server, 2).await;
    client.0.send(Message::text("x".repeat(2000))).await.unwrap();
    assert_eq!(client.closed().await.0, 1009);
    server.stop().await;
}

#[tokio::test]
async fn a_cursor_is_fetched_in_parts() {
    let server = start(|_| {}).await;
    let mut client = connect(&server, 3).await;
    client.ask(open(1)).await;
    let sql = "SELECT 1 AS a UNION ALL SELECT 2";
    let batch = json!({"steps": [{"stmt": {"sql": sql}}, {"stmt": {"sql": "nonsense"}}]});
    let cursor = json!({"type": "open_cursor", "stream_id": 1, "cursor_id": 4, "batch": batch});
    assert_eq!(client.ask(cursor).await["response"], json!({"type": "open_cursor"}));
    let mut entries = Vec::new();
    for (count, done) in [(1, false), (2, false), (100, true), (100, true)] {
        let fetch = json!({"type": "fetch_cursor", "cursor_id": 4, "max_count": count});
        let answer = client.ask(fetch).await;
        assert_eq!(answer["response"]["done"], done, "{answer}");
        let part = answer["response"]["entries"].as_array().unwrap().clone();
        assert!(part.len() <= count);
        entries.extend(part);
    }
    let kinds: Vec<&str> = entries.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["step_begin", "row", "row", "step_end", "step_error"]);
    let closed = client.ask(json!({"type": "close_cursor", "cursor_id": 4})).await;
    assert_eq!(closed["response"], json!({"type": "close_cursor"}));
    let autocommit = client.ask(json!({"type": "get_autocommit", "stream_id": 1})).await;
    assert_eq!(autocommit["response"]["is_autocommit"], true);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_ends_is_rolled_back() {
    let server = start(|_| {}).await;
    let made =
        server.run(&Value::Null, json!([execute("CREATE TABLE t(a)"), super::close()])).await;
    assert_eq!(made["results"][0]["type"], "ok");
    let mut client = connect(&server, 2).await;
    client.ask(open(0)).await;
    client.ask(on_stream(execute("BEGIN IMMEDIATE"), 0)).await;
    client.ask(on_stream(execute("INSERT INTO t VALUES(1)"), 0)).await;
    drop(client);
    // The other one has the lock until the server has seen that it is gone.
    let insert = json!([execute("INSERT INTO t VALUES(2)"), super::close()]);
    let deadline = std::time::Instant::now() + DEADLINE;
    while server.run(&Value::Null, insert.clone()).await["results"][0]["type"] != "ok" {
        assert!(std::time::Instant::now() < deadline);
    }
    let count = json!([execute("SELECT count(*) FROM t"), super::close()]);
    let answer = server.run(&Value::Null, count).await;
    assert_eq!(super::first(&answer["results"][0])["value"], "1");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_closes_its_connections() {
    let server = start(|_| {}).await;
    let mut client = connect(&server, 2).await;
    client.ask(open(0)).await;
    let (closed, _) = tokio::join!(client.closed(), server.stop());
    assert_eq!(closed.0, 1001);
}

#[tokio::test]
async fn a_plain_request_for_the_root_is_no_socket() {
    let server = start(|_| {}).await;
    assert_eq!(server.ask("GET", "/", "", String::new()).await.status, 404);
    server.stop().await;
}
