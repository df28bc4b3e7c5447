//! Dates in tokens: seconds since 1970, as a JSON number (RFC 7519, section 2).

use serde_json::value::RawValue;
use tidings_hub::Timestamp;

/// The end of the year 9999. What lies beyond was not meant in seconds, or not meant.
const LATEST: f64 = 253_402_300_799.0;

/// Why a date is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDate {
    /// A string, `null`, or something else.
    #[error("is not a number")]
    NotANumber,
    /// Before 1970.
    #[error("is negative")]
    Negative,
    /// After the year 9999.
    #[error("is too large: it is counted in seconds since 1970, not in milliseconds")]
    TooLarge,
}

/// Reads a date, with its fraction down to milliseconds.
pub(super) fn read(value: &RawValue) -> Result<Timestamp, BadDate> {
    let text = value.get();
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(BadDate::NotANumber);
    }
    // A valid JSON number is a valid one here; one too large for a double is infinite.
    let seconds: f64 = text.parse().map_err(|_| BadDate::NotANumber)?;
    if seconds < 0.0 {
        return Err(BadDate::Negative);
    }
    if seconds > LATEST {
        return Err(BadDate::TooLarge);
    }
    // Within the range of whole numbers that a double holds exactly.
    Ok(Timestamp((seconds * 1000.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_numbers_of_seconds() {
        let check = |text: &str, expected: Result<u64, BadDate>| {
            let value: Box<RawValue> = serde_json::from_str(text).unwrap();
            assert_eq!(read(&value), expected.map(Timestamp), "{text}");
        };
        check("0", Ok(0));
        check("1700000000", Ok(1_700_000_000_000));
        check("1700000000.25", Ok(1_700_000_000_250));
        check("1.7e9", Ok(1_700_000_000_000));
        check("253402300799", Ok(253_402_300_799_000));
        check("253402300800", Err(BadDate::TooLarge));
        check("1700000000000", Err(BadDate::TooLarge));
        check("1e308", Err(BadDate::TooLarge));
        check("1e999", Err(BadDate::TooLarge));
        check("-1", Err(BadDate::Negative));
        check("-1e308", Err(BadDate::Negative));
        for other in ["\"1700000000\"", "null", "true", "[1]", "{}"] {
            check(other, Err(BadDate::NotANumber));
        }
    }
}
