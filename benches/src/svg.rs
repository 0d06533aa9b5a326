//! A drawing, written as text.

use std::fmt::Write;

/// Where a text stands relative to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A white sheet in pixels, from its upper left corner.
#[derive(Debug)]
pub struct Sheet {
    svg: String,
}

impl Sheet {
    /// An empty one.
    #[must_use]
    pub fn new(width: f64, height: f64, font_size: f64) -> Sheet {
        Sheet {
            svg: format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
                 font-family=\"sans-serif\" font-size=\"{font_size}\">\n\
                 <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
            ),
        }
    }

    /// Plain text, its base line at `y`.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, text: &str) {
        self.write_text(x, y, anchor, "", text);
    }

    /// The same, bold.
    pub fn heading(&mut self, x: f64, y: f64, text: &str) {
        self.write_text(x, y, Anchor::Start, " font-weight=\"bold\"", text);
    }

    fn write_text(&mut self, x: f64, y: f64, anchor: Anchor, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(self.svg, "<text x=\"{x:.1}\" y=\"{y:.1}\"{anchor}{style}>{text}</text>");
    }

    /// A filled rectangle.
    pub fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        let _ = writeln!(
            self.svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    /// A line through points, and a dot on each if it is not thin.
    pub fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let places: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            places.join(" ")
        );
        if width > 1.0 {
            for (x, y) in points {
                let _ = writeln!(
                    self.svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\" fill=\"{colour}\"/>",
                    1.3 * width
                );
            }
        }
    }

    /// The whole drawing.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out_of_the_drawing() {
        let mut sheet = Sheet::new(10.0, 10.0, 8.0);
        sheet.text(1.0, 2.0, Anchor::End, "a < b & c");
        let svg = sheet.finish();
        assert!(svg.contains("text-anchor=\"end\">a &lt; b &amp; c</text>"), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
