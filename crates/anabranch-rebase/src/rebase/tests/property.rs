//! Random tables, random changes by stock SQL on both sides, every policy.

use proptest::prelude::*;

use super::oracle::{KeyKind, Oracle, Spec};
use super::support::{Case, lines};
use super::*;

const VALUES: [&str; 12] =
    ["NULL", "0", "1", "1.0", "2", "'a'", "'A'", "'b'", "x'61'", "7", "-5", "hex(zeroblob(700))"];

const ACTIONS: [&str; 5] =
    ["", "ON DELETE CASCADE", "ON DELETE SET NULL", "ON DELETE SET DEFAULT", "ON DELETE RESTRICT"];

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let kinds = prop_oneof![
        3 => Just(KeyKind::Rowid),
        2 => Just(KeyKind::Auto),
        1 => Just(KeyKind::Text),
        1 => Just(KeyKind::NocaseWithout),
        1 => Just(KeyKind::Pair),
        1 => Just(KeyKind::PairWithout),
        1 => Just(KeyKind::Nothing),
    ];
    let table = (kinds, 0..3u8, 0..12usize, 0..5usize, 0..8usize, 0..6u8);
    prop::collection::vec(table, 1..4).prop_map(|tables| {
        let kinds: Vec<KeyKind> = tables.iter().map(|t| t.0).collect();
        tables
            .into_iter()
            .enumerate()
            .map(|(at, (key, unique, parent, action, shared, check))| Spec {
                key,
                unique,
                parent: (parent < kinds.len()
                    && !matches!(
                        kinds[parent],
                        KeyKind::Pair | KeyKind::PairWithout | KeyKind::Nothing
                    ))
                .then_some((parent, ACTIONS[action])),
                shared: (shared < at
                    && kinds[shared].rowid()
                    && (key.rowid() || matches!(key, KeyKind::Pair | KeyKind::PairWithout)))
                .then_some(shared),
                check,
            })
            .collect()
    })
}

fn schema(specs: &[Spec]) -> String {
    let mut all = String::new();
    for (at, spec) in specs.iter().enumerate() {
        let shared = spec.shared.map(|p| format!(" REFERENCES t{p}(k)")).unwrap_or_default();
        let (key, last, suffix) = match spec.key {
            KeyKind::Rowid => (format!("k INTEGER PRIMARY KEY{shared},"), "", ""),
            KeyKind::Auto => (format!("k INTEGER PRIMARY KEY AUTOINCREMENT{shared},"), "", ""),
            KeyKind::Text => ("k TEXT PRIMARY KEY,".to_owned(), "", ""),
            KeyKind::NocaseWithout => {
                ("k TEXT PRIMARY KEY COLLATE NOCASE,".to_owned(), "", " WITHOUT ROWID")
            }
            KeyKind::Pair => (format!("k{shared}, l,"), ", PRIMARY KEY(k, l)", ""),
            KeyKind::PairWithout => {
                (format!("k{shared}, l,"), ", PRIMARY KEY(l DESC, k)", " WITHOUT ROWID")
            }
            KeyKind::Nothing => (String::new(), "", ""),
        };
        let unique = if spec.unique == 1 { "UNIQUE" } else { "" };
        let reference = spec
            .parent
            .map(|(parent, action)| {
                let kind = if specs[parent].key.rowid() { "INTEGER" } else { "TEXT" };
                format!("{kind} DEFAULT 1 REFERENCES t{parent}(k) {action}")
            })
            .unwrap_or_default();
        let check = match spec.check {
            1 => "NOT NULL",
            2 => "CHECK (n IS NOT 7)",
            3 => "CHECK (n IS NOT a OR n IS NULL)",
            _ => "",
        };
        all += &format!(
            "CREATE TABLE t{at}({key} a, u {unique}, f {reference}, n {check}{last}){suffix};\n"
        );
        if spec.unique == 2 {
            all += &format!("CREATE UNIQUE INDEX i{at} ON t{at}(u) WHERE a IS NOT NULL;\n");
        }
        all += &format!("CREATE INDEX j{at} ON t{at}({});\n", if at % 2 == 0 { "f" } else { "a" });
    }
    all
}

/// A change: of which table, what, which row, and values.
type Step = (usize, u8, usize, [usize; 5]);

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        (0..3usize, 0..14u8, 0..8usize, prop::array::uniform5(0..12usize)),
        0..most,
    )
}

fn sql(specs: &[Spec], (table, what, row, values): &Step) -> String {
    let table = table % specs.len();
    let spec = &specs[table];
    let v = values.map(|at| VALUES[at]);
    let (key, pick) = match spec.key {
        KeyKind::Rowid | KeyKind::Auto | KeyKind::Text | KeyKind::Nothing => ("k", "rowid"),
        KeyKind::NocaseWithout => ("k", "k"),
        KeyKind::Pair => ("k, l", "rowid"),
        KeyKind::PairWithout => ("k, l", "k, l"),
    };
    let chosen = match spec.key {
        KeyKind::Rowid | KeyKind::Auto => format!("{}", values[0]),
        KeyKind::Pair | KeyKind::PairWithout => format!("{}, {}", v[0], v[4]),
        _ => v[0].to_owned(),
    };
    let rowid = spec.key.rowid();
    let pair = matches!(spec.key, KeyKind::Pair | KeyKind::PairWithout);
    let picked = format!(
        "WHERE ({pick}) = (SELECT {pick} FROM t{table} LIMIT 1 OFFSET {row} % max(1, (SELECT count(*) FROM t{table})))"
    );
    let rest = format!("{}, {}, {}, {}", v[1], v[2], values[3] % 6, v[4]);
    let without_key = rowid || spec.key == KeyKind::Nothing;
    match what {
        0..=2 if without_key => format!("INSERT INTO t{table}(a, u, f, n) VALUES ({rest})"),
        0..=3 if spec.key != KeyKind::Nothing => {
            format!("INSERT INTO t{table}({key}, a, u, f, n) VALUES ({chosen}, {rest})")
        }
        4 => format!("UPDATE t{table} SET a = {} {picked}", v[1]),
        5 => format!("UPDATE t{table} SET u = {} {picked}", v[2]),
        6 => format!("UPDATE t{table} SET f = {} {picked}", values[3] % 6),
        7 => format!("UPDATE t{table} SET n = {} {picked}", v[4]),
        8 if pair => format!("UPDATE t{table} SET l = {} {picked}", v[0]),
        8 if spec.key != KeyKind::Nothing => {
            let to = if rowid { values[0].to_string() } else { v[0].to_owned() };
            format!("UPDATE t{table} SET k = {to} {picked}")
        }
        9 | 10 => format!("DELETE FROM t{table} {picked}"),
        11 => format!("UPDATE t{table} SET u = u + 1 WHERE typeof(u) = 'integer'"),
        12 => format!("UPDATE t{table} SET u = CASE u WHEN 1 THEN 2 WHEN 2 THEN 1 ELSE u END"),
        13 if spec.key == KeyKind::Nothing => format!(
            "CREATE TEMP TABLE x AS SELECT * FROM t{table}; DELETE FROM t{table};
             INSERT INTO t{table} SELECT * FROM x; DROP TABLE x"
        ),
        13 => format!("DELETE FROM t{table} WHERE a = {}", v[1]),
        _ => format!("INSERT OR REPLACE INTO t{table}(a, u, f, n) VALUES ({rest})"),
    }
}

/// Runs what can be run: a step may violate something.
fn run(conn: &Connection, specs: &[Spec], steps: &[Step], enforced: bool) {
    conn.pragma_update(None, "foreign_keys", enforced).unwrap();
    for step in steps {
        if conn.execute_batch(&sql(specs, step)).is_err() {
            drop(conn.execute_batch("DROP TABLE IF EXISTS temp.x"));
        }
    }
}

fn everything(conn: &Connection, specs: &[Spec]) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = (0..specs.len())
        .map(|table| {
            let mut rows = lines(conn, &format!("SELECT *, typeof(a), typeof(u) FROM t{table}"));
            rows.sort();
            rows
        })
        .collect();
    if specs.iter().any(|s| s.key == KeyKind::Auto) {
        all.push(lines(conn, "SELECT name, seq FROM sqlite_sequence ORDER BY 1"));
    }
    all
}

/// A case, printed as SQL.
#[derive(Clone)]
struct Scene {
    specs: Vec<Spec>,
    before: Vec<Step>,
    here: Vec<Step>,
    there: Vec<Step>,
    policy: Policy,
    enforced: bool,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?}, foreign keys {}\n{}", self.policy, self.enforced, schema(&self.specs))?;
        for (name, steps) in [("base", &self.before), ("here", &self.here), ("there", &self.there)]
        {
            writeln!(f, "-- {name}")?;
            for step in steps {
                writeln!(f, "{};", sql(&self.specs, step))?;
            }
        }
        Ok(())
    }
}

fn scenes() -> impl Strategy<Value = Scene> {
    let policies = [Policy::Local, Policy::Remote, Policy::Merge];
    (
        specs(),
        steps(16),
        steps(14),
        steps(14),
        prop::sample::select(policies.to_vec()),
        any::<bool>(),
    )
        .prop_map(|(specs, before, here, there, policy, enforced)| Scene {
            specs,
            before,
            here,
            there,
            policy,
            enforced,
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200),
        max_shrink_iters: 4000,
        failure_persistence: None,
        .. ProptestConfig::default()
    })]
    #[test]
    fn every_row_is_there_or_told_of(scene in scenes()) {
        let Scene { specs, before, here, there, policy, enforced } = &scene;
        let start = Connection::open_in_memory().unwrap();
        start.execute_batch("PRAGMA page_size = 512").unwrap();
        start.execute_batch(&schema(specs)).unwrap();
        run(&start, specs, before, *enforced);
        let (local, remote) = (support::copy(&start), support::copy(&start));
        run(&local, specs, here, *enforced);
        run(&remote, specs, there, *enforced);
        let rules = Rules { policy: *policy, ..Rules::default() };
        let case = Case { base: start, local, remote, rules, keys: KeyMap::default() };
        let done = case.run();
        Oracle { specs, case: &case, done: &done }.check();
        let by_pages = case.run_by_pages();
        prop_assert_eq!(everything(&by_pages.result, specs), everything(&done.result, specs));
        prop_assert_eq!(by_pages.summary, done.summary);

        // What was worked out is a change of the remote's state like any other.
        let again = Case {
            base: support::copy(&case.remote),
            local: support::copy(&done.result),
            remote: case.remote,
            rules: Rules { policy: Policy::Abort, ..Rules::default() },
            keys: KeyMap::default(),
        };
        let twice = again.run();
        prop_assert_eq!(everything(&twice.result, specs), everything(&done.result, specs));
        prop_assert!(twice.journal.is_empty());
    }
}
