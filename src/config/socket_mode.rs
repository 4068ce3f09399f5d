//! The permissions of a Unix socket.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Unix permissions, written by their octal digits as for `chmod`: `660` or `"660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(u32);

impl SocketMode {
    /// Owner and group may connect.
    pub const GROUP: Self = Self(0o660);

    /// The permission bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Reads the digits of `chmod`. Source: the configuration.
    fn from_digits(digits: &str) -> Option<Self> {
        let bits = u32::from_str_radix(digits, 8).ok()?;
        // Without this a TOML `0o660`, which arrives as the number 432, would be taken for mode 432.
        let owner_may_connect = bits & 0o600 == 0o600;
        (bits <= 0o777 && owner_may_connect).then_some(Self(bits))
    }
}

impl Serialize for SocketMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:o}", self.0))
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModeVisitor)
    }
}

struct ModeVisitor;

impl de::Visitor<'_> for ModeVisitor {
    type Value = SocketMode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("permissions as for chmod, such as 660, that let the owner read and write")
    }

    fn visit_u64<E: de::Error>(self, digits: u64) -> Result<SocketMode, E> {
        self.visit_str(&digits.to_string())
    }

    fn visit_i64<E: de::Error>(self, digits: i64) -> Result<SocketMode, E> {
        self.visit_str(&digits.to_string())
    }

    fn visit_str<E: de::Error>(self, digits: &str) -> Result<SocketMode, E> {
        SocketMode::from_digits(digits).ok_or_else(|| E::invalid_value(de::Unexpected::Str(digits), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_octal() {
        assert_eq!(serde_json::from_str::<SocketMode>("660").unwrap().bits(), 0o660);
        assert_eq!(serde_json::from_str::<SocketMode>("\"0777\"").unwrap().bits(), 0o777);
        for wrong in ["432", "680", "-660", "1777", "\"rw\""] {
            assert!(serde_json::from_str::<SocketMode>(wrong).is_err(), "{wrong}");
        }
    }
}
