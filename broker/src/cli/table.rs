//! Aligned columns for people, and values made safe for a terminal.

use std::fmt::Write;

use super::out::stdout_colour;

/// A value is not shown beyond this many characters.
const VALUE_CHARS_MAX: usize = 120;

/// To which side a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a head, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Side)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell for every column");
        self.rows.push(cells);
    }

    /// The table for stdout; `empty` if there are no rows.
    pub(super) fn render(&self, empty: &str) -> String {
        if self.rows.is_empty() { format!("{empty}\n") } else { self.lines(stdout_colour()) }
    }

    fn lines(&self, colour: bool) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(column, (head, _))| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.max().unwrap_or(0).max(head.len())
            })
            .collect();
        let mut text = String::new();
        let heads: Vec<String> = self.columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        let head = self.line(&heads, &widths);
        match colour {
            true => writeln!(text, "\x1b[1m{head}\x1b[0m"),
            false => writeln!(text, "{head}"),
        }
        .expect("a string takes it");
        for row in &self.rows {
            text.push_str(&self.line(row, &widths));
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, side)) in cells.iter().zip(widths).zip(&self.columns) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            match side {
                Side::Left => write!(line, "{cell:<width$}"),
                Side::Right => write!(line, "{cell:>width$}"),
            }
            .expect("a string takes it");
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Names and values below each other, for a description.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    for (name, value) in fields {
        writeln!(text, "{:<width$} {value}", format!("{name}:")).expect("a string takes it");
    }
    text
}

/// Bytes on one line of a terminal: no control characters, cut if long, `-` if absent.
pub(super) fn shown(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "-".to_owned() };
    // No character of a value is longer than four bytes.
    let head = &bytes[..bytes.len().min(4 * (VALUE_CHARS_MAX + 1))];
    let text = String::from_utf8_lossy(head);
    let mut shown = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == VALUE_CHARS_MAX {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(&[("NAME", Side::Left), ("N", Side::Right), ("NOTE", Side::Left)]);
        table.row(vec!["ä".into(), "12".into(), String::new()]);
        table.row(vec!["photos".into(), "3".into(), "x".into()]);
        assert_eq!(table.lines(false), "NAME     N  NOTE\nä       12\nphotos   3  x\n");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(Table::new(&[("A", Side::Left)]).render("none"), "none\n");
    }

    #[test]
    fn values_cannot_touch_the_terminal() {
        assert_eq!(shown(Some(b"a\x1b[2Jb\n\xff")), "a\\u{1b}[2Jb\\n\u{fffd}");
        assert_eq!(shown(None), "-");
        assert_eq!(shown(Some(&[b'x'; 500])).chars().count(), VALUE_CHARS_MAX + 1);
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(fields(&[("a", "1".into()), ("long", "2".into())]), "a:    1\nlong: 2\n");
    }
}
