//! Numbers for people.

use crate::results::{Figure, Machine, Unit};
use crate::target::Transport;

/// A value with its unit: "3.4 ms", "431 B", "1,310,000 /s".
pub(super) fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Micros if value < 999.5 => format!("{} µs", significant(value)),
        Unit::Micros if value < 999_500.0 => format!("{} ms", significant(value / 1e3)),
        Unit::Micros => format!("{} s", significant(value / 1e6)),
        Unit::Bytes if value < 1023.5 => format!("{} B", significant(value)),
        Unit::Bytes if value < 1023.5 * 1024.0 => format!("{} KiB", significant(value / 1024.0)),
        Unit::Bytes => format!("{} MiB", significant(value / 1_048_576.0)),
        Unit::Count => significant(value),
        Unit::PerSecond => format!("{} /s", significant(value)),
        Unit::Cores => format!("{} %", significant(value * 100.0)),
        Unit::Ratio => format!("{} x", significant(value)),
    }
}

pub(super) fn figure(figure: &Figure) -> String {
    value(figure.value, figure.unit)
}

/// To three digits, with separators of thousands.
fn significant(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let size = value.abs();
    if size < 9.995 {
        let text = format!("{value:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    if size < 99.95 {
        return format!("{value:.1}").trim_end_matches(".0").to_owned();
    }
    let unit = 10f64.powf((size.log10().floor() - 2.0).max(0.0));
    let rounded = format!("{:.0}", (value / unit).round() * unit);
    let mut text = String::new();
    for (at, digit) in rounded.chars().enumerate() {
        if at > 0 && (rounded.len() - at).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One value to another: "1.08x".
pub(super) fn ratio(value: f64, base: f64) -> Option<String> {
    (base > 0.0 && value.is_finite()).then(|| format!("{}x", significant(value / base)))
}

pub(super) fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Sse => "SSE",
        Transport::Websocket => "WebSocket",
        Transport::LongPolling => "long polling",
    }
}

/// A line about the machine.
pub(super) fn machine(machine: &Machine) -> String {
    let pinned = match (&machine.server_cpus, &machine.client_cpus) {
        (None, None) => "servers and clients not pinned".to_owned(),
        (server, client) => format!(
            "servers on processors {}, clients on {}",
            server.as_deref().unwrap_or("(any)"),
            client.as_deref().unwrap_or("(any)")
        ),
    };
    format!(
        "{}, {} processors, {:.0} GiB of memory, Linux {}; {pinned}",
        machine.processor,
        machine.cores,
        machine.memory as f64 / (1u64 << 30) as f64,
        machine.kernel
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_and_a_unit() {
        for (number, unit, text) in [
            (0.0, Unit::Micros, "0 µs"),
            (4.333, Unit::Micros, "4.33 µs"),
            (87.0, Unit::Micros, "87 µs"),
            (3400.0, Unit::Micros, "3.4 ms"),
            (1_234_000.0, Unit::Micros, "1.23 s"),
            (431.4, Unit::Bytes, "431 B"),
            (10_140.0, Unit::Bytes, "9.9 KiB"),
            (52.0 * 1_048_576.0, Unit::Bytes, "52 MiB"),
            (1_307_442.0, Unit::PerSecond, "1,310,000 /s"),
            (999.6, Unit::PerSecond, "1,000 /s"),
            (0.123, Unit::Cores, "12.3 %"),
            (1.08, Unit::Ratio, "1.08 x"),
            (f64::NAN, Unit::Count, "-"),
        ] {
            assert_eq!(value(number, unit), text);
        }
        assert_eq!(ratio(9.0, 3.0).as_deref(), Some("3x"));
        assert_eq!(ratio(9.0, 0.0), None);
    }
}
