//! Before and after, side by side, for as many photos as one can look at.

use std::fs;
use std::path::Path;

use super::canvas::{Align, Canvas, Colour, Font, Rectangle};
use crate::job::Job;
use crate::picture::Picture;
use crate::results::Record;
use crate::store::Store;

/// Entries that one sheet shows at most.
pub const SHEET_ENTRIES_MAX: usize = 60;

const COLUMNS_MAX: usize = 3;
const THUMB_WIDTH: i32 = 232;
const THUMB_HEIGHT: i32 = 174;
const THUMB_GAP: i32 = 6;
const CELL_WIDTH: i32 = 2 * THUMB_WIDTH + THUMB_GAP;
/// Below the thumbnails: a title and up to two lines of detail.
const CELL_HEIGHT: i32 = THUMB_HEIGHT + 70;
const DETAIL_LINES: usize = 2;
const DETAIL_LINE_HEIGHT: i32 = 18;
const MARGIN: i32 = 28;
const GUTTER: i32 = 26;
const HEADER: i32 = 84;

const PAPER: Colour = [250, 250, 248];
const INK: Colour = [38, 43, 51];
const MUTED: Colour = [104, 112, 124];
const MOUNT: Colour = [236, 237, 238];
const ALARM: Colour = [176, 32, 38];
const ALARM_MOUNT: Colour = [252, 231, 230];

/// One photo on the sheet.
#[derive(Debug, Clone)]
pub struct SheetEntry {
    /// The photo as it came in, as a thumbnail; none if it cannot be decoded.
    pub before: Option<Picture>,
    /// The result, as a thumbnail; none if there is none.
    pub after: Option<Picture>,
    /// Its name.
    pub title: String,
    /// What was done with it, or why that was impossible.
    pub detail: String,
}

impl SheetEntry {
    /// Scales both pictures down to what the sheet shows.
    pub fn new(
        before: Option<Picture>,
        after: Option<Picture>,
        title: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        let thumb = |p: Picture| p.thumbnail(THUMB_WIDTH as u32, THUMB_HEIGHT as u32);
        Self {
            before: before.map(thumb),
            after: after.map(thumb),
            title: title.into(),
            detail: detail.into(),
        }
    }
}

/// Reads photos and results for a sheet: up to `count` of the jobs, evenly spread, the dead ones
/// first (they are what somebody looks for). What cannot be read is left blank.
pub fn sheet_entries(
    store: &Store,
    out_dir: &Path,
    pairs: &[(Job, Record)],
    count: usize,
) -> Vec<SheetEntry> {
    let count = count.min(SHEET_ENTRIES_MAX);
    let (dead, done): (Vec<_>, Vec<_>) = pairs.iter().partition(|(_, r)| r.output.is_none());
    // However many died, half of the sheet stays for what went well.
    let dead_shown = dead.len().min(count.div_ceil(2).max(count.saturating_sub(done.len())));
    let shown = spread(&dead, dead_shown).chain(spread(&done, count - dead_shown));
    shown
        .map(|(job, record)| {
            let before = store.get(job.photo).ok().and_then(|file| Picture::decode(&file).ok());
            let after = record.output.as_ref().and_then(|name| {
                let file = fs::read(out_dir.join(name)).ok()?;
                Picture::decode(&file).ok()
            });
            let detail = record.error.as_ref().unwrap_or(&record.ops);
            // The name stands above it already.
            let detail = detail.strip_prefix(&format!("{}: ", record.input)).unwrap_or(detail);
            SheetEntry::new(before, after, &*record.input, detail)
        })
        .collect()
}

/// `count` of the items at even distances, or all if there are fewer.
fn spread<'a, T>(items: &'a [&'a T], count: usize) -> impl Iterator<Item = &'a T> {
    let count = count.min(items.len());
    (0..count).map(move |i| items[i * items.len() / count])
}

/// Draws the sheet: up to three pairs in a row, at most [`SHEET_ENTRIES_MAX`] of them.
pub fn contact_sheet(entries: &[SheetEntry]) -> Picture {
    let entries = &entries[..entries.len().min(SHEET_ENTRIES_MAX)];
    let columns = entries.len().clamp(1, COLUMNS_MAX) as i32;
    let rows = entries.len().div_ceil(COLUMNS_MAX).max(1) as i32;
    let width = 2 * MARGIN + columns * CELL_WIDTH + (columns - 1) * GUTTER;
    let height = HEADER + MARGIN + rows * CELL_HEIGHT + (rows - 1) * GUTTER;
    let mut canvas = Canvas::new(width as u32, height as u32, PAPER);
    canvas.text((MARGIN, 16), Align::Left, Font::Title, INK, "Contact sheet");
    let note = "each pair: before and after";
    canvas.text((MARGIN, 46), Align::Left, Font::Small, MUTED, note);
    for (i, entry) in entries.iter().enumerate() {
        let column = (i % COLUMNS_MAX) as i32;
        let row = (i / COLUMNS_MAX) as i32;
        let x = MARGIN + column * (CELL_WIDTH + GUTTER);
        let y = HEADER + row * (CELL_HEIGHT + GUTTER);
        draw_entry(&mut canvas, (x, y), entry);
    }
    canvas.into_picture()
}

fn draw_entry(canvas: &mut Canvas, (x, y): (i32, i32), entry: &SheetEntry) {
    let dead = entry.after.is_none();
    let right = x + THUMB_WIDTH + THUMB_GAP;
    draw_thumb(canvas, (x, y), entry.before.as_ref(), "cannot be decoded");
    draw_thumb(canvas, (right, y), entry.after.as_ref(), "no result");
    let chars = |font: Font| (CELL_WIDTH / font.char_width()) as usize;
    let title = shortened(&entry.title, chars(Font::Bold));
    let below = y + THUMB_HEIGHT + 8;
    canvas.text((x, below), Align::Left, Font::Bold, INK, &title);
    let colour = if dead { ALARM } else { MUTED };
    let lines = wrapped(&entry.detail, chars(Font::Small), DETAIL_LINES);
    for (i, line) in lines.iter().enumerate() {
        let at = (x, below + 24 + i as i32 * DETAIL_LINE_HEIGHT);
        canvas.text(at, Align::Left, Font::Small, colour, line);
    }
}

fn draw_thumb(canvas: &mut Canvas, (x, y): (i32, i32), picture: Option<&Picture>, absent: &str) {
    let mount = Rectangle { x, y, width: THUMB_WIDTH, height: THUMB_HEIGHT };
    match picture {
        Some(picture) => {
            canvas.fill(mount, MOUNT, 1.0);
            let dx = (THUMB_WIDTH - picture.width() as i32) / 2;
            let dy = (THUMB_HEIGHT - picture.height() as i32) / 2;
            canvas.picture((x + dx, y + dy), picture);
        }
        None => {
            canvas.fill(mount, ALARM_MOUNT, 1.0);
            let at = (x + THUMB_WIDTH / 2, y + (THUMB_HEIGHT - Font::Normal.height()) / 2);
            canvas.text(at, Align::Centre, Font::Normal, ALARM, absent);
        }
    }
}

/// The text, or its beginning and three dots.
fn shortened(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.into();
    }
    let kept: String = text.chars().take(chars_max.saturating_sub(3)).collect();
    format!("{kept}...")
}

/// Breaks a text behind blanks and commas into lines; what is too much for the last is cut.
fn wrapped(text: &str, chars_max: usize, lines_max: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive([' ', ',']) {
        let last = lines.len() - 1;
        let room = chars_max.saturating_sub(lines[last].chars().count());
        if word.trim_end().chars().count() > room && last + 1 < lines_max && !lines[last].is_empty() {
            lines.push(String::new());
        }
        lines.last_mut().expect("there is a line").push_str(word);
    }
    lines.iter().map(|line| shortened(line.trim_end(), chars_max)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_and_cut() {
        let table: [(&str, &[&str]); 5] = [
            ("", &[""]),
            ("a few words", &["a few", "words"]),
            ("crop=1,blur=2", &["crop=1,", "blur=2"]),
            ("unbreakable", &["unbr..."]),
            ("one two three four", &["one two", "thre..."]),
        ];
        for (text, lines) in table {
            assert_eq!(wrapped(text, 7, 2), lines, "{text}");
        }
    }
}
