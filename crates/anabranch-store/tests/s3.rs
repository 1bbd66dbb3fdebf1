//! The log on an S3 service that the tests start themselves: see `common/s3_server.rs`.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;
#[path = "common/s3_server.rs"]
mod s3_server;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::sync::Arc;

use anabranch_store::{Appended, Location, Progress, Root, StoreError, StoreKind, StoreOptions};
use common::{Fixture, Replica, cloned};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use s3_server::{KEY, SECRET, Server, Trouble};
use tokio::net::TcpListener;

fn store(endpoint: &str) -> Arc<dyn ObjectStore> {
    let store = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id(KEY)
        .with_secret_access_key(SECRET)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build();
    Arc::new(store.unwrap())
}

async fn fixture_on(ignores_conditions: bool) -> (Fixture, Server, String) {
    let directory = tempfile::tempdir().unwrap();
    let (server, endpoint) = Server::start(directory.path(), ignores_conditions).await;
    let mut fixture = Fixture::on(store(&endpoint), StoreKind::Bucket);
    fixture.server = Some(Box::new(directory));
    (fixture, server, endpoint)
}

async fn fixture() -> Result<Fixture, Infallible> {
    Ok(fixture_on(false).await.0)
}

suite!(s3, async { super::fixture().await.unwrap() });

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_ignores_the_condition_is_not_written_to() {
    let (fixture, _, _) = fixture_on(true).await;
    let refused = fixture.root.verify_conditional_put().await.unwrap_err();
    assert!(matches!(refused, StoreError::ConditionIgnored { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_busy_services_lost_answers_and_conflicts_lose_and_double_nothing() {
    let (fixture, server, _) = fixture_on(false).await;
    let log = fixture.log().await;
    let mut a = Replica::new(&log, "a");
    use Trouble::{Busy, Conflict, DoneButBusy, LostAnswer};
    let troubles = [
        vec![Busy],
        vec![LostAnswer],
        vec![DoneButBusy],
        vec![Conflict, Conflict],
        vec![Busy, LostAnswer],
    ];
    for trouble in troubles {
        server.trouble.lock().unwrap().extend(trouble);
        let (db, pushes) = (a.db.clone(), a.pushes);
        let after = db.edited(pushes + 7, 5);
        let push = a.next_push();
        // An unknown outcome is repeated, with the same push.
        let won = loop {
            let segment = db.segment(&after, "a", &push, 1);
            match log.append(&a.head, segment, &Progress::none()).await {
                Ok(Appended::Won(metadata)) => break metadata,
                Ok(lost) => panic!("{lost:?}"),
                Err(e) => {
                    assert!(matches!(e, anabranch_store::AppendError::Unknown { .. }), "{e:?}")
                }
            }
        };
        (a.head, a.db) = (a.head.after(won), after);
    }
    assert_eq!(log.history(100).await.unwrap().len(), 5);
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_gone_is_offline() {
    let (fixture, _, _) = fixture_on(false).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let retry = object_store::RetryConfig { max_retries: 1, ..Default::default() };
    let store = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(nobody)
        .with_allow_http(true)
        .with_access_key_id(KEY)
        .with_secret_access_key(SECRET)
        .with_retry(retry)
        .build()
        .unwrap();
    let root = Root::with_store(Arc::new(store), StoreKind::Bucket, &fixture.options);
    let name = "default".parse().unwrap();
    let e = root.find(&name).await.unwrap_err();
    assert!(e.is_offline(), "{e:?}");
    assert!(!e.to_string().contains(SECRET));
    let log = root.log(&name, &"x".parse().unwrap());
    let e = log.head(&anabranch_store::Anchor::start()).await.unwrap_err();
    assert!(e.is_offline(), "{e:?}");
}

/// Settings come from the environment, which only another process can have changed: the parent
/// starts the service and this program again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_opened_by_its_url_and_the_environment() {
    let (_fixture, _, endpoint) = fixture_on(false).await;
    let run = |secret: &'static str| {
        let endpoint = endpoint.clone();
        tokio::task::spawn_blocking(move || {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_opens_a_bucket", "--ignored"])
                .env("AWS_ACCESS_KEY_ID", KEY)
                .env("AWS_SECRET_ACCESS_KEY", secret)
                .env("ANABRANCH_TEST_ENDPOINT", endpoint)
                .output()
                .unwrap()
        })
    };
    let good = run(SECRET).await.unwrap();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stdout));
    let bad = run("wrong").await.unwrap();
    let said = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert!(!bad.status.success() && said.contains("Refused"), "{said}");
}

#[tokio::test]
#[ignore = "started by a_bucket_is_opened_by_its_url_and_the_environment"]
async fn child_opens_a_bucket() {
    let Some(endpoint) = std::env::var("ANABRANCH_TEST_ENDPOINT").ok() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let options = StoreOptions { endpoint: Some(endpoint), ..StoreOptions::new(scratch.path()) };
    let location = Location::parse(OsStr::new("s3://bucket/some/prefix")).unwrap();
    let root = Root::open(&location, &options).await.unwrap();
    root.verify_conditional_put().await.unwrap();
    let (name, id) = ("default".parse().unwrap(), "id".parse().unwrap());
    root.name(&name, &id).await.unwrap();
    let log = root.log(&name, &id);
    let mut a = Replica::new(&log, "a");
    a.pushed(3).await;
    assert_eq!(cloned(&log, "b").await.unwrap().db, a.db);
}
