//! A browser without scripts: it keeps a cookie, and fills in the forms of our pages.

use axum::body::Body;
use http::{Method, Request, header};

use super::{Answer, TestServer, query};

pub struct Browser {
    server: TestServer,
    cookie: Option<String>,
    language: &'static str,
}

/// A page, or where the browser is sent.
pub struct Page {
    pub answer: Answer,
    /// Where it is.
    pub at: String,
}

impl Browser {
    pub fn new(server: &TestServer) -> Self {
        Self { server: server.clone(), cookie: None, language: "en" }
    }

    pub fn in_french(server: &TestServer) -> Self {
        Self { language: "fr-FR,fr;q=0.9", ..Self::new(server) }
    }

    pub async fn open(&mut self, path: &str) -> Page {
        self.request(Method::GET, path, String::new()).await
    }

    /// Sends the form of a page with these fields, and what the page itself put into it.
    pub async fn submit(&mut self, page: &Page, fields: &[(&str, &str)]) -> Page {
        let hidden = page.hidden_fields();
        let mut all: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        all.extend_from_slice(fields);
        self.post(&page.action(), &all).await
    }

    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.request(Method::POST, path, query(fields)[1..].to_owned()).await
    }

    /// Goes where an answer sends the browser.
    pub async fn follow(&mut self, page: &Page) -> Page {
        let to = page.location().to_owned();
        self.open(&to).await
    }

    /// Opens a page, logs in where it asks for that, and is on it again.
    pub async fn open_as(&mut self, path: &str, name: &str, password: &str) -> Page {
        let sent = self.open(path).await;
        let login = self.follow(&sent).await;
        let done = self.submit(&login, &[("user", name), ("password", password)]).await;
        self.follow(&done).await
    }

    async fn request(&mut self, method: Method, path: &str, form: String) -> Page {
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT_LANGUAGE, self.language);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, format!("other=1; {cookie}"));
        }
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = self.server.send(request.body(Body::from(form)).unwrap()).await;
        if let Some(set) = answer.headers.get(header::SET_COOKIE) {
            let set = set.to_str().unwrap();
            assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{set}");
            self.cookie = Some(set.split(';').next().unwrap().to_owned());
        }
        let page = Page { answer, at: path.to_owned() };
        if page.answer.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/html; charset=utf-8") {
            page.check_policy();
        }
        page
    }
}

impl Page {
    pub fn status(&self) -> u16 {
        self.answer.status.as_u16()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.answer.bytes.clone()).unwrap()
    }

    #[track_caller]
    pub fn location(&self) -> &str {
        assert_eq!(self.status(), 303, "{}", self.text());
        self.answer.headers[header::LOCATION].to_str().unwrap()
    }

    /// The parameters of the address to which the browser is sent.
    #[track_caller]
    pub fn sent_with(&self, key: &str) -> Option<String> {
        let url = url::Url::parse(self.location()).unwrap();
        let text = url.fragment().or(url.query()).unwrap_or_default().to_owned();
        let mut pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
    }

    pub fn policy(&self) -> &str {
        self.answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap()
    }

    fn check_policy(&self) {
        let policy = self.policy();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("script-src"), "{policy}");
        assert_eq!(self.answer.headers[header::X_FRAME_OPTIONS], "DENY");
        assert_eq!(self.answer.headers[header::CACHE_CONTROL], "no-store");
        assert!(!self.text().contains("<script"));
    }

    #[track_caller]
    fn action(&self) -> String {
        self.attribute("<form ", "action").unwrap_or_else(|| panic!("no form: {} {}", self.at, self.text()))
    }

    fn hidden_fields(&self) -> Vec<(String, String)> {
        let text = self.text();
        let inputs = text.split("<input type=\"hidden\" ").skip(1);
        inputs.map(|input| (attribute(input, "name").unwrap(), attribute(input, "value").unwrap())).collect()
    }

    fn attribute(&self, before: &str, name: &str) -> Option<String> {
        let text = self.text();
        attribute(text.split_once(before)?.1, name)
    }
}

fn attribute(text: &str, name: &str) -> Option<String> {
    let (_, value) = text.split_once(&format!("{name}=\""))?;
    let (value, _) = value.split_once('"')?;
    Some(value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}
