//! `[global.push]`: what is sent to push gateways.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Push {
    /// Whether gateways may be called without encryption: for tests.
    pub allow_http_gateways: bool,
}
