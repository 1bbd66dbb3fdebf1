//! Servers that are slow, old, forgetful, or that talk nonsense.

use std::sync::Arc;

use anabranch::ServerUrl;

use super::stand_in::{How, Trick};
use super::{Shell, USUAL};
use crate::shell::error::ShellError;
use crate::shell::http::Http;
use crate::shell::remote::Remote;

#[test]
fn a_stream_that_expired_is_replaced_but_not_its_transaction() {
    for trick in [|| Trick::Expire, || Trick::ExpireInAnswer] {
        let mut shell = Shell::remote();
        shell.ok("CREATE TABLE t(a);");
        shell.server().trick(trick());
        shell.ok("INSERT INTO t VALUES(1);");
        assert_eq!(shell.ok("SELECT count(*) FROM t"), "1\n");

        shell.ok("BEGIN; INSERT INTO t VALUES(2);");
        shell.server().trick(trick());
        let refused = shell.fails("INSERT INTO t VALUES(3);");
        assert!(refused.error.has_code("STREAM_EXPIRED"), "{refused:?}");
        assert!(refused.is_rolled_back && refused.error.advice().unwrap().contains("begin anew"));
        assert!(!shell.session.backend.in_transaction());
        assert_eq!(shell.ok("SELECT count(*) FROM t"), "1\n");
    }
    // A server that was started anew knows no baton.
    let mut shell = Shell::remote();
    shell.ok("SELECT 1;");
    shell.server().trick(Trick::Say(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 25\r\n\r\nReceived an invalid baton"
            .to_owned(),
    ));
    assert_eq!(shell.ok("SELECT 2;"), "1\n2\n"[2..].to_owned());
}

#[test]
fn a_server_of_version_2_is_served_as_well() {
    let mut shell = Shell::with(Some(How { version: 2, ..USUAL }));
    shell.ok("CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1);");
    assert!(shell.session.backend.in_transaction());
    assert_eq!(shell.ok("COMMIT; SELECT * FROM t;"), "1\n");
    assert!(!shell.session.backend.in_transaction());
    assert_eq!(shell.server().asked()[..2], ["/db/v3/pipeline", "/db/v2/pipeline"]);
    assert!(shell.server().asked()[2..].iter().all(|path| path == "/db/v2/pipeline"));

    let mut shell = Shell::with(Some(How { version: 1, ..USUAL }));
    let refused = shell.fails("SELECT 1");
    assert!(matches!(*refused.error, ShellError::NoSql { .. }), "{refused:?}");
    assert!(refused.to_string().ends_with(": no such path"), "{refused}");
}

#[test]
fn a_statement_whose_answer_is_lost_is_not_repeated() {
    let mut shell = Shell::remote();
    shell.ok("CREATE TABLE t(a); BEGIN;");
    let asked = shell.server().asked().len();
    shell.server().trick(Trick::GoAway);
    let refused = shell.fails("INSERT INTO t VALUES(1);");
    assert!(matches!(*refused.error, ShellError::Lost { .. }), "{refused:?}");
    assert!(refused.to_string().contains("not known whether"), "{refused}");
    assert_eq!(shell.server().asked().len(), asked + 1);
    assert!(!shell.session.backend.in_transaction());
    shell.ok("SELECT 1");
}

#[test]
fn a_server_that_cannot_be_reached_is_offline() {
    let mut shell = Shell::remote();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = ServerUrl::parse(format!("http://{free}/db").as_ref()).unwrap().unwrap();
    let http = Http::new(url, None, None).unwrap();
    let runtime = shell._runtime.handle().clone();
    shell.session.backend = Box::new(Remote::new(http, runtime, Arc::clone(&shell.interrupt)));
    let refused = shell.fails("SELECT 1");
    assert!(matches!(*refused.error, ShellError::Offline { .. }), "{refused:?}");
    let failure = crate::failure::Failure::Shell(Box::new(refused));
    assert_eq!(failure.exit().code(), 4);
    assert_eq!(failure.json()["error"]["code"], "offline");
}

#[test]
fn refusals_and_nonsense_are_told_as_such() {
    let mut shell = Shell::remote();
    let say = |status: &str, more: &str, body: &str| {
        Trick::Say(format!(
            "HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let mut told = |trick| {
        shell.server().trick(trick);
        shell.fails("SELECT 1").to_string()
    };
    let said = told(say("401 Unauthorized", "", r#"{"message":"no\u001bway"}"#));
    assert!(said.contains("wants another token") && said.contains("no^[way"), "{said}");
    let said = told(say("500 Oops", "", "boom"));
    assert!(said.contains("status 500: boom"), "{said}");
    for body in ["", "{", "[]", "{\"results\":[]}", "{\"results\":[{\"type\":\"ok\"}]}"] {
        let said = told(say("200 OK", "", body));
        assert!(said.contains("makes no sense"), "{body}: {said}");
    }
    let swapped = r#"{"results":[{"type":"ok","response":{"type":"close"}},{"type":"ok","response":{"type":"get_autocommit","is_autocommit":true}}]}"#;
    assert!(told(say("200 OK", "", swapped)).contains("makes no sense"));
    let ragged = r#"{"results":[{"type":"ok","response":{"type":"execute","result":{"cols":[{"name":"a"}],"rows":[[]]}}},{"type":"ok","response":{"type":"get_autocommit","is_autocommit":true}}]}"#;
    assert!(told(say("200 OK", "", ragged)).contains("0 values for 1 columns"));
    let said = told(say("307 There", "Location: http://elsewhere.example/db\r\n", ""));
    assert!(said.contains("to another server, elsewhere.example"), "{said}");
    let said = told(say("307 There", "Location: file:///etc/passwd\r\n", ""));
    assert!(said.contains("no address"), "{said}");
}

#[test]
fn control_c_stops_a_statement_of_a_server_and_the_shell_goes_on() {
    let mut shell = Shell::remote();
    shell.session.is_interactive = true;
    shell.session.bail = false;
    shell.ok("CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1);");
    let (told, wait) = std::sync::mpsc::channel();
    shell.server().trick(Trick::Wait(wait));
    let (asked, interrupt) = (shell.server().asked().len(), Arc::clone(&shell.interrupt));
    std::thread::scope(|scope| {
        let server = shell.server.as_ref().unwrap();
        let session = &mut shell.session;
        scope.spawn(move || {
            while server.asked().len() == asked {
                std::thread::yield_now();
            }
            interrupt.raise();
        });
        session.text("SELECT 1;").unwrap();
    });
    drop(told);
    assert!(shell.session.failed && !shell.session.backend.in_transaction());
    shell.session.bail = true;
    assert_eq!(shell.ok("SELECT 7"), "7\n");
}
