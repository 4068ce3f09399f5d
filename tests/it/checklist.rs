//! `tests/checklist.tsv` says which test fails without which feature. Here is looked after that these tests are there.

use std::{fs, path::Path};

const CHECKLIST: &str = include_str!("../checklist.tsv");

#[test]
fn every_test_of_the_checklist_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let passed = passed_in_complement(root);
    let mut wrong = Vec::new();
    for (number, row) in CHECKLIST.lines().enumerate().skip(1) {
        let mut complain = |what: &str| wrong.push(format!("line {}: {what}", number + 1));
        let columns: Vec<_> = row.split('\t').collect();
        let (feature, tests) = match columns[..] {
            [_, _, _, "-", _] => continue, // and says why
            [_, feature, _, tests] | [_, feature, _, tests, _] => (feature, tests),
            _ => {
                complain(&format!("it has {} columns", columns.len()));
                continue;
            }
        };
        for test in tests.split(", ").filter(|test| !is_there(root, &passed, test)) {
            complain(&format!("{feature}: there is no test {test}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names of all tests that `tests/complement/results` says pass.
fn passed_in_complement(root: &Path) -> Vec<String> {
    let files = fs::read_dir(root.join("tests/complement/results")).unwrap();
    let results = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let passed = |results: String| {
        results.lines().filter_map(|row| row.strip_prefix("PASS\t")).map(str::to_owned).collect::<Vec<_>>()
    };
    results.flat_map(passed).collect()
}

fn is_there(root: &Path, passed: &[String], test: &str) -> bool {
    let Some((kind, name)) = test.split_once("::") else { return false };
    let folder = match kind {
        "complement" => return passed.iter().any(|passed| passed == name),
        "peers" => {
            let scenarios = fs::read_to_string(root.join("tests/peers/scenarios.py")).unwrap();
            return scenarios.contains(&format!("\ndef {name}("));
        }
        "lib" => root.join("src"),
        "it" | "sdk" | "crash" => root.join("tests").join(kind),
        "command_line" => return has_test(&root.join("tests/command_line.rs"), name),
        _ => return false,
    };
    let mut modules: Vec<_> = name.split("::").collect();
    let function = modules.pop().unwrap_or_default();
    // Inner modules stand in the file of an outer one, such as `tests` in that of what they test.
    (0..=modules.len()).rev().any(|outer| {
        let place = folder.join(modules[..outer].join("/"));
        has_test(&place.with_extension("rs"), function)
            || ["mod.rs", "main.rs"].iter().any(|file| has_test(&place.join(file), function))
    })
}

/// Whether a file has a function of that name which is a test.
fn has_test(file: &Path, function: &str) -> bool {
    let Ok(source) = fs::read_to_string(file) else { return false };
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let start = format!("fn {function}(");
    (0..lines.len()).any(|number| {
        let is_it = lines[number].strip_prefix("async ").unwrap_or(lines[number]).starts_with(&start);
        let before = lines[..number].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        is_it && before.copied().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}
