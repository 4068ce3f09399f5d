//! Keys that take one value or a list: `address = "127.0.0.1"`, `address = ["127.0.0.1", "::1"]`.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserializer, de};

/// For `#[serde(deserialize_with)]`: a text or a list of texts, each read by `T::from_str`.
pub fn deserialize<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    deserializer.deserialize_any(OneOrMany(PhantomData))
}

struct OneOrMany<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> OneOrMany<T> {
    fn read<E: de::Error>(text: &str) -> Result<T, E> {
        text.parse().map_err(|error| E::custom(format_args!("`{text}`: {error}")))
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> de::Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        Ok(vec![Self::read(text)?])
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            values.push(Self::read(&text)?);
        }
        Ok(values)
    }
}
