//! Whether a browser may show a file, and how it is called.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content>

use ruma::http_headers::{ContentDisposition, ContentDispositionType};

/// The types that do no harm when a browser shows them as what they say they are.
const INLINE: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// For content that is served with `media_type`. Neither that nor the name is trusted; ruma's encoding of the name
/// leaves no way out of the header.
pub fn of(media_type: &str, file_name: Option<String>) -> ContentDisposition {
    let essence = media_type.split_once(';').map_or(media_type, |(essence, _)| essence).trim();
    let is_harmless = INLINE.iter().any(|inline| essence.eq_ignore_ascii_case(inline));
    let disposition = if is_harmless { ContentDispositionType::Inline } else { ContentDispositionType::Attachment };
    ContentDisposition::new(disposition).with_filename(file_name)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_harmless_types_are_shown() {
        for harmless in ["image/png", "IMAGE/PNG", " text/plain ;charset=utf-8", "audio/x-flac"] {
            assert_eq!(of(harmless, None).to_string(), "inline", "{harmless}");
        }
        for harmful in
            ["text/html", "image/svg+xml", "application/pdf", "", "image/png,text/html", "image/png\ttext/html"]
        {
            assert_eq!(of(harmful, None).to_string(), "attachment", "{harmful}");
        }
    }

    #[test]
    fn names_are_quoted_or_encoded() {
        let named = |name: &str| of("image/png", Some(name.to_owned())).to_string();
        assert_eq!(named("cat.png"), "inline; filename=cat.png");
        assert_eq!(named("a \"b\"; c"), r#"inline; filename="a \"b\"; c""#);
        assert_eq!(named("été.png"), "inline; filename*=utf-8''%C3%A9t%C3%A9.png");
        assert_eq!(named("a\r\nSet-Cookie: b=c"), r#"inline; filename="aSet-Cookie: b=c""#);
        assert_eq!(named("é\r\nSet-Cookie: b=c"), "inline; filename*=utf-8''%C3%A9%0D%0ASet-Cookie%3A%20b%3Dc");
    }

    proptest! {
        #[test]
        fn every_name_is_a_header(name: String) {
            let header = of("image/png", Some(name)).to_string();
            prop_assert!(header.bytes().all(|byte| (0x20..0x7F).contains(&byte) || byte == b'\t'));
            prop_assert!(HeaderValue::try_from(header).is_ok());
        }
    }
}
