//! `[global.federation]`: with which other servers this one talks, and for how long it waits for them.

use std::{fmt, str::FromStr, time::Duration};

use ruma::ServerName;
use serde::{Deserialize, Serialize, Serializer};

use super::{ByteSize, ConfigError, duration, one_or_many};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Federation {
    /// The only servers with which anything is exchanged; everybody if it is `["*"]`.
    #[serde(deserialize_with = "one_or_many::deserialize")]
    pub allowed_servers: Vec<ServerPattern>,
    /// How long an ordinary request to another server may take altogether, and a file until it begins.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// Largest answer of another server to an ordinary request.
    pub max_response_size: ByteSize,
    /// Whether rooms of other servers are joined before all of their members are known.
    pub partial_joins: bool,
}

impl Federation {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        if self.request_timeout.is_zero() {
            errors.add("federation.request_timeout", "gives other servers no time", "set it to some seconds");
        }
        if self.max_response_size < ByteSize::mib(1) {
            errors.add("federation.max_response_size", "is too small for ordinary answers", "set it to 1 MiB or more");
        }
    }
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            allowed_servers: vec![ServerPattern("*".to_owned())],
            request_timeout: Duration::from_secs(30),
            max_response_size: ByteSize::mib(16),
            partial_joins: true,
        }
    }
}

/// A server name, or `*.example.org` for all servers below that name, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPattern(String);

impl ServerPattern {
    /// As [`Self::matches`], for the host of an address of another kind.
    pub fn matches_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        match self.0.strip_prefix('*') {
            Some(end) => host.ends_with(end),
            None => host == self.0,
        }
    }

    /// A pattern without a port is for every port.
    pub fn matches(&self, server: &ServerName) -> bool {
        let (name, host) = (server.as_str().to_ascii_lowercase(), server.host().to_ascii_lowercase());
        match self.0.strip_prefix('*') {
            Some("") => true,
            Some(end) => host.ends_with(end) || name.ends_with(end),
            None => host == self.0 || name == self.0,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not a server name; write \"example.org\", \"*.example.org\" for all servers below it, or \"*\"")]
pub struct NotAServerPattern;

impl FromStr for ServerPattern {
    type Err = NotAServerPattern;

    fn from_str(text: &str) -> Result<Self, NotAServerPattern> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        if text == "*" || <&ServerName>::try_from(name).is_ok() {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(NotAServerPattern)
        }
    }
}

impl fmt::Display for ServerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ServerPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, server: &str) -> bool {
        pattern.parse::<ServerPattern>().unwrap().matches(server.try_into().unwrap())
    }

    #[test]
    fn a_pattern_is_for_its_servers_only() {
        assert!(matches("*", "anybody.example"));
        assert!(matches("a.example", "a.example") && matches("A.example", "a.EXAMPLE:8448"));
        assert!(!matches("a.example", "b.a.example") && !matches("a.example", "aa.example"));
        assert!(matches("*.a.example", "b.a.example") && matches("*.a.example", "c.b.a.example:1"));
        assert!(!matches("*.a.example", "a.example") && !matches("*.a.example", "ba.example"));
        assert!(matches("a.example:1", "a.example:1") && !matches("a.example:1", "a.example:2"));
        for bad in ["", "*a.example", "a.*.example", "**", "a b"] {
            assert!(bad.parse::<ServerPattern>().is_err(), "{bad}");
        }
    }
}
