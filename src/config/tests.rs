//! The configuration as a whole: its layers, its complaints, and the file that we ship.

use std::collections::BTreeSet;

use figment::error::Kind;
use serde::de::DeserializeOwned;

use super::*;

const SHIPPED: &str = include_str!("../../conduit.toml");

/// The sections whose keys are fixed, as paths below `[global]`, and values without which they do not load.
const SECTIONS: &[(&str, &str)] = &[
    ("", ""),
    ("tls", "certs = '/c'\nkey = '/k'"),
    ("well_known", ""),
    ("well_known.support", ""),
    ("sessions", ""),
    ("oauth", ""),
    ("rate_limits", ""),
    ("mail", "smtp_host = 'h'\nfrom = 'a@example.org'\npublic_url = 'https://example.org'"),
    ("media", ""),
    ("metrics", ""),
    ("push", ""),
    ("retention", ""),
    ("federation", ""),
    ("rate_limits.message", ""),
    ("password_policy", ""),
    ("url_previews", ""),
    ("user_directory", ""),
    ("server_notices", "system_mxid_localpart = 'a'"),
    ("turn", "uris = []"),
];

/// What `check` says of a section with these `lines` in the place of those of `base` with the same keys.
pub(super) fn complaints_of<T: DeserializeOwned>(
    base: &str,
    lines: &str,
    check: impl FnOnce(T, &mut ConfigError),
) -> String {
    let key_of = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let kept = base.lines().filter(|line| lines.lines().all(|other| key_of(other) != key_of(line)));
    let toml = kept.chain(lines.lines()).map(|line| format!("{line}\n")).collect::<String>();
    let mut errors = ConfigError::default();
    check(toml::from_str(&toml).unwrap(), &mut errors);
    errors.into_result().err().map_or_else(String::new, |errors| errors.to_string())
}

/// The shipped file with each commented-out setting switched on. Prose has a space after its `#`.
fn shipped_with_everything() -> String {
    let is_prose = |line: &str| line.is_empty() || line.starts_with([' ', '#']);
    let switch_on =
        |line: &str| line.strip_prefix('#').filter(|rest| !is_prose(rest)).unwrap_or(line).to_owned() + "\n";
    SHIPPED.lines().map(switch_on).collect()
}

/// What loading `toml` as a file with `settings` gives.
fn load(toml: &str, settings: &[&str]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("conduit.toml");
    fs::write(&path, toml).unwrap();
    let settings: Vec<Setting> = settings.iter().map(|text| text.parse().unwrap()).collect();
    Config::load(Some(&path), &settings)
}

/// The complaint about a `[global]` table of `lines`.
fn complaint(lines: &str) -> String {
    load(&format!("[global]\nserver_name = 'example.org'\n{lines}"), &[]).unwrap_err().to_string()
}

/// The keys that the struct behind `section` has, as serde knows them.
fn keys_of(section: &str, needed: &str) -> BTreeSet<String> {
    let header = if section.is_empty() { "[global]".to_owned() } else { format!("[global.{section}]") };
    let toml = format!("{header}\n{needed}\nno_such_key = 1");
    let figment = Figment::from(Serialized::defaults(default_values().unwrap()))
        .merge(Serialized::global("server_name", "example.org"))
        .merge(Toml::string(&toml).nested());
    let error = figment.extract::<Config>().unwrap_err();
    match error.kind {
        Kind::UnknownField(_, known) => known.iter().map(|key| (*key).to_owned()).collect(),
        other => panic!("[{section}] does not refuse unknown keys: {other}"),
    }
}

#[test]
fn the_shipped_file_loads() {
    let unnamed = load(SHIPPED, &[]).unwrap_err().to_string();
    assert!(unnamed.starts_with("`server_name` is missing"), "{unnamed}");
    let config = load(SHIPPED, &["server_name=example.org"]).unwrap();
    assert_eq!(config.server_name, "example.org");
    assert_eq!(config.port, 8008);
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn the_shipped_file_has_exactly_the_keys_of_the_structs() {
    let shipped: toml::Table = shipped_with_everything().parse().unwrap();
    for &(section, needed) in SECTIONS {
        let parts = section.split('.').filter(|part| !part.is_empty());
        let table = parts.fold(&shipped["global"], |table, part| &table[part]);
        let shown: BTreeSet<String> = table.as_table().unwrap().keys().cloned().collect();
        assert_eq!(shown, keys_of(section, needed), "[global.{section}]");
    }
}

#[test]
fn the_shipped_file_has_exactly_the_keys_of_an_identity_provider_and_their_defaults() {
    let shipped: toml::Table = shipped_with_everything().parse().unwrap();
    let shown = shipped["global"]["identity_providers"][0].as_table().unwrap();
    let least = "id = 'a'\nname = 'A'\nissuer = 'https://id.example.org'\nclient_id = 'c'\n";
    let provider = |more: &str| toml::from_str::<IdentityProvider>(&format!("{least}{more}"));
    let error = provider("no_such_key = 1").unwrap_err().to_string();
    let known: BTreeSet<_> = error.split_once("expected one of").unwrap().1.split('`').skip(1).step_by(2).collect();
    assert_eq!(shown.keys().map(String::as_str).collect::<BTreeSet<_>>(), known);
    let defaults = toml::Table::try_from(provider("").unwrap()).unwrap();
    for (key, default) in defaults.iter().filter(|(key, _)| !least.contains(&format!("{key} ="))) {
        assert_shows(&shown[key], default, key);
    }
}

#[test]
fn the_shipped_file_shows_the_true_defaults() {
    let shipped: toml::Table = shipped_with_everything().parse().unwrap();
    let defaults = Config::new(ruma::owned_server_name!("example.org")).to_toml().unwrap();
    let defaults: toml::Table = defaults.parse().unwrap();
    assert_shows(&shipped["global"], &defaults["global"], "global");
}

/// Every default is in `shown`. Maps without defaults hold examples there.
fn assert_shows(shown: &toml::Value, default: &toml::Value, key: &str) {
    match default {
        toml::Value::Table(table) => {
            for (name, default) in table {
                assert_shows(&shown[name.as_str()], default, &format!("{key}.{name}"));
            }
        }
        _ => assert!(same(shown, default), "{key}: the file shows {shown}, the default is {default}"),
    }
}

fn same(shown: &toml::Value, default: &toml::Value) -> bool {
    let (Some(shown), Some(default)) = (shown.as_str(), default.as_str()) else { return shown == default };
    let duration = |text| duration::parse(text).ok();
    let size = |text: &str| text.parse::<ByteSize>().ok();
    shown == default
        || duration(shown).is_some_and(|it| Some(it) == duration(default))
        || size(shown).is_some_and(|it| Some(it) == size(default))
}

#[test]
fn the_file_with_everything_switched_on_loads_but_for_the_secrets_given_twice() {
    let complaint = load(&shipped_with_everything(), &[]).unwrap_err().to_string();
    assert!(complaint.contains("`registration_token_file` and `registration_token` are both set"), "{complaint}");
    let without_files: String = shipped_with_everything()
        .lines()
        .filter(|line| !line.contains("_file =") && !line.starts_with("secret ="))
        .map(|line| format!("{line}\n"))
        .collect();
    let emptied = load(&without_files, &[]).unwrap_err().to_string();
    assert!(emptied.contains("`registration_token` is empty"), "{emptied}");
    let config = load(&without_files.replace("= \"\"\n", "= \"0123456789abcdef\"\n"), &[]).unwrap();
    assert_eq!(config.well_known.support.unwrap().contacts.len(), 1);
    assert_eq!(config.registration_terms["privacy_policy"].languages["en"].name, "Privacy policy");
    assert_eq!(config.tls.unwrap().port, Some(8448));
}

/// The settings of environment variables, which are given as in a shell.
fn environment(variables: &[&str]) -> Vec<Setting> {
    let pair = |text: &str| text.split_once('=').map(|(name, value)| (name.into(), value.into()));
    Setting::from_environment(variables.iter().filter_map(|text| pair(text)))
}

#[test]
fn environment_beats_file_and_command_line_beats_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("conduit.toml");
    fs::write(&path, "[global]\nserver_name = 'a.example'\nport = 1\nlog = 'warn'\nmemory_budget = '1 GiB'").unwrap();
    let mut settings = environment(&[
        "CHAPPE_CONFIG=elsewhere",
        "CHAPPE_PORT=2",
        "CHAPPE_LOG=error",
        "CHAPPE_MEDIA__MAX_UPLOAD_SIZE=1 MiB",
        "CHAPPE_REGISTRATION_TOKEN=0123",
        "CHAPPE_TRUSTED_PROXIES=10.0.0.0/8",
        "PATH=/bin",
    ]);
    settings.extend(["port=3", "media.max_pending_uploads=7"].map(|text| text.parse().unwrap()));
    let config = Config::load(Some(&path), &settings).unwrap();
    assert_eq!((config.port, config.log.as_str(), config.memory_budget), (3, "error", ByteSize::mib(1024)));
    assert_eq!((config.media.max_upload_size, config.media.max_pending_uploads), (ByteSize::mib(1), 7));
    assert!(config.registration_token.unwrap().matches("0123"), "a numeric secret stays as it was written");
    assert!(config.trusted_proxies[0].contains("10.9.9.9".parse().unwrap()));
}

#[test]
fn the_environment_alone_is_enough() {
    let config = Config::load(None, &environment(&["CHAPPE_SERVER_NAME=example.org"])).unwrap();
    assert_eq!(config.server_name, "example.org");
    let misspelt = environment(&["CHAPPE_SERVER_NAME=example.org", "CHAPPE_PROT=8008"]);
    let complaint = Config::load(None, &misspelt).unwrap_err().to_string();
    assert!(complaint.contains("in the environment") && complaint.contains("did you mean `port`?"), "{complaint}");
}

#[test]
fn without_a_server_name_nothing_loads() {
    let complaint = load("[global]\nport = 8008", &[]).unwrap_err().to_string();
    assert!(complaint.contains("`server_name` is missing") && complaint.contains("CHAPPE_SERVER_NAME"), "{complaint}");
}

#[test]
fn unknown_keys_are_refused_with_a_way_out() {
    assert!(complaint("db_cache_capacity_mb = 1000").contains("set `memory_budget`"));
    assert!(complaint("allow_registraton = true").contains("did you mean `allow_registration`?"));
    let nested = complaint("[global.media]\nmax_uploadsize = 1");
    assert!(
        nested.contains("`media.max_uploadsize`") && nested.contains("did you mean `max_upload_size`?"),
        "{nested}"
    );
    let lone = load("port = 1\n[media]\nmax_upload_size = 1\n[global]\nserver_name = 'a.example'", &[])
        .unwrap_err()
        .to_string();
    assert!(lone.contains("below a line [global]") && lone.contains("[global.media]"), "{lone}");
}

#[test]
fn a_wrong_value_names_its_key() {
    for (line, key) in [
        ("port = 'http'", "`port`"),
        ("shutdown_timeout = 10", "`shutdown_timeout`"),
        ("memory_budget = 'much'", "`memory_budget`"),
        ("[global.media]\nmax_upload_size = -1", "`media.max_upload_size`"),
        ("trusted_proxies = ['everyone']", "`trusted_proxies`"),
        ("log_format = 'xml'", "`log_format`"),
        ("default_room_version = '99'", "`default_room_version`"),
        ("log = 'info,=,'", "`log`"),
        ("log = ' '", "`log` is empty"),
        ("log = 'warning'", "`log` knows no level `warning`"),
        ("log = 'chappe::store=debug, hyper'", "`info,hyper=debug`"),
        ("database_path = ''", "`database_path`"),
        ("database_path = 'data'", "`database_path`"),
        ("registration_token = 'a long random text'", "`registration_token` is an example"),
        ("[global.turn]\nuris = ['turn:a.example']\nsecret = '***'", "`turn.secret`"),
        ("[global.delayed_events]\nmax_delay = '0 s'", "`delayed_events.max_delay`"),
        ("[global.well_known.support]\nsupport_page = ''", "`well_known.support.support_page`"),
        (
            "[global.well_known.support]\ncontacts = [{ role = 'm.role.admin', email_address = 'admin' }]",
            "`well_known.support.contacts`",
        ),
        (
            "[global.registration_terms.a]\nversion = '1'\nen = { name = '', url = 'https://a.example' }",
            "`registration_terms.a.en`",
        ),
        (
            "[global.registration_terms.a]\nversion = '1'\nen = { name = 'A', url = 'a.html' }",
            "`registration_terms.a.en`",
        ),
    ] {
        let complaint = complaint(line);
        assert!(complaint.contains(key), "{line}: {complaint}");
    }
}

#[test]
fn levels_and_modules_make_a_filter() {
    for log in ["info", "WARN", "off", "3", "info,chappe::store=debug", "chappe", "warn,hyper,[request]=debug"] {
        load(&format!("[global]\nserver_name = 'a.example'\nlog = '{log}'"), &[]).unwrap();
    }
}

#[test]
fn a_slip_in_the_syntax_is_told_by_its_line_and_without_what_stands_there() {
    for line in ["registration_token = \"s3cret", "registration_token = s3cret", "registration_token = \"s3cret\" x"] {
        let complaint = complaint(line);
        assert!(complaint.contains("is no TOML in line 3: ") && !complaint.contains("s3cret"), "{complaint}");
    }
}

#[test]
fn all_complaints_come_at_once() {
    let complaint = complaint("address = []\nmemory_budget = 1\nallow_registration = true");
    assert_eq!(complaint.lines().count(), 3, "{complaint}");
}

#[test]
fn open_registration_needs_a_token_or_a_clear_confirmation() {
    let refused = complaint("allow_registration = true");
    assert!(refused.contains("`allow_registration` would let anyone"), "{refused}");
    let confirmed = "yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse = true";
    for way_out in ["registration_token = 'x'", confirmed] {
        load(&format!("[global]\nserver_name = 'a.example'\nallow_registration = true\n{way_out}"), &[]).unwrap();
    }
    assert!(complaint("allow_registration = true\nregistration_token = ''").contains("`registration_token` is empty"));
}

#[test]
fn secrets_are_read_from_files_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, "s3cret-token\n").unwrap();
    let toml = format!(
        "[global]\nserver_name = 'a.example'\nregistration_token_file = '{}'\nregistration_shared_secret = 'other-s3cret'",
        path.display()
    );
    let config = load(&toml, &[]).unwrap();
    assert!(config.registration_token.as_ref().unwrap().matches("s3cret-token"));
    for shown in [config.to_toml().unwrap(), format!("{config:?}")] {
        assert!(!shown.contains("s3cret") && shown.contains("***"), "{shown}");
    }
    fs::remove_file(&path).unwrap();
    let complaint = load(&toml, &[]).unwrap_err().to_string();
    assert!(complaint.contains("`registration_token_file` names"), "{complaint}");
    for (setting, way_out) in [
        ("registration_token=x", "set registration_token_file"),
        ("turn.password=x", "conduit.toml"),
        ("turn={secret=\"x\"}", "the section `turn`"),
        ("mail={password=\"x\"}", "the section `mail`"),
        ("metrics={token=\"x\"}", "the section `metrics`"),
    ] {
        let complaint = setting.parse::<Setting>().expect_err("a secret on the command line is refused");
        assert!(complaint.contains(way_out), "{complaint}");
    }
}

#[test]
fn the_secret_of_an_identity_provider_is_read_from_its_file_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    fs::write(&path, "s3cret\n").unwrap();
    let toml = format!(
        "[global]\nserver_name = 'a.example'\n[global.oauth]\npublic_url = 'https://a.example'\n\
         [[global.identity_providers]]\nid = 'a'\nname = 'A'\nissuer = 'https://id.example'\nclient_id = 'c'\n\
         scopes = 'openid'\nclient_secret_file = '{}'",
        path.display()
    );
    let config = load(&toml, &[]).unwrap();
    assert!(config.identity_providers[0].client_secret.as_ref().unwrap().matches("s3cret"));
    for shown in [config.to_toml().unwrap(), format!("{config:?}")] {
        assert!(!shown.contains("s3cret") && shown.contains("***"), "{shown}");
    }
    let complaint = load(&toml.replace("public_url", "enabled = false # "), &[]).unwrap_err().to_string();
    assert!(complaint.contains("`identity_providers` send browsers back to pages that are not there"), "{complaint}");
    assert!("identity_providers=[]".parse::<Setting>().is_err(), "secrets on the command line are refused");
}

#[test]
fn a_file_of_certificate_authorities_must_hold_some() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("authorities.pem");
    let line = format!("certificate_authorities_file = '{}'", path.display());
    let missing = complaint(&line);
    assert!(
        missing.starts_with("`certificate_authorities_file` names") && missing.contains("cannot be read"),
        "{missing}"
    );
    let authority = rcgen::generate_simple_self_signed(["authority.example".to_owned()]).unwrap();
    for text in [String::new(), "not PEM".to_owned(), authority.signing_key.serialize_pem()] {
        fs::write(&path, text).unwrap();
        let empty = complaint(&line);
        assert!(empty.contains("holds no certificate"), "{empty}");
    }
    fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(complaint(&line).contains("cannot be read"));
    fs::write(&path, authority.cert.pem()).unwrap();
    load(&format!("[global]\nserver_name = 'example.org'\n{line}"), &[]).unwrap();
}

#[test]
fn what_is_printed_can_be_loaded_again() {
    let config = load("[global]\nserver_name = 'a.example'\n[global.tls]\ncerts = 'c'\nkey = 'k'", &[]).unwrap();
    let printed = config.to_toml().unwrap();
    assert_eq!(load(&printed, &[]).unwrap().to_toml().unwrap(), printed);
    let secret = load("[global]\nserver_name = 'a.example'\nregistration_token = 's3cret'", &[]).unwrap();
    let refused = load(&secret.to_toml().unwrap(), &[]).unwrap_err().to_string();
    assert!(refused.starts_with("`registration_token` is what `chappe config` prints"), "{refused}");
}

#[test]
fn a_room_version_may_be_a_number() {
    let config = load("[global]\nserver_name = 'a.example'\ndefault_room_version = 11", &[]).unwrap();
    assert_eq!(config.default_room_version, RoomVersionId::V11);
    let variables = environment(&["CHAPPE_SERVER_NAME=a.example", "CHAPPE_DEFAULT_ROOM_VERSION=10"]);
    assert_eq!(Config::load(None, &variables).unwrap().default_room_version, RoomVersionId::V10);
}

#[test]
fn the_configuration_for_tests_is_valid() {
    let config = Config::for_tests("localhost");
    config.check().unwrap();
    assert!(config.rate_limits.message().is_none());
    assert!(Config::new(ruma::owned_server_name!("localhost")).rate_limits.message().is_some());
}
