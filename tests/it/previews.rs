//! Previews of web pages: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url>

use std::{
    collections::HashMap,
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chappe::config::Config;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Answer, TestServer, User, query};

/// A web server on this machine.
struct Web {
    /// `http://127.0.0.1:…`
    address: String,
    asked: Arc<AtomicUsize>,
}

/// What stands at a path: the head of the answer after its status, and its body.
type Page = (&'static str, String, Vec<u8>);

fn page(path: &'static str, content_type: &str, content: impl Into<Vec<u8>>) -> Page {
    (path, format!("200 OK\r\nContent-Type: {content_type}"), content.into())
}

fn moved(path: &'static str, to: &str) -> Page {
    (path, format!("302 Found\r\nLocation: {to}"), Vec::new())
}

impl Web {
    /// What is at `/endless` never ends.
    async fn with(pages: Vec<Page>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let pages: Arc<HashMap<_, _>> =
            Arc::new(pages.into_iter().map(|(path, head, content)| (path, (head, content))).collect());
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let length = stream.read(&mut request).await.unwrap_or_default();
                    let request = String::from_utf8_lossy(&request[..length]).into_owned();
                    let path = request.split(' ').nth(1).unwrap_or_default();
                    if path == "/endless" {
                        let _ = stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>long</title>")
                            .await;
                        while stream.write_all(&[b' '; 1024]).await.is_ok() {}
                        return;
                    }
                    let (head, content) = match pages.get(path) {
                        Some((head, content)) => (head.as_str(), content.as_slice()),
                        None => ("404 Not Found", &[][..]),
                    };
                    let length = content.len();
                    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(content).await;
                });
            }
        });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }
}

fn png() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(3, 2).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A server that previews pages of `domains`, and reaches this machine; and a user.
async fn server(domains: &[&str], change: impl FnOnce(&mut Config)) -> (TestServer, User) {
    let server = TestServer::with_network(|config| {
        config.url_previews.allowed_domains = domains.iter().map(|domain| domain.parse().unwrap()).collect();
        change(config);
    })
    .await;
    let alice = server.user("alice").await;
    (server, alice)
}

async fn preview(user: &User, url: &str) -> Answer {
    user.get(&format!("/v1/media/preview_url{}", query(&[("url", url)]))).await
}

#[tokio::test]
async fn a_page_is_shown_with_its_picture() {
    let tags =
        r#"<title>x</title><meta property="og:title" content="Tower"><meta property="og:image" content="a.png">"#;
    let web = Web::with(vec![
        page("/dir/page", "text/html; charset=utf-8", tags),
        page("/dir/a.png", "image/png", png()),
        page("/latin", "text/html", b"<meta charset=iso-8859-1><title>\xc9cluse</title>".to_vec()),
        page("/binary", "application/octet-stream", vec![0; 100]),
        page("/false.png", "image/png", "<svg/>"),
        moved("/moved", "/dir/page"),
    ])
    .await;
    let (server, alice) = server(&["127.0.0.1"], |_| {}).await;
    let shown = preview(&alice, &web.url("/dir/page#part")).await.ok();
    let image = shown["og:image"].as_str().unwrap().strip_prefix("mxc://example.org/").unwrap().to_owned();
    let expected = json!({
        "og:title": "Tower", "og:image": format!("mxc://example.org/{image}"), "og:image:type": "image/png",
        "og:image:width": 3, "og:image:height": 2, "matrix:image:size": png().len(),
    });
    assert_eq!(shown, expected);
    assert_eq!(alice.get(&format!("/v1/media/download/example.org/{image}")).await.bytes, png());
    let unknown = alice.get("/v1/media/download/example.org/unknown").await;
    assert_eq!(unknown.error(), (404, "M_NOT_FOUND"));

    // The older endpoint answers the same, and nothing is fetched again within the hour.
    let asked = web.asked.load(Ordering::SeqCst);
    let older = format!("/_matrix/media/v3/preview_url{}", query(&[("url", &web.url("/dir/page"))]));
    assert_eq!(alice.get(&older).await.ok(), shown);
    assert_eq!(web.asked.load(Ordering::SeqCst), asked);
    server.advance(Duration::from_secs(60 * 60));
    assert_eq!(alice.get(&older).await.ok()["og:title"], "Tower");
    assert_eq!(web.asked.load(Ordering::SeqCst), asked + 2);

    let latin = preview(&alice, &web.url("/latin")).await.ok();
    assert_eq!(latin, json!({ "og:title": "Écluse" }));
    assert_eq!(preview(&alice, &web.url("/dir/a.png")).await.ok()["og:image:width"], 3);
    assert_eq!(preview(&alice, &web.url("/moved")).await.ok()["og:image:width"], 3);
    for nothing in ["/binary", "/false.png"] {
        assert_eq!(preview(&alice, &web.url(nothing)).await.ok(), json!({}), "{nothing}");
    }
    assert_eq!(preview(&alice, &web.url("/missing")).await.error(), (502, "M_UNKNOWN"));
}

#[tokio::test]
async fn what_is_fetched_is_bounded() {
    let mut large = b"<title>large</title>".to_vec();
    large.resize(3 << 20, b' ');
    let mut image = png();
    image.resize(100_000, 0);
    let web = Web::with(vec![
        page("/large", "text/html", large),
        page("/image", "text/html", r#"<title>x</title><meta property="og:image" content="/large.png">"#),
        page("/large.png", "image/png", image),
    ])
    .await;
    let change = |config: &mut Config| {
        config.url_previews.max_image_size = "99999".parse().unwrap();
    };
    let (_server, alice) = server(&["127.0.0.1"], change).await;
    assert_eq!(preview(&alice, &web.url("/endless")).await.ok(), json!({ "og:title": "long" }));
    assert_eq!(preview(&alice, &web.url("/large")).await.ok(), json!({ "og:title": "large" }));
    assert_eq!(preview(&alice, &web.url("/image")).await.ok(), json!({ "og:title": "x" }));
}

#[tokio::test]
async fn what_only_the_server_can_reach_is_not_shown_and_not_told() {
    let web = Web::with(vec![page("/", "text/html", "<title>secret</title>")]).await;
    let (_server, alice) = server(&["*"], |config| config.ip_range_allowlist.clear()).await;
    let port = web.address.rsplit(':').next().unwrap();
    let closed = preview(&alice, "http://127.0.0.1:1/").await;
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "localhost"] {
        let answer = preview(&alice, &format!("http://{host}:{port}/")).await;
        assert_eq!(answer.error(), (502, "M_UNKNOWN"), "{host}");
        assert_eq!(answer.body, closed.body, "{host}");
    }
    assert_eq!(web.asked.load(Ordering::SeqCst), 0);
    for bad in ["file:///etc/passwd", "ftp://example.com/", "nothing", "http://user:pass@example.com/", ""] {
        assert_eq!(preview(&alice, bad).await.error(), (400, "M_INVALID_PARAM"), "{bad}");
    }
}

#[tokio::test]
async fn nothing_is_fetched_but_from_the_hosts_on_the_list() {
    let elsewhere =
        Web::with(vec![page("/", "text/html", "<title>x</title>"), page("/a.png", "image/png", png())]).await;
    let other = elsewhere.address.replace("127.0.0.1", "localhost");
    let image = format!(r#"<title>x</title><meta property="og:image" content="{other}/a.png">"#);
    let web = Web::with(vec![
        page("/image", "text/html", image),
        moved("/moved", &format!("{other}/")),
        moved("/circle", "/circle"),
        moved("/file", "file:///etc/passwd"),
    ])
    .await;
    let (_server, alice) = server(&["127.0.0.1"], |_| {}).await;
    assert_eq!(preview(&alice, &format!("{other}/")).await.error(), (403, "M_FORBIDDEN"));
    for path in ["/moved", "/circle", "/file"] {
        assert_eq!(preview(&alice, &web.url(path)).await.error(), (502, "M_UNKNOWN"), "{path}");
    }
    assert_eq!(preview(&alice, &web.url("/image")).await.ok(), json!({ "og:title": "x" }));
    assert_eq!(elsewhere.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn pictures_of_pages_make_room_for_each_other() {
    let web = Web::with(vec![page("/1.png", "image/png", png()), page("/2.png", "image/png", png())]).await;
    let change = |config: &mut Config| {
        config.media.remote_cache_size = (png().len() + 1).to_string().parse().unwrap();
        config.media.max_remote_file_size = "10".parse().unwrap();
    };
    let (server, alice) = server(&["127.0.0.1"], change).await;
    let mut images = Vec::new();
    for path in ["/1.png", "/2.png"] {
        let shown: Value = preview(&alice, &web.url(path)).await.ok();
        images.push(shown["og:image"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned());
        server.advance(Duration::from_secs(1));
    }
    let status = async |image: &str| alice.get(&format!("/v1/media/download/{image}")).await.status;
    assert_eq!(
        (status(&images[0]).await, status(&images[1]).await),
        (404.try_into().unwrap(), 200.try_into().unwrap())
    );
}

#[tokio::test]
async fn previews_are_off_unless_hosts_are_allowed() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    assert_eq!(preview(&alice, "https://example.com/").await.error(), (404, "M_UNRECOGNIZED"));
    let path = format!("/v1/media/preview_url{}", query(&[("url", "https://example.com/")]));
    assert_eq!(server.get(&path).await.error(), (401, "M_MISSING_TOKEN"));
}
