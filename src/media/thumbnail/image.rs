//! Decoding and encoding images. What is decoded comes from users: only four formats, recognized by their first bytes,
//! and no image whose header names more pixels than the configuration allows.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek},
};

use image::{
    AnimationDecoder, DynamicImage, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageResult, Limits,
    codecs::{
        gif::GifDecoder,
        jpeg::{JpegDecoder, JpegEncoder},
        png::{PngDecoder, PngEncoder},
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

use super::size::{Shrink, Size};

/// What a pixel may take in memory: all but images of 16 bits per color are within it.
const BYTES_PER_PIXEL: u64 = 4;
/// To know whether a GIF is animated, two of its frames are decoded. Larger ones are taken for animated.
const MAX_ANIMATED_PIXELS: u64 = 4_000_000;
const JPEG_QUALITY: u8 = 85;
/// The largest thumbnail that stays a PNG although a JPEG would do. Bytes.
const MAX_OPAQUE_PNG: usize = 64 << 10;
/// Those of cameras have a few kilobytes.
const MAX_COLOR_PROFILE: usize = 64 << 10;

/// An image file whose header was read.
pub struct Image {
    pub format: Format,
    /// As it is meant to be seen.
    pub size: Size,
    decoder: Box<dyn ImageDecoder>,
    orientation: Orientation,
}

/// The formats that thumbnails are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Gif,
    Jpeg,
    Png,
    WebP,
}

impl Format {
    const ALL: [Self; 4] = [Self::Gif, Self::Jpeg, Self::Png, Self::WebP];

    /// Goes by the first bytes: what the uploader says does not count.
    fn of(file: &mut File) -> io::Result<Option<Self>> {
        let mut start = Vec::with_capacity(32);
        file.take(32).read_to_end(&mut start)?;
        file.rewind()?;
        Ok(match image::guess_format(&start) {
            Ok(ImageFormat::Gif) => Some(Self::Gif),
            Ok(ImageFormat::Jpeg) => Some(Self::Jpeg),
            Ok(ImageFormat::Png) => Some(Self::Png),
            Ok(ImageFormat::WebP) => Some(Self::WebP),
            _ => None,
        })
    }

    pub fn extension(self) -> &'static str {
        match self {
            Self::Gif => "gif",
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::WebP => "webp",
        }
    }

    pub fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Gif => "image/gif",
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
        }
    }
}

/// Why there is no thumbnail.
#[derive(Debug)]
pub enum Failure {
    /// No image, none of a format that we decode, or a damaged one.
    NotAnImage,
    TooLarge,
    Disk(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooLarge,
            // An image that ends early is an error of reading as well.
            ImageError::IoError(error) if error.raw_os_error().is_some() => Self::Disk(error),
            _ => Self::NotAnImage,
        }
    }
}

impl Image {
    /// Reads the header of an image.
    pub fn open(mut file: File, max_pixels: u64) -> Result<Self, Failure> {
        let format = Format::of(&mut file)?.ok_or(Failure::NotAnImage)?;
        let reader = BufReader::new(file);
        let limits = limits(max_pixels);
        let mut decoder: Box<dyn ImageDecoder> = match format {
            Format::Gif => Box::new(GifDecoder::new(reader)?),
            Format::Jpeg => Box::new(JpegDecoder::new(reader)?),
            Format::Png => Box::new(PngDecoder::with_limits(reader, limits.clone())?),
            Format::WebP => Box::new(WebPDecoder::new(reader)?),
        };
        let (width, height) = decoder.dimensions();
        let size = Size { width, height };
        if size.pixels() > max_pixels || decoder.total_bytes() > max_pixels * BYTES_PER_PIXEL {
            return Err(Failure::TooLarge);
        }
        decoder.set_limits(limits)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        Ok(Self { format, size: turned(size, orientation), decoder, orientation })
    }

    /// The image shrunk and encoded: as PNG if it has an alpha channel, or was one and stays small, since drawings and
    /// text are sharper so; otherwise as JPEG. The first frame, if it has several.
    pub fn encode(mut self, shrink: Shrink) -> Result<(Format, Vec<u8>), Failure> {
        let profile = self.decoder.icc_profile().ok().flatten().filter(|profile| is_of_rgb(profile));
        let mut image = DynamicImage::from_decoder(self.decoder)?;
        match shrink {
            Shrink::No => {}
            Shrink::To(size) => image = shrunk(&image, turned(size, self.orientation)),
            Shrink::AndCrop(size, crop) => {
                image = shrunk(&image, turned(size, self.orientation));
                image = middle(&image, turned(crop, self.orientation));
            }
        }
        image.apply_orientation(self.orientation); // last, because it copies the image
        let has_alpha = image.color().has_alpha();
        let image: DynamicImage = if has_alpha { image.into_rgba8().into() } else { image.into_rgb8().into() };
        let mut out = Cursor::new(Vec::new());
        if has_alpha || self.format == Format::Png {
            write(PngEncoder::new(&mut out), profile.clone(), &image)?;
            if has_alpha || out.get_ref().len() <= MAX_OPAQUE_PNG {
                return Ok((Format::Png, out.into_inner()));
            }
            out = Cursor::new(Vec::new());
        }
        write(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY), profile, &image)?;
        Ok((Format::Jpeg, out.into_inner()))
    }
}

/// Whether a file, of which format and size are known, has more than one frame.
pub fn is_animated(file: File, format: Format, size: Size, max_pixels: u64) -> Result<bool, Failure> {
    let reader = BufReader::new(file);
    Ok(match format {
        Format::Jpeg => false,
        Format::Png => PngDecoder::with_limits(reader, limits(max_pixels))?.is_apng()?,
        Format::WebP => WebPDecoder::new(reader)?.has_animation(),
        Format::Gif if size.pixels() > MAX_ANIMATED_PIXELS => true,
        Format::Gif => {
            let mut decoder = GifDecoder::new(reader)?;
            decoder.set_limits(limits(max_pixels))?;
            decoder.into_frames().take(2).filter(ImageResult::is_ok).count() == 2
        }
    })
}

fn limits(max_pixels: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels * BYTES_PER_PIXEL);
    limits
}

/// The size before or after turning an image, which is the same thing.
fn turned(size: Size, orientation: Orientation) -> Size {
    match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            Size { width: size.height, height: size.width }
        }
        _ => size,
    }
}

fn shrunk(image: &DynamicImage, size: Size) -> DynamicImage {
    image.thumbnail_exact(size.width, size.height)
}

fn middle(image: &DynamicImage, size: Size) -> DynamicImage {
    let left = image.width().saturating_sub(size.width) / 2;
    let top = image.height().saturating_sub(size.height) / 2;
    image.crop_imm(left, top, size.width, size.height)
}

/// Whether a color profile is one for red, green and blue, and of an ordinary size.
fn is_of_rgb(profile: &[u8]) -> bool {
    profile.len() <= MAX_COLOR_PROFILE && profile.get(16..20) == Some(b"RGB ")
}

fn write(mut encoder: impl ImageEncoder, profile: Option<Vec<u8>>, image: &DynamicImage) -> ImageResult<()> {
    if let Some(profile) = profile {
        // An encoder that can't keep it leaves colors a little off.
        let _ = encoder.set_icc_profile(profile);
    }
    encoder.write_image(image.as_bytes(), image.width(), image.height(), image.color().into())
}
