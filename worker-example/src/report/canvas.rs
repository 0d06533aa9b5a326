//! Just enough drawing for two reports: boxes, anti-aliased lines, text in a bitmap font.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::picture::Picture;

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// Size and weight of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Font {
    Small,
    Normal,
    Bold,
    Title,
}

impl Font {
    fn raster(self) -> (FontWeight, RasterHeight) {
        match self {
            Font::Small => (FontWeight::Regular, RasterHeight::Size16),
            Font::Normal => (FontWeight::Regular, RasterHeight::Size20),
            Font::Bold => (FontWeight::Bold, RasterHeight::Size20),
            Font::Title => (FontWeight::Bold, RasterHeight::Size24),
        }
    }

    pub(super) fn height(self) -> i32 {
        self.raster().1.val() as i32
    }

    /// Every character is equally wide.
    pub(super) fn char_width(self) -> i32 {
        let (weight, height) = self.raster();
        get_raster_width(weight, height) as i32
    }

    pub(super) fn text_width(self, text: &str) -> i32 {
        text.chars().count() as i32 * self.char_width()
    }
}

/// Which point of a text a position means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// A rectangle in pixels. It may stick out of the canvas; what does is not drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rectangle {
    pub(super) x: i32,
    pub(super) y: i32,
    pub(super) width: i32,
    pub(super) height: i32,
}

/// A point; whole numbers are the upper left corners of pixels.
pub(super) type Point = (f64, f64);

#[derive(Debug)]
pub(super) struct Canvas {
    width: i32,
    height: i32,
    rgb: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: u32, height: u32, background: Colour) -> Self {
        let pixels = width as usize * height as usize;
        Self { width: width as i32, height: height as i32, rgb: background.repeat(pixels) }
    }

    pub(super) fn into_picture(self) -> Picture {
        Picture::new(self.width as u32, self.height as u32, self.rgb)
    }

    /// Mixes a colour over a pixel; `alpha` is 0 to 1.
    fn mix(&mut self, x: i32, y: i32, colour: Colour, alpha: f64) {
        if !(0..self.width).contains(&x) || !(0..self.height).contains(&y) {
            return;
        }
        let at = (y as usize * self.width as usize + x as usize) * colour.len();
        for (old, new) in self.rgb[at..].iter_mut().zip(colour) {
            let mixed = f64::from(*old) * (1.0 - alpha) + f64::from(new) * alpha;
            *old = mixed.round() as u8;
        }
    }

    pub(super) fn fill(&mut self, area: Rectangle, colour: Colour, alpha: f64) {
        for y in area.y..area.y + area.height {
            for x in area.x..area.x + area.width {
                self.mix(x, y, colour, alpha);
            }
        }
    }

    pub(super) fn frame(&mut self, area: Rectangle, colour: Colour) {
        let Rectangle { x, y, width, height } = area;
        self.fill(Rectangle { height: 1, ..area }, colour, 1.0);
        self.fill(Rectangle { y: y + height - 1, height: 1, ..area }, colour, 1.0);
        self.fill(Rectangle { width: 1, y: y + 1, height: height - 2, ..area }, colour, 1.0);
        let right = Rectangle { x: x + width - 1, width: 1, y: y + 1, height: height - 2 };
        self.fill(right, colour, 1.0);
    }

    /// Draws a line through the points with round joints. A pixel is covered by as much as its
    /// centre lies within half the thickness of the nearest stretch.
    pub(super) fn polyline(&mut self, points: &[Point], thickness: f64, colour: Colour) {
        let radius = thickness / 2.0;
        // The coverage is gathered first: mixing stretch by stretch would darken the joints.
        let mut covered = vec![0.0_f32; self.width as usize * self.height as usize];
        for pair in points.windows(2) {
            let ([(ax, ay), (bx, by)], reach) = ([pair[0], pair[1]], radius + 1.0);
            let columns =
                (ax.min(bx) - reach).max(0.0) as i32..=((ax.max(bx) + reach) as i32).min(self.width - 1);
            let rows =
                (ay.min(by) - reach).max(0.0) as i32..=((ay.max(by) + reach) as i32).min(self.height - 1);
            for y in rows {
                for x in columns.clone() {
                    let centre = (f64::from(x) + 0.5, f64::from(y) + 0.5);
                    let distance = distance(centre, (ax, ay), (bx, by));
                    let coverage = (radius + 0.5 - distance).clamp(0.0, 1.0) as f32;
                    let cell = &mut covered[y as usize * self.width as usize + x as usize];
                    *cell = cell.max(coverage);
                }
            }
        }
        for y in 0..self.height {
            for x in 0..self.width {
                let coverage = covered[y as usize * self.width as usize + x as usize];
                if coverage > 0.0 {
                    self.mix(x, y, colour, f64::from(coverage));
                }
            }
        }
    }

    /// Writes a text whose upper edge is `y`. What the font does not have becomes `?`.
    pub(super) fn text(&mut self, (x, y): (i32, i32), align: Align, font: Font, colour: Colour, text: &str) {
        let (weight, height) = font.raster();
        let mut left = match align {
            Align::Left => x,
            Align::Centre => x - font.text_width(text) / 2,
            Align::Right => x - font.text_width(text),
        };
        for c in text.chars() {
            let glyph = get_raster(c, weight, height).or_else(|| get_raster('?', weight, height));
            let rows = glyph.iter().flat_map(|glyph| glyph.rows());
            for (dy, row) in rows.enumerate() {
                for (dx, &intensity) in row.iter().enumerate() {
                    let alpha = f64::from(intensity) / 255.0;
                    self.mix(left + dx as i32, y + dy as i32, colour, alpha);
                }
            }
            left += font.char_width();
        }
    }

    /// Copies a picture with its upper left corner at this place.
    pub(super) fn picture(&mut self, (x, y): (i32, i32), picture: &Picture) {
        let row_pixels = picture.width() as usize;
        for (i, pixel) in picture.rgb().chunks_exact(3).enumerate() {
            let (dx, dy) = ((i % row_pixels) as i32, (i / row_pixels) as i32);
            self.mix(x + dx, y + dy, [pixel[0], pixel[1], pixel[2]], 1.0);
        }
    }
}

fn distance((x, y): Point, (ax, ay): Point, (bx, by): Point) -> f64 {
    let (dx, dy) = (bx - ax, by - ay);
    let length_squared = dx * dx + dy * dy;
    let along = if length_squared == 0.0 {
        0.0
    } else {
        (((x - ax) * dx + (y - ay) * dy) / length_squared).clamp(0.0, 1.0)
    };
    (x - ax - along * dx).hypot(y - ay - along * dy)
}
