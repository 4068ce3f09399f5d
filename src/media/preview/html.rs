//! What a page says about itself in its head: the tags of Open Graph, its title, its description.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::{Duration, Instant},
};

use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts, states::RawKind,
};

/// How many properties are kept, and how long each may be, in bytes.
const MAX_PROPERTIES: usize = 30;
const MAX_BYTES: usize = 1_000;
const MAX_NAME_BYTES: usize = 100;

/// How long one page is worked on: the tokenizer compares each attribute of a tag with all before it, and a page can have
/// a tag of a hundred thousand.
const MAX_TIME: Duration = Duration::from_millis(500);
/// How much is tokenized, in characters, between two looks at the clock.
const PIECE: usize = 1_024;

/// The properties of a page, by their names (`og:title`). The first of several with one name counts.
pub fn properties(html: &str) -> BTreeMap<String, String> {
    let start = Instant::now();
    let tokenizer = Tokenizer::new(Head::default(), TokenizerOpts::default());
    let input = BufferQueue::default();
    let mut rest = html;
    while !rest.is_empty() && !tokenizer.sink.is_over.get() && start.elapsed() < MAX_TIME {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
        rest = after;
        input.push_back(piece.into());
        // Scripts are not run: the tokenizer stops behind each, and is told to go on.
        while !input.is_empty() {
            let _ = tokenizer.feed(&input);
        }
    }
    if rest.is_empty() {
        tokenizer.end();
    }
    let Head { properties, title, description, .. } = tokenizer.sink;
    let mut properties = properties.into_inner();
    let mut or = |key: &str, text: String| {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.is_empty() {
            properties.entry(key.to_owned()).or_insert_with(|| shortened(text));
        }
    };
    or("og:title", title.into_inner());
    or("og:description", description.into_inner());
    properties
}

#[derive(Default)]
struct Head {
    properties: RefCell<BTreeMap<String, String>>,
    title: RefCell<String>,
    description: RefCell<String>,
    is_in_title: Cell<bool>,
    has_title: Cell<bool>,
    /// What comes now is what the page shows.
    is_over: Cell<bool>,
}

impl TokenSink for Head {
    type Handle = ();

    fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
        match token {
            Token::TagToken(tag) if !self.is_over.get() => return self.tag(&tag),
            Token::CharacterTokens(text) if self.is_in_title.get() && self.title.borrow().len() < MAX_BYTES => {
                self.title.borrow_mut().push_str(&text);
            }
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl Head {
    fn tag(&self, tag: &Tag) -> TokenSinkResult<()> {
        let is_start = tag.kind == TagKind::StartTag;
        match &*tag.name {
            "title" => {
                self.is_in_title.set(is_start && !self.has_title.replace(true));
                if is_start {
                    return TokenSinkResult::RawData(RawKind::Rcdata);
                }
            }
            "meta" if is_start => self.meta(tag),
            "body" => self.is_over.set(true),
            "script" if is_start => return TokenSinkResult::RawData(RawKind::ScriptData),
            "style" | "noframes" | "iframe" if is_start => return TokenSinkResult::RawData(RawKind::Rawtext),
            "textarea" if is_start => return TokenSinkResult::RawData(RawKind::Rcdata),
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn meta(&self, tag: &Tag) {
        let attribute = |name: &str| tag.attrs.iter().find(|attr| &*attr.name.local == name).map(|attr| &*attr.value);
        let Some(content) = attribute("content").filter(|content| !content.trim().is_empty()) else { return };
        let name = attribute("property").or(attribute("name")).unwrap_or_default().trim();
        if name.eq_ignore_ascii_case("description") && self.description.borrow().is_empty() {
            self.description.borrow_mut().push_str(content);
        }
        let mut properties = self.properties.borrow_mut();
        if name.starts_with("og:") && name.len() <= MAX_NAME_BYTES && properties.len() < MAX_PROPERTIES {
            properties.entry(name.to_owned()).or_insert_with(|| shortened(content.trim().to_owned()));
        }
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_BYTES));
    text
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_says_what_it_is_about() {
        let html = r#"<html><head><title>A  page &amp; more</title>
            <meta property="og:title" content="Title"><meta property="og:title" content="Another">
            <META NAME="Description" CONTENT="What it is about">
            <meta property="og:image" content="/a.png"><meta property="og:empty" content=" ">
            <script>var x = '<meta property="og:type" content="forged">';</script>
            <style><meta property="og:url" content="forged"></style></head>
            <body><title>no</title><meta property="og:url" content="somebody's comment"></body></html>"#;
        let found = properties(html);
        assert_eq!(found["og:title"], "Title");
        assert_eq!(found["og:description"], "What it is about");
        assert_eq!(found["og:image"], "/a.png");
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(properties("<title>A  page &amp; more</title><title>x</title>")["og:title"], "A page & more");
    }

    #[test]
    fn what_a_page_says_is_bounded() {
        let many: String =
            (0..1_000).map(|n| format!("<meta property='og:{n}' content='{}'>", "é".repeat(5_000))).collect();
        let found = properties(&many);
        assert!(found.len() == MAX_PROPERTIES && found.values().all(|text| text.len() <= MAX_BYTES));
    }

    #[test]
    fn a_page_that_takes_long_is_left() {
        let mut page = "<title>x</title><meta ".to_owned();
        (0..150_000).for_each(|n| write!(page, "a{n} ").unwrap());
        let start = Instant::now();
        assert_eq!(properties(&page)["og:title"], "x");
        assert!(start.elapsed() < 10 * MAX_TIME, "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(html in "(<[a-z/! ]{0,8}|script>|title>|meta content='x' property=og:x>|[a-z<>\"'&;=é]){0,40}") {
            properties(&html);
        }
    }
}
