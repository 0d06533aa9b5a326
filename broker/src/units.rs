//! Durations and sizes as people write them: `250ms 30s 5m 12h 7d`, `64KiB 1MiB 10GiB` and plain bytes.

use std::time::Duration;

const SIZES: [(&str, u64); 5] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];
const DURATIONS_MS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a size; the error says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let factor = if unit.is_empty() { Some(1) } else { factor(&SIZES, unit) };
    number
        .and_then(|n| n.checked_mul(factor?))
        .ok_or_else(|| format!("`{text}` is not a size: write it as `64KiB`, `1MiB`, `10GiB` or plain bytes"))
}

/// Reads a duration; the error says what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    number
        .and_then(|n| n.checked_mul(factor(&DURATIONS_MS, unit)?))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a duration: write it as `250ms`, `30s`, `5m`, `12h` or `7d`"))
}

/// Writes a size in the largest unit that divides it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let whole =
        |&&(name, factor): &&(&str, u64)| name != "B" && bytes >= factor && bytes.is_multiple_of(factor);
    match SIZES.iter().rev().filter(whole).max_by_key(|(_, factor)| *factor) {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// Writes a duration in the largest unit that divides it.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let whole = DURATIONS_MS.iter().rev().find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor));
    match whole {
        Some((name, factor)) => format!("{}{name}", ms / factor),
        None => format!("{ms}ms"),
    }
}

fn split_unit(text: &str) -> (Option<u64>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].parse().ok(), text[end..].trim_start())
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_written() {
        for (text, bytes) in [("0", 0), ("17", 17), ("64KiB", 65_536), ("1MiB", 1 << 20), ("10GiB", 10 << 30)]
        {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(show_size(bytes), text);
        }
        for text in ["", "KiB", "1kb", "-1", "1.5MiB", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_back_as_written() {
        for (text, ms) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
        for text in ["", "5", "s", "1w", "1.5s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
