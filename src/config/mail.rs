//! `[global.mail]`: how the server sends e-mail. Without this section it sends none.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ConfigError, Secret, duration};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// The mail server that takes our letters.
    pub smtp_host: String,
    /// `None`: the usual port of `encryption`.
    pub smtp_port: Option<u16>,
    #[serde(default)]
    pub encryption: Encryption,
    pub username: Option<String>,
    /// Comes from `password_file` if that is set.
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    /// The sender: `Chappe <chappe@example.org>`.
    pub from: String,
    /// Where links in letters lead: this server, as its users' browsers reach it.
    pub public_url: String,
    /// Of letters to those whose client names no language that we have.
    #[serde(default)]
    pub language: Language,
    /// Whether new users must confirm an address.
    #[serde(default)]
    pub required_to_register: bool,
    /// How long unread messages wait before a letter tells of them.
    #[serde(default = "default_delay", with = "duration")]
    pub notification_delay: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// From the first byte.
    #[default]
    Tls,
    /// After a greeting; a server that does not offer it gets no letter.
    Starttls,
    /// Not at all: for a mail server on this machine.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Language {
    #[default]
    #[serde(rename = "en")]
    English,
    #[serde(rename = "fr")]
    French,
}

fn default_delay() -> Duration {
    Duration::from_secs(10 * 60)
}

impl Mail {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        if self.from.parse::<lettre::message::Mailbox>().is_err() {
            errors.add("mail.from", "is no e-mail address", "write it as \"Chappe <chappe@example.org>\"");
        }
        let url = reqwest::Url::parse(&self.public_url);
        if !url.is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host()) {
            errors.add("mail.public_url", "is no web address", "write it as \"https://matrix.example.org\"");
        }
        if self.username.is_some() != (self.password.is_some() || self.password_file.is_some()) {
            errors.add("mail.username", "and `mail.password` belong together", "set both, or neither");
        }
    }
}
