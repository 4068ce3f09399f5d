//! Configuration: `conduit.toml`, then the environment, then the command line.
//!
//! [`Config`] is the `[global]` table; each table below it has a struct and a file of its own. What
//! each key does for an administrator is said in the `conduit.toml` at the root of the repository.

pub mod authorities;
mod byte_size;
pub mod delayed_events;
mod duration;
mod error;
mod federation;
mod hint;
mod identity_provider;
mod mail;
mod media;
mod metrics;
mod network;
mod oauth;
mod one_or_many;
mod opaque_id;
mod password_policy;
mod push;
mod rate_limits;
mod registration_terms;
mod retention;
mod secret;
mod server_notices;
mod sessions;
mod setting;
mod socket_mode;
mod tls;
mod turn;
mod url_previews;
mod user_directory;
mod warnings;
mod well_known;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Format, Serialized, Toml},
    value::{Dict, Value},
};
use ruma::{OwnedServerName, RoomVersionId, room_version_rules::RoomVersionDisposition};
use serde::{Deserialize, Deserializer, Serialize, de};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use self::setting::SECRET_KEYS;
pub use self::{
    byte_size::ByteSize,
    delayed_events::DelayedEvents,
    error::ConfigError,
    federation::{Federation, ServerPattern},
    identity_provider::{ClientAuthMethod, IdentityProvider, TakenName},
    mail::{Encryption, Language, Mail},
    media::Media,
    metrics::Metrics,
    network::Network,
    oauth::OAuth,
    password_policy::PasswordPolicy,
    push::Push,
    rate_limits::RateLimits,
    registration_terms::{Policy, PolicyText, RegistrationTerms},
    retention::Retention,
    secret::Secret,
    server_notices::ServerNotices,
    sessions::Sessions,
    setting::{ENV_CONFIG_PATH, Setting},
    socket_mode::SocketMode,
    tls::Tls,
    turn::Turn,
    url_previews::UrlPreviews,
    user_directory::UserDirectory,
    well_known::{Contact, RtcTransport, Support, WellKnown},
};

/// The effective configuration. Names and defaults of the keys stay as they are for good: they are
/// in the files of every administrator.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name in user and room ids. It can never change.
    pub server_name: OwnedServerName,
    /// Directory of the database and the media.
    pub database_path: PathBuf,

    /// Addresses of the TCP listeners; may be empty if there is a Unix socket.
    #[serde(deserialize_with = "one_or_many::deserialize")]
    pub address: Vec<IpAddr>,
    pub port: u16,
    pub unix_socket_path: Option<PathBuf>,
    pub unix_socket_perms: SocketMode,
    pub tls: Option<Tls>,
    /// Reverse proxies, whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "one_or_many::deserialize")]
    pub trusted_proxies: Vec<Network>,
    /// Largest request body, uploads of media excepted.
    pub max_request_size: ByteSize,
    /// How long requests under way may take to end once the server is told to stop.
    #[serde(with = "duration")]
    pub shutdown_timeout: Duration,

    /// Filter of `tracing_subscriber`: `info`, `info,chappe::store=debug`.
    pub log: String,
    pub log_format: LogFormat,

    /// Memory of all caches and write buffers together.
    pub memory_budget: ByteSize,
    /// With less than this free on the disk, the server refuses writes.
    pub free_space_floor: ByteSize,

    /// Whether this server talks to others at all.
    pub allow_federation: bool,
    /// Servers that are asked for the signing keys of third ones.
    #[serde(deserialize_with = "one_or_many::deserialize")]
    pub trusted_servers: Vec<OwnedServerName>,
    /// Networks to which no request goes out, whatever asked for it.
    #[serde(deserialize_with = "one_or_many::deserialize")]
    pub ip_range_denylist: Vec<Network>,
    /// Exceptions to `ip_range_denylist`.
    #[serde(deserialize_with = "one_or_many::deserialize")]
    pub ip_range_allowlist: Vec<Network>,
    /// PEM file of certificate authorities that are trusted beside the system's.
    pub certificate_authorities_file: Option<PathBuf>,

    pub allow_registration: bool,
    /// What a new user must know to register; comes from `registration_token_file` if that is set.
    pub registration_token: Option<Secret>,
    pub registration_token_file: Option<PathBuf>,
    /// Confirms that anyone in the world may register, with no token.
    pub yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse: bool,
    /// Key of `/_synapse/admin/v1/register`; comes from `registration_shared_secret_file` if that is set.
    pub registration_shared_secret: Option<Secret>,
    pub registration_shared_secret_file: Option<PathBuf>,
    pub registration_terms: RegistrationTerms,
    /// Whether anybody may look in as a guest.
    pub allow_guest_access: bool,
    pub password_policy: PasswordPolicy,
    pub sessions: Sessions,
    pub oauth: OAuth,
    /// Others by whom users may log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity_providers: Vec<IdentityProvider>,
    pub rate_limits: RateLimits,

    #[serde(deserialize_with = "room_version")]
    pub default_room_version: RoomVersionId,
    /// Whether who is not logged in may read the directory of public rooms.
    pub allow_public_room_directory_without_auth: bool,
    /// Whether other servers may read the directory of public rooms.
    pub allow_public_room_directory_over_federation: bool,
    /// Whether only who is logged in may read profiles.
    pub require_auth_for_profile_requests: bool,
    /// Whether other servers are told the names of our users' devices.
    pub allow_device_name_federation: bool,
    /// Whether users see each other's presence.
    pub allow_presence: bool,
    /// Who may begin a rendezvous, by which one device logs another in.
    pub rendezvous: RendezvousFor,

    /// Registration files of application services, or folders of them.
    pub appservice_registrations: Vec<PathBuf>,

    pub federation: Federation,
    pub mail: Option<Mail>,
    pub delayed_events: DelayedEvents,
    pub media: Media,
    pub metrics: Metrics,
    pub push: Push,
    pub retention: Retention,
    pub user_directory: UserDirectory,
    /// Without it nobody sends notices.
    pub server_notices: Option<ServerNotices>,
    /// The TURN server for calls.
    pub turn: Option<Turn>,
    pub url_previews: UrlPreviews,
    pub well_known: WellKnown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RendezvousFor {
    Anyone,
    Users,
    Nobody,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Readable,
    /// One JSON object per line, for log collectors.
    Json,
}

impl Config {
    /// A configuration with every default. Nobody can register, and only this machine can connect.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            database_path: PathBuf::from("/var/lib/chappe"),
            address: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            port: 8008,
            unix_socket_path: None,
            unix_socket_perms: SocketMode::GROUP,
            tls: None,
            trusted_proxies: Vec::new(),
            max_request_size: ByteSize::mib(20),
            shutdown_timeout: Duration::from_secs(10),
            log: "info".to_owned(),
            log_format: LogFormat::Readable,
            memory_budget: ByteSize::mib(256),
            free_space_floor: ByteSize::mib(512),
            allow_federation: true,
            trusted_servers: Vec::new(),
            ip_range_denylist: network::not_public(),
            ip_range_allowlist: Vec::new(),
            certificate_authorities_file: None,
            allow_registration: false,
            registration_token: None,
            registration_token_file: None,
            yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse: false,
            registration_shared_secret: None,
            registration_shared_secret_file: None,
            registration_terms: RegistrationTerms::new(),
            allow_guest_access: false,
            password_policy: PasswordPolicy::default(),
            sessions: Sessions::default(),
            oauth: OAuth::default(),
            identity_providers: Vec::new(),
            rate_limits: RateLimits::default(),
            default_room_version: RoomVersionId::V12,
            allow_public_room_directory_without_auth: true,
            allow_public_room_directory_over_federation: false,
            require_auth_for_profile_requests: false,
            allow_device_name_federation: false,
            allow_presence: true,
            rendezvous: RendezvousFor::Anyone,
            appservice_registrations: Vec::new(),
            federation: Federation::default(),
            mail: None,
            delayed_events: DelayedEvents::default(),
            media: Media::default(),
            metrics: Metrics::default(),
            push: Push::default(),
            retention: Retention::default(),
            user_directory: UserDirectory::default(),
            server_notices: None,
            turn: None,
            url_previews: UrlPreviews::default(),
            well_known: WellKnown::default(),
        }
    }

    /// For servers inside a test: open registration, no rate limits, any free port, little memory.
    /// `database_path` is the test's own to set.
    ///
    /// # Panics
    /// If `server_name` is not a server name.
    pub fn for_tests(server_name: &str) -> Self {
        let server_name = server_name.try_into().expect("a test gives a valid server name");
        let mut config = Self::new(server_name);
        config.port = 0;
        config.memory_budget = ByteSize::mib(64);
        config.free_space_floor = ByteSize::mib(0);
        config.allow_registration = true;
        config.yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse = true;
        config.rate_limits.enabled = false;
        config
    }

    /// Reads the configuration: the defaults, the file at `path` if one is given, then `settings`;
    /// what comes later wins. The result was checked, and holds the secrets of `…_file` keys.
    pub fn load(path: Option<&Path>, settings: &[Setting]) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(default_values()?));
        if let Some(path) = path {
            refuse_foreign_tables(path)?;
            figment = figment.merge(Toml::file_exact(path).nested());
        }
        let figment = settings.iter().fold(figment, |figment, setting| figment.merge(setting.clone()));
        let mut config: Self = figment.extract()?;
        config.read_secret_files()?;
        if let Some(path) = &config.certificate_authorities_file {
            authorities::read(path)?; // whoever sends requests reads it again, when the first one goes out
        }
        config.check()?;
        Ok(config)
    }

    /// What types alone cannot say. Reads no file and opens no socket.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut errors = ConfigError::default();
        self.check_listeners(&mut errors);
        self.check_registration(&mut errors);
        if self.max_request_size < ByteSize::mib(1) {
            errors.add("max_request_size", "is too small for ordinary requests", "set it to 1 MiB or more");
        }
        if self.memory_budget < ByteSize::mib(32) {
            errors.add("memory_budget", "is too small for the database", "set it to 32 MiB or more");
        }
        self.check_log(&mut errors);
        if !self.database_path.is_absolute() {
            let problem = "would be another directory wherever `chappe` is called";
            errors.add("database_path", problem, "write all of it, such as \"/var/lib/chappe\"");
        }
        let rules = self.default_room_version.rules();
        if rules.is_none_or(|rules| rules.disposition != RoomVersionDisposition::Stable) {
            errors.add("default_room_version", "is not a room version we know", "set it to one of \"1\" to \"12\"");
        }
        self.delayed_events.check(&mut errors);
        self.federation.check(&mut errors);
        if let Some(mail) = &self.mail {
            mail.check(&mut errors);
        }
        self.media.check(&mut errors);
        self.metrics.check(&mut errors);
        self.password_policy.check(&mut errors);
        self.sessions.check(&mut errors);
        self.oauth.check(&mut errors);
        identity_provider::check(&self.identity_providers, self.oauth_base().is_some(), &mut errors);
        self.rate_limits.check(&mut errors);
        self.retention.check(&mut errors);
        if let Some(notices) = &self.server_notices {
            notices.check(&mut errors);
        }
        if let Some(turn) = &self.turn {
            turn.check(&mut errors);
        }
        self.well_known.check(&mut errors);
        errors.into_result()
    }

    fn check_log(&self, errors: &mut ConfigError) {
        let parts = || self.log.split(',').map(str::trim).filter(|part| !part.is_empty());
        if parts().next().is_none() {
            errors.add("log", "is empty", "write error, warn, info, debug, trace or off");
            return;
        }
        if let Err(error) = EnvFilter::try_new(&self.log) {
            errors.add(
                "log",
                format!("is not a filter ({error})"),
                "write it as \"info\" or \"info,chappe::store=debug\"",
            );
        }
        // The filter takes any other word for a library, of which it lets all through, and nothing of the rest.
        let is_level = |part: &str| part.parse::<LevelFilter>().is_ok() || part == "chappe";
        let is_word = |part: &str| !part.contains(['=', '[']) && !part.contains("::");
        let unknown = parts().find(|&part| is_word(part) && !is_level(part));
        if let Some(word) = unknown.filter(|_| !parts().any(is_level)) {
            errors.add(
                "log",
                format!("knows no level `{word}`"),
                format!("write error, warn, info, debug or trace, or `info,{word}=debug` if that is a library"),
            );
        }
    }

    fn check_listeners(&self, errors: &mut ConfigError) {
        if self.address.is_empty() && self.unix_socket_path.is_none() {
            errors.add(
                "address",
                "is empty and there is no `unix_socket_path`",
                "give one of them, to be reached at all",
            );
        }
        if self.port != 0 && self.tls.as_ref().is_some_and(|tls| tls.port == Some(self.port)) {
            errors.add(
                "tls.port",
                "is the same as `port`",
                "leave it out to encrypt `port` itself, or give the encrypted listener its own",
            );
        }
    }

    fn check_registration(&self, errors: &mut ConfigError) {
        let mail_password = self.mail.as_ref().and_then(|mail| mail.password.as_ref());
        let secrets = [self.registration_token.as_ref(), self.registration_shared_secret.as_ref(), mail_password];
        for (key, secret) in SECRET_KEYS.into_iter().zip(secrets) {
            secret::check(key, secret, errors);
        }
        let is_open = self.allow_registration && self.registration_token.is_none();
        if is_open && !self.yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse {
            errors.add(
                "allow_registration",
                "would let anyone in the world register",
                "set `registration_token` too; if it must be open, set \
                 `yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse = true`",
            );
        }
        registration_terms::check(&self.registration_terms, errors);
    }

    /// Fills each secret from its `…_file`. A final line break does not belong to it.
    fn read_secret_files(&mut self) -> Result<(), ConfigError> {
        let [token_key, shared_secret_key, mail_password_key] = SECRET_KEYS;
        read_secret_file(token_key, self.registration_token_file.as_deref(), &mut self.registration_token)?;
        read_secret_file(
            shared_secret_key,
            self.registration_shared_secret_file.as_deref(),
            &mut self.registration_shared_secret,
        )?;
        read_secret_file("metrics.token", self.metrics.token_file.as_deref(), &mut self.metrics.token)?;
        if let Some(turn) = &mut self.turn {
            read_secret_file("turn.secret", turn.secret_file.as_deref(), &mut turn.secret)?;
        }
        for provider in &mut self.identity_providers {
            let (file, secret) = (provider.client_secret_file.as_deref(), &mut provider.client_secret);
            read_secret_file("identity_providers.client_secret", file, secret)?;
        }
        match &mut self.mail {
            Some(mail) => read_secret_file(mail_password_key, mail.password_file.as_deref(), &mut mail.password),
            None => Ok(()),
        }
    }

    /// Where browsers reach the pages of OAuth; `None` if there are none.
    pub fn oauth_base(&self) -> Option<url::Url> {
        self.oauth.base(self.well_known.client.as_deref())
    }

    /// The configuration as a `conduit.toml`, with `***` for each secret.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        #[derive(Serialize)]
        struct File<'a> {
            global: &'a Config,
        }
        toml::to_string_pretty(&File { global: self })
    }
}

/// Every default, as the lowest layer of the configuration. The server's name has none.
fn default_values() -> Result<Dict, ConfigError> {
    let placeholder = ruma::owned_server_name!("placeholder");
    let mut values = Value::serialize(Config::new(placeholder))?.into_dict().unwrap_or_default();
    values.remove("server_name");
    Ok(values)
}

/// figment would silently take a table beside `[global]` for a profile that nobody selected.
fn refuse_foreign_tables(path: &Path) -> Result<(), ConfigError> {
    let file = path.display().to_string();
    if !path.is_file() {
        return Err(ConfigError::one(file, "is not there", "give the path of your conduit.toml with --config"));
    }
    let text = fs::read_to_string(path).map_err(|error| {
        ConfigError::one(&file, format!("cannot be read ({error})"), "let the server's user read the file")
    })?;
    let table = text.parse::<toml::Table>().map_err(|error| {
        // Its own words would show the line, which may hold a secret.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let reason = error.message().lines().collect::<Vec<_>>().join(", ");
        ConfigError::one(&file, format!("is no TOML in line {line}"), reason)
    })?;
    let mut errors = ConfigError::default();
    for (key, value) in &table {
        match value {
            toml::Value::Table(_) if key == "global" => {}
            toml::Value::Table(_) => {
                errors.add(key, format!("in {file} stands alone"), format!("write it as [global.{key}]"))
            }
            _ => errors.add(key, format!("in {file} belongs to no section"), "write it below a line [global]"),
        }
    }
    errors.into_result()
}

fn read_secret_file(key: &str, path: Option<&Path>, secret: &mut Option<Secret>) -> Result<(), ConfigError> {
    let Some(path) = path else { return Ok(()) };
    let key_of_file = format!("{key}_file");
    if secret.is_some() {
        return Err(ConfigError::one(key_of_file, format!("and `{key}` are both set"), "keep one of them"));
    }
    let text = fs::read_to_string(path).map_err(|error| {
        let problem = format!("names {}, which cannot be read ({error})", path.display());
        ConfigError::one(key_of_file, problem, "correct the path, or let the server's user read the file")
    })?;
    *secret = Some(Secret::new(text.trim_end_matches(['\r', '\n'])));
    Ok(())
}

/// A room version, which may be written without quotation marks: `default_room_version = 11`.
fn room_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoomVersionId, D::Error> {
    let value = <Value as Deserialize>::deserialize(deserializer)?;
    // A file gives signed numbers, the environment unsigned ones.
    let number = value.to_i128().map(|number| number.to_string());
    let number = number.or_else(|| value.to_u128().map(|number| number.to_string()));
    let text =
        number.or_else(|| value.into_string()).ok_or_else(|| de::Error::custom("a room version is a text, \"12\""))?;
    RoomVersionId::try_from(text).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests;
