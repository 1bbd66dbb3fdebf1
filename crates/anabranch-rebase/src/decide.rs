//! What becomes of a row: the three versions, the rules, and the program's own decision.

use crate::cell::{Cell, Tuple};
use crate::conflict::{Conflict, ConflictKind, Decision, Row};
use crate::error::RebaseError;
use crate::rules::{InsertRule, Policy, Rules};
use crate::table::Table;
use crate::work::{Change, Op, Take, flag};

/// The three versions of a row, in the terms of the result. The base's and the local one name other
/// rows by the keys that these have in the result.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions {
    pub(crate) base: Option<Tuple>,
    pub(crate) local: Option<Tuple>,
    pub(crate) remote: Option<Tuple>,
}

/// What a conflict comes to.
pub(crate) enum Verdict {
    Take(Take),
    /// Neither version: the program's own row.
    Kept(Option<Tuple>),
}

/// Whether the two sides are in conflict about a row; `Err`: what stands without one.
pub(crate) fn conflict(table: &Table, op: Op, rows: &Versions) -> Result<ConflictKind, Take> {
    let Versions { base, local, remote } = rows;
    let remote_unchanged = || match (base, remote) {
        (Some(base), Some(remote)) => base.cells == remote.cells,
        _ => false,
    };
    match (op, local, remote) {
        (Op::Nothing, ..) => Err(Take::Remote),
        (Op::Insert, _, None) => Err(Take::Local),
        (Op::Insert | Op::Update, Some(local), Some(remote)) if table.same_here(local, remote) => {
            Err(Take::Remote)
        }
        (Op::Insert, ..) => Ok(ConflictKind::InsertInsert),
        (Op::Update | Op::Delete, _, Some(_)) if remote_unchanged() => Err(Take::Local),
        (Op::Update, _, Some(_)) => Ok(ConflictKind::UpdateUpdate),
        (Op::Update, _, None) => Ok(ConflictKind::UpdateDelete),
        (Op::Delete, _, None) => Err(Take::Remote),
        (Op::Delete, _, Some(_)) => Ok(ConflictKind::DeleteUpdate),
    }
}

/// Asks the program, else the rules. `describe` makes the conflict for the program.
pub(crate) fn judge(
    table: &Table,
    kind: ConflictKind,
    rows: &Versions,
    rules: &Rules,
    describe: impl Fn(Decision) -> Conflict,
) -> Result<Verdict, RebaseError> {
    if let Some(verdict) = ask(table, kind, rows, rules, &describe)? {
        return Ok(verdict);
    }
    match policy(table, kind, rules) {
        Policy::Local => Ok(Verdict::Take(Take::Local)),
        Policy::Remote => Ok(Verdict::Take(Take::Remote)),
        Policy::Merge => Ok(Verdict::Take(Take::Merge)),
        Policy::Abort => Err(aborted(describe(Decision::Remote))),
    }
}

/// Asks the program alone.
pub(crate) fn ask(
    table: &Table,
    kind: ConflictKind,
    rows: &Versions,
    rules: &Rules,
    describe: impl Fn(Decision) -> Conflict,
) -> Result<Option<Verdict>, RebaseError> {
    let Some(resolve) = &rules.resolve else { return Ok(None) };
    let would = match policy(table, kind, rules) {
        _ if kind == ConflictKind::Check => Decision::Remote,
        Policy::Local => Decision::Local,
        Policy::Merge => Decision::Merged,
        Policy::Remote | Policy::Abort => Decision::Remote,
    };
    let conflict = describe(would);
    match resolve.resolve(&conflict) {
        Some(row) => resolved(table, rows, &conflict, row).map(Some),
        None => Ok(None),
    }
}

/// The policy for a conflict: column by column only where there are three rows.
fn policy(table: &Table, kind: ConflictKind, rules: &Rules) -> Policy {
    let policy = rules.policy_of(table.name());
    let policy = match (kind, rules.insert_rule_of(table.name())) {
        (ConflictKind::InsertInsert, Some(InsertRule::Local)) => Policy::Local,
        (ConflictKind::InsertInsert, Some(InsertRule::Remote)) => Policy::Remote,
        (ConflictKind::InsertInsert, Some(InsertRule::Abort)) => Policy::Abort,
        _ => policy,
    };
    match policy {
        Policy::Merge if kind != ConflictKind::UpdateUpdate => Policy::Local,
        other => other,
    }
}

pub(crate) fn aborted(conflict: Conflict) -> RebaseError {
    RebaseError::Aborted {
        table: conflict.table.clone(),
        kind: conflict.kind,
        conflict: Box::new(conflict),
    }
}

/// The row that a program decided on, checked.
fn resolved(
    table: &Table,
    rows: &Versions,
    conflict: &Conflict,
    row: Option<Row>,
) -> Result<Verdict, RebaseError> {
    let refuse = |why: String| RebaseError::Resolved { table: table.name().to_owned(), why };
    let Some(row) = row else {
        return Ok(match (&rows.local, &rows.remote) {
            (None, _) => Verdict::Take(Take::Local),
            (_, None) => Verdict::Take(Take::Remote),
            _ => Verdict::Kept(None),
        });
    };
    if row.columns.len() != row.values.len() {
        return Err(refuse(format!(
            "it has {} columns and {} values",
            row.columns.len(),
            row.values.len()
        )));
    }
    // Columns that it does not name are as they would have been.
    let Some(mut tuple) = local_over(table, rows).or_else(|| rows.remote.clone()) else {
        return Err(refuse("there is no row to change".to_owned()));
    };
    let key = table.key_of(&tuple);
    for (name, value) in row.columns.iter().zip(row.values) {
        if table.keyless() && name == "rowid" {
            if tuple.rowid.map(rusqlite::types::Value::Integer) != Some(value) {
                return Err(refuse("it has another rowid".to_owned()));
            }
            continue;
        }
        let at = table.position(name).ok_or_else(|| refuse(format!("it has no column {name}")))?;
        tuple.cells[at] = Cell::from(value);
    }
    let same_key = table.key_of(&tuple) == key
        && table.rowid_column().is_none_or(|at| {
            tuple.rowid.is_some_and(|rowid| tuple.cells[at] == Cell::Integer(rowid))
        });
    if !same_key {
        return Err(refuse(format!("it has another key ({})", conflict.key.columns.join(", "))));
    }
    if rows.remote.as_ref().is_some_and(|remote| remote.cells == tuple.cells) {
        return Ok(Verdict::Take(Take::Remote));
    }
    if local_over(table, rows).is_some_and(|local| local.cells == tuple.cells) {
        return Ok(Verdict::Take(Take::Local));
    }
    Ok(Verdict::Kept(Some(tuple)))
}

/// The local row; what the local side has no column for is as the remote has it.
pub(crate) fn local_over(table: &Table, rows: &Versions) -> Option<Tuple> {
    let mut row = rows.local.clone()?;
    if let Some(remote) = &rows.remote {
        for at in (0..row.cells.len()).filter(|&at| !table.here(at)) {
            row.cells[at] = remote.cells[at].clone();
        }
    }
    Some(row)
}

/// Column by column: what one side changed keeps that change, what both changed is as here.
pub(crate) fn merged(table: &Table, rows: &Versions) -> Option<Tuple> {
    let (Some(base), Some(remote)) = (&rows.base, &rows.remote) else {
        return local_over(table, rows);
    };
    let mut row = local_over(table, rows)?;
    for at in 0..row.cells.len() {
        if row.cells[at] == base.cells[at] {
            row.cells[at] = remote.cells[at].clone();
        }
    }
    Some(row)
}

/// What is to be said of a decision.
pub(crate) fn decision(table: &Table, change: &Change, rows: &Versions) -> Decision {
    match (change.take, change.dest.rowid()) {
        (Take::Local | Take::Remote, Some(to))
            if change.has(flag::RENUMBERED) && change.kind == Some(ConflictKind::InsertInsert) =>
        {
            Decision::Renumbered(to)
        }
        (Take::Local, _) => Decision::Local,
        (Take::Remote, _) => Decision::Remote,
        (Take::Merge, _) if merged(table, rows) == local_over(table, rows) => Decision::Local,
        (Take::Merge | Take::Kept, _) => Decision::Merged,
    }
}
