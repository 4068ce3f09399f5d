//! How large a thumbnail is.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#thumbnails>: a thumbnail is never smaller than what was asked for,
//! unless the image is, and never larger than the image.

use ruma::media::Method;

use crate::error::{Error, Result};

/// The sizes that images are scaled to: those that the specification names, and one for large screens. Whoever asks for
/// another gets the next larger one, so that few thumbnails are made of an image.
const SCALED: [Size; 6] = [
    Size { width: 32, height: 32 },
    Size { width: 96, height: 96 },
    Size { width: 320, height: 240 },
    Size { width: 640, height: 480 },
    Size { width: 800, height: 600 },
    Size { width: 1600, height: 1200 },
];
/// The lengths of the longer side of a cropped image; its shape is what the client asks for.
const CROPPED: [u32; 6] = [32, 96, 320, 640, 800, 1600];

/// In pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl Size {
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    fn at_least(self, other: Self) -> Self {
        Self { width: self.width.max(other.width), height: self.height.max(other.height) }
    }

    /// Whether an image of that size lies within this one.
    pub fn covers(self, other: Self) -> bool {
        self.width >= other.width && self.height >= other.height
    }
}

/// What to do with an image to get its thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    /// Nothing: it is small already, or as small as it may be.
    No,
    To(Size),
    /// To a size that covers what is then cut out of the middle.
    AndCrop(Size, Size),
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    is_crop: bool,
    least: Size,
    /// What is aimed at: at least as large as `least`. `None` where that is larger than any thumbnail.
    target: Option<Size>,
}

impl Wanted {
    /// Error: `M_INVALID_PARAM` for what is no size or no method.
    pub fn new(method: Option<&Method>, width: u64, height: u64) -> Result<Self> {
        let is_crop = match method {
            Some(Method::Crop) => true,
            Some(Method::Scale) | None => false,
            Some(_) => return Err(Error::invalid_param("`method` is neither `crop` nor `scale`")),
        };
        if width == 0 || height == 0 {
            return Err(Error::invalid_param("A thumbnail has a width and a height"));
        }
        // No image is larger than that, so nothing more can be meant.
        let least = Size { width: clamp(width), height: clamp(height) };
        let target = if is_crop { cropped(least) } else { scaled(least) };
        Ok(Self { is_crop, least, target })
    }

    /// A file name without extension, the same for what gives the same thumbnail of any image.
    pub fn name(&self) -> String {
        match self.target {
            Some(Size { width, height }) if self.is_crop => format!("crop-{width}x{height}"),
            Some(Size { width, height }) => format!("scale-{width}x{height}"),
            None => "whole".to_owned(),
        }
    }

    /// How to make the thumbnail of an image of this size.
    pub fn shrink(&self, image: Size) -> Shrink {
        let Some(target) = self.target.filter(|_| image.covers(self.least)) else { return Shrink::No };
        if !self.is_crop {
            return match cover(image, target) {
                Some(size) => Shrink::To(size),
                None => Shrink::No,
            };
        }
        let target = fit(target, image).at_least(self.least);
        if target == image {
            return Shrink::No;
        }
        Shrink::AndCrop(cover(image, target).unwrap_or(image), target)
    }
}

fn clamp(length: u64) -> u32 {
    u32::try_from(length).map_or(u32::MAX, |length| length.min(65_535))
}

fn scaled(least: Size) -> Option<Size> {
    SCALED.into_iter().find(|size| size.covers(least))
}

/// `least` made larger, in the same shape.
fn cropped(least: Size) -> Option<Size> {
    let longer = least.width.max(least.height);
    let to = CROPPED.into_iter().find(|length| *length >= longer)?;
    Some(Size { width: times(least.width, to, longer), height: times(least.height, to, longer) })
}

/// The size of `image` made as small as it can be while it covers `target`; `None` if that is no smaller.
fn cover(image: Size, target: Size) -> Option<Size> {
    if target.width >= image.width || target.height >= image.height {
        return None;
    }
    let by_width = Size { width: target.width, height: times(image.height, target.width, image.width) };
    let by_height = Size { width: times(image.width, target.height, image.height), height: target.height };
    Some(if by_width.height >= target.height { by_width } else { by_height })
}

/// `target` made smaller, in the same shape, until it fits into `image`.
fn fit(target: Size, image: Size) -> Size {
    if image.covers(target) {
        return target;
    }
    let by_width = Size { width: image.width, height: times(target.height, image.width, target.width) };
    let by_height = Size { width: times(target.width, image.height, target.height), height: image.height };
    if by_width.height <= image.height { by_width } else { by_height }
}

/// `length * by / over`, rounded up, so that nothing becomes too small or nothing at all.
fn times(length: u32, by: u32, over: u32) -> u32 {
    let product = (u64::from(length) * u64::from(by)).div_ceil(u64::from(over));
    u32::try_from(product).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn size(width: u32, height: u32) -> Size {
        Size { width, height }
    }

    fn shrink(method: Method, asked: (u64, u64), image: Size) -> Shrink {
        Wanted::new(Some(&method), asked.0, asked.1).unwrap().shrink(image)
    }

    #[test]
    fn scaled_images_keep_their_shape_and_cover_what_was_asked_for() {
        let photo = size(4000, 3000);
        assert_eq!(shrink(Method::Scale, (320, 240), photo), Shrink::To(size(320, 240)));
        assert_eq!(shrink(Method::Scale, (100, 100), photo), Shrink::To(size(320, 240)));
        assert_eq!(shrink(Method::Scale, (32, 32), photo), Shrink::To(size(43, 32)));
        assert_eq!(shrink(Method::Scale, (800, 600), size(3000, 4000)), Shrink::To(size(800, 1067)));
        assert_eq!(shrink(Method::Scale, (5000, 10), photo), Shrink::No);
        assert_eq!(shrink(Method::Scale, (1601, 10), photo), Shrink::No, "the original is at least as large");
        assert_eq!(shrink(Method::Scale, (32, 32), size(40, 20)), Shrink::No);
    }

    #[test]
    fn cropped_images_have_the_shape_that_was_asked_for() {
        let photo = size(4000, 3000);
        assert_eq!(shrink(Method::Crop, (96, 96), photo), Shrink::AndCrop(size(128, 96), size(96, 96)));
        assert_eq!(shrink(Method::Crop, (64, 32), photo), Shrink::AndCrop(size(96, 72), size(96, 48)));
        assert_eq!(shrink(Method::Crop, (97, 97), size(300, 200)), Shrink::AndCrop(size(300, 200), size(200, 200)));
        assert_eq!(shrink(Method::Crop, (32, 32), size(40, 20)), Shrink::No);
    }

    #[test]
    fn few_thumbnails_are_made_of_one_image() {
        let name = |method: &Method, side| Wanted::new(Some(method), side, side).unwrap().name();
        let names = |method| (1..=4_000).map(|side| name(&method, side)).collect::<HashSet<_>>();
        assert_eq!(names(Method::Crop).len(), CROPPED.len() + 1);
        assert_eq!(names(Method::Scale).len(), SCALED.len() + 1);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        assert!(Wanted::new(None, 0, 1).is_err() && Wanted::new(None, 1, 0).is_err());
        assert!(Wanted::new(Some(&"stretch".into()), 1, 1).is_err());
        assert!(Wanted::new(None, u64::MAX, u64::MAX).is_ok());
    }

    proptest! {
        #[test]
        fn no_thumbnail_is_too_small_or_larger_than_the_image(
            is_crop: bool,
            asked in (1_u64..2_000, 1_u64..2_000),
            image in (1_u32..65_536, 1_u32..65_536),
        ) {
            let method = if is_crop { Method::Crop } else { Method::Scale };
            let (asked_size, image) = (size(clamp(asked.0), clamp(asked.1)), size(image.0, image.1));
            match shrink(method, asked, image) {
                Shrink::No => {}
                Shrink::To(to) => {
                    prop_assert!(to.covers(asked_size) && image.covers(to));
                }
                Shrink::AndCrop(to, crop) => {
                    prop_assert!(crop.covers(asked_size) && to.covers(crop) && image.covers(to));
                }
            }
        }
    }
}
