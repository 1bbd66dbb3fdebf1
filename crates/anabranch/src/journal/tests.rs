use std::sync::Arc;

use anabranch_format::PageSize;
use anabranch_rebase::ConflictKind;

use super::*;
use crate::state::{Phase, RemoteText, State};

fn sidecar() -> (tempfile::TempDir, Sidecar) {
    let dir = tempfile::tempdir().unwrap();
    let remote = RemoteText::new("/river".as_ref());
    let id = crate::entropy::database_id();
    let state = State::fresh(Phase::Ready, remote, "default", id, PageSize::DEFAULT);
    let sidecar = Sidecar::create(&dir.path().join("a.db"), &state).unwrap();
    (dir, sidecar)
}

fn row(values: Vec<Value>) -> Row {
    let columns: Arc<[String]> = (0..values.len()).map(|n| format!("c{n}")).collect();
    Row { columns, values }
}

fn conflict(table: &str) -> Conflict {
    Conflict {
        table: table.to_owned(),
        key: row(vec![Value::Integer(7)]),
        kind: ConflictKind::UpdateDelete,
        base: Some(row(vec![Value::Null, Value::Real(-0.0), Value::Blob(vec![0, 255])])),
        local: Some(row(vec![])),
        remote: None,
        decision: Decision::Renumbered(-3),
        detail: Some("a word".to_owned()),
    }
}

fn origin(intent: i64) -> Origin {
    Origin { intent, at: Micros(50 + intent), base: Lsn::new(1), onto: Lsn::new(9) }
}

#[test]
fn conflicts_count_once_their_intent_is_settled_and_go_if_it_was_not_carried_out() {
    let (_dir, sidecar) = sidecar();
    let all = ConflictFilter { resolved: true, ..ConflictFilter::default() };
    for intent in [1, 2] {
        sidecar.put_conflict(&origin(intent), conflict("t")).unwrap();
        sidecar.put_conflict(&origin(intent), conflict("Other")).unwrap();
    }
    assert!(sidecar.conflict_ids(&all).unwrap().is_empty());
    assert!(sidecar.conflict(1).unwrap().is_none() && sidecar.conflicts_wait().unwrap());
    sidecar.confirm_conflicts(2).unwrap();
    sidecar.drop_conflicts(1).unwrap();
    assert!(!sidecar.conflicts_wait().unwrap());
    let ids = sidecar.conflict_ids(&all).unwrap();
    assert_eq!(ids.len(), 2);
    let first = sidecar.conflict(ids[0]).unwrap().unwrap();
    assert_eq!(first.conflict, conflict("t"));
    assert_eq!((first.base.get(), first.remote_lsn.get(), first.time.0), (1, 9, 52));
    let values: i64 = sidecar
        .conn()
        .query_row("SELECT count(DISTINCT conflict) FROM conflict_value", [], |r| r.get(0))
        .unwrap();
    assert_eq!(values, 2, "nothing is left of those that went");
}

#[test]
fn conflicts_are_found_by_table_time_and_whether_they_are_resolved() {
    let (_dir, sidecar) = sidecar();
    for (intent, table) in [(1, "t"), (2, "T"), (3, "u")] {
        sidecar.put_conflict(&origin(intent), conflict(table)).unwrap();
        sidecar.confirm_conflicts(intent).unwrap();
    }
    let ids = |filter: ConflictFilter| sidecar.conflict_ids(&filter).unwrap().len();
    assert_eq!(ids(ConflictFilter { table: Some("t".into()), ..Default::default() }), 2);
    assert_eq!(ids(ConflictFilter { since: Some(Micros(52)), ..Default::default() }), 2);
    sidecar.resolve_conflict(3, Side::Remote, Micros(99)).unwrap();
    assert_eq!(ids(ConflictFilter::default()), 2);
    assert_eq!(ids(ConflictFilter { resolved: true, ..Default::default() }), 3);
    let resolved = sidecar.conflict(3).unwrap().unwrap().resolved;
    assert_eq!(resolved, Some((Side::Remote, Micros(99))));
}

#[test]
fn a_damaged_conflict_is_named_and_hinders_no_other() {
    let (_dir, sidecar) = sidecar();
    for statement in [
        "UPDATE conflict_value SET value = 8 WHERE conflict = 1 AND part = 0",
        "UPDATE conflict SET tbl = 'x' WHERE id = 1",
        "UPDATE conflict SET parts = 15 WHERE id = 1",
        "UPDATE conflict SET decision = 'nonsense' WHERE id = 1",
        "DELETE FROM conflict_value WHERE conflict = 1 AND part = 1 AND pos = 2",
    ] {
        sidecar.conn().execute_batch("DELETE FROM conflict; DELETE FROM conflict_value").unwrap();
        sidecar.conn().execute_batch("DELETE FROM sqlite_sequence").unwrap();
        for _ in 0..2 {
            sidecar.put_conflict(&origin(1), conflict("t")).unwrap();
        }
        sidecar.confirm_conflicts(1).unwrap();
        assert!(sidecar.conflict(1).unwrap().is_some(), "{statement}");
        assert_eq!(sidecar.conn().execute(statement, []).unwrap(), 1, "{statement}");
        let error = sidecar.conflict(1).unwrap_err();
        assert!(matches!(&error, Error::SidecarDamaged { what, .. } if what.contains('1')));
        assert!(sidecar.conflict(2).unwrap().is_some(), "{statement}");
    }
}
