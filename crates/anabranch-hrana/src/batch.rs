//! Several statements, each with an optional condition on what came of those before it.

use serde::{Deserialize, Serialize};

use crate::Stmt;
use crate::wire::{need, null_default};

/// Several statements in a row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Batch {
    /// In their order.
    #[serde(default, deserialize_with = "null_default")]
    pub steps: Vec<BatchStep>,
}

/// A statement of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchStep {
    /// When to run it; `None`: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<BatchCond>,
    /// The statement.
    pub stmt: Stmt,
}

/// When a step is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "RawCond")]
pub enum BatchCond {
    /// The step ran and succeeded.
    Ok {
        /// Its place in the batch, from 0.
        step: u32,
    },
    /// The step ran and failed.
    Error {
        /// Its place in the batch, from 0.
        step: u32,
    },
    /// The other is false.
    Not {
        /// The other.
        cond: Box<BatchCond>,
    },
    /// All are true.
    And {
        /// The others.
        conds: Vec<BatchCond>,
    },
    /// Any is true.
    Or {
        /// The others.
        conds: Vec<BatchCond>,
    },
    /// No transaction is open at this moment. Since version 3.
    IsAutocommit,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// It ran and succeeded.
    Ok,
    /// It ran and failed.
    Error,
    /// Its condition was false.
    Skipped,
}

/// Why the conditions of a batch cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CondError {
    /// A condition is about a step that does not come before its own.
    #[error("the condition of step {at} is about step {step}, which does not come before it")]
    NotBefore {
        /// Where the condition stands.
        at: usize,
        /// The step that it is about.
        step: u32,
    },
    /// `is_autocommit`, where the version has none.
    #[error("the condition of step {at} is 'is_autocommit', which needs version 3")]
    TooNew {
        /// Where the condition stands.
        at: usize,
    },
}

impl Batch {
    /// Checks that conditions are about earlier steps, and `is_autocommit` is used only where the
    /// version of the protocol has it.
    pub fn check_conditions(&self, is_autocommit_known: bool) -> Result<(), CondError> {
        for (at, step) in self.steps.iter().enumerate() {
            if let Some(cond) = &step.condition {
                cond.check(at, is_autocommit_known)?;
            }
        }
        Ok(())
    }
}

impl BatchCond {
    /// Conditions are nested no deeper; official clients need three.
    pub const DEPTH_MAX: usize = 32;

    /// Whether the step is run, after steps with these outcomes. A step that is not among them counts
    /// as skipped.
    #[must_use]
    pub fn holds(&self, outcomes: &[StepOutcome], is_autocommit: bool) -> bool {
        let is = |step: u32, wanted: StepOutcome| {
            usize::try_from(step).ok().and_then(|step| outcomes.get(step)) == Some(&wanted)
        };
        match self {
            BatchCond::Ok { step } => is(*step, StepOutcome::Ok),
            BatchCond::Error { step } => is(*step, StepOutcome::Error),
            BatchCond::Not { cond } => !cond.holds(outcomes, is_autocommit),
            BatchCond::And { conds } => conds.iter().all(|c| c.holds(outcomes, is_autocommit)),
            BatchCond::Or { conds } => conds.iter().any(|c| c.holds(outcomes, is_autocommit)),
            BatchCond::IsAutocommit => is_autocommit,
        }
    }

    fn check(&self, at: usize, is_autocommit_known: bool) -> Result<(), CondError> {
        match self {
            BatchCond::Ok { step } | BatchCond::Error { step } => {
                let before = usize::try_from(*step).is_ok_and(|step| step < at);
                if before { Ok(()) } else { Err(CondError::NotBefore { at, step: *step }) }
            }
            BatchCond::Not { cond } => cond.check(at, is_autocommit_known),
            BatchCond::And { conds } | BatchCond::Or { conds } => {
                conds.iter().try_for_each(|cond| cond.check(at, is_autocommit_known))
            }
            BatchCond::IsAutocommit if is_autocommit_known => Ok(()),
            BatchCond::IsAutocommit => Err(CondError::TooNew { at }),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum CondKind {
    Ok,
    Error,
    Not,
    And,
    Or,
    IsAutocommit,
}

/// A condition as it is read, and how deep it is.
struct Deep {
    cond: BatchCond,
    depth: usize,
}

/// The members of all conditions together.
#[derive(Deserialize)]
struct RawCond {
    #[serde(rename = "type")]
    kind: CondKind,
    step: Option<u32>,
    cond: Option<Box<RawDeep>>,
    conds: Option<Vec<RawDeep>>,
}

#[derive(Deserialize)]
#[serde(try_from = "RawCond")]
struct RawDeep(Deep);

impl TryFrom<RawCond> for RawDeep {
    type Error = String;

    fn try_from(raw: RawCond) -> Result<Self, String> {
        let many = |conds: Option<Vec<RawDeep>>, kind| -> Result<_, String> {
            let conds = need(conds, "conds", kind)?;
            let depth = conds.iter().map(|inner| inner.0.depth).max().unwrap_or(0);
            Ok((conds.into_iter().map(|inner| inner.0.cond).collect(), depth))
        };
        let (cond, below) = match raw.kind {
            CondKind::Ok => (BatchCond::Ok { step: need(raw.step, "step", "ok")? }, 0),
            CondKind::Error => (BatchCond::Error { step: need(raw.step, "step", "error")? }, 0),
            CondKind::Not => {
                let Deep { cond, depth } = need(raw.cond, "cond", "not")?.0;
                (BatchCond::Not { cond: Box::new(cond) }, depth)
            }
            CondKind::And => {
                let (conds, depth) = many(raw.conds, "and")?;
                (BatchCond::And { conds }, depth)
            }
            CondKind::Or => {
                let (conds, depth) = many(raw.conds, "or")?;
                (BatchCond::Or { conds }, depth)
            }
            CondKind::IsAutocommit => (BatchCond::IsAutocommit, 0),
        };
        let depth = below + 1;
        if depth > BatchCond::DEPTH_MAX {
            return Err(format!(
                "conditions are nested deeper than {} levels",
                BatchCond::DEPTH_MAX
            ));
        }
        Ok(RawDeep(Deep { cond, depth }))
    }
}

impl TryFrom<RawCond> for BatchCond {
    type Error = String;

    fn try_from(raw: RawCond) -> Result<Self, String> {
        Ok(RawDeep::try_from(raw)?.0.cond)
    }
}
