//! `remote`: where a replica's remote is.

use std::io::{self, Write};

use serde::Serialize;

use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::Paint;
use crate::output::{Human, Outcome};

#[derive(Serialize)]
struct Place {
    file: String,
    remote: String,
    database: String,
    changed: bool,
}

impl Human for Place {
    fn human(&self, out: &mut dyn Write, _: Paint) -> io::Result<()> {
        match self.changed {
            true => writeln!(out, "the remote of {} is {} now", self.file, self.remote),
            false => writeln!(out, "{}", self.remote),
        }
    }

    fn is_answer(&self) -> bool {
        !self.changed
    }
}

pub(super) async fn remote(args: args::Remote, ctx: &Context) -> Result<Outcome, Failure> {
    let mut replica = ctx.replica(args.file).await?;
    if let Some(place) = &args.set {
        let set = replica.set_remote(place, !args.no_check).await;
        set.map_err(Failure::at_named_place)?;
    }
    Ok(Outcome::done(Place {
        file: replica.file().display().to_string(),
        remote: replica.remote().to_owned(),
        database: replica.database().to_owned(),
        changed: args.set.is_some(),
    }))
}
