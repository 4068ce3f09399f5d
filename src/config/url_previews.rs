//! `[global.url_previews]`: of which web pages this server makes previews for its users.

use serde::{Deserialize, Serialize};

use super::{ByteSize, federation::ServerPattern, one_or_many};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UrlPreviews {
    /// The only hosts from which pages and their pictures are fetched; no previews at all if there is none.
    #[serde(deserialize_with = "one_or_many::deserialize")]
    pub allowed_domains: Vec<ServerPattern>,
    /// How much of a page is read.
    pub max_page_size: ByteSize,
    /// The largest picture of a page that is kept.
    pub max_image_size: ByteSize,
}

impl UrlPreviews {
    pub fn are_on(&self) -> bool {
        !self.allowed_domains.is_empty()
    }

    /// `host`: as in a URL, without its port.
    pub fn allow(&self, host: &str) -> bool {
        self.allowed_domains.iter().any(|pattern| pattern.matches_host(host))
    }
}

impl Default for UrlPreviews {
    fn default() -> Self {
        Self { allowed_domains: Vec::new(), max_page_size: ByteSize::mib(1), max_image_size: ByteSize::mib(5) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_allowed() {
        let previews = |patterns: &[&str]| UrlPreviews {
            allowed_domains: patterns.iter().map(|pattern| pattern.parse().unwrap()).collect(),
            ..UrlPreviews::default()
        };
        let nothing = UrlPreviews::default();
        assert!(!nothing.are_on() && !nothing.allow("example.org"));
        let some = previews(&["example.org", "*.gouv.fr"]);
        for host in ["example.org", "EXAMPLE.org", "www.gouv.fr", "a.b.gouv.fr"] {
            assert!(some.allow(host), "{host}");
        }
        for host in
            ["www.example.org", "example.org.evil.example", "notexample.org", "gouv.fr", "xgouv.fr", "", "[::1]"]
        {
            assert!(!some.allow(host), "{host}");
        }
        assert!(previews(&["*"]).allow("under_score.example"));
    }
}
