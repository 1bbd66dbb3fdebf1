//! The demo does the whole job.

use crate::yard::Yard;

#[test]
fn the_demo_plays_to_its_end_and_cleans_up() {
    let yard = Yard::new();
    let said = yard.ok(["demo"]);
    for line in [
        "$ anabranch init laptop.db --remote river\n",
        "$ anabranch clone river phone.db\n",
        "$ mv river river-out-of-reach\n",
        "offline: ",
        "(exit code 4)\n",
        "pushed ",
        "pulled ",
        "restored the state at position ",
        "every page is equal to the remote's\n",
        "equal page by page",
        "are removed",
    ] {
        assert!(said.contains(line), "no '{line}' in:\n{said}");
    }
    let line = said.lines().find(|line| line.starts_with("# Working in ")).unwrap();
    let dir = std::path::Path::new(line.trim_start_matches("# Working in "));
    assert!(!dir.exists(), "{}", dir.display());
}

#[test]
fn a_folder_that_was_named_is_kept_and_must_be_empty() {
    let yard = Yard::new();
    let report = yard.json(["demo", "try it"]);
    assert_eq!(report["kept"], true);
    let exits: Vec<u64> =
        report["steps"].as_array().unwrap().iter().map(|s| s["exit"].as_u64().unwrap()).collect();
    assert!(exits.len() > 20, "{report}");
    assert_eq!(exits.iter().filter(|exit| **exit == 4).count(), 1, "{report}");

    // What the demo said about its files is so.
    for replica in ["laptop.db", "phone.db", "desk.db"] {
        let file = format!("try it/{replica}");
        assert_eq!(yard.number(&file, "SELECT count(*) FROM note"), 1999);
        assert_eq!(yard.number(&file, "SELECT count(*) FROM reminder"), 1);
    }
    let restored = "try it/before-the-trip.db";
    assert_eq!(yard.number(restored, "SELECT count(*) FROM note"), 2000);

    let said = yard.fails(2, ["demo", "try it"]);
    assert!(said.contains("not empty"), "{said}");
}

#[test]
fn a_demo_that_cannot_do_its_job_fails() {
    let yard = Yard::new();
    let said = yard.fails(1, ["demo", "/dev/null/demo"]);
    assert!(said.contains("making /dev/null/demo failed"), "{said}");
    if !fail::has_failpoints() {
        return;
    }
    // An append that dies ends the program, not the story.
    let mut command = yard.command(["demo", "dies"]);
    let output = command.env("FAILPOINTS", "push::after-append=return").output().unwrap();
    assert!(!output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("Done in"));
}
