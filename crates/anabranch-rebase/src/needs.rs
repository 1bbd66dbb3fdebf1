//! What the side whose schema is taken made, and what it needs of a table that the other side dropped,
//! or whose names it changed: such a table comes back, or keeps its names.

use crate::declared::same_statement;
use crate::fate::{Trio, text};
use crate::objects::{Object, ObjectKind};
use crate::rules::Side;
use crate::sql::{Token, same_name, tokens};

/// Whether something that `side` made or changed would not work any more if the other side's version
/// of a table stood. `own`: the table as `side` has it; `other`: as the other has it, if it does.
/// Names decide, so it may say yes where SQLite would find that nothing is missing.
pub(crate) fn needed(
    trio: &Trio<'_>,
    side: Side,
    base: &Object,
    own: &Object,
    other: Option<&Object>,
) -> bool {
    let (state, succession, others) = match side {
        Side::Local => (&trio.local, &trio.here, &trio.there),
        Side::Remote => (&trio.onto, &trio.there, &trio.here),
    };
    // What was renamed here takes along what the remote made.
    let follows = side == Side::Remote;
    let gone = other.is_none_or(|o| !follows && !same_name(&o.name, &own.name));
    let (mut dropped, mut renamed) = (Vec::new(), Vec::new());
    for (before, column) in succession.columns(&base.name).iter().filter(|_| other.is_some()) {
        match others.column(&base.name, before) {
            None => dropped.push(column.as_str()),
            Some(now) if !follows && !same_name(now, column) => renamed.push(column.as_str()),
            Some(_) => {}
        }
    }
    if !gone && dropped.is_empty() && renamed.is_empty() {
        return false;
    }
    let made = |object: &&Object| {
        let before = trio.base.objects.find(object.kind, &object.name);
        before.is_none_or(|b| !same_statement(text(b), text(object), succession.renames()))
    };
    state.objects.all.iter().filter(|o| o.sql.is_some()).filter(made).any(|object| {
        let all = tokens(text(object));
        let says = |names: &[&str]| names.iter().any(|name| all.iter().any(|t| is(t, name)));
        let on_it = same_name(&object.table, &own.name);
        match object.kind {
            ObjectKind::View | ObjectKind::Trigger => {
                says(&[&own.name]) && (gone || says(&dropped) || says(&renamed))
            }
            // An index goes with its table, and follows its names.
            ObjectKind::Index => on_it && says(&dropped),
            ObjectKind::Table => {
                let refers =
                    all.windows(2).any(|two| two[0].is("REFERENCES") && is(&two[1], &own.name));
                !on_it && refers && (gone || says(&dropped))
            }
        }
    })
}

fn is(token: &Token<'_>, name: &str) -> bool {
    token.name().is_some_and(|said| same_name(&said, name))
}
