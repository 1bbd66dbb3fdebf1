//! What becomes of indices, views and triggers.

use std::collections::BTreeSet;

use crate::declared::{Renames, renamed_index, same_statement};
use crate::error::RebaseError;
use crate::fate::{Act, Fate, Trio, text};
use crate::objects::{Object, ObjectKind};
use crate::rules::{Rules, Side};
use crate::sql::same_name;
use crate::strings;

/// A change to an index, view or trigger of the scratch copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: ObjectKind,
    pub(crate) name: String,
    /// The statement that makes it; `None`: it goes.
    pub(crate) sql: Option<String>,
    /// Whose statement that is.
    pub(crate) of: Side,
    /// Whether names in double quotes that no column has are texts in it, as on its own side.
    pub(crate) texts: bool,
}

/// Decides on all of them. Those of a table share its fate where it was made or dropped.
pub(crate) fn decide(
    trio: &Trio<'_>,
    fates: &[Fate],
    rules: &Rules,
) -> Result<Vec<Change>, RebaseError> {
    let mut changes = Vec::new();
    for kind in [ObjectKind::Index, ObjectKind::View, ObjectKind::Trigger] {
        // Those that a declaration implies have no statement, and come and go with their table.
        let all = [&trio.base, &trio.local, &trio.onto]
            .into_iter()
            .flat_map(|state| state.objects.of_kind(kind))
            .filter(|o| o.sql.is_some());
        let names: BTreeSet<String> = all.map(|o| o.name.to_ascii_lowercase()).collect();
        for name in names {
            changes.extend(decide_one(trio, fates, rules, kind, &name)?);
        }
    }
    Ok(changes)
}

fn decide_one(
    trio: &Trio<'_>,
    fates: &[Fate],
    rules: &Rules,
    kind: ObjectKind,
    name: &str,
) -> Result<Option<Change>, RebaseError> {
    let base = trio.base.objects.find(kind, name);
    let local = trio.local.objects.find(kind, name);
    let onto = trio.onto.objects.find(kind, name);
    let put = |local: &Object, sql: Option<String>| {
        let table = trio.local.table(&local.table).filter(|_| kind == ObjectKind::Index);
        let texts = table.is_some_and(|t| strings::in_index(text(local), &t.columns));
        Some(Change { kind, name: local.name.clone(), sql, of: Side::Local, texts })
    };
    if kind != ObjectKind::View
        && let Some(end) = with_its_table(trio, fates, base, local, onto)
    {
        return Ok(local.filter(|_| end).and_then(|l| put(l, l.sql.clone())));
    }
    let here = changed(base, local, trio.here.renames());
    let there = changed(base, onto, trio.there.renames());
    if !here {
        return Ok(None);
    }
    if there {
        let same = match (local, onto) {
            (None, None) => true,
            (Some(l), Some(r)) => same_statement(text(l), text(r), &Renames::default()),
            _ => false,
        };
        if same || taken(rules, kind, base, local, onto)? == Side::Remote {
            return Ok(None);
        }
    }
    match local {
        Some(local) => {
            let sql = if kind == ObjectKind::Index {
                index_for_result(trio, fates, local)
            } else {
                local.sql.clone()
            };
            Ok(put(local, sql))
        }
        None => {
            let gone = |o: &Object| Change {
                kind,
                name: o.name.clone(),
                sql: None,
                of: Side::Local,
                texts: false,
            };
            Ok(onto.map(gone))
        }
    }
}

/// Whether an index or trigger is decided on by what becomes of its table: `true`: the local one
/// comes along, `false`: nothing is to be done.
fn with_its_table(
    trio: &Trio<'_>,
    fates: &[Fate],
    base: Option<&Object>,
    local: Option<&Object>,
    onto: Option<&Object>,
) -> Option<bool> {
    let at = |object: Option<&Object>, of: fn(&Fate) -> &Option<String>| {
        let object = object?;
        fates.iter().find(|f| of(f).as_deref().is_some_and(|n| same_name(n, &object.table)))
    };
    let fate =
        at(local, |f| &f.local).or_else(|| at(onto, |f| &f.onto)).or_else(|| at(base, |f| &f.base));
    match fate {
        // The base had it, and neither side or only one has it: the other's change stands.
        Some(fate) if fate.act == Act::Create => Some(true),
        Some(fate) if fate.act == Act::Drop || fate.local.is_none() => Some(false),
        Some(_) => None,
        None => {
            let table = &local.or(onto).or(base)?.table;
            // Dropped at the remote, or made there; a view, or a shadow table.
            let viewed = trio.local.objects.find(ObjectKind::View, table).is_some()
                || trio.onto.objects.find(ObjectKind::View, table).is_some();
            if viewed {
                return None;
            }
            let owner = trio.local.objects.owner_of_shadow(table);
            let fate = owner.and_then(|owner| {
                fates.iter().find(|f| f.local.as_deref().is_some_and(|n| same_name(n, &owner.name)))
            });
            Some(
                local.is_some()
                    && fate.is_some_and(|f| matches!(f.act, Act::Create | Act::Replace)),
            )
        }
    }
}

fn changed(before: Option<&Object>, after: Option<&Object>, renames: &Renames) -> bool {
    match (before, after) {
        (None, None) => false,
        (Some(before), Some(after)) => !same_statement(text(before), text(after), renames),
        _ => true,
    }
}

/// The statement of a local index, for a table or columns that the remote renamed.
fn index_for_result(trio: &Trio<'_>, fates: &[Fate], index: &Object) -> Option<String> {
    let sql = index.sql.clone()?;
    let fate =
        fates.iter().find(|f| f.local.as_deref().is_some_and(|n| same_name(n, &index.table)));
    let Some((fate, base)) = fate.and_then(|f| Some((f, f.base.as_deref()?))) else {
        return Some(sql);
    };
    let result = fate.result.as_deref()?;
    let mut renames = Renames::default();
    if fate.from == Side::Remote {
        for (before, local) in trio.here.columns(base) {
            if let Some(remote) = trio.there.column(base, before) {
                renames.add(local, remote);
            }
        }
    }
    if renames.pairs.is_empty() && same_name(result, &index.table) {
        return Some(sql);
    }
    renamed_index(&sql, result, &renames).or(Some(sql))
}

fn taken(
    rules: &Rules,
    kind: ObjectKind,
    base: Option<&Object>,
    local: Option<&Object>,
    onto: Option<&Object>,
) -> Result<Side, RebaseError> {
    let said = |object: Option<&Object>| object.map(|o| text(o).to_owned()).unwrap_or_default();
    rules.take_schema.ok_or_else(|| RebaseError::SchemaConflict {
        kind: kind.name().into(),
        name: base.or(local).or(onto).map(|o| o.name.clone()).unwrap_or_default(),
        local: said(local),
        remote: said(onto),
    })
}
