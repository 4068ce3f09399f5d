//! Single values that override the file: environment variables and `--set KEY=VALUE`.

use std::{ffi::OsString, str::FromStr};

use figment::{
    Error, Metadata, Profile, Provider,
    providers::Serialized,
    value::{Dict, Map, Value},
};

/// Environment variables that start so are settings; `__` separates a section from its key.
const ENV_PREFIX: &str = "CHAPPE_";

/// Not a key: where the file is, for `main.rs`.
pub const ENV_CONFIG_PATH: &str = "CHAPPE_CONFIG";

/// Keys whose value is a [`super::Secret`]; each has a companion `…_file`.
pub(super) const SECRET_KEYS: [&str; 3] = ["registration_token", "registration_shared_secret", "mail.password"];

/// Such keys of the TURN server; only the first has that companion.
const SECRET_KEYS_OF_TURN: [&str; 2] = ["turn.secret", PASSWORD_OF_TURN];
const PASSWORD_OF_TURN: &str = "turn.password";

/// That of the scraper has it too.
const TOKEN_OF_METRICS: &str = "metrics.token";

/// What holds such keys, and could be set as a whole.
const SECTIONS_WITH_SECRETS: [&str; 4] = ["identity_providers", "mail", "metrics", "turn"];

fn is_secret(key: &str) -> bool {
    SECRET_KEYS.contains(&key) || SECRET_KEYS_OF_TURN.contains(&key) || key == TOKEN_OF_METRICS
}

/// The value of one key; `key` may lie in a section, `tls.port`.
#[derive(Clone, Debug)]
pub struct Setting {
    key: String,
    value: Value,
    /// For complaints.
    place: &'static str,
}

impl Setting {
    /// The settings among `variables` (names and values), such as [`std::env::vars_os`] gives them.
    pub fn from_environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<Self> {
        let texts = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        texts
            .filter(|(name, _)| name != ENV_CONFIG_PATH)
            .filter_map(|(name, value)| {
                let key = name.strip_prefix(ENV_PREFIX)?.to_lowercase().replace("__", ".");
                // What is not UTF-8 becomes a value that the key's type or the administrator will notice.
                let value = value.to_string_lossy();
                // figment would read the secret `0123` as a number.
                let value = if is_secret(&key) { Value::from(&*value) } else { guess(&value) };
                Some(Self { key, value, place: "in the environment" })
            })
            .collect()
    }
}

impl FromStr for Setting {
    type Err = String;

    /// Reads `key=value` of the command line.
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE, such as port=8008")?;
        if is_secret(key) {
            let way_out = match key {
                PASSWORD_OF_TURN => "write it into conduit.toml".to_owned(),
                _ => format!("put the secret into a file and set {key}_file"),
            };
            return Err(format!("others can read the command line; {way_out}"));
        }
        if SECTIONS_WITH_SECRETS.contains(&key) {
            return Err(format!("others can read the command line; write the section `{key}` into conduit.toml"));
        }
        Ok(Self { key: key.to_owned(), value: guess(value), place: "on the command line" })
    }
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.place)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Serialized::global(&self.key, &self.value).data()
    }
}

/// The value that `text` looks like: `8008` is a number, `["::1", "127.0.0.1"]` a list.
fn guess(text: &str) -> Value {
    text.parse().unwrap_or_else(|never| match never {})
}
