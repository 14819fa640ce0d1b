//! Tables and lengths of time for people.

use std::time::Duration;

use mail::Timestamp;

/// Prints rows under a heading, columns aligned; numbers to the right.
pub(super) fn print(heading: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    let mut widths: Vec<usize> = heading.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading: Vec<String> = heading.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = " ".repeat(width - cell.chars().count());
            let number = cell.starts_with(|first: char| first.is_ascii_digit());
            match number {
                true => line.extend([padding.as_str(), cell]),
                false => line.extend([cell, padding.as_str()]),
            }
            line.push_str("  ");
        }
        println!("{}", line.trim_end());
    }
    Ok(())
}

/// Prints a value as JSON, indented.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<(), super::Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    println!("{text}");
    Ok(())
}

/// Now.
pub(super) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

/// A length of time in its two largest units.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago something was.
pub(super) fn ago(then: Timestamp) -> String {
    span(now().since(then))
}

/// A size in the largest unit that leaves a whole part.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= 1024.0 {
        let Some(next) = units.next() else { break };
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// What came from outside, with control characters made visible.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|character| match character.is_control() {
            true => character.escape_default().collect::<Vec<_>>(),
            false => vec![character],
        })
        .collect()
}

/// A reverse-path as it is written.
pub(super) fn sender(sender: Option<&mail::Address>) -> String {
    sender.map_or_else(|| "<>".to_owned(), |address| address.to_string())
}
