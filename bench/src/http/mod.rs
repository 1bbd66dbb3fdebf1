//! Over HTTP: the program's server on a folder, our replicas and, where its driver was built, the
//! official libSQL client, all on this machine.

mod clone;
mod idle;
mod many;
mod server;
mod ship;

use crate::Result;
use crate::report::Report;
use crate::stage::Stage;

pub(crate) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    for name in ["W1", "W2", "W4"] {
        ship::measure(stage, name, report)?;
    }
    idle::measure(stage, report)?;
    many::measure(stage, report)?;
    clone::measure(stage, report)
}
