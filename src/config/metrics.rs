//! `[global.metrics]`: figures of this server for Prometheus.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, Secret, secret};

/// Off unless `listen` or `token` is set.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// A listener for nothing else. Without it the figures are at the other listeners, for who has the token.
    pub listen: Option<SocketAddr>,
    /// What a scraper must send as its bearer token; comes from `token_file` if that is set.
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
}

impl Metrics {
    /// Whether anybody can ask for the figures.
    pub fn is_on(&self) -> bool {
        self.listen.is_some() || self.token.is_some()
    }

    pub(super) fn check(&self, errors: &mut ConfigError) {
        secret::check("metrics.token", self.token.as_ref(), errors);
        if self.token.is_none() && self.listen.is_some_and(|address| !address.ip().is_loopback()) {
            errors.add(
                "metrics.listen",
                "can be reached from other machines, and there is no `metrics.token`",
                "set a token too, or listen on 127.0.0.1: the figures tell whom this server talks to",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(listen: &str, token: Option<&str>) -> Option<String> {
        let metrics = Metrics {
            listen: (!listen.is_empty()).then(|| listen.parse().unwrap()),
            token: token.map(Secret::new),
            token_file: None,
        };
        let mut errors = ConfigError::default();
        metrics.check(&mut errors);
        errors.into_result().err().map(|error| error.to_string())
    }

    #[test]
    fn without_a_token_only_this_machine_may_ask() {
        assert!(!Metrics::default().is_on());
        for listen in ["127.0.0.1:9090", "[::1]:9090", ""] {
            assert_eq!(complaint(listen, None), None, "{listen}");
        }
        assert!(complaint("0.0.0.0:9090", None).unwrap().contains("metrics.token"));
        assert_eq!(complaint("0.0.0.0:9090", Some("0123456789abcdef")), None);
        for (token, problem) in [("", "is empty"), ("***", "`chappe config` prints"), ("a long random text", "example")]
        {
            assert!(complaint("", Some(token)).unwrap().contains(problem), "{token}");
        }
    }
}
