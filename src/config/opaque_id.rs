//! Identifiers of which the specification says only what characters they have.

/// <https://spec.matrix.org/v1.19/appendices/#opaque-identifiers>
pub(super) fn is_opaque_id(text: &str, max_bytes: usize) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (1..=max_bytes).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opaque_id_has_few_characters_and_is_no_longer_than_allowed() {
        for (text, expected) in
            [("Ab9-._~", true), ("", false), ("12345678", true), ("123456789", false), ("a b", false), ("é", false)]
        {
            assert_eq!(is_opaque_id(text, 8), expected, "{text}");
        }
    }
}
