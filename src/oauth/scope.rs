//! Scopes: what a client asks to be allowed.
//! <https://spec.matrix.org/v1.19/client-server-api/#scope>

use std::collections::BTreeSet;

use ruma::OwnedDeviceId;

use super::failure::{Code, Failure};

/// The names of full access, and the beginnings of those that name the device: of the specification, and as they were
/// called while it was written (MSC2967), by which the matrix-rust-sdk still asks.
const FULL_ACCESS: [&str; 2] = ["urn:matrix:client:api:*", "urn:matrix:org.matrix.msc2967.client:api:*"];
const DEVICE: [&str; 2] = ["urn:matrix:client:device:", "urn:matrix:org.matrix.msc2967.client:device:"];

/// Longest device id. Source: ours for all devices.
const MAX_DEVICE_BYTES: usize = 255;

/// Full access on one device: the only kind that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub device_id: OwnedDeviceId,
    /// What was granted, in the words in which it was asked for.
    pub text: String,
}

impl Scope {
    /// Scopes that we do not know are not granted (`openid`, of Element Web); access to one device must be among them.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut granted = Vec::new();
        let mut devices = BTreeSet::new();
        for token in text.split(' ') {
            let device = DEVICE.iter().find_map(|beginning| token.strip_prefix(beginning));
            if device.is_some() || FULL_ACCESS.contains(&token) {
                granted.push(token);
            }
            devices.extend(device);
        }
        let has_access = granted.iter().any(|token| FULL_ACCESS.contains(token));
        let mut devices = devices.into_iter();
        let (Some(device), None, true) = (devices.next(), devices.next(), has_access) else {
            return Err(Code::InvalidScope.because("The scope must be full access to the API, on exactly one device"));
        };
        let is_allowed = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
        if device.is_empty() || device.len() > MAX_DEVICE_BYTES || !device.chars().all(is_allowed) {
            return Err(Code::InvalidScope.because("The scope names no device id"));
        }
        Ok(Self { device_id: device.into(), text: granted.join(" ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(String, String)> {
        Scope::parse(text).ok().map(|scope| (scope.device_id.to_string(), scope.text))
    }

    #[test]
    fn a_scope_is_full_access_on_one_device() {
        let stable = "urn:matrix:client:api:* urn:matrix:client:device:ABCDEF";
        assert_eq!(parse(stable).unwrap(), ("ABCDEF".to_owned(), stable.to_owned()));
        let unstable = "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:a-._~";
        assert_eq!(parse(unstable).unwrap(), ("a-._~".to_owned(), unstable.to_owned()));
        let both = format!("openid {stable} urn:matrix:org.matrix.msc2967.client:device:ABCDEF");
        assert_eq!(parse(&both).unwrap().1, both.strip_prefix("openid ").unwrap());
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "",
            "openid",
            "urn:matrix:client:api:*",
            "urn:matrix:client:device:A",
            "urn:matrix:client:api:* urn:matrix:client:device:",
            "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
            "urn:matrix:client:api:read urn:matrix:client:device:A",
            "urn:matrix:client:api:* urn:matrix:client:device:\"",
            "urn:matrix:client:api:* urn:matrix:client:device:\u{e9}",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse(&format!("{} {}{}", FULL_ACCESS[0], DEVICE[0], "A".repeat(256))).is_none());
    }
}
