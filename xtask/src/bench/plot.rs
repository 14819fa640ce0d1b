//! `--plot FILE`: the table as a picture, in SVG: a bar for each contender, a group for each measure.

use std::fmt::Write as _;
use std::path::Path;

use crate::Failure;

/// Pixels.
const WIDTH: f64 = 860.0;
const BAR: f64 = 18.0;
const GAP: f64 = 16.0;
const LABEL: f64 = 250.0;
const NUMBER: f64 = 90.0;
/// A colour for each bar of a group, in order; people who see colours differently can tell them apart.
const COLOURS: &[&str] = &["#0072b2", "#d55e00", "#999999", "#009e73"];

/// One group of bars: what was measured, its unit, and each contender's figure.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// The measure.
    pub(super) title: String,
    /// Contenders and their figures.
    pub(super) bars: Vec<(String, f64)>,
}

/// Writes the picture.
pub(super) fn write(file: &Path, heading: &str, groups: &[Group]) -> Result<(), Failure> {
    Ok(std::fs::write(file, svg(heading, groups))?)
}

/// Bars are as long as their share of the group's longest.
fn svg(heading: &str, groups: &[Group]) -> String {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = 50.0 + bars as f64 * BAR + groups.len() as f64 * (GAP + BAR);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"14\">{}</text>\n",
        escaped(heading)
    );
    let mut y = 44.0;
    for group in groups {
        y += GAP;
        let _ = writeln!(
            text,
            "<text x=\"10\" y=\"{y}\" font-weight=\"bold\">{}</text>",
            escaped(&group.title)
        );
        let longest = group.bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        for ((name, value), colour) in group.bars.iter().zip(COLOURS.iter().cycle()) {
            y += BAR;
            let share = if longest > 0.0 { value / longest } else { 0.0 };
            let length = share * (WIDTH - LABEL - NUMBER);
            let _ = writeln!(
                text,
                "<text x=\"20\" y=\"{y}\">{}</text><rect x=\"{LABEL}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{y}\">{}</text>",
                escaped(name),
                y - 11.0,
                BAR - 4.0,
                LABEL + length + 6.0,
                figure(*value),
            );
        }
        y += BAR - GAP / 2.0;
    }
    text.push_str("</svg>\n");
    text
}

/// A figure with as many digits as one wants to read.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_picture() {
        let bars = vec![("grange".into(), 4000.0), ("a<b".into(), 500.0)];
        let svg = svg("Relay", &[Group { title: "messages/s".into(), bars }]);
        assert!(svg.contains("width=\"520.0\"") && svg.contains("width=\"65.0\""), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.contains(">4000<"), "{svg}");
    }
}
