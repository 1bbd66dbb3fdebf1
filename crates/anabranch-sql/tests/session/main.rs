//! A session as its users see it: over real connections, in memory and on files.

mod guard;
mod hostile;
mod reuse;
mod statements;
mod support;
mod vectors;
