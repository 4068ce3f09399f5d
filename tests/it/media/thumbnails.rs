use std::io::Cursor;

use http::{Method, header};
use image::{Delay, DynamicImage, Frame, ImageFormat, Rgba, RgbaImage, codecs::gif::GifEncoder, metadata::Orientation};

use super::{send, upload};
use crate::support::{Answer, TestNetwork, TestServer, User, limit};

/// Red on the left, blue on the right; opaque, or with a transparent corner.
fn picture(width: u32, height: u32, alpha: u8) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| match (x < width / 2, y) {
        (true, 0) => Rgba([255, 0, 0, alpha]),
        (true, _) => Rgba([255, 0, 0, 255]),
        (false, _) => Rgba([0, 0, 255, 255]),
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format).unwrap();
    out.into_inner()
}

fn opaque(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    encoded(&DynamicImage::from(picture(width, height, 255)).to_rgb8().into(), format)
}

/// With an alpha channel.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    encoded(&picture(width, height, 0).into(), ImageFormat::Png)
}

fn gif(width: u32, height: u32, frames: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let frame = Frame::from_parts(picture(width, height, 255), 0, 0, Delay::from_numer_denom_ms(100, 1));
    GifEncoder::new(&mut out).encode_frames(std::iter::repeat_n(frame, frames)).unwrap();
    out
}

async fn thumbnail(user: &User, image: &[u8], query: &str) -> Answer {
    // The type that the uploader names does not count.
    let address = upload(user, image, "text/html").await;
    user.get(&format!("/v1/media/thumbnail/{address}?{query}")).await
}

/// Type and size of an answer that must be an image.
#[track_caller]
fn shown(answer: &Answer) -> (&str, u32, u32) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let media_type = answer.headers[header::CONTENT_TYPE].to_str().unwrap();
    let format = ImageFormat::from_mime_type(media_type).unwrap();
    let image = image::load_from_memory_with_format(&answer.bytes, format).unwrap();
    (media_type, image.width(), image.height())
}

#[tokio::test]
async fn images_are_scaled_and_cropped() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for (format, made, name) in [
        (ImageFormat::Png, "image/png", "thumbnail.png"),
        (ImageFormat::Jpeg, "image/jpeg", "thumbnail.jpg"),
        (ImageFormat::WebP, "image/jpeg", "thumbnail.jpg"),
    ] {
        let image = opaque(1000, 500, format);
        let scaled = thumbnail(&alice, &image, "width=320&height=240&method=scale").await;
        assert_eq!(shown(&scaled), (made, 480, 240), "{format:?}");
        assert_eq!(scaled.headers[header::CONTENT_DISPOSITION], format!("inline; filename={name}"));
        assert_eq!(scaled.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(shown(&thumbnail(&alice, &image, "width=320&height=240").await), (made, 480, 240));
        let cropped = thumbnail(&alice, &image, "width=96&height=96&method=crop").await;
        assert_eq!(shown(&cropped), (made, 96, 96), "{format:?}");
        let middle = image::load_from_memory(&cropped.bytes).unwrap().to_rgb8();
        assert!(middle.get_pixel(10, 48)[0] > 200 && middle.get_pixel(85, 48)[2] > 200, "it is cut from the middle");
    }
    let transparent = thumbnail(&alice, &png(1000, 500), "width=32&height=32&method=crop").await;
    assert_eq!(shown(&transparent), ("image/png", 32, 32));
    assert_eq!(shown(&thumbnail(&alice, &gif(200, 100, 1), "width=32&height=32").await), ("image/png", 64, 32));
}

#[tokio::test]
async fn no_thumbnail_is_larger_than_the_image() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for (image, media_type) in [
        (opaque(40, 20, ImageFormat::Jpeg), "image/jpeg"),
        (png(40, 20), "image/png"),
        (gif(40, 20, 1), "image/gif"),
        (opaque(40, 20, ImageFormat::WebP), "image/webp"),
    ] {
        for query in ["width=96&height=96&method=crop", "width=800&height=600", "width=99999&height=99999"] {
            let answer = thumbnail(&alice, &image, query).await;
            assert_eq!(shown(&answer), (media_type, 40, 20));
            assert_eq!(answer.bytes, image, "the original itself");
        }
    }
}

#[tokio::test]
async fn a_thumbnail_is_made_once() {
    let server = TestServer::with(|config| config.rate_limits.enabled = true).await;
    let alice = server.user("alice").await;
    let address = upload(&alice, &png(300, 300), "image/png").await;
    let path = format!("/_matrix/client/v1/media/thumbnail/{address}?width=96&height=96&method=crop");
    let first = send(&alice, Method::GET, &path, &[], "".into()).await;
    for _ in 0..600 {
        assert_eq!(send(&alice, Method::GET, &path, &[], "".into()).await.bytes, first.bytes);
    }
    let tag = first.headers[header::ETAG].to_str().unwrap();
    assert_eq!(send(&alice, Method::GET, &path, &[(header::IF_NONE_MATCH, tag)], "".into()).await.status, 304);
    // Sizes that have the same thumbnail.
    let near = path.replace("96", "64");
    assert_eq!(send(&alice, Method::GET, &near, &[], "".into()).await.bytes, first.bytes);
}

#[tokio::test]
async fn servers_and_who_is_not_logged_in_have_limits_as_users_have() {
    let network = TestNetwork::new();
    let change = |config: &mut chappe::config::Config| {
        config.media.allow_legacy_media = true;
        limit(config, "thumbnail = { burst = 1, every = '1 s' }");
    };
    let server = network.server_with("a.example", change).await;
    let (peer, alice) = (network.peer("b.example"), server.user("alice").await);
    let address = upload(&alice, &png(900, 900), "image/png").await;
    let federated = format!("/_matrix/federation/v1/media/thumbnail/{}", address.split_once('/').unwrap().1);
    let legacy = format!("/_matrix/media/v3/thumbnail/{address}");
    let [tiny, small, medium] = ["width=32&height=32", "width=320&height=240", "width=640&height=480"];
    let for_server = async |query: &str| peer.get(&server, &format!("{federated}?{query}")).await;
    let for_nobody = async |query: &str| server.get(&format!("{legacy}?{query}")).await;
    assert_eq!(for_server(tiny).await.status, 200);
    assert_eq!(for_server(small).await.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(for_nobody(small).await.status, 200);
    assert_eq!(for_nobody(medium).await.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(for_server(small).await.status, 200, "what was made costs nothing");
}

#[tokio::test]
async fn still_images_are_still_and_moving_ones_move_if_that_is_asked_for() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let moving = gif(200, 100, 3);
    for query in ["width=96&height=96", "width=96&height=96&animated=false", "width=800&height=600"] {
        assert_eq!(shown(&thumbnail(&alice, &moving, query).await).0, "image/png", "{query}");
    }
    let animated = thumbnail(&alice, &moving, "width=96&height=96&animated=true").await;
    assert_eq!((shown(&animated).0, &animated.bytes), ("image/gif", &moving));
    let photo = opaque(200, 100, ImageFormat::Jpeg);
    assert_eq!(shown(&thumbnail(&alice, &photo, "width=32&height=32&animated=true").await), ("image/jpeg", 64, 32));
}

/// A JPEG that says that it lies on its side.
fn turned(width: u32, height: u32) -> Vec<u8> {
    let jpeg = opaque(width, height, ImageFormat::Jpeg);
    let mut exif = b"\xFF\xE1\0\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([Orientation::Rotate90.to_exif(), 0, 0, 0, 0, 0, 0]);
    [&jpeg[..2], &exif, &jpeg[2..]].concat()
}

#[tokio::test]
async fn photos_are_turned_as_the_camera_was_held() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let answer = thumbnail(&alice, &turned(400, 200), "width=96&height=96").await;
    assert_eq!(shown(&answer), ("image/jpeg", 96, 192));
    let image = image::load_from_memory(&answer.bytes).unwrap().to_rgb8();
    assert!(image.get_pixel(48, 20)[0] > 200 && image.get_pixel(48, 170)[2] > 200, "left became top");
}

#[tokio::test]
async fn what_is_no_image_has_no_thumbnail() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let png = png(300, 300);
    let jpeg = opaque(300, 300, ImageFormat::Jpeg);
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>";
    let tiff = b"II*\0\x08\0\0\0\0\0";
    for no_image in
        [b"".as_slice(), b"hello", svg, tiff, &png[..20], &png[..100], &jpeg[..40], b"GIF89a", b"RIFF\0\0\0\0WEBP"]
    {
        let answer = thumbnail(&alice, no_image, "width=32&height=32").await;
        assert_eq!(answer.error(), (400, "M_UNKNOWN"), "{}", no_image.escape_ascii());
    }
}

#[tokio::test]
async fn sizes_must_be_sizes() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for (query, errcode) in [
        ("width=0&height=32", "M_INVALID_PARAM"),
        ("width=32&height=-1", "M_INVALID_PARAM"),
        ("width=32&height=1.5", "M_INVALID_PARAM"),
        ("width=32&height=32&method=stretch", "M_INVALID_PARAM"),
        ("width=32&height=32&animated=maybe", "M_INVALID_PARAM"),
        ("width=32", "M_MISSING_PARAM"),
    ] {
        assert_eq!(thumbnail(&alice, &png(40, 40), query).await.error(), (400, errcode), "{query}");
    }
}

/// The checksum of a chunk of a PNG.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}

#[tokio::test]
async fn images_that_claim_to_be_huge_are_not_decoded() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let side = 60_000_u16;

    let mut png = png(40, 40);
    png[16..20].copy_from_slice(&u32::from(side).to_be_bytes());
    png[20..24].copy_from_slice(&u32::from(side).to_be_bytes());
    let checksum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());

    let mut jpeg = opaque(40, 40, ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());

    let mut gif = gif(40, 40, 1);
    gif[6..8].copy_from_slice(&side.to_le_bytes());
    gif[8..10].copy_from_slice(&side.to_le_bytes());

    for bomb in [png, jpeg, gif] {
        let answer = thumbnail(&alice, &bomb, "width=32&height=32").await;
        assert_eq!(answer.error(), (413, "M_TOO_LARGE"), "{}", bomb[..8].escape_ascii());
    }
}

#[tokio::test]
async fn the_configuration_says_how_large_an_image_may_be() {
    let server = TestServer::with(|config| config.media.max_thumbnail_pixels = 10_000).await;
    let alice = server.user("alice").await;
    assert_eq!(thumbnail(&alice, &png(100, 100), "width=32&height=32").await.status, 200);
    assert_eq!(thumbnail(&alice, &png(100, 101), "width=32&height=32").await.error(), (413, "M_TOO_LARGE"));
}
