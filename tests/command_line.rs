//! The binary as an administrator meets it: exit codes, messages, start and end.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The command `chappe …` with a `conduit.toml` of `lines` in `directory`, where its data are too.
fn chappe(directory: &TempDir, lines: &str, arguments: &[&str]) -> Command {
    let path = directory.path().join("conduit.toml");
    let data = directory.path().join("data");
    let head =
        format!("[global]\nserver_name = 'localhost'\nfree_space_floor = 0\ndatabase_path = '{}'", data.display());
    fs::write(&path, format!("{head}\n{lines}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chappe"));
    command.env_clear().arg("--config").arg(path).args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn assert_fails(output: &Output, code: i32, complaint: &str) {
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(complaint), "{told}");
}

/// A server on a Unix socket, which listens already.
fn serve(directory: &TempDir, socket: &Path) -> Child {
    let lines = format!("address = []\nunix_socket_path = '{}'", socket.display());
    let mut server = chappe(directory, &lines, &["serve"]).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(server.stderr.as_mut().unwrap());
    let listening = log.lines().map(Result::unwrap).find(|line| line.contains("listening"));
    assert!(listening.is_some(), "the server ended before it listened");
    server
}

fn health(socket: &Path) -> String {
    ask(socket, "GET /_chappe/health", "")
}

/// The whole answer to a request: status, headers and body.
fn ask(socket: &Path, method_and_path: &str, body: &str) -> String {
    ask_over(UnixStream::connect(socket).unwrap(), method_and_path, body)
}

fn ask_over(mut stream: impl Read + Write, method_and_path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("host: localhost\r\nconnection: close\r\ncontent-length: {length}");
    write!(stream, "{method_and_path} HTTP/1.1\r\n{head}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_server_answers_until_it_is_told_to_stop_and_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("chappe.sock");
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = serve(&directory, &socket);
        let answer = health(&socket);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"status":"ok"}"#), "{answer}");
        kill_process(Pid::from_child(&server), Signal::HUP).unwrap();
        assert!(health(&socket).starts_with("HTTP/1.1 200"), "SIGHUP does not end it");
        kill_process(Pid::from_child(&server), signal).unwrap();
        assert_eq!(server.wait().unwrap().code(), Some(0));
        assert!(!socket.exists());
    }
}

#[test]
fn figures_are_served_at_a_listener_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("chappe.sock");
    let lines =
        format!("address = []\nunix_socket_path = '{}'\n[global.metrics]\nlisten = '127.0.0.1:0'", socket.display());
    let mut server = chappe(&directory, &lines, &["serve"]).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(server.stderr.as_mut().unwrap()).lines().map(Result::unwrap);
    let listening: Vec<_> = log.filter(|line| line.contains("listening")).take(2).collect();
    let address = listening.iter().find_map(|line| line.split_once("at=http://")).unwrap().1.trim();
    let ask_there = |path| ask_over(TcpStream::connect(address).unwrap(), path, "");
    let answer = ask_there("GET /metrics");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let figure = |name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{answer}")).parse::<u64>().unwrap()
    };
    assert!(figure("process_resident_memory_bytes") > 1 << 20);
    assert!(ask_there("GET /_matrix/client/versions").starts_with("HTTP/1.1 404"), "nothing else is there");
    assert!(ask(&socket, "GET /_chappe/metrics", "").starts_with("HTTP/1.1 404"));
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn two_servers_cannot_share_a_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("chappe.sock");
    let mut server = serve(&directory, &socket);
    let second = chappe(&directory, "port = 0", &["serve"]).output().unwrap();
    assert_fails(&second, 1, "database_path");
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    server.wait().unwrap();
}

#[test]
fn a_wrong_configuration_ends_with_78_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let output = chappe(&directory, "db_cache_capacity_mb = 100", &["serve"]).output().unwrap();
    assert_fails(&output, 78, "set `memory_budget`");
    assert!(text(&output.stderr).starts_with("The configuration is wrong."), "{}", text(&output.stderr));
    let output = chappe(&directory, "allow_registration = true", &["config"]).output().unwrap();
    assert_fails(&output, 78, "would let anyone in the world register");
    let output = chappe(&directory, "", &["config", "--set", "registration_token=s3cret"]).output().unwrap();
    assert_fails(&output, 2, "registration_token_file");
    fs::write(directory.path().join("irc.yaml"), "id: irc").unwrap();
    let registration = format!("appservice_registrations = ['{}/irc.yaml']", directory.path().display());
    let mail = "smtp_host = 'mail.example.org'\nfrom = 'a@example.org'\npublic_url = 'https://example.org'";
    for (lines, complaint) in [
        ("[global.tls]\ncerts = '/nowhere.pem'\nkey = '/nowhere.pem'".to_owned(), "let the server's user read it"),
        (registration, "registers no application service"),
        ("log = 'warning'".to_owned(), "write error, warn, info, debug or trace"),
        (format!("[global.mail]\n{mail}\nusername = 'chappe'\npassword = '***'"), "`mail.password` is what"),
    ] {
        let output = chappe(&directory, &format!("port = 0\n{lines}"), &["serve"]).output().unwrap();
        assert_fails(&output, 78, complaint);
    }
}

#[test]
fn a_data_directory_that_can_not_be_used_ends_with_78_and_is_not_called_the_configuration() {
    let foreign = tempfile::tempdir().unwrap();
    fs::create_dir(foreign.path().join("data")).unwrap();
    fs::write(foreign.path().join("data/thesis.tex"), "years of work").unwrap();
    let output = chappe(&foreign, "port = 0", &["serve"]).output().unwrap();
    assert_fails(&output, 78, "not a data directory");
    assert!(text(&output.stderr).contains("chappe: cannot open `database_path`"), "{}", text(&output.stderr));
    let in_the_way = tempfile::tempdir().unwrap();
    fs::write(in_the_way.path().join("data"), "").unwrap();
    assert_fails(&chappe(&in_the_way, "port = 0", &["serve"]).output().unwrap(), 78, "exists");
}

#[test]
fn what_another_attempt_may_mend_ends_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    symlink("/dev/full", data.join("chappe.json.new")).unwrap();
    assert_fails(&chappe(&directory, "port = 0", &["serve"]).output().unwrap(), 1, "No space left");
}

#[test]
fn the_effective_configuration_is_printed_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let lines = "registration_token = 's3cret'\nport = 1";
    let mut command = chappe(&directory, lines, &["config", "--set", "port=3"]);
    let output = command.env("CHAPPE_PORT", "2").env("CHAPPE_LOG", "warn").output().unwrap();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for line in ["port = 3", "log = \"warn\"", "registration_token = \"***\""] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
    assert!(!printed.contains("s3cret"));
}

#[test]
fn an_administrator_makes_accounts_that_can_log_in() {
    let directory = tempfile::tempdir().unwrap();
    let policy = "[global.password_policy]\nminimum_length = 24\nrequire_symbol = true";
    let run = |arguments: &[&str]| chappe(&directory, policy, arguments).output().unwrap();
    let made = text(&run(&["user", "create", "alice", "--admin"]).stdout);
    let generated = made.lines().find_map(|line| line.strip_prefix("password")).unwrap().trim();
    assert!(made.contains("@alice:localhost") && generated.len() >= 24, "{made}");
    let mode = fs::metadata(directory.path().join("data")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others on this machine can look into the data");
    assert_fails(&run(&["user", "create", "alice"]), 1, "taken");
    assert_fails(&run(&["user", "create", "not a name"]), 1, "username");

    let mut with_stdin = chappe(&directory, "", &["user", "create", "bob", "--password-stdin"]);
    let mut running = with_stdin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"correct horse battery\n").unwrap();
    let told = text(&running.wait_with_output().unwrap().stdout);
    assert!(told.contains("@bob:localhost") && !told.contains("password"), "{told}");
    assert_eq!(text(&run(&["user", "list"]).stdout), "@alice:localhost\tadmin\n@bob:localhost\tuser\n");

    let reset = text(&run(&["user", "set-password", "@alice:localhost"]).stdout);
    let renewed = reset.lines().find_map(|line| line.strip_prefix("password")).unwrap().trim();
    assert_fails(&run(&["user", "set-password", "carol"]), 1, "no such account");

    let socket = directory.path().join("chappe.sock");
    let mut server = serve(&directory, &socket);
    for (name, password, status) in [
        ("alice", renewed, 200),
        ("alice", generated, 403),
        ("bob", "correct horse battery", 200),
        ("bob", "wrong", 403),
    ] {
        let identifier = format!(r#"{{"type":"m.id.user","user":"{name}"}}"#);
        let body = format!(r#"{{"type":"m.login.password","identifier":{identifier},"password":"{password}"}}"#);
        let answer = ask(&socket, "POST /_matrix/client/v3/login", &body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {answer}");
    }
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    server.wait().unwrap();

    run(&["user", "list"]);
    let kept = || text(&run(&["inspect", "kept_typing"]).stdout).lines().count();
    assert_eq!(kept(), 1, "what the server kept for its next run is not for a command");
    let mut server = serve(&directory, &socket);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(kept(), 0, "nor for the run after that");
}

#[test]
fn the_signing_key_is_rotated_while_the_server_stands_and_destinations_are_told_while_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| chappe(&directory, "", arguments).output().unwrap();
    assert_fails(&run(&["rotate-key"]), 78, "not a data directory");
    let socket = directory.path().join("chappe.sock");
    let published = || ask(&socket, "GET /_matrix/key/v2/server", "");
    let mut server = serve(&directory, &socket);
    let before = published();
    assert!(before.contains(r#""old_verify_keys":{}"#), "{before}");
    assert_fails(&run(&["rotate-key"]), 1, "another chappe process");
    let told = run(&["destinations"]);
    assert!(told.status.success() && told.stdout.is_empty(), "{}", text(&told.stderr));
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    server.wait().unwrap();

    let told = text(&run(&["rotate-key"]).stdout);
    let id = |at: usize| told.split(' ').filter(|word| word.starts_with("ed25519:")).nth(at).unwrap().to_owned();
    assert!(before.contains(&format!("{:?}:", id(1))), "{told}");
    let mut server = serve(&directory, &socket);
    let after = published();
    assert!(after.contains(&format!(r#""old_verify_keys":{{"{}":{{"expired_ts":"#, id(1))), "{after}");
    assert!(after.contains(&format!(r#""verify_keys":{{"{}":"#, id(0))), "{after}");
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    server.wait().unwrap();
}

#[test]
fn a_database_that_was_put_back_begins_anew_by_command_and_where_it_was_copied() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| chappe(&directory, "", arguments).output().unwrap();
    assert_fails(&run(&["restored"]), 78, "not a data directory");
    run(&["user", "create", "alice"]);
    let lost = || text(&run(&["inspect", "lost_futures"]).stdout).lines().count();
    assert_eq!(lost(), 0);
    let told = run(&["restored"]);
    assert!(text(&told.stdout).contains("begins anew"), "{}", text(&told.stderr));
    assert_eq!(lost(), 1);
    assert!(run(&["check"]).status.success());

    let (data, backup) = (directory.path().join("data"), directory.path().join("backup"));
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    copy(&data, &backup);
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    let noticed = run(&["inspect", "lost_futures"]);
    assert_eq!(text(&noticed.stdout).lines().count(), 2, "and nobody had to say so");
    assert!(text(&noticed.stderr).contains("begin anew"), "{}", text(&noticed.stderr));
    assert!(run(&["check"]).status.success());
    assert_eq!(lost(), 2);
    assert_eq!(text(&run(&["user", "list"]).stdout), "@alice:localhost\tuser\n");
}
