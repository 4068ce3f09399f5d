//! The scripts in `benches/` that judge and write down figures, with figures of the test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

fn script(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(name))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What `benches/instructions` says to what was counted.
fn judged(directory: &TempDir, counted: &str, arguments: &[&str]) -> Output {
    let file = directory.path().join("counted.tsv");
    fs::write(&file, counted).unwrap();
    let mut instructions = script("instructions");
    instructions.env("INSTRUCTIONS_STORED", directory.path().join("stored.tsv"));
    instructions.args(arguments).arg("-m").arg(file).output().unwrap()
}

#[test]
fn a_path_that_takes_a_tenth_more_instructions_fails_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    assert!(judged(&directory, "append\t1000\nsync\t500\n", &["-s"]).status.success());
    let same = judged(&directory, "append\t1099\nsync\t420\n", &[]);
    assert!(same.status.success(), "{}", text(&same.stdout));
    assert!(text(&same.stdout).contains("append: 1099 instructions, +9.9 %"));
    assert!(text(&same.stdout).contains("sync takes less"));
    for (counted, complaint) in [
        ("append\t1000\nsync\t551\n", "sync takes over 10 % more than before (500)"),
        ("append\t1000\n", "sync was not counted"),
        ("append\t1000\nsync\t500\nnew\t1\n", "new: not stored yet"),
    ] {
        let output = judged(&directory, counted, &[]);
        assert_eq!(output.status.code(), Some(1), "{counted}");
        assert!(text(&output.stdout).contains(complaint), "{}", text(&output.stdout));
    }
}

/// What hsload writes of one server.
fn server(metrics: &[(&str, f64)], lost: usize) -> Value {
    let metric = |(name, value): &(&str, f64)| ((*name).to_owned(), json!({ "unit": "x", "median": value }));
    let metrics: serde_json::Map<_, _> = metrics.iter().map(metric).collect();
    json!({ "metrics": metrics, "lost": lost, "gapped": 0, "failed_rounds": [], "errors": {} })
}

/// A folder of results: the scenario `send`, and what is on disk after it.
fn results(directory: &TempDir) -> PathBuf {
    let folder = directory.path().join("results");
    fs::create_dir(&folder).unwrap();
    let of = |rate: f64, written| {
        let latencies = [("send p50", 1e4 / rate), ("send p99", 2e4 / rate)];
        let others = [("cpu per 1000 messages", 800.0 / rate), ("rss peak", 80.0), ("written", written)];
        [[("messages", rate)].as_slice(), &latencies, &others].concat()
    };
    let servers = json!({ "chappe": server(&of(800.0, 8.0), 0), "synapse": server(&of(100.0, 4.0), 3) });
    let options = "Opt { seconds: Some(2.0), rounds: 1 }";
    let send = json!({ "scenario": "send", "started": 1_767_225_600, "options": options, "servers": servers });
    fs::write(folder.join("send.json"), send.to_string()).unwrap();
    fs::write(folder.join("send.disk.tsv"), "chappe\t300000\t1000\nsynapse\t1000000\t1000\n").unwrap();
    fs::write(folder.join("machine.txt"), "2 cores of a test\n").unwrap();
    folder
}

/// What criterion writes of one benchmark.
fn benchmark(folder: &Path, name: &str, nanoseconds: f64) {
    let folder = folder.join(name.replace([' ', ','], "_")).join("new");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("benchmark.json"), json!({ "full_id": name }).to_string()).unwrap();
    let estimates = json!({ "mean": { "point_estimate": nanoseconds } });
    fs::write(folder.join("estimates.json"), estimates.to_string()).unwrap();
}

#[test]
fn the_tables_are_written_between_their_marks() {
    let directory = tempfile::tempdir().unwrap();
    let results = results(&directory);
    let criterion = directory.path().join("criterion");
    benchmark(&criterion, "limit/durable commits of 1 KiB/8", 2_000_000.0);
    benchmark(&criterion, "limit/copy 64 MiB", 8_000_000.0);
    benchmark(&criterion, "10 members/message", 1_500.0);
    let page = directory.path().join("performance.md");
    let marked = |table: &str| {
        format!("# Performance\n<!-- Written by benches/table: -->\n{table}\n<!-- until here. -->\nand so on\n")
    };
    fs::write(&page, marked("old")).unwrap();
    let run = || script("table").arg("--into").arg(&page).args([&results, &criterion]).output().unwrap();
    for _ in ["once", "and again"] {
        let output = run();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let table = "
2 cores of a test; 2026-01-01.

| | server | per s | p50 ms | p99 ms | CPU s per 1,000 | memory MiB | written B/event | on disk B/event |
|---|---|--:|--:|--:|--:|--:|--:|--:|
| `send`, one room: messages | chappe | 800 | 12.5 | 25.0 | 1.00 | 80.0 | 5,243 | 300 |
|  | synapse (!) | 100 | 100 | 200 | 8.00 | 80.0 | 20,972 | 1,000 |
| | ratio to synapse | 8.00 | 0.125 | 0.125 | 0.125 | 1.00 | 0.250 | 0.300 |

(!): something was lost or failed, so the figures of this server are not valid.

| limit of this machine | time | rate | bounds |
|---|--:|--:|---|
| durable commits of 1 KiB/8 | 2.00 ms | 4,000/s | messages of eight such clients |
| copy 64 MiB | 8.00 ms | 8,000 MiB/s | bytes of `/sync` and of history |

| our own code, without HTTP | time |
|---|--:|
| 10 members/message | 1.50 µs |
";
        assert_eq!(fs::read_to_string(&page).unwrap(), marked(table));
    }
    fs::write(&page, "# Performance\nwithout marks\n").unwrap();
    let output = run();
    assert!(!output.status.success() && text(&output.stderr).contains("needs one line"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&page).unwrap(), "# Performance\nwithout marks\n");
}

#[test]
fn the_page_has_the_marks() {
    let page = include_str!("../docs/performance.md");
    let source = include_str!("../benches/table");
    for mark in ["<!-- Written by benches/table: -->", "<!-- until here. -->"] {
        assert_eq!((page.matches(mark).count(), source.matches(mark).count()), (1, 1), "{mark}");
    }
}
