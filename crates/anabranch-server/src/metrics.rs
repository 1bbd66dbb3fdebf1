//! What is counted, by its name and unit.
//!
//! | metric | meaning |
//! |---|---|
//! | `anabranch_http_requests_total` | requests, by dialect, method and status |
//! | `anabranch_http_request_duration_seconds` | from the header's arrival to the answer's header, by dialect |
//! | `anabranch_http_connections` | open connections |
//! | `anabranch_appends_total` | appends to logs, by dialect and outcome |
//! | `anabranch_append_duration_seconds` | time of an append until it is durable, by dialect |
//! | `anabranch_append_bytes_total` | compressed bytes appended, by dialect |
//! | `anabranch_databases_open` | databases that are open |
//! | `anabranch_sql_streams` | streams of SQL, those that wait for their client included |
//! | `anabranch_sql_sockets` | open WebSockets |
//! | `anabranch_libsql_refused_total` | pushes of libSQL clients that were refused, by reason |
//! | `anabranch_libsql_healed_total` | pushes of libSQL clients whose rows were merged |
//! | `anabranch_libsql_heal_conflicts_total` | rows among them that did not end as they were written |
//! | `anabranch_libsql_heal_renumbered_total` | rows among them that got another key |

use std::time::Duration;

use anabranch_store::{AppendError, Appended};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the buckets for times, in seconds.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Makes what is counted readable. `None` if something else in this process counts already.
pub(crate) fn install() -> Option<PrometheusHandle> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(seconds, &SECONDS).ok()?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok()?;
    describe_counter!("anabranch_http_requests_total", "Requests, by dialect, method and status.");
    describe_histogram!(
        "anabranch_http_request_duration_seconds",
        "Time until the header of the answer, by dialect."
    );
    describe_gauge!("anabranch_http_connections", "Open connections.");
    describe_counter!("anabranch_appends_total", "Appends to logs, by dialect and outcome.");
    describe_histogram!(
        "anabranch_append_duration_seconds",
        "Time of an append until it is durable, by dialect."
    );
    describe_counter!("anabranch_append_bytes_total", "Compressed bytes appended, by dialect.");
    describe_gauge!("anabranch_databases_open", "Databases that are open.");
    describe_gauge!("anabranch_sql_streams", "Streams of SQL, those that wait included.");
    describe_gauge!("anabranch_sql_sockets", "Open WebSockets.");
    describe_counter!(
        "anabranch_libsql_refused_total",
        "Pushes of libSQL clients that were refused, by reason."
    );
    describe_counter!(
        "anabranch_libsql_healed_total",
        "Pushes of libSQL clients that had no place in the log, and whose rows were merged."
    );
    describe_counter!(
        "anabranch_libsql_heal_conflicts_total",
        "Rows of merged pushes that did not end as they were written."
    );
    describe_counter!(
        "anabranch_libsql_heal_renumbered_total",
        "Rows of merged pushes that got another key."
    );
    Some(handle)
}

pub(crate) fn request(dialect: &'static str, method: &'static str, status: u16, took: Duration) {
    counter!(
        "anabranch_http_requests_total",
        "dialect" => dialect, "method" => method, "status" => status.to_string()
    )
    .increment(1);
    histogram!("anabranch_http_request_duration_seconds", "dialect" => dialect)
        .record(took.as_secs_f64());
}

pub(crate) fn append(
    dialect: &'static str,
    outcome: &Result<Appended, AppendError>,
    bytes: u64,
    took: Duration,
) {
    let word = match outcome {
        Ok(Appended::Won(_)) => "won",
        Ok(Appended::Lost(_)) => "lost",
        Err(AppendError::Unknown { .. }) => "unknown",
        Err(_) => "failed",
    };
    counter!("anabranch_appends_total", "dialect" => dialect, "outcome" => word).increment(1);
    if word == "won" {
        histogram!("anabranch_append_duration_seconds", "dialect" => dialect)
            .record(took.as_secs_f64());
        counter!("anabranch_append_bytes_total", "dialect" => dialect).increment(bytes);
    }
}

/// A push of a libSQL client was refused.
pub(crate) fn libsql_refused(reason: &'static str) {
    counter!("anabranch_libsql_refused_total", "reason" => reason).increment(1);
}

/// The rows of a push of a libSQL client were merged into the log.
pub(crate) fn libsql_healed(conflicts: u64, renumbered: u64) {
    counter!("anabranch_libsql_healed_total").increment(1);
    counter!("anabranch_libsql_heal_conflicts_total").increment(conflicts);
    counter!("anabranch_libsql_heal_renumbered_total").increment(renumbered);
}

pub(crate) fn open_databases(count: usize) {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^52")]
    gauge!("anabranch_databases_open").set(count as f64);
}

pub(crate) fn sql_streams(count: usize) {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^52")]
    gauge!("anabranch_sql_streams").set(count as f64);
}

/// Counts a WebSocket as long as it lives.
#[derive(Debug)]
pub(crate) struct Socket(());

impl Socket {
    pub(crate) fn open() -> Self {
        gauge!("anabranch_sql_sockets").increment(1.0);
        Socket(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        gauge!("anabranch_sql_sockets").decrement(1.0);
    }
}

/// Counts a connection as long as it lives.
#[derive(Debug)]
pub(crate) struct Connection(());

impl Connection {
    pub(crate) fn open() -> Self {
        gauge!("anabranch_http_connections").increment(1.0);
        Connection(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        gauge!("anabranch_http_connections").decrement(1.0);
    }
}
