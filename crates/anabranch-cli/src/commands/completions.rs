//! `completions`: a script for the user's shell.

use std::io::{self, Write};

use clap::CommandFactory as _;
use serde::Serialize;

use crate::args::{Cli, Completions};
use crate::human::Paint;
use crate::output::{Human, Outcome};

#[derive(Serialize)]
struct Script {
    shell: String,
    script: String,
}

impl Human for Script {
    fn human(&self, out: &mut dyn Write, _: Paint) -> io::Result<()> {
        out.write_all(self.script.as_bytes())
    }

    fn is_answer(&self) -> bool {
        true
    }
}

pub(super) fn completions(args: &Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "anabranch", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    Outcome::done(Script { shell: args.shell.to_string(), script })
}
