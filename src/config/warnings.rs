//! What is allowed, and most likely not meant.

use url::Url;

use super::{Config, Mail, Secret, oauth, opaque_id::is_opaque_id};

/// A shorter text can be guessed.
const MIN_SHARED_SECRET_BYTES: usize = 16;
/// Longest registration token. Source: the specification.
const MAX_TOKEN_BYTES: usize = 64;

impl Config {
    /// For the log, when the server starts.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |key: &str, problem: &str, way_out: &str| warnings.push(format!("`{key}` {problem}: {way_out}"));
        if self.is_open_in_plain_text() {
            let way_out = match self.tls {
                Some(_) => {
                    "leave `tls.port` out and set `port` to that, or name your reverse proxy in `trusted_proxies`"
                }
                None => "set [global.tls], or name your reverse proxy in `trusted_proxies`",
            };
            warn("address", "lets other machines send passwords and messages unencrypted, to `port`", way_out);
        }
        let secret = self.registration_shared_secret.as_ref().map(Secret::expose);
        if secret.is_some_and(|secret| secret.len() < MIN_SHARED_SECRET_BYTES) {
            warn(
                "registration_shared_secret",
                "is short, and whoever guesses it owns the server",
                "take what `openssl rand -hex 32` prints",
            );
        }
        if self.registration_token.as_ref().is_some_and(|token| !is_opaque_id(token.expose(), MAX_TOKEN_BYTES)) {
            warn(
                "registration_token",
                "is not one that all clients accept",
                "write it with up to 64 of 0-9, A-Z, a-z and -._~, such as `openssl rand -hex 16` prints",
            );
        }
        let client = self.well_known.client.as_deref().and_then(|url| Url::parse(url).ok());
        if client.is_some_and(|url| !oauth::is_encrypted(&url)) {
            warn(
                "well_known.client",
                "has clients send passwords unencrypted, and does not do for log-in by OAuth",
                "write it as \"https://matrix.example.org\"",
            );
        }
        if self.mail.as_ref().is_some_and(Mail::is_in_plain_sight) {
            warn(
                "mail.encryption",
                "lets everybody on the way read letters, by which passwords are reset",
                "set it to \"tls\" or \"starttls\"",
            );
        }
        if self.retention.default_lifetime.is_some() && !self.retention.enabled {
            warn("retention.default_lifetime", "has no effect", "set `enabled = true` in [global.retention]");
        }
        if self.media.max_upload_size.bytes() == 0 {
            warn("media.max_upload_size", "lets nobody upload anything, not even a picture of himself", "raise it");
        }
        if self.media.remote_download_burst.bytes() == 0 {
            warn("media.remote_download_burst", "lets nobody see files of other servers", "raise it");
        }
        warnings
    }

    /// Whether something else than a reverse proxy may reach a listener that is not encrypted.
    fn is_open_in_plain_text(&self) -> bool {
        let is_plain = self.tls.as_ref().is_none_or(|tls| tls.port.is_some());
        is_plain
            && self.trusted_proxies.is_empty()
            && self.address.iter().any(|address| !address.to_canonical().is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tls;

    fn warnings(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::new(ruma::owned_server_name!("example.org"));
        change(&mut config);
        config.check().unwrap();
        config.warnings()
    }

    fn tls(port: Option<u16>) -> Option<Tls> {
        Some(Tls { certs: "/c".into(), key: "/k".into(), port })
    }

    fn mail(lines: &str) -> Option<Mail> {
        let mail = "from = 'a@example.org'\npublic_url = 'https://example.org'";
        Some(toml::from_str(&format!("{mail}\n{lines}")).unwrap())
    }

    #[test]
    fn what_is_most_likely_not_meant_is_said() {
        let outside = |config: &mut Config| config.address = vec!["0.0.0.0".parse().unwrap()];
        let all = [
            ("address", warnings(outside)),
            (
                "address",
                warnings(|config| {
                    outside(config);
                    config.tls = tls(Some(8448));
                }),
            ),
            (
                "registration_shared_secret",
                warnings(|config| config.registration_shared_secret = Some(Secret::new("complement"))),
            ),
            ("registration_token", warnings(|config| config.registration_token = Some(Secret::new("open sesame")))),
            ("well_known.client", warnings(|config| config.well_known.client = Some("http://example.org".to_owned()))),
            ("mail.encryption", warnings(|config| config.mail = mail("smtp_host = 'relay'\nencryption = 'none'"))),
            (
                "retention.default_lifetime",
                warnings(|config| config.retention.default_lifetime = Some(config.retention.allowed_lifetime_min)),
            ),
            ("media.max_upload_size", warnings(|config| config.media.max_upload_size = "0".parse().unwrap())),
            (
                "media.remote_download_burst",
                warnings(|config| config.media.remote_download_burst = "0".parse().unwrap()),
            ),
        ];
        for (key, warnings) in all {
            assert!(warnings.len() == 1 && warnings[0].starts_with(&format!("`{key}` ")), "{key}: {warnings:?}");
        }
    }

    #[test]
    fn what_is_sensible_is_passed_over() {
        let nothing: Vec<String> = Vec::new();
        assert_eq!(warnings(|_| {}), nothing);
        let encrypted = |config: &mut Config| {
            config.address = vec!["::".parse().unwrap()];
            config.tls = tls(None);
            config.registration_token = Some(Secret::new("0123456789abcdef"));
            config.registration_shared_secret = Some(Secret::new("0123456789abcdef"));
            config.well_known.client = Some("https://example.org".to_owned());
            config.mail = mail("smtp_host = 'relay'");
        };
        assert_eq!(warnings(encrypted), nothing);
        let behind_a_proxy = |config: &mut Config| {
            config.address = vec!["0.0.0.0".parse().unwrap()];
            config.trusted_proxies = vec!["10.0.0.1".parse().unwrap()];
            config.well_known.client = Some("http://127.0.0.1:8008".to_owned());
            config.mail = mail("smtp_host = '127.0.0.1'\nencryption = 'none'");
        };
        assert_eq!(warnings(behind_a_proxy), nothing);
    }
}
