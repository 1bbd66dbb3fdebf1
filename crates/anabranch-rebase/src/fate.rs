//! What becomes of each table: decided from the three schemas, before anything is written.
//!
//! | here | at the remote | in the result |
//! |---|---|---|
//! | as in the base | anything | as at the remote |
//! | created, changed, dropped | as in the base | as here |
//! | changed | changed alike | as at the remote |
//! | changed | changed in another way | an error, unless one side's schema is taken |
//!
//! A table that got another name, or whose columns did, is the same table. That a statement names
//! what was renamed elsewhere is no change of it.
//!
//! If one side's schema is taken, tables that it did not change stay as it has them where something
//! that it made needs that (`needs`).

use crate::columns::Table;
use crate::declared::{appended, same_statement};
use crate::error::RebaseError;
use crate::lost::Lost;
use crate::needs;
use crate::objects::Object;
use crate::plan::Key;
use crate::rules::{Rules, Side};
use crate::shadow;
use crate::sql::same_name;
use crate::state::{State, Succession};

/// What is done to a table of the scratch copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing.
    Keep,
    /// It is made by the local statement.
    Create,
    /// Rows stay as they are stored; these columns, as they are written, are appended.
    Alter { appended: Vec<String> },
    /// It is made by the local statement, and its rows are copied.
    Rebuild,
    /// It is made by the local statement, without its rows: those of the local side are all.
    Replace,
    /// It goes.
    Drop,
}

/// What becomes of a table.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    /// Its names.
    pub(crate) base: Option<String>,
    pub(crate) local: Option<String>,
    pub(crate) onto: Option<String>,
    pub(crate) act: Act,
    /// Whose declaration it has in the end.
    pub(crate) from: Side,
    /// Its name in the end; `None`: it is gone.
    pub(crate) result: Option<String>,
    /// Columns of the scratch copy that get the local side's names.
    pub(crate) columns: Vec<(String, String)>,
    pub(crate) is_virtual: bool,
    /// Whether rows of the base and of the local side can be found in the result by their keys.
    pub(crate) keyed: bool,
}

/// The three states and how they hang together.
pub(crate) struct Trio<'a> {
    pub(crate) base: State<'a>,
    pub(crate) local: State<'a>,
    pub(crate) onto: State<'a>,
    /// From the base to the local side.
    pub(crate) here: Succession,
    /// From the base to the remote.
    pub(crate) there: Succession,
}

/// Fates, and the rows that they cost.
pub(crate) type Fates = (Vec<Fate>, Vec<Lost>);

/// Decides on all tables that the base or the local side has.
pub(crate) fn decide(trio: &Trio<'_>, rules: &Rules) -> Result<Fates, RebaseError> {
    let mut deciding = Deciding { trio, rules, lost: Vec::new() };
    let mut fates = Vec::new();
    for base in trio.base.made() {
        let local = trio.here.table(&base.name).and_then(|n| trio.local.objects.table(n));
        let onto = trio.there.table(&base.name).and_then(|n| trio.onto.objects.table(n));
        fates.extend(deciding.fate(Some(base), local, onto)?);
    }
    for local in trio.local.made().filter(|o| !trio.here.leads_to(&o.name)) {
        let onto = trio
            .onto
            .made()
            .find(|o| same_name(&o.name, &local.name) && !trio.there.leads_to(&o.name));
        fates.extend(deciding.fate(None, Some(local), onto)?);
    }
    names_are_free(trio, &fates)?;
    Ok((fates, deciding.lost))
}

/// Two tables may have got one name.
fn names_are_free(trio: &Trio<'_>, fates: &[Fate]) -> Result<(), RebaseError> {
    for fate in fates {
        let (Some(result), Side::Local) = (&fate.result, fate.from) else { continue };
        let stays = |name: &str| {
            let of_fate =
                fates.iter().find(|f| f.onto.as_deref().is_some_and(|o| same_name(o, name)));
            of_fate.is_none_or(|f| f.result.as_deref().is_some_and(|r| same_name(r, name)))
        };
        let taken = trio.onto.made().find(|o| {
            same_name(&o.name, result)
                && fate.onto.as_ref().is_none_or(|onto| !same_name(onto, &o.name))
                && stays(&o.name)
        });
        if let Some(taken) = taken {
            let local = fate.local.as_deref().and_then(|n| trio.local.objects.table(n));
            return Err(RebaseError::SchemaBroken {
                kind: "table".into(),
                name: local.map_or_else(|| result.clone(), |o| o.name.clone()),
                of: Side::Local,
                why: format!("the remote has another table {}", taken.name),
            });
        }
    }
    Ok(())
}

struct Deciding<'a, 'b> {
    trio: &'a Trio<'b>,
    rules: &'a Rules,
    lost: Vec<Lost>,
}

impl Deciding<'_, '_> {
    fn fate(
        &mut self,
        base: Option<&Object>,
        local: Option<&Object>,
        onto: Option<&Object>,
    ) -> Result<Option<Fate>, RebaseError> {
        match (base, local, onto) {
            (_, Some(local), Some(onto)) => self.both(base, local, onto).map(Some),
            (None, Some(local), None) => Ok(Some(fate(None, Some(local), None, Act::Create))),
            (Some(base), None, Some(onto)) => self.dropped_here(base, onto).map(Some),
            (Some(base), Some(local), None) => self.dropped_there(base, local),
            (_, None, _) => Ok(None),
        }
    }

    fn both(
        &mut self,
        base: Option<&Object>,
        local: &Object,
        onto: &Object,
    ) -> Result<Fate, RebaseError> {
        let here = base.is_none_or(|b| self.changed_here(b, local));
        let there = base.is_none_or(|b| self.changed_there(b, onto));
        let same = || {
            let renames = crate::declared::Renames::default();
            same_name(&local.name, &onto.name) && same_statement(text(local), text(onto), &renames)
        };
        let keep = fate(base, Some(local), Some(onto), Act::Keep);
        if !here
            && let Some(base) = base
            && self.needed(Side::Local, base, local, Some(onto))
        {
            let names = self.trio.there.renames();
            let more = !same_statement(text(base), text(onto), names);
            return self.adopt(Some(base), local, onto, more);
        }
        if !here || there && same() {
            return self.keep(base, local, onto, keep);
        }
        if !there {
            if base.is_some_and(|base| self.needed(Side::Remote, base, onto, Some(local))) {
                return self.keep(base, local, onto, keep);
            }
            return self.adopt(base, local, onto, false);
        }
        match self.taken(base, Some(local), Some(onto))? {
            Side::Local => self.adopt(base, local, onto, true),
            Side::Remote => self.keep(base, local, onto, keep),
        }
    }

    /// The remote's declaration stands.
    fn keep(
        &mut self,
        base: Option<&Object>,
        local: &Object,
        onto: &Object,
        mut keep: Fate,
    ) -> Result<Fate, RebaseError> {
        let (Some(ours), Some(theirs)) =
            (self.trio.local.table(&local.name), self.trio.onto.table(&onto.name))
        else {
            return self.keep_virtual(base, local, onto, keep);
        };
        let Some(base) = base else {
            keep.keyed = theirs.key.iter().all(|c| ours.column(c).is_some());
            self.lost.extend(if keep.keyed {
                Lost::columns(self.trio, Side::Local, "", &local.name)
            } else {
                Some(Lost::rows(Side::Local, "", &local.name))
            });
            return Ok(keep);
        };
        keep.keyed = self.keyed(base, theirs, &self.trio.there, &self.trio.here);
        if !keep.keyed {
            let lost = Lost::rows(Side::Local, &base.name, &local.name);
            if lost.any(self.trio)? {
                match self.taken(Some(base), Some(local), Some(onto))? {
                    Side::Local => return self.adopt(Some(base), local, onto, true),
                    Side::Remote => self.lost.push(lost),
                }
            }
        } else if let Some(lost) = Lost::columns(self.trio, Side::Local, &base.name, &local.name) {
            self.lost.push(lost);
        }
        Ok(keep)
    }

    /// The remote's declaration of a virtual table stands. Where it is another one, what the local
    /// side wrote has no place in it.
    fn keep_virtual(
        &mut self,
        base: Option<&Object>,
        local: &Object,
        onto: &Object,
        mut keep: Fate,
    ) -> Result<Fate, RebaseError> {
        let trio = self.trio;
        let there = trio.there.renames();
        if same_statement(text(base.unwrap_or(local)), text(onto), there) {
            return Ok(keep);
        }
        keep.keyed = false;
        let written = match base {
            Some(base) => !shadow::same(&trio.base, &base.name, &trio.local, &local.name)?,
            None => true,
        };
        if written {
            if self.taken(base, Some(local), Some(onto))? == Side::Local {
                return self.adopt(base, local, onto, true);
            }
            let before = base.map_or("", |b| b.name.as_str());
            self.lost.push(Lost::rows(Side::Local, before, &local.name));
        }
        Ok(keep)
    }

    /// The local declaration stands; `both` changed it.
    fn adopt(
        &mut self,
        base: Option<&Object>,
        local: &Object,
        onto: &Object,
        both: bool,
    ) -> Result<Fate, RebaseError> {
        let trio = self.trio;
        let mut fate = fate(base, Some(local), Some(onto), Act::Rebuild);
        fate.from = Side::Local;
        fate.result = Some(local.name.clone());
        if local.module.is_some() || onto.module.is_some() {
            let renames = trio.here.renames();
            if !both && base.is_some_and(|b| same_statement(text(b), text(local), renames)) {
                fate.act = Act::Alter { appended: Vec::new() };
                return Ok(fate);
            }
            // What it holds comes from here as well.
            fate.act = Act::Replace;
            if self.untouched(base, onto)? {
                return Ok(fate);
            }
            if !both && self.taken(base, Some(local), Some(onto))? == Side::Remote {
                return Ok(crate::fate::fate(base, Some(local), Some(onto), Act::Keep));
            }
            let before = base.map_or("", |b| b.name.as_str());
            self.lost.push(Lost::rows(Side::Remote, before, &onto.name));
            return Ok(fate);
        }
        if let Some(base) = base {
            let pairs = trio.there.columns(&base.name).iter();
            fate.columns = pairs
                .filter_map(|(b, r)| {
                    let l = trio.here.column(&base.name, b)?;
                    (r != l).then(|| (r.clone(), l.to_owned()))
                })
                .collect();
            let renames = trio.here.renames();
            if !both && let Some(columns) = appended(text(base), text(local), renames) {
                let appended = columns.into_iter().map(str::to_owned).collect();
                fate.act = Act::Alter { appended };
                return Ok(fate);
            }
        }
        let ours = trio.local.table(&local.name);
        fate.keyed = match (base, ours, trio.onto.table(&onto.name)) {
            (Some(base), Some(ours), _) => self.keyed(base, ours, &trio.here, &trio.there),
            (None, Some(ours), Some(theirs)) => ours.key.iter().all(|c| theirs.column(c).is_some()),
            _ => false,
        };
        let before = base.map_or("", |b| b.name.as_str());
        if !fate.keyed {
            // Rows of the two declarations cannot be told to be the same.
            fate.act = Act::Replace;
            let lost = Lost::rows(Side::Remote, before, &onto.name);
            if lost.any(trio)? {
                if !both && self.taken(base, Some(local), Some(onto))? == Side::Remote {
                    let keep = crate::fate::fate(base, Some(local), Some(onto), Act::Keep);
                    return self.keep(base, local, onto, keep);
                }
                self.lost.push(lost);
            }
        } else if let Some(lost) = Lost::columns(trio, Side::Remote, before, &onto.name) {
            self.lost.push(lost);
        }
        Ok(fate)
    }

    /// Whether a virtual table is at the remote as it was in the base.
    fn untouched(&self, base: Option<&Object>, onto: &Object) -> Result<bool, RebaseError> {
        match base {
            Some(base) => shadow::same(&self.trio.base, &base.name, &self.trio.onto, &onto.name),
            None => Ok(false),
        }
    }

    fn dropped_here(&mut self, base: &Object, onto: &Object) -> Result<Fate, RebaseError> {
        let mut gone = fate(Some(base), None, Some(onto), Act::Drop);
        gone.from = Side::Local;
        gone.result = None;
        let lost = Lost::rows(Side::Remote, &base.name, &onto.name);
        let touched =
            if gone.is_virtual { !self.untouched(Some(base), onto)? } else { lost.any(self.trio)? };
        let needed = self.needed(Side::Remote, base, onto, None);
        if touched || needed || self.changed_there(base, onto) {
            if self.taken(Some(base), None, Some(onto))? == Side::Remote {
                return Ok(fate(Some(base), None, Some(onto), Act::Keep));
            }
            self.lost.push(lost);
        }
        Ok(gone)
    }

    fn dropped_there(
        &mut self,
        base: &Object,
        local: &Object,
    ) -> Result<Option<Fate>, RebaseError> {
        let lost = Lost::rows(Side::Local, &base.name, &local.name);
        let touched = if local.module.is_some() {
            !shadow::same(&self.trio.base, &base.name, &self.trio.local, &local.name)?
        } else {
            lost.any(self.trio)?
        };
        let needed = self.needed(Side::Local, base, local, None);
        if !touched && !needed && !self.changed_here(base, local) {
            return Ok(None);
        }
        if self.taken(Some(base), Some(local), None)? == Side::Remote {
            self.lost.push(lost);
            return Ok(None);
        }
        Ok(Some(fate(None, Some(local), None, Act::Create)))
    }

    /// Whether the keys of `result`, which comes `from` the base, are columns of the base and of
    /// the `other` side as well.
    fn keyed(&self, base: &Object, result: &Table, from: &Succession, other: &Succession) -> bool {
        let old = self.trio.base.table(&base.name);
        match (result.key(&[]), old) {
            (Some(Key::Rowid { .. }), Some(old)) => old.key.is_empty(),
            (Some(_), Some(old)) => {
                let stable = |column: &String| {
                    let before = from.column_before(&base.name, column);
                    before.is_some_and(|b| other.column(&base.name, b).is_some())
                };
                // A rowid that is the key is an integer; another key may have been anything.
                result.key.iter().all(stable) && (!result.rowid_is_key || old.rowid_is_key)
            }
            _ => false,
        }
    }

    fn changed_here(&self, base: &Object, local: &Object) -> bool {
        changed(&self.trio.here, base, local)
    }

    fn changed_there(&self, base: &Object, onto: &Object) -> bool {
        changed(&self.trio.there, base, onto)
    }

    /// Whether the schema of `side` is taken, and something it made needs a table as it has it.
    fn needed(&self, side: Side, base: &Object, own: &Object, other: Option<&Object>) -> bool {
        self.rules.take_schema == Some(side) && needs::needed(self.trio, side, base, own, other)
    }

    /// Whose schema is taken where both sides changed a table.
    fn taken(
        &self,
        base: Option<&Object>,
        local: Option<&Object>,
        onto: Option<&Object>,
    ) -> Result<Side, RebaseError> {
        let said = |object: Option<&Object>| object.map(|o| text(o).to_owned()).unwrap_or_default();
        self.rules.take_schema.ok_or_else(|| RebaseError::SchemaConflict {
            kind: "table".into(),
            name: base.or(local).or(onto).map(|o| o.name.clone()).unwrap_or_default(),
            local: said(local),
            remote: said(onto),
        })
    }
}

/// Whether a table is declared in another way: names that changed elsewhere do not count, its own do.
fn changed(to: &Succession, before: &Object, after: &Object) -> bool {
    if before.sql == after.sql {
        return false;
    }
    before.name != after.name
        || !to.renamed_columns(&before.name).pairs.is_empty()
        || !same_statement(text(before), text(after), to.renames())
}

pub(crate) fn text(object: &Object) -> &str {
    object.sql.as_deref().unwrap_or_default()
}

fn fate(base: Option<&Object>, local: Option<&Object>, onto: Option<&Object>, act: Act) -> Fate {
    let name = |object: Option<&Object>| object.map(|o| o.name.clone());
    let from = if act == Act::Create { Side::Local } else { Side::Remote };
    Fate {
        base: name(base),
        local: name(local),
        onto: name(onto),
        from,
        result: name(if act == Act::Create { local } else { onto }),
        act,
        columns: Vec::new(),
        is_virtual: local.or(onto).is_some_and(|o| o.module.is_some()),
        keyed: true,
    }
}
