//! `[global.tls]`: encrypted connections without a reverse proxy.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Certificate files; they are read at start-up and again on SIGHUP.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the server's certificate, then its intermediate certificates.
    pub certs: PathBuf,
    /// PEM file with the private key of the first certificate.
    pub key: PathBuf,
    /// Port of the encrypted listeners. `None`: the main `port` is encrypted and nothing listens in plain text.
    pub port: Option<u16>,
}
