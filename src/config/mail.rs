//! `[global.mail]`: how the server sends e-mail. Without this section it sends none.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ConfigError, Secret, duration, oauth};

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
    /// Whether letters leave this machine unencrypted.
    pub(super) fn is_in_plain_sight(&self) -> bool {
        let is_here =
            |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.encryption == Encryption::None && !is_here(&self.smtp_host)
    }

    pub(super) fn check(&self, errors: &mut ConfigError) {
        if self.from.parse::<lettre::message::Mailbox>().is_err() {
            errors.add("mail.from", "is no e-mail address", "write it as \"Chappe <chappe@example.org>\"");
        }
        let url = reqwest::Url::parse(&self.public_url);
        if !url.is_ok_and(|url| oauth::is_encrypted(&url)) {
            errors.add(
                "mail.public_url",
                "is not the URL of an encrypted web server",
                "write it as \"https://matrix.example.org\": passwords are reset there",
            );
        }
        if self.is_in_plain_sight() && self.password.is_some() {
            errors.add(
                "mail.encryption",
                "would show `mail.password` to everybody on the way to the mail server",
                "set it to \"tls\" or \"starttls\"; \"none\" is for a mail server on this machine",
            );
        }
        if self.username.is_some() != (self.password.is_some() || self.password_file.is_some()) {
            errors.add("mail.username", "and `mail.password` belong together", "set both, or neither");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::complaints_of;

    fn complaint(lines: &str) -> String {
        let base = "smtp_host = 'relay'\nfrom = 'a@example.org'\npublic_url = 'https://example.org'\n";
        complaints_of(base, lines, |mail: Mail, errors| mail.check(errors))
    }

    #[test]
    fn passwords_travel_encrypted_or_on_this_machine() {
        let account = "username = 'chappe'\npassword = 's3cret'";
        for lines in [
            account.to_owned(),
            format!("{account}\nencryption = 'starttls'"),
            format!("{account}\nencryption = 'none'\nsmtp_host = '127.0.3.4'"),
            format!("{account}\nencryption = 'none'\nsmtp_host = 'localhost'"),
            "encryption = 'none'".to_owned(),
            "public_url = 'http://[::1]:8008'".to_owned(),
        ] {
            assert_eq!(complaint(&lines), "", "{lines}");
        }
        assert!(complaint(&format!("{account}\nencryption = 'none'")).starts_with("`mail.encryption` would show"));
        for url in ["http://example.org", "ftp://example.org", "example.org"] {
            assert!(complaint(&format!("public_url = '{url}'")).starts_with("`mail.public_url`"), "{url}");
        }
    }
}
