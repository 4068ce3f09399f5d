//! Where a client of the older way wants its user sent back to, with a login token in the address. Any client may ask for any
//! address; so a person is told which it is, and asked, before the token goes there.
//! <https://spec.matrix.org/v1.19/client-server-api/#client-login-via-sso>

use url::{Url, form_urlencoded};

use crate::error::{Error, Result};

const MAX_BYTES: usize = 4 << 10;

/// Schemes by which an address would be code or a file, not a place.
const NOT_PLACES: [&str; 9] =
    ["about", "blob", "content", "data", "file", "filesystem", "javascript", "vbscript", "view-source"];

/// `M_INVALID_PARAM` if no token can be sent there.
pub fn parse(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= MAX_BYTES);
    let url = url.filter(|url| !NOT_PLACES.contains(&url.scheme()) && url.username().is_empty());
    url.ok_or_else(|| Error::invalid_param("`redirectUrl` is no address to which a login token could be sent"))
}

/// The address with the token in it, in place of any older one. The rest of the query stays as the client wrote it.
pub fn with_token(mut url: Url, token: &str) -> String {
    const NAME: &str = "loginToken";
    let is_token = |part: &str| form_urlencoded::parse(part.as_bytes()).any(|(name, _)| name == NAME);
    if let Some(query) = url.query().filter(|query| query.split('&').any(is_token)) {
        let kept: Vec<_> = query.split('&').filter(|part| !is_token(part)).collect();
        let kept = kept.join("&");
        url.set_query(Some(&kept));
    }
    url.query_pairs_mut().append_pair(NAME, token);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_to_places_only() {
        for text in
            ["https://app.example/?a=b#/c", "http://localhost:1234/", "element://connect", "io.element.x:/callback"]
        {
            parse(text).unwrap();
        }
        for text in [
            "",
            "/callback",
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            " data:text/html,x",
            "vbscript:x",
            "blob:https://a.example/x",
            "file:///etc/passwd",
            "https://app.example@evil.example/",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&format!("https://app.example/{}", "x".repeat(MAX_BYTES))).is_err());
    }

    #[test]
    fn a_token_joins_the_query() {
        let with = |text| with_token(parse(text).unwrap(), "t&1");
        assert_eq!(with("https://app.example/?a=%20b#/c"), "https://app.example/?a=%20b&loginToken=t%261#/c");
        assert_eq!(with("element://connect"), "element://connect?loginToken=t%261");
        assert_eq!(with("io.element.x:/callback"), "io.element.x:/callback?loginToken=t%261");
        assert_eq!(with("io.element.x:/callback?loginToken=old"), "io.element.x:/callback?loginToken=t%261");
        assert_eq!(
            with("https://app.example/?loginToken=a&a=%20b&login%54oken=b&xloginToken=c#/c"),
            "https://app.example/?a=%20b&xloginToken=c&loginToken=t%261#/c"
        );
    }
}
