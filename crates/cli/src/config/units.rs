//! Durations and sizes as people write them: `15s`, `100ms`, `1h`; `64KiB`, `1MiB`, `1GB`.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
];

/// A whole number and `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &DURATIONS).map(Duration::from_millis).ok_or_else(|| {
        format!("{text:?} is not a duration: write a number with its unit, like 100ms, 15s, 5m, 1h or 30d")
    })
}

/// A whole number and `B`, `KiB`, `MiB`, `GiB`, `TiB` (or `kB`, `MB`, `GB`, `TB`, which are powers of 1,000).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZES).ok_or_else(|| {
        format!("{text:?} is not a size: write a number with its unit, like 64KiB, 1MiB or 1GB")
    })
}

/// The duration in the largest unit that divides it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, factor) = DURATIONS
        .into_iter()
        .rev()
        .find(|(_, factor)| ms.is_multiple_of(*factor) && ms > 0)
        .unwrap_or(("s", 1_000));
    format!("{}{unit}", ms / factor)
}

/// The size in the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    let (unit, factor) = SIZES
        .into_iter()
        .filter(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor)
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, ms, shown) in [
            ("0s", 0, "0s"),
            ("100ms", 100, "100ms"),
            ("15s", 15_000, "15s"),
            ("90s", 90_000, "90s"),
            ("120s", 120_000, "2m"),
            ("5 m", 300_000, "5m"),
            ("1h", 3_600_000, "1h"),
            ("30d", 2_592_000_000, "30d"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(ms), "{text}");
            assert_eq!(show_duration(duration), shown);
        }
        for bad in [
            "",
            "15",
            "s",
            "1.5s",
            "-1s",
            "1 week",
            "1S",
            "s15",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, shown) in [
            ("0B", 0, "0B"),
            ("500B", 500, "500B"),
            ("64KiB", 65_536, "64KiB"),
            ("1MiB", 1 << 20, "1MiB"),
            ("1 GiB", 1 << 30, "1GiB"),
            ("1GB", 1_000_000_000, "1GB"),
            ("2048KiB", 2 << 20, "2MiB"),
        ] {
            let size = parse_size(text).unwrap();
            assert_eq!(size, bytes, "{text}");
            assert_eq!(show_size(size), shown);
        }
        for bad in ["", "1", "MiB", "1.5MiB", "1mib", "-1B", "18446744073709551615KiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
