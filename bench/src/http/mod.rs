//! Over HTTP: the program's server on a folder, our replicas and, where its driver was built, the
//! official libSQL client, all on this machine.

mod bootstrap;
mod clone;
mod idle;
mod many;
mod server;
mod ship;
mod sql;
mod watch;

use crate::Result;
use crate::report::Report;
use crate::stage::Stage;

/// The measurements, each of which can be asked for alone.
pub(crate) const PARTS: [&str; 9] = [
    "http-W1",
    "http-W2",
    "http-W4",
    "http-W5",
    "http-watch",
    "http-bootstrap",
    "http-many",
    "http-W3",
    "http-sql",
];

pub(crate) fn measure(stage: &Stage, part: &str, report: &mut Report) -> Result<()> {
    match part {
        "http-W1" => ship::measure(stage, "W1", report),
        "http-W2" => ship::measure(stage, "W2", report),
        "http-W4" => ship::measure(stage, "W4", report),
        "http-W5" => idle::measure(stage, report),
        "http-watch" => watch::measure(stage, report),
        "http-bootstrap" => bootstrap::measure(stage, report),
        "http-many" => many::measure(stage, report),
        "http-sql" => sql::measure(stage, report),
        _ => clone::measure(stage, report),
    }
}
