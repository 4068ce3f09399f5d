//! `[global.oauth]`: log-in by OAuth 2.0, on pages of this server.

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{ConfigError, Language};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    pub enabled: bool,
    /// This server as its users' browsers reach it. `None`: `client` of [`super::WellKnown`].
    pub public_url: Option<String>,
    /// Of the pages, for browsers that name no language that we have.
    pub language: Language,
}

impl Default for OAuth {
    fn default() -> Self {
        Self { enabled: true, public_url: None, language: Language::English }
    }
}

impl OAuth {
    /// The base of all addresses that clients are told; it ends in a slash. `None` if OAuth is switched off, or it is not
    /// known where browsers reach this server, encrypted: the `Host` that a request names could be anybody's.
    pub fn base(&self, well_known_client: Option<&str>) -> Option<Url> {
        let url = self.public_url.as_deref().or(well_known_client).filter(|_| self.enabled)?;
        is_fit(url).then(|| Url::parse(url).ok())?
    }

    pub(super) fn check(&self, errors: &mut ConfigError) {
        if self.public_url.as_deref().is_some_and(|url| !is_fit(url)) {
            errors.add(
                "oauth.public_url",
                "is not the URL of an encrypted web server",
                "write it as \"https://matrix.example.org\", without a path",
            );
        }
    }
}

fn is_fit(url: &str) -> bool {
    Url::parse(url)
        .is_ok_and(|url| is_encrypted(&url) && url.path() == "/" && url.query().is_none() && url.fragment().is_none())
}

/// Whether passwords and tokens may travel there: encrypted, or on this machine.
pub(super) fn is_encrypted(url: &Url) -> bool {
    let is_local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_local);
    is_safe && url.username().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_base_where_browsers_come_encrypted() {
        let base = |own: Option<&str>, well_known| {
            let config = OAuth { public_url: own.map(str::to_owned), ..OAuth::default() };
            config.base(well_known).map(String::from)
        };
        assert_eq!(base(None, None), None);
        assert_eq!(base(None, Some("https://matrix.example.org")).unwrap(), "https://matrix.example.org/");
        assert_eq!(
            base(Some("https://a.example.org"), Some("https://b.example.org")).unwrap(),
            "https://a.example.org/"
        );
        assert_eq!(base(None, Some("http://localhost:8008")).unwrap(), "http://localhost:8008/");
        assert_eq!(base(None, Some("http://matrix.example.org")), None);
        let off = OAuth { enabled: false, ..OAuth::default() };
        assert_eq!(off.base(Some("https://matrix.example.org")), None);
    }
}
